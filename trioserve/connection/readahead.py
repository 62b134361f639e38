"""ReadAhead: hangup news for a transport that has none of its own, by reading before anybody asks.

The portable fallback for the hangup watch, with the same contract: where the kernel cannot tell of a hangup without a
read (everywhere but on Linux, and over generic streams), a task per connection, the pump, reads into a bounded spool
and so meets the peer's FIN. The connection takes its bytes from the spool; if that is empty, what the pump has not had
its turn to read is read into it first, so that "nothing there" is never said of bytes that have arrived.

`WatchedReadAhead` is for a transport whose watch hears some departures and not others: TLS. There no task reads.

What it costs, and why it is not the default: a task and a hand-over for each request, and the FIN stands behind the
bytes that were sent before it, so it is seen only as far as the spool reaches. To begin with that is READ_AHEAD
bytes, so that the client still feels a handler that does not read its body; when the connection says so (`absorb`),
all that the spool's own limit and the server's budget allow. And a reset that follows a FIN wakes nobody who reads,
nor does one while there is no room to read on; so then the pump looks for it every LOOK_EVERY seconds.
"""

from __future__ import annotations

import contextlib
import math

import trio

from trioserve.connection.spool import Spool
from trioserve.connection.transport import HungUp, Interrupted, OnBytes, OnHangup, Run, Transport, end_as_received
from trioserve.core.lifecycle import Cause
from trioserve.core.target import Scheme

READ_AHEAD = 65_536
"""How many bytes are read before anybody asks: a pipelined head or two, and a FIN behind them."""

LOOK_EVERY = 0.02
"""Seconds between two looks for a reset while the pump cannot read: rare, cheap (one send of nothing), and quick enough
for a person."""

LOOK_AT_LEAST_EVERY = 1.0
"""Seconds between two looks for room beside a watch, when there has been none for a while: others hold the budget, and
those who wait for it may be many."""

_READS_A_ROUND = 4
"""How often what has arrived is read at the most before others have their turn."""


class ReadAhead:
    """`Transport` around another one. `pump` must be running for it to receive anything."""

    def __init__(self, transport: Transport, spool: Spool) -> None:
        self._transport = transport
        self.client = transport.client
        self._spool = spool
        self._on_hangup: OnHangup | None = None
        self._on_bytes: OnBytes | None = None
        # How the stream ended, once the pump has met its end. FIN may still become RESET.
        self._end: Cause | None = None
        # How far the pump reads ahead, in bytes.
        self._reach: float = READ_AHEAD
        # Set when the spool has bytes again or the end is known; replaced by the one who waits to receive.
        self._news = trio.Event()
        # Set when the pump may have something to do again; replaced by the pump when it has nothing to do.
        self._wanted = trio.Event()
        self._interruptions = 0
        # Our FIN was sent: from then on the system refuses even a send of no bytes, whatever becomes of the peer.
        self._said_eof = False
        self._closed = False

    @property
    def scheme(self) -> Scheme:
        return self._transport.scheme

    async def pump(self) -> None:
        """Read until there is nothing more to hear. Ends by itself when the transport is closed."""
        while self._may_hear_more():
            try:
                if self._may_read():
                    await self._transport.wait_readable()
                    self._read()
                else:
                    await self._rest()
            except Interrupted:
                continue

    def _may_hear_more(self) -> bool:
        return not self._closed and self._end in (None, Cause.FIN)

    def _may_read(self) -> bool:
        return self._end is None and self._spool.size < self._reach and self._spool.has_room()

    async def _rest(self) -> None:
        """Nothing can be read: wait for a moment, or until something may have changed."""
        await self._until_wanted(LOOK_EVERY)
        self._look_for_reset()

    async def _until_wanted(self, patience: float) -> None:
        self._wanted = trio.Event()
        with trio.move_on_after(patience):
            await self._wanted.wait()

    def _read(self) -> bool:
        """Read into the spool, if there is room; says whether there was something."""
        # Asked again, since the budget may have gone to others while the pump waited.
        if self._closed or not self._may_read():
            return False
        try:
            data = self._transport.receive_nowait()
        except HungUp as error:
            self._ended(error.cause)
            return False
        if data:
            self._spool.put(data)
            self._wake()
            if self._on_bytes is not None:
                self._on_bytes()
            return True
        if data is not None:
            self._ended(Cause.FIN)
        return False

    def _wake(self) -> None:
        """There is something to receive: let the one who waits for it know."""
        self._news.set()

    def _look_for_reset(self) -> None:
        """A send of no bytes sends nothing, but tells of a reset, also behind a FIN or behind unread bytes.

        After our own FIN it tells nothing; then whoever still reads meets the reset.
        """
        if self._closed or self._said_eof:
            return
        try:
            self._transport.send_nowait(b"")
        except HungUp as error:
            self._keep_the_rest()
            self._ended(error.cause)

    def _keep_the_rest(self) -> None:
        """What had come before a reset, for a handler that runs on."""
        with contextlib.suppress(HungUp):
            while self._spool.has_room() and (data := self._transport.receive_nowait()):
                self._spool.put(data)

    def _ended(self, cause: Cause) -> None:
        self._end = cause
        self._wake()
        self._tell()

    def _tell(self) -> None:
        if self._end is not None and self._on_hangup is not None:
            self._on_hangup(self._end)

    def receive_nowait(self) -> bytes | None:
        if not self._spool.size:
            self._read()  # what lies below is there already, though the pump has not had its turn
        return self._take()

    def _take(self) -> bytes | None:
        data = self._spool.take()
        if data is not None:
            self._wanted.set()
            return data
        return end_as_received(self._end)

    def put_back(self, data: bytes) -> None:
        self._spool.put_back(data)
        self._wake()

    def has_bytes(self) -> bool:
        self.look()  # what lies there need not be bytes for us: over TLS it may be a farewell
        return bool(self._spool.size)

    async def wait_readable(self) -> None:
        if self._spool.size or self._end is not None:
            await trio.lowlevel.checkpoint()
            return
        interruptions = self._interruptions
        self._news = trio.Event()
        await self._news.wait()
        if self._interruptions != interruptions:
            raise Interrupted

    def watch(self, on_hangup: OnHangup) -> None:
        self._on_hangup = on_hangup
        self._tell()

    def look(self) -> None:
        # The pump may not have had its turn yet. Whatever this reads, the pump need not read.
        while self._may_read() and self._read():
            pass

    def watch_unread(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        if self._spool.size:
            on_bytes()

    def unwatch_unread(self) -> None:
        self._on_bytes = None
        self._reach = READ_AHEAD

    def absorb(self) -> None:
        # From now on the pump reads on by itself; the spool's limit and the budget decide how far.
        self._reach = math.inf
        self._wanted.set()

    def unacked_bytes(self) -> int | None:
        return self._transport.unacked_bytes()

    def taken_bytes(self) -> int:
        return self._transport.taken_bytes()

    def send_nowait(self, data: Run, *behind: Run) -> int:
        return self._transport.send_nowait(data, *behind)

    async def wait_writable(self) -> None:
        await self._transport.wait_writable()

    def interrupt(self) -> None:
        self._interruptions += 1
        self._news.set()
        self._transport.interrupt()

    def send_eof(self) -> None:
        self._said_eof = True
        self._transport.send_eof()

    def close(self) -> None:
        self._stop()
        self._transport.close()

    def reset(self) -> None:
        self._stop()
        self._transport.reset()

    def _stop(self) -> None:
        self._closed = True
        self._on_hangup = self._on_bytes = None
        self._spool.clear()
        self._wanted.set()
        self.interrupt()


class WatchedReadAhead(ReadAhead):
    """Beside a watch: that one hears FIN and RST at once, whatever lies unread, and says when bytes arrive.

    So there is no need to look for a reset, and none for a task that reads: whoever waits for bytes waits below and
    gets them from there, and what arrives while nobody waits is read at once, since it may be a farewell. For a request
    after which its client waits for the answer, nothing of this happens but that the watch is asked for that.

    The pump reads on where more has arrived than there is room for, or than is fair to read at once.
    """

    def __init__(self, transport: Transport, spool: Spool) -> None:
        super().__init__(transport, spool)
        # How many tasks wait below: one reads what arrives, and one that was interrupted may not have left yet.
        self._waiting = 0
        # Set when the pump has something to do.
        self._left_unread = trio.Event()

    async def pump(self) -> None:
        while self._may_hear_more():
            await self._left_unread.wait()
            await self._until_room()
            await trio.lowlevel.checkpoint()
            self._left_unread = trio.Event()
            self._read_on()

    def _may_hear_more(self) -> bool:
        return not self._closed and self._end is None

    async def _until_room(self) -> None:
        # What the spool holds may be taken, which wakes us; or others give the budget back, and nobody tells.
        pause = LOOK_EVERY
        while self._may_hear_more() and not self._may_read():
            await self._until_wanted(pause)
            pause = min(2 * pause, LOOK_AT_LEAST_EVERY)

    def _read_on(self) -> None:
        """Read what has arrived, as far as there is room."""
        if self._waiting:
            return
        for _ in range(_READS_A_ROUND):
            if not self._may_read():
                break
            if not self._read():
                return
        if self._may_hear_more():
            self._left_unread.set()

    def _wake(self) -> None:
        if self._waiting:
            self._transport.interrupt()

    def _ended(self, cause: Cause) -> None:
        super()._ended(cause)
        self._left_unread.set()

    def receive_nowait(self) -> bytes | None:
        if not self._spool.size and self._end is None:
            try:
                data = self._transport.receive_nowait()
            except HungUp as error:
                self._ended(error.cause)  # and what had come before it may be in the spool now
            else:
                if data == b"":
                    self._ended(Cause.FIN)
                return data
        return self._take()

    async def wait_readable(self) -> None:
        if self._spool.size or self._end is not None:
            await trio.lowlevel.checkpoint()
            return
        interruptions = self._interruptions
        self._transport.unwatch_unread()
        self._waiting += 1
        try:
            await self._transport.wait_readable()
        except Interrupted:
            if self._interruptions != interruptions:
                raise
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._hear_bytes()

    async def wait_writable(self) -> None:
        interruptions = self._interruptions
        try:
            await self._transport.wait_writable()
        except Interrupted:  # which may have been meant for the one who reads
            if self._interruptions != interruptions:
                raise

    def has_bytes(self) -> bool:
        while self._may_read() and self._read():
            pass
        return bool(self._spool.size)

    def watch(self, on_hangup: OnHangup) -> None:
        super().watch(on_hangup)
        self._transport.watch(self._heard)
        self._hear_bytes()

    def _hear_bytes(self) -> None:
        """From now on what arrives is read at once, if we are to tell of a hangup, and there may be one to tell of."""
        if self._on_hangup is not None and self._end is None:
            self._transport.watch_unread(self._read_on)

    def _heard(self, cause: Cause) -> None:
        if cause is not Cause.FIN:
            self._keep_the_rest()
            self._ended(cause)
        elif self._end is None and self._on_hangup is not None:
            self._on_hangup(cause)  # whoever reads will meet it in its place

    def look(self) -> None:
        self._transport.look()

    def _stop(self) -> None:
        super()._stop()
        self._left_unread.set()

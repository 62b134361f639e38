"""A connection in memory with TCP's semantics: `MemoryTransport` for the server, `MemoryPeer` for the client.

What it models, because lifecycles depend on it:

* Each direction has a sender's buffer and a receiver's window, both bounded. A send takes what the two have room for
  and then blocks. What the receiver has not room for stays with the sender, and **a FIN stays behind it**.
* A RST overtakes everything. Bytes that had arrived before it can still be read; what was on its way is lost.
* Closing means a FIN, unless received bytes lie unread: then it is a RST, as in Linux.
* The first send to a peer that has fully closed succeeds; the RST that it provokes arrives afterwards.
* A peer that vanishes takes and gives nothing any more. After `vanish` seconds the system gives it up.
* Bytes are acknowledged when they have arrived in the peer's window, read or not.
* News of a hangup comes a moment later, between two steps of the scheduler, as from the hangup watch; who looks
  before that hears it at once.
* One receive or send may be bounded (`segment`), so that reads and writes are short; and the client can end a segment
  anywhere, so that no receive takes in what comes before and behind.

What it leaves out: delay and loss. Bytes arrive at once. Time is trio's, so a test with `VirtualClock` or with
`trio.testing.MockClock` has virtual time.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable

import trio

from trioserve.connection.spool import RECEIVE_SIZE, Spool
from trioserve.connection.timers import current_timers
from trioserve.connection.transport import HungUp, Interrupted, OnBytes, OnHangup, Run, read_slice
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import FileSlice
from trioserve.core.records import ClientAddress
from trioserve.core.target import DEFAULT_PORTS, Scheme

SEND_BUFFER = 65_536
"""Bytes that a sender's system holds for a receiver that has no room: small, so that tests reach the bound quickly."""

WINDOW = 65_536
"""Bytes that a receiver's system holds for an application that does not read."""


class _Flow:
    """One direction: bytes from a sender's buffer into a receiver's window, and the sender's FIN behind them."""

    def __init__(self, send_buffer: int, window: int, segment: int) -> None:
        self._send_buffer = send_buffer
        self._window = window
        self._segment = segment
        # How many bytes were ever taken and received, and at which of them segments end that are not received yet.
        self._taken = self._received = 0
        self._ends: deque[int] = deque()
        self._queued = bytearray()
        self._arrived = bytearray()
        # The sender has said that nothing more comes; and that has arrived.
        self.fin_sent = False
        self.fin_arrived = False
        # The receiver's side of the network is gone: nothing arrives any more.
        self.cut = False
        # Called when bytes or the FIN have arrived, and when the sender has room again.
        self.on_arrival: Callable[[], None] = _nobody
        self.on_room: Callable[[], None] = _nobody

    def send(self, data: bytes | memoryview | FileSlice) -> int:
        """Take what there is room for.

        Raises:
            ResponseError: `data` is a file that cannot be read, or ends before the slice does.
        """
        room = self._send_buffer - len(self._queued)
        if not self.cut:
            room += self._window - len(self._arrived)
        room = min(max(room, 0), self._segment)
        if isinstance(data, FileSlice):
            data = read_slice(data, room) if room else b""
        taken = bytes(data[:room])
        self._queued += taken
        self._taken += len(taken)
        self._move()
        return len(taken)

    def end_segment(self) -> None:
        """What was taken is received apart from what will be."""
        self._ends.append(self._taken)

    def send_fin(self) -> None:
        self.fin_sent = True
        self._move()

    def receive(self, limit: int) -> bytes:
        """Bytes that have arrived; empty if there are none."""
        while self._ends and self._ends[0] <= self._received:
            self._ends.popleft()
        if self._ends:
            limit = min(limit, self._ends[0] - self._received)
        limit = min(limit, self._segment)
        data = bytes(self._arrived[:limit])
        del self._arrived[:limit]
        self._received += len(data)
        self._move()
        self.on_room()
        return data

    def break_off(self) -> None:
        """What has not arrived never will."""
        self._queued.clear()
        self.cut = True

    @property
    def unread(self) -> int:
        return len(self._arrived)

    @property
    def unacknowledged(self) -> int:
        return len(self._queued)

    @property
    def has_room(self) -> bool:
        return len(self._queued) < self._send_buffer

    def _move(self) -> None:
        if self.cut:
            return
        size = min(self._window - len(self._arrived), len(self._queued))
        self._arrived += self._queued[:size]
        del self._queued[:size]
        if self.fin_sent and not self._queued:
            self.fin_arrived = True
        if size or self.fin_arrived:
            self.on_arrival()


def _nobody() -> None: ...


def _soon(tell: Callable[[], None]) -> None:
    """Call `tell` between two steps of the scheduler; once, however often it is asked for before that."""
    trio.lowlevel.current_trio_token().run_sync_soon(tell, idempotent=True)


class _Waiters:
    """Tasks that wait until a condition holds, and can be interrupted."""

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()
        self._interruptions = 0

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Always a checkpoint. As in the system, a wait that is over is not interrupted any more."""
        interruptions = self._interruptions
        await trio.lowlevel.checkpoint()
        while not condition():
            if self._interruptions != interruptions:
                raise Interrupted
            await self._lot.park()

    def wake(self) -> None:
        self._lot.unpark_all()

    def interrupt(self) -> None:
        self._interruptions += 1
        self._lot.unpark_all()


class _End:
    """What both ends of a connection have in common: receiving, sending, and how the connection broke."""

    def __init__(self, incoming: _Flow, outgoing: _Flow) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._readers = _Waiters()
        self._writers = _Waiters()
        # Why nothing can be sent or received any more; None while it can.
        self._broken: Cause | None = None
        self._closed = False
        incoming.on_arrival = self._something_arrived
        outgoing.on_room = self._writers.wake

    def _something_arrived(self) -> None:
        self._readers.wake()

    def _break(self, cause: Cause) -> None:
        if self._broken is None and not self._closed:
            self._broken = cause
            self._outgoing.break_off()
            self._readers.wake()
            self._writers.wake()

    def _readable(self) -> bool:
        return bool(self._incoming.unread or self._incoming.fin_arrived or self._broken or self._closed)

    def _writable(self) -> bool:
        return bool(self._outgoing.has_room or self._broken or self._closed)


class MemoryTransport(_End):
    """`trioserve.connection.transport.Transport` in memory. Made by `memory_connection`."""

    def __init__(self, incoming: _Flow, outgoing: _Flow, client: ClientAddress, scheme: Scheme, spool: Spool) -> None:
        super().__init__(incoming, outgoing)
        self.scheme = scheme
        self.client: ClientAddress | None = client
        self.peer: MemoryPeer
        self._spool = spool
        self._on_hangup: OnHangup | None = None
        self._on_bytes: OnBytes | None = None
        self._fin_told = False
        self._break_told = False
        # All bytes ever handed over.
        self.sent_bytes = 0

    def receive_nowait(self) -> bytes | None:
        if self._spool.size:
            return self._spool.take()
        if self._incoming.unread:
            return self._incoming.receive(RECEIVE_SIZE)
        if self._broken is not None:
            raise HungUp(self._broken)
        return b"" if self._incoming.fin_arrived else None

    def put_back(self, data: bytes) -> None:
        self._spool.put_back(data)

    def has_bytes(self) -> bool:
        return bool(self._spool.size or self._incoming.unread)

    async def wait_readable(self) -> None:
        await self._readers.wait_until(lambda: bool(self._spool.size) or self._readable())
        self._interrupt_if_closed()

    def send_nowait(self, data: Run, *_behind: Run) -> int:
        if self._broken is not None:
            raise HungUp(self._broken)
        if self._outgoing.fin_sent:
            raise HungUp(Cause.RESET)  # as the system says it (EPIPE), of no bytes too
        taken = self._outgoing.send(data)
        self.sent_bytes += taken
        if taken and self.peer.is_closed:
            # The peer's system answers with a RST, a moment later.
            _soon(self._reset_provoked)
        return taken

    async def wait_writable(self) -> None:
        await self._writers.wait_until(self._writable)
        self._interrupt_if_closed()

    def _interrupt_if_closed(self) -> None:
        if self._closed:
            raise Interrupted

    def watch(self, on_hangup: OnHangup) -> None:
        self._on_hangup = on_hangup
        _soon(self._tell)

    def look(self) -> None:
        self._tell()

    def _tell(self) -> None:
        """Tell the news, each once."""
        if self._on_hangup is not None:
            if self._broken is not None and not self._break_told:
                self._break_told = True
                self._on_hangup(self._broken)
            elif self._incoming.fin_arrived and not self._fin_told:
                self._fin_told = True
                self._on_hangup(Cause.FIN)
        if self._incoming.unread and self._on_bytes is not None:
            self._on_bytes()

    def watch_unread(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        _soon(self._tell)

    def unwatch_unread(self) -> None:
        self._on_bytes = None

    def absorb(self) -> None:
        while self._incoming.unread and self._spool.has_room():
            self._spool.put(self._incoming.receive(RECEIVE_SIZE))
        self._readers.wake()

    def unacked_bytes(self) -> int:
        return self._outgoing.unacknowledged

    def taken_bytes(self) -> int:
        return self.sent_bytes - self.unacked_bytes()

    def interrupt(self) -> None:
        self._readers.interrupt()
        self._writers.interrupt()

    def send_eof(self) -> None:
        self._outgoing.send_fin()

    def close(self) -> None:
        if self._closed:
            return
        if self._incoming.unread:
            self.reset()
            return
        self._let_go()
        self._outgoing.send_fin()

    def reset(self) -> None:
        if self._closed:
            return
        self._let_go()
        self._outgoing.break_off()
        self.peer.reset_arrived()

    def _let_go(self) -> None:
        self._closed = True
        self._on_hangup = self._on_bytes = None
        self._spool.clear()
        self.interrupt()
        self.peer.server_closed()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _something_arrived(self) -> None:
        super()._something_arrived()
        _soon(self._tell)

    def _hang_up(self, cause: Cause) -> None:
        """The peer is gone for good."""
        self._break(cause)
        _soon(self._tell)

    def _reset_provoked(self) -> None:
        self._break(Cause.RESET)
        self._tell()

    # For the peer

    def reset_arrived(self) -> None:
        self._hang_up(Cause.RESET)

    def silence_begins(self, seconds: float) -> None:
        if seconds < math.inf:
            timer = current_timers().timer(lambda: self._hang_up(Cause.VANISHED))
            timer.set(trio.current_time() + seconds)


class MemoryPeer(_End, trio.abc.HalfCloseableStream):
    """The client's end of a connection in memory: a trio stream that can also be reset, and vanish."""

    def __init__(
        self, incoming: _Flow, outgoing: _Flow, transport: MemoryTransport, client: ClientAddress, vanish: float
    ) -> None:
        super().__init__(incoming, outgoing)
        self._transport = transport
        self._vanish = vanish
        self._vanished = False
        # Tasks that wait for the server's close.
        self._parting = _Waiters()
        # The address that it seems to have, and the id that records give its connection; None if it is not known.
        self.client = client
        self.connection_id: int | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; blocks while the server takes nothing.

        Raises:
            trio.BrokenResourceError: the server reset the connection.
            trio.ClosedResourceError: this end is closed.
        """
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            rest = rest[self.send_nowait(rest) :]
            if rest:
                await self._writers.wait_until(self._writable)

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what there is room for, without a checkpoint; returns how many bytes.

        Raises:
            trio.BrokenResourceError: the server reset the connection.
            trio.ClosedResourceError: this end is closed, or its FIN was sent.
        """
        self._check()
        if self._outgoing.fin_sent:
            raise trio.ClosedResourceError("nothing can be sent after the FIN")
        taken = self._outgoing.send(data)
        if taken and self._transport.is_closed:
            self._break(Cause.RESET)
        return taken

    def end_segment(self) -> None:
        """What was sent so far is received by the server apart from what is sent from now on: see `Peer.send`."""
        self._outgoing.end_segment()

    async def wait_send_all_might_not_block(self) -> None:
        await self._writers.wait_until(self._writable)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes; b"" at the server's FIN.

        Raises:
            trio.BrokenResourceError: the server reset the connection.
            trio.ClosedResourceError: this end is closed.
        """
        await self._readers.wait_until(self._readable)
        if self._incoming.unread and not self._closed:
            return self._incoming.receive(max_bytes or RECEIVE_SIZE)
        self._check()
        return b""

    async def send_eof(self) -> None:
        """Send a FIN and go on receiving."""
        await trio.lowlevel.checkpoint()
        self.send_eof_nowait()

    def send_eof_nowait(self) -> None:
        """Send a FIN, without a checkpoint."""
        self._outgoing.send_fin()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Leave: a FIN, or a RST if received bytes lie unread."""
        if self._closed:
            return
        if self._incoming.unread:
            self.reset()
            return
        self._let_go()
        self._outgoing.send_fin()

    def reset(self) -> None:
        """Leave with a RST."""
        if self._closed:
            return
        self._let_go()
        self._outgoing.break_off()
        if not self._vanished:
            self._transport.reset_arrived()

    def vanish(self) -> None:
        """Leave without a sign."""
        self._vanished = True
        self._incoming.cut = self._outgoing.cut = True
        self._transport.silence_begins(self._vanish)

    def _let_go(self) -> None:
        self._closed = True
        self._readers.wake()
        self._writers.wake()

    @property
    def is_readable(self) -> bool:
        """True if something has come that was not received: bytes, or the connection's end."""
        return self._readable()

    async def until_server_closed(self) -> None:
        """Wait until the server has closed its end. Of an exchange that ends with that, the observers know then."""
        await self._parting.wait_until(lambda: self._transport.is_closed)

    @property
    def written(self) -> int:
        """How many bytes the server has ever written, arrived or not."""
        return self._transport.sent_bytes

    @property
    def is_closed(self) -> bool:
        """True if this end has fully closed: what the server sends from now on provokes a RST."""
        return self._closed and not self._vanished

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken is not None:
            raise trio.BrokenResourceError(f"the connection is broken: {self._broken}")

    # For the server's end

    def reset_arrived(self) -> None:
        if not self._vanished:
            self._break(Cause.RESET)

    def server_closed(self) -> None:
        self._parting.wake()


def memory_connection(
    spool: Spool,
    *,
    client: ClientAddress = ("198.51.100.7", 40_000),
    scheme: Scheme = "http",
    vanish: float = math.inf,
    send_buffer: int = SEND_BUFFER,
    window: int = WINDOW,
    segment: int | None = None,
    response_room: int | None = None,
) -> tuple[MemoryPeer, MemoryTransport]:
    """The two ends of a connection in memory.

    Args:
        spool: what the server may take in unasked.
        client: the address that the client seems to have.
        scheme: "https" for a connection that counts as encrypted; what goes over it is in the clear all the same.
        vanish: after how many seconds of silence the server's system gives a vanished client up.
        send_buffer, window: bytes, for each direction.
        segment: bytes that one receive gives, and one send takes, at the most, on either side; None: as many as there
            are, or as there is room for.
        response_room: bytes, at least 2, that there is room for on the way from the server to the client, in all; None:
            as for the other direction.

    Raises:
        ValueError: `segment` is no positive number, or there is no such scheme.
    """
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f'scheme={scheme!r}: it must be "http" or "https"')
    if segment is not None and segment < 1:
        raise ValueError(f"segment={segment}: a receive or send is of one byte at least")
    request = _Flow(send_buffer, window, segment or sys.maxsize)
    if response_room is not None:
        send_buffer, window = response_room - response_room // 2, response_room // 2
    response = _Flow(send_buffer, window, segment or sys.maxsize)
    transport = MemoryTransport(request, response, client, scheme, spool)
    peer = MemoryPeer(response, request, transport, client, vanish)
    transport.peer = peer
    return peer, transport

"""Sender: the connection's send side. Hands bytes to the transport, and knows how much of a response got out.

Who may send: one task at a time, waiting as long as there is `Patience` with the client, which every byte that its
system acknowledges renews a little. Sends are never shielded. Nothing is written after the end of the exchange has
come; what was taken up and not handed over by then is forgotten.

A send has two steps, so that a handler may cancel one without breaking the framing. `ready` waits until everything
before has been handed over: cancelled there, nothing of the new piece exists yet. Then the engine makes the piece's
bytes and `send` takes them up at once: cancelled there, what is left of them stays here, and the next `ready` hands
it over. So the bytes on the wire are always a prefix of what the engine was told, and one piece at most is held.

A piece with little content is handed over as one run of bytes. One with much, or whose payload is (a slice of) a file,
is up to three, the payload between its framing, so that its content is not copied; the transport is shown them at once.
A file that turns out to be shorter than was announced, or cannot be read, stays here as a piece that cannot get out:
whoever sends or ends the response is told so, again and again, until it is cut. Nothing else can go in its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from trioserve.connection.departure import Departure
from trioserve.connection.timers import Timers
from trioserve.connection.transport import HungUp, Interrupted, Run, Transport, take_off
from trioserve.core.errors import ClientGone
from trioserve.core.lifecycle import Cause
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import Wire
from trioserve.core.patience import Patience

_NOTHING = Wire(b"", b"", b"")

JOINED = 16_384
"""Bytes of content below which it is copied behind its framing: that costs less than to hand over several runs."""

LOOKS = 30
"""How often within `send_stall` a client that leaves no room is looked at, to see whether it takes anything at all."""


class Sender:
    """The send side of one connection."""

    __slots__ = (
        "_busy",
        "_content_bytes",
        "_cut",
        "_departure",
        "_look_every",
        "_patience",
        "_taken_bytes",
        "_timer",
        "_transport",
        "_unsent",
        "_waits_since",
        "_wire",
        "response_bytes",
    )

    def __init__(
        self, transport: Transport, departure: Departure, timers: Timers, limits: Limits, deadlines: Deadlines
    ) -> None:
        self._transport = transport
        self._departure = departure
        self._look_every = deadlines.send_stall / LOOKS
        # Set only while somebody waits for room.
        self._timer = timers.timer(self._look)
        # The piece that is being handed over, and the runs of it that are left. None is empty.
        self._wire = _NOTHING
        self._unsent: list[Run] = []
        self._busy = False
        # Part of a piece is on the wire and the rest was forgotten: what followed would be taken for that rest.
        self._cut = False
        # With the client; for all responses of the connection, since what it takes of one makes room for the next.
        self._patience = Patience(deadlines.send_stall, limits.send_rate)
        # How many bytes the client's system had acknowledged when last looked at, and from when on the present wait has
        # not been counted yet.
        self._taken_bytes = 0
        self._waits_since = 0.0
        # Bytes of the current response on the wire, framing included; not positive until its first byte is out.
        self.response_bytes = 0
        # Content bytes of the current response in the pieces before this one.
        self._content_bytes = 0

    @property
    def content_bytes(self) -> int:
        """Bytes of the current response's content that were handed to the transport."""
        return self._content_bytes + self._wire.payload_sent(_size(self._wire) - _size(self._unsent))

    def new_response(self) -> None:
        """A new exchange begins: count from zero."""
        self.response_bytes = 0
        self._content_bytes = 0

    @property
    def is_ready(self) -> bool:
        """True if `ready` would have nothing to wait for: the usual case, in which it need not be called."""
        return not (self._busy or self._unsent)

    async def ready(self) -> None:
        """Wait until the rest of the last piece has been handed over. A checkpoint only if it has to wait.

        Raises:
            trio.Cancelled, ClientGone: the end has come; see `Departure.checkpoint`.
            trio.BusyResourceError: another task is sending.
            ResponseError: the last piece's file cannot be sent.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is already sending this response")
        if self._unsent:
            await self._flush()

    async def send(self, wire: Wire) -> None:
        """Hand a piece of the response over, whole. Only after `ready`, without a step of the scheduler in between.

        Raises:
            trio.Cancelled, ClientGone: the end has come; see `Departure.checkpoint`.
            ResponseError: the piece's file cannot be sent.
        """
        self._take_up(wire)
        if not self._try_push():
            await self._flush()

    def send_now(self, wire: Wire) -> bool:
        """Hand a piece over without waiting; says whether all of it was taken. For what is offered once, at the end."""
        if self._cut or (self._unsent and not self._try_push()):
            return False
        self._take_up(wire)
        return self._try_push()

    def interim_now(self, data: bytes) -> None:
        """Hand an interim response over without waiting; what is not taken goes before the next piece.

        Not if the client takes nothing at present: then it is not waiting for this either.
        """
        if not self._unsent:
            self.response_bytes -= len(data)  # these bytes are not the response's, whenever they get out
            self.send_now(Wire(data, b"", b""))

    def forget(self) -> None:
        """The end has come: nothing more is written."""
        self._timer.stop()
        self._cut = self._cut or 0 < _size(self._unsent) < _size(self._wire)
        self._content_bytes = self.content_bytes
        self._wire, self._unsent = _NOTHING, []

    def discard(self) -> None:
        """The connection is over: no timer of ours will be due."""
        self._timer.discard()

    def _take_up(self, wire: Wire) -> None:
        assert not self._unsent, "a piece was given before the one before it was out"
        self._wire = wire
        payload = wire.payload
        if isinstance(payload, bytes) and len(payload) < JOINED:
            data = b"".join((wire.prefix, payload, wire.suffix))
            self._unsent = [data] if data else []
        else:
            self._unsent = [run for run in wire if run]

    async def _flush(self) -> None:
        """Hand over what is left, waiting for room."""
        self._busy = True
        try:
            while self._unsent:
                if self._departure.lifecycle.ended is not None:
                    # Also if there is room: the news may have come in the moment in which a wait for it was over.
                    await self._after_the_end()
                elif not self._try_push():
                    await self._wait_for_room()
        except Interrupted:
            await self._after_the_end()
        finally:
            self._busy = False

    def _try_push(self) -> bool:
        """Hand over what there is room for; says whether that was all.

        Raises:
            ResponseError: the piece's file cannot be sent.
        """
        unsent = self._unsent
        while unsent:
            try:
                taken = self._transport.send_nowait(*unsent)
            except HungUp as error:
                self._departure.hung_up(error.cause)
                return False
            self.response_bytes += taken
            if not take_off(unsent, taken):
                return False
        # Nothing is kept of a piece that is out: an idle connection holds no response.
        self._content_bytes += len(self._wire.payload)
        self._wire = _NOTHING
        return True

    async def _after_the_end(self) -> None:
        self.forget()
        await self._departure.checkpoint()
        if not self._departure.discarding:
            raise ClientGone("the client has left")

    async def _wait_for_room(self) -> None:
        """Wait until there may be room. Counts as waiting for the client however it ends, a handler's own cancellation
        included.
        """
        self._waits_since = trio.current_time()
        self._look()
        if self._departure.lifecycle.ended is not None:
            return  # our patience was at its end before, and nobody could interrupt a wait that had not begun
        try:
            await self._transport.wait_writable()
        finally:
            self._timer.stop()
            self._patience.waited(trio.current_time() - self._waits_since)

    def _look(self) -> None:
        # A slow client may take bytes all the time and yet leave no room for new ones: buffers are large, and the
        # system speaks of room only when a good part of one is free.
        now = trio.current_time()
        taken = self._transport.taken_bytes()
        if taken > self._taken_bytes:
            self._patience.waited(now - self._waits_since)
            self._waits_since = now
            self._patience.got(taken - self._taken_bytes)
            self._taken_bytes = taken
        end = self._waits_since + self._patience.left
        if now < end:
            self._timer.set(min(now + self._look_every, end))
        else:
            self._departure.give_up(Cause.WRITE_TIMEOUT)


def _size(runs: Iterable[Run]) -> int:
    return sum(map(len, runs))

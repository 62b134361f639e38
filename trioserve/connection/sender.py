"""Sender: the connection's send side. Hands bytes to the transport, and knows how much of a response got out.

Who may send: one task at a time, under the deadline `send_stall`, which starts anew with every byte that the client
takes. Sends are never shielded. Nothing is written after the end of the exchange has come: under CANCEL a send raises,
under FINISH and Grace it is a checkpoint and the bytes are thrown away.

A send that a handler cancels half-way leaves the rest of its part here, and the next send hands that over first: the
bytes on the wire are always a prefix of what was meant, so framing never breaks.
"""

from __future__ import annotations

import trio

from trioserve.connection.departure import Departure
from trioserve.connection.timers import Timers
from trioserve.connection.transport import HungUp, Interrupted, Transport
from trioserve.core.errors import ClientGone
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import Wire


class Sender:
    """The send side of one connection."""

    def __init__(self, transport: Transport, departure: Departure, timers: Timers, send_stall: float) -> None:
        self._transport = transport
        self._departure = departure
        self._send_stall = send_stall
        self._timer = timers.timer(self._stalled)
        # What the last send did not get out, as part of which piece.
        self._unsent = memoryview(b"")
        self._wire = Wire(b"", b"", b"")
        self._busy = False
        # Bytes of the current response on the wire, framing included; not positive until its first byte is out.
        self.response_bytes = 0
        # Content bytes of the current response in the pieces before the last.
        self._content_bytes = 0

    @property
    def content_bytes(self) -> int:
        """Bytes of the current response's content that were handed to the transport."""
        in_progress = sum(map(len, self._wire)) - len(self._unsent)
        return self._content_bytes + self._wire.payload_sent(in_progress)

    def new_response(self) -> None:
        """A new exchange begins: count from zero."""
        self.response_bytes = 0
        self._content_bytes = 0

    async def send(self, wire: Wire) -> None:
        """Hand a piece of the response over, whole. A checkpoint only if it has to wait.

        Raises:
            trio.Cancelled, ClientGone: see `Departure.checkpoint`.
            trio.BusyResourceError: another task is sending.
        """
        if self._departure.end is not None:
            await self._after_the_end()
            return
        if self._busy:
            raise trio.BusyResourceError("another task is already sending this response")
        self._busy = True
        try:
            if self._unsent:
                await self._flush()
            self._take_up(wire)
            await self._flush()
        except HungUp as error:
            self._departure.hung_up(error.cause)
            await self._after_the_end()
        except Interrupted:
            await self._after_the_end()
        finally:
            self._busy = False

    def send_now(self, wire: Wire) -> bool:
        """Hand a piece over without waiting; says whether all of it was taken. For what is offered once, at the end."""
        if self._unsent:
            return False
        self._take_up(wire)
        try:
            return self._push() == 0
        except HungUp as error:
            self._departure.hung_up(error.cause)
            return False

    def interim_now(self, data: bytes) -> None:
        """Hand an interim response over without waiting; what is not taken goes before the next piece."""
        self.response_bytes -= len(data)  # these bytes are not the response's, whenever they get out
        self.send_now(Wire(data, b"", b""))

    def discard(self) -> None:
        """The connection is over: no timer of ours will be due."""
        self._timer.discard()

    def _take_up(self, wire: Wire) -> None:
        self._content_bytes = self.content_bytes
        self._wire = wire
        self._unsent = memoryview(b"".join(wire) if wire.prefix or wire.suffix else wire.payload)

    async def _flush(self) -> None:
        while self._push():
            self._timer.set(trio.current_time() + self._send_stall)
            try:
                await self._transport.wait_writable()
            finally:
                self._timer.stop()

    def _push(self) -> int:
        """Hand over what there is room for; returns how many bytes are left."""
        taken = self._transport.send_nowait(self._unsent)
        self._unsent = self._unsent[taken:]
        self.response_bytes += taken
        return len(self._unsent)

    async def _after_the_end(self) -> None:
        await self._departure.checkpoint()
        if not self._departure.discarding:
            raise ClientGone("the client has left")

    def _stalled(self) -> None:
        self._departure.give_up(Cause.WRITE_TIMEOUT)

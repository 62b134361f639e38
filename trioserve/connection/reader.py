"""Reader: the connection's receive side. Pulls bytes for the engine when they are needed, and meets the peer's FIN.

Who may read: the task that serves the connection (or a child of it, while a handler reads the body), one at a time.
Whoever needs bytes that are not there waits here, under the deadline that fits what is awaited. If instead the input
ends, or the transport is dead, `Departure` is told, and the wait ends as a departure ends everything: by cancellation.
"""

from __future__ import annotations

import trio

from trioserve.connection.departure import Departure
from trioserve.connection.timers import Timers
from trioserve.connection.transport import HungUp, Interrupted, Transport
from trioserve.core.engine import NEED_DATA, Engine
from trioserve.core.errors import ClientGone
from trioserve.core.lifecycle import Cause
from trioserve.core.limits import Deadlines
from trioserve.core.messages import BodyPart, EndOfRequest, RequestHead


class Reader:
    """The receive side of one connection."""

    def __init__(
        self, transport: Transport, engine: Engine, departure: Departure, timers: Timers, deadlines: Deadlines
    ) -> None:
        self._transport = transport
        self._engine = engine
        self._departure = departure
        self._deadlines = deadlines
        self._timer = timers.timer(self._too_slow)
        # When the current head's first bytes were there; None before that.
        self.head_begun_at: float | None = None
        # True while a task waits for bytes; then nobody else may take them in.
        self.waiting = False

    async def head(self, patience: float) -> RequestHead:
        """The next head: within `patience` seconds its first byte, then within `Deadlines.head` its last.

        Always a checkpoint, also where pipelined bytes are at hand, so that no client can keep the others waiting.

        Raises:
            RequestError: it is not one.
        """
        self.head_begun_at = None
        if self._engine.has_unparsed_bytes:
            await self._departure.checkpoint()
        else:
            await self._more(trio.current_time() + patience)
        self.head_begun_at = trio.current_time()
        while (event := self._engine.next_event()) is NEED_DATA:
            await self._more(self.head_begun_at + self._deadlines.head)
        assert isinstance(event, RequestHead), "the engine begins every request with its head"
        return event

    async def body_event(self) -> BodyPart | EndOfRequest:
        """The next event of a body that is not complete.

        Raises:
            RequestError: the body is malformed.
            ClientGone: the input ended before the body did, and no cancellation reaches the caller.
        """
        while (event := self._engine.next_event()) is NEED_DATA:
            await self._more(trio.current_time() + self._deadlines.body_stall)
        assert isinstance(event, BodyPart | EndOfRequest), "the engine begins no request before the last is complete"
        return event

    def discard(self) -> None:
        """The connection is over: no timer of ours will be due."""
        self._timer.discard()

    async def _more(self, deadline: float) -> None:
        """Wait for bytes and feed them to the engine. Returns only if there were some."""
        self._timer.set(deadline)
        self.waiting = True
        try:
            data = await self._receive()
        except HungUp as error:
            self._departure.hung_up(error.cause)
        except Interrupted:
            pass  # the departure is known, and it was that which interrupted us
        else:
            if not data:
                self._departure.input_ended()
            elif not self._departure.scope.cancel_called:
                self._engine.receive_data(data)
                return
            # Else the end came between the arrival of these bytes and our turn: nothing is begun with them.
        finally:
            self.waiting = False
            self._timer.stop()
        await self._departure.checkpoint()
        raise ClientGone("the client left before its request was complete")

    async def _receive(self) -> bytes:
        # Waiting first, and not a hopeful recv: between two requests of a client there is nothing to be had.
        data = None
        while data is None:
            await self._transport.wait_readable()
            data = self._transport.receive_nowait()
        return data

    def _too_slow(self) -> None:
        self._departure.give_up(Cause.READ_TIMEOUT)

"""Reader: the connection's receive side. Pulls bytes for the engine when they are needed, and meets the peer's FIN.

Who may read: the task that serves the connection (or a child of it, while a handler reads the body), one at a time.
Whoever needs bytes that are not there waits here: for a head under a deadline in total, for a body as long as there is
`Patience` with the client. If instead the input ends, or the transport is dead, `Departure` is told, and the wait ends
as a departure ends everything: by cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Never

import trio

from trioserve.connection.departure import Departure
from trioserve.connection.timers import Timers
from trioserve.connection.transport import HungUp, Interrupted, OnHangup, Transport
from trioserve.core.engine import Engine
from trioserve.core.errors import ClientGone
from trioserve.core.lifecycle import Cause
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import NEED_DATA, BodyPart, EndOfRequest, RequestHead
from trioserve.core.patience import Patience


class Reader:
    """The receive side of one connection.

    Args:
        hung_up: told where a read finds the transport dead.
        nothing_there: told before each wait for a head of which nothing is there.
    """

    __slots__ = (
        "_deadlines",
        "_departure",
        "_engine",
        "_hung_up",
        "_limits",
        "_nothing_there",
        "_now",
        "_patience",
        "_timer",
        "_transport",
        "_waiter",
        "head_awaited_since",
        "head_begun_at",
    )

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        departure: Departure,
        timers: Timers,
        *,
        limits: Limits,
        deadlines: Deadlines,
        hung_up: OnHangup,
        nothing_there: Callable[[], None],
    ) -> None:
        self._hung_up = hung_up
        self._nothing_there = nothing_there
        self._transport = transport
        self._engine = engine
        self._departure = departure
        self._limits = limits
        self._deadlines = deadlines
        self._now = timers.now
        self._timer = timers.timer(self._too_slow)
        # With the client, while it sends the body of the current request; None until that is waited for.
        self._patience: Patience | None = None
        # When the current head's first bytes were there; None before that. And since when they are waited for; math.inf
        # before that.
        self.head_begun_at: float | None = None
        self.head_awaited_since = math.inf
        # Stands for the task that waits for bytes; while there is one, nobody else may take them in.
        self._waiter: object | None = None

    @property
    def waiting(self) -> bool:
        """True while a task waits for bytes."""
        return self._waiter is not None

    def take_first_bytes(self) -> None:
        """Take in what has come with the connection. Most clients connect to send a request at once: then it is there
        by now, and is not waited for. Nothing, or the peer's FIN, will be met again.
        """
        try:
            data = self._transport.receive_nowait()
        except HungUp as error:
            self._hung_up(error.cause)
        else:
            if data:
                self._engine.receive_data(data)

    async def head(self, patience: float) -> RequestHead | None:
        """The next head: within `patience` seconds its first byte, then within `Deadlines.head` its last. None if the
        client has left before the first: of that nobody is told, and there is nothing to cancel.

        Empty lines before it begin nothing: a client that has sent some is as idle as before.

        Always a checkpoint, also where pipelined bytes are at hand, so that no client can keep the others waiting.

        Raises:
            RequestError: it is not one.
        """
        self.head_begun_at = None
        self._patience = None
        self.head_awaited_since = self._now()
        engine = self._engine
        begun = engine.has_unparsed_bytes
        if begun:
            await self._departure.checkpoint()
        while not begun:
            self._nothing_there()
            data = await self._arrival(self.head_awaited_since + patience)
            if not data:
                return None
            engine.receive_data(data)
            begun = engine.has_unparsed_bytes
        self.head_begun_at = self._now()
        while (event := engine.next_event()) is NEED_DATA:
            engine.receive_data(await self._arrival(self.head_begun_at + self._deadlines.head) or await self._met_fin())
        assert isinstance(event, RequestHead), "the engine begins every request with its head"
        return event

    async def body_event(self) -> BodyPart | EndOfRequest:
        """The next event of a body that is not complete.

        Raises:
            RequestError: the body is malformed.
            ClientGone: the input ended before the body did, and no cancellation reaches the caller.
            trio.BusyResourceError: another task is reading it.
        """
        while (event := self._engine.next_event()) is NEED_DATA:
            await self._more_of_body()
        assert isinstance(event, BodyPart | EndOfRequest), "the engine begins no request before the last is complete"
        return event

    async def raw_bytes(self) -> bytes:
        """The next bytes of a connection that has switched protocols; b"" at the peer's FIN. The engine does not see
        them.

        Without a deadline: how long a peer may be silent is for the protocol to say, and so is what its FIN means.

        Raises:
            ClientGone: the client left, and no cancellation reaches the caller.
            trio.BusyResourceError: another task is reading.
        """
        return await self._arrival(math.inf)

    def dismiss(self) -> None:
        """The exchange is complete: a task that still waits for its body waits in vain, and is told so."""
        if self._waiter is not None:
            self._waiter = None
            self._timer.stop()
            self._transport.interrupt()

    def discard(self) -> None:
        """The connection is over: no timer of ours will be due, and nobody is told anything."""
        self._timer.discard()
        self._hung_up = self._nothing_there = _nobody_is_told

    async def _more_of_body(self) -> None:
        patience = self._patience = self._patience or Patience(self._deadlines.body_stall, self._limits.body_rate)
        since = self._now()
        try:
            data = await self._arrival(since + patience.left) or await self._met_fin()
        finally:
            # Also if the handler has cancelled its wait: it was one all the same.
            patience.waited(self._now() - since)
        patience.got(len(data))
        self._engine.receive_data(data)

    async def _met_fin(self) -> Never:
        """The peer's FIN is where more of the request should be."""
        self._departure.input_ended()
        await self._departure.checkpoint()
        raise ClientGone("the client left before its request was complete")

    async def _arrival(self, deadline: float) -> bytes:
        """Wait for bytes; b"" at the peer's FIN."""
        if self._departure.cancelled:
            await self._departure.checkpoint()
        if self._waiter is not None:
            raise trio.BusyResourceError("another task is already reading from this client")
        waiter = self._waiter = object()
        self._timer.set(deadline)
        try:
            data = await self._receive(waiter)
        except HungUp as error:
            self._hung_up(error.cause)
        except Interrupted:
            pass  # by the departure, which is known, or because the exchange is over
        else:
            if not self._departure.cancelled:
                return data
            # Else the end came between the arrival of these bytes and our turn: nothing is begun with them.
        finally:
            if self._waiter is waiter:
                self._waiter = None
                self._timer.stop()
        await self._departure.checkpoint()
        raise ClientGone("the client left before its request was complete, or the exchange is over")

    async def _receive(self, waiter: object) -> bytes:
        # Waiting first, and not a hopeful recv: between two requests of a client there is nothing to be had.
        while True:
            try:
                # Once the client has left and the handler may run on, what had arrived is still to be read. No more
                # will come, and not everything that tells of a departure makes the transport readable.
                if self._departure.discarding:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._transport.wait_readable()
            except Interrupted:
                if not self._departure.discarding:
                    raise
            if self._waiter is not waiter:
                raise Interrupted  # dismissed in the very moment in which bytes came: they are not for us
            data = self._transport.receive_nowait()
            if data is not None:
                return data
            if self._departure.discarding:
                raise Interrupted

    def _too_slow(self) -> None:
        self._departure.give_up(Cause.READ_TIMEOUT)


def _nobody_is_told(*_news: object) -> None:
    pass

"""Handlers as data: what a handler does, as far as its client can tell; and an app that does just that.

So that a model can say what must come of a request, it must know what becomes of it in the handler. A `Handler` says so
in a few words, and `Service.app` makes the app of the same words: the two cannot contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from trioserve.app.application import App
from trioserve.app.request import Request
from trioserve.app.response import Response
from trioserve.app.streaming import Send
from trioserve.core.errors import DropConnection, HTTPError
from trioserve.core.lifecycle import CANCEL, DisconnectPolicy, HalfClose
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.records import ClientAddress
from trioserve.server.config import Config
from trioserve.testing.scripts import Coded


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Handler(Coded):
    """What a handler does, in this order: it reads, waits, tidies up, and answers or not."""

    reads: bool = True
    """It reads all of the request's content first. Else none of it."""

    waits: float = 0.0
    """Seconds."""

    tidies: float = 0.0
    """Seconds for which it tidies up behind the wait, in a shield: always, also when it was cancelled meanwhile."""

    status: int = 200
    """Of its answer. From 400 on it raises an `HTTPError`."""

    content: int = 0
    """Bytes of content in its answer; of each part, if it streams."""

    echoes: bool = False
    """The content is the request's instead."""

    parts: int = 0
    """It streams its answer in so many parts; 0: its answer is whole."""

    pause: float = 0.0
    """Seconds after each part."""

    fails: bool = False
    """It raises instead of answering; if it streams, instead of ending its stream."""

    drops: bool = False
    """It asks for silence (`DropConnection`) instead of answering."""

    def answer_to(self, content: bytes) -> bytes:
        """The content of its answer to a request with this content."""
        if self.echoes:
            return content
        return bytes(self.content) * max(self.parts, 1)


class Marks:
    """What handlers tell of themselves: how many have begun and have ended, and how many marks they have reached.

    Each reaches a mark when it begins, when it has read, and before each pause of its stream.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.marks = 0
        # Who has called which handler: the client, and the target of its request. One for each call, in their order.
        self.calls: list[tuple[ClientAddress | None, str]] = []
        self._news = trio.lowlevel.ParkingLot()

    def reach(self) -> None:
        self.marks += 1
        self._news.unpark_all()

    async def reached(self, marks: int) -> None:
        """Wait until so many marks were reached."""
        while self.marks < marks:
            await self._news.park()

    def __enter__(self) -> None:
        self.begun += 1
        self.reach()

    def __exit__(self, *_: object) -> None:
        self.ended += 1


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Service(Coded):
    """A server's side of a play: its handlers, and what holds for all of them."""

    handlers: Mapping[str, Handler] = field(default_factory=dict)
    """By target."""

    disconnect: DisconnectPolicy = CANCEL
    half_close: HalfClose = HalfClose.ABORT
    deadlines: Deadlines = field(default_factory=Deadlines)
    limits: Limits = field(default_factory=Limits)
    room: int = 131_072
    """Bytes that a connection takes in each direction while nobody reads: send buffer and window."""

    def app(self, marks: Marks | None = None) -> App:
        """An app with these handlers, for every method that has them."""
        app = App(disconnect=self.disconnect, half_close=self.half_close)
        for target, handler in self.handlers.items():
            app.route(target, methods=["GET", "POST"])(_handle(handler, marks or Marks()))
        return app

    def config(self) -> Config:
        return Config(deadlines=self.deadlines, limits=self.limits, access_log=False)


class HandlerBroke(RuntimeError):
    """Raised by a `Handler` that fails."""


def _handle(handler: Handler, marks: Marks):  # type: ignore[no-untyped-def]  # noqa: ANN202
    async def handle(request: Request) -> Response:
        marks.calls.append((request.client, request.target))
        with marks:
            content = await request.body() if handler.reads else b""
            marks.reach()
            try:
                await trio.sleep(handler.waits)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(handler.tidies)
            if handler.drops:
                raise DropConnection
            if handler.fails and not handler.parts:
                raise HandlerBroke
            if handler.status >= 400:
                raise HTTPError(handler.status)
            if not handler.parts:
                return Response(handler.answer_to(content), status=handler.status)
        return Response.stream(lambda send: _write(handler, marks, content, send), status=handler.status)

    return handle


async def _write(handler: Handler, marks: Marks, content: bytes, send: Send) -> None:
    with marks:
        for _ in range(handler.parts):
            await send(content if handler.echoes else bytes(handler.content))
            marks.reach()
            await trio.sleep(handler.pause)
        if handler.fails:
            raise HandlerBroke

"""Layers around the handlers of an app: what a play shows without them must be true through them too.

Every route is registered again, in a router that the app includes, so that its handler stands inside:

    middleware of the app > middleware of the router > a lifespan's value > a dependency > another that needs it

Each of these notes what happens to it, per exchange, and when the play is over `check` says whether whatever was
entered was left, once and in the right order. An error handler for everything notes when it is called.

One thing differs, and is meant to: middleware and dependencies are user code, so once they run the exchange counts as
started. A plain handler that still waits for its thread is then not told as queued and not started.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from trioserve import Abandoned, App, Completed, Request, Response, Router
from trioserve.app.router import Next, Registration
from trioserve.app.routing import RouteTable
from trioserve.core.callables import is_async
from trioserve.core.lifecycle import Phase

ENTERED = ("app", "router", "lower", "upper", "handler")
LEFT = ("handler", "upper", "lower", "router", "app")
LEFT_AFTER_STREAM = ("handler", "router", "app", "upper", "lower")

ExchangeKey = tuple[int, int]
"""The ids of a connection and of an exchange in it."""


@dataclass(frozen=True)
class Foundation:
    """What the lifespan provides."""


@dataclass(frozen=True)
class Lower:
    """What a dependency provides."""

    foundation: Foundation


@dataclass(frozen=True)
class Upper:
    """What a dependency provides that needs another."""

    lower: Lower
    passage: Passage


@dataclass
class Passage:
    """How one exchange went through the layers."""

    entered: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    streamed: bool = False
    mistakes: list[str] = field(default_factory=list)

    def enter(self, name: str) -> None:
        self.entered.append(name)
        if self.left:
            self.mistakes.append(f"{name} was entered when {self.left} had been left")

    @property
    def is_over(self) -> bool:
        """True if all that was entered was left, in the right order."""
        order = LEFT_AFTER_STREAM if self.streamed else LEFT
        return self.left == [name for name in order if name in self.entered]


class Layers:
    """The layers around the handlers of one app."""

    def __init__(self, app: App) -> None:
        self._passages: defaultdict[ExchangeKey, Passage] = defaultdict(Passage)
        self._founded = 0
        self._foundations_left = 0
        registrations = [route.registration for route in app.routes]
        app._table, app._routes, app._named = RouteTable(), [], {}
        app.lifespan(self._foundation)
        app.dependency(self._lower)
        app.dependency(self._upper)
        app.error_handler(Exception)(self._note_error)
        router = Router(middleware=[self._around("router")])
        for registration in registrations:
            router._add(_alone(registration, app, _noting(registration.handler)))
        app.include(router)
        app.middleware(self._around("app"))

    def check_record(self, record: Completed | Abandoned) -> None:
        """The records say that it is over: is it? Of a stream the dependencies may be left once it is written."""
        passage = self._passages[record.connection_id, record.exchange_number]
        if not passage.is_over and not (isinstance(record, Completed) and passage.streamed):
            passage.mistakes.append(f"at its record: {passage}")

    # As an observer

    def completed(self, record: Completed) -> None:
        self.check_record(record)

    def abandoned(self, record: Abandoned) -> None:
        self.check_record(record)

    def check(self, records: list[Completed | Abandoned]) -> None:
        """What must be true when the play is over."""
        assert self._founded == self._foundations_left == 1, "the lifespan was entered and left once"
        for key, passage in self._passages.items():
            assert not passage.mistakes, f"exchange {key}: {passage.mistakes}"
            assert passage.entered == list(ENTERED[: len(passage.entered)]), f"exchange {key}: {passage}"
            assert passage.is_over, f"exchange {key}: {passage}"
        for record in records:
            passed = self._passages[record.connection_id, record.exchange_number].entered
            if isinstance(record, Completed) and record.status == 200:
                assert passed == list(ENTERED)
            if isinstance(record, Abandoned) and record.phase is Phase.HEAD:
                assert not passed

    # The layers

    async def _foundation(self) -> AsyncIterator[Foundation]:
        self._founded += 1
        try:
            yield Foundation()
        finally:
            self._foundations_left += 1

    async def _lower(self, request: Request, foundation: Foundation) -> AsyncIterator[Lower]:
        async with self._noted(request, "lower"):
            yield Lower(foundation)

    async def _upper(self, request: Request, lower: Lower) -> AsyncIterator[Upper]:
        async with self._noted(request, "upper"):
            yield Upper(lower, self._passage(request))

    def _around(self, name: str) -> Callable[..., Any]:
        async def middleware(request: Request, call_next: Next) -> Response:
            passage = self._passage(request)
            passage.enter(name)
            try:
                with trio.CancelScope():
                    response = await call_next(request)
                    passage.streamed = response.streamed
                    return response
            finally:
                passage.left.append(name)

        return middleware

    async def _note_error(self, request: Request, error: BaseException) -> Response:
        if trio.current_effective_deadline() == -math.inf:
            self._passage(request).mistakes.append(f"{error!r} went to the error handler after the cancellation")
        return Response(b"an error", status=500)

    def _noted(self, request: Request, name: str) -> _Noted:
        return _Noted(self._passage(request), name)

    def _passage(self, request: Request) -> Passage:
        return self._passages[request.exchange._connection.id, request.exchange.number]


class _Noted:
    """Notes that something is entered and left. If it is left in a task of trio's, that takes a moment."""

    def __init__(self, passage: Passage, name: str) -> None:
        self._passage = passage
        self._name = name

    def __enter__(self) -> None:
        self._passage.enter(self._name)

    def __exit__(self, *_: object) -> None:
        self._passage.left.append(self._name)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        self.__exit__()


def _noting(handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler`, which takes what a dependency provides beside its own parameters."""
    if is_async(handler):

        @functools.wraps(handler)
        async def noting(*, upper_: Upper, **arguments: Any) -> Any:
            with _Noted(upper_.passage, "handler"):
                return await handler(**arguments)
    elif inspect.isasyncgenfunction(handler):  # only made here, and in the task: in a thread, virtual time would run on

        @functools.wraps(handler)
        async def noting(*, upper_: Upper, **arguments: Any) -> Any:
            with _Noted(upper_.passage, "handler"):
                return handler(**arguments)
    else:

        @functools.wraps(handler)
        def noting(*, upper_: Upper, **arguments: Any) -> Any:
            with _Noted(upper_.passage, "handler"):
                return handler(**arguments)

    signature = inspect.signature(handler)
    own = inspect.Parameter("upper_", inspect.Parameter.KEYWORD_ONLY, annotation=Upper)
    noting.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])
    return noting


def _alone(registration: Registration, app: App, handler: Callable[..., Any]) -> Registration:
    """The registration without what it will have from the app once more."""
    changes = registration.policies.abandoned_status[len(app._policies.abandoned_status) :]
    return dataclasses.replace(
        registration,
        handler=handler,
        policies=dataclasses.replace(registration.policies, abandoned_status=changes),
        middleware=registration.middleware[1:],
    )

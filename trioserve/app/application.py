"""App: decorators that register handlers and all that is around them, and the `Application` that a server serves.

    app = App()

    @app.get("/reports/{year:int}")
    async def report(request: Request, year: int) -> Response: ...

An app is a `Router`, the outermost one, and has besides what there is only once: dependencies, lifespans, error
handlers, hooks. What does not fit is refused at registration, not at the first request. While the app is served,
nothing more is registered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, Unpack, overload

from trioserve.app.annotations import check_takes, place_of
from trioserve.app.errors import ErrorHandler, ErrorHandlers
from trioserve.app.handlers import Dependency, Opener, check_converted, check_defaults, dependency, plan
from trioserve.app.handshake import check_handshake, is_websocket_upgrade
from trioserve.app.request import Request
from trioserve.app.response import Response
from trioserve.app.route import Around, Call, Route, Running, WebSocketRoute
from trioserve.app.router import NOT_GIVEN, UPGRADE, Middleware, Next, PolicyOptions, Registration, Router
from trioserve.app.routing import Converter, NoMatch, RouteTable
from trioserve.app.websocket import WebSocket
from trioserve.core.application import Background, Endpoint, Hook
from trioserve.core.callables import name_of
from trioserve.core.errors import ConfigError, HTTPError, RequestError
from trioserve.core.messages import RequestHead
from trioserve.core.target import is_for_server, path_of
from trioserve.failures import sole

ErrorHandlerT = TypeVar("ErrorHandlerT", bound=ErrorHandler)
OpenerT = TypeVar("OpenerT", bound=Opener)
HookT = TypeVar("HookT", bound=Hook)

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"})
"""RFC 9110 §9 and RFC 5789. Any other method is 501, unless a route is registered for it; and so is CONNECT always."""


class App(Router):
    """An application.

    Args:
        debug: answer an unexpected error with its traceback. For development only: it shows secrets.
        middleware, converters: as for `Router`.
        policies: see `PolicyOptions`; they hold for all routes.

    Raises:
        ConfigError: a value is wrong.
    """

    def __init__(
        self,
        *,
        debug: bool = False,
        middleware: Iterable[Middleware] = (),
        converters: Mapping[str, Converter] | None = None,
        **policies: Unpack[PolicyOptions],
    ) -> None:
        self._running: Running | None = None
        super().__init__(middleware=middleware, converters=converters, **policies)
        self.rules = self._policies.rules()
        # Where there is no route, it is that which is said, however large the body.
        self._without_route = dataclasses.replace(self.rules, max_body=math.inf)
        self._table: RouteTable[Route] = RouteTable()
        # All routes in the order of registration; and by name, and by handler.
        self._routes: list[Route] = []
        self._named: dict[Any, list[Route]] = {}
        self._dependencies: dict[Any, Dependency] = {}
        self._lifespans: list[Dependency] = []
        self._errors = ErrorHandlers(debug=debug)
        self._around = Around(self._errors)
        self._hooks: list[Hook] = []

    # What is registered

    @overload
    def on_abandoned(self, hook: HookT) -> HookT: ...
    @overload
    def on_abandoned(self) -> Callable[[HookT], HookT]: ...
    def on_abandoned(self, hook: Any = NOT_GIVEN) -> Any:
        """Register a hook: told of every `Abandoned`, after the handler has unwound and the connection is closed.

        An async hook runs shielded for at most `Deadlines.hook` seconds; a plain one runs in a worker thread. One that
        raises or hangs is logged and disturbs nobody.

        Raises:
            ConfigError: it is no function, or does not take just the record.
        """
        if hook is NOT_GIVEN:
            return self.on_abandoned
        self._check_open()
        check_takes(hook, "the hook", "`async def name(record)`, or a plain one", 1)
        self._hooks.append(hook)
        return hook

    def error_handler(self, error: type[Exception] | int) -> Callable[[ErrorHandlerT], ErrorHandlerT]:
        """Register the decorated function `(request, error)` to answer a class of exceptions, or a status code.

        It returns what a handler may return, or raises an `HTTPError`, which is answered in turn. The most specific
        class wins; one for a status code comes before one for `HTTPError` itself. Errors of the routing (404, 405) and
        of the request's content (400, 413) are `HTTPError`s too. One for `Exception`, or for 500, answers what nobody
        expected, which is logged.

        Raises:
            ConfigError: `error` is neither, or has one already; or the function does not take these two.
        """

        def register(handler: ErrorHandlerT) -> ErrorHandlerT:
            self._check_open()
            self._errors.add(error, handler)
            return handler

        return register

    @overload
    def dependency(self, function: OpenerT, /) -> OpenerT: ...
    @overload
    def dependency(self, /, *, provides: Any) -> Callable[[OpenerT], OpenerT]: ...
    def dependency(
        self, function: OpenerT | None = None, /, *, provides: Any = None
    ) -> OpenerT | Callable[[OpenerT], OpenerT]:
        """Register something that handlers take by annotation: an async context manager, entered for each exchange.

            @app.dependency
            async def transaction(pool: Pool) -> AsyncIterator[Transaction]:
                async with pool.begin() as it:
                    yield it

        What it provides is what it says to yield, or `provides`. It may take the request, which has the path's
        parameters, and whatever was registered before it. Several are entered in the order in which they are needed and
        left in the opposite one: when the handler has ended, with its exception if there is one, before the response
        is sent; for a stream, when that is written. What raises on leaving is still answered with 500.

        Cancellation: when the client leaves, it is left with the cancellation, like any context manager; so a
        transaction is rolled back. What it awaits then needs a shield, with a deadline.

        Raises:
            ConfigError: it is none, or says not what it provides, or that is provided already.
        """
        if function is None:
            return lambda function: self._depend(function, provides)
        return self._depend(function, None)

    def _depend(self, function: OpenerT, provides: Any) -> OpenerT:
        made = self._dependency(function, provides, self._dependencies, Request, lasts=False)
        if made.provides is None:
            raise ConfigError(f"{made} provides None, which nobody can ask for; middleware is for what has no value")
        self._provide(made)
        return function

    @staticmethod
    def _dependency(
        function: Callable[..., Any], provides: Any, known: Mapping[Any, Dependency], subject: type, *, lasts: bool
    ) -> Dependency:
        try:
            return dependency(function, provides, known, {subject}, lasts=lasts)
        except ConfigError as error:
            raise ConfigError(f"{place_of(function)}: {error}") from None

    @overload
    def lifespan(self, function: OpenerT) -> OpenerT: ...
    @overload
    def lifespan(self) -> Callable[[OpenerT], OpenerT]: ...
    def lifespan(self, function: Any = NOT_GIVEN) -> Any:
        """Register an async context manager that is open while the app is served.

            @app.lifespan
            async def pool() -> AsyncIterator[Pool]:
                async with open_pool() as it:
                    yield it

        What it yields reaches handlers, dependencies and further lifespans by annotation. Several are entered in order
        and left in the opposite one, when all exchanges and all background work have ended. It may take the `App`.

        Cancellation: of the server, while it is entered or left. In between it is shielded, so that handlers that clean
        up can use it.

        Raises:
            ConfigError: it is none, or says not what it provides, or that is provided already.
        """
        if function is NOT_GIVEN:
            return self.lifespan
        lasting = {key: known for key, known in self._dependencies.items() if known.lasts}
        made = self._dependency(function, None, lasting, App, lasts=True)
        if made.provides is not None:
            self._provide(made)
        self._lifespans.append(made)
        return function

    def _provide(self, made: Dependency) -> None:
        self._check_open()
        other = self._dependencies.setdefault(made.provides, made)
        if other is not made:
            raise ConfigError(f"{made} provides what {other} provides already: {made.provides}")

    def _given_away(self) -> Sequence[Registration]:
        raise ConfigError("an App cannot be included; make it a Router")

    def _add(self, registration: Registration) -> None:
        self._check_open()
        registration = self._scoped(registration)
        try:
            pattern = registration.pattern()
            kind, subject = (Route, Request) if registration.websocket is None else (WebSocketRoute, WebSocket)
            where_from = plan(registration.handler, pattern.parameters, self._dependencies, {subject})
            others = self._named.get(_handler_key(registration.handler), ())
            elsewhere = {name for other in others for name in other.pattern.parameters}
            check_defaults(registration.handler, where_from, elsewhere)
            check_converted(registration.handler, pattern.types)
            route = kind(registration, pattern, where_from, self._around, host=self)
            self._table.add(registration.methods, pattern, route)
        except ConfigError as error:
            raise ConfigError(f"{registration} of {registration.path!r}: {error}") from None
        self._routes.append(route)
        for key in (registration.name, _handler_key(registration.handler)):
            self._named.setdefault(key, []).append(route)

    def _check_open(self) -> None:
        if self._running is not None:
            raise ConfigError("the app is being served; register before that")

    def readiness(self, path: str) -> None:
        """Register a GET route that says if more requests are welcome: 200, and 503 from the order to stop on.

            app.readiness("/ready")

        For load balancers and Kubernetes' readinessProbe. While it says 503, for `Deadlines.drain_delay`, everything is
        still served. A worker that is replaced goes on saying 200, as the service goes on. What else the app depends
        on is for a handler of your own to say; it has `request.stopping`.

        Raises:
            ConfigError: the path is none, or has a route already.
        """
        self.get(path)(_readiness)

    # What it is asked

    @property
    def routes(self) -> Sequence[Route]:
        """All routes, in the order of registration."""
        return tuple(self._routes)

    def url_for(self, route: str | Callable[..., Any], /, **parameters: Any) -> str:
        """The path of a route, by its handler or its name, with `parameters` for the path's parameters.

        Of several routes with one handler or name, it is the one that takes just these parameters.

        Raises:
            ConfigError: there is no such route, or there are several, or a parameter does not fit.
        """
        named = self._named.get(route if isinstance(route, str) else _handler_key(route), [])
        what = repr(route) if isinstance(route, str) else name_of(route)
        if not named:
            raise ConfigError(f"url_for: there is no route {what}")
        fitting = [each for each in named if each.pattern.parameters == parameters.keys()] or named
        if len({each.pattern.text for each in fitting}) > 1:
            raise ConfigError(
                f"url_for: several routes are {what}, and not just one takes these parameters: "
                + ", ".join(each.pattern.text for each in fitting)
            )
        return fitting[0].pattern.url(parameters)

    def start_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Run `function(*args)` as background work: an async function as a task, a plain one in a worker thread.

        It outlives the exchange that started it. One that raises is logged and disturbs nobody; `ClientGone` and
        `WebSocketClosed` may leave it as a normal end. When the server stops, background work is waited for until
        `Deadlines.background` after the last exchange, and then cancelled.

        May be called from a plain handler too.

        Raises:
            TypeError: `function` is none.
            RuntimeError: the app is not being served, or its server has stopped.
        """
        self.current().background.start_soon(function, *args)

    def current(self) -> Running:
        """What the app has while it is served. For the app layer.

        Raises:
            RuntimeError: it is not being served.
        """
        if self._running is None:
            raise RuntimeError("the app is not being served, so nothing can run in the background or hold values")
        return self._running

    # For the server

    @property
    def hooks(self) -> Sequence[Hook]:
        return tuple(self._hooks)

    @asynccontextmanager
    async def running(self, background: Background) -> AsyncIterator[None]:
        """For the server: lifespans are open in the block."""
        if self._running is not None:
            raise ConfigError("this app is being served already; give Config.listen several addresses instead")
        running = self._running = Running(background)
        try:
            async with AsyncExitStack() as stack:
                try:
                    for lifespan in self._lifespans:
                        await self._enter(lifespan, stack, running)
                except BaseException:
                    await background.stop()  # before what it may use is closed
                    raise
                yield
        finally:
            self._running = None

    async def _enter(self, lifespan: Dependency, stack: AsyncExitStack, running: Running) -> None:
        arguments = lifespan.plan.arguments(self, {}, running.values)
        try:
            running.values[lifespan] = await stack.enter_async_context(lifespan.open(**arguments))
        except Exception as error:
            sole(error).add_note(f"the lifespan {lifespan} failed at the start")
            raise

    def endpoint(self, head: RequestHead) -> Endpoint:
        """The endpoint for a request: its route, or one that answers for want of one."""
        method, target = head.method, head.target
        # Where no WebSocket is served, its wish is ignored (RFC 9110 §7.8).
        wants_socket = UPGRADE in self._table.methods and is_websocket_upgrade(head)
        if not wants_socket and (plain := self._table.plain.get((method, target))) is not None:
            return plain.route.plain_call
        if is_for_server(method, target):
            return self._answering(self._telling_methods())
        path = path_of(target)
        match = self._table.find(UPGRADE, path) if wants_socket else None
        if match is None or isinstance(match, NoMatch):
            match = self._table.find(method, path)
        if isinstance(match, NoMatch):
            return self._answering(self._without(head, match))
        route, parameters = match
        return route.call(parameters) if parameters else route.plain_call

    def _answering(self, answer: Next) -> Endpoint:
        """An endpoint that is no route's, with the app's own middleware."""
        run = self._around.wrapped(answer, self._middleware)
        return Call(None, self._without_route, run, self._around, {}, host=self)

    def _telling_methods(self) -> Next:
        """What answers to OPTIONS about the server: the methods that there are anywhere."""
        methods = self._table.methods | ({"HEAD"} if "GET" in self._table.methods else set())

        async def answer(_request: Request) -> Response:
            return _allowing(methods)

        return answer

    def _without(self, head: RequestHead, match: NoMatch) -> Next:
        """What answers where there is no route: 404, 405, 501, 426, or OPTIONS."""
        method, methods = head.method, match.allowed

        async def answer(_request: Request) -> Response:
            if method not in KNOWN_METHODS and method not in self._table.methods:
                raise RequestError(501, _not_implemented(method))
            if methods and method == "OPTIONS":
                return _allowing(methods)
            if UPGRADE in methods and method == "GET":
                check_handshake(head)  # says what is missing
            if methods:
                raise HTTPError(405, f"{method} is not allowed here", headers={"allow": _allow(methods)})
            if match.near is not None:
                raise HTTPError(404, f"there is nothing at this address, but there is at {match.near}")
            raise HTTPError(404, "there is nothing at this address")

        return answer


async def _readiness(request: Request) -> Response:
    headers = {"cache-control": "no-store"}
    if request.stopping:
        return Response("the server is going to stop\n", status=503, headers=headers)
    return Response("ready\n", headers=headers)


def _allowing(methods: AbstractSet[str]) -> Response:
    """The answer to OPTIONS: RFC 9110 §9.3.7."""
    return Response(status=204, headers={"allow": _allow(methods)})


def _allow(methods: AbstractSet[str]) -> str:
    """The Allow field's value: RFC 9110 §10.2.1."""
    # A WebSocket's handshake is a GET.
    return ", ".join(sorted({"OPTIONS", *("GET" if method == UPGRADE else method for method in methods)}))


def _not_implemented(method: str) -> str:
    if method == "CONNECT":
        return "this server opens no tunnels: it is no proxy"
    if (upper := method.upper()) in KNOWN_METHODS and upper != method:
        return f"this server does not know the method {method}; methods are in upper case, so send {upper}"
    return f"this server does not know the method {method}"


def _handler_key(handler: Callable[..., Any]) -> Any:
    """By what a handler is known: itself, as a method is another object each time; its identity if it has no hash."""
    try:
        hash(handler)
    except TypeError:
        return id(handler)
    return handler

"""Route: a handler with all that is wrapped around it, and `Call`, the endpoint of one request to it.

From the outside in: unexpected errors are answered; middleware; expected errors are answered; dependencies; the
handler. Then the response is sent, outside of the middleware, which has seen it.

Dependencies are left right behind the handler, before its response is sent: a transaction that cannot be committed is
still a 500, and what the client was told is true. They see what the handler raised, cancellation included. Only for a
response that is written while it is sent (a stream, events) they stay open until it is written, and are left before its
last byte is sent. If it is never sent, because middleware has another answer, they and it are closed all the same. A
file is opened before they are left, so a dependency may hold the directory it is in, and that there is no such file is
an expected error. The dependencies of a WebSocket are left before our Close frame goes out, unless its handler has
sent it.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Protocol

import trio

from trioserve.app.errors import ErrorHandlers
from trioserve.app.files import FileResponse
from trioserve.app.handlers import Dependency, Plan, invoking, response_of
from trioserve.app.request import Later, Request, Urls
from trioserve.app.response import Release, Response, nothing_to_release
from trioserve.app.router import Middleware, Next, Registration
from trioserve.app.routing import Pattern
from trioserve.app.websocket import WebSocket, serve_websocket
from trioserve.core.application import Background, Exchange, Rules
from trioserve.core.callables import name_of
from trioserve.core.errors import ResponseError
from trioserve.failures import is_failure, sole


class Running:
    """What an app has while it is served: the values of its lifespans, and where background work is started."""

    def __init__(self, background: Background) -> None:
        self.background = background
        self.values: dict[Dependency, Any] = {}


class Host(Urls, Protocol):
    """The app, as a route and a call know it."""

    def current(self) -> Running:
        """What the app has now.

        Raises:
            RuntimeError: it is not being served.
        """
        ...


class Around:
    """What an app has wrapped around its handlers."""

    def __init__(self, errors: ErrorHandlers) -> None:
        self._errors = errors

    def wrapped(self, handler: Next, middleware: Sequence[Middleware]) -> Next:
        """`handler` with the middleware around it, which sees the answers to expected errors. What comes out of all is
        for `answered`.
        """
        if not middleware:
            return handler
        call = self._expecting(handler)
        for function in reversed(middleware):
            call = _followed(function, call)
        return call

    def _expecting(self, call: Next) -> Next:
        async def run(request: Request) -> Response:
            before = request.later
            try:
                return await call(request)
            except BaseException as error:
                if (answer := await self._expected(request, error, before)) is None:
                    raise
                return answer

        return run

    async def answered(self, request: Request, error: BaseException) -> Response | None:
        """The answer to an error that came out of everything; None if the connection is to log and to answer it, if it
        is to be answered.

        Here too it may be one that is expected, as middleware may raise an HTTPError.
        """
        try:
            answer = await self._expected(request, error, later=())
        except BaseException as raised:
            if (answer := await self._unexpected(request, raised)) is None:
                raise
            return answer
        return await self._unexpected(request, error) if answer is None else answer

    async def _expected(self, request: Request, error: BaseException, later: Later) -> Response | None:
        """The answer to an error that is expected. `later` is what there was to do when the call that raised began:
        what raised is not to have its work done, whoever answers.
        """
        request.later = later
        answer = self._errors.expected(sole(error)) if _is_answerable(request, error) else None
        if answer is None:
            return None
        return _held(request, await self._errors.answered(answer, request, sole(error)))

    async def _unexpected(self, request: Request, error: BaseException) -> Response | None:
        request.later = ()
        answer = self._errors.unexpected(sole(error)) if _is_answerable(request, error) else None
        if answer is None:
            return None
        request.exchange.report_failure(sole(error))
        return _held(request, await self._errors.answered(answer, request, sole(error)))


def _is_answerable(request: Request, error: BaseException) -> bool:
    """True if `error` is a failure, and a status code can still be said.

    What a handler raises while it is being stopped, or runs on without a client, is for the record to tell.
    """
    return is_failure(error) and not (request.exchange.switched or request.exchange.ended)


def _followed(function: Middleware, call: Next) -> Next:
    async def call_next(request: Request) -> Response:
        # A copy, as what comes from inside may be a constant, and what is changed in it here is for this client alone.
        return _held(request, (await call(request)).handed_over())

    async def run(request: Request) -> Response:
        request.exchange.handler_starts()
        response = await function(request, call_next)
        if not isinstance(response, Response):
            raise ResponseError(
                f"middleware {name_of(function)} returned {type(response).__name__}, which is no Response; return what "
                "`await call_next(request)` gave, or a Response of its own"
            )
        return _held(request, response)

    return run


def _held(request: Request, response: Response) -> Response:
    """See to it that what `response` holds is freed when the exchange ends: perhaps it is never sent."""
    if type(response).aclose is not Response.aclose:
        request.hold(response.aclose)
    return response


def _check_content(request: Request) -> None:
    refusal = request.exchange.refusal
    if refusal is not None:
        raise refusal


class Route:
    """A handler with its pattern and rules."""

    def __init__(self, registration: Registration, pattern: Pattern, plan: Plan, around: Around, host: Host) -> None:
        self.registration = registration
        self.pattern = pattern
        self.rules = registration.policies.rules()
        self._handler = registration.handler
        self._invoke = invoking(registration.handler)
        self._plan = plan
        self._needs = plan.needs
        self._takes_nothing = plan.takes_nothing
        self._around = around
        self._host = host

    def __str__(self) -> str:
        return str(self.registration)

    @functools.cached_property
    def run(self) -> Next:
        """The handler with everything around it. Made at the first request: middleware may come after the route."""
        middleware = [function for functions in self.registration.middleware for function in functions]
        return self._around.wrapped(self._with_dependencies if self._needs else self._handle, middleware)

    def call(self, path_params: dict[str, Any]) -> Call:
        """The endpoint of a request with these parameters in its path."""
        return Call(self.pattern.text, self.rules, self.run, self._around, path_params, host=self._host)

    @functools.cached_property
    def plain_call(self) -> Call:
        """The endpoint of every request, if the path has no parameters."""
        return self.call({})

    def _handle(self, request: Request) -> Coroutine[Any, Any, Response]:
        _check_content(request)
        arguments = {} if self._takes_nothing else self._plan.arguments(request, request.path_params, {})
        return self._called(request, arguments)

    async def _with_dependencies(self, request: Request) -> Response:
        _check_content(request)
        response: Response | None = None
        async with AsyncExitStack() as stack:
            request.exchange.handler_starts()
            values = dict(self._host.current().values)
            swallowing: list[Dependency] = []
            for need in self._needs:
                if not need.lasts:
                    manager = need.open(**need.plan.arguments(request, request.path_params, values))
                    values[need] = await _entered(need, manager, stack, swallowing)
            response = await self._called(request, self._plan.arguments(request, request.path_params, values))
            # A handler may end without having met its cancellation: a thread that does not ask, say. What it did is
            # for nobody all the same, and its dependencies are to know.
            await trio.lowlevel.checkpoint_if_cancelled()
            if response.streamed:
                request.resources.push_async_exit(stack.pop_all())
        if response is None:
            await trio.lowlevel.checkpoint_if_cancelled()  # if what was swallowed is a cancellation, it goes on
            raise ResponseError(f"the dependency {swallowing[0]} swallowed the exception of {self}; let it pass")
        return response

    async def _called(self, request: Request, arguments: dict[str, Any]) -> Response:
        response = response_of(self._handler, await self._invoke(request.exchange, **arguments))
        if type(response) is Response:
            return response  # it holds nothing
        if isinstance(response, FileResponse):
            response = await response.opened(request.exchange)
        return _held(request, response)


async def _entered(
    need: Dependency, manager: AbstractAsyncContextManager[Any], stack: AsyncExitStack, swallowing: list[Dependency]
) -> Any:
    """Enter a dependency on `stack`. What it raises tells where; if it swallows an exception, it joins `swallowing`."""

    async def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        try:
            swallowed = bool(await manager.__aexit__(kind, error, trace))
        except Exception as raised:
            if raised is not error:
                raised.add_note(f"raised where the dependency {need} was left")
            raise
        if swallowed and error is not None:
            swallowing.append(need)
        return swallowed

    try:
        value = await manager.__aenter__()
    except Exception as error:
        error.add_note(f"raised where the dependency {need} was entered")
        raise
    stack.push_async_exit(leave)
    return value


class WebSocketRoute(Route):
    """A route whose handler serves a WebSocket. Middleware sees the whole session as one call.

    It may refuse the handshake by not going on; what comes back is a response that was sent long ago.
    Dependencies are left before our Close frame goes out, unless the handler has sent it.
    """

    async def _handle(self, request: Request) -> Response:
        return await self._session(request, super()._handle)

    async def _with_dependencies(self, request: Request) -> Response:
        return await self._session(request, super()._with_dependencies)

    async def _session(self, request: Request, inner: Next) -> Response:
        """Serve the session, with the handler and its dependencies in it."""
        options = self.registration.websocket
        assert options is not None, "a WebSocket's registration has its options"

        async def handler(socket: WebSocket) -> None:
            request.websocket = socket
            await inner(request)

        await serve_websocket(request, handler, ping=options.ping, max_message=options.max_message)
        return SwitchedResponse()

    async def _called(self, request: Request, arguments: dict[str, Any]) -> Response:
        socket = request.websocket
        assert socket is not None, "a handler of WebSockets is called in a session"
        if self._plan.subject is not None:
            arguments[self._plan.subject] = socket
        await socket.attend(self._handler(**arguments))
        return SwitchedResponse()


class SwitchedResponse(Response):
    """The 101 of a WebSocket's handshake, after the session."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 101

    async def send_to(self, exchange: Exchange, release: Release = nothing_to_release) -> None:  # noqa: ARG002
        """It was sent at the session's beginning."""
        await release()


class Call:
    """The endpoint of one request, or of all to a path without parameters.

    `name` is the route's pattern; None where no route was found.
    """

    __slots__ = ("_around", "_host", "_path_params", "_run", "name", "rules")

    def __init__(
        self, name: str | None, rules: Rules, run: Next, around: Around, path_params: dict[str, Any], *, host: Host
    ) -> None:
        self.name = name
        self.rules = rules
        self._run = run
        self._around = around
        self._path_params = path_params
        self._host = host

    async def __call__(self, exchange: Exchange) -> None:
        request = Request(exchange, self._path_params.copy(), self._host)
        try:
            try:
                response = await self._run(request)
            except BaseException as error:
                if (answer := await self._around.answered(request, error)) is None:
                    raise
                response = answer
            # While a stream is written, it may still open something.
            release = request.release if request.holds or response.streamed else nothing_to_release
            await response.send_to(exchange, release)
        except BaseException as error:
            await request.close(error)
            raise
        else:
            if request.holds:
                await request.close(None)
        finally:
            # Also where the client leaves, or something fails, when it has its response.
            if request.later and exchange.completed:
                for function, args in request.later:
                    self._host.current().background.start_soon(function, *args)

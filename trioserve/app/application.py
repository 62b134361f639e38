"""App: decorators that register handlers and hooks, and the `Application` that a server serves.

    app = App()

    @app.get("/reports/{year:int}")
    async def report(request: Request, year: int) -> Response: ...

A handler takes its path parameters by name and, if it wants, the request as one further parameter. An async handler
runs in the connection's task; a plain `def` handler runs in a worker thread. What does not fit is refused at
registration, not at the first request.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trioserve.app.request import Request, path_of
from trioserve.app.response import as_response
from trioserve.app.routing import Match, NoMatch, Pattern, Router
from trioserve.core.application import Endpoint, Exchange, Hook, Rules
from trioserve.core.callables import is_async, name_of
from trioserve.core.errors import ConfigError, RequestError, ResponseError, error_body
from trioserve.core.lifecycle import CANCEL, DisconnectPolicy, HalfClose
from trioserve.core.messages import RequestHead
from trioserve.core.status import DEFAULT, StatusChange

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)
HookT = TypeVar("HookT", bound=Hook)

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""RFC 9110 §9 and RFC 5789. Any other method is 501, unless a route is registered for it."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token: RFC 9110 §9.1


class App:
    """An application.

    Args:
        disconnect: what departure does to handlers: CANCEL, FINISH or Grace(seconds).
        half_close: what a FIN after the request means: "abort", "finish" or "probe"; None: as the server says.
        abandoned_status: a change to the status policy: a status code for the client-side causes, a mapping
            {(phase, cause): status code}, or a function (phase, cause) -> status code.

    Each of these can be given for a single route too, where it prevails.

    Raises:
        ConfigError: a value is wrong.
    """

    def __init__(
        self,
        *,
        disconnect: DisconnectPolicy = CANCEL,
        half_close: HalfClose | str | None = None,
        abandoned_status: StatusChange | None = None,
    ) -> None:
        self.rules = Rules(
            disconnect=_checked_policy(disconnect),
            half_close=None if half_close is None else HalfClose.of(half_close),
            status=DEFAULT.changed(abandoned_status),
        )
        # Where there is no route, it is that which is said, however large the body.
        self._without_route = dataclasses.replace(self.rules, max_body=math.inf)
        self._router: Router[Route] = Router()
        self._hooks: list[Hook] = []

    @property
    def hooks(self) -> Sequence[Hook]:
        return tuple(self._hooks)

    def on_abandoned(self, hook: HookT) -> HookT:
        """Register a hook: told of every `Abandoned`, after the handler has unwound and the connection is closed.

        An async hook runs shielded for at most `Deadlines.hook` seconds; a plain one runs in a worker thread. One that
        raises or hangs is logged and disturbs nobody.
        """
        self._hooks.append(hook)
        return hook

    def route(
        self,
        path: str,
        *,
        methods: Sequence[str],
        disconnect: DisconnectPolicy | None = None,
        half_close: HalfClose | str | None = None,
        abandoned_status: StatusChange | None = None,
        deadline: float | None = None,
        max_body: float | None = None,
    ) -> Callable[[H], H]:
        """Register the decorated handler for `path` and `methods`.

        Args:
            path: such as "/reports/{year:int}"; converters are str (default), int and path.
            methods: such as ["GET"]; in any case, they become upper case. GET serves HEAD too.
            disconnect, half_close, abandoned_status: for this route, instead of the app's.
            deadline: seconds from the handler's start to the response's end; then it is cancelled and answered 503.
                None: `Deadlines.handler`.
            max_body: bytes of request content; beyond it 413. None: `Limits.body`.

        Raises:
            ConfigError: something does not fit: the path, the methods, a policy, the handler's parameters, or the
                route exists.
        """
        pattern = Pattern(path)
        methods = _checked_methods(methods)
        rules = Rules(
            disconnect=self.rules.disconnect if disconnect is None else _checked_policy(disconnect),
            half_close=self.rules.half_close if half_close is None else HalfClose.of(half_close),
            status=self.rules.status.changed(abandoned_status),
            deadline=_checked_positive("deadline", deadline),
            max_body=_checked_positive("max_body", max_body),
        )

        def register(handler: H) -> H:
            route = Route(pattern, handler, rules)
            try:
                self._router.add(methods, pattern, route)
            except ConfigError as error:
                raise ConfigError(f"handler {name_of(handler)}: {error}") from None
            return handler

        return register

    def get(self, path: str, **options: Any) -> Callable[[H], H]:
        """Register the decorated handler for GET (and HEAD). Options as for `route`."""
        return self.route(path, methods=["GET"], **options)

    def post(self, path: str, **options: Any) -> Callable[[H], H]:
        """Register the decorated handler for POST. Options as for `route`."""
        return self.route(path, methods=["POST"], **options)

    def put(self, path: str, **options: Any) -> Callable[[H], H]:
        """Register the decorated handler for PUT. Options as for `route`."""
        return self.route(path, methods=["PUT"], **options)

    def patch(self, path: str, **options: Any) -> Callable[[H], H]:
        """Register the decorated handler for PATCH. Options as for `route`."""
        return self.route(path, methods=["PATCH"], **options)

    def delete(self, path: str, **options: Any) -> Callable[[H], H]:
        """Register the decorated handler for DELETE. Options as for `route`."""
        return self.route(path, methods=["DELETE"], **options)

    def endpoint(self, head: RequestHead) -> Endpoint:
        """The endpoint for a request: its route, or one that answers 404, 405 or 501."""
        match self._router.find(head.method, path_of(head.target)):
            case Match(route, parameters):
                return _Call(route, parameters)
            case NoMatch(allowed):
                return self._refusal(head, allowed)

    def _refusal(self, head: RequestHead, allowed: frozenset[str]) -> Endpoint:
        if head.method not in KNOWN_METHODS and not self._router.knows_method(head.method):
            return _UnknownMethod(self._without_route, head.method)
        if allowed:
            return _Refusal(
                self._without_route, 405, f"{head.method} is not allowed here", allow=", ".join(sorted(allowed))
            )
        return _Refusal(self._without_route, 404, "there is nothing at this address")


class Route:
    """A handler with its pattern and rules.

    Raises:
        ConfigError: the handler cannot take the pattern's parameters.
    """

    __slots__ = ("handler", "is_async", "pattern", "request_parameter", "rules")

    def __init__(self, pattern: Pattern, handler: Handler, rules: Rules) -> None:
        self.pattern = pattern
        self.handler = handler
        self.rules = rules
        self.is_async = is_async(handler)
        self.request_parameter = _request_parameter(handler, pattern)


class _Call:
    """The endpoint of one request to a route."""

    __slots__ = ("_parameters", "_route")

    def __init__(self, route: Route, parameters: dict[str, Any]) -> None:
        self._route = route
        self._parameters = parameters

    @property
    def name(self) -> str:
        return self._route.pattern.text

    @property
    def rules(self) -> Rules:
        return self._route.rules

    async def __call__(self, exchange: Exchange) -> None:
        route, arguments = self._route, self._parameters
        if route.request_parameter is not None:
            arguments = {**arguments, route.request_parameter: Request(exchange, self._parameters)}
        if route.is_async:
            exchange.handler_starts()
            value = await route.handler(**arguments)
        else:
            value = await exchange.run_in_thread(functools.partial(_call_plain, route.handler, arguments))
        try:
            response = as_response(value)
        except (ResponseError, TypeError, ValueError) as error:
            raise ResponseError(f"handler {name_of(route.handler)}: {error}") from None
        await response.send_to(exchange)


class _UnknownMethod:
    """The endpoint of a request whose method nobody knows: it is no request that we serve."""

    __slots__ = ("_method", "rules")

    name = None

    def __init__(self, rules: Rules, method: str) -> None:
        self.rules = rules
        self._method = method

    async def __call__(self, exchange: Exchange) -> None:  # noqa: ARG002 - the shape of an Endpoint
        raise RequestError(501, f"this server does not know the method {self._method}")


def _call_plain(handler: Handler, arguments: dict[str, Any]) -> Any:
    """Call a plain handler, in its thread.

    Raises:
        ResponseError: it is no plain function after all, and returned a coroutine.
    """
    value = handler(**arguments)
    if inspect.iscoroutine(value):
        value.close()
        raise ResponseError(
            f"handler {name_of(handler)} is a plain function that returned a coroutine; make it async def"
        )
    return value


class _Refusal:
    """The endpoint of a request for which there is no route."""

    __slots__ = ("_detail", "_fields", "_status", "rules")

    name = None

    def __init__(self, rules: Rules, status: int, detail: str, allow: str | None = None) -> None:
        self.rules = rules
        self._status = status
        self._detail = detail
        self._fields = [(b"content-type", b"text/plain; charset=utf-8")]
        if allow is not None:
            self._fields.append((b"allow", allow.encode("ascii")))

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.respond(self._status, self._fields, error_body(self._status, self._detail))


def _request_parameter(handler: Handler, pattern: Pattern) -> str | None:
    """The name of the parameter that takes the request: the one that is no path parameter."""
    parameters = inspect.signature(handler).parameters
    by_name = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    missing = pattern.parameters - by_name
    if missing:
        raise ConfigError(
            f"handler {name_of(handler)} does not take the path parameter {_names(missing)} of {pattern.text!r}"
        )
    others = [name for name, p in parameters.items() if name not in pattern.parameters and p.default is p.empty]
    if len(others) > 1 or any(name not in by_name for name in others):
        raise ConfigError(
            f"handler {name_of(handler)} of {pattern.text!r} takes {_names(others)}; it can take the path's parameters "
            "by name and one more, the request"
        )
    return others[0] if others else None


def _names(names: Sequence[str] | frozenset[str] | set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def _checked_policy(policy: DisconnectPolicy) -> DisconnectPolicy:
    if not isinstance(policy, DisconnectPolicy):
        raise ConfigError(f"disconnect={policy!r}; use CANCEL, FINISH or Grace(seconds)")
    return policy


def _checked_methods(methods: Sequence[str]) -> Sequence[str]:
    if (
        isinstance(methods, str)  # which is a sequence of letters too
        or not methods
        or not all(isinstance(method, str) and _METHOD.fullmatch(method) for method in methods)
    ):
        raise ConfigError(f'methods={methods!r}; give a list of method names, such as ["GET", "POST"]')
    return [method.upper() for method in methods]


def _checked_positive(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and value > 0):
        raise ConfigError(f"{name}={value!r}; it must be a positive number (math.inf: no limit)")
    return value

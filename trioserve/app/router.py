"""Router: routes that belong together, with their own middleware and policies, to be included under a prefix.

A `Registration` is a route as it was written down, with all that holds for it gathered on the way: a router adds its
own policies, converters and middleware to each of its routes, from the inside out. What an inner one says prevails;
middleware of the outer comes first. The app makes `Route`s of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar, Unpack, overload

from trioserve.app.annotations import check_takes, place_of
from trioserve.app.handlers import Handler, Returned
from trioserve.app.request import Request
from trioserve.app.response import Response
from trioserve.app.routing import CONVERTERS, Converter, Pattern
from trioserve.app.websocket import PING, load_wsproto
from trioserve.core.application import Rules
from trioserve.core.callables import is_async
from trioserve.core.errors import ConfigError
from trioserve.core.fields import TOKEN
from trioserve.core.lifecycle import CANCEL, DisconnectPolicy, HalfClose
from trioserve.core.status import DEFAULT, StatusChange


class Next(Protocol):
    """What middleware calls to go on: the next middleware, or the handler.

    Raises whatever comes out of the handler and no error handler answers, and cancellations.
    """

    async def __call__(self, request: Request, /) -> Response: ...


class Middleware(Protocol):
    """An async function around handlers; see `Router.middleware`."""

    async def __call__(self, request: Request, call_next: Next, /) -> Response: ...


# A route's handler, a WebSocket's, and either. Decorators give back what they got, with its own type.
H = TypeVar("H", bound=Callable[..., Returned | Awaitable[Returned]])
W = TypeVar("W", bound=Callable[..., Awaitable[object]])
F = TypeVar("F", bound=Handler)
M = TypeVar("M", bound=Middleware)

NOT_GIVEN: Any = object()
"""Stands for the function where a decorator without arguments is written with parentheses."""

UPGRADE = "Upgrade: websocket"
"""Stands for a method in the table of routes, where a WebSocket is served. No client can send it as one."""

_METHOD = re.compile(TOKEN)  # RFC 9110 §9.1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class PolicyOptions(TypedDict, total=False):
    """What can be said for an app, a router or a route; the innermost prevails.

    disconnect: what departure does to handlers: CANCEL, FINISH or Grace(seconds).
    half_close: what a FIN after the request means: "abort", "finish" or "probe".
    abandoned_status: a change to the status policy: a status code for the client-side causes, a mapping
        {(phase, cause): status code}, or a function (phase, cause) -> status code. The inner one changes the outer's.
    deadline: seconds from the handler's start to the response's end; then it is cancelled and answered 503.
    max_body: bytes of request content; beyond it 413.
    """

    disconnect: DisconnectPolicy
    half_close: HalfClose | str
    abandoned_status: StatusChange
    deadline: float
    max_body: float


class RouteOptions(PolicyOptions, total=False):
    """The policies, and

    name: for `App.url_for`; by default the handler's own name.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Policies:
    """`PolicyOptions` as they were given, checked; None where nothing was said."""

    disconnect: DisconnectPolicy | None = None
    half_close: HalfClose | None = None
    abandoned_status: tuple[StatusChange, ...] = ()
    deadline: float | None = None
    max_body: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Policies:
        """The policies among `options`.

        Raises:
            ConfigError: one is wrong, or unknown.
        """
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"there is no option {name!r}; there are {', '.join(known)}")
        half_close, status = options.get("half_close"), options.get("abandoned_status")
        policies = cls(
            disconnect=_checked_policy(options.get("disconnect")),
            half_close=None if half_close is None else HalfClose.of(half_close),
            abandoned_status=() if status is None else (status,),
            deadline=_checked_positive("deadline", options.get("deadline")),
            max_body=_checked_positive("max_body", options.get("max_body")),
        )
        policies.rules()  # a wrong change of the status policy is refused where it is written
        return policies

    def within(self, outer: Policies) -> Policies:
        """These, and the outer ones where these say nothing."""
        return Policies(
            disconnect=outer.disconnect if self.disconnect is None else self.disconnect,
            half_close=outer.half_close if self.half_close is None else self.half_close,
            abandoned_status=outer.abandoned_status + self.abandoned_status,
            deadline=outer.deadline if self.deadline is None else self.deadline,
            max_body=outer.max_body if self.max_body is None else self.max_body,
        )

    def rules(self) -> Rules:
        """The rules that follow, where nothing further out says anything."""
        status = DEFAULT
        for change in self.abandoned_status:
            status = status.changed(change)
        return Rules(
            disconnect=CANCEL if self.disconnect is None else self.disconnect,
            half_close=self.half_close,
            status=status,
            deadline=self.deadline,
            max_body=self.max_body,
        )


class WebSocketOptions(NamedTuple):
    """What can be said for a WebSocket besides the policies; see `Router.websocket`."""

    ping: float
    max_message: float | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A route as it was written down."""

    path: str
    methods: tuple[str, ...]
    handler: Handler
    name: str
    policies: Policies
    converters: Mapping[str, Converter] = field(default_factory=dict)
    # The lists themselves, outermost first: middleware may be registered after the routes.
    middleware: tuple[Sequence[Middleware], ...] = ()
    # What there is to say of a WebSocket; None for other routes.
    websocket: WebSocketOptions | None = None

    def __str__(self) -> str:
        return f"handler {place_of(self.handler)}"

    def pattern(self) -> Pattern:
        """The path, compiled.

        Raises:
            ConfigError: it is none.
        """
        return Pattern(self.path, {**CONVERTERS, **self.converters})


class Router:
    """Routes that belong together. `app.include(router, prefix="/api")` adds them to an app.

    Args:
        middleware: async functions around the handlers, outermost first; `@router.middleware` adds more.
        converters: own converters for path parameters, by name: {"year": Converter("[0-9]{4}", int)}. Where several
            fit the first prevails.
        policies: see `PolicyOptions`; they hold for all its routes.

    Raises:
        ConfigError: something is wrong.
    """

    def __init__(
        self,
        *,
        middleware: Iterable[Middleware] = (),
        converters: Mapping[str, Converter] | None = None,
        **policies: Unpack[PolicyOptions],
    ) -> None:
        self._policies = Policies.of(policies)
        self._converters = _checked_converters(converters or {})
        self._middleware: list[Middleware] = []
        self._registrations: list[Registration] = []
        self._included = False
        for function in middleware:
            self.middleware(function)

    def route(self, path: str, *, methods: Sequence[str], **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for `path` and `methods`.

        Args:
            path: such as "/reports/{year:int}"; converters are str (default), int, float, uuid, path, and your own.
                In a router it may be "", which is the prefix itself.
            methods: such as ["GET"]; in any case, they become upper case. GET serves HEAD too.
            options: see `RouteOptions`.

        Raises:
            ConfigError: something does not fit: the path, the methods, an option, the handler's parameters; or another
                route serves these requests already. For a router that is found out when it is included.
        """
        return self._registering(path, _checked_methods(methods), options)

    def _registering(
        self,
        path: str,
        methods: tuple[str, ...],
        options: Mapping[str, Any],
        websocket: WebSocketOptions | None = None,
    ) -> Callable[[F], F]:
        if not isinstance(path, str):
            kind = methods[0].lower() if websocket is None else "websocket"
            raise ConfigError(f'the path is {path!r}; write it in parentheses, such as @app.{kind}("/path")')
        Pattern(path or "/", {**CONVERTERS, **self._converters})  # what is no path is refused where it is written
        options = dict(options)
        name = options.pop("name", None)
        for option in options:
            if option not in RouteOptions.__optional_keys__:
                raise ConfigError(f"there is no option {option!r}; there are {', '.join(RouteOptions.__annotations__)}")
        policies = Policies.of(options)

        def register(handler: F) -> F:
            if not callable(handler) or isinstance(handler, type):
                what = "a class" if isinstance(handler, type) else f"of type {type(handler).__name__}"
                raise ConfigError(f"the handler of {path!r} is {handler!r}, {what}; it must be a function or a method")
            default = getattr(handler, "__name__", type(handler).__name__)
            self._add(Registration(path, methods, handler, name or default, policies, websocket=websocket))
            return handler

        return register

    def get(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for GET (and HEAD). As `route`."""
        return self.route(path, methods=["GET"], **options)

    def post(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for POST. As `route`."""
        return self.route(path, methods=["POST"], **options)

    def put(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for PUT. As `route`."""
        return self.route(path, methods=["PUT"], **options)

    def patch(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for PATCH. As `route`."""
        return self.route(path, methods=["PATCH"], **options)

    def delete(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for DELETE. As `route`."""
        return self.route(path, methods=["DELETE"], **options)

    def head(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for HEAD, where GET's own would be too dear. As `route`."""
        return self.route(path, methods=["HEAD"], **options)

    def options(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Register the decorated handler for OPTIONS, which is answered with Allow by itself. As `route`."""
        return self.route(path, methods=["OPTIONS"], **options)

    def websocket(
        self, path: str, *, ping: float = PING, max_message: float | None = None, **options: Unpack[RouteOptions]
    ) -> Callable[[W], W]:
        """Register the decorated `async def` handler for WebSockets at `path`. It takes a `WebSocket`, by annotation.

        A route for GET may have the same path. A session has no deadline but one that is given here.

        Args:
            ping: seconds between keep-alive pings; math.inf for none.
            max_message: bytes of one message; beyond it Close 1009. None: `Limits.websocket_message`.
            options: see `RouteOptions`.

        Raises:
            ConfigError: as for `route`; or the handler is no async function, or wsproto is not installed.
        """
        load_wsproto()
        options.setdefault("deadline", math.inf)
        how = WebSocketOptions(_checked_positive("ping", ping) or PING, _checked_positive("max_message", max_message))
        register = self._registering(path, (UPGRADE,), options, how)

        def register_async(handler: W) -> W:
            if not is_async(handler):
                raise ConfigError(f"handler {place_of(handler)} of a WebSocket must be async def")
            return register(handler)

        return register_async

    @overload
    def middleware(self, function: M) -> M: ...
    @overload
    def middleware(self) -> Callable[[M], M]: ...
    def middleware(self, function: Any = NOT_GIVEN) -> Any:
        """Register middleware: `async def timing(request, call_next) -> Response`, around every handler of this router.

        It goes on with `await call_next(request)`, which gives the response before it is sent, or raises what the
        handler raised, if no error handler knows it. What was registered first is outermost.

        Cancellation: a departure cancels middleware like the handler inside it. One that swallows the cancellation
        hides nothing: the scope stays cancelled, and nothing more is sent.

        Raises:
            ConfigError: it is no async function that takes these two.
        """
        if function is NOT_GIVEN:
            return self.middleware
        if not (callable(function) and is_async(function)):
            raise ConfigError(f"middleware {place_of(function)} must be async def (request, call_next)")
        self._check_open()
        check_takes(function, "middleware", "`async def name(request, call_next)`", 2)
        self._middleware.append(function)
        return function

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Add the routes of `router`, each under `prefix`, with the router's own policies and middleware.

        Raises:
            ConfigError: the prefix does not begin with a slash or ends with one, the router was included before, or one
                of its routes does not fit.
        """
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ConfigError(f'prefix={prefix!r}; it begins with a slash and does not end with one, such as "/api"')
        if not isinstance(router, Router):
            raise ConfigError(f"include takes a Router, not {router!r}")
        self._check_open()
        for registration in router._given_away():
            self._add(replace(registration, path=prefix + registration.path))

    def _given_away(self) -> Sequence[Registration]:
        """What is registered here, for who includes this router: once, and then it is as it is."""
        if self._included:
            raise ConfigError("this router was included already; make another for another place")
        self._included = True
        return self._registrations

    def _add(self, registration: Registration) -> None:
        self._check_open()
        self._registrations.append(self._scoped(registration))

    def _scoped(self, registration: Registration) -> Registration:
        """A registration with what holds here."""
        return replace(
            registration,
            policies=registration.policies.within(self._policies),
            converters={**self._converters, **registration.converters},
            middleware=(self._middleware, *registration.middleware),
        )

    def _check_open(self) -> None:
        if self._included:
            raise ConfigError("this router was included already; register before that")


def _checked_policy(policy: Any) -> DisconnectPolicy | None:
    if policy is not None and not isinstance(policy, DisconnectPolicy):
        raise ConfigError(f"disconnect={policy!r}; use CANCEL, FINISH or Grace(seconds)")
    return policy


def _checked_methods(methods: Sequence[str]) -> tuple[str, ...]:
    if (
        isinstance(methods, str)  # which is a sequence of letters too
        or not methods
        or not all(isinstance(method, str) and _METHOD.fullmatch(method) for method in methods)
    ):
        raise ConfigError(f'methods={methods!r}; give a list of method names, such as ["GET", "POST"]')
    upper = tuple(dict.fromkeys(method.upper() for method in methods))
    if "CONNECT" in upper:
        raise ConfigError(
            f"methods={methods!r}; CONNECT asks a proxy for a tunnel to a host and names no path (RFC 9110 §9.3.6), so "
            "no route serves it; it is answered 501"
        )
    return upper


def _checked_positive(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and value > 0):
        raise ConfigError(f"{name}={value!r}; it must be a positive number (math.inf: no limit)")
    return value


def _checked_converters(converters: Mapping[str, Converter]) -> Mapping[str, Converter]:
    for name, converter in converters.items():
        if not _NAME.fullmatch(name) or name in CONVERTERS or not isinstance(converter, Converter):
            raise ConfigError(
                f"converters={{{name!r}: {converter!r}}}; a name that is not {', '.join(CONVERTERS)}, and a Converter"
            )
    return dict(converters)

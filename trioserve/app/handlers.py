"""What a handler takes, found by its parameters' annotations once, at registration; and how it is called.

A parameter is, in this order:

* a path parameter, by its name;
* the request (or the WebSocket), by its annotation; or, as the only parameter without an annotation, by being that;
* what a dependency provides, by its annotation.

Of a union (`Pool | None`) it is the first member that there is. A name that cannot be evaluated stands for whatever is
called so; see `annotations`. A handler's default that nobody would ever replace is refused: who writes `page: int = 1`
means what the client sends. What shall be constant is bound by a partial. A dependency may have such defaults; it is
often somebody else's class.

A dependency is an async context manager that is entered for the exchange, or, for a lifespan, for as long as the app
is served. It takes parameters like a handler, so dependencies may need each other; a dependency can only need what was
registered before it, so there are no circles.

`plan` decides what to take from where; `Plan` says so, and whoever calls the handler carries it out. What does not fit
is refused here, in words, with the handler's name and place.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, get_args, get_origin

from trioserve.app.annotations import evaluated, is_stand_in, may_be, members, place_of, undecorated, written
from trioserve.app.response import Response, as_response
from trioserve.app.streaming import Part
from trioserve.core.application import Exchange
from trioserve.core.callables import is_async, name_of
from trioserve.core.errors import ConfigError, ResponseError

Returned = Response | str | bytes | Mapping[str, Any] | list[Any] | AsyncIterable[Part] | None
"""What a handler may return: see `as_response`. To type checkers a `TypedDict` is a mapping, and no dict; and an async
generator is what it says that it returns."""

Handler = Callable[..., Any]
"""What was registered as a handler, of whichever kind."""

Opener = Callable[..., AsyncIterable[Any] | AbstractAsyncContextManager[Any]]
"""A user's function that makes an async context manager: an async generator with one yield, or a class."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a function's arguments come from."""

    subject: str | None = None  # the parameter that takes the request or the WebSocket
    path: frozenset[str] = frozenset()  # the parameters that take path parameters
    provided: tuple[tuple[str, Dependency], ...] = ()  # (parameter, what provides it)

    @property
    def takes_nothing(self) -> bool:
        """True if the function is called without arguments."""
        return self.subject is None and not self.path and not self.provided

    @property
    def needs(self) -> tuple[Dependency, ...]:
        """All dependencies, those that others need before these, each once."""
        found: dict[Dependency, None] = {}
        for _, dependency in self.provided:
            found.update(dict.fromkeys((*dependency.plan.needs, dependency)))
        return tuple(found)

    def arguments(
        self, subject: Any, path_params: Mapping[str, Any], values: Mapping[Dependency, Any]
    ) -> dict[str, Any]:
        """What to call the function with. `values` are those of all dependencies that it needs."""
        arguments = dict(path_params) if self.path else {}  # a handler takes all that its path has
        if self.subject is not None:
            arguments[self.subject] = subject
        for name, need in self.provided:
            arguments[name] = values[need]
        return arguments


@dataclass(frozen=True, slots=True, eq=False)
class Dependency:
    """Something that handlers can ask for by annotation: `open(**arguments)` makes its context manager."""

    provides: Any  # the annotation
    open: Callable[..., AbstractAsyncContextManager[Any]]
    plan: Plan
    lasts: bool  # a lifespan: entered once, when the app is started, and not for each exchange

    def __str__(self) -> str:
        return place_of(self.open)


def dependency(
    function: Callable[..., Any],
    provides: Any,
    known: Mapping[Any, Dependency],
    subjects: Collection[type],
    *,
    lasts: bool,
) -> Dependency:
    """A dependency made from a user's function.

    Raises:
        ConfigError: the function makes no async context manager, does not say what it provides, or takes what nobody
            provides.
    """
    opener = _opener(function)
    if provides is None:
        provides = _yielded(function)
    return Dependency(provides, opener, plan(function, frozenset(), known, subjects), lasts)


def _opener(function: Callable[..., Any]) -> Callable[..., AbstractAsyncContextManager[Any]]:
    if not callable(function):
        raise ConfigError("it must be callable: an async generator (async def with one yield), or a class")
    called = undecorated(function)
    if isinstance(called, type):
        if not (hasattr(called, "__aenter__") and hasattr(called, "__aexit__")):
            raise ConfigError("it must be an async context manager: a class with __aenter__ and __aexit__")
        return function
    if inspect.isasyncgenfunction(called):
        return contextlib.asynccontextmanager(function)
    if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(inspect.unwrap(called)):
        raise ConfigError("it must be an async generator (async def with one yield)")
    return function


def _yielded(function: Callable[..., Any]) -> Any:
    """What a function says that its context manager provides; None if nothing."""
    if isinstance(function, type):
        return function
    annotation = evaluated(inspect.signature(function).return_annotation, function)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if arguments and (origin in _YIELDING or (is_stand_in(origin) and origin.__name__ in _YIELDING.values())):
        return None if arguments[0] is type(None) else arguments[0]
    raise ConfigError("it does not say what it provides: annotate it, such as `-> AsyncIterator[Connection]`")


_YIELDING: Mapping[Any, str] = {
    kind: kind.__name__ for kind in (AsyncIterator, AsyncGenerator, AsyncIterable, AbstractAsyncContextManager)
}


def plan(
    function: Callable[..., Any], path: frozenset[str], known: Mapping[Any, Dependency], subjects: Collection[type]
) -> Plan:
    """Where the arguments of `function` come from.

    Args:
        path: the names of the path's parameters.
        known: dependencies by what they provide.
        subjects: the class of the request, or that and the class of the WebSocket.

    Raises:
        ConfigError: something does not fit.
    """
    parameters = inspect.signature(function).parameters
    by_name = _by_name(parameters, path)
    subject: str | None = None
    provided: list[tuple[str, Dependency]] = []
    strangers: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if name in path:
            continue
        candidates = members(parameter.annotation, function)
        if name in by_name and _is_subject(candidates, subjects):
            if subject is not None:
                raise ConfigError(f"it takes the same twice, as {subject!r} and {name!r}; leave one out")
            subject = name
        elif name in by_name and (source := _lookup(candidates, known)) is not None:
            provided.append((name, source))
        elif parameter.default is _EMPTY:
            strangers.append(parameter)
    if subject is None and len(strangers) == 1 and strangers[0].annotation is _EMPTY:
        subject, strangers = strangers[0].name, []
    if strangers:
        raise ConfigError(f"{_not_provided(strangers, function)}; {_what_there_is(path, known, subjects)}")
    return Plan(subject, path, tuple(provided))


_EMPTY: Any = inspect.Parameter.empty


def _by_name(parameters: Mapping[str, inspect.Parameter], path: frozenset[str]) -> Collection[str]:
    """The parameters that are passed by name: all but those that need nothing, and the path's among them."""
    names = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if missing := path - names:
        raise ConfigError(f"it does not take the path parameter {_names(missing)}")
    if others := [name for name, p in parameters.items() if name not in names and p.default is _EMPTY]:
        raise ConfigError(f"it takes {_names(others)}, but all is passed by name: no *args, no **kwargs, no /")
    return names


def _is_subject(candidates: Collection[Any], subjects: Collection[type]) -> bool:
    return any(
        member.__name__ == subject.__name__ if is_stand_in(member) else member in subject.__mro__[:-1]
        for member in candidates
        for subject in subjects
    )


def _lookup(candidates: Collection[Any], known: Mapping[Any, Dependency]) -> Dependency | None:
    for member in candidates:
        try:
            if member in known:
                return known[member]
        except TypeError:
            continue  # it cannot be hashed, so it cannot be a key
        if namesakes := [key for key in known if may_be(member, key)]:
            if len(namesakes) > 1:
                raise ConfigError(
                    f"several are named {member.__name__!r}; import the one that is meant where the annotation can be "
                    "evaluated"
                )
            return known[namesakes[0]]
    return None


def _not_provided(parameters: Collection[inspect.Parameter], function: Callable[..., Any]) -> str:
    unknown = {
        member.__name__ if is_stand_in(member) else member
        for parameter in parameters
        for member in members(parameter.annotation, function)
        if is_stand_in(member) or isinstance(member, str)
    }
    told = ", ".join(f"'{_as_written(parameter)}'" for parameter in parameters)
    return f"nobody provides {told}" + (f" ({_names(unknown)} cannot be evaluated here)" if unknown else "")


def _as_written(parameter: inspect.Parameter) -> str:
    if parameter.annotation is _EMPTY:
        return parameter.name
    return f"{parameter.name}: {written(parameter.annotation)}"


def _what_there_is(path: Collection[str], known: Mapping[Any, Dependency], subjects: Collection[type]) -> str:
    there_is = [subject.__name__ for subject in subjects]
    there_is += [written(key) for key in known]
    if path:
        there_is.append(f"and the path parameters {_names(path)}")
    return (
        f"what can be taken: {', '.join(there_is)}; "
        "anything else is registered above this with @app.dependency or @app.lifespan"
    )


def check_defaults(handler: Handler, made: Plan, elsewhere: Collection[str]) -> None:
    """See that no parameter of a handler always has its default, which somebody thought that the client can replace.

    Args:
        made: the handler's plan.
        elsewhere: the path parameters that other routes of this handler have.

    Raises:
        ConfigError: one always would.
    """
    filled = {made.subject, *made.path, *dict(made.provided), *elsewhere}
    for name, parameter in inspect.signature(handler).parameters.items():
        if parameter.default is not _EMPTY and name not in filled and name not in _bound(handler):
            raise ConfigError(
                f"'{_as_written(parameter)}' would always be {parameter.default!r}, as nobody provides it; read "
                "request.query for what the client asks; bind with functools.partial what shall be so; register the "
                f"route whose path has {{{name}}} first, if there is one"
            )


def _bound(function: Callable[..., Any]) -> Collection[str]:
    """The parameters that a partial has given a value."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names.update(function.keywords)
        function = function.func
    return names


def check_converted(function: Callable[..., Any], types: Mapping[str, type]) -> None:
    """See that the annotations of path parameters agree with `types`, which they are converted to.

    Raises:
        ConfigError: one does not.
    """
    parameters = inspect.signature(function).parameters
    for name, kind in types.items():
        candidates = [
            member
            for member in members(parameters[name].annotation, function)
            if get_origin(member) is not Annotated  # of that, what it annotates is among them
        ]
        if all(member in _SIMPLE and not _fits(kind, member) for member in candidates):
            raise ConfigError(
                f"'{_as_written(parameters[name])}', but the path gives {kind.__name__}; a path says what it gives "
                f"as {{{name}:int}}, float or uuid, and str without"
            )


_SIMPLE = (str, bytes, int, float, complex, bool, uuid.UUID)


def _fits(kind: type, annotation: type) -> bool:
    """True if what is of `kind` may be annotated so: an int as a float too (PEP 484)."""
    return issubclass(kind, annotation) or (kind is int and annotation in {float, complex})


def _names(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


class Invoke(Protocol):
    """Calls a user's function for an exchange; what it returns comes of awaiting."""

    def __call__(self, exchange: Exchange, /, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


def invoking(function: Callable[..., Any]) -> Invoke:
    """How `function` is called: in the task of the exchange if it is async, else in a worker thread."""
    if is_async(function):

        def invoke(exchange: Exchange, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            exchange.handler_starts()
            made: Awaitable[Any] = function(*args, **kwargs)
            return made

        return invoke
    if inspect.isasyncgenfunction(function):

        async def begin(exchange: Exchange, /, *args: Any, **kwargs: Any) -> Any:
            exchange.handler_starts()
            return function(*args, **kwargs)

        return begin

    async def run_in_thread(exchange: Exchange, /, *args: Any, **kwargs: Any) -> Any:
        # In a tuple: trio refuses a coroutine in its own words, while `response_of` knows the function's name.
        (value,) = await exchange.run_in_thread(lambda: (function(*args, **kwargs),))
        return value

    return run_in_thread


def response_of(function: Callable[..., Any], value: Any) -> Response:
    """What a user's function returned, as a response; a stream is from now on this exchange's.

    Raises:
        ResponseError: it is none, or one that cannot be sent again; the message names the function.
    """
    try:
        response = as_response(value)
        return response.handed_over() if response.streamed else response
    except (ResponseError, TypeError, ValueError) as error:
        mistake = str(error)
        if inspect.iscoroutine(value):
            value.close()
            mistake = "it returned a coroutine; await it, in an `async def`"
        raise ResponseError(f"handler {name_of(function)}: {mistake}") from None

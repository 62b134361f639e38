"""What a handler takes, found by its parameters' annotations once, at registration; and how it is called.

A parameter is, in this order:

* a path parameter, by its name;
* the request (or the WebSocket), by its annotation; or, as the only parameter without an annotation, by being that;
* what a dependency provides, by its annotation.

Of a union (`Pool | None`) it is the first member that there is. A name that cannot be evaluated stands for whatever is
called so; see `annotations`.

A dependency is an async context manager that is entered for the exchange, or, for a lifespan, for as long as the app
is served. It takes parameters like a handler, so dependencies may need each other; a dependency can only need what was
registered before it, so there are no circles.

`plan` decides what to take from where; `Plan` says so, and whoever calls the handler carries it out. What does not fit
is refused here, in words, with the handler's name and place.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, get_args, get_origin

from trioserve.app.annotations import evaluated, is_stand_in, may_be, members, place_of, undecorated
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
    def needs(self) -> tuple[Dependency, ...]:
        """All dependencies, those that others need before these, each once."""
        found: dict[Dependency, None] = {}
        for _, dependency in self.provided:
            found.update(dict.fromkeys((*dependency.plan.needs, dependency)))
        return tuple(found)


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
    by_name = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if missing := path - by_name:
        raise ConfigError(f"it does not take the path parameter {_names(missing)}")
    subject: str | None = None
    provided: list[tuple[str, Dependency]] = []
    strangers: list[str] = []
    for name, parameter in parameters.items():
        if name in path:
            continue
        annotation = evaluated(parameter.annotation, function)
        if name in by_name and subject is None and _is_subject(annotation, subjects):
            subject = name
        elif name in by_name and (source := _lookup(annotation, known)) is not None:
            provided.append((name, source))
        elif parameter.default is parameter.empty:
            strangers.append(name)
    if subject is None and len(strangers) == 1 and parameters[strangers[0]].annotation is inspect.Parameter.empty:
        [name] = strangers
        if name in by_name:
            subject, strangers = name, []
    if strangers:
        raise ConfigError(f"it takes {_names(strangers)}; {_what_there_is(path, known, subjects)}")
    return Plan(subject, path, tuple(provided))


def _is_subject(annotation: Any, subjects: Collection[type]) -> bool:
    return any(
        member.__name__ == subject.__name__ if is_stand_in(member) else member in subject.__mro__[:-1]
        for member in members(annotation)
        for subject in subjects
    )


def _lookup(annotation: Any, known: Mapping[Any, Dependency]) -> Dependency | None:
    for member in (annotation, *members(annotation)):
        try:
            if member in known:
                return known[member]
        except TypeError:
            return None  # it cannot be hashed, so it cannot be a key
        if namesakes := [key for key in known if may_be(member, key)]:
            if len(namesakes) > 1:
                raise ConfigError(
                    f"several are named {member.__name__!r}; import the one that is meant where the annotation can be "
                    "evaluated"
                )
            return known[namesakes[0]]
    return None


def _what_there_is(path: Collection[str], known: Mapping[Any, Dependency], subjects: Collection[type]) -> str:
    there_is = [f"the path parameters {_names(path)}" if path else "no path parameters"]
    there_is += [subject.__name__ for subject in subjects]
    there_is += [getattr(key, "__name__", str(key)) for key in known]
    return f"there is {', '.join(there_is)}; register anything else with @app.dependency before"


def _names(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


class Invoke(Protocol):
    """Calls a user's function for an exchange."""

    async def __call__(self, exchange: Exchange, /, *args: Any, **kwargs: Any) -> Any: ...


def invoking(function: Callable[..., Any]) -> Invoke:
    """How `function` is called: in the task of the exchange if it is async, else in a worker thread."""
    if is_async(function):

        async def invoke(exchange: Exchange, /, *args: Any, **kwargs: Any) -> Any:
            exchange.handler_starts()
            return await function(*args, **kwargs)
    elif inspect.isasyncgenfunction(function):

        async def invoke(exchange: Exchange, /, *args: Any, **kwargs: Any) -> Any:
            exchange.handler_starts()
            return function(*args, **kwargs)
    else:

        async def invoke(exchange: Exchange, /, *args: Any, **kwargs: Any) -> Any:
            # In a tuple: trio refuses a coroutine in its own words, while `response_of` knows the function's name.
            (value,) = await exchange.run_in_thread(lambda: (function(*args, **kwargs),))
            return value

    return invoke


def response_of(function: Callable[..., Any], value: Any) -> Response:
    """What a user's function returned, as a response.

    Raises:
        ResponseError: it is none; the message names the function.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise ResponseError(f"handler {name_of(function)} returned a coroutine; await it, in an `async def`")
    try:
        return as_response(value)
    except (ResponseError, TypeError, ValueError) as error:
        raise ResponseError(f"handler {name_of(function)}: {error}") from None

"""What a handler takes, found by its parameters' annotations once, at registration; and how it is called.

A parameter is, in this order:

* a path parameter, by its name;
* the request (or the WebSocket), by its annotation; or, as the only parameter without an annotation, by being that;
* what a dependency provides, by its annotation.

Of a union (`Pool | None`) it is the first member that there is. Where an annotation is text that cannot be evaluated,
because a name in it is imported for type checkers alone or is local to a function, that name stands for whatever is
called so.

A dependency is an async context manager that is entered for the exchange, or, for a lifespan, for as long as the app
is served. It takes parameters like a handler, so dependencies may need each other; a dependency can only need what was
registered before it, so there are no circles.

`plan` decides what to take from where; `Plan` says so, and whoever calls the handler carries it out. What does not fit
is refused here, in words, with the handler's name and place.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
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
from types import FunctionType, GenericAlias, UnionType
from typing import Any, Protocol, Union, get_args, get_origin

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
    called = _undecorated(function)
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
    annotation = _evaluated(inspect.signature(function).return_annotation, function)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if arguments and (origin in _YIELDING or (_is_stand_in(origin) and origin.__name__ in _YIELDING.values())):
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
        annotation = _evaluated(parameter.annotation, function)
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
        member.__name__ == subject.__name__ if _is_stand_in(member) else member in subject.__mro__[:-1]
        for member in _members(annotation)
        for subject in subjects
    )


def _lookup(annotation: Any, known: Mapping[Any, Dependency]) -> Dependency | None:
    for member in (annotation, *_members(annotation)):
        try:
            if member in known:
                return known[member]
        except TypeError:
            return None  # it cannot be hashed, so it cannot be a key
        if namesakes := [key for key in known if _may_be(member, key)]:
            if len(namesakes) > 1:
                raise ConfigError(
                    f"several are named {member.__name__!r}; import the one that is meant where the annotation can be "
                    "evaluated"
                )
            return known[namesakes[0]]
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union but None; of anything else itself."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType} or (_is_stand_in(origin) and origin.__name__ in {"Optional", "Union"}):
        return tuple(member for member in get_args(annotation) if member is not type(None))
    return (annotation,)


class _StandIn(type):
    """Makes classes that stand for names which cannot be evaluated: `x`, `x.y` and `x[z]`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name, (), {})

    def __getitem__(cls, arguments: Any) -> Any:
        return GenericAlias(cls, arguments)


def _is_stand_in(annotation: Any) -> bool:
    return isinstance(annotation, _StandIn)


def _may_be(one: Any, other: Any) -> bool:
    """True if one stands for a name that the other has."""
    names = [getattr(each, "__name__", None) for each in (one, other)]
    return (_is_stand_in(one) or _is_stand_in(other)) and names[0] == names[1]


class _Names(dict[str, Any]):
    """What the names in an annotation mean."""

    def __missing__(self, name: str) -> Any:
        return _StandIn(name, (), {})


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """An annotation of `function`: what it means, if it is text. What is no Python at all stays text."""
    if not isinstance(annotation, str):
        return annotation
    code = _function_behind(function)
    names = _Names(vars(builtins))
    if code is not None:
        names.update(code.__globals__)
        for name, cell in zip(code.__code__.co_freevars, code.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable that is assigned further down is empty as yet
                names[name] = cell.cell_contents
    for _ in range(2):  # text in a module in which all annotations are text is so twice
        if isinstance(annotation, str):
            with contextlib.suppress(Exception):
                annotation = eval(annotation, {}, names)  # noqa: S307 - the user's own, as in typing.get_type_hints
    return annotation


def _undecorated(function: Any) -> Any:
    """What a call of `function` runs: without partials, and of an object its type's `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type) or inspect.isroutine(function):
        return function
    return type(function).__call__


def _function_behind(function: Any) -> FunctionType | None:
    """The function that somebody wrote; of a class its `__init__`. None if it is not written in Python."""
    called = inspect.unwrap(_undecorated(function))
    if isinstance(called, type):
        called = inspect.getattr_static(called, "__init__")
    called = getattr(called, "__func__", called)
    return called if isinstance(called, FunctionType) else None


def place_of(function: Callable[..., Any]) -> str:
    """A function's name, file and line, for errors at registration."""
    written = _function_behind(function)
    where = f" ({written.__code__.co_filename}:{written.__code__.co_firstlineno})" if written is not None else ""
    return name_of(function) + where


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

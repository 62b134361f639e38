"""What a handler takes, found by its parameters' annotations once, at registration; and how it is called.

A parameter is, in this order:

* a path parameter, by its name;
* the request (or the WebSocket), by its annotation; or, as the only parameter without an annotation, by being that;
* what a dependency provides, by its annotation.

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

from trioserve.app.response import Response, as_response
from trioserve.core.application import Exchange
from trioserve.core.callables import is_async, name_of
from trioserve.core.errors import ConfigError, ResponseError

Handler = Callable[..., Any]


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
    if provides is None:
        provides = _yielded(function)
    return Dependency(provides, _opener(function), plan(function, frozenset(), known, subjects), lasts)


def _opener(function: Callable[..., Any]) -> Callable[..., AbstractAsyncContextManager[Any]]:
    if inspect.isasyncgenfunction(function):
        return contextlib.asynccontextmanager(function)
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError("it must be an async generator (async def with one yield)")
    return function


def _yielded(function: Callable[..., Any]) -> Any:
    """What a function says that its context manager provides; None if nothing."""
    if isinstance(function, type):
        return function
    annotation = _annotation(inspect.unwrap(function), "return")
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {AsyncIterator, AsyncGenerator, AsyncIterable, AbstractAsyncContextManager} and arguments:
        return None if arguments[0] is type(None) else arguments[0]
    raise ConfigError("it does not say what it provides: annotate it, such as `-> AsyncIterator[Connection]`")


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
        annotation = _annotation(function, name)
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
    if isinstance(annotation, str):
        return any(annotation.rpartition(".")[2] == subject.__name__ for subject in subjects)
    return (
        isinstance(annotation, type)
        and any(issubclass(subject, annotation) for subject in subjects)
        and (annotation is not object)
    )


def _lookup(annotation: Any, known: Mapping[Any, Dependency]) -> Dependency | None:
    if isinstance(annotation, str):
        # A name that only a type checker can resolve, or of a class inside a function.
        return next((d for key, d in known.items() if getattr(key, "__name__", None) == annotation), None)
    try:
        return known.get(annotation)
    except TypeError:
        return None  # it cannot be hashed, so it cannot be a key


def _annotation(function: Callable[..., Any], name: str) -> Any:
    """The annotation of a parameter (or "return"): evaluated if it can be, else its text."""
    called = function
    while isinstance(called, functools.partial):
        called = called.func
    if not hasattr(called, "__code__") and not isinstance(called, type) and hasattr(called, "__call__"):  # noqa: B004 - its code is wanted
        called = type(called).__call__
    called = inspect.unwrap(called)
    annotation = getattr(called, "__annotations__", {}).get(name, inspect.Parameter.empty)
    if not isinstance(annotation, str):
        return annotation
    names = (
        {**getattr(called, "__globals__", {}), **inspect.getclosurevars(called).nonlocals}
        if inspect.isfunction(called)
        else {}
    )
    try:
        return eval(annotation, names)  # noqa: S307 - the user's own annotation, as typing.get_type_hints would do
    except Exception:
        return annotation


def place_of(function: Callable[..., Any]) -> str:
    """A function's name, file and line, for errors at registration."""
    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    code = getattr(inspect.unwrap(called), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
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
            value = await exchange.run_in_thread(functools.partial(function, *args, **kwargs))
            if inspect.iscoroutine(value):
                value.close()
                raise ResponseError(
                    f"handler {name_of(function)} is a plain function that returned a coroutine; make it async def"
                )
            return value

    return invoke


def response_of(function: Callable[..., Any], value: Any) -> Response:
    """What a user's function returned, as a response.

    Raises:
        ResponseError: it is none; the message names the function.
    """
    try:
        return as_response(value)
    except (ResponseError, TypeError, ValueError) as error:
        raise ResponseError(f"handler {name_of(function)}: {error}") from None

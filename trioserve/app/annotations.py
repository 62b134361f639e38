"""What an annotation means, in all the ways in which people write them. Pure.

An annotation may be text (`from __future__ import annotations`), and name what is imported for type checkers alone, or
what is local to a function. What can be evaluated is. A name that cannot becomes a *stand-in*, which has that name and
can be compared by it; so `Optional["Pool"]`, `Pool | None` and `database.Pool` are read alike, with `Pool` or without.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, GenericAlias, UnionType
from typing import Annotated, Any, ForwardRef, Union, get_args, get_origin

from trioserve.core.callables import name_of
from trioserve.core.errors import ConfigError


def members(annotation: Any, function: Callable[..., Any]) -> tuple[Any, ...]:
    """What `annotation`, of `function`, may be: of a union its members but None, and of what is `Annotated` first the
    whole, then what it annotates; of anything else itself.
    """
    annotation = evaluated(annotation, function)
    origin = get_origin(annotation)
    if origin in {Union, UnionType} or (is_stand_in(origin) and origin.__name__ in {"Optional", "Union"}):
        parts = [member for member in get_args(annotation) if member is not type(None)]
        return tuple(found for part in parts for found in members(part, function))
    if origin is Annotated:
        return (annotation, *members(annotation.__origin__, function))
    return (annotation,)


def written(annotation: Any) -> str:
    """An annotation as it was written, more or less."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return inspect.formatannotation(annotation)


class _StandIn(type):
    """Makes classes that stand for names which cannot be evaluated: `x`, `x.y` and `x[z]`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name, (), {})

    def __getitem__(cls, arguments: Any) -> Any:
        return GenericAlias(cls, arguments)


def is_stand_in(annotation: Any) -> bool:
    """True for what stands for a name that cannot be evaluated; its `__name__` is that name."""
    return isinstance(annotation, _StandIn)


def may_be(one: Any, other: Any) -> bool:
    """True if one stands for a name that the other has."""
    names = [getattr(each, "__name__", None) for each in (one, other)]
    return (is_stand_in(one) or is_stand_in(other)) and names[0] == names[1]


class _Names(dict[str, Any]):
    """What the names in an annotation mean."""

    def __missing__(self, name: str) -> Any:
        return _StandIn(name, (), {})


def evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """An annotation of `function`: what it means, if it is text. What is no Python at all stays text."""
    if isinstance(annotation, ForwardRef):  # text inside of something else, such as Optional["Pool"]
        annotation = annotation.__forward_arg__
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


def undecorated(function: Any) -> Any:
    """What a call of `function` runs: without partials, and of an object its type's `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type) or inspect.isroutine(function):
        return function
    return type(function).__call__


def _function_behind(function: Any) -> FunctionType | None:
    """The function that somebody wrote; of a class its `__init__`. None if it is not written in Python."""
    called = inspect.unwrap(undecorated(function))
    if isinstance(called, type):
        called = inspect.getattr_static(called, "__init__")
    called = getattr(called, "__func__", called)
    return called if isinstance(called, FunctionType) else None


def check_takes(function: Any, what: str, shape: str, arguments: int) -> None:
    """See that `function` can be called with so many arguments by their position.

    Raises:
        ConfigError: it cannot; the message says that `what` is to be like `shape`.
    """
    if not callable(function) or isinstance(function, type):
        raise ConfigError(f"{what} {function!r} is no function; write {shape}")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # it is not written in Python and does not say
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        raise ConfigError(f"{what} {place_of(function)} cannot be called so; write {shape}") from None


def place_of(function: Callable[..., Any]) -> str:
    """A function's name, file and line, for errors at registration."""
    written = _function_behind(function)
    where = f" ({written.__code__.co_filename}:{written.__code__.co_firstlineno})" if written is not None else ""
    return name_of(function) + where

"""What kind of function a user has given us."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def is_async(function: Callable[..., Any]) -> bool:
    """True if calling `function` makes a coroutine: an async def, also behind a partial or as an object's call."""
    while isinstance(function, functools.partial):
        function = function.func
    # What a call runs is the type's: of a class that is the making of an object, whatever its objects do.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name for people: module and qualified name, as it would be imported."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or repr(function)
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else name

"""Places: where in somebody's code a task waits, and whose code that is.

A task that waits has a stack of frames, from its function down to trio. `await_stack` finds them, through coroutines,
generators and async generators. What users want to read of it is the innermost line of their own code; so files are of
four kinds, told by where they lie: trio and trioserve, which are the machinery; the standard library; other
installed packages; and everything else, which is the user's own. `trioserve.demo` is written as users write, and counts
as such.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import gc
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

import outcome
import trio

import trioserve.demo


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}, in {self.function}"


class Whose(enum.Enum):
    """Whose a file is."""

    TRIO = enum.auto()  # and outcome, which is a part of it
    TRIOSERVE = enum.auto()
    STANDARD_LIBRARY = enum.auto()
    PACKAGE = enum.auto()  # something else that is installed
    USER = enum.auto()


WRITTEN = (Whose.USER, Whose.PACKAGE)
"""Whose code somebody has written who waits for something in a handler."""


@functools.cache
def whose(file: str) -> Whose:
    """Whose this file is, by where it lies."""
    if file.startswith(_TRIO):
        return Whose.TRIO
    if file.startswith(_TRIOSERVE):
        return Whose.USER if file.startswith(_DEMO) else Whose.TRIOSERVE
    if "/site-packages/" in file or "/dist-packages/" in file:
        return Whose.PACKAGE
    return Whose.STANDARD_LIBRARY if file.startswith(_STANDARD_LIBRARY) else Whose.USER


def _folder(file: str | None) -> str:
    assert file is not None, "these modules are files"
    return str(Path(file).parent) + "/"


_DEMO = _folder(trioserve.demo.__file__)
_TRIO = (_folder(trio.__file__), _folder(outcome.__file__))
_TRIOSERVE = _folder(trioserve.__file__)
_STANDARD_LIBRARY = ("<frozen ", _folder(contextlib.__file__))


def await_chain(awaitable: Any) -> Iterator[tuple[Any, FrameType | None]]:
    """A coroutine that waits and all that it waits for, each with its frame: coroutines, generators, async generators.

    It must not be running.
    """
    while awaitable is not None:
        if hasattr(awaitable, "cr_frame"):
            yield awaitable, awaitable.cr_frame
            awaitable = awaitable.cr_await
        elif hasattr(awaitable, "gi_frame"):
            yield awaitable, awaitable.gi_frame
            awaitable = awaitable.gi_yieldfrom
        elif hasattr(awaitable, "ag_frame"):
            yield awaitable, awaitable.ag_frame
            awaitable = awaitable.ag_await
        else:
            # What stands between: `asend`, `athrow` and `aclose` of an async generator, a coroutine's `__await__`. They
            # do not say what they are for, but the garbage collector knows.
            referents = gc.get_referents(awaitable)
            awaitable = next((each for each in referents if isinstance(each, _WITH_FRAMES)), None)


def await_stack(awaitable: Any) -> Iterator[FrameType]:
    """The frames of a coroutine that waits, and of all that it waits for; outermost first.

    It must not be running.
    """
    return (frame for _, frame in await_chain(awaitable) if frame is not None)


_WITH_FRAMES = (CoroutineType, GeneratorType, AsyncGeneratorType)


def place_of(frame: FrameType) -> Place:
    """Where this frame is."""
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def place_in_thread(function: Callable[..., Any]) -> Place | None:
    """Where the user's plain function begins that `function`, which a worker thread is to run, calls."""
    nonlocals = inspect.getclosurevars(function).nonlocals.values() if inspect.isfunction(function) else ()
    for candidate in (function, *nonlocals):
        called = inspect.unwrap(candidate) if callable(candidate) else candidate
        while isinstance(called, functools.partial):
            called = called.func
        code = getattr(called, "__code__", None) or getattr(type(called).__call__, "__code__", None)
        if code is not None and whose(code.co_filename) in WRITTEN:
            return Place(code.co_filename, code.co_firstlineno, code.co_name)
    return None

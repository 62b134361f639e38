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
from collections.abc import Iterator
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

    MACHINERY = enum.auto()  # trio and trioserve
    STANDARD_LIBRARY = enum.auto()
    PACKAGE = enum.auto()  # something else that is installed
    USER = enum.auto()


@functools.cache
def whose(file: str) -> Whose:
    """Whose this file is, by where it lies."""
    if file.startswith(_MACHINERY) and not file.startswith(_DEMO):
        return Whose.MACHINERY
    if "/site-packages/" in file or "/dist-packages/" in file:
        return Whose.PACKAGE
    return Whose.STANDARD_LIBRARY if file.startswith(_STANDARD_LIBRARY) else Whose.USER


def _folder(file: str | None) -> str:
    assert file is not None, "these modules are files"
    return str(Path(file).parent) + "/"


_DEMO = _folder(trioserve.demo.__file__)
_MACHINERY = tuple(_folder(module.__file__) for module in (trio, outcome, trioserve))
_STANDARD_LIBRARY = ("<frozen ", _folder(contextlib.__file__))


def await_stack(awaitable: Any) -> Iterator[FrameType]:
    """The frames of a coroutine that waits, and of all that it waits for; outermost first.

    It must not be running.
    """
    while awaitable is not None:
        if hasattr(awaitable, "cr_frame"):
            frame, awaitable = awaitable.cr_frame, awaitable.cr_await
        elif hasattr(awaitable, "gi_frame"):
            frame, awaitable = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif hasattr(awaitable, "ag_frame"):
            frame, awaitable = awaitable.ag_frame, awaitable.ag_await
        else:
            # What stands between: `asend`, `athrow` and `aclose` of an async generator, a coroutine's `__await__`. They
            # do not say what they are for, but the garbage collector knows.
            referents = gc.get_referents(awaitable)
            awaitable = next((each for each in referents if isinstance(each, _WITH_FRAMES)), None)
            continue
        if frame is not None:
            yield frame


_WITH_FRAMES = (CoroutineType, GeneratorType, AsyncGeneratorType)


def place_of(frame: FrameType) -> Place:
    """Where this frame is."""
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)

"""Whether a line of code is one that cleans up: in a `finally`, an `except` or an `__aexit__`.

Found in the source, by the line at which a frame stands. Where there is no source nothing is known, and nothing said.
"""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple

import trio

from trioserve.testing.places import WRITTEN, Place, Whose, place_of, whose

Kind = Literal["finally", "except", "__aexit__"]


class Cleanup(NamedTuple):
    """A part of the code that cleans up, with the line in it at which a task waits."""

    kind: Kind
    place: Place

    def __str__(self) -> str:
        return f"{_ARTICLES[self.kind]} `{self.kind}` ({self.place})"


_ARTICLES = {"finally": "a", "except": "an", "__aexit__": "an"}


def cleanup_of(frames: Sequence[FrameType]) -> Cleanup | None:
    """The innermost part of these frames that cleans up, of the user's code or a package's; outermost frame first.

    The `__aexit__` of the standard library stands for what it leaves, with the line of the `async with`.
    """
    for at in reversed(range(len(frames))):
        frame = frames[at]
        owner = whose(frame.f_code.co_filename)
        if owner in _MACHINERY:
            continue
        if owner is not Whose.STANDARD_LIBRARY and (kind := _kind_at(frame.f_code, frame.f_lineno)) is not None:
            return Cleanup(kind, place_of(frame))
        if frame.f_code.co_name == "__aexit__":
            outer = (each for each in reversed(frames[: at + 1]) if whose(each.f_code.co_filename) in WRITTEN)
            return Cleanup("__aexit__", place_of(next(outer, frame)))
    return None


_MACHINERY = (Whose.TRIO, Whose.TRIOSERVE)


def closes_all_the_same(frames: Sequence[FrameType]) -> bool:
    """True if these frames are inside the `aclose` of a `trio.abc.AsyncResource`, or of anyio's twin of it.

    By its contract it closes the resource also when it is cancelled, so that cutting it short is no harm.
    """
    return any(
        frame.f_code.co_name == "aclose"
        and frame.f_code.co_argcount
        and isinstance(frame.f_locals.get(frame.f_code.co_varnames[0]), _resources())
        for frame in frames
    )


def _resources() -> tuple[type[Any], ...]:
    anyio = sys.modules.get("anyio.abc")
    return (trio.abc.AsyncResource,) if anyio is None else (trio.abc.AsyncResource, anyio.AsyncResource)


def _kind_at(code: CodeType, line: int) -> Kind | None:
    """Of the regions of this function in which the line is, the innermost one's kind."""
    regions = _regions(code.co_filename).get(code.co_firstlineno, ())
    inside = [(last - first, kind) for first, last, kind in regions if first <= line <= last]
    return min(inside)[1] if inside else None


@functools.cache
def _regions(file: str) -> dict[int, list[tuple[int, int, Kind]]]:
    """The regions of each function in a file, by the function's first line: first line, last line, kind."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found: dict[int, list[tuple[int, int, Kind]]] = {}
    for function, kind, body in _cleaning(tree, 0):
        last = body[-1].end_lineno
        assert last is not None, "what was parsed has line numbers"
        found.setdefault(function, []).append((body[0].lineno, last, kind))
    return found


def _cleaning(node: ast.AST, function: int) -> Iterator[tuple[int, Kind, list[ast.stmt]]]:
    """All bodies below this node that clean up, each with the first line of the function that it is a part of."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    if isinstance(node, ast.Try | ast.TryStar):
        yield from ((function, "except", handler.body) for handler in node.handlers)
        if node.finalbody:
            yield function, "finally", node.finalbody
    for child in ast.iter_child_nodes(node):
        yield from _cleaning(child, function)

"""Where the client of one request can leave: its points, pure.

Bytes of a request are of kinds: inside the method, between two lines, inside a chunk's size. Leaving at two bytes of a
kind is the same to a server, so there is one point for each kind; which byte of the kind is fixed, so that a play can
be played again. Of a response the parts are known by what the client received at a time, when it stayed.

The order of a plan is the order in which a mess is best understood: first the handler's checkpoints, then the response,
then the request's content and head. What is found first is told first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, Point, ResponseBytes, Way
from trioserve.testing.wire import CHUNK_SIZE, Wire, is_chunked


class PlannedLeave(NamedTuple):
    """One play's departure."""

    at: Point
    how: Way


def plan(
    wire: Wire, *, checkpoints: int, response_parts: Sequence[int], ways: Sequence[Way], at: Point | None = None
) -> list[PlannedLeave]:
    """Each point with each way.

    Args:
        checkpoints: how many the handler reached when the client stayed.
        response_parts: sizes in bytes of what the client received then, in order.
        at: this point only.
    """
    points: list[Point]
    if at is not None:
        points = [at]
    else:
        points = [Checkpoint(number) for number in range(1, checkpoints + 1)]
        points += response_points(response_parts)
        points += request_points(wire)
    return [PlannedLeave(point, way) for point in points for way in ways]


def response_points(parts: Sequence[int]) -> list[Point]:
    """Inside each part, and behind it; not behind the last, where nothing is left to be abandoned.

    Args:
        parts: sizes in bytes of what was received at a time, in order.
    """
    counts, begin = set(), 0
    for size in parts:
        counts |= {begin + (size + 1) // 2, begin + size}
        begin += size
    if begin:
        counts |= {1, begin - 1}
    return [ResponseBytes(count) for count in sorted(counts) if 0 < count < begin]


def request_points(wire: Wire) -> dict[Point, str]:
    """One point for each kind of place in a request, with words for it: the client leaves ..."""
    points: dict[Point, str] = {}
    for count, place in _in_body(wire):
        points.setdefault(BodyBytes(count), place)
    for count, place in _in_head(wire.head):
        points.setdefault(HeadBytes(count), place)
    return points


def _in_head(head: bytes) -> Iterator[tuple[int, str]]:
    yield 0, "before the first byte"
    line, *fields = head.split(b"\r\n")
    words = line.split(b" ")
    begin = 0
    for word, name in zip(words, _NAMES, strict=False):
        if word:
            yield begin + (len(word) + 1) // 2, f"inside the {name}"
        begin += len(word) + 1
    yield len(line) + 1, "between the CR and the LF of the request line"
    begin = len(line) + 2
    yield begin, "between two lines"
    if fields and fields[0]:
        name_size = fields[0].find(b":")
        if name_size > 0:
            yield begin + (name_size + 1) // 2, "inside a field's name"
            yield begin + name_size + (len(fields[0]) - name_size + 1) // 2, "inside a field's value"
    yield len(head) - 2, "before the empty line"
    yield len(head) - 1, "before the head's last LF"
    yield len(head), "behind the head"


_NAMES = ("method", "target", "version")


def _in_body(wire: Wire) -> Iterator[tuple[int, str]]:
    size = len(wire.body)
    if not size:
        return
    if is_chunked(wire.head):
        yield from _in_chunks(wire.body)
    else:
        yield 1, "behind the content's first byte"
        yield (size + 1) // 2, "in the middle of the content"
    yield size - 1, "before the request's last byte"
    yield size, "behind the request's last byte"


def _in_chunks(body: bytes) -> Iterator[tuple[int, str]]:
    begin = 0
    while match := CHUNK_SIZE.match(body, begin):
        size, data = int(match[1], 16), match.end()
        if not size:
            yield begin + 1, "inside the last chunk"
            yield data, "before the trailer section"
            if body[data : data + 2] != b"\r\n":
                yield data + (len(body) - data) // 2, "inside the trailer section"
            return
        if not begin:  # of the first chunk
            yield 1, "inside a chunk's size"
            yield data - 1, "between the CR and the LF of a chunk's size"
            yield data + (size + 1) // 2, "inside a chunk's data"
            yield data + size, "between a chunk's data and its CR LF"
            yield data + size + 1, "between the CR and the LF behind a chunk's data"
        begin = data + size + 2
        yield begin, "between two chunks"

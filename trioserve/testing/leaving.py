"""How and where a client leaves: ways and points, pure.

Their reprs are what one types to play a departure again:
`await leave_at_every_point(app, "/x", at=Checkpoint(2), how=Way.RESET)`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How a client leaves."""

    FIN = "FIN"
    """It closes the connection: nothing more comes from it, and it takes nothing more. A browser's stop button."""

    RESET = "RESET"
    """It resets the connection (RST): it crashed, or closed with bytes unread."""

    VANISH = "VANISH"
    """It is silent from now on, without a word: a cable was pulled. The system gives it up after `Deadlines.vanish`."""

    HALF_CLOSE = "HALF_CLOSE"
    """It closes its sending side only, and goes on reading (RFC 9112 section 9.6). What the server makes of it is
    decided by `half_close`: "abort" takes it for a departure, "finish" and "probe" give it its answer."""

    def __repr__(self) -> str:
        return f"Way.{self.name}"


@dataclass(frozen=True, slots=True, repr=False)
class _Counted:
    def __repr__(self) -> str:
        (number,) = dataclasses.astuple(self)
        return f"{type(self).__name__}({number})"


@dataclass(frozen=True, slots=True, repr=False)
class HeadBytes(_Counted):
    """After so many bytes of the request's head were sent: the request line, the fields, and the empty line."""

    count: int

    def __post_init__(self) -> None:
        _demand(self.count, 0, self)


@dataclass(frozen=True, slots=True, repr=False)
class BodyBytes(_Counted):
    """After the head and so many bytes of the body were sent; of a chunked body as it is framed on the wire."""

    count: int

    def __post_init__(self) -> None:
        _demand(self.count, 0, self)


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint(_Counted):
    """When the handler, or what it awaits, or a task that it has started, reaches its k-th checkpoint.

    A checkpoint is a moment at which trio can cancel: an `await` that gives trio the word. 1 is the first.
    """

    number: int

    def __post_init__(self) -> None:
        _demand(self.number, 1, self)


@dataclass(frozen=True, slots=True, repr=False)
class ResponseBytes(_Counted):
    """When the client has received so many bytes of the response, its head included."""

    count: int

    def __post_init__(self) -> None:
        _demand(self.count, 1, self)


Point = HeadBytes | BodyBytes | Checkpoint | ResponseBytes
"""Where a client leaves."""


def _demand(number: int, least: int, point: object) -> None:
    if number < least:
        raise ValueError(f"{point!r}: the number must be at least {least}")

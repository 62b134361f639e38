"""What was worked out and may be needed again, in a bounded table.

`functools.lru_cache` keeps the order of use, and asks for a call; this is a dictionary, so a whole list can be looked
up at once. When it is full all is forgotten: what still comes is soon there again.
"""

from __future__ import annotations

from typing import Final, TypeVar

MAX_REMEMBERED: Final = 512
MAX_REMEMBERED_SIZE: Final = 256

_K = TypeVar("_K")
_V = TypeVar("_V")


class Remembered(dict[_K, _V]):
    """At most `MAX_REMEMBERED` entries, each about a line of at most `MAX_REMEMBERED_SIZE` bytes."""

    __slots__ = ()

    def remember(self, key: _K, value: _V, line: bytes) -> None:
        """Keep what was found of a line, unless it is too long."""
        if len(line) <= MAX_REMEMBERED_SIZE:
            if len(self) >= MAX_REMEMBERED:
                self.clear()
            self[key] = value

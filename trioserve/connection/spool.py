"""Spool: bytes received before anybody asked for them, and the budget that bounds all spools of a server together."""

from __future__ import annotations

from collections import deque

RECEIVE_SIZE = 65_536
"""Bytes asked of the system at a time: a full head and a small body in one call, and a large body in few."""


class Budget:
    """A count of bytes that all connections of a server share. What is taken must be given back."""

    __slots__ = ("left",)

    def __init__(self, total: float) -> None:
        self.left = total

    def take(self, amount: int) -> bool:
        """Take `amount` if there is as much; say whether it was taken."""
        if amount > self.left:
            return False
        self.left -= amount
        return True

    def give_back(self, amount: int) -> None:
        self.left += amount


class Spool:
    """Bytes received before anybody asked for them: bounded for itself, and by the budget of the server."""

    __slots__ = ("_budget", "_chunks", "_limit", "size")

    def __init__(self, limit: float, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._chunks: deque[bytes] = deque()
        self.size = 0

    def has_room(self) -> bool:
        return self.size + RECEIVE_SIZE <= self._limit and self._budget.left >= RECEIVE_SIZE

    def put(self, data: bytes) -> None:
        """Only after `has_room` said yes, and at most RECEIVE_SIZE bytes."""
        self._budget.take(len(data))
        self.size += len(data)
        self._chunks.append(data)

    def take(self) -> bytes | None:
        """The oldest bytes, or None if there are none."""
        if not self._chunks:
            return None
        data = self._chunks.popleft()
        self.size -= len(data)
        self._budget.give_back(len(data))
        return data

    def clear(self) -> None:
        self._chunks.clear()
        self._budget.give_back(self.size)
        self.size = 0

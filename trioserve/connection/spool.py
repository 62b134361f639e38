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
        """Take `amount` if there is as much; say whether it was taken. Nothing can be had always.

        What is left may be less than nothing, after `Spool.put_back`.
        """
        if amount > max(self.left, 0):
            return False
        self.left -= amount
        return True

    def give_back(self, amount: int) -> None:
        self.left += amount


class Spool:
    """Bytes received before anybody asked for them: bounded for itself, and by the budget of the server.

    Args:
        limit: the most that it holds, in bytes.
        budget: what all spools share.
        allowance: bytes that are its own, whatever is left of the budget.
    """

    __slots__ = ("_allowance", "_budget", "_chunks", "_limit", "size")

    def __init__(self, limit: float, budget: Budget, allowance: int = 0) -> None:
        self._limit = limit
        self._budget = budget
        self._allowance = allowance
        # None until there is something to hold, which for most connections is never.
        self._chunks: deque[bytes] | None = None
        self.size = 0

    def has_room(self) -> bool:
        """True if RECEIVE_SIZE bytes can be put."""
        size = self.size + RECEIVE_SIZE
        if size > max(self._limit, self._allowance):
            return False
        return self._charge(size) - self._charge(self.size) <= max(self._budget.left, 0)

    def put(self, data: bytes) -> None:
        """Only if `has_room` says yes, and at most RECEIVE_SIZE bytes."""
        taken = self._budget.take(self._charge(self.size + len(data)) - self._charge(self.size))
        assert taken, "bytes were put for which there was no room"
        self.size += len(data)
        self._held().append(data)

    def put_back(self, data: bytes) -> None:
        """Make these the oldest bytes again. Whatever the budget says: having been received, they are held anyway."""
        self._budget.give_back(self._charge(self.size) - self._charge(self.size + len(data)))
        self.size += len(data)
        self._held().appendleft(data)

    def _held(self) -> deque[bytes]:
        if self._chunks is None:
            self._chunks = deque()
        return self._chunks

    def _charge(self, size: int) -> int:
        """What a spool of this size takes of the budget."""
        return max(size - self._allowance, 0)

    def take(self) -> bytes | None:
        """The oldest bytes, or None if there are none."""
        if not self._chunks:
            return None
        data = self._chunks.popleft()
        self._budget.give_back(self._charge(self.size) - self._charge(self.size - len(data)))
        self.size -= len(data)
        return data

    def clear(self) -> None:
        self._chunks = None
        self._budget.give_back(self._charge(self.size))
        self.size = 0

"""Patience: how much longer we wait for a peer that sends, or takes, too slowly.

A bucket of seconds. It is full to begin with; waiting drains it, and every byte that came meanwhile fills it up again,
as much as a byte may take at the slowest rate that is put up with. Empty, it is the end of our patience.

So one measure cuts both kinds of slowness: a silence as long as the bucket is deep, and a drip that comes in time for
every single wait but is slower than the rate. Of all waiting together, a peer may take at the most the bucket's depth
longer than its bytes take at that rate. One that is fast enough most of the time is never cut, whatever its pauses, as
long as each is shorter than the bucket is deep.

Only the time in which we do wait counts. What a handler does between two reads is not the client's slowness.
"""

from __future__ import annotations

import math


class Patience:
    """The patience with one peer in one direction.

    Args:
        capacity: seconds of waiting without a byte after which it ends; math.inf for a patience without an end.
        rate: bytes a second, below which a peer is too slow; math.inf if any byte at all will do.
    """

    __slots__ = ("_capacity", "_rate", "left")

    def __init__(self, capacity: float, rate: float) -> None:
        self._capacity = capacity
        self._rate = rate
        # Seconds that we shall wait if nothing comes.
        self.left = capacity

    def waited(self, seconds: float) -> None:
        """So long it took until something came, or until the wait was given up for another reason."""
        self.left = max(self.left - seconds, 0.0)

    def got(self, size: int) -> None:
        """So many bytes came, or were taken. Not none."""
        # No rate: then each byte makes good for all the time that it took.
        filled = self.left + size / self._rate if self._rate < math.inf else math.inf
        self.left = min(filled, self._capacity)

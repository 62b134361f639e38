"""Turns: how many exchanges are handled at once, and the queue of those whose turn has not come.

An exchange has its turn from the call of its endpoint until that has ended and its response is out, whatever becomes
of it: a stream or a WebSocket has it as long as it lasts, and a handler that runs on without a client, or unwinds, has
it until it has ended. So what is limited is the work, and not the clients who wait for it. A request that its head
already refuses is no work: it is answered without a turn.

First come, first served: a turn that ends is handed to the one that has waited longest, so that nobody who comes later
can take it. Where there is a free turn nothing is waited for, not even for a step of the scheduler.
"""

from __future__ import annotations

import math

import trio

from trioserve.core.errors import HTTPError

LONGEST_RETRY_AFTER = 60.0
"""Seconds that a client is told to stay away at the most, also where `Deadlines.queue` says nothing of the time."""


class Turns:
    """The turns of one server.

    Args:
        limit: how many exchanges may have theirs at once; math.inf for no limit.
        queue: how many more may wait.
    """

    __slots__ = ("_free", "_queue", "_waiting")

    def __init__(self, limit: float, queue: float) -> None:
        # Not positive while somebody waits.
        self._free = limit
        self._queue = queue
        self._waiting = trio.lowlevel.ParkingLot()

    def take(self) -> bool:
        """Take a turn if one is free; says whether it was."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    @property
    def queue_is_full(self) -> bool:
        return len(self._waiting) >= self._queue

    async def wait(self) -> None:
        """Wait for a turn; when this returns it is taken.

        Cancellation: the place in the queue is given up, and no turn was taken.
        """
        await self._waiting.park()

    def give_back(self) -> None:
        """What was taken, at the end of the exchange."""
        if self._free <= 0 and self._waiting:
            self._waiting.unpark()
        else:
            self._free += 1


def busy(patience: float) -> HTTPError:
    """What is said to whom we cannot serve now, if nobody waits for longer than `patience` seconds."""
    # By then everybody who waits now will have been served or sent away.
    retry_after = math.ceil(min(patience, LONGEST_RETRY_AFTER))
    return HTTPError(503, "the server is busy; try again later", headers={"retry-after": str(retry_after)})

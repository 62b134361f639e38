"""What the handlers do, whatever server calls them; and what they note."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

WAIT = 10.0
"""Seconds that /wait takes if nobody stops it."""

SLICES = 20
SLICE = 0.001
"""Seconds of CPU time that one slice of work burns."""

PLACES = 2
"""How many calls the back end works on at once ..."""
QUEUE = 2
"""... and how many may wait there; it refuses others (503)."""

BUSY = "the back end is busy"
DONE = "done"


class Notes:
    """What became of each request, by its name. Times are time.monotonic()."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled: dict[int, float] = {}
        self.recorded: dict[int, float] = {}
        self.slices: dict[int, list[float]] = {}

    def as_json(self) -> dict[str, Any]:
        return vars(self)


notes = Notes()


async def wait(name: int, sleep: Callable[[float], Awaitable[None]]) -> str:
    """Wait, and note when that is cancelled."""
    notes.started += 1
    try:
        await sleep(WAIT)
    except BaseException:  # trio.Cancelled and asyncio.CancelledError, whichever it is
        notes.cancelled[name] = time.monotonic()
        raise
    return DONE


async def work(name: int, milliseconds: int, sleep: Callable[[float], Awaitable[None]]) -> str:
    """Wait as for somebody else's answer, then burn the CPU, slice by slice, with a checkpoint between two."""
    if milliseconds:
        await sleep(milliseconds / 1000)
    slices = notes.slices[name] = []
    for _ in range(SLICES):
        slices.append(time.monotonic())
        burn()
        await sleep(0)
    return DONE


def burn() -> None:
    until = time.thread_time() + SLICE
    while time.thread_time() < until:
        pass


class Full(Exception):
    """The back end refuses a call."""


class Pool:
    """The back end: some places, and a short queue.

    Args:
        places: a semaphore of PLACES, trio's or asyncio's.
    """

    def __init__(self, places: AbstractAsyncContextManager[Any], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._places = places
        self._sleep = sleep
        self._inside = 0

    async def call(self, milliseconds: int) -> str:
        """Raises Full if all places are taken and the queue is full."""
        if self._inside >= PLACES + QUEUE:
            raise Full
        self._inside += 1
        try:
            async with self._places:
                await self._sleep(milliseconds / 1000)
        finally:
            self._inside -= 1
        return DONE

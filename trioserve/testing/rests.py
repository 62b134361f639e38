"""Rests: what is left of an exchange in the process, when all has had its time to end.

Tasks end in virtual time, threads and child processes in real time, and what nobody holds any more when the garbage is
collected. What rests after every play, departure or not, is usual.
"""

from __future__ import annotations

import gc
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio

from trioserve.testing.residue import Residue, left

Until = Callable[[Callable[[], object]], Awaitable[None]]


async def what_rests(
    before: Residue, until: Until, usual: list[str] | None, *, virtual: float, real: float
) -> list[str]:
    """What is there now and was not before, when all has had its time to end.

    Args:
        usual: what need not end; None if that is not known yet.
        until: waits until a condition holds, asked again whenever a task has ended.
        virtual: seconds of virtual time for tasks.
        real: seconds of real time for threads and children.
    """

    def tasks_run() -> bool:
        return bool(unusual(left(before, Residue.running()), usual or []))

    def is_at_work() -> bool:
        return bool(unusual(left(before, Residue.at_work()), usual or []))

    with trio.move_on_after(virtual):
        await until(lambda: not tasks_run())
    deadline = time.monotonic() + real
    while is_at_work() and time.monotonic() < deadline:
        _let_the_world_go_on()
        await trio.lowlevel.checkpoint()
    rests = left(before, Residue.now())
    if usual is not None and unusual(rests, usual):
        gc.collect()  # what is closed when nobody has it any more is not left
        rests = left(before, Residue.now())
    return rests


def unusual(rests: Sequence[str], usual: Sequence[str]) -> list[str]:
    """What rests that usually does not, whatever its number is."""
    expected, unusual = Counter(map(_numberless, usual)), []
    for rest in rests:
        if expected[_numberless(rest)]:
            expected[_numberless(rest)] -= 1
        else:
            unusual.append(rest)
    return unusual


def _numberless(rest: str) -> str:
    return re.sub(r"\d+", "", rest)


def _let_the_world_go_on() -> None:
    """A moment of real time, in which no virtual time passes."""
    time.sleep(0.001)

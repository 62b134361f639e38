"""A clock for tests: it jumps over waiting for time, and goes like the clock on the wall while the world is waited for.

Theory
------
When all tasks are blocked, and none of them waits for anything but time and each other, then nothing can happen before
the next deadline, and the clock jumps there: `trio.sleep(3600)` takes no time at all. `MockClock(autojump_threshold=0)`
does that too, but jumps as well while a worker thread computes or a child process starts: to it they are silence. A
handler with a deadline of five seconds is then cancelled in the first millisecond of its query. So here time goes at
its usual rate as long as any task waits for the world outside: a worker thread, or a descriptor (socket, pipe, child
process).

When all tasks are blocked trio asks its clock how long to sleep, and it asks again after each look at the descriptors.
The answer is given in two steps: first "not at all", so that trio looks for what has arrived meanwhile; and if no task
has run since then, the truth. Nothing polls: in front of a waiting thread trio sleeps until it reports.

What must stay true:

* A task in `trio.testing.wait_all_tasks_blocked`, whatever its cushion, goes first: while there is one nothing jumps.
* After a jump the time is the deadline's, to the last bit, so equal scripts have equal times.
* Not the world outside: trio's own wait for `run_sync_soon`, the hangup watch (what it hears comes with the look at the
  descriptors), and a thread that itself waits for the task in `trio.from_thread.run`.

When all tasks are blocked for good, with no deadline and nothing outside, as one that waits for an Event that nobody
sets, then a run hangs, as it does under trio's own clocks: a signal or a thread that is not trio's might still wake it.
Give what may hang a bound, `with trio.fail_after(60):`, which takes no time here. Plays have one (`play.PATIENCE`).

What it cannot see: a thread that trio did not start and that will report by `trio.from_thread` or `run_sync_soon`. And
a thread that was started with `abandon_on_cancel=True` counts as at work while it waits in `trio.from_thread.run`, for
that is done in another task; time then goes at its usual rate, which is slow, but not wrong.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from types import CodeType
from typing import ParamSpec, TypeVar

import trio
import trio.testing

from trioserve.connection.hangup import HangupWatch
from trioserve.testing.residue import all_tasks

P = ParamSpec("P")
T = TypeVar("T")


class VirtualClock(trio.abc.Clock):
    """Virtual time for `trio.run(..., clock=VirtualClock())`, or as a fixture for pytest-trio.

    Waiting for time alone takes none; while a worker thread or a descriptor is waited for, a second is a second. Each
    run begins at the time 0. A clock can be used for many runs, one after another.
    """

    def __init__(self) -> None:
        self._steps = _Steps()
        self._start_at(0.0)

    def __repr__(self) -> str:
        return f"<VirtualClock at {self.current_time():.6f}>"

    def current_time(self) -> float:
        """Seconds since the run began: those jumped over, and those that the world outside took."""
        if self._going_since is None:
            return self._time
        return self._time + (time.perf_counter() - self._going_since)

    def jump(self, seconds: float) -> None:
        """Be so many seconds later.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds:g} seconds")
        self._time += seconds

    # For trio

    def start_clock(self) -> None:
        self._start_at(0.0)
        trio.lowlevel.add_instrument(self._steps)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if deadline <= self.current_time():
            return 0
        if self._steps.taken:
            # Nothing is known of what has come from outside while they were taken.
            self._steps.taken = False
            return 0
        where = _where_tasks_wait()
        if where is _Where.OUTSIDE:
            self._go()
            return max(0, deadline - self.current_time())
        self._start_at(self.current_time())
        if where is _Where.FOR_OTHERS or deadline == math.inf:
            return _LONG
        self._start_at(deadline)
        return 0

    def _start_at(self, moment: float) -> None:
        """Stand at this time."""
        self._time = moment
        # The real time since which this clock goes like the one on the wall; None while it stands.
        self._going_since: float | None = None

    def _go(self) -> None:
        if self._going_since is None:
            self._going_since = time.perf_counter()


_LONG = 86_400
"""Seconds to sleep when nothing will happen by itself."""


class _Steps(trio.abc.Instrument):
    """Sees whether any task has run."""

    def __init__(self) -> None:
        self.taken = True

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.taken = True


class _Where(Enum):
    """Where what can happen next comes from, when all tasks are blocked."""

    TIME = auto()
    OUTSIDE = auto()
    FOR_OTHERS = auto()
    """A task wants to know that all others are blocked."""


def _where_tasks_wait() -> _Where:
    # Threads and descriptors are counted by trio; the frames say which of them are not the world outside. Where frames
    # are hidden, as behind an `__await__` that is written by hand, too much counts as outside, which is only slow.
    threads, descriptors = trio.testing.active_thread_count(), _descriptors_waited_for()
    where = _Where.TIME
    for task in all_tasks():
        calls = [frame.f_code for frame, _ in task.iter_await_frames()]
        if task.name == _RUN_SYNC_SOON or HangupWatch.run.__code__ in calls:
            descriptors -= 1
        threads -= _threads_served(calls)
        if trio.testing.wait_all_tasks_blocked.__code__ in calls:
            where = _Where.FOR_OTHERS
    return _Where.OUTSIDE if threads or descriptors else where


def _descriptors_waited_for() -> int:
    statistics = trio.lowlevel.current_statistics().io_statistics
    # What is told apart, as reading and writing, is another thing on each system.
    return sum(getattr(statistics, name) for name in dir(statistics) if name.startswith("tasks_waiting"))


def _threads_served(calls: list[CodeType]) -> int:
    """How many threads wait for this task, which does what they ask for: it has started them, and is not parked there.

    Args:
        calls: those in which the task is suspended, innermost last.
    """
    started = calls.count(_TO_THREAD)
    if started and _PARKED in calls and calls[calls.index(_PARKED) - 1] is _TO_THREAD:
        return started - 1
    return started


_TO_THREAD = trio.to_thread.run_sync.__code__
_PARKED = trio.lowlevel.wait_task_rescheduled.__code__

_RUN_SYNC_SOON = "<TrioToken.run_sync_soon task>"
"""What trio calls its task that waits for `run_sync_soon`."""


def run(async_fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """`trio.run` in virtual time, with keyword arguments: `run(leave_at_every_point, app, "/x", snapshot=count)`."""
    __tracebackhide__ = True  # in pytest
    return trio.run(functools.partial(async_fn, *args, **kwargs), clock=VirtualClock())

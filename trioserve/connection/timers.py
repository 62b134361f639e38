"""Timers: every deadline of every connection, in one heap and one task, and almost free to set.

Theory
------
A server sets deadlines constantly and almost none ever passes. trio's own (a cancel scope's deadline) cost a
microsecond each time they change and can only cancel. So a timer here is one attribute: `set` writes when it is due,
`stop` writes infinity, and neither touches the heap as long as the timer is queued there for an earlier moment than
it is due, which is the usual case. When that earlier moment comes, the task looks at the attribute and queues the
timer again for the time that it finds, or forgets it.

So a timer is due exactly when `when` says; `queued` only says when the task will look. Callbacks run between two
steps of the scheduler: they may cancel scopes and must not block, wait or raise.

Where all deadlines are the same time away, as with a `Delay`, what begins later is due later: a queue does instead of
the heap, with one timer for who stands at its front. What ends before its time, as almost all does, has then never been
in the heap at all.

A system task, like the hangup watch and for the same reason: it goes on while a server unwinds.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import trio

_log = logging.getLogger("trioserve")

_SMALL = 256
"""A heap of this size is not worth cleaning of discarded timers."""


class Timer:
    """Calls back once at the time last set. Made by `Timers.timer`; to be discarded by its owner."""

    __slots__ = ("_callback", "_timers", "queued", "when")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self._callback: Callable[[], None] | None = callback
        self.when = math.inf
        # The moment for which the heap has this timer, math.inf if it does not.
        self.queued = math.inf

    def set(self, when: float) -> None:
        """Be due at `when` (trio clock) instead of whatever was set before."""
        self.when = when
        if when < self.queued:
            self.queued = when
            self._timers.push(when, self)

    def stop(self) -> None:
        """Do not be due."""
        self.when = math.inf

    def discard(self) -> None:
        """Never be due again, and let go of the callback (and of the connection behind it)."""
        if self._callback is not None:
            self.when = math.inf
            self._callback = None
            if self.queued < math.inf:
                self._timers.discarded()

    @property
    def is_set(self) -> bool:
        """True if it will be due."""
        return self.when < math.inf

    @property
    def is_discarded(self) -> bool:
        return self._callback is None

    def look(self, now: float) -> None:
        """The heap's moment for this timer has come: be due, or be queued for later, or be forgotten. For `Timers`."""
        self.queued = math.inf
        if self.when <= now:
            self.when = math.inf
            if self._callback is not None:  # else it was set after its owner had let go of it
                self._callback()
        elif self.when < math.inf:
            self.set(self.when)


class Delayed(Protocol):
    """What waits for a delay to pass."""

    def delay_passed(self) -> None: ...


class Delay:
    """Tells whoever has begun to wait, and has not ended it, that so many seconds have passed. From `Timers.delay`."""

    __slots__ = ("_now", "_seconds", "_timer", "_waiting")

    def __init__(self, timers: Timers, seconds: float) -> None:
        self._now = timers.now
        self._seconds = seconds
        # When each is due; the front is due first.
        self._waiting: OrderedDict[Delayed, float] = OrderedDict()
        # Set, if anybody waits, for a time at which the front is not yet overdue.
        self._timer = timers.timer(self._look)

    def begin(self, who: Delayed) -> None:
        """From now on, whatever was begun before."""
        waiting = self._waiting
        waiting[who] = due = self._now() + self._seconds
        waiting.move_to_end(who)
        if self._timer.when == math.inf:
            self._timer.set(due)

    def end(self, who: Delayed) -> None:
        """Wait no more. Also without effect."""
        self._waiting.pop(who, None)

    def _look(self) -> None:
        now = self._now()
        while self._waiting:
            who, due = next(iter(self._waiting.items()))
            if now < due:
                self._timer.set(due)
                return
            del self._waiting[who]
            _call(who.delay_passed)


class Timers:
    """All timers of one trio run, and its clock. Get it from `current_timers`."""

    def __init__(self) -> None:
        # What `trio.current_time` says, without its way to the run: half of what it costs.
        self.now = trio.lowlevel.current_clock().current_time
        # (moment, tie-breaker, timer); a timer may stand in it more than once, of which the earliest counts.
        self._heap: list[tuple[float, int, Timer]] = []
        self._tie_breaker = itertools.count()
        self._sleep = trio.CancelScope()
        self._discards = 0
        self._delays: dict[float, Delay] = {}

    def delay(self, seconds: float) -> Delay:
        """The delay of so many seconds, which all share."""
        if seconds not in self._delays:
            self._delays[seconds] = Delay(self, seconds)
        return self._delays[seconds]

    def timer(self, callback: Callable[[], None]) -> Timer:
        return Timer(self, callback)

    def push(self, when: float, timer: Timer) -> None:
        """Look at `timer` at `when`. For `Timer`."""
        heapq.heappush(self._heap, (when, next(self._tie_breaker), timer))
        if when < self._sleep.deadline:  # noqa: PLR1730 - to set it is dear, also to what it is
            self._sleep.deadline = when

    def discarded(self) -> None:
        """One more timer of the heap is of no use. For `Timer`."""
        self._discards += 1
        if self._discards > _SMALL and self._discards * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].is_discarded]
            heapq.heapify(self._heap)
            self._discards = 0

    async def run(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            self._call_due(trio.current_time())

    def _call_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            moment, _, timer = heapq.heappop(self._heap)
            if moment != timer.queued:
                continue  # it was queued again for an earlier moment, which has passed
            _call(timer.look, now)


def _call(callback: Callable[..., None], *args: float) -> None:
    try:
        callback(*args)
    except Exception:
        # One connection's mistake must not stop the clocks of all the others.
        _log.exception("trioserve: internal error in a timer; please report it")


_timers: trio.lowlevel.RunVar[Timers] = trio.lowlevel.RunVar("trioserve.timers")


def current_timers() -> Timers:
    """The timers of the current trio run, started at the first call."""
    try:
        return _timers.get()
    except LookupError:
        timers = Timers()
        _timers.set(timers)
        trio.lowlevel.spawn_system_task(timers.run, name="trioserve timers")
        return timers

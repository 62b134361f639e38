"""Fleet: what is decided about worker processes. A sans-IO state machine, like the lifecycle and for the same reason.

Events go in (a worker is ready, one has ended, time has passed, somebody wants a restart or the end), actions come out,
and `workers.Supervisor` carries them out. It starts no process, reads no clock (times are seconds, passed in) and knows
workers by numbers of its own.

How many there are
------------------
The fleet has as many *places* as there shall be workers. In a place one worker serves; beside it there may be its
successor, which is starting, and predecessors, which were told to end and are *leaving*. What a worker is doing is
not stored: it is starting until it is ready, and leaving once it was told to.

The start. One worker starts alone, and when it is ready all others do. So a mistake in the configuration, or an
application that fails to start, is said once and not by each. Until all have been ready once, a worker that ends ends
the whole, with its exit code: whoever has started us must learn of it, and a loop would hide it.

Restarts. A worker that ends unasked is followed by another: at once the first time, then after 1, 2, 4 ... up to
LONGEST_WAIT seconds, until one has served for STEADY seconds.

A rolling restart replaces those that run at that moment, one after another: the new one must be ready before the old
one is told REPLACE. If a new one ends instead, or is not ready within `start` seconds, the restart is given up, and
the old ones serve on. A restart that is asked for during another replaces also what that one has started.

The end. DRAIN, HASTEN or STOP is told to every worker, each time a stronger one comes. A worker that is still starting
serves nobody, so it is terminated; at STOP it is killed. Leaving workers are never killed: what cleans up is not cut.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

LONGEST_WAIT = 30.0
"""Seconds between the end of a worker and the start of the next, at the most: what a broken dependency needs to come
back is not made much longer by us, and two starts a minute disturb nobody."""

STEADY = 60.0
"""A worker that has served for so many seconds was all right; its end is the first again."""

FAILED = 1
"""Exit code where a worker was killed, or ended with 0, before the fleet was complete."""


class Order(IntEnum):
    """What a worker is told, the stronger the greater."""

    REPLACE = 1  # end, after the drain with its delay; another worker serves, so accept nobody any more
    DRAIN = 2  # end, after the drain with its delay, as the service does
    HASTEN = 3  # end, after the drain without its delay
    STOP = 4  # end at once: cancel what is under way


class News(Enum):
    """What the world is to be told of the fleet."""

    COMPLETE = auto()  # all workers are ready, for the first time
    RESTARTING = auto()  # a rolling restart begins
    RESTARTED = auto()  # it has replaced all
    RESTART_FAILED = auto()  # it was given up; the old workers serve on
    STOPPING = auto()  # no more workers are started, and all are told to end
    HURRYING = auto()  # all are told to end at once
    WAITING = auto()  # all was told, and some have not ended


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process as worker number `worker`."""

    worker: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a worker an order."""

    worker: int
    order: Order


@dataclass(frozen=True, slots=True)
class Send:
    """Send a worker's process a signal."""

    worker: int
    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Say:
    """Say of a worker, to whoever reads the log, what has become of it."""

    worker: int
    text: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the world."""

    news: News


@dataclass(frozen=True, slots=True)
class End:
    """All workers have ended: end with this exit code."""

    code: int


Action = Start | Tell | Send | Say | Announce | End
Actions = Iterator[Action]


@dataclass(slots=True)
class _Place:
    failures: int = 0  # workers that have ended unasked, one soon after another
    start_at: float = math.inf  # when the next is to be started; math.inf: none is missing


@dataclass(slots=True)
class _Worker:
    place: _Place
    ready_by: float  # when its patience ends; math.inf once it was ready, or killed
    ready_at: float | None = None
    told: Order | None = None

    @property
    def starting(self) -> bool:
        return self.ready_at is None and self.told is None

    @property
    def serving(self) -> bool:
        return self.ready_at is not None and self.told is None


class Fleet:
    """The workers of one supervisor. Every method returns what is to be done, in this order.

    Args:
        size: how many workers there shall be.
        start: seconds within which a worker must be ready.
    """

    def __init__(self, size: int, start: float) -> None:
        self._start_patience = start
        self._places = [_Place() for _ in range(size)]
        self._numbers = itertools.count(1)
        self._workers: dict[int, _Worker] = {}
        # All were ready once.
        self._complete = False
        # What a rolling restart has still to replace.
        self._to_replace: list[int] = []
        # The end was ordered; and how the process is to end.
        self._ordered: Order | None = None
        self._code = 0

    @property
    def next_at(self) -> float:
        """When `time_passed` has something to do; math.inf if it has not."""
        return min(
            itertools.chain(
                (place.start_at for place in self._places), (worker.ready_by for worker in self._workers.values())
            ),
            default=math.inf,
        )

    def begin(self, now: float) -> list[Action]:
        """Start the first worker."""
        return list(self._start(self._places[0], now))

    def ready(self, number: int, now: float) -> list[Action]:
        """A worker serves. Its end may have been told before that."""
        worker = self._workers.get(number)
        return list(self._ready(worker, now)) if worker is not None else []

    def ended(self, number: int, code: int, now: float) -> list[Action]:
        """A worker's process has ended, with an exit code, or by a signal (its number, negative)."""
        return [*self._ended(number, self._workers.pop(number), code, now), *self._end_if_alone()]

    def time_passed(self, now: float) -> list[Action]:
        """Some time may have come for which something was put off."""
        return list(self._time_passed(now))

    def restart(self, now: float) -> list[Action]:
        """Somebody wants new workers for the old ones."""
        return list(self._restart(now)) if self._ordered is None else []

    def end(self, order: Order) -> list[Action]:
        """Somebody wants the end; who says so twice, whatever it is, wants it at once."""
        return [*self._end(order if self._ordered is None else Order.STOP), *self._end_if_alone()]

    # Starting

    def _start(self, place: _Place, now: float) -> Actions:
        number = next(self._numbers)
        place.start_at = math.inf
        self._workers[number] = _Worker(place, ready_by=now + self._start_patience)
        yield Start(number)

    def _ready(self, worker: _Worker, now: float) -> Actions:
        worker.ready_at, worker.ready_by = now, math.inf
        if worker.told is not None:
            return
        for number, other in self._workers.items():
            if other.place is worker.place and other.serving and other is not worker:
                yield from self._tell(number, other, Order.REPLACE)
        if not self._complete:
            for place in self._places:
                if not any(other.place is place for other in self._workers.values()):
                    yield from self._start(place, now)
            if all(any(other.serving for other in self._in(place)) for place in self._places):
                self._complete = True
                yield Announce(News.COMPLETE)
                if self._to_replace:
                    yield Announce(News.RESTARTING)
        yield from self._go_on_replacing(now)

    def _in(self, place: _Place) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.place is place]

    # Ends that nobody has ordered, and some that were

    def _ended(self, number: int, worker: _Worker, code: int, now: float) -> Actions:
        if worker.told is not None:
            yield from self._left(number, worker, code)
        elif not self._complete:
            yield from self._failed_to_start(number, code)
        elif worker.starting and any(other.serving for other in self._in(worker.place)):
            yield Say(number, f"{how(code)} before it was ready")
            self._to_replace.clear()
            yield Announce(News.RESTART_FAILED)
        else:
            yield from self._replace(number, worker, code, now)
        yield from self._go_on_replacing(now)

    def _left(self, number: int, worker: _Worker, code: int) -> Actions:
        if code != 0 and worker.ready_at is not None:
            yield Say(number, how(code))
            if self._ordered is not None:
                self._code = FAILED

    def _failed_to_start(self, number: int, code: int) -> Actions:
        if code <= 0:  # else it has said itself what is wrong
            yield Say(number, f"{how(code)} before it was ready")
        self._code = code if code > 0 else FAILED
        yield from self._end(Order.HASTEN)

    def _replace(self, number: int, worker: _Worker, code: int, now: float) -> Actions:
        place = worker.place
        when = " before it was ready" if worker.starting else ""
        if any(other.starting for other in self._in(place)):
            yield Say(number, f"{how(code)}{when}; its successor is starting")
            return
        if worker.ready_at is not None and now - worker.ready_at >= STEADY:
            place.failures = 0
        wait = min(2.0 ** (place.failures - 1), LONGEST_WAIT) if place.failures else 0.0
        place.failures = min(place.failures + 1, 100)  # 2.0 ** 1000 would be too much
        yield Say(number, f"{how(code)}{when}; starting another" + (f" in {wait:.0f} s" if wait else ""))
        if wait:
            place.start_at = now + wait
        else:
            yield from self._start(place, now)

    def _time_passed(self, now: float) -> Actions:
        for number, worker in self._workers.items():
            if worker.ready_by <= now:
                worker.ready_by = math.inf
                yield Say(number, f"was not ready within {self._start_patience:g} s and is killed")
                yield Send(number, signal.SIGKILL)
        for place in self._places:
            if place.start_at <= now:
                yield from self._start(place, now)

    # Rolling restarts

    def _restart(self, now: float) -> Actions:
        self._to_replace = [number for number, worker in self._workers.items() if worker.told is None]
        if self._complete:
            yield Announce(News.RESTARTING)
        for place in self._places:
            if place.start_at < math.inf:  # what is new may well be what it waits for
                place.failures = 0
                yield from self._start(place, now)
        yield from self._go_on_replacing(now)

    def _go_on_replacing(self, now: float) -> Actions:
        if not self._to_replace or not self._complete or any(worker.starting for worker in self._workers.values()):
            return
        self._to_replace = [number for number in self._to_replace if self._is_serving(number)]
        if self._to_replace:
            yield from self._start(self._workers[self._to_replace[0]].place, now)
        else:
            yield Announce(News.RESTARTED)

    def _is_serving(self, number: int) -> bool:
        return number in self._workers and self._workers[number].serving

    # The end

    def _end(self, order: Order) -> Actions:
        if self._workers:  # else it is over at once
            yield Announce(self._news_of(order))
        self._ordered = order
        self._to_replace.clear()
        for place in self._places:
            place.start_at = math.inf
        for number, worker in self._workers.items():
            if worker.ready_at is None:
                yield Send(number, signal.SIGKILL if order is Order.STOP else signal.SIGTERM)
            yield from self._tell(number, worker, order)

    def _news_of(self, order: Order) -> News:
        if self._ordered is None and order is not Order.STOP:
            return News.STOPPING
        return News.WAITING if self._ordered is Order.STOP else News.HURRYING

    def _end_if_alone(self) -> Actions:
        if self._ordered is not None and not self._workers:
            yield End(self._code)

    @staticmethod
    def _tell(number: int, worker: _Worker, order: Order) -> Actions:
        if worker.told is None or worker.told < order:
            worker.told, worker.ready_by = order, math.inf
            yield Tell(number, order)


def how(code: int) -> str:
    """How a process ended, from its exit code; or from the signal's number, negative."""
    if code >= 0:
        return f"has ended with exit code {code}" if code else "has ended"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

"""The panel: what the server hears of departures, told to every page that looks on, as server-sent events.

The hook tells the panel of each abandonment (`tell`), and the panel tells the pages (`feed`), each through a queue of
its own that drops its oldest when a page does not keep up: a slow page holds up neither the hook nor the others. A feed
has no end but its page's departure, and so is abandoned itself; it is told of like every other exchange.

Events, each with a JSON object as its data:
* `hello`, first: the tree, how many searches run at once, and the latest abandonments, newest last.
* `abandoned`: one abandonment, as `abandonment` makes it.
* `state`, every `TICK` seconds: searches running and waiting, CPU, pages that look on, totals.

What is measured: `unwind_ms` is from the moment at which the server noticed the departure until the handler had ended.
How long the news took to reach the server is not in it, since the server cannot know. `cpu` is the CPU time of this
process, all its threads, in percent of the time: 100 is one core. The CPU time saved is an estimate: the files that
were never scanned, at what a file has cost on average.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from trioserve import Abandoned, Event, Outcome, Request, SendEvent
from trioserve.demo.search import Search, Tree

TICK = 0.25
"""Seconds between two states: often enough to see the CPU fall."""

LATEST = 50
"""Abandonments that a new page is told of, and by which one that does not keep up can be behind."""

FOLLOWED = 1000
"""Searches that are remembered until they are told of: more than can be under way."""


class FollowedSearch:
    """A search, and when it was how far: so that one can tell what was done after its client had left."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self._times: list[float] = []  # of the trio clock
        self._passed: list[int] = []  # files, at these times

    def note_progress(self) -> None:
        self._times.append(trio.current_time())
        self._passed.append(self.search.passed)

    def passed_after(self, moment: float) -> int:
        """Files that were gone through after a moment, as far as was noted."""
        earlier = bisect_right(self._times, moment)
        return self.search.passed - (self._passed[earlier - 1] if earlier else 0)


@dataclass
class Totals:
    """What came of all abandoned exchanges since the server started."""

    abandoned: int = 0
    never_scanned: int = 0  # files: work that was saved
    for_nobody: int = 0  # files that were scanned after the client had left

    def add(self, told: dict[str, Any]) -> None:
        self.abandoned += 1
        if told["search"] is not None:
            self.never_scanned += told["search"]["never_scanned"]
            self.for_nobody += told["search"]["for_nobody"]


class Panel:
    """What is known of searches and abandonments, and the pages that look on.

    Args:
        tree: what is searched.
        places: what every search needs one of while it runs; the others wait.
    """

    def __init__(self, tree: Tree, places: trio.CapacityLimiter) -> None:
        self._tree = tree
        self._places = places
        self._followed: OrderedDict[Any, FollowedSearch] = OrderedDict()
        self._totals = Totals()
        self._latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._feeds: set[_News] = set()
        # Of all searches that have ended or been told of: what an average file costs.
        self._files = 0
        self._cpu_time = 0.0

    # Searches

    def follow(self, request: Request, search: Search) -> FollowedSearch:
        """Remember a search, for when its exchange is abandoned."""
        followed = FollowedSearch(search)
        # A client has one exchange at a time, and its address is in the record too.
        self._followed[request.client, request.target] = followed
        if len(self._followed) > FOLLOWED:
            self._followed.popitem(last=False)
        return followed

    def ended(self, search: Search) -> None:
        """A search has ended, in whatever way."""
        self._files += search.passed
        self._cpu_time += search.cpu_time

    # Abandonments

    def tell(self, record: Abandoned) -> None:
        """Tell the pages of an abandoned exchange."""
        followed = None
        if record.outcome is not Outcome.NOT_STARTED:
            followed = self._followed.pop((record.client, record.target), None)
        told = abandonment(record, followed)
        self._totals.add(told)
        self._latest.append(told)
        for feed in self._feeds:
            feed.add(told)

    # Pages

    async def feed(self, send: SendEvent) -> None:
        """Tell one page, until it leaves."""
        news = _News()
        self._feeds.add(news)
        try:
            await send(Event(self._hello(), event="hello"))
            cpu = CpuMeter()
            while True:
                await send(Event(self._state(cpu.percent()), event="state"))
                next_state = trio.current_time() + TICK
                while trio.current_time() < next_state:
                    # Only the wait ends at the tick, so that nothing is taken from the queue and then not sent.
                    with trio.move_on_at(next_state):
                        await news.arrival()
                    for told in news.take():
                        await send(Event(told, event="abandoned"))
        finally:
            self._feeds.discard(news)

    def _hello(self) -> dict[str, Any]:
        return {
            "root": str(self._tree.root),
            "files": len(self._tree.files),
            "places": self._places.total_tokens,
            "latest": list(self._latest),
        }

    def _state(self, cpu: float) -> dict[str, Any]:
        per_file = self._cpu_time / self._files if self._files else 0.0
        return {
            "running": self._places.borrowed_tokens,
            "waiting": self._places.statistics().tasks_waiting,
            "cpu": round(cpu),
            "pages": len(self._feeds),
            "abandoned": self._totals.abandoned,
            "never_scanned": self._totals.never_scanned,
            "for_nobody": self._totals.for_nobody,
            "cpu_saved": round(self._totals.never_scanned * per_file, 2),
            "cpu_for_nobody": round(self._totals.for_nobody * per_file, 2),
        }


class _News:
    """Abandonments that one page has still to be told of; the oldest are dropped when it does not keep up."""

    def __init__(self) -> None:
        self._told: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._arrived = trio.Event()

    def add(self, told: dict[str, Any]) -> None:
        self._told.append(told)
        self._arrived.set()

    async def arrival(self) -> None:
        """Wait until there is something."""
        await self._arrived.wait()

    def take(self) -> list[dict[str, Any]]:
        """All that there is."""
        told = list(self._told)
        self._told.clear()
        self._arrived = trio.Event()
        return told


@dataclass
class CpuMeter:
    """How much CPU this process used since it was last asked."""

    clock: Callable[[], float] = time.monotonic
    cpu_clock: Callable[[], float] = time.process_time
    _time: float = field(init=False)
    _cpu_time: float = field(init=False)

    def __post_init__(self) -> None:
        self._time, self._cpu_time = self.clock(), self.cpu_clock()

    def percent(self) -> float:
        """CPU time in percent of the time since the last call, or since the start."""
        now, cpu_time = self.clock(), self.cpu_clock()
        elapsed, used = now - self._time, cpu_time - self._cpu_time
        self._time, self._cpu_time = now, cpu_time
        return 100 * used / elapsed if elapsed > 0 else 0.0


def abandonment(record: Abandoned, followed: FollowedSearch | None) -> dict[str, Any]:
    """An abandoned exchange as the pages are told of it; with `followed`, the search that it was."""
    return {
        "status": record.status,
        "phase": record.phase.name,
        "cause": record.cause.name,
        "outcome": record.outcome.value,
        "method": record.method,
        "route": record.route,
        "unwind_ms": round(record.unwind_time * 1000, 1),
        "search": None
        if followed is None
        else {
            "query": followed.search.query,
            "files": len(followed.search.tree.files),
            "passed": followed.search.passed,
            "never_scanned": followed.search.never_scanned,
            "for_nobody": followed.passed_after(record.noticed_at) if record.outcome is Outcome.FINISHED else 0,
        },
    }

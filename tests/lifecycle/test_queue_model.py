"""The queue against a model of it: crowds drawn by Hypothesis come, are handled, wait, and leave, in virtual time.

The model is a list of events in the order of time. It knows nothing of tasks, scopes and connections.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from lifecycle.stage import Stage, Theatre
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Completed,
    Config,
    Deadlines,
    DisconnectPolicy,
    Limits,
    Outcome,
    Phase,
)


@dataclass(frozen=True)
class Visitor:
    """A client that comes, asks for something that takes `needs` seconds, and leaves `stays` seconds after it came."""

    comes: float
    needs: float
    stays: float


@dataclass(frozen=True)
class Crowd:
    visitors: list[Visitor]
    exchanges: int
    queue: int
    patience: float
    disconnect: DisconnectPolicy


tenths = st.integers(0, 40).map(lambda number: number / 10)


@st.composite
def visitors(draw: st.DrawFn) -> list[Visitor]:
    """No two things happen in the same moment: each visitor has a fraction of a second of its own for each."""
    drawn = draw(st.lists(st.tuples(tenths, tenths, st.one_of(tenths, st.just(100.0))), min_size=1, max_size=12))
    return [
        Visitor(comes + i * 0.00013, needs + 0.01 + i * 0.00037, stays + 0.02 + i * 0.00101)
        for i, (comes, needs, stays) in enumerate(drawn)
    ]


crowds = st.builds(
    Crowd,
    visitors=visitors(),
    exchanges=st.integers(1, 3),
    queue=st.integers(1, 4),
    patience=st.sampled_from([0.507, 2.007, 100.007]),
    disconnect=st.sampled_from([CANCEL, FINISH]),
)

Story = tuple[object, ...]
DONE: Story = (Completed, 200)
SENT_AWAY: Story = (Completed, 503)
LEFT_THE_QUEUE: Story = (Abandoned, 499, Phase.QUEUED, Outcome.NOT_STARTED)


class Model:
    """What should become of each visitor, and in which order the handlers begin."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._events: list[tuple[float, str, int]] = []
        self._running: list[int] = []
        self._waiting: list[int] = []
        # In which phase they have left, of those who have.
        self._left: dict[int, Phase] = {}
        self.begun: list[int] = []
        self.stories: dict[int, Story] = {}
        for i, visitor in enumerate(crowd.visitors):
            heapq.heappush(self._events, (visitor.comes, "comes", i))
        while self._events:
            now, what, i = heapq.heappop(self._events)
            getattr(self, f"_{what}")(i, now)

    def _comes(self, i: int, now: float) -> None:
        heapq.heappush(self._events, (now + self._crowd.visitors[i].stays, "leaves", i))
        if len(self._running) < self._crowd.exchanges:
            self._begins(i, now)
        elif len(self._waiting) < self._crowd.queue:
            self._waiting.append(i)
            heapq.heappush(self._events, (now + self._crowd.patience, "gives_up", i))
        else:
            self.stories[i] = SENT_AWAY

    def _begins(self, i: int, now: float) -> None:
        self._running.append(i)
        self.begun.append(i)
        heapq.heappush(self._events, (now + self._crowd.visitors[i].needs, "ends", i))

    def _ends(self, i: int, now: float) -> None:
        if i in self._running:
            self.stories[i] = (Abandoned, 499, self._left[i], Outcome.FINISHED) if i in self._left else DONE
            self._goes(i, now)

    def _goes(self, i: int, now: float) -> None:
        self._running.remove(i)
        if self._waiting:
            self._begins(self._waiting.pop(0), now)

    def _leaves(self, i: int, now: float) -> None:
        if i in self._running:
            self._left[i] = Phase.HANDLER
            if self._crowd.disconnect is CANCEL:
                self.stories[i] = (Abandoned, 499, Phase.HANDLER, Outcome.CANCELLED)
                self._goes(i, now)
        elif i in self._waiting:
            self._left[i] = Phase.QUEUED
            if self._crowd.disconnect is CANCEL:
                self.stories[i] = LEFT_THE_QUEUE
                self._waiting.remove(i)

    def _gives_up(self, i: int, _now: float) -> None:
        if i in self._waiting:
            self._waiting.remove(i)
            self.stories[i] = LEFT_THE_QUEUE if i in self._left else SENT_AWAY


@dataclass
class Played:
    """What did become of them."""

    begun: list[int]
    at_once: int
    stories: dict[int, Story]


async def play(crowd: Crowd, stage: Stage) -> Played:
    app, begun, running, most = App(disconnect=crowd.disconnect), [], 0, 0

    @app.get("/{number:int}")
    async def handler(number: int) -> str:
        nonlocal running, most
        begun.append(number)
        running += 1
        most = max(most, running)
        try:
            await trio.sleep(crowd.visitors[number].needs)
        finally:
            running -= 1
        return "done"

    config = Config(
        limits=Limits(exchanges=crowd.exchanges, queue=crowd.queue), deadlines=Deadlines(queue=crowd.patience)
    )
    async with stage.serve(app, config) as theatre, trio.open_nursery() as nursery:
        for number, visitor in enumerate(crowd.visitors):
            nursery.start_soon(visit, theatre, number, visitor)
    stories: dict[int, Story] = {}
    for record in theatre.observed.all:
        story: Story = (type(record), record.status)
        if isinstance(record, Abandoned):
            story += (record.phase, record.outcome)
        stories[int(str(record.target)[1:])] = story
    assert len(stories) == len(theatre.observed.all)
    return Played(begun, most, stories)


async def visit(theatre: Theatre, number: int, visitor: Visitor) -> None:
    await trio.sleep_until(visitor.comes)
    client = await theatre.connect()
    client.send_nowait(f"GET /{number} HTTP/1.1\r\nHost: example\r\n\r\n".encode())
    await trio.sleep(visitor.stays)
    client.leave("RESET")


@pytest.mark.parametrize("kind", ["memory", "memory-read-ahead"])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(crowd=crowds)
def test_what_becomes_of_a_crowd_is_what_the_queues_rules_say(kind: str, crowd: Crowd) -> None:
    played = trio.run(play, crowd, Stage(kind), clock=MockClock(autojump_threshold=0))
    model = Model(crowd)
    assert played.stories == model.stories
    assert played.begun == model.begun
    assert played.at_once <= crowd.exchanges

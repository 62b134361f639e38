"""What is decided about worker processes, as a table of scripts, and what holds whatever happens."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.server.fleet import (
    LONGEST_WAIT,
    STEADY,
    Action,
    Announce,
    End,
    Fleet,
    News,
    Order,
    Say,
    Send,
    Start,
    Tell,
    how,
)

START = 90.0


def written(action: Action) -> str:
    match action:
        case Start(worker):
            return f"start {worker}"
        case Tell(worker, order):
            return f"tell {worker} {order.name}"
        case Send(worker, number):
            return f"send {worker} {number.name}"
        case Say(worker, text):
            return f"say {worker} {text}"
        case Announce(news):
            return news.name
        case End(code):
            return f"end {code}"


def play(fleet: Fleet, event: str, now: float) -> list[Action]:
    match event.split():
        case ["begin"]:
            return fleet.begin(now)
        case ["ready", worker]:
            return fleet.ready(int(worker), now)
        case ["ended", worker, code]:
            return fleet.ended(int(worker), int(code), now)
        case ["time"]:
            return fleet.time_passed(now)
        case ["restart"]:
            return fleet.restart(now)
        case ["end", order]:
            return fleet.end(Order[order])
        case _:
            raise AssertionError(event)


# Each step: the time, what happens, and what is to be done.
Script = list[tuple[float, str, list[str]]]

COMPLETE: Script = [
    (0, "begin", ["start 1"]),
    (1, "ready 1", ["start 2"]),
    (2, "ready 2", ["COMPLETE"]),
]
KILLED = "was killed by SIGKILL"

SCRIPTS: dict[str, Script] = {
    "one starts alone, and the others when it is ready; that is told once": COMPLETE,
    # The start fails
    "a mistake in the configuration is said by the worker, once, and ends all with its code": [
        (0, "begin", ["start 1"]),
        (1, "ended 1 2", ["end 2"]),
    ],
    "a worker that is killed before the first was ready ends all": [
        (0, "begin", ["start 1"]),
        (1, "ended 1 -9", [f"say 1 {KILLED} before it was ready", "end 1"]),
    ],
    "a worker that ends well before it is ready ends all, and not well": [
        (0, "begin", ["start 1"]),
        (1, "ended 1 0", ["say 1 has ended before it was ready", "end 1"]),
    ],
    "a worker that is never ready is killed, and ends all": [
        (0, "begin", ["start 1"]),
        (89, "time", []),
        (90, "time", ["say 1 was not ready within 90 s and is killed", "send 1 SIGKILL"]),
        (90, "time", []),
        (91, "ended 1 -9", [f"say 1 {KILLED} before it was ready", "end 1"]),
    ],
    "the second failing at the start ends the first": [
        (0, "begin", ["start 1"]),
        (1, "ready 1", ["start 2"]),
        (2, "ended 2 1", ["STOPPING", "tell 1 HASTEN"]),
        (3, "ended 1 0", ["end 1"]),
    ],
    # A worker dies
    "a worker that dies is replaced at once": [
        *COMPLETE,
        (5, "ended 1 -9", [f"say 1 {KILLED}; starting another", "start 3"]),
        (6, "ready 3", []),
    ],
    "one that dies again soon is replaced ever later, up to a bound, and at once after it was steady": [
        *COMPLETE,
        (10, "ended 1 -9", [f"say 1 {KILLED}; starting another", "start 3"]),
        (11, "ended 3 1", ["say 3 has ended with exit code 1 before it was ready; starting another in 1 s"]),
        (11.9, "time", []),
        (12, "time", ["start 4"]),
        (13, "ready 4", []),
        (14, "ended 4 -9", [f"say 4 {KILLED}; starting another in 2 s"]),
        (16, "time", ["start 5"]),
        (16, "ended 5 1", ["say 5 has ended with exit code 1 before it was ready; starting another in 4 s"]),
        (20, "time", ["start 6"]),
        (20, "ended 6 1", ["say 6 has ended with exit code 1 before it was ready; starting another in 8 s"]),
        (28, "time", ["start 7"]),
        (28, "ended 7 1", ["say 7 has ended with exit code 1 before it was ready; starting another in 16 s"]),
        (44, "time", ["start 8"]),
        (44, "ended 8 1", ["say 8 has ended with exit code 1 before it was ready; starting another in 30 s"]),
        (74, "time", ["start 9"]),
        (74, "ended 9 1", ["say 9 has ended with exit code 1 before it was ready; starting another in 30 s"]),
        (104, "time", ["start 10"]),
        (105, "ready 10", []),
        (105 + STEADY, "ended 10 -9", [f"say 10 {KILLED}; starting another", "start 11"]),
    ],
    "one that ends well without an order is replaced too": [
        *COMPLETE,
        (5, "ended 2 0", ["say 2 has ended; starting another", "start 3"]),
    ],
    "a replacement that is never ready is killed, and replaced": [
        *COMPLETE,
        (5, "ended 1 -9", [f"say 1 {KILLED}; starting another", "start 3"]),
        (95, "time", ["say 3 was not ready within 90 s and is killed", "send 3 SIGKILL"]),
        (95, "ended 3 -9", [f"say 3 {KILLED} before it was ready; starting another in 1 s"]),
    ],
    # A rolling restart
    "a restart replaces one after another, each new one being ready first": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ready 3", ["tell 1 REPLACE", "start 4"]),
        (7, "ready 4", ["tell 2 REPLACE", "RESTARTED"]),
        (8, "ended 2 0", []),
        (9, "ended 1 0", []),
    ],
    "a restart is given up when a new worker ends before it is ready": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ended 3 2", ["say 3 has ended with exit code 2 before it was ready", "RESTART_FAILED"]),
        (7, "restart", ["RESTARTING", "start 4"]),
    ],
    "a restart is given up when a new worker is never ready": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (95, "time", ["say 3 was not ready within 90 s and is killed", "send 3 SIGKILL"]),
        (96, "ended 3 -9", [f"say 3 {KILLED} before it was ready", "RESTART_FAILED"]),
    ],
    "a restart during another replaces what that one has started, and is one with it": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "restart", ["RESTARTING"]),
        (7, "ready 3", ["tell 1 REPLACE", "start 4"]),
        (8, "ready 4", ["tell 2 REPLACE", "start 5"]),
        (9, "ready 5", ["tell 3 REPLACE", "RESTARTED"]),
    ],
    "a restart before all are ready comes after that": [
        (0, "begin", ["start 1"]),
        (1, "ready 1", ["start 2"]),
        (1, "restart", []),
        (2, "ready 2", ["COMPLETE", "RESTARTING", "start 3"]),
        (3, "ready 3", ["tell 1 REPLACE", "start 4"]),
        (4, "ready 4", ["tell 2 REPLACE", "RESTARTED"]),
    ],
    "a worker that dies while its successor starts is not replaced twice": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ended 1 -9", [f"say 1 {KILLED}; its successor is starting"]),
        (7, "ready 3", ["start 4"]),
        (8, "ready 4", ["tell 2 REPLACE", "RESTARTED"]),
    ],
    "a successor whose predecessor has died is replaced as any other": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ended 1 -9", [f"say 1 {KILLED}; its successor is starting"]),
        (
            7,
            "ended 3 2",
            ["say 3 has ended with exit code 2 before it was ready; starting another", "start 4"],
        ),
    ],
    "a restart does not wait until a worker that keeps dying has its turn": [
        *COMPLETE,
        (3, "ended 1 1", ["say 1 has ended with exit code 1; starting another", "start 3"]),
        (3, "ended 3 1", ["say 3 has ended with exit code 1 before it was ready; starting another in 1 s"]),
        (3.5, "restart", ["RESTARTING", "start 4"]),
        (4, "ready 4", ["start 5"]),
        (5, "ready 5", ["tell 2 REPLACE", "RESTARTED"]),
    ],
    "a restart forgives: what dies after it is replaced at once": [
        *COMPLETE,
        (3, "ended 1 1", ["say 1 has ended with exit code 1; starting another", "start 3"]),
        (3, "ended 3 1", ["say 3 has ended with exit code 1 before it was ready; starting another in 1 s"]),
        (3.5, "restart", ["RESTARTING", "start 4"]),
        (3.6, "ended 4 1", ["say 4 has ended with exit code 1 before it was ready; starting another", "start 5"]),
    ],
    "a restart waits for a worker that is starting already": [
        *COMPLETE,
        (3, "ended 1 1", ["say 1 has ended with exit code 1; starting another", "start 3"]),
        (4, "restart", ["RESTARTING"]),
        (5, "ready 3", ["start 4"]),
        (6, "ready 4", ["tell 2 REPLACE", "start 5"]),
        (7, "ready 5", ["tell 3 REPLACE", "RESTARTED"]),
    ],
    "a predecessor that ends badly is told of, and nothing more": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ready 3", ["tell 1 REPLACE", "start 4"]),
        (7, "ended 1 -11", ["say 1 was killed by SIGSEGV"]),
    ],
    # The end
    "all are told to drain, and the end is when all have ended": [
        *COMPLETE,
        (5, "end DRAIN", ["STOPPING", "tell 1 DRAIN", "tell 2 DRAIN"]),
        (6, "ended 2 0", []),
        (7, "ended 1 0", ["end 0"]),
    ],
    "the second signal stops at once, and a third changes nothing": [
        *COMPLETE,
        (5, "end HASTEN", ["STOPPING", "tell 1 HASTEN", "tell 2 HASTEN"]),
        (6, "end DRAIN", ["HURRYING", "tell 1 STOP", "tell 2 STOP"]),
        (6, "end DRAIN", ["WAITING"]),
        (7, "ended 2 0", []),
        (7, "ended 1 0", ["end 0"]),
    ],
    "a worker that is killed while it drains is told of, and the end is a failure": [
        *COMPLETE,
        (5, "end DRAIN", ["STOPPING", "tell 1 DRAIN", "tell 2 DRAIN"]),
        (6, "ended 1 -9", [f"say 1 {KILLED}"]),
        (7, "ended 2 0", ["end 1"]),
    ],
    "a worker that is starting is terminated, and killed by the second signal": [
        (0, "begin", ["start 1"]),
        (1, "end DRAIN", ["STOPPING", "send 1 SIGTERM", "tell 1 DRAIN"]),
        (2, "end DRAIN", ["HURRYING", "send 1 SIGKILL", "tell 1 STOP"]),
        (3, "ended 1 -9", ["end 0"]),
    ],
    "a worker that is ready when its end was ordered before is no news": [
        (0, "begin", ["start 1"]),
        (1, "end DRAIN", ["STOPPING", "send 1 SIGTERM", "tell 1 DRAIN"]),
        (1, "ready 1", []),
        (2, "ended 1 0", ["end 0"]),
    ],
    "an end in the middle of a restart ends old and new": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ready 3", ["tell 1 REPLACE", "start 4"]),
        (
            7,
            "end DRAIN",
            ["STOPPING", "tell 1 DRAIN", "tell 2 DRAIN", "tell 3 DRAIN", "send 4 SIGTERM", "tell 4 DRAIN"],
        ),
        (7, "restart", []),
        (8, "ended 4 -15", []),
        (8, "ended 1 0", []),
        (8, "ended 2 0", []),
        (8, "ended 3 0", ["end 0"]),
    ],
    "an end that need not wait is told to those that leave already": [
        *COMPLETE,
        (5, "restart", ["RESTARTING", "start 3"]),
        (6, "ready 3", ["tell 1 REPLACE", "start 4"]),
        (7, "ready 4", ["tell 2 REPLACE", "RESTARTED"]),
        (8, "end HASTEN", ["STOPPING", "tell 1 HASTEN", "tell 2 HASTEN", "tell 3 HASTEN", "tell 4 HASTEN"]),
    ],
    "an end while nobody is there but those who wait for their turn is over at once": [
        (0, "begin", ["start 1"]),
        (1, "ready 1", ["start 2"]),
        (2, "ready 2", ["COMPLETE"]),
        (3, "ended 1 1", ["say 1 has ended with exit code 1; starting another", "start 3"]),
        (3, "ended 3 1", ["say 3 has ended with exit code 1 before it was ready; starting another in 1 s"]),
        (3, "ended 2 1", ["say 2 has ended with exit code 1; starting another", "start 4"]),
        (3, "ended 4 1", ["say 4 has ended with exit code 1 before it was ready; starting another in 1 s"]),
        (3, "end DRAIN", ["end 0"]),
        (9, "time", []),
    ],
    "one that has ended cannot be ready": [
        *COMPLETE,
        (3, "ended 1 1", ["say 1 has ended with exit code 1; starting another", "start 3"]),
        (3, "ready 1", []),
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name):
    fleet = Fleet(2, START)
    for now, event, actions in SCRIPTS[name]:
        assert list(map(written, play(fleet, event, now))) == actions, f"at {event!r}"


def test_a_fleet_of_one_has_a_successor_before_it_is_replaced():
    fleet = Fleet(1, math.inf)
    assert [*map(written, fleet.begin(0))] == ["start 1"]
    assert [*map(written, fleet.ready(1, 0))] == ["COMPLETE"]
    assert [*map(written, fleet.restart(1))] == ["RESTARTING", "start 2"]
    assert [*map(written, fleet.ready(2, 2))] == ["tell 1 REPLACE", "RESTARTED"]


def test_the_next_moment_is_when_a_worker_must_be_ready_or_the_next_is_started():
    fleet = Fleet(2, START)
    assert fleet.next_at == math.inf
    fleet.begin(1)
    assert fleet.next_at == 1 + START
    fleet.ready(1, 2)
    fleet.ready(2, 3)
    assert fleet.next_at == math.inf
    fleet.ended(1, 1, 10)
    fleet.ended(3, 1, 11)
    assert fleet.next_at == 12
    fleet.end(Order.DRAIN)
    assert fleet.next_at == math.inf


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "has ended"), (3, "has ended with exit code 3"), (-9, KILLED), (-63, "was killed by signal 63")],
)
def test_how_a_process_ended_is_told_in_words(code, words):
    assert how(code) == words


class Play:
    """Any events in any order, and what must hold after each of them."""

    def __init__(self, size: int) -> None:
        self.size, self.fleet, self.now = size, Fleet(size, START), 0.0
        self.starting: set[int] = set()
        self.serving: set[int] = set()
        self.leaving: set[int] = set()
        self.code: int | None = None
        self.ordered = False
        self.do(self.fleet.begin(self.now))

    @property
    def living(self) -> list[int]:
        return sorted(self.starting | self.serving | self.leaving)

    def do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            assert self.code is None, "nothing comes after the end"
            match action:
                case Start(worker):
                    assert not self.ordered
                    assert worker not in self.living
                    self.starting.add(worker)
                case Tell(worker, _):
                    assert worker in self.living
                    self.starting.discard(worker)
                    self.serving.discard(worker)
                    self.leaving.add(worker)
                case Send(worker, number):
                    assert worker in self.living
                    assert worker not in self.serving, "who serves is told, and not killed"
                    assert number in {signal.SIGTERM, signal.SIGKILL}
                case Announce(News.STOPPING | News.HURRYING):
                    self.ordered = True
                case End(code):
                    assert not self.living
                    self.code = code
        assert len(self.starting) + len(self.serving) <= 2 * self.size
        assert len(self.serving) <= self.size

    def ready(self, worker: int) -> None:
        before = len(self.serving)
        if worker in self.starting:
            self.starting.discard(worker)
            self.serving.add(worker)
        # The check of the size comes with what is told to the predecessor.
        self.do(self.fleet.ready(worker, self.now))
        assert len(self.serving) >= before, "a successor is ready before its predecessor leaves"

    def ended(self, worker: int, code: int) -> None:
        for kind in (self.starting, self.serving, self.leaving):
            kind.discard(worker)
        self.do(self.fleet.ended(worker, code, self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.fleet.time_passed(self.now))
        assert self.fleet.next_at > self.now


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ready"), st.integers(0, 9)),
        st.tuples(st.just("ended"), st.integers(0, 9), st.sampled_from([0, 1, 2, -9])),
        st.tuples(st.just("time"), st.sampled_from([0.5, 1.0, LONGEST_WAIT, STEADY, START])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("end"), st.sampled_from([Order.DRAIN, Order.HASTEN, Order.STOP])),
    ),
    max_size=60,
)


@given(size=st.integers(1, 3), events=EVENTS)
def test_whatever_happens_nobody_is_started_twice_or_forgotten_and_the_end_comes(size, events):
    play = Play(size)
    for event, *details in events:
        if play.code is not None:
            break
        match event, details:
            case "ready", [index] if play.living:
                play.ready(play.living[index % len(play.living)])
            case "ended", [index, code] if play.living:
                play.ended(play.living[index % len(play.living)], code)
            case "time", [seconds]:
                play.passes(seconds)
            case "restart", []:
                play.do(play.fleet.restart(play.now))
            case "end", [order]:
                play.do(play.fleet.end(order))
    if play.code is None and not play.ordered:
        play.do(play.fleet.end(Order.DRAIN))
    for worker in play.living:
        play.ended(worker, 0)
    assert play.code is not None, "when all have ended, it is over"


@given(size=st.integers(1, 3), failures=st.lists(st.sampled_from([1, 2, -9]), max_size=8))
def test_however_often_workers_fail_the_fleet_is_complete_when_they_fail_no_more(size, failures):
    play = Play(size)
    while len(play.serving) < size:
        play.ready(min(play.starting))
    for code in failures:
        if play.starting | play.serving:
            play.ended(min(play.starting | play.serving), code)
        else:
            play.passes(LONGEST_WAIT)
    play.passes(LONGEST_WAIT)
    play.passes(LONGEST_WAIT)
    for worker in sorted(play.starting):
        play.ready(worker)
    assert len(play.serving) == size

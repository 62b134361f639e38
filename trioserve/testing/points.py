"""`leave_at_every_point`: proves that a handler is safe to abandon, by leaving it at every point in every way.

First the client stays, twice: the first play warms up what is made once, the second tells which checkpoints the handler
reaches, in which parts the response comes, and what is usually left. Then, in a fresh server each time, it leaves: once
for each point and way. All rules are checked behind each play; see rules.py.
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio
import trio.testing

from trioserve.core.application import Application
from trioserve.core.records import Completed
from trioserve.server.config import Config
from trioserve.testing.clock import VirtualClock
from trioserve.testing.leaving import BodyBytes, HeadBytes, Point, Way
from trioserve.testing.plan import PlannedLeave, plan
from trioserve.testing.play import REAL_PATIENCE, Around, Played, Setting, Snapshot, play
from trioserve.testing.report import Breach, Call, LeftAMess
from trioserve.testing.rules import RULES, broken_rules
from trioserve.testing.wire import Wire, wire_of

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True)
class Tally:
    """What was played."""

    request: str  # method and target
    status: int | None  # of the answer when the client stayed; None if there was none
    plays: dict[str, int]  # by kind of point: "Checkpoint", "HeadBytes" ...
    ways: tuple[Way, ...]
    points: int  # and ways; more than were played if that was over the budget
    missed: int  # plays in which the client did not reach its point, and stayed

    @property
    def total(self) -> int:
        """All plays in which the client was to leave."""
        return sum(self.plays.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} at {kind}" for kind, count in self.plays.items())
        sampled = f", sampled from {self.points}" if self.points > self.total else ""
        missed = f"; {self.missed} did not reach their point" if self.missed else ""
        plays = "1 play" if self.total == 1 else f"{self.total} plays"
        answered = "not answered" if self.status is None else f"answered {self.status}"
        return f"{plays} of {self.request}, {answered}{sampled} ({kinds}), by {', '.join(self.ways)}{missed}"


async def leave_at_every_point(
    app: Application,
    request: str | bytes | httpx.Request,
    *,
    ways: Way | Sequence[Way] = tuple(Way),
    at: Point | None = None,
    how: Way | None = None,
    snapshot: Snapshot | None = None,
    around: Around | None = None,
    stay: float | None = None,
    config: Config | None = None,
    budget: int = 500,
    allow: Collection[str] = (),
) -> Tally:
    """Play `request` again and again, and let its client leave each time at another point or in another way.

    Needs virtual time: `run(leave_at_every_point, app, "/x")` in a plain test, or a clock fixture with pytest-trio.
    The app's lifespans are entered for each play.

    Args:
        app: an `App`, or any other `Application`.
        request: "/x", "POST /x", raw bytes, or an `httpx.Request` for fields and content.
        ways: in which the client leaves; one alone will do.
        at, how: this point, this way only: to play one departure again.
        snapshot: gives (an async one: makes) a value that must be equal before the request and after the client has
            left, unless the handler came to its end all the same: rows, free slots of a pool, files of a folder, locks
            that are held. It is called while the app runs.
        around: makes a context manager, async or not, that is entered around each play: for what each play needs
            afresh, such as rows.
        stay: seconds (of virtual time) for which the client stays where it does not leave before; then it leaves by
            FIN, and the points are those met until then. For a stream without an end, which has no other. Without it
            the handler has to end by itself, within an hour.
        config: as for `serve`.
        budget: how many plays at most. Of more, so many are drawn by Hypothesis, and what breaks a rule is shrunk to
            an early point.
        allow: names of rules that may be broken: see docs/testing.md, or a failure's text.

    Raises:
        LeftAMess: a rule was broken. Its text says which, where, and how to play that again and mend it.
        ValueError: the request is none, or has no route; a name in `allow` is no rule's; `at` was not reached, or is
            beyond the request; there is no way, or no budget; `snapshot` differs when nothing happens;
            `stay` is not positive.
        TypeError: an argument is of another kind.
        RuntimeError: time is not virtual.

    Cancellation: ends the play under way; its handler unwinds.
    """
    __tracebackhide__ = True  # pytest shows the text, and not our source
    _check_clock()
    _check_kinds(app, at, snapshot, around, config)
    _check_stay(stay)
    if budget < 1:
        raise ValueError(f"budget={budget} leaves nothing to play; it is how many plays at most, 1 or more")
    wire = wire_of(request)
    _check_within(at, wire)
    allowed = _allowed_names(allow)
    setting = Setting(app, wire, config or Config(), snapshot, around, stay)
    outcome = await _outcome(setting, _ways(ways if how is None else how), at, budget, allowed)
    if outcome.breaches:
        _clear_away()
        options = {
            "snapshot": snapshot,
            "around": around,
            "stay": stay,
            "config": config,
            "allow": allowed or None,
        }
        call = Call(wire, request, {name: value for name, value in options.items() if value is not None})
        raise LeftAMess(outcome.breaches, outcome.tally.total or 1, call)
    return outcome.tally


class _Outcome(NamedTuple):
    """What a trial has shown; it holds nothing of the plays."""

    tally: Tally
    breaches: list[Breach]  # in the order of the plan


async def _outcome(
    setting: Setting, ways: tuple[Way, ...], at: Point | None, budget: int, allowed: Collection[str]
) -> _Outcome:
    trial = _Trial(setting, allowed)
    await trial.stay()
    leaves: Sequence[PlannedLeave] = ()
    if not trial.breaches:
        leaves = trial.plan(ways, at)
        await (_play_all(leaves, trial) if len(leaves) <= budget else _sample(leaves, budget, trial))
    if at is not None and not trial.breaches and len(trial.missed) == len(trial.results):
        raise ValueError(f"the client never got to {at!r}: {trial.what_there_is}")
    kinds = Counter(type(leave.at).__name__ for leave in trial.results)
    request = f"{setting.wire.method} {setting.wire.target}"
    tally = Tally(request, trial.status, dict(kinds), ways, len(leaves), len(trial.missed))
    return _Outcome(tally, trial.breaches)


def _clear_away() -> None:
    """Let go of what the plays have left, here and now: told it is, and a later test is not to be struck by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class _Trial:
    """All plays of one call, and what they have shown."""

    def __init__(self, setting: Setting, allowed: Collection[str]) -> None:
        self._setting = setting
        self._allowed = allowed
        self._stayed: Played | None = None
        self._of_stays: list[Breach] = []
        self._order: list[PlannedLeave] = []
        self.results: dict[PlannedLeave, list[Breach]] = {}
        # Those in which the client did not reach its point.
        self.missed: set[PlannedLeave] = set()

    async def stay(self) -> None:
        """Let the client stay: once to warm up, and once to see.

        Raises:
            ValueError: no handler was called.
        """
        for _ in range(2):
            self._stayed = await play(self._setting, None, self._stayed)
            _check_handled(self._stayed)
            self._of_stays += self._breaches_of(self._stayed)
            if self._of_stays:
                return

    def plan(self, ways: Sequence[Way], at: Point | None) -> Sequence[PlannedLeave]:
        """Where and how the client can leave, by what was seen when it stayed."""
        assert self._stayed is not None
        self._order = plan(
            self._setting.wire,
            checkpoints=len(self._stayed.watch.waits_before_departure),
            response_parts=self._stayed.parts,
            ways=ways,
            at=at,
        )
        return self._order

    async def leave(self, leave: PlannedLeave) -> bool:
        """Let the client leave; true if a rule was broken."""
        if leave not in self.results:
            # Where something is left already, we need not be so sure that nothing else is.
            patience = REAL_PATIENCE / 20 if self.breaches else REAL_PATIENCE
            played = await play(self._setting, leave, self._stayed, patience=patience)
            self.results[leave] = self._breaches_of(played)
            if not played.left:
                self.missed.add(leave)
        return any(not breach.found.early for breach in self.results[leave])

    def _breaches_of(self, played: Played) -> list[Breach]:
        return [Breach.of(rule, found, played) for rule, found in broken_rules(played, but=self._allowed)]

    @property
    def breaches(self) -> list[Breach]:
        """In the order of the plan; but what earlier plays have brought about is last."""
        of_leaves = [breach for leave in self._order for breach in self.results.get(leave, ())]
        return self._of_stays + sorted(of_leaves, key=lambda breach: breach.found.early)

    @property
    def status(self) -> int | None:
        """That of the answer when the client stayed."""
        records = self._stayed.records if self._stayed is not None else ()
        return next((record.status for record in records if isinstance(record, Completed)), None)

    @property
    def what_there_is(self) -> str:
        stayed = self._stayed
        assert stayed is not None
        return (
            f"the handler reaches {len(stayed.watch.waits_before_departure)} checkpoints, "
            f"the response has {len(stayed.received)} bytes, the request "
            f"{len(stayed.wire.head)} in its head and {len(stayed.wire.body)} in its body"
        )


def _check_clock() -> None:
    clock = trio.lowlevel.current_clock()
    jumps = isinstance(clock, VirtualClock) or (
        isinstance(clock, trio.testing.MockClock) and clock.autojump_threshold < float("inf")
    )
    if not jumps:
        raise RuntimeError(
            "leave_at_every_point needs virtual time, so that waiting takes none: call it by "
            '`trioserve.testing.run(leave_at_every_point, app, "/x")`; or with pytest-trio give your test the fixture '
            "`virtual_clock` (of trioserve.testing.plugin) or `autojump_clock`; or say "
            "`trio.run(..., clock=trioserve.testing.VirtualClock())`"
        )


def _check_stay(stay: float | None) -> None:
    if stay is not None and not 0 < stay < float("inf"):
        raise ValueError(f"stay is {stay!r}; give the seconds for which the client stays, such as stay=10")


def _check_kinds(app: object, at: object, snapshot: object, around: object, config: object) -> None:
    """Refuse what is natural to mistake, before it is met in a play."""
    if isinstance(app, type) or not (hasattr(app, "endpoint") and hasattr(app, "running")):
        raise TypeError(f"{app!r} is no application; give the App itself: `from your_project import app`")
    if at is not None and not isinstance(at, Point):
        raise TypeError(f"at={at!r} is no point; give one, such as at=Checkpoint(1) or at=HeadBytes(3)")
    if snapshot is not None and not callable(snapshot):
        raise TypeError(f"snapshot={snapshot!r} is a value; give a function that looks anew: snapshot=lambda: ...")
    if isinstance(around, AbstractContextManager | AbstractAsyncContextManager):
        raise TypeError(
            "around is a context manager, and would serve for one play only; give what makes one, and do not call it: "
            "around=set_up, not around=set_up()"
        )
    if around is not None and not callable(around):
        raise TypeError(f"around={around!r} is no function; give one that makes a context manager: around=set_up")
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config={config!r} is no Config; give one: config=Config(...)")


def _check_within(at: Point | None, wire: Wire) -> None:
    match at:
        case HeadBytes(count) if count > len(wire.head):
            raise ValueError(f"the client never gets to {at!r}: the request has {len(wire.head)} bytes in its head")
        case BodyBytes(count) if count > len(wire.body):
            raise ValueError(f"the client never gets to {at!r}: the request has {len(wire.body)} bytes in its body")


def _ways(ways: Way | Sequence[Way]) -> tuple[Way, ...]:
    every = (ways,) if isinstance(ways, str) else tuple(ways)
    if not every:
        raise ValueError("ways is empty, so there is nothing to play; leave it out, and the client leaves in every way")
    for way in every:
        if way not in set(Way):
            raise ValueError(f"{way!r} is not a valid Way; the ways are {', '.join(map(repr, Way))}")
    return tuple(map(Way, every))


def _allowed_names(allow: Collection[str]) -> tuple[str, ...]:
    names = (allow,) if isinstance(allow, str) else tuple(allow)
    known = [rule.name for rule in RULES]
    for name in names:
        if name not in known:
            raise ValueError(f"allow has {name!r}, which is no rule; the rules are {', '.join(map(repr, known))}")
    return names


def _check_handled(stayed: Played) -> None:
    if not stayed.handled:
        statuses = [f"{record.status}" for record in stayed.records]
        raise ValueError(
            f"no handler was called for {stayed.wire.method} {stayed.wire.target}: the answer was "
            f"{', '.join(statuses) or 'none'}. Give a request that a route of the app serves, and that is not refused"
        )


async def _play_all(leaves: Sequence[PlannedLeave], trial: _Trial) -> None:
    for leave in leaves:
        await trial.leave(leave)


async def _sample(leaves: Sequence[PlannedLeave], budget: int, trial: _Trial) -> None:
    """Draw departures by Hypothesis; what breaks a rule is shrunk towards the plan's beginning."""
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError(
            f"there are {len(leaves)} departures, more than the budget of {budget}; to draw among them needs "
            f"Hypothesis: pip install 'trioserve[testing]'. Or raise the budget: budget={len(leaves)}"
        ) from error

    class Broken(Exception):
        pass

    @hypothesis.settings(
        max_examples=budget,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )
    @hypothesis.given(strategies.sampled_from(leaves))
    def draw(leave: PlannedLeave) -> None:
        if trio.from_thread.run(trial.leave, leave):
            raise Broken

    def search() -> None:
        with suppress(Broken):
            draw()

    await trio.to_thread.run_sync(search)

"""Watching a handler: where it waits, and what its cancellation met.

`Watch.application` wraps an application so that what runs inside its endpoints is followed: the endpoint itself, and
all tasks that it starts in nurseries of its own. Each time that one of them comes to wait, in code that is not trio's
or trioserve's alone, is a **wait**: numbered from 1 over all tasks of the exchange, and told to `on_checkpoint` before
trio goes on. What works in somebody else's nursery (an app's background work) is not the exchange's, and not followed.

A plain `def` handler waits for its worker thread, and its place is the function. An async generator that is a streamed
body waits in each `yield`, as if that were `await send(part)`. What trio and trioserve do by themselves, as when they
send a finished answer, is no wait of the handler's.

The facts, in the words of `facts`. All but `waits` are about the cancellation of what runs inside the endpoint, which
the connection makes when it has heard of the departure, or gives up:

* `passed`: the `Wait`s that began after the departure (`departed()`) and before that cancellation.
* `cuts`: a `Cut` for each await into which that cancellation was delivered, in order. `cut.first` says that it is its
  task's first; so `cuts[0]` is what the departure met first. A nursery's wait counts as such, although trio delivers
  nothing there, if one of its tasks ended by the cancellation. `cut.cleanup`, a `Cleanup` or None, says that it stands
  in a `finally`, an `except` or an `__aexit__`, of the user's or of a package, in which line, and which it is
  (`cleanup.kind`). It may be set for a first cut too: that is a clean-up which the departure found on the usual way.
  `cut.went_on` is true for a later one in no clean-up: its task had swallowed the cancellation and went on working.
  A task that was started by one that had met the cancellation has met it as well: it is a part of that one's clean-up.
* `endings`: an `Ending` for each followed task that ended, the endpoint's (`ending.endpoint`) and others: when (`at`;
  `before_departure`), by what (`error`, None if it returned), its first `cut`. `ending.swallowed`: it was cut, and yet
  returned, or an answer was to be sent for it. `ending.turned`: it was cut, and raised something that holds no
  Cancelled. `ending.forced`: the watch ended it, by `SwallowedTooOften`, because it went on and on; a cut one has
  `swallowed` then too.

What is no `Cut`: a wait inside the user's shield; what a scope of the user's own has cancelled, before the departure,
after it, in a shield that is over; a wait that ends by itself although it was cancelled, such as for a thread; and in
the `aclose` of a `trio.abc.AsyncResource`, which by its contract closes all the same, all but the task's first.

A coroutine that swallows whatever is raised in it cannot be ended. It is not resumed any more; if it holds a cancel
scope or a nursery then, trio reports that its stack is corrupted, and the run fails.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import outcome
import trio

from trioserve.app.streaming import pour
from trioserve.connection.exchange import ServedExchange
from trioserve.core.application import Application, Background, Endpoint, Exchange
from trioserve.core.messages import RequestHead
from trioserve.testing.cleanups import cleanup_of, closes_all_the_same
from trioserve.testing.driving import Driven, followed
from trioserve.testing.facts import Cut, Ending, Wait, leaves
from trioserve.testing.places import WRITTEN, Place, Whose, await_chain, await_stack, place_in_thread, place_of, whose
from trioserve.testing.wrapping import WrappedApplication, WrappedEndpoint

MOST_CUTS = 100
"""How often a task may be cut after the first time, before the watch ends it: no clean-up has so many awaits."""

MOST_WAITS = 1000
"""How often it may wait at all after its cancellation, in shields too: so that one that never ends in a shield ends."""

MOST_FORCED = 100
"""How often it may swallow the watch's exception too, before it is not resumed any more."""


class SwallowedTooOften(BaseException):
    """Raised by the watch in a handler that goes on and on after its cancellation. Not to be caught."""


class Watch:
    """What the handlers of an application do, as far as tests want to know. See above."""

    def __init__(self) -> None:
        # Called with each wait, before trio goes on. Must not raise.
        self.on_checkpoint: Callable[[Wait], None] | None = None
        self._untold: Wait | None = None
        self.waits: list[Wait] = []
        self.passed: list[Wait] = []
        self.cuts: list[Cut] = []
        self.endings: list[Ending] = []
        # How many waits there were when the client left; None while it is there.
        self._departed: int | None = None
        self._closed = False
        self._followers: dict[trio.lowlevel.Task, _Follower] = {}

    def application(self, app: Application) -> Application:
        """`app`, watched while it is served. It is not changed."""
        return _WatchedApplication(self, app)

    def departed(self) -> None:
        """Say so when the client leaves."""
        self._departed = len(self.waits)

    def close(self) -> None:
        """Note nothing any more: what comes now is another's doing."""
        self._closed = True

    @property
    def departure_is_to_come(self) -> bool:
        return self._departed is None

    @property
    def waits_before_departure(self) -> list[Wait]:
        """Those that began while the client was there."""
        return self.waits[: self._departed]

    async def endpoint(self, endpoint: Endpoint, exchange: Exchange) -> None:
        """Call `endpoint`, watched."""
        __tracebackhide__ = True
        assert isinstance(exchange, ServedExchange), "a watched application is served by trioserve's own server"
        task = trio.lowlevel.current_task()
        follower = _Follower(self, task, _Progress(exchange), endpoint=True)
        self._followers[task] = follower
        try:
            await followed(endpoint(exchange), follower)
        finally:
            self.lost(task)

    def spawned(self, task: trio.lowlevel.Task) -> None:
        """A task was started somewhere: follow it too if it descends from one that is followed."""
        owner = self.owner(task.parent_nursery)
        if owner is None:
            return
        starter = self._followers.get(trio.lowlevel.current_task()) if trio.lowlevel.in_trio_task() else None
        follower = _Follower(self, task, owner.progress, starter=starter)
        self._followers[task] = follower
        task.coro = Driven(task.coro, follower)  # type: ignore[assignment]  # behaves as the one that it drives

    def owner(self, nursery: trio.Nursery | None) -> _Follower | None:
        """Who follows the task that opened this nursery, and did so in an endpoint."""
        follower = self._followers.get(nursery.parent_task) if nursery is not None else None
        return follower if follower is not None and nursery not in follower.foreign else None

    def lost(self, task: trio.lowlevel.Task) -> None:
        """This task is not followed any more."""
        self._followers.pop(task, None)

    def reached(self, wait: Wait, *, cancelled: bool) -> None:
        if self._closed:
            return
        self.waits.append(wait)
        if self._departed is not None and not cancelled:
            self.passed.append(wait)
        self._untold = wait

    def cut(self, cut: Cut) -> None:
        if not self._closed:
            self.cuts.append(cut)

    def ended(self, ending: Ending) -> None:
        if not self._closed:
            self.endings.append(ending)

    def stepped(self) -> None:
        """A task has made a step. Only now trio knows of a wait that began in it; nothing may end that before."""
        wait, self._untold = self._untold, None
        if wait is not None and self.on_checkpoint is not None:
            self.on_checkpoint(wait)


@dataclass(slots=True)
class _Progress:
    """What the followers of one exchange share."""

    exchange: ServedExchange
    waits: int = 0
    # Nurseries of which a task ended by the cancellation: it will come out of them.
    cut: set[trio.Nursery] = field(default_factory=set)


class _Follower:
    """Follows one task, or as much of a task as is the endpoint's.

    Args:
        starter: who follows the task that started this one, if somebody does.
    """

    def __init__(
        self,
        watch: Watch,
        task: trio.lowlevel.Task,
        progress: _Progress,
        *,
        endpoint: bool = False,
        starter: _Follower | None = None,
    ) -> None:
        self._watch = watch
        self._task = task
        self._name = "the handler" if endpoint else task.name
        self._endpoint = endpoint
        self.progress = progress
        # Nurseries of this task in which nothing of the exchange runs: those that were there before the endpoint.
        self.foreign = frozenset(task.child_nurseries)
        self._begun = endpoint
        # It is started for somebody else, who will have it in a nursery of his own.
        self._dismissed = False
        # The number of the wait that it is in, if that is counted; and whether that began inside a shield.
        self._number: int | None = None
        self._shielded = False
        # It has met the cancellation, or was started by a task that had, perhaps to clean something up.
        self.met: bool = starter is not None and starter.met
        self._started_in = cleanup_of(_running()) if self.met else None
        self._first: Cut | None = None
        self._answered = False
        # After its cancellation: how often it has waited, was cut, was ended by the watch.
        self._waits = self._cuts = self._forced = 0

    def resumed(self, coroutine: Coroutine[Any, Any, Any], sent: Any) -> Any:
        if not self._begun:
            self._begun = True
            # One that `nursery.start` has started is at first in a nursery of who waits for that.
            eventual = self._task.eventual_parent_nursery
            self._dismissed = eventual is not None and self._watch.owner(eventual) is None
        if self._dismissed or sent is None or (reason := self.progress.exchange.cancelled_for) is None:
            return sent
        self._waits += 1
        if not self._shielded and (
            _delivers(sent, reason) or (not self.met and self._comes_from_elsewhere(coroutine, sent, reason))
        ):
            self._note_cut(list(_stack(coroutine)))
        if self._cuts > MOST_CUTS or self._waits > MOST_WAITS:
            return self._end(coroutine)
        return sent

    def reached(self, coroutine: Coroutine[Any, Any, Any], trap: Any) -> None:  # noqa: ARG002
        if self._dismissed:
            return
        cancelled = self.progress.exchange.cancelled_for is not None
        self._shielded = cancelled and trio.current_effective_deadline() > -math.inf
        frames = list(_stack(coroutine))
        if _is_second_half(frames):
            return
        self._number = None
        trail = _trail(frames)
        if trail:
            self.progress.waits += 1
            self._number = self.progress.waits
            self._watch.reached(
                Wait(self._number, self._name, _own(trail), trail, trio.current_time(), self.progress.exchange),
                cancelled=cancelled,
            )

    def ended(self, error: BaseException | None) -> None:
        self._watch.lost(self._task)
        if self._dismissed:
            return
        reason = self.progress.exchange.cancelled_for
        if error is not None and not self._endpoint and any(_is_ours(leaf, reason) for leaf in leaves(error)):
            assert self._task.parent_nursery is not None, "only the main task has none"
            self.progress.cut.add(self._task.parent_nursery)
        self._watch.ended(
            Ending(
                task=self._name,
                endpoint=self._endpoint,
                error=error,
                at=trio.current_time(),
                cut=self._first,
                answered=self._answered,
                forced=self._forced > 0,
                before_departure=self._watch.departure_is_to_come,
                exchange=self.progress.exchange,
            )
        )

    def _comes_from_elsewhere(self, coroutine: Coroutine[Any, Any, Any], sent: Any, reason: str) -> bool:
        """True if the cancellation comes out of this wait though trio has not delivered it there.

        A thread was asked to end, and ended by it. Or the tasks of a nursery were cut: trio lets the nursery's own wait
        be, but what the tasks ended by is raised where it is left.
        """
        if isinstance(sent, outcome.Value) and _delivers(sent.value, reason):
            return True
        nurseries = self._task.child_nurseries
        return (
            bool(nurseries)
            and nurseries[-1] in self.progress.cut
            and any(frame.f_code is _nursery_exit() for frame in list(await_stack(coroutine))[-5:])
        )

    def _note_cut(self, frames: list[FrameType]) -> None:
        first, self.met = not self.met, True
        if not first:
            self._cuts += 1
        trail, harmless = _trail(frames), closes_all_the_same(frames)
        if not trail:
            self._answered = self._answered or (not first and any(frame.f_code in _ANSWERING for frame in frames))
        if not (first and (trail or self._endpoint)) and (harmless or not trail):
            return
        cut = Cut(
            number=self._number,
            task=self._name,
            place=_own(trail) if trail else place_of(_innermost_of_ours(frames)),
            trail=trail,
            at=trio.current_time(),
            first=first,
            cleanup=None if harmless or not trail else cleanup_of(frames) or self._started_in,
            exchange=self.progress.exchange,
        )
        self._first = self._first or cut
        self._watch.cut(cut)

    def _end(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """End the coroutine, which goes on and on: by what it is resumed with, or else by not resuming it."""
        self._forced += 1
        error = SwallowedTooOften(f"{self._name} was cancelled and goes on and on; let trio.Cancelled pass")
        if self._forced <= MOST_FORCED:
            return outcome.Error(error)
        parts = list(await_chain(coroutine))
        try:
            coroutine.close()
        except RuntimeError:  # it has swallowed that too, and waits again
            for part, _ in parts:
                _never_let_go(part)
        self.ended(error)
        raise error


def _never_let_go(part: Any) -> None:
    """Let a part of a coroutine that cannot be ended stay for good, also at the interpreter's end.

    Were it let go, Python would try once more to end it, and complain in the middle of something else.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))


def _stack(coroutine: Coroutine[Any, Any, Any]) -> Iterator[FrameType]:
    """The frames of a coroutine that waits. An async generator whose part is being sent is among them."""
    for frame in await_stack(coroutine):
        yield frame
        if frame.f_code is pour.__code__:
            source = frame.f_locals["source"]
            if getattr(source, "ag_frame", None) is not None and not source.ag_running:
                yield source.ag_frame


def _running() -> list[FrameType]:
    """The frames of the followed coroutine that runs now, outermost first."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # there is no other way to the frames that run
    while frame is not None and frame.f_code is not Driven.send.__code__:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _trail(frames: Sequence[FrameType]) -> tuple[Place, ...]:
    """The lines of users and packages among these frames; of a plain function that a thread runs, the function."""
    trail = tuple(place_of(frame) for frame in frames if whose(frame.f_code.co_filename) in WRITTEN)
    if not trail and (place := _in_thread(frames)) is not None:
        return (place,)
    return trail


def _own(trail: Sequence[Place]) -> Place:
    """The innermost line of the user's own code; of a package, if there is none."""
    return next((place for place in reversed(trail) if whose(place.file) is Whose.USER), trail[-1])


def _innermost_of_ours(frames: Sequence[FrameType]) -> FrameType:
    return next(frame for frame in reversed(frames) if whose(frame.f_code.co_filename) is not Whose.TRIO)


def _in_thread(frames: Sequence[FrameType]) -> Place | None:
    """The plain handler for whose thread these frames wait."""
    if len(frames) > 3 and frames[-3].f_code is trio.to_thread.run_sync.__code__:
        for frame in frames:
            if frame.f_code is ServedExchange.run_in_thread.__code__:
                return place_in_thread(frame.f_locals["function"])
    return None


def _is_second_half(frames: Sequence[FrameType]) -> bool:
    """True if these frames wait for the cancellation that a `checkpoint()` has found after its step.

    It waits twice then, and is one wait all the same.
    """
    return (
        len(frames) > 2
        and frames[-2].f_code is trio.lowlevel.wait_task_rescheduled.__code__
        and frames[-3].f_code is trio.lowlevel.checkpoint.__code__
    )


def _nursery_exit() -> Any:
    return type(trio.open_nursery()).__aexit__.__code__


def _delivers(sent: Any, reason: str) -> bool:
    """True if what a wait ends with is this cancellation."""
    return isinstance(sent, outcome.Error) and _is_ours(sent.error, reason)


def _is_ours(error: BaseException, reason: str | None) -> bool:
    """True if this is a Cancelled of the exchange's scope, and of no scope of a user's."""
    return isinstance(error, trio.Cancelled) and error.source == "explicit" and error.reason == reason


_ANSWERING = {
    method.__code__
    for method in (
        ServedExchange.respond,
        ServedExchange.start_response,
        ServedExchange.send_part,
        ServedExchange.end_response,
        ServedExchange.switch_protocols,
        ServedExchange.send_bytes,
        ServedExchange.end_switched,
    )
}


class _WatchedApplication(WrappedApplication):
    """An application whose endpoints are watched."""

    def __init__(self, watch: Watch, app: Application) -> None:
        super().__init__(app)
        self._watch = watch

    @asynccontextmanager
    async def running(self, background: Background) -> AsyncIterator[None]:
        spawning = _Spawning(self._watch)
        trio.lowlevel.add_instrument(spawning)
        try:
            async with super().running(background):
                yield
        finally:
            trio.lowlevel.remove_instrument(spawning)

    def endpoint(self, head: RequestHead) -> Endpoint:
        return WrappedEndpoint(super().endpoint(head), self._watch.endpoint)


class _Spawning(trio.abc.Instrument):
    """Hears of each task that is started in this run, and of each step."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._watch.spawned(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self._watch.stepped()

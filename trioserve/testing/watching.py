"""Watching a handler: where it waits, and what its cancellation met.

`Watch.application` wraps an application so that what runs inside its endpoints is followed: the endpoint itself, and
all tasks that it starts in nurseries of its own. Each time that one of them comes to wait, in code that is not trio's
or trioserve's alone, is a **wait**: numbered from 1 over all tasks of the exchange, and told to `on_checkpoint` before
trio goes on. What works in somebody else's nursery (an app's background work) is not the exchange's, and not followed.

A plain `def` handler waits once, for its worker thread, and its place is the function. An async generator that is a
streamed body waits in each `yield`, as if that were `await send(part)`.

The facts, for the rules. All are about what happened after the connection cancelled what runs inside the endpoint,
which is after the client's departure was noticed, or after we gave up:

* `passed`: the `Wait`s that began after the departure (`departed()`) and before that cancellation.
* `cuts`: a `Cut` for each await into which that cancellation was delivered, in order. `cut.first` says that it is its
  task's first; so `cuts[0]` is what the departure met first. A nursery's wait counts as such, although trio delivers
  nothing there, if one of its tasks ended by the cancellation. `cut.cleanup`, a `Cleanup` or None, says that it stands
  in a `finally`, an `except` or an `__aexit__`, of the user's or of a package, and in which. `cut.went_on` is true for
  a later one that does not: its task had swallowed the cancellation and went on working.
  Waits inside the user's shields are not cut, and what is cut by a scope of the user's own is no `Cut`. Nor is the
  `aclose()` of a `trio.abc.AsyncResource`, which by its contract closes all the same when cancelled.
* `endings`: an `Ending` for each followed task that ended, the endpoint's (`ending.endpoint`) and others: `at`, by what
  (`error`, None if it returned), its first `cut`. `ending.swallowed`: it was cut, and yet returned, or an answer was
  sent for it; `ending.turned`: it was cut, and raised something that holds no Cancelled. `ending.forced`: it swallowed
  so often that the watch ended it, by `SwallowedTooOften`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from trioserve.core.application import Application, Background, Endpoint, Exchange, Hook, Rules
from trioserve.core.messages import RequestHead
from trioserve.testing.driving import Driven, followed
from trioserve.testing.places import Place, Whose, await_stack, place_of, whose


@dataclass(frozen=True, slots=True)
class Wait:
    """Once that a task of an exchange came to wait: a checkpoint."""

    number: int  # over all tasks of the exchange, from 1 on
    task: str
    place: Place  # the innermost line of the user's own code; of a package, if there is none
    trail: tuple[Place, ...]  # all lines of users and packages on the way there, outermost first
    at: float  # seconds of the trio clock
    exchange: Exchange = field(repr=False)


class Watch:
    """What the handlers of an application do, as far as tests want to know. See above."""

    def __init__(self) -> None:
        # Called with each wait, before trio goes on. Must not raise.
        self.on_checkpoint: Callable[[Wait], None] | None = None
        self.waits: list[Wait] = []
        self.passed: list[Wait] = []
        self._departed = False
        self._followers: dict[trio.lowlevel.Task, _Follower] = {}

    def application(self, app: Application) -> Application:
        """`app`, watched while it is served. It is not changed."""
        return _WatchedApplication(self, app)

    def departed(self) -> None:
        """Say so when the client leaves."""
        self._departed = True

    async def endpoint(self, endpoint: Endpoint, exchange: Exchange) -> None:
        """Call `endpoint`, watched."""
        __tracebackhide__ = True
        task = trio.lowlevel.current_task()
        follower = _Follower(self, task, "the handler", _Progress(exchange), foreign=frozenset(task.child_nurseries))
        self._followers[task] = follower
        try:
            await followed(endpoint(exchange), follower)
        finally:
            del self._followers[task]

    def spawned(self, task: trio.lowlevel.Task) -> None:
        """A task was started somewhere: follow it too if it descends from one that is followed."""
        parent = self.owner(task.parent_nursery)
        if parent is not None:
            follower = _Follower(self, task, task.name, parent.progress)
            self._followers[task] = follower
            task.coro = Driven(task.coro, follower)  # type: ignore[assignment]  # behaves as the one that it drives

    def owner(self, nursery: trio.Nursery | None) -> _Follower | None:
        """Who follows the task that opened this nursery, and did so in an endpoint."""
        follower = self._followers.get(nursery.parent_task) if nursery is not None else None
        return follower if follower is not None and follower.owns(nursery) else None

    def reached(self, wait: Wait) -> None:
        self.waits.append(wait)
        if self._departed:
            self.passed.append(wait)
        if self.on_checkpoint is not None:
            self.on_checkpoint(wait)


@dataclass(slots=True)
class _Progress:
    """What the followers of one exchange share."""

    exchange: Exchange
    waits: int = 0


class _Follower:
    """Follows one task, or as much of a task as is the endpoint's."""

    def __init__(
        self,
        watch: Watch,
        task: trio.lowlevel.Task,
        name: str,
        progress: _Progress,
        *,
        foreign: frozenset[trio.Nursery] = frozenset(),
    ) -> None:
        self._watch = watch
        self._task = task
        self._name = name
        self.progress = progress
        # Nurseries of this task that were there before the endpoint was called.
        self._foreign = foreign
        self._begun = False
        # It is somebody else's after all.
        self._dismissed = False

    def owns(self, nursery: trio.Nursery | None) -> bool:
        return nursery not in self._foreign and not self._dismissed

    def resumed(self, sent: Any) -> Any:
        if not self._begun:
            self._begun = True
            # One that `nursery.start` has started is at first in a nursery of who waits for that.
            eventual = self._task.eventual_parent_nursery
            self._dismissed = eventual is not None and self._watch.owner(eventual) is None
        return sent

    def reached(self, coroutine: Coroutine[Any, Any, Any], trap: Any) -> None:  # noqa: ARG002
        if self._dismissed:
            return
        frames = [frame for frame in await_stack(coroutine) if whose(frame.f_code.co_filename) in _THEIRS]
        if not frames:
            return
        self.progress.waits += 1
        trail = tuple(place_of(frame) for frame in frames)
        own = [place for place in trail if whose(place.file) is Whose.USER]
        place = own[-1] if own else trail[-1]
        wait = Wait(self.progress.waits, self._name, place, trail, trio.current_time(), self.progress.exchange)
        self._watch.reached(wait)

    def ended(self, error: BaseException | None) -> None: ...


_THEIRS = (Whose.USER, Whose.PACKAGE)


class _WatchedApplication:
    """An application whose endpoints are watched."""

    def __init__(self, watch: Watch, app: Application) -> None:
        self._watch = watch
        self._app = app

    @property
    def rules(self) -> Rules:
        return self._app.rules

    @property
    def hooks(self) -> Sequence[Hook]:
        return self._app.hooks

    @asynccontextmanager
    async def running(self, background: Background) -> AsyncIterator[None]:
        spawning = _Spawning(self._watch)
        trio.lowlevel.add_instrument(spawning)
        try:
            async with self._app.running(background):
                yield
        finally:
            trio.lowlevel.remove_instrument(spawning)

    def endpoint(self, head: RequestHead) -> Endpoint:
        return _WatchedEndpoint(self._watch, self._app.endpoint(head))


class _WatchedEndpoint:
    def __init__(self, watch: Watch, endpoint: Endpoint) -> None:
        self._watch = watch
        self._endpoint = endpoint
        self.name = endpoint.name
        self.rules = endpoint.rules

    async def __call__(self, exchange: Exchange) -> None:
        __tracebackhide__ = True
        await self._watch.endpoint(self._endpoint, exchange)


class _Spawning(trio.abc.Instrument):
    """Hears of each task that is started in this run."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._watch.spawned(task)

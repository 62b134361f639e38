"""Driving a coroutine: `Driven` stands between a coroutine and trio, and tells a `Follower` of each step.

All that a coroutine under trio does to wait is to yield a trap, and all that trio does to go on is to send in an
`outcome.Outcome`. Whoever stands between the two sees each wait begin, and by what it ends: a cancellation that is
delivered is an `Error` with a `Cancelled`. Nothing else changes. What is asked of the coroutine (its frames, its state)
is passed on; context variables, the current task and cancel scopes belong to the task, and are as without it.

KeyboardInterrupt is raised in a coroutine or held back exactly as without it: trio decides by the frames from the
innermost outwards, and meets first the code of the coroutine. Our own steps are protected, because an interrupt there
would lose what is under way. A coroutine that is no task's own but a part of one would inherit that; `followed` puts a
frame between that says what was the case outside.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Protocol, TypeVar

import trio

T = TypeVar("T")


class Follower(Protocol):
    """Who is told of the steps of a coroutine."""

    def resumed(self, coroutine: Coroutine[Any, Any, Any], sent: Any) -> Any:
        """It is going to be resumed with `sent`, None at its start; gives what it is to be resumed with.

        What this raises is raised by the wait for the coroutine, which is then not resumed any more.
        """
        ...

    def reached(self, coroutine: Coroutine[Any, Any, Any], trap: Any) -> None:
        """It waits, having yielded `trap`."""
        ...

    def ended(self, error: BaseException | None) -> None:
        """It has returned, or raised `error`."""
        ...


class Driven(Coroutine[Any, Any, T]):
    """A coroutine whose steps `follower` is told of. Can be awaited, and be a task's."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], follower: Follower) -> None:
        self._coroutine = coroutine
        self._follower = follower

    @trio.lowlevel.enable_ki_protection
    def send(self, sent: Any, /) -> Any:
        __tracebackhide__ = True
        sent = self._follower.resumed(self._coroutine, sent)
        try:
            trap = self._coroutine.send(sent)
        except BaseException as error:
            self._follower.ended(None if isinstance(error, StopIteration) else error)
            raise
        self._follower.reached(self._coroutine, trap)
        return trap

    @trio.lowlevel.enable_ki_protection
    def throw(self, *error: Any) -> Any:
        """As trio does for a trap of another framework, which nobody here can wait for."""
        __tracebackhide__ = True
        try:
            trap = self._coroutine.throw(*error)
        except BaseException as raised:
            self._follower.ended(None if isinstance(raised, StopIteration) else raised)
            raise
        self._follower.reached(self._coroutine, trap)
        return trap

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # `await` needs no more than `send`, `throw`, `close` and `__next__`

    @trio.lowlevel.enable_ki_protection
    def __next__(self) -> Any:
        __tracebackhide__ = True
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        # cr_frame, cr_await, cr_running and what else is asked of a coroutine.
        return getattr(self._coroutine, name)


async def followed(coroutine: Coroutine[Any, Any, T], follower: Follower) -> T:
    """Await `coroutine`, and tell `follower` of its steps."""
    __tracebackhide__ = True
    within = _protected if trio.lowlevel.currently_ki_protected() else _unprotected
    return await Driven(within(coroutine), follower)


@trio.lowlevel.enable_ki_protection
async def _protected(coroutine: Coroutine[Any, Any, T]) -> T:
    __tracebackhide__ = True
    return await coroutine


@trio.lowlevel.disable_ki_protection
async def _unprotected(coroutine: Coroutine[Any, Any, T]) -> T:
    __tracebackhide__ = True
    return await coroutine

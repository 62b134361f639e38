"""What a watch finds out about the handlers of an application: waits, cuts and endings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from trioserve.core.application import Exchange
from trioserve.core.errors import ExchangeOver
from trioserve.testing.cleanups import Cleanup
from trioserve.testing.places import Place


@dataclass(frozen=True, slots=True)
class Wait:
    """Once that a task of an exchange came to wait: a checkpoint."""

    number: int  # over all tasks of the exchange, from 1 on
    task: str
    place: Place  # the innermost line of the user's own code; of a package, if there is none
    trail: tuple[Place, ...]  # all lines of users and packages on the way there, outermost first
    at: float  # seconds of the trio clock
    exchange: Exchange = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cut:
    """An await into which the exchange's cancellation was delivered."""

    number: int | None  # of the `Wait`; None if it is not counted as one
    task: str
    place: Place  # as of a `Wait`; of trioserve, if it alone waited there
    trail: tuple[Place, ...]
    at: float
    first: bool  # the task had not met the cancellation before
    cleanup: Cleanup | None  # what was cleaned up there
    exchange: Exchange = field(repr=False)

    @property
    def went_on(self) -> bool:
        """The task had swallowed its cancellation and went on working."""
        return not self.first and self.cleanup is None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task of an exchange ended."""

    task: str
    endpoint: bool  # it is the endpoint itself, and no task that it started
    error: BaseException | None  # None: it returned
    at: float
    cut: Cut | None  # what was cut first in it; None if nothing was
    answered: bool  # after that, a response was to be sent for it
    forced: bool  # the watch ended it, or tried to
    before_departure: bool  # its client was still there
    exchange: Exchange = field(repr=False)

    @property
    def swallowed(self) -> bool:
        """It was cancelled, and kept that to itself."""
        return self.cut is not None and (self.error is None or self.answered or self.forced)

    @property
    def turned(self) -> bool:
        """It was cancelled, and raised something else instead; `ClientGone` says the same as a Cancelled does."""
        return (
            self.cut is not None
            and self.error is not None
            and not self.forced
            and not any(isinstance(error, trio.Cancelled | ExchangeOver) for error in leaves(self.error))
        )


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, and of groups in it; of any other exception, itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error

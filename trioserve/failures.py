"""What of an exception is a user's failure, to be contained, and what is somebody else's business.

A handler, a hook, an observer: whatever a user's function raises ends with the exchange that it served and reaches
nobody else. That includes `SystemExit` (a handler that calls sys.exit() does not end the server) and any other class
that does not derive from Exception. What passes through: trio's cancellations, which belong to their scopes, and
KeyboardInterrupt, which belongs to whoever sits at the keyboard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio

_NOT_OURS = (trio.Cancelled, KeyboardInterrupt)


def is_failure(error: BaseException) -> bool:
    """True if all of `error` is a user's failure: of a group, every exception in it."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_failure(part) for part in error.exceptions)
    return not isinstance(error, _NOT_OURS)


def consists_of(error: BaseException, *kinds: type[BaseException]) -> bool:
    """True if `error` is one of these, or a group of nothing else: several tasks may meet the same end."""
    if isinstance(error, BaseExceptionGroup):
        return all(consists_of(part, *kinds) for part in error.exceptions)
    return isinstance(error, kinds)


def sole(error: BaseException) -> BaseException:
    """The one exception in a group of one (of one, ...): what a nursery with one failing task raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def ungrouped() -> Iterator[None]:
    """Let a group of one come out of the block as the one exception in it: our nurseries are nobody else's business.

    Cancellations beside it do not count: an error takes their place, as it does in a task.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = sole(without_cancellations(group) or group)
        if error is group:
            raise
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # and not the group


def without_cancellations(error: BaseException) -> BaseException | None:
    """What remains of an exception if trio's cancellations are taken out of it; None if nothing does."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error

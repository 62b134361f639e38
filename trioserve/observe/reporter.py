"""The reporter: takes what connections tell and hands it on, to the observers, the hooks and the error log.

Rules: whatever a user's function does, it reaches nobody else. An observer or a hook that raises is logged once for
each time, with its traceback; a hook that hangs is stopped at `Deadlines.hook` and logged. Hooks run shielded, since
the connection that reports may itself be being cancelled, and the shield has that deadline beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from trioserve.core.application import Hook
from trioserve.core.callables import is_async, name_of
from trioserve.core.messages import RequestHead
from trioserve.core.records import Abandoned, Completed
from trioserve.failures import is_failure
from trioserve.observe.observer import Observer

ERROR_LOGGER = "trioserve.error"

HOOK_THREADS = 8
"""Worker threads for plain hooks: they are short, and one that hangs must not take the handlers' threads."""

R = TypeVar("R", Completed, Abandoned)


class Reporter:
    """Implements `connection.context.Reporter`."""

    def __init__(self, observers: Sequence[Observer], hooks: Sequence[Hook], hook_deadline: float) -> None:
        self._observers = tuple(observers)
        self._hooks = tuple(hooks)
        self._hook_deadline = hook_deadline
        self._hook_threads = trio.CapacityLimiter(HOOK_THREADS)
        self._log = logging.getLogger(ERROR_LOGGER)

    @property
    def wants_completed(self) -> bool:
        return bool(self._observers)

    def completed(self, record: Completed) -> None:
        for observer in self._observers:
            self._tell(observer.completed, record)

    async def abandoned(self, record: Abandoned) -> None:
        for observer in self._observers:
            self._tell(observer.abandoned, record)
        if self._hooks:
            # Shielded without a deadline of its own: each hook has one.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for hook in self._hooks:
                        nursery.start_soon(self._call, hook, record)

    def _tell(self, tell: Callable[[R], None], record: R) -> None:
        try:
            tell(record)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._log.exception("observer %s raised; the record was %r", name_of(tell), record)

    async def _call(self, hook: Hook, record: Abandoned) -> None:
        patience = trio.move_on_after(self._hook_deadline)
        try:
            with patience:
                if is_async(hook):
                    await hook(record)  # type: ignore[misc]
                else:
                    await trio.to_thread.run_sync(hook, record, abandon_on_cancel=True, limiter=self._hook_threads)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._log.exception("on_abandoned hook %s raised; the record was %r", name_of(hook), record)
        if patience.cancelled_caught:
            self._log.error(
                "on_abandoned hook %s did not end within %g s (Deadlines.hook) and was stopped; the record was %r",
                name_of(hook),
                self._hook_deadline,
                record,
            )

    def handler_failed(self, head: RequestHead | None, route: str | None, error: BaseException) -> None:
        self._log.error("handler of %s raised", _what(head, route), exc_info=error)

    def unwind_overdue(self, head: RequestHead | None, route: str | None, seconds: float, stack: str) -> None:
        self._log.warning(
            "handler of %s was cancelled %g s ago (Deadlines.unwind) and has not ended; it is waiting here:\n%s",
            _what(head, route),
            seconds,
            stack,
        )

    def status_policy_failed(self, error: BaseException) -> None:
        self._log.error("abandoned_status failed; the default status code was used", exc_info=error)

    def internal_error(self, error: BaseException) -> None:
        self._log.error("internal error in trioserve; please report it", exc_info=error)


def _what(head: RequestHead | None, route: str | None) -> str:
    return f"{head.method} {route or head.target}" if head is not None else "an unreadable request"

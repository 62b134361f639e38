"""The reporter: takes what connections tell and hands it on, to the observers, the hooks and the error log.

Rules: whatever a user's function does, it reaches nobody else. An observer or a hook that raises is logged once for
each time, with its traceback; a hook that hangs is stopped at `Deadlines.hook` and logged. Hooks run shielded, since
the connection that reports may itself be being cancelled, and each has that deadline beside the shield.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import trio

from trioserve.core.application import Hook
from trioserve.core.callables import is_async, name_of
from trioserve.core.errors import ERROR_LOGGER, RequestError
from trioserve.core.messages import RequestHead, RequestLine
from trioserve.core.records import Abandoned, ClientAddress, Completed, written
from trioserve.failures import is_failure
from trioserve.observe.access_log import AccessLog
from trioserve.observe.observer import Observer

HOOK_THREADS = 40
"""Worker threads for one plain hook: a crowd that leaves at once is told of within a second or so. Each hook has its
own, so that one that hangs takes no other's, nor the handlers'."""


class Reporter:
    """Implements `connection.context.Reporter`.

    Args:
        access_log: the first observer, if there is one.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        hooks: Sequence[Hook],
        hook_deadline: float,
        access_log: AccessLog | None = None,
    ) -> None:
        self._observers = tuple(observers) if access_log is None else (access_log, *observers)
        # The one among the observers that perhaps nobody hears; None if another wants all records anyhow.
        self._perhaps_unheard = None if observers else access_log
        # Each with the threads in which it runs; None for an async one.
        self._hooks = [(hook, None if is_async(hook) else trio.CapacityLimiter(HOOK_THREADS)) for hook in hooks]
        self._hook_deadline = hook_deadline
        self._log = logging.getLogger(ERROR_LOGGER)

    @property
    def wants_completed(self) -> bool:
        if self._perhaps_unheard is not None:
            return self._perhaps_unheard.is_heard
        return bool(self._observers)

    def completed(self, record: Completed) -> None:
        for observer in self._observers:
            self._tell(observer, record)

    async def abandoned(self, record: Abandoned) -> None:
        for observer in self._observers:
            self._tell(observer, record)
        if self._hooks:
            # Shielded without a deadline of its own: each hook has one.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for hook, threads in self._hooks:
                        nursery.start_soon(self._call, hook, threads, record)

    def _tell(self, observer: Observer, record: Completed | Abandoned) -> None:
        try:
            if isinstance(record, Completed):
                observer.completed(record)
            else:
                observer.abandoned(record)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._log.exception("observer %s raised at %s", name_of(type(observer)), _which(record))

    async def _call(self, hook: Hook, threads: trio.CapacityLimiter | None, record: Abandoned) -> None:
        """Call a hook, within its deadline; whatever it does is logged and goes no further."""
        started = trio.Event()
        patience = trio.move_on_after(self._hook_deadline)
        try:
            with patience:
                if threads is None:
                    started.set()
                    await hook(record)  # type: ignore[misc]
                else:
                    await _call_in_thread(hook, threads, record, started)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._log.exception("on_abandoned hook %s raised at %s", name_of(hook), _which(record))
        if patience.cancelled_caught:
            what = (
                "did not end within %g s (Deadlines.hook) and was stopped"
                if started.is_set()
                else "was not called within %g s (Deadlines.hook), since all its threads were busy"
            )
            self._log.error(f"on_abandoned hook %s {what}, at %s", name_of(hook), self._hook_deadline, _which(record))

    def request_refused(
        self, client: ClientAddress | None, line: RequestHead | RequestLine | None, error: RequestError
    ) -> None:
        # At this level only: what anybody sends must not fill a disk.
        what = f"{line.method} {line.target}" if line is not None else "a request"
        self._log.debug("refused %s from %s with %d: %s", what, written(client), error.status, error.detail)

    def handler_failed(self, head: RequestHead | None, route: str | None, error: BaseException) -> None:
        self._log.error("handler of %s raised %s: %s", _what(head, route), type(error).__name__, error, exc_info=error)

    def background_failed(self, name: str, error: BaseException) -> None:
        """Background work raised."""
        self._log.error("background work %s raised %s: %s", name, type(error).__name__, error, exc_info=error)

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
        self._log.error(
            "internal error in trioserve, or a handler left a nursery or a cancel scope open; if it is not the latter, "
            "please report it",
            exc_info=error,
        )


async def _call_in_thread(hook: Hook, threads: trio.CapacityLimiter, record: Abandoned, started: trio.Event) -> None:
    """Call a plain hook; `started` is set once there is a thread for it."""

    def call() -> tuple[Any]:
        trio.from_thread.run_sync(started.set)
        return (hook(record),)

    (value,) = await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
    if inspect.isawaitable(value):
        await value  # a plain function around an async one, a lambda say


def _what(head: RequestHead | None, route: str | None) -> str:
    return f"{head.method} {route or head.target}" if head is not None else "an unreadable request"


def _which(record: Completed | Abandoned) -> str:
    """An exchange in a few words. Not its fields: they may hold what belongs into no log."""
    ids = f"connection {record.connection_id}, exchange {record.exchange_number}"
    return f"{record.method or '-'} {record.target or '-'} {record.status} ({ids})"

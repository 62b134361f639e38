"""What all connections of one server share, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from trioserve.connection.idle import IdleConnections
from trioserve.connection.turns import Turns
from trioserve.core.application import Application
from trioserve.core.engine import Engine
from trioserve.core.errors import RequestError
from trioserve.core.forwarded import TrustedProxies
from trioserve.core.lifecycle import HalfClose
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import RequestHead, RequestLine
from trioserve.core.records import Abandoned, ClientAddress, Completed


class Reporter(Protocol):
    """Where connections tell what has happened. No method raises; none but `abandoned` may wait."""

    @property
    def wants_completed(self) -> bool:
        """False if nobody observes completed exchanges: then their records are not even built."""
        ...

    def completed(self, record: Completed) -> None: ...

    async def abandoned(self, record: Abandoned) -> None:
        """Tell everybody, the hooks included. Bounded in time, also when the caller is being cancelled."""
        ...

    def request_refused(
        self, client: ClientAddress | None, line: RequestHead | RequestLine | None, error: RequestError
    ) -> None:
        """A request is malformed, too large or not supported; `line` is what of it was understood."""
        ...

    def handler_failed(self, head: RequestHead | None, route: str | None, error: BaseException) -> None:
        """A handler raised while its client was there."""
        ...

    def unwind_overdue(self, head: RequestHead | None, route: str | None, seconds: float, stack: str) -> None:
        """A cancelled handler has been unwinding for `seconds` and has not ended."""
        ...

    def status_policy_failed(self, error: BaseException) -> None:
        """A user's `abandoned_status` function raised, or returned what is no status code; the default was used."""
        ...

    def internal_error(self, error: BaseException) -> None:
        """Trioserve itself made a mistake."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What all connections of one server share."""

    application: Application
    new_engine: Callable[[], Engine]
    reporter: Reporter
    limits: Limits
    deadlines: Deadlines
    half_close: HalfClose
    threads: trio.CapacityLimiter  # for plain `def` handlers
    turns: Turns  # of the exchanges that are handled at once
    idle: IdleConnections  # to be closed if there is no room for others
    proxies: TrustedProxies | None  # None where none are trusted
    date: Callable[[], bytes]  # the Date field's value now (RFC 9110 §6.6.1)
    replaced: trio.Event  # set at the order to end because others go on serving in this server's place
    stopping: trio.Event  # set at the order to stop: nobody does
    drain_begun: trio.Event  # set some steps of the scheduler after either, to wake who waits for it

    @property
    def draining(self) -> bool:
        """True from the first order to end on, from its very moment: each response announces its connection's end."""
        return self.stopping.is_set() or self.replaced.is_set()

"""Observer: any consumer of records. The access log is one; a user's metrics are another."""

from __future__ import annotations

from typing import Protocol

from trioserve.core.records import Abandoned, Completed


class Observer(Protocol):
    """Told of the end of every exchange, exactly once each.

    Called between two steps of the scheduler, so an observer must be quick and must not block. One that raises is
    logged and disturbs nobody, neither the connection nor the other observers.
    """

    def completed(self, record: Completed) -> None: ...

    def abandoned(self, record: Abandoned) -> None: ...

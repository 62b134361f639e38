"""The idle connections of a server, the longest idle first, for when room is needed.

A connection is put at the end whenever it begins to wait for a request, and stays where it is when one comes: taking it
out then would cost every request what is needed only when there is no room. So who is found at the front may be at
work, and is passed over then, once; it comes back when it is idle again. All searches together cost no more than what
was put in.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import trio

SPARED = 1.0
"""Seconds for which a connection that is idle is not closed for others: most clients that have more to ask do so at
once."""


class MayBeIdle(Protocol):
    """A connection, also before it can be served."""

    @property
    def idle_since(self) -> float | None:
        """Since when nothing of a request has come; None if something has."""
        ...

    def end_if_idle(self) -> None: ...


class IdleConnections:
    """Those of one server."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: OrderedDict[MayBeIdle, None] = OrderedDict()

    def add(self, connection: MayBeIdle) -> None:
        """It waits for a request from now on."""
        self._waiting[connection] = None
        self._waiting.move_to_end(connection)

    def discard(self, connection: MayBeIdle) -> None:
        """It has ended."""
        self._waiting.pop(connection, None)

    def close_longest(self) -> None:
        """Close the one that has been idle for longest, if one has been for SPARED seconds."""
        before = trio.current_time() - SPARED
        while self._waiting:
            connection = next(iter(self._waiting))
            since = connection.idle_since
            if since is not None and since > before:
                return
            del self._waiting[connection]
            if since is not None:
                connection.end_if_idle()
                return

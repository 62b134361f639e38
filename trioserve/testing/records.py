"""Records: all that a server tells of its exchanges, kept for a test that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from trioserve.core.records import Abandoned, ClientAddress, Completed, Record

T = TypeVar("T")

Key = tuple[ClientAddress | int | None, int]
"""A connection, by its id or its client's address, and the number of an exchange."""


class Records:
    """An observer, and with `hook` a hook, that keep what they are told, and let a test wait for it."""

    def __init__(self) -> None:
        self.all: list[Record] = []
        # What the hook was told: after the observers, when the handler has unwound.
        self.told: list[Abandoned] = []
        # For finding without looking through them, of which there may be many thousands: the first record of each
        # exchange; which records, by id, the hook was told; how many it is still to be told.
        self._by_exchange: dict[Key, Record] = {}
        self._told: set[int] = set()
        self._untold = 0
        self._news = trio.lowlevel.ParkingLot()

    def completed(self, record: Completed) -> None:
        self._note(record)

    def abandoned(self, record: Abandoned) -> None:
        self._untold += 1
        self._note(record)

    def _note(self, record: Record) -> None:
        self.all.append(record)
        for connection in (record.connection_id, record.client):
            self._by_exchange.setdefault((connection, record.exchange_number), record)
        self._news.unpark_all()

    async def hook(self, record: Abandoned) -> None:
        self.told.append(record)
        self._told.add(id(record))
        self._untold -= 1
        self._news.unpark_all()

    async def count(self, number: int) -> None:
        """Wait until there are so many records, and the hooks of the abandoned ones were called."""
        await self._until(lambda: self.all if len(self.all) >= number and self._untold <= 0 else None)

    async def of(self, connection: ClientAddress | int, number: int) -> Record:
        """Wait for the record of exchange `number` (1, 2, 3 ...) of a connection; if it is `Abandoned`, until its hook
        was called too.

        Args:
            connection: its id; or its client's address, which is what a proxy says if one is trusted.
            number: 1 is the connection's first.
        """
        return await self._until(lambda: self._of(connection, number))

    def has(self, connection: ClientAddress | int, number: int) -> bool:
        """True if the observers know the record of that exchange."""
        return (connection, number) in self._by_exchange

    def _of(self, connection: ClientAddress | int, number: int) -> Record | None:
        record = self._by_exchange.get((connection, number))
        return record if isinstance(record, Completed) or id(record) in self._told else None

    async def _until(self, look: Callable[[], T | None]) -> T:
        """Wait until `look` finds something. A checkpoint, always."""
        await trio.lowlevel.checkpoint()
        while (found := look()) is None:
            await self._news.park()
        return found

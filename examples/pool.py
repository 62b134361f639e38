"""A pool of connections to SQLite, as other examples use one. Who comes while all are in use waits for the next.

Like most pools it is closed and opened with the app, and like most pools it has a `release` that awaits: a connection
that comes back has its transaction rolled back, in a worker thread. So whoever releases one in a `finally` needs a
shield.
"""

import sqlite3
from typing import Self

import trio

in_thread = trio.to_thread.run_sync


class Pool:
    def __init__(self, path: str, size: int = 2) -> None:
        self.path = path
        self._size = size

    async def __aenter__(self) -> Self:
        self._all = [sqlite3.connect(self.path, check_same_thread=False) for _ in range(self._size)]
        self._put, self._get = trio.open_memory_channel[sqlite3.Connection](self._size)
        for connection in self._all:
            self._put.send_nowait(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._all:
            connection.close()

    @property
    def free(self) -> int:
        """How many connections nobody has."""
        return self._get.statistics().current_buffer_used

    async def acquire(self) -> sqlite3.Connection:
        return await self._get.receive()

    async def release(self, connection: sqlite3.Connection) -> None:
        await in_thread(connection.rollback)
        self._put.send_nowait(connection)

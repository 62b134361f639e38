"""A server in the test's nursery, and what it reports."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from tests.support.client import Client, connect
from tests.support.sockets import PATIENCE
from trioserve import Abandoned, App, Completed, Config, TcpAddress, serve

LOOPBACK = TcpAddress("127.0.0.1", 0)

R = TypeVar("R", Completed, Abandoned)
T = TypeVar("T")


async def happens(awaitable: Awaitable[T]) -> T:
    """The result of what should come to an end, within `PATIENCE`."""
    with trio.fail_after(PATIENCE):
        return await awaitable


class Records:
    """An observer that keeps every record, in the order in which they came."""

    def __init__(self) -> None:
        self.all: list[Completed | Abandoned] = []
        self._read = 0
        self._news = trio.Event()

    def completed(self, record: Completed) -> None:
        self._note(record)

    def abandoned(self, record: Abandoned) -> None:
        self._note(record)

    def _note(self, record: Completed | Abandoned) -> None:
        self.all.append(record)
        self._news.set()

    async def next(self, kind: type[R]) -> R:
        """The next record, which must be of this kind."""
        with trio.fail_after(PATIENCE):
            while self._read == len(self.all):
                self._news = trio.Event()
                await self._news.wait()
        record = self.all[self._read]
        self._read += 1
        assert isinstance(record, kind), record
        return record

    @property
    def unread(self) -> list[Completed | Abandoned]:
        """Records that `next` has not given out."""
        return self.all[self._read :]


@dataclass
class Running:
    """A server that runs in a test's nursery."""

    addresses: tuple[Any, ...]
    records: Records
    replace: trio.Event
    drain: trio.Event
    hasten: trio.Event  # the same as `drain`, unless the drain is to be delayed
    scope: trio.CancelScope  # cancels the server
    ended: trio.Event  # `serve` has returned
    _clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.addresses[0].port

    @property
    def url(self) -> str:
        return str(self.addresses[0])

    async def connect(self, *, receive_buffer: int | None = None) -> Client:
        """A new client of the first address; closed at the end of the test."""
        client = await connect(self.addresses[0], receive_buffer=receive_buffer)
        self._clients.append(client)
        return client

    async def ask(self, data: bytes) -> Client:
        """A new client that has sent `data`."""
        client = await self.connect()
        await client.send(data)
        return client

    async def close_clients_at_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for client in self._clients:
                client.close()


async def start(nursery: trio.Nursery, app: App, *, delays_drain: bool = False, **settings: Any) -> Running:
    """Serve `app` on loopback in the test's nursery. `settings` are those of `Config`; `listen` is a free port.

    `delays_drain`: as after SIGTERM, and not as after SIGINT.
    """
    records = Records()
    settings.setdefault("listen", (LOOPBACK,))
    config = Config(**{**settings, "observers": (records, *settings.get("observers", ()))})
    scope, ended = trio.CancelScope(), trio.Event()
    replace, drain = trio.Event(), trio.Event()
    hasten = trio.Event() if delays_drain else drain

    async def run(task_status: trio.TaskStatus[Any]) -> None:
        try:
            with scope:
                await serve(app, config, replace=replace, drain=drain, hasten=hasten, task_status=task_status)
        finally:
            ended.set()

    addresses = await nursery.start(run)
    running = Running(addresses, records, replace, drain, hasten, scope, ended)
    nursery.start_soon(running.close_clients_at_end)
    return running

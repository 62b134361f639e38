"""A server in memory, with the client and the records of the others; in virtual time if a test has an `autojump_clock`.

Nothing here has a bound in seconds: in virtual time a wait for nothing is over at once, as a deadlock.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.client import Answer, Client
from tests.support.server import Records
from trioserve import App, Config
from trioserve.testing import MemoryServer, memory_server


class MemoryClient(Client):
    """A client in memory."""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self.stream.receive_some(65536)

    def reset(self) -> None:
        self.stream.reset()

    def close(self) -> None:
        self.stream.close()


class Served:
    """An app that is served in memory."""

    def __init__(self, server: MemoryServer, records: Records) -> None:
        self.server = server
        self.records = records
        self.clients: list[MemoryClient] = []

    def connect(self) -> MemoryClient:
        client = MemoryClient(self.server.connect())
        self.clients.append(client)
        return client

    async def get(self, target: str = "/", *fields: str, method: str = "GET") -> Answer:
        """The answer to one request, on a connection of its own."""
        return await self.connect().get(target, *fields, method=method)

    async def post(self, content: bytes, target: str = "/", *fields: str) -> Answer:
        return await self.connect().post(content, target, *fields)


@contextlib.asynccontextmanager
async def in_memory(app: App, **settings: Any) -> AsyncIterator[Served]:
    """Serve `app` while the block runs. `settings` are those of `Config`."""
    records = Records()
    async with memory_server(app, Config(**settings, observers=(records,), access_log=False)) as server:
        served = Served(server, records)
        yield served
        for client in served.clients:
            client.close()


async def text_of(app: App, target: str = "/", *fields: str, method: str = "GET") -> str:
    """What a freshly served app answers, as status code and body: "200 hello"."""
    async with in_memory(app) as served:
        answer = await served.get(target, *fields, method=method)
        return f"{answer.status} {answer.body.decode()}"

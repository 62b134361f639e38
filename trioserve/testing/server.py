"""The real server on connections in memory."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trioserve.core.application import Application
from trioserve.core.target import Scheme
from trioserve.server.config import Address, Config, UnixAddress
from trioserve.server.server import Server
from trioserve.testing.transport import SEND_BUFFER, WINDOW, MemoryPeer, memory_connection

_IN_THE_CLEAR = UnixAddress("memory")


class MemoryServer:
    """A server to which clients connect in memory. Made by `memory_server`."""

    def __init__(self, server: Server, config: Config) -> None:
        self._server = server
        self._config = config
        self._ports = itertools.count(40_000)

    def connect(
        self,
        *,
        address: Address | None = None,
        scheme: Scheme = "http",
        send_buffer: int = SEND_BUFFER,
        window: int = WINDOW,
        segment: int | None = None,
        response_room: int | None = None,
    ) -> MemoryPeer:
        """A new client.

        Args:
            address: where it is as if it had connected: what that asks for (TLS, a PROXY protocol header) comes first.
            scheme: "https" for a client that counts as having come by TLS, though bytes are in the clear: this is what
                `request.scheme` says. With an address that has TLS it is "https" anyway.
            send_buffer, window: bytes, for each direction: a small window makes the server's sends block.
            segment: bytes of one receive or send at the most, on either side: a small one makes reads and writes short.
            response_room: bytes, at least 2, on the way from the server to the client, in all: so that its sends block.
        """
        peer, transport = memory_connection(
            self._server.new_spool(),
            client=("198.51.100.7", next(self._ports)),
            scheme=scheme,
            vanish=self._config.deadlines.vanish,
            send_buffer=send_buffer,
            window=window,
            segment=segment,
            response_room=response_room,
        )
        peer.connection_id = self._server.open(transport, address or _IN_THE_CLEAR)
        return peer

    @property
    def connections(self) -> trio.Nursery:
        """Where connections run, each to its end: until the hooks of its last exchange were called."""
        return self._server.connections

    async def drain(self) -> None:
        """As a server drains that nobody has to be told of: without `Deadlines.drain_delay`, and without waiting for
        clients that have not asked for anything yet. See trioserve/server/server.py.
        """
        await _drain(self._server)

    async def drain_slowly(self) -> None:
        """As a server drains after SIGTERM: first `Deadlines.drain_delay`, in which `connect` is still possible."""
        self._server.stopping.set()
        moments, never = self._server.begin_drain(), trio.Event()
        await self._server.delay_drain(moments, never)
        await self._server.drain(moments, never)


@asynccontextmanager
async def memory_server(app: Application, config: Config | None = None) -> AsyncIterator[MemoryServer]:
    """Serve `app` in memory while the block runs; at its end the server drains.

    Args:
        app: an `App`, or any other `Application`.
        config: as for `serve`; what it says of addresses has no meaning here: see `MemoryServer.connect`.
    """
    config = config or Config()
    server = Server(app, config, replaced=trio.Event(), stopping=trio.Event())
    async with server.running():
        yield MemoryServer(server, config)
        await _drain(server)


async def _drain(server: Server) -> None:
    at_once = trio.Event()
    at_once.set()
    server.stopping.set()
    await server.drain(server.begin_drain(), at_once)

"""Served: an app on the real server in memory, with all that is known of it: its records, its handlers' waits.

The app is served as it is. Nothing is registered with it: what is told of an `Abandoned` besides its own hooks, and
what watches its endpoints, is wrapped around it. So one app can be served many times, one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from trioserve.core.application import Application, Hook
from trioserve.server.config import Config
from trioserve.testing.peer import Peer
from trioserve.testing.records import Records
from trioserve.testing.server import MemoryServer, memory_server
from trioserve.testing.watching import Watch
from trioserve.testing.wrapping import WrappedApplication


class Served:
    """An app that is served in memory. Made by `served`."""

    def __init__(self, server: MemoryServer, records: Records, watch: Watch) -> None:
        self.server = server
        self.records = records
        self.watch = watch
        self._peers: list[Peer] = []

    def connect(self, **settings: Any) -> Peer:
        """A new client on raw bytes. Settings: see `MemoryServer.connect`."""
        peer = Peer(self.server.connect(**settings))
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        """Let all clients go that have not gone."""
        for peer in self._peers:
            peer.close()


@asynccontextmanager
async def served(app: Application, config: Config | None = None) -> AsyncIterator[Served]:
    """Serve `app` in memory while the block runs. At its end the clients that are still there leave, and the server
    drains.

    Args:
        app: an `App`, or any other `Application`; nothing is changed in it.
        config: as for `serve`, its observers included. There is no access log, and nothing is listened on.
    """
    records, watch = Records(), Watch()
    config = config or Config()
    config = dataclasses.replace(config, access_log=False, observers=(*config.observers, records))
    async with memory_server(_Told(watch.application(app), records.hook), config) as server:
        it = Served(server, records, watch)
        yield it
        it.close()


class _Told(WrappedApplication):
    """An application, and one hook more."""

    def __init__(self, app: Application, hook: Hook) -> None:
        super().__init__(app)
        self._hook = hook

    @property
    def hooks(self) -> Sequence[Hook]:
        return (*super().hooks, self._hook)

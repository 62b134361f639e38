"""Ordinary clients: while others attack, ask and measure. Until stdin ends; then say on stdout what was seen.

Fifty requests a second, one after another: each on a new connection (connecting is a part of its time) and each on
one that is kept, in turn. They come from an address of their own, so that the attackers' connections can be told from
theirs.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Iterator

from benchmarks.answers import hello

SERVER = "127.0.0.1"
HOST = "127.0.0.2"
INTERVAL = 0.02
PATIENCE = 5.0
"""Seconds after which a request counts as not answered."""


def connection(port: int) -> socket.socket:
    return socket.create_connection((SERVER, port), timeout=PATIENCE, source_address=(HOST, 0))


class Kept:
    """One connection, opened anew if it broke."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock: socket.socket | None = None

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        if self._sock is None:
            self._sock = connection(self._port)
        try:
            yield self._sock
        except BaseException:
            self._sock.close()
            self._sock = None
            raise


def main() -> None:
    port = int(sys.argv[1])
    kept = Kept(port)
    kinds = {"new": lambda: connection(port), "kept": kept.connection}
    delays: dict[str, list[float]] = {kind: [] for kind in kinds}
    troubles: list[str] = []
    due = time.monotonic()
    while True:
        for kind, opened in kinds.items():
            due = max(due + INTERVAL, time.monotonic())
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                print(json.dumps({"delays": delays, "troubles": troubles}))
                return
            begun = time.monotonic()
            try:
                with opened() as sock:
                    hello(sock)
            except (OSError, ValueError) as error:
                troubles.append(f"{kind} connection: {type(error).__name__}: {error}")
            else:
                delays[kind].append(time.monotonic() - begun)


if __name__ == "__main__":
    main()

"""What the bare servers share: accept, and a task for each connection. Not more, or they would not be bare."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable

import trio

Serve = Callable[[socket.socket], Awaitable[None]]
"""Serves a non-blocking connection until its peer closes it."""


def run(serve: Serve, port: int) -> None:
    """Serve on loopback for ever."""
    trio.run(_accept, serve, port)


async def _accept(serve: Serve, port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=2048) as listener:
        listener.settimeout(0)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                with contextlib.suppress(BlockingIOError):
                    while True:  # all that have come, for one wake-up
                        connection, _ = listener.accept()
                        nursery.start_soon(_serve, serve, connection)


async def _serve(serve: Serve, connection: socket.socket) -> None:
    connection.settimeout(0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            await serve(connection)
        except (ConnectionResetError, BrokenPipeError):
            pass  # the load generator leaves without reading its last answers

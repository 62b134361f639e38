"""Raw sockets on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import trio

PATIENCE = 10
"""Seconds after which an event that should come counts as missing. No test waits so long unless it fails."""


@contextmanager
def tcp_pair(*, receive_buffer: int | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected pair of non-blocking TCP sockets: (the server's, the client's). Both are closed at the end.

    `receive_buffer` is the server's, from the handshake on; None leaves it to the system.
    """
    with socket.socket() as listener, socket.socket() as client:
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.settimeout(0)
            client.settimeout(0)
            yield server, client


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def something_arrives(sock: socket.socket | int) -> None:
    """Wait until the socket (or another descriptor) has something to read: bytes, a FIN or a RST."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_readable(sock)

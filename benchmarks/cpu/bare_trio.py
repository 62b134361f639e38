"""The floor: trio waits, the socket receives and sends, and nobody looks at the bytes."""

from __future__ import annotations

import socket

import trio

from benchmarks.cpu.bare import run

ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 13\r\n"
    b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nHello, world!"
)
"""As long as the others' answers."""


async def serve(connection: socket.socket) -> None:
    while True:
        await trio.lowlevel.wait_readable(connection)
        if not connection.recv(65_536):
            return
        connection.send(ANSWER)


if __name__ == "__main__":
    run(serve)

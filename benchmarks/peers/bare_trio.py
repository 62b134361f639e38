"""The floor: trio waits, the socket receives and sends, and nobody understands the bytes.

One floor for each workload that has one (FLOORS), since what must be received and sent differs. None parses: where a
request is more than one `recv`, its end is known by its length.
"""

from __future__ import annotations

import argparse
import json
import socket

import trio

from benchmarks.peers.bare import Serve, run
from benchmarks.peers.content import DOCUMENT, ECHO, HELLO, LARGE, UPLOAD

HEAD_END = b"\r\n\r\n"
SMALL = 65_536


def answer(body: bytes, more: bytes = b"") -> bytes:
    """Its head is about as long as trioserve's; others have a field more, or name another type."""
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: %d\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n%b\r\n%b" % (len(body), more, body)
    )


HELLO_ANSWER = answer(HELLO.encode())
CLOSING_ANSWER = answer(HELLO.encode(), b"connection: close\r\n")
LARGE_ANSWER = answer(LARGE)


def fixed(answer: bytes) -> Serve:
    async def serve(connection: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(connection)
            if not connection.recv(SMALL):
                return
            connection.send(answer)

    return serve


async def close(connection: socket.socket) -> None:
    await trio.lowlevel.wait_readable(connection)
    if connection.recv(SMALL):
        connection.send(CLOSING_ANSWER)


async def large(connection: socket.socket) -> None:
    while True:
        await trio.lowlevel.wait_readable(connection)
        if not connection.recv(SMALL):
            return
        rest = memoryview(LARGE_ANSWER)
        while rest:
            try:
                rest = rest[connection.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(connection)


async def pipelined(connection: socket.socket) -> None:
    """As many answers as there are requests; wrk sends sixteen at once, and they arrive so."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        data = connection.recv(SMALL)
        if not data:
            return
        connection.send(HELLO_ANSWER * data.count(HEAD_END))


def taking(length: int, answer: bytes) -> Serve:
    """A body of that length. The first piece has the head and says where it ends."""

    async def serve(connection: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(connection)
            data = connection.recv(SMALL)
            if not data:
                return
            received = len(data) - data.index(HEAD_END) - len(HEAD_END)
            while received < length:
                await trio.lowlevel.wait_readable(connection)
                data = connection.recv(SMALL)
                if not data:
                    return
                received += len(data)
            connection.send(answer)

    return serve


FLOORS: dict[str, Serve] = {
    "plain": fixed(HELLO_ANSWER),
    "json": fixed(answer(json.dumps(DOCUMENT, separators=(",", ":")).encode())),
    "parameters": fixed(answer(b"4711 green 3")),
    "echo": taking(len(ECHO), answer(ECHO)),
    "close": close,
    "large": large,
    "pipelined": pipelined,
    "upload": taking(len(UPLOAD), answer(str(len(UPLOAD)).encode())),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("floor", choices=FLOORS)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    run(FLOORS[options.floor], options.port)


if __name__ == "__main__":
    main()

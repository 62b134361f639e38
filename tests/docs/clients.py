"""Clients in memory for the programs in the documents, and an observer that keeps what was abandoned."""

from __future__ import annotations

import trio

from trioserve import Abandoned
from trioserve.testing import MemoryPeer, MemoryServer


class Log:
    """An observer that keeps what was abandoned."""

    def __init__(self) -> None:
        self.records: list[Abandoned] = []

    def completed(self, record) -> None: ...

    def abandoned(self, record: Abandoned) -> None:
        self.records.append(record)


def request(line: str, body: bytes = b"", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"{line} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n".encode() + body


async def ask(server: MemoryServer, line: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status code and the body of an answer that comes whole."""
    async with server.connect() as client:
        await client.send_all(request(line, body))
        received = b"".join([data async for data in client])
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def leave(client: MemoryPeer, data: bytes, after: float = 1) -> None:
    """Send a request, read for so many seconds, and hang up."""
    await client.send_all(data)
    with trio.move_on_after(after):
        async for _ in client:
            pass
    client.close()


async def receive_all(client: MemoryPeer, at_most: float) -> tuple[bytes, bool]:
    """What comes until the server closes, or until so many seconds have passed; and if it has closed."""
    received = b""
    with trio.move_on_after(at_most) as waiting:
        async for data in client:
            received += data
    return received, not waiting.cancelled_caught

"""Clients that ask for something and leave: a mixture of requests, of moments, and of ways to leave."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
from collections.abc import Callable
from typing import NamedTuple

import trio

from benchmarks.leaving import Leaving, leave
from benchmarks.server_process import ServerProcess

HOST = "127.0.0.1"

LONGEST_STAY = 0.02
"""Seconds. Each client leaves at a random moment up to this one, so that some leave before their handler starts."""

START_PATIENCE = 10.0
"""Seconds for a handler to start."""

WAYS = (Leaving.CLOSE, Leaving.RESET)


class Request(NamedTuple):
    """What a client sends, and how often, of ten clients."""

    data: bytes
    share: int


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def _post(path: str, framing: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n".encode() + body


REQUESTS = (
    Request(_get("/sleep"), 2),
    Request(_get("/nursery"), 1),
    Request(_get("/thread"), 1),
    Request(_get("/stream"), 1),
    Request(_get("/flood"), 1),
    Request(_post("/sleep", "content-length: 1000000", b"x" * 50_000), 1),  # unread
    Request(_post("/read", "transfer-encoding: chunked", b"1000\r\n" + b"x" * 100), 1),  # truncated
    Request(_post("/read", "content-length: 10\r\nexpect: 100-continue", b""), 1),
    Request(_get("/sleep") * 3, 1),  # pipelined
)


class Starts:
    """What the server tells of handlers that start, by the client's port."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._waiting: dict[int, trio.Event] = {}

    async def of(self, port: int) -> None:
        """Wait until the handler of the client with this port starts. `expect` it before the request is sent.

        Raises:
            trio.TooSlowError: it does not.
        """
        with trio.fail_after(START_PATIENCE):
            await self._waiting[port].wait()

    def expect(self, port: int) -> None:
        self._waiting[port] = trio.Event()

    async def listen(self) -> None:
        unparsed = b""
        while True:
            await trio.lowlevel.wait_readable(self._pipe)
            *lines, unparsed = (unparsed + os.read(self._pipe, 65_536)).split(b"\n")
            for line in lines:
                started = self._waiting.get(json.loads(line)["started"])
                if started is not None:
                    started.set()


async def abandon(server: ServerProcess, requests: int, concurrency: int, progress: Callable[[], None]) -> None:
    """Send and abandon so many requests, each on a connection of its own, so many at a time."""
    chance = random.Random(requests)
    kinds = [request.data for request in REQUESTS for _ in range(request.share)]
    work = (
        (data, way, chance.uniform(0, LONGEST_STAY))
        for data, way in itertools.islice(itertools.cycle(itertools.product(kinds, WAYS)), requests)
    )
    starts = Starts(server.output)

    async def client() -> None:
        for data, way, stay in work:
            await _abandon_one(server.port, starts, data, way, stay)
            progress()

    async with trio.open_nursery() as listening:
        listening.start_soon(starts.listen)
        async with trio.open_nursery() as clients:
            for _ in range(concurrency):
                clients.start_soon(client)
        listening.cancel_scope.cancel()


async def _abandon_one(server_port: int, starts: Starts, data: bytes, way: Leaving, stay: float) -> None:
    sock = trio.socket.socket()
    await sock.connect((HOST, server_port))
    port = sock.getsockname()[1]
    starts.expect(port)
    await sock.send(data)  # all of it: the client's buffer is empty and larger
    if way is Leaving.RESET:
        # A reset can overtake its own request, and of a connection on which nothing was read there is no record.
        await starts.of(port)
    await trio.sleep(stay)
    # The bare socket, so that nothing stands between us and the way in which we leave.
    trio.lowlevel.notify_closing(sock)
    leave(socket.socket(fileno=sock.detach()), way)

"""Clients that ask until they are told that it is over. None of them asks again for what was not answered.

A request counts as lost if its connection is refused or breaks, or if another answer comes than the right one. A client
that keeps its connection does so until an answer says `Connection: close`, as RFC 9112 §9.6 wants it; it never leaves a
connection idle for longer than PAUSE, which is well below the drain's delay.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from benchmarks.answers import HELLO

PAUSE = 0.05
"""Seconds between two requests of a client, at the most."""

PATIENCE = 30.0
"""Seconds after which an answer counts as lost."""

READY = b"ready"
"""What is answered to who asks whether more requests are welcome."""

_GET = b"GET %b HTTP/1.1\r\nHost: rolling\r\n%b\r\n"
_POST = b"POST /echo HTTP/1.1\r\nHost: rolling\r\nContent-Length: %d\r\n\r\n"
_CLOSE = b"Connection: close\r\n"
_CONTENT = bytes(range(256)) * 4


class Answer(NamedTuple):
    """What came of it: the status code, the content, the process that gave it, and whether it is the last."""

    status: int
    content: bytes
    worker: str
    closes: bool


class LostError(Exception):
    """The server owes an answer, and has not given it."""


class Ledger:
    """What all clients have seen."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.over = False
        self.answered: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.why: Counter[str] = Counter()
        self.workers: set[str] = set()
        self._news = trio.lowlevel.ParkingLot()

    def note(self, kind: str, answer: Answer) -> None:
        self.answered[kind] += 1
        self.workers.add(answer.worker)
        self._news.unpark_all()

    def note_lost(self, kind: str, why: str) -> None:
        self.lost[kind] += 1
        self.why[f"{kind}: {why}"] += 1
        self._news.unpark_all()

    async def more(self, count: int) -> None:
        """Wait until each kind of client has got (or lost) so many answers more."""
        wanted = {kind: self._asked(kind) + count for kind in KINDS}
        while any(self._asked(kind) < wanted[kind] for kind in KINDS):
            await self._news.park()

    def _asked(self, kind: str) -> int:
        return self.answered[kind] + self.lost[kind]


Ask = Callable[[trio.SocketStream], Awaitable[Answer]]


async def keep_alive(ledger: Ledger, kind: str, ask: Ask, chance: random.Random) -> None:
    """One request after another on a connection, with pauses."""
    while not ledger.over:
        stream = await _connected(ledger, kind)
        if stream is None:
            continue
        async with stream:
            answer: Answer | None = None
            while not ledger.over and (answer is None or not answer.closes):
                answer = await _answered(ledger, kind, ask, stream)
                if answer is None:
                    break
                await trio.sleep(chance.uniform(0, PAUSE))


async def one_each(ledger: Ledger, kind: str, ask: Ask, chance: random.Random) -> None:
    """A connection for each request."""
    while not ledger.over:
        stream = await _connected(ledger, kind)
        if stream is not None:
            async with stream:
                await _answered(ledger, kind, ask, stream)
        await trio.sleep(chance.uniform(0, PAUSE))


async def _connected(ledger: Ledger, kind: str) -> trio.SocketStream | None:
    try:
        with trio.fail_after(PATIENCE):
            stream = await trio.open_tcp_stream("127.0.0.1", ledger.port)
    except (OSError, trio.TooSlowError) as error:
        ledger.note_lost(kind, f"cannot connect: {error!r}")
        await trio.sleep(PAUSE)
        return None
    ledger.connections[kind] += 1
    return stream


async def _answered(ledger: Ledger, kind: str, ask: Ask, stream: trio.SocketStream) -> Answer | None:
    try:
        with trio.fail_after(PATIENCE):
            answer = await ask(stream)
    except (LostError, trio.BrokenResourceError, trio.TooSlowError) as error:
        ledger.note_lost(kind, f"{type(error).__name__}: {error}")
        return None
    ledger.note(kind, answer)
    return answer


async def get(stream: trio.SocketStream) -> Answer:
    await stream.send_all(_GET % (b"/", b""))
    return await _right(stream, HELLO)


async def get_and_close(stream: trio.SocketStream) -> Answer:
    await stream.send_all(_GET % (b"/", _CLOSE))
    return await _right(stream, HELLO)


async def get_slowly(stream: trio.SocketStream) -> Answer:
    """As over a line on which a round trip takes long: nothing comes for a while after the connection is there."""
    await trio.sleep(PAUSE)
    return await get_and_close(stream)


async def check_readiness(stream: trio.SocketStream) -> Answer:
    """As a balancer that keeps its connection: refused, it would send nobody any more to a service that goes on."""
    await stream.send_all(_GET % (b"/ready", b""))
    return await _right(stream, READY)


async def post_in_two(stream: trio.SocketStream) -> Answer:
    """A request that takes a while to arrive."""
    await stream.send_all(_POST % len(_CONTENT) + _CONTENT[:100])
    await trio.sleep(PAUSE)
    await stream.send_all(_CONTENT[100:])
    return await _right(stream, _CONTENT)


async def _right(stream: trio.SocketStream, content: bytes) -> Answer:
    answer = await _read(stream)
    if (answer.status, answer.content) != (200, content):
        raise LostError(f"another answer: {answer.status} {answer.content[:60]!r}")
    return answer


async def _read(stream: trio.SocketStream) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _more(stream)
    head, _, content = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("ascii").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(content) < int(fields["content-length"]):
        content += await _more(stream)
    return Answer(
        int(status_line.split(" ")[1]), content, fields.get("x-worker", ""), fields.get("connection") == "close"
    )


async def _more(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(65_536)
    if not data:
        raise LostError("the server closed the connection instead of answering")
    return data


KINDS: dict[str, tuple[Callable[[Ledger, str, Ask, random.Random], Awaitable[None]], Ask]] = {
    "keep-alive": (keep_alive, get),
    "keep-alive, uploads in two pieces": (keep_alive, post_in_two),
    "keep-alive, readiness": (keep_alive, check_readiness),
    "one request a connection": (one_each, get_and_close),
    "one request a connection, after a while": (one_each, get_slowly),
}

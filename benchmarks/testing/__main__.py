"""`python -m benchmarks.testing`: how many exchanges a second a test can play in memory, with trioserve.testing."""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from benchmarks.tables import load_average, measured_where, publish, table
from trioserve import Abandoned, App, Config, Request
from trioserve.testing import (
    MemoryServer,
    Peer,
    Records,
    VirtualClock,
    Way,
    leave_at_every_point,
    memory_server,
    run,
)

EXCHANGES = 1_000
CROWD = 32
"""Clients at once."""

GET = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"
SLEEP = b"GET /sleep HTTP/1.1\r\nHost: example\r\n\r\n"
BODY = bytes(8_192)
POST = b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 8192\r\n\r\n" + BODY

CLOCKS: dict[str, Callable[[], trio.abc.Clock]] = {
    "VirtualClock": VirtualClock,
    "MockClock, autojump": functools.partial(MockClock, autojump_threshold=0),
}


def application() -> App:
    app = App()

    @app.get("/")
    async def greet() -> str:
        return "hello"

    @app.post("/")
    async def take(request: Request) -> str:
        await request.body()
        return "hello"

    @app.get("/sleep")
    async def sleep() -> str:
        await trio.sleep(30)
        return "hello"

    return app


@dataclass(frozen=True)
class Stage:
    """What a situation plays on."""

    server: MemoryServer
    records: Records
    answer_sizes: dict[bytes, int] = field(default_factory=dict)

    def connect(self) -> Peer:
        return Peer(self.server.connect())

    async def ask(self, client: Peer, request: bytes, pieces: Sequence[int] = ()) -> None:
        """One exchange. Every answer is of one length."""
        await client.send(request, pieces=pieces)
        if (size := self.answer_sizes.get(request)) is None:
            answer = b""
            while not answer.endswith(b"hello"):
                answer += await client.receive()
            self.answer_sizes[request] = len(answer)
        else:
            answer = await client.read(size)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"hello")


async def on_one_connection(stage: Stage, request: bytes, exchanges: int, pieces: Sequence[int] = ()) -> None:
    client = stage.connect()
    for _ in range(exchanges):
        await stage.ask(client, request, pieces)
    client.close()


async def on_a_connection_each(stage: Stage, exchanges: int) -> None:
    for _ in range(exchanges):
        await on_one_connection(stage, GET, 1)


async def in_a_crowd(stage: Stage, exchanges: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(on_one_connection, stage, GET, exchanges // CROWD)


async def leaving(stage: Stage, exchanges: int, way: Way) -> None:
    for _ in range(exchanges):
        client = stage.connect()
        await client.send(SLEEP)
        await trio.sleep(1)
        client.leave(way)
        record = await stage.records.of(client.client, 1)
        assert isinstance(record, Abandoned)
        assert record.cause == way.name


Situation = Callable[[Stage, int], Awaitable[None]]

SITUATIONS: dict[str, Situation] = {
    "an answer at once, on one connection": lambda stage, count: on_one_connection(stage, GET, count),
    "the same, on a connection each": on_a_connection_each,
    f"the same, {CROWD} clients at once": in_a_crowd,
    "8 KiB of body": lambda stage, count: on_one_connection(stage, POST, count),
    "the same, in pieces of 512 bytes": lambda stage, count: on_one_connection(stage, POST, count, [512]),
    "the handler sleeps for 30 s": lambda stage, count: on_one_connection(stage, SLEEP, count),
    "the client leaves after 1 s, by FIN": lambda stage, count: leaving(stage, count, Way.FIN),
    "the client leaves after 1 s, by RST": lambda stage, count: leaving(stage, count, Way.RESET),
}


async def exchanges_a_second(situation: Situation, exchanges: int) -> float:
    """Real ones; the server's start and end are not counted."""
    records = Records()
    app = application()
    app.on_abandoned(records.hook)
    config = Config(access_log=False, observers=(records,))
    async with memory_server(app, config) as server:
        stage = Stage(server, records)
        await situation(stage, CROWD)
        begun = time.perf_counter()
        await situation(stage, exchanges)
        return exchanges / (time.perf_counter() - begun)


CARELESS, SAFE = "gives it back after the last await", "gives it back in a finally"


def three_awaits(taken: list[str]) -> App:
    """A handler with three awaits that takes something, and gives it back."""
    app = App()

    async def work() -> None:
        for _ in range(3):
            await trio.sleep(1)

    @app.get("/")
    async def careless() -> str:
        taken.append("slot")
        await work()
        taken.clear()
        return "hello"

    @app.get("/safe")
    async def safe() -> str:
        taken.append("slot")
        try:
            await work()
        finally:
            taken.clear()
        return "hello"

    return app


def seconds_of_leaving_everywhere(kind: str) -> tuple[float, str]:
    """Of one call, and what came of it."""
    taken: list[str] = []
    app, target = three_awaits(taken), "/" if kind == CARELESS else "/safe"
    begun = time.perf_counter()
    try:
        tally = run(leave_at_every_point, app, target, snapshot=lambda: len(taken), around=lambda: emptied(taken))
    except AssertionError:
        return time.perf_counter() - begun, "found"
    return time.perf_counter() - begun, f"{tally.total} plays, safe"


@contextmanager
def emptied(taken: list[str]) -> Iterator[None]:
    """What one play has left does not count in the next."""
    taken.clear()
    yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exchanges", type=int, default=EXCHANGES, help=f"for each figure (default: {EXCHANGES})")
    parser.add_argument("--markdown", metavar="FILE")
    arguments = parser.parse_args()
    load = load_average()

    measured: dict[tuple[str, str], list[float]] = {(name, clock): [] for name in SITUATIONS for clock in CLOCKS}
    for _ in range(arguments.rounds):
        for (name, clock), figures in measured.items():
            play = functools.partial(exchanges_a_second, SITUATIONS[name], arguments.exchanges)
            figures.append(trio.run(play, clock=CLOCKS[clock]()))

    rows = [[name, *(f"{statistics.median(measured[name, clock]):,.0f}" for clock in CLOCKS)] for name in SITUATIONS]
    columns = ["exchanges a second", *(f">{clock}" for clock in CLOCKS)]
    proofs = []
    for kind in (CARELESS, SAFE):
        results = [seconds_of_leaving_everywhere(kind) for _ in range(arguments.rounds)]
        seconds = statistics.median(seconds for seconds, _ in results)
        proofs.append([f"takes something, awaits three times, {kind}", results[0][1], f"{seconds:.2f}"])
    proof_columns = ["leave_at_every_point, on a handler that", "result", ">seconds"]
    publish(f"{measured_where(load)}\n\n{table(columns, rows)}\n\n{table(proof_columns, proofs)}", arguments.markdown)


if __name__ == "__main__":
    main()

"""A retry storm: clients that give up after 50 ms and try again. How many answers a second still get out as the load
grows past what can be served?

Behind the handler is a back end with two places and a queue of two; it refuses further calls with a 503. A call takes
it 20 ms, but every fifth 200 ms; which ones is chance, so whoever has waited 50 ms does well to give up and ask again.
(If every call took 200 ms, no such client would ever be answered, by any server.) A client tries three times; after a
503 it pauses as long as it would have waited.

Where the departure ends a call, its place is free again after 50 ms at the latest; where it does not, the back end
works on for nobody, for up to 150 ms more, and calls for nobody fill the queue.

Load 1 is what the back end can answer if nobody has to queue: an answer takes one call of 20 ms, and before it a
quarter of a call that is given up after 50 ms. Requests come evenly spaced, whatever became of those before them. The
back end is so small that no server's own cost is in the way, and a connection that has brought an answer is used again;
only one that is given up is closed.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from benchmarks.abandonment.asking import HOST
from benchmarks.abandonment.peers import Peer, chosen, row_of_each
from benchmarks.abandonment.servers.backend import PLACES
from benchmarks.answers import request
from benchmarks.options import Options, Progress
from benchmarks.results import Figure, Result, Row

NAME = "retry storm"

QUICK = 0.02
SLOW = 0.2
"""Seconds that a call takes ..."""
SLOW_SHARE = 0.2
"""... and how many of the calls are slow."""

GIVE_UP = 0.05
"""Seconds after which a client leaves."""

TRIES = 3
LOADS = (1.0, 2.0, 4.0)

WARM_UP = 0.5
"""Seconds of each load that are not counted: until all who came in them have gone."""


def capacity() -> float:
    """Answers a second that the back end can give, if nothing is done for those who gave up."""
    given_up_for_each_answer = SLOW_SHARE / (1 - SLOW_SHARE)
    return PLACES / (QUICK + given_up_for_each_answer * GIVE_UP)


@dataclass(frozen=True, slots=True)
class Point:
    """What came of one load.

    Args:
        load: requests, over what can be answered.
        requests: how many came; each is tried several times.
        seconds: in which they came.
        ends: how tries ended: by an answer, refused, given up, or broken.
    """

    load: float
    requests: int
    seconds: float
    answered: int
    ends: Counter[str]

    @property
    def answers_a_second(self) -> float:
        return self.answered / self.seconds


def loads_of(options: Options) -> tuple[float, ...]:
    return LOADS[::2] if options.quick else LOADS


def seconds_of(options: Options) -> float:
    return 1.5 if options.quick else 2.0


def _estimate(options: Options) -> float:
    return len(loads_of(options)) * (1.0 + WARM_UP + seconds_of(options))


def seconds(options: Options) -> float:
    return _estimate(options) * len(chosen(options, engines=False))


def measure(options: Options, progress: Progress) -> Result:
    rows, left_out = row_of_each(
        chosen(options, engines=False),
        lambda peer: as_row(peer, storm(peer, loads_of(options), seconds_of(options), options.server_core)),
        progress,
        _estimate(options),
    )
    return Result(
        NAME,
        "A retry storm: clients give up after 50 ms and try again",
        rows,
        text=f"Answers a second that get out, by the load; {capacity():.0f} a second are load 1. The back end has "
        f"{PLACES} places; a call takes {QUICK * 1000:.0f} ms, every fifth {SLOW * 1000:.0f} ms." + left_out,
    )


def as_row(peer: Peer, points: Sequence[Point]) -> Row:
    figures = {f"load {point.load:g}": Figure("1/s", (point.answers_a_second,)) for point in points}
    most = points[-1]
    ends = ", ".join(f"{count} {end}" for end, count in sorted(most.ends.items()))
    return Row(peer.name, figures, f"tries at load {most.load:g}: {ends}")


def storm(peer: Peer, loads: Sequence[float], seconds: float, core: int | None) -> list[Point]:
    """Each load on a server of its own, so that none suffers from the one before."""
    points = []
    for load in loads:
        with peer.start(core) as server:
            points.append(trio.run(put_load, server.port, load, seconds))
    return points


async def put_load(port: int, load: float, seconds: float) -> Point:
    rate = load * capacity()
    requests = round(rate * (WARM_UP + seconds))
    chance = random.Random(1)
    answered = counted = 0
    ends: Counter[str] = Counter()
    connections = Connections(port)

    async def client(calls: list[float], *, counts: bool) -> None:
        nonlocal answered
        for takes in calls:
            end = await connections.one_try(takes)
            if counts:
                ends[end] += 1
                answered += end == ANSWERED
            if end == ANSWERED:
                return
            if end == REFUSED:
                await trio.sleep(GIVE_UP)

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(requests):
            comes = number / rate
            await trio.sleep_until(begun + comes)
            calls = [SLOW if chance.random() < SLOW_SHARE else QUICK for _ in range(TRIES)]
            counts = comes >= WARM_UP
            counted += counts
            nursery.start_soon(lambda calls=calls, counts=counts: client(calls, counts=counts))
    connections.close()
    return Point(load, counted, seconds, answered, ends)


ANSWERED, REFUSED, GIVEN_UP, BROKEN = "answered", "refused", "given up", "broken"


class Connections:
    """The clients' connections, which all of them share: one that has brought an answer is used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[trio.SocketStream] = []

    async def one_try(self, takes: float) -> str:
        """How it ended. Connecting is a part of what a client has patience for."""
        stream: trio.SocketStream | None = None
        try:
            with trio.move_on_after(GIVE_UP):
                stream = self._idle.pop() if self._idle else await trio.open_tcp_stream(HOST, self._port)
                await stream.send_all(request(path=f"/call/{takes * 1000:.0f}"))
                status = await _status(stream)
                self._idle.append(stream)
                stream = None
                return {200: ANSWERED, 503: REFUSED}.get(status, BROKEN)
            return GIVEN_UP
        except (OSError, trio.BrokenResourceError):
            return BROKEN
        finally:
            if stream is not None:
                stream.socket.close()

    def close(self) -> None:
        for stream in self._idle:
            stream.socket.close()


async def _status(stream: trio.SocketStream) -> int:
    """The status code of an answer that has come whole."""
    data = b""
    while not (whole := _ANSWER.match(data)) or len(data) < whole.end() + int(whole[2]):
        more = await stream.receive_some(65_536)
        if not more:
            raise trio.BrokenResourceError
        data += more
    return int(whole[1])


_ANSWER = re.compile(rb"HTTP/1.1 ([0-9]{3}).*?\r\ncontent-length: *([0-9]+).*?\r\n\r\n", re.IGNORECASE | re.DOTALL)

"""Wasted work: what does a server do for clients that are not there any more?

Clients ask for work of 20 slices of 1 ms of CPU each; every second one leaves. In one shape a client leaves at any
moment of the work; in the other before it, while its handler waits for somebody else.

Two figures, of which 1 is the least, and which must agree:

* **by slices**: all slices that were begun, over those of them that were of use. Of use is every slice for a client
  that stayed, and for one that left every slice that had begun when it closed.
* **by CPU**: the CPU time of the server's processes, over what the slices of use cost. What one costs is taken from
  a second load, of only those who stay, just as many: its CPU time over its slices. It has all that a request costs
  beside the slices, too.

Where the clients leave before the work, nothing that was done for them is of use, and the figure by CPU is the plain
quotient of both loads: what a server burns when half of the clients leave, over what the other half needs.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.abandonment.asking import PATIENCE, begin, notes_of
from benchmarks.abandonment.peers import PEERS, Peer, chosen, row_of_each
from benchmarks.abandonment.servers.backend import SLICE, SLICES
from benchmarks.answers import read_answer
from benchmarks.options import Options, Progress
from benchmarks.process_facts import exact_cpu_seconds
from benchmarks.promises import at_most
from benchmarks.results import Figure, Result, Row
from benchmarks.server_process import ServerProcess

NAME = "wasted work"
OURS = PEERS[0].name

AT_ONCE = 4
"""Clients at a time."""

SETTLE = 0.2
"""Seconds for a server to end what it does, before its CPU time is read: far more than what can be in hand, if the CPU
is not taken away."""


@dataclass(frozen=True, slots=True)
class Shape:
    """When the clients leave that do.

    Args:
        wait: milliseconds for which a handler waits before its work.
        leaves_within: seconds; a leaving client closes at a random moment from its request until then.
    """

    name: str
    wait: int
    leaves_within: float


SHAPES = (
    # With four at once, work that takes 20 ms alone takes some 60 to 80.
    Shape("leave in the work", wait=0, leaves_within=0.06),
    Shape("leave before it", wait=50, leaves_within=0.04),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What one load came to.

    Args:
        closes: when each client left that was not answered, by its request's name.
        slices: when each slice began, by the request's name.
        cpu: seconds of CPU time of the server's processes.
    """

    closes: Mapping[int, float]
    slices: Mapping[int, list[float]]
    cpu: float

    @property
    def begun(self) -> int:
        """All slices."""
        return sum(map(len, self.slices.values()))

    @property
    def of_use(self) -> int:
        """The slices for those who stayed, and of those for the others the ones that had begun when they left."""
        return sum(at <= self.closes.get(name, float("inf")) for name, moments in self.slices.items() for at in moments)


@dataclass(frozen=True, slots=True)
class Waste:
    """Both figures; 1 is none."""

    by_slices: float
    by_cpu: float


def waste(half_leave: Load, rest_alone: Load) -> Waste:
    """Compare a load of which a part leaves with one of only those who stay, just as many as stayed."""
    a_slice = rest_alone.cpu / rest_alone.begun
    return Waste(
        by_slices=half_leave.begun / half_leave.of_use,
        by_cpu=half_leave.cpu / (half_leave.of_use * a_slice),
    )


def rounds_of(options: Options) -> int:
    return 1 if options.quick else min(options.rounds, 2)


def requests_of(options: Options) -> int:
    return 16 if options.quick else 40


def _estimate(options: Options) -> float:
    a_load = SETTLE + 0.3 + requests_of(options) * 0.8 * SLICES * SLICE
    return 1.0 + rounds_of(options) * len(SHAPES) * 2 * a_load


def seconds(options: Options) -> float:
    return _estimate(options) * len(chosen(options, engines=False))


def measure(options: Options, progress: Progress) -> Result:
    rows, left_out = row_of_each(
        chosen(options, engines=False), lambda peer: one_server(peer, options), progress, _estimate(options)
    )
    ours = next((row.figures for row in rows if row.name == OURS), {})
    return Result(
        NAME,
        "Wasted work: every second client leaves early",
        rows,
        tuple(at_most(f"{OURS}: {name}", round(figure.median, 3), 1.05) for name, figure in ours.items()),
        f"{SLICES} slices of {SLICE * 1000:g} ms for each request, {AT_ONCE} at once. What was done, over what was of "
        "use: 1 is no waste. Of use is all that is done for those who stay, and what was done for the others until "
        "they left." + left_out,
    )


def one_server(peer: Peer, options: Options) -> Row:
    figures: dict[str, list[float]] = defaultdict(list)
    with peer.start(options.server_core) as server:
        names = itertools.count()
        put_load(server.port, SHAPES[0], [None] * AT_ONCE, names)  # what is made late is there then
        for _ in range(rounds_of(options)):
            for shape in SHAPES:
                wasted = waste(*measure_waste(server, shape, requests_of(options), names))
                figures[f"{shape.name}: slices"].append(wasted.by_slices)
                figures[f"{shape.name}: CPU"].append(wasted.by_cpu)
    return Row(peer.name, {name: Figure("", tuple(values)) for name, values in figures.items()})


def measure_waste(server: ServerProcess, shape: Shape, requests: int, names: Iterator[int]) -> tuple[Load, Load]:
    """Both loads, on one server: half of `requests` leave, then those who stayed alone."""
    chance = random.Random(1)
    plan = [chance.uniform(0, shape.leaves_within) if number % 2 else None for number in range(requests)]
    half_leave = measured(server, shape, plan, names)
    return half_leave, measured(server, shape, [None] * (requests - len(half_leave.closes)), names)


def measured(server: ServerProcess, shape: Shape, plan: list[float | None], names: Iterator[int]) -> Load:
    known = notes_of(server.port).slices.keys()
    before = exact_cpu_seconds(server.pid)
    closes = put_load(server.port, shape, plan, names)
    time.sleep(SETTLE + AT_ONCE * SLICES * SLICE)
    after = exact_cpu_seconds(server.pid)
    slices = notes_of(server.port).slices
    return Load(closes, {name: slices[name] for name in slices.keys() - known}, after - before)


def put_load(port: int, shape: Shape, plan: list[float | None], names: Iterator[int]) -> dict[int, float]:
    """Ask for each of the plan, some at once; a number is after how many seconds to leave. Returns who left, when."""
    todo = iter(plan)
    closes: dict[int, float] = {}
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                try:
                    leaves_after = next(todo)
                except StopIteration:
                    return
                name = next(names)
            closed = ask(port, f"/work/{name}/{shape.wait}", leaves_after)
            if closed is not None:
                closes[name] = closed

    threads = [threading.Thread(target=client, daemon=True) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return closes


def ask(port: int, path: str, leaves_after: float | None) -> float | None:
    """Ask, and leave after a while or take in the answer, whichever comes first. Returns when it left, if it did."""
    with begin(port, path) as sock:
        sock.settimeout(PATIENCE if leaves_after is None else max(leaves_after, 0.0001))
        try:
            status, _ = read_answer(sock)
        except TimeoutError:
            if leaves_after is None:
                raise
            left = time.monotonic()
            sock.close()
            return left
    if status != 200:
        raise ValueError(f"the answer to {path} is {status}")
    return None

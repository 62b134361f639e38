"""`python -m benchmarks.slow`: slowhttptest's four attacks and ordinary clients. Exit code 1 if a promise is broken."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import process_facts
from benchmarks.promises import Promise, at_least, at_most, exactly, exit_code, promise_table
from benchmarks.server_process import ServerProcess
from benchmarks.slow import ordinary
from benchmarks.slow.attacks import Attack, attacks
from benchmarks.slow.server import deadlines
from benchmarks.tables import load_average, measured_where, publish, table
from trioserve import Limits

HOST = "127.0.0.1"

LOOK = 0.2
"""Seconds between two looks at the server."""

TOLERANCE = 2.0
"""Seconds that one may be seen longer than it may be held: of a thousand that are cut at once one is the last."""

ORDINARY_PATIENCE = 1.0
"""Seconds in which each request of an ordinary client must be answered, attack or not."""

MEMORY_NOISE = 16_384
"""Kilobytes that the server may grow besides, for its ordinary clients and by the allocator."""

SYSTEM_MEMORY = 512
"""Kilobytes that the system's TCP may need for an attacker, both ends together: they are on the same machine."""

TOOK_PLACE = 0.9
"""The part of the connections that must have been held at the same time, or there was no attack to speak of."""


@dataclass(slots=True)
class Seen:
    """What was seen during one attack, or without one. Times are in seconds, memory in kilobytes."""

    name: str
    delays: dict[str, list[float]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    before: int = 0
    peak: int = 0
    most_held: int = 0  # attackers' connections, at the same time
    longest: float = 0.0  # that one of them was held
    system_before: int = 0  # memory of the system's TCP, of all that runs on this machine
    system_peak: int = 0
    left: int = 0  # connections of attackers that were still held at the end
    stories: Counter[str] = field(default_factory=Counter)

    @property
    def all_delays(self) -> list[float]:
        return sorted(delay for delays in self.delays.values() for delay in delays)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow", description=__doc__)
    parser.add_argument("--connections", type=int, default=1000, help="of attackers (default: 1,000)")
    parser.add_argument("--rate", type=int, help="of their opening, a second (default: 200, times --hurry)")
    parser.add_argument("--hurry", type=float, default=1, help="divide the server's deadlines by this (default: 1)")
    parser.add_argument("--quiet", type=float, default=15, help="seconds without an attack, first (default: 15)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only attacks with TEXT in their name")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    rate = options.rate or round(200 * options.hurry)
    load = load_average()

    if shutil.which("slowhttptest") is None:
        print(
            "benchmarks.slow: slowhttptest is not installed; on Debian: apt-get install slowhttptest", file=sys.stderr
        )
        return 2
    chosen = [a for a in attacks(deadlines(options.hurry), Limits(), options.hurry) if options.only in a.name]
    seen, promises = [], []
    with ServerProcess("benchmarks.slow.server", f"--hurry={options.hurry}") as server:
        print(f"no attack, {options.quiet:g} s", file=sys.stderr, flush=True)
        seen.append(without_attack(server, options.quiet))
        promises += served(seen[-1])
    # A server of its own for each, so that the memory of one does not hide that of the next.
    for attack in chosen:
        with ServerProcess("benchmarks.slow.server", f"--hurry={options.hurry}") as server:
            seen.append(under_attack(server, attack, options.connections, rate))
        promises += [*served(seen[-1]), *withstood(seen[-1], attack, options.connections)]
    publish(
        f"{measured_where(load)}\n\n{delays_table(seen)}\n\n{attackers_table(seen[1:], chosen)}\n\n"
        + promise_table(promises),
        options.markdown,
    )
    return exit_code(promises)


def without_attack(server: ServerProcess, seconds: float) -> Seen:
    seen = Seen("none")
    with OrdinaryClients(server, seen):
        time.sleep(seconds)
    return seen


def under_attack(server: ServerProcess, attack: Attack, connections: int, rate: int) -> Seen:
    seen = Seen(attack.name)
    before = look_at(server)
    seen.before = process_facts.resident_kilobytes(server.pid)
    seen.system_before = process_facts.system_tcp_kilobytes()
    opening = connections / rate
    until = time.monotonic() + opening + attack.longest + TOLERANCE + 2
    with OrdinaryClients(server, seen):
        attackers = slowhttptest(server, attack, connections, rate, until - time.monotonic() + 5)
        try:
            watch(server, seen, attackers, until)
        finally:
            attackers.terminate()
            attackers.wait()
    seen.stories = look_at(server) - before
    return seen


def slowhttptest(
    server: ServerProcess, attack: Attack, connections: int, rate: int, seconds: float
) -> subprocess.Popen[bytes]:
    """Start it. It opens no connection again that was closed, and ends when none is left, or after `seconds`."""
    how_many = ["-c", str(connections), "-r", str(rate), "-l", str(round(seconds)), "-p", str(round(ordinary.PATIENCE))]
    command = ["slowhttptest", *attack.options, *how_many, "-u", f"http://{HOST}:{server.port}{attack.path}"]
    print(" ".join(command), file=sys.stderr, flush=True)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def watch(server: ServerProcess, seen: Seen, attackers: subprocess.Popen[bytes], until: float) -> None:
    """Look at the server until the attack is over or should be."""
    first_seen: dict[process_facts.Held, float] = {}
    said = 0.0
    while True:
        now = time.monotonic()
        held = [one for one in process_facts.held_connections(server.port) if one.host == HOST]
        first_seen = {one: first_seen.get(one, now) for one in held}
        resident = process_facts.resident_kilobytes(server.pid)
        seen.peak = max(seen.peak, resident)
        seen.system_peak = max(seen.system_peak, process_facts.system_tcp_kilobytes())
        seen.most_held = max(seen.most_held, len(held))
        seen.longest = max([seen.longest, *(now - first for first in first_seen.values())])
        seen.left = len(held)
        if now - said >= 5:
            said = now
            print(f"{seen.name}: {len(held):,} held, {resident / 1024:.0f} MB", file=sys.stderr, flush=True)
        if now > until or (attackers.poll() is not None and not held):
            return
        time.sleep(LOOK)


def look_at(server: ServerProcess) -> Counter[str]:
    """What the records have said so far."""
    with server.statistics() as told:
        return Counter(told)


class OrdinaryClients:
    """They ask in a process of their own as long as the block lasts; then what they saw is in `seen`."""

    def __init__(self, server: ServerProcess, seen: Seen) -> None:
        self._port = server.port
        self._seen = seen

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.slow.ordinary", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __exit__(self, *_: object) -> None:
        told = json.loads(self._process.communicate(timeout=2 * ordinary.PATIENCE)[0])
        self._seen.delays, self._seen.troubles = told["delays"], told["troubles"]
        for trouble in self._seen.troubles[:10]:
            print(f"{self._seen.name}: an ordinary client was not served: {trouble}", file=sys.stderr, flush=True)


def served(seen: Seen) -> list[Promise]:
    slowest = max(seen.all_delays, default=float("inf"))
    return [
        exactly(f"{seen.name}: ordinary requests not answered", len(seen.troubles), 0),
        at_most(f"{seen.name}: slowest ordinary answer", round(slowest * 1000), ORDINARY_PATIENCE * 1000, " ms"),
    ]


def withstood(seen: Seen, attack: Attack, connections: int) -> list[Promise]:
    memory = MEMORY_NOISE + attack.memory * connections
    took_place = at_least(f"{seen.name}: attackers at once", seen.most_held, TOOK_PLACE * connections)
    return [
        *([took_place] if attack.stays else []),
        exactly(f"{seen.name}: records of {attack.story}", seen.stories[attack.story], connections),
        at_most(f"{seen.name}: longest held", round(seen.longest, 1), round(attack.longest + TOLERANCE, 1), " s"),
        exactly(f"{seen.name}: held at the end", seen.left, 0),
        at_most(f"{seen.name}: memory more", seen.peak - seen.before, memory, " KB"),
        at_most(
            f"{seen.name}: kernel's TCP memory more",
            seen.system_peak - seen.system_before,
            MEMORY_NOISE + SYSTEM_MEMORY * connections,
            " KB",
        ),
    ]


def delays_table(all_seen: Sequence[Seen]) -> str:
    columns = ("attack", "ordinary requests on", ">answered", ">p50 ms", ">p99 ms", ">max ms")
    rows = []
    for seen in all_seen:
        for kind, delays in seen.delays.items():
            figures = (statistics.median(delays), percentile(delays, 0.99), max(delays)) if delays else ()
            rows.append((seen.name, f"a {kind} connection", f"{len(delays):,}", *(f"{f * 1000:.2f}" for f in figures)))
    return table(columns, rows)


def percentile(figures: Sequence[float], part: float) -> float:
    """The figure that so large a part of them does not exceed."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))]


def attackers_table(all_seen: Sequence[Seen], chosen: Sequence[Attack]) -> str:
    columns = (
        "attack",
        ">held at once",
        ">longest held, s",
        ">allowed, s",
        ">held at the end",
        ">resident before, MB",
        ">peak, MB",
        ">kernel's TCP more, MB",
        "what the records say",
    )
    rows = [
        (
            seen.name,
            f"{seen.most_held:,}",
            f"{seen.longest:.1f}",
            f"{attack.longest:.1f}",
            f"{seen.left:,}",
            f"{seen.before / 1024:.0f}",
            f"{seen.peak / 1024:.0f}",
            f"{(seen.system_peak - seen.system_before) / 1024:.0f}",
            ", ".join(f"{story} ({count:,})" for story, count in seen.stories.most_common(4)),
        )
        for seen, attack in zip(all_seen, chosen, strict=True)
    ]
    return table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())

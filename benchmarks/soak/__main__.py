"""`python -m benchmarks.soak`: mixed traffic, a third of it hostile. Exit code 1 if a promise is broken."""

from __future__ import annotations

import argparse
import random
import ssl
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from benchmarks import process_facts
from benchmarks.promises import Promise, at_least, at_most, exactly, exit_code, promise_table
from benchmarks.server_process import Living, ServerProcess
from benchmarks.soak import misbehaving
from benchmarks.soak.ledger import NO_RECORD, TOO_MANY, WRONG_RECORD, Complaints, Ledger
from benchmarks.soak.misbehaving import Ports
from benchmarks.soak.server import LONGEST_HELD
from benchmarks.soak.traffic import WRONG_ANSWER, Traffic
from benchmarks.tables import load_average, measured_where, publish, table
from trioserve import HangupNews

WARM_UP = 0.1
"""The part of the time that goes before, and is no part of the comparison."""

LEAST_WARM_UP = 10.0
"""Seconds that it takes at least: by then there has been a crowd, and the allocator has found its size."""

LOOK = 0.5
"""Seconds between two looks at the server while it works."""

DESCRIPTORS_BESIDE = 60
"""Descriptors of the server beyond one for each client: its own, and as many as may be asked for files at a time; a
quarter of all is its reserve. With a crowd there are too few."""

SETTLE_PATIENCE = 40.0
"""Seconds until what is gone must be seen to be gone. trio keeps idle worker threads for 10."""

TOLERANCE = 2.0
"""Seconds that one may be seen longer than it may be held: it is looked for at intervals, on a busy machine."""

MEMORY_ALLOWANCE = 8192
"""Kilobytes of resident memory that the allocator may hold more in the end."""

BLOCKS_ALLOWANCE = 3000
"""Blocks of memory that may be in use beyond those before. Resident memory tells nothing of a small leak once much was
in use for a while, as by clients that push; this does."""

OUT_OF_DESCRIPTORS = "cannot accept connections: %s"
"""How the line begins that is logged when there are none; it is repeated once a minute at most, with a count."""


@dataclass(frozen=True, slots=True)
class Look(Living):
    """What is in the server while all is quiet."""

    blocks: int  # of memory that are in use, of Python's allocator
    kilobytes: int
    hook_calls: int
    log_lines: Counter[str]


@dataclass(slots=True)
class Watch:
    """What was seen of the server while it worked. Memory in kilobytes."""

    memory: list[int] = field(default_factory=list)
    most_descriptors: int = 0
    most_held: int = 0
    longest_held: float = 0.0  # seconds, of a misbehaving client's connection


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of traffic, besides a warm-up (default: 600)")
    parser.add_argument("--clients", type=int, default=60, help="at once; each third misbehaves (default: 60)")
    parser.add_argument("--crowd", type=int, default=60, help="connections that come at once, silently (default: 60)")
    parser.add_argument("--descriptors", type=int, help=f"of the server (default: clients + {DESCRIPTORS_BESIDE})")
    parser.add_argument("--hangup-news", choices=("kernel", "read-ahead"), default=HangupNews.KERNEL.value)
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance (default: 1)")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    load = load_average()
    descriptors = options.descriptors or options.clients + DESCRIPTORS_BESIDE

    arguments = (f"--descriptors={descriptors}", f"--hangup-news={options.hangup_news}")
    with ServerProcess("benchmarks.soak.server", *arguments) as server:
        soak = Soak(server, options)
        trio.run(soak.run)
        promises = soak.promises()
        publish(f"{measured_where(load)}\n\n{soak.tables()}\n\n{promise_table(promises)}", options.markdown)
    return exit_code(promises)


class Soak:
    """One soak: a warm-up, a look, the traffic, a look."""

    def __init__(self, server: ServerProcess, options: argparse.Namespace) -> None:
        self._server = server
        self._seconds: float = options.seconds
        self.complaints = Complaints()
        self._ledger = Ledger(self.complaints)
        context = ssl.create_default_context(cadata=server.announced["authority"])
        self._ports = Ports(server.port, server.announced["tls_port"], context)
        self._traffic = Traffic(
            self._ports,
            self._ledger,
            self.complaints,
            clients=options.clients,
            crowd=options.crowd,
            chance=random.Random(options.seed),
        )
        self._watch = Watch()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ledger.listen, self._server.output)
            nursery.start_soon(self._look_on)
            nursery.start_soon(self._say_how_it_goes)
            await self._traffic.run(max(self._seconds * WARM_UP, LEAST_WARM_UP))
            self._before = await self._when_quiet(lambda look: look.threads == 1)
            self._watch.memory.clear()
            self._begun = time.monotonic()
            await self._traffic.run(self._seconds)
            self._after = await self._when_quiet(lambda look: look.has_no_more_than(self._before))
            self._ledger.audit()
            nursery.cancel_scope.cancel()

    async def _look_on(self) -> None:
        first_seen: dict[process_facts.Held, float] = {}
        watch, pid = self._watch, self._server.pid
        while True:
            now = trio.current_time()
            held = process_facts.held_connections(self._ports.clear, self._ports.tls)
            hostile = [one for one in held if one.host == misbehaving.HOST]
            first_seen = {one: first_seen.get(one, now) for one in hostile}
            watch.longest_held = max([watch.longest_held, *(now - first for first in first_seen.values())])
            watch.most_held = max(watch.most_held, len(held))
            watch.most_descriptors = max(watch.most_descriptors, process_facts.file_descriptors(pid))
            watch.memory.append(process_facts.resident_kilobytes(pid))
            await trio.sleep(LOOK)

    async def _say_how_it_goes(self) -> None:
        begun = trio.current_time()
        while True:
            await trio.sleep(5)
            print(
                f"{trio.current_time() - begun:.0f} s: {self._traffic.answered.total():,} answered rightly, "
                f"{self._traffic.misbehaved.total():,} misbehaved, {self._ledger.records:,} records, "
                f"{self._watch.memory[-1] / 1024:.0f} MB, complaints: {dict(self.complaints.counts) or 'none'}",
                file=sys.stderr,
                flush=True,
            )

    async def _when_quiet(self, done: Callable[[Look], bool]) -> Look:
        """The first look at which all is done, no client is there and no record outstanding; or the last one."""
        with trio.move_on_after(SETTLE_PATIENCE):
            while not self._is_quiet():  # noqa: ASYNC110 - it is another process that becomes quiet
                await trio.sleep(LOOK)
        until = trio.current_time() + SETTLE_PATIENCE
        while True:
            look = await trio.to_thread.run_sync(look_at, self._server)
            if done(look) or trio.current_time() > until:
                return look
            await trio.sleep(LOOK)

    def _is_quiet(self) -> bool:
        return not self._ledger.outstanding() and not process_facts.held_connections(self._ports.clear, self._ports.tls)

    # What it came to

    def promises(self) -> list[Promise]:
        counts, before, after = self.complaints.counts, self._before, self._after
        starved = sum(count for line, count in after.log_lines.items() if line.startswith(OUT_OF_DESCRIPTORS))
        fifth = max(1, len(self._watch.memory) // 5)
        early = statistics.median(self._watch.memory[fifth : 2 * fifth] or [0])
        late = statistics.median(self._watch.memory[-fifth:])
        return [
            exactly(WRONG_ANSWER, counts[WRONG_ANSWER], 0),
            at_least("right answers to well-behaved clients", self._traffic.answered.total(), 1),
            exactly(NO_RECORD, counts[NO_RECORD], 0),
            exactly(TOO_MANY, counts[TOO_MANY], 0),
            exactly(WRONG_RECORD, counts[WRONG_RECORD], 0),
            exactly(
                "hook calls, one for each record of an abandoned exchange", after.hook_calls, self._ledger.abandoned
            ),
            at_least("lines in the error log that there are no descriptors left", starved, 1),
            exactly("other lines in the error log", after.log_lines.total() - starved, 0),
            at_most(
                "longest held of those who misbehave",
                round(self._watch.longest_held, 1),
                LONGEST_HELD + TOLERANCE,
                " s",
            ),
            at_most("tasks in the end", after.tasks, before.tasks),
            at_most("descriptors in the end", after.descriptors, before.descriptors),
            at_most("threads in the end", after.threads, before.threads),
            at_most("objects of trioserve in the end", after.objects, before.objects),
            at_most("blocks of memory in use in the end", after.blocks, before.blocks + BLOCKS_ALLOWANCE),
            at_most("resident memory in the end", after.kilobytes, before.kilobytes + MEMORY_ALLOWANCE, " KB"),
            at_most("resident memory at work, last fifth", late, early + MEMORY_ALLOWANCE, " KB"),
        ]

    def tables(self) -> str:
        traffic, ledger, watch = self._traffic, self._ledger, self._watch
        figures = [
            ("answers verified byte for byte", f"{traffic.answered.total():,}"),
            ("connections that misbehaved", f"{traffic.misbehaved.total():,}"),
            ("records", f"{ledger.records:,}"),
            ("of abandoned exchanges", f"{ledger.abandoned:,}"),
            ("most connections at once", f"{watch.most_held:,}"),
            ("most descriptors at once", f"{watch.most_descriptors:,}"),
            ("most resident memory, MB", f"{max(watch.memory) / 1024:.0f}"),
        ]
        return "\n\n".join(
            [
                table(("seen", ">"), figures),
                counted("answered rightly", traffic.answered),
                counted("misbehaved", traffic.misbehaved),
                counted("what the records say", ledger.stories),
            ]
        )


def counted(what: str, counts: Counter[str]) -> str:
    return table((what, ">how often"), [(one, f"{count:,}") for one, count in counts.most_common()])


def look_at(server: ServerProcess) -> Look:
    with server.statistics() as told:
        return Look(
            tasks=told["tasks"],
            descriptors=process_facts.file_descriptors(server.pid),
            threads=process_facts.threads(server.pid),
            objects=told["objects"],
            blocks=told["blocks"],
            kilobytes=process_facts.resident_kilobytes(server.pid),
            hook_calls=told["hook calls"],
            log_lines=Counter(told["log lines"]),
        )


if __name__ == "__main__":
    sys.exit(main())

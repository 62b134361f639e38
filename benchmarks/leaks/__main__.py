"""`python -m benchmarks.leaks`: is anything left after many abandoned requests? Exit code 1 if so."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass

import trio

from benchmarks import process_facts
from benchmarks.leaks.clients import abandon
from benchmarks.server_process import Living, ServerProcess
from benchmarks.tables import load_average, measured_where, publish, table

WARM_UP = 2000
"""Requests abandoned before the first look: caches fill, and the allocator finds its size."""

SETTLE_PATIENCE = 40.0
"""Seconds until what is gone must be seen to be gone. trio keeps idle worker threads for 10."""

MEMORY_ALLOWANCE = 4096
"""Kilobytes that the allocator may hold more than before. It came to 1,300 to 2,800, after 10,000 requests as after
40,000; a leak of half a kilobyte a request is beyond it."""


@dataclass(frozen=True, slots=True)
class Look(Living):
    """What lives in the server. The looking connection and its request are in it, each time alike."""

    kilobytes: int
    completed: int
    abandoned: int
    hook_calls: int
    stories: Counter[str]


def look(server: ServerProcess) -> Look:
    with server.statistics() as told:
        return Look(
            tasks=told["tasks"],
            descriptors=process_facts.file_descriptors(server.pid),
            threads=process_facts.threads(server.pid),
            objects=told["objects"],
            kilobytes=process_facts.resident_kilobytes(server.pid),
            completed=told["completed"],
            abandoned=told["abandoned"],
            hook_calls=told["hook calls"],
            stories=Counter(told["stories"]),
        )


def settled(server: ServerProcess, as_before: Look | None = None) -> Look:
    """The first look at which everything is as it was before, or at which the threads are gone; else the last one."""
    until = time.monotonic() + SETTLE_PATIENCE
    while True:
        seen = look(server)
        done = seen.threads == 1 if as_before is None else seen.has_no_more_than(as_before)
        if done or time.monotonic() > until:
            return seen
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaks", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="to abandon (default: 10,000)")
    parser.add_argument("--concurrency", type=int, default=16, help="at the same time (default: 16)")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    load = load_average()

    with ServerProcess("benchmarks.leaks.server") as server:
        trio.run(abandon, server, WARM_UP, options.concurrency, Progress("warm-up", WARM_UP))
        before = settled(server)
        trio.run(abandon, server, options.requests, options.concurrency, Progress("requests", options.requests))
        after = settled(server, before)

    checks = compared(before, after, options.requests)
    rows = [(what, f"{was:,}", f"{is_:,}", "ok" if ok else "**LEAK**") for what, was, is_, ok in checks]
    stories = (after.stories - before.stories).most_common()
    publish(
        f"{measured_where(load)}\n\n{table(('', '>before', '>after', ''), rows)}\n\n"
        + table(("what the records say", ">how often"), [(story, f"{count:,}") for story, count in stories]),
        options.markdown,
    )
    return 0 if all(ok for *_, ok in checks) else 1


def compared(before: Look, after: Look, requests: int) -> list[tuple[str, int, int, bool]]:
    records = after.abandoned - before.abandoned
    return [
        ("tasks", before.tasks, after.tasks, after.tasks <= before.tasks),
        ("file descriptors", before.descriptors, after.descriptors, after.descriptors <= before.descriptors),
        ("threads", before.threads, after.threads, after.threads <= before.threads),
        ("objects of trioserve", before.objects, after.objects, after.objects <= before.objects),
        (
            "resident memory, KB",
            before.kilobytes,
            after.kilobytes,
            after.kilobytes - before.kilobytes <= MEMORY_ALLOWANCE,
        ),
        ("records of abandoned requests", before.abandoned, after.abandoned, records == requests),
        (
            "hook calls",
            before.hook_calls,
            after.hook_calls,
            after.hook_calls - before.hook_calls == records,
        ),
    ]


class Progress:
    """Call it for each request; it says on stderr each tenth."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        if self._done % max(1, self._total // 10) == 0:
            print(f"{self._what}: {self._done:,}/{self._total:,}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Throw mutated requests at the server: `python -m tests.fuzz [--inputs N] [--seed N] [--processes N]`.

Each input is played whole, cut at random, and (one in sixteen) by the byte. What breaks a rule is printed with the
number that makes it again: `python -m tests.fuzz --again NUMBER`.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

import trio
from trio.testing import MockClock

from tests.fuzz.throw import thrown

BATCH = 500
"""Inputs that are thrown at one server."""

Tally = collections.Counter[str]


def batch(numbers: range) -> tuple[Tally, list[str]]:
    """Throw the inputs of these numbers; what came of them, and what broke."""
    tally: Tally = collections.Counter()
    broken: list[str] = []
    trio.run(thrown, numbers, tally, broken, clock=MockClock(autojump_threshold=0))
    return tally, broken


def batches(first: int, inputs: int) -> Iterator[range]:
    end = first + inputs
    for begin in range(first, end, BATCH):
        yield range(begin, min(begin + BATCH, end))


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--inputs", type=int, default=20_000, help="how many inputs; default %(default)s")
    options.add_argument("--seed", type=int, default=0, help="number of the first input; default %(default)s")
    options.add_argument("--processes", type=int, default=os.cpu_count(), help="default: as many as processors")
    options.add_argument("--again", type=int, metavar="NUMBER", help="throw this input alone")
    chosen = options.parse_args()
    if chosen.again is not None:
        chosen.seed, chosen.inputs, chosen.processes = chosen.again, 1, 1
    began = time.monotonic()
    tally: Tally = collections.Counter()
    broken: list[str] = []
    with multiprocessing.Pool(chosen.processes) as pool:
        for count, (part, what) in enumerate(pool.imap_unordered(batch, batches(chosen.seed, chosen.inputs)), 1):
            tally += part
            broken += what
            for line in what:
                print(line, flush=True)
            if sys.stderr.isatty() or count % 40 == 0:
                print(f"{tally['inputs']:,} inputs, {len(broken)} broken rules", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    inputs, plays = tally.pop("inputs"), tally.pop("plays")
    print(f"\n{inputs:,} inputs in {plays:,} plays, {seconds:.0f} s; broken rules: {len(broken)}")
    print("\n| what the records say | how often |\n| --- | ---: |")
    for what, number in sorted(tally.items()):
        print(f"| {what} | {number:,} |")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.rolling`: replace the workers of a server under load. Exit code 1 if a request is lost."""

from __future__ import annotations

import argparse
import sys

import trio

from benchmarks.promises import Promise, at_least, exactly, exit_code, promise_table
from benchmarks.rolling.clients import KINDS, Ledger
from benchmarks.rolling.restarts import WORKERS, Rolling
from benchmarks.tables import load_average, measured_where, publish, table

PATIENCE = 30.0
"""Seconds for one restart, on a busy machine."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rolling", description=__doc__)
    parser.add_argument("--restarts", type=int, default=10, help="of all workers (default: 10)")
    parser.add_argument("--clients", type=int, default=8, help="of each kind (default: 8)")
    parser.add_argument("--delay", type=float, default=1.0, help="of the drain, in seconds (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the clients' pauses (default: 1)")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    load = load_average()
    patience = PATIENCE * (options.restarts + 1) + options.delay
    ledger = trio.run(Rolling(options.restarts, options.clients, options.delay, patience, options.seed).run)
    for why, count in ledger.why.most_common():
        print(f"lost, {count} times: {why}", file=sys.stderr)
    kept = promises(ledger, options.restarts)
    publish(f"{measured_where(load)}\n\n{figures(ledger)}\n\n{promise_table(kept)}", options.markdown)
    return exit_code(kept)


def promises(ledger: Ledger, restarts: int) -> list[Promise]:
    """What is promised: nothing is lost, and the workers were really others each time."""
    return [
        exactly("lost requests", ledger.lost.total(), 0),
        at_least("workers that have answered", len(ledger.workers), WORKERS * restarts),
        *(at_least(f"answers, {kind}", ledger.answered[kind], 10 * restarts) for kind in KINDS),
    ]


def figures(ledger: Ledger) -> str:
    columns = ("clients", ">answered", ">lost", ">connections")
    counts = [ledger.answered, ledger.lost, ledger.connections]
    rows = [(kind, *(f"{count[kind]:,}" for count in counts)) for kind in KINDS]
    return table(columns, [*rows, ("all", *(f"{count.total():,}" for count in counts))])


if __name__ == "__main__":
    sys.exit(main())

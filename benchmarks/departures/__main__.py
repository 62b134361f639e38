"""`python -m benchmarks.departures`: the departure table."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter

from benchmarks.departures.measure import Amount, Row, Servers, measure
from benchmarks.departures.situations import ToldBy, situations
from benchmarks.percentiles import percentile
from benchmarks.tables import load_average, measured_where, publish, table
from trioserve import HangupNews

COLUMNS = (
    "situation",
    "leaves by",
    ">p50 ms",
    ">p99 ms",
    ">max ms",
    ">noticed",
    "what the record says; what else was seen",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.departures", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200, help="of each situation (default: 200)")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each situation, at the most (default: 8)")
    parser.add_argument("--hangup-news", choices=("kernel", "read-ahead"), default=HangupNews.KERNEL.value)
    parser.add_argument("--only", metavar="TEXT", default="", help="only situations with TEXT in their name")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    load = load_average()

    chosen = [situation for situation in situations() if options.only in situation.name]
    amount = Amount(options.repetitions, least=min(10, options.repetitions), seconds=options.seconds)
    numbers = itertools.count(1)
    with Servers(options.hangup_news) as servers:
        rows = measure(
            chosen, servers, amount, lambda row: say(f"[{next(numbers)}/{len(chosen)}] {row.situation.name}\n")
        )
    publish(f"{measured_where(load)}\n\n{table(COLUMNS, [cells(row) for row in rows])}", options.markdown)


def say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def cells(row: Row) -> tuple[str, ...]:
    situation = row.situation
    figures = [milliseconds(percentile(row.delays, percent)) for percent in (50, 99, 100)] if row.delays else ["-"] * 3
    return situation.name, situation.leaving, *figures, f"{len(row.delays)}/{row.departures}", seen(row)


def seen(row: Row) -> str:
    parts = [counted(row.stories, row.departures)] if row.stories else []
    if row.remarks:
        parts.append(counted(row.remarks, row.departures))
    if row.situation.told_by is ToldBy.NOTHING:
        parts.append(f"not cancelled; answered {row.answers}/{row.departures}")
    elif len(row.delays) < row.departures:
        missed = row.departures - len(row.delays)
        parts.append(f"**NOT NOTICED within {row.situation.patience:g} s: {missed} of {row.departures}**")
    return "; ".join(parts)


def counted(words: Counter[str], total: int) -> str:
    """The words, with their count unless it is all."""
    return ", ".join(word if count == total else f"{word} ({count})" for word, count in words.most_common())


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f}" if seconds < 0.1 else f"{seconds * 1000:.0f}"


if __name__ == "__main__":
    main()

"""Two reports beside each other: what has changed, and whether that is more than chance.

A cell is compared as a ratio to the floor where both reports have one in that measurement, since the machine may have
been slower on one of the days; else as it is. Its change is told apart from chance if the spreads of the two do not
overlap: the least of the one is above the greatest of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.results import Figure, Report, Result
from benchmarks.suite.measure import CPU, RATE
from benchmarks.suite.peers import title_of
from benchmarks.suite.report import FLOOR, spread
from benchmarks.tables import table

MORE_IS_BETTER = {"1/s"}
"""Units of which more is better; of all others less is."""


class Change(NamedTuple):
    """One cell of two reports."""

    measurement: str
    row: str
    what: str
    before: Figure
    after: Figure
    more_is_better: bool

    @property
    def ratio(self) -> float:
        return self.after.median / self.before.median if self.before.median else 1.0

    @property
    def verdict(self) -> str:
        if self.row == FLOOR:
            return "the machine"
        if self.after.least <= self.before.greatest and self.before.least <= self.after.greatest:
            return "as before"
        return "better" if (self.after.median > self.before.median) == self.more_is_better else "**worse**"


def changes(before: Report, after: Report) -> Iterator[Change]:
    """For each cell that both have, in the order of `after`."""
    for result in after.results:
        old = before.result(result.name)
        if old is not None:
            yield from _changes(old, result)


def _changes(before: Result, after: Result) -> Iterator[Change]:
    floors = (before.row(FLOOR), after.row(FLOOR))
    for row in after.rows:
        old_row = before.row(row.name)
        if old_row is None:
            continue
        for column, new in row.figures.items():
            old = old_row.figures.get(column)
            if old is None or old.unit != new.unit or column == RATE:
                continue  # the rate tells nothing that the cost does not, and less surely
            if column == CPU and floors[0] is not None and floors[1] is not None and row.name != FLOOR:
                pair = old.to(floors[0].figures[CPU]), new.to(floors[1].figures[CPU])
                yield Change(after.name, row.name, "x floor", *pair, more_is_better=False)
            else:
                yield Change(after.name, row.name, column, old, new, more_is_better=new.unit in MORE_IS_BETTER)


def as_markdown(before: Report, after: Report) -> str:
    rows = [
        (
            change.measurement,
            title_of(change.row),
            change.what,
            spread(change.before),
            spread(change.after),
            f"{(change.ratio - 1) * 100:+.1f} %",
            change.verdict,
        )
        for change in changes(before, after)
    ]
    if not rows:
        return "The two have nothing in common that could be compared."
    return table(("measurement", "server", "", ">before", ">now", ">change", ""), rows)

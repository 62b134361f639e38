"""What the suite's measurements hand back, and the file that it is kept in.

A `Report` has the results of one run; a `Result` is what one measurement found (a workload, or a way to leave): a table
whose rows are servers or situations; a `Figure` is a cell of it: one quantity, measured once or several times.

The file is JSON, so that runs can be compared, and other programs can read it. What is derived (medians, ratios,
verdicts) is computed where it is shown, and is in no file.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.promises import Promise

FORMAT = 2
"""Of the file. Another number is another meaning."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, in one unit, in the order in which it was measured: one value a round, or a single one.

    Raises:
        ValueError: no value.
    """

    unit: str  # "us", "ms", "KB", "1/s"; "" for a ratio or a number
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a figure needs at least one value")

    @classmethod
    def once(cls, value: float, unit: str = "") -> Self:
        return cls(unit, (float(value),))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def greatest(self) -> float:
        return max(self.values)

    @property
    def between(self) -> tuple[float, float]:
        """Where the median lies with 95 % certainty, by the order of the values alone: each is above it or below it as
        heads or tails are. Of fewer than nine values, these are the least and the greatest.
        """
        count = len(self.values)
        dropped, outside = 0, 2.0 ** (1 - count)  # the chance that the median is beyond the outermost values
        while (outside := outside + math.comb(count, dropped + 1) * 2.0 ** (1 - count)) <= 0.05:
            dropped += 1
        ordered = sorted(self.values)
        return ordered[dropped], ordered[-1 - dropped]

    def to(self, base: Figure) -> Figure:
        """How many times the other, round by round, since what disturbs the machine disturbs a whole round."""
        return Figure("", tuple(own / other for own, other in zip(self.values, base.values, strict=True)))


@dataclass(frozen=True, slots=True)
class Row:
    """A server or a situation, and what was measured of it, by column."""

    name: str
    figures: Mapping[str, Figure]
    note: str = ""  # what a reader of the table must know, such as requests that timed out


@dataclass(frozen=True, slots=True)
class Result:
    """What one measurement found. The columns of its table are those of its rows, in the order of their first use."""

    name: str  # as in --only
    title: str
    rows: tuple[Row, ...]
    promises: tuple[Promise, ...] = ()
    text: str = ""  # Markdown above the table: what was done, in a sentence or two

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for row in self.rows for column in row.figures))

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the suite."""

    conditions: Mapping[str, str]  # the command, the day, the commit, the machine, the versions
    results: tuple[Result, ...]
    left_out: tuple[str, ...] = ()  # one line for each server that could not be measured, with the reason
    promises: tuple[Promise, ...] = field(default=())  # those that compare one measurement with another

    def result(self, name: str) -> Result | None:
        return next((result for result in self.results if result.name == name), None)

    @property
    def all_promises(self) -> tuple[Promise, ...]:
        return self.promises + tuple(promise for result in self.results for promise in result.promises)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(as_json(self), indent=1) + "\n")


def as_json(report: Report) -> dict[str, Any]:
    plain = asdict(report)
    plain["promises"] = [promise._asdict() for promise in report.promises]
    for result, its in zip(plain["results"], report.results, strict=True):
        result["promises"] = [promise._asdict() for promise in its.promises]
    return {"format": FORMAT, **plain}


def load(path: Path) -> Report:
    """The report that was saved there.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or of another format. The message names the file.
    """
    try:
        return from_json(json.loads(path.read_text()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not what --save writes: {error!r}") from error


def from_json(plain: Mapping[str, Any]) -> Report:
    if plain["format"] != FORMAT:
        raise ValueError(f"its format is {plain['format']}, and ours is {FORMAT}")
    return Report(
        conditions=plain["conditions"],
        results=tuple(_result(result) for result in plain["results"]),
        left_out=tuple(plain["left_out"]),
        promises=_promises(plain["promises"]),
    )


def _result(plain: Mapping[str, Any]) -> Result:
    rows = tuple(
        Row(
            row["name"],
            {name: Figure(figure["unit"], tuple(figure["values"])) for name, figure in row["figures"].items()},
            row["note"],
        )
        for row in plain["rows"]
    )
    return Result(plain["name"], plain["title"], rows, _promises(plain["promises"]), plain["text"])


def _promises(plain: list[Mapping[str, Any]]) -> tuple[Promise, ...]:
    return tuple(Promise(**promise) for promise in plain)

"""A report as Markdown: what was promised, a table for each measurement, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.promises import promise_table
from benchmarks.results import Figure, Report, Result, Row
from benchmarks.suite.measure import CPU, RATE
from benchmarks.suite.peers import title_of
from benchmarks.tables import table

FLOOR = "floor"


def as_markdown(report: Report) -> str:
    parts = ["# Results", conditions(report)]
    if report.all_promises:
        parts += ["## Promises", promise_table(report.all_promises)]
    for result in report.results:
        parts += [f"## {result.title}", *([result.text] if result.text else []), result_table(result)]
    if report.left_out:
        parts += ["## Left out", "\n".join(f"* {line}" for line in report.left_out)]
    return "\n\n".join(parts) + "\n"


def conditions(report: Report) -> str:
    return "\n".join(f"* {name}: {value}" for name, value in report.conditions.items())


def result_table(result: Result) -> str:
    """The rows in the order in which they were measured; cells are medians, with the least and the greatest."""
    floor = result.row(FLOOR)
    columns, rows = ["server"], []
    for column in result.columns:
        unit = next(row.figures[column].unit for row in result.rows if column in row.figures)
        columns.append(f">{column}, {unit}" if unit else f">{column}")
        if column == CPU and floor is not None:
            columns.append(">x floor")
    notes = any(row.note for row in result.rows)
    for row in result.rows:
        cells = [title_of(row.name)]
        for column in result.columns:
            figure = row.figures.get(column)
            cells.append("-" if figure is None else spread(figure))
            if column == CPU and floor is not None:
                cells.append(_to_floor(row, floor))
        rows.append(cells + ([row.note] if notes else []))
    return table(columns + ([""] if notes else []), rows)


def _to_floor(row: Row, floor: Row) -> str:
    own, base = row.figures.get(CPU), floor.figures.get(CPU)
    return "-" if own is None or base is None else spread(own.to(base), ".2f")


def spread(figure: Figure, form: str | None = None) -> str:
    """The median, and in brackets the least and the greatest, if it was measured more than once."""
    counted = not figure.unit and all(value.is_integer() for value in figure.values)
    form = form or (",.0f" if counted else form_for(figure.median))
    if len(figure.values) == 1:
        return f"{figure.median:{form}}"
    return f"{figure.median:{form}} ({figure.least:{form}}-{figure.greatest:{form}})"


def form_for(value: float) -> str:
    """Three digits, as far as there are any behind the point."""
    if value == 0:
        return ".0f"
    for limit, form in ((1, ".3f"), (10, ".2f"), (100, ".1f")):
        if abs(value) < limit:
            return form
    return ",.0f"


def headline(report: Report) -> str:
    """The few rows that README shows: the servers on plaintext, the cheapest first."""
    plaintext = report.result("plaintext")
    if plaintext is None:
        return ""
    rows: Sequence[Row] = sorted(plaintext.rows, key=lambda row: row.figures[CPU].median)
    floor = plaintext.row(FLOOR)
    columns = ["server", ">CPU us a request", *([">x floor"] if floor else []), ">requests/s"]
    return table(
        columns,
        [
            [
                f"**{title_of(row.name)}**" if row.name.startswith("trioserve") else title_of(row.name),
                f"{row.figures[CPU].median:.1f}",
                *([f"{row.figures[CPU].to(floor.figures[CPU]).median:.2f}"] if floor else []),
                f"{row.figures[RATE].median:,.0f}",
            ]
            for row in rows
        ],
    )

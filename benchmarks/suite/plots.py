"""The pictures that README shows: CPU time a request, server by server, as SVG and PNG.

Drawn on white, so that they can be read on a dark page too; letters are paths, so that they look alike everywhere. The
same report makes the same bytes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.results import Report, Result
from benchmarks.suite.measure import CPU
from benchmarks.suite.peers import BY_KEY, title_of
from benchmarks.suite.report import form_for

OURS, OTHERS, FLOOR = "#0f766e", "#b6bec9", "#e5b567"
INK, FAINT = "#1f2933", "#7b8794"
SHARED = (
    "json",
    "parameters",
    "browser",
    "echo",
    "large",
    "stream",
    "upload",
    "close",
    "pipelined",
    "2000",
    "tls",
    "workers",
)
"""What the second picture shows, as far as it was measured, in this order."""

VARIANTS = ("trioserve-unwatched", "trioserve-read-ahead", "trioserve-logged")
"""Of ours; they are in the table, and would only make the picture longer."""


def missing() -> str | None:
    """Why no picture can be drawn; None: it can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed, so there are no plots; `make bench` installs it into .bench"
    return None


def draw(report: Report, folder: Path) -> tuple[Path, ...]:
    """Both pictures, twice each; returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    style = {"svg.fonttype": "path", "svg.hashsalt": "trioserve", "font.family": "DejaVu Sans", "font.size": 9}
    with mpl.rc_context(style):
        files: list[Path] = []
        plaintext = report.result("plaintext")
        if plaintext is not None and plaintext.rows:
            files += _save(_one(plaintext), folder / "plaintext")
        shared = [result for name in SHARED if (result := report.result(name)) is not None and result.rows]
        if shared:
            files += _save(_many(shared), folder / "workloads")
    return tuple(files)


def _one(result: Result) -> Any:
    from matplotlib.figure import Figure

    rows = len(_bars(result))
    figure = Figure(figsize=(8.2, 0.9 + 0.28 * rows), layout="constrained")
    axes = figure.subplots()
    _draw(axes, result, "CPU microseconds a request: plaintext, 32 connections (less is better)")
    return figure


def _many(results: list[Result]) -> Any:
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(results) // columns)
    most = max(len(_bars(result)) for result in results)
    figure = Figure(figsize=(11.5, rows * (0.7 + 0.25 * most)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, result in zip(grid, results, strict=False):
        _draw(axes, result, result.title)
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    figure.suptitle("CPU microseconds a request, by workload (less is better)", color=INK, fontsize=11)
    return figure


def _bars(result: Result) -> list[tuple[str, float]]:
    """Names and medians, the cheapest first."""
    bars = [(row.name, row.figures[CPU].median) for row in result.rows if row.name not in VARIANTS]
    return sorted(bars, key=lambda bar: bar[1])


def _draw(axes: Any, result: Result, title: str) -> None:
    bars = _bars(result)
    names, values = [title_of(name) for name, _ in bars], [value for _, value in bars]
    places = range(len(bars))
    drawn = axes.barh(places, values, height=0.72, color=[_color(name) for name, _ in bars])
    axes.bar_label(drawn, [f"{value:{form_for(value)}}" for value in values], padding=4, color=INK, fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xticks([])
    axes.margins(x=0.14, y=0.02)
    axes.set_xlim(left=0)
    axes.tick_params(length=0, colors=INK)
    for label, (name, _) in zip(axes.get_yticklabels(), bars, strict=True):
        if name in BY_KEY and BY_KEY[name].ours:
            label.set_fontweight("bold")
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FAINT)


def _color(name: str) -> str:
    if name == "floor":
        return FLOOR
    return OURS if name in BY_KEY and BY_KEY[name].ours else OTHERS


def _save(figure: Any, stem: Path) -> Iterable[Path]:
    for suffix, more in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
        path = stem.with_suffix(f".{suffix}")
        figure.savefig(path, facecolor="white", **more)
        yield path

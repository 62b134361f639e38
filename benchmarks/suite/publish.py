"""What a run leaves: `results.json`, `results.md` and the pictures in a folder; and what documents show of it.

A document has a place for it, between two comments, and all that stands there is replaced.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.promises import Promise
from benchmarks.results import Report
from benchmarks.suite import plots
from benchmarks.suite import report as reports
from benchmarks.suite.targets import REMEMBERED

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "docs" / "benchmarks"
"""Where documents look for it."""

DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
"""Those that show some of it."""

BEGIN = "<!-- benchmarks: what `make bench-publish` has measured -->"
END = "<!-- benchmarks: end -->"


def write(report: Report, folder: Path) -> list[str]:
    """Write everything into a folder; returns lines for whoever waits."""
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder / "results.json")
    (folder / "results.md").write_text(reports.as_markdown(report))
    written = ["results.json", "results.md"]
    reason = plots.missing()
    if reason is None:
        written += [path.name for path in plots.draw(report, folder)]
    return [f"written to {folder}: {', '.join(written)}", *([reason] if reason else [])]


def show(report: Report, document: Path) -> None:
    """Put it into a document, in place of what was there.

    Raises:
        ValueError: it has no place for it.
    """
    folder = PUBLISHED.relative_to(document.parent).as_posix()
    document.write_text(replaced(document.read_text(), shown(report, f"{folder}/")))


def shown(report: Report, folder: str) -> str:
    """The pictures, which are in that folder, the table of plaintext, what was promised, and where it was measured."""
    kept = sum(promise.kept is True for promise in report.all_promises)
    others = [promise for promise in report.all_promises if promise.kept is not True]
    parts = [
        f"![CPU microseconds that a plaintext request costs, server by server]({folder}plaintext.svg)",
        reports.headline(report),
        REMEMBERED if report.result("plaintext") else "",
        f"![The same for other workloads]({folder}workloads.svg)",
        f"Of {len(report.all_promises)} promises {kept} were kept"
        + (":" if others else ".")
        + "".join(
            f"\n* {_told(promise)}: {promise.what}: {promise.bound}, and it was {promise.seen}" for promise in others
        ),
        f"[All results]({folder}results.md), with the other workloads, their spreads, and what departures cost.",
        "Measured: " + "; ".join(f"{name} {value}" for name, value in report.conditions.items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part)


def _told(promise: Promise) -> str:
    return "cannot be told" if promise.kept is None else "not kept"


def replaced(text: str, between: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no place for results: it is between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{between}\n\n{END}{after}"

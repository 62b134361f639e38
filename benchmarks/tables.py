"""Tables in Markdown, aligned so that they read well as text too, and the note of where they were measured."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a column whose name begins with ">" is aligned to the right."""
    right = [name.startswith(">") for name in columns]
    cells = [[name.removeprefix(">") for name in columns], *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "| " + " | ".join(aligned) + " |"

    rule = "| " + " | ".join("-" * (w - r) + ":" * r for w, r in zip(widths, right, strict=True)) + " |"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def measured_where(load: float) -> str:
    """One line: the command, the day, the code and the machine, with its load average when the command began."""
    command = f"python -m {__package__}.{Path(sys.argv[0]).parent.name} {' '.join(sys.argv[1:])}".strip()
    return (
        f"`{command}`, {dt.datetime.now(dt.UTC).date()}, commit {commit()}; {os.cpu_count()} cores "
        f"({cpu()}), {platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}, "
        f"trio {version('trio')}, h11 {version('h11')}; load average at the start {load:.1f}"
    )


def load_average() -> float:
    """What others were doing on this machine in the last minute."""
    return os.getloadavg()[0]


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The commit that was measured, and whether the package had changes that it does not have."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    head = git("rev-parse", "--short", "HEAD") or "unknown"
    return head + (" with uncommitted changes" if git("status", "--porcelain", "trioserve") else "")


def publish(text: str, markdown: str | None) -> None:
    """To stdout, and to a file where one is wanted."""
    print(text)
    if markdown is not None:
        Path(markdown).write_text(text + "\n")

"""The search: which files there are, and the lines in them that hold a text. No trio, no HTTP.

Rules:
* A `Tree` is read once. It holds regular files only; links are not followed, so nothing outside it is shown.
* A `Search` goes through the tree's files in their order, for a slice of time at a go (`scan`), so that whoever runs it
  can send on what was found, and can stop in between. It also asks `check` every few lines, which may raise: then the
  file at hand counts as not scanned.
* A match is a line. Every match is counted; no more than `MATCHES_SHOWN` are kept, each of at most `LINE_SHOWN`
  characters.
* What is not text, cannot be read or is larger than `FILE_SIZE` is skipped, and counted.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

QUERY_LENGTH = 100
"""Characters in a query: more than anybody looks for."""

MATCHES_SHOWN = 200
"""Matches of a search that are kept: more than anybody reads, and no burden for a browser."""

LINE_SHOWN = 160
"""Characters of a line that are shown: about two lines of a wide page."""

BEFORE_MATCH = 40
"""Characters before the first match of a line that is too long to be shown whole."""

LINE_SEARCHED = 4000
"""Characters of a line that are searched: what is longer was written by a machine."""

FILE_SIZE = 2_000_000
"""Bytes; a larger file is data, and would make one step of the search a long one."""

FILES = 50_000
"""Files in a tree: what a walk reads in a second or two, before the page is served."""

HEAD_OF_FILE = 8192
"""Bytes in which a NUL tells a binary file, as grep has it."""

LINES_BETWEEN_CHECKS = 500
"""Lines scanned between two calls of `check`: some tenths of a millisecond."""

NOT_OURS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
"""Directories that hold what was made or installed; so do those whose names begin with a dot."""


class QueryError(ValueError):
    """A query that cannot be searched for. The message says what to do."""


class TreeError(ValueError):
    """A directory that cannot be searched. The message says why."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The files under a directory, in the order of their paths."""

    root: Path
    files: tuple[Path, ...]

    @classmethod
    def under(cls, root: Path) -> Tree:
        """The tree under `root`, at most `FILES` of it.

        Raises:
            TreeError: it is no directory, cannot be read, or has no files.
        """
        if not root.is_dir():
            raise TreeError(f"{root} is no directory" if root.exists() else f"there is no directory {root}")
        if not os.access(root, os.R_OK | os.X_OK):
            raise TreeError(f"the directory {root} may not be read")
        files = tuple(_first(FILES, _regular_files(root)))
        if not files:
            raise TreeError(f"there are no files under {root}")
        return cls(root, files)


def _regular_files(directory: Path) -> Iterator[Path]:
    """The files under a directory that are worth a search. A directory that cannot be read has none."""
    try:
        with os.scandir(directory) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".") and entry.name not in NOT_OURS:
                yield from _regular_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _first(count: int, paths: Iterator[Path]) -> Iterator[Path]:
    for _, path in zip(range(count), paths, strict=False):
        yield path


class Match(NamedTuple):
    """A line that holds the query."""

    path: str  # relative to the tree's root, with "/"
    line: int  # 1, 2, 3 ...
    pieces: list[str]  # the text in turns: not matching, matching, not matching ...


class Search:
    """One search through a tree.

    Raises:
        QueryError: the query is empty, too long, or more than one line.
    """

    def __init__(self, query: str, tree: Tree) -> None:
        self.query = query
        self.tree = tree
        self.scanned = 0  # files searched from end to end
        self.skipped = 0  # files that are not text, too large, or not to be read
        self.matches = 0
        self.cpu_time = 0.0  # seconds of CPU, of the threads that scanned
        self._needle = needle_for(query)
        self._files = iter(tree.files)
        self._shown = 0

    @property
    def passed(self) -> int:
        """Files that the search is through with."""
        return self.scanned + self.skipped

    @property
    def never_scanned(self) -> int:
        """Files that the search has not come to, or not to the end of."""
        return len(self.tree.files) - self.passed

    @property
    def done(self) -> bool:
        return self.never_scanned == 0

    def scan(self, seconds: float, check: Callable[[], object]) -> list[Match]:
        """Go on for about so many seconds; the matches to show. `check` is called every now and then, and may raise.

        Blocks, and is meant for a worker thread; only one at a time.
        """
        found: list[Match] = []
        end, cpu_time = time.monotonic() + seconds, time.thread_time()
        try:
            for path in self._files:
                check()
                text = text_of(path)
                if text is None:
                    self.skipped += 1
                else:
                    self._scan_file(path, text, found, check)
                    self.scanned += 1
                if time.monotonic() >= end:
                    break
        finally:
            self.cpu_time += time.thread_time() - cpu_time
        return found

    def _scan_file(self, path: Path, text: str, found: list[Match], check: Callable[[], object]) -> None:
        search = self._needle.search
        for number, line in enumerate(text.split("\n"), 1):
            if number % LINES_BETWEEN_CHECKS == 0:
                check()
            if search(line, 0, LINE_SEARCHED) is None:
                continue
            self.matches += 1
            if self._shown < MATCHES_SHOWN:
                self._shown += 1
                found.append(Match(path.relative_to(self.tree.root).as_posix(), number, pieces_of(line, self._needle)))


def needle_for(query: str) -> re.Pattern[str]:
    """What finds `query`: as it stands, in upper or lower case.

    Raises:
        QueryError: it is empty, too long, or more than one line.
    """
    if not query.strip():
        raise QueryError("there is nothing to search for; give some text, as in /search?q=async")
    if len(query) > QUERY_LENGTH:
        raise QueryError(f"the text to search for has {len(query)} characters; {QUERY_LENGTH} are the most")
    if "\n" in query or "\r" in query:
        raise QueryError("the text to search for has a line break; a match is one line")
    return re.compile(re.escape(query), re.IGNORECASE)


def text_of(path: Path) -> str | None:
    """A file's text; None if it is not text, larger than `FILE_SIZE`, or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_OF_FILE)
            if b"\0" in head:
                return None
            data = head + file.read(FILE_SIZE + 1 - len(head))
    except OSError:
        return None
    return None if len(data) > FILE_SIZE else data.decode("utf-8", errors="replace")


def pieces_of(line: str, needle: re.Pattern[str]) -> list[str]:
    """A line with a match, as it is shown: in turns what does not match and what does, beginning with what does not.

    Indented no more than needed, and no longer than `LINE_SHOWN` characters around the first match.
    """
    first = needle.search(line)
    assert first is not None, "only a line with a match is shown"
    line = line[: max(len(line.rstrip()), first.end())]
    start = min(len(line) - len(line.lstrip()), first.start())
    if first.end() - start > LINE_SHOWN:
        start = max(first.start() - BEFORE_MATCH, 0)
    end = start + LINE_SHOWN
    pieces, position = ["…" if line[:start].strip() else ""], start
    for match in needle.finditer(line, start, end):
        pieces[-1] += line[position : match.start()]
        pieces += [match[0], ""]
        position = match.end()
    pieces[-1] += line[position:end] + ("…" if len(line) > end else "")
    return pieces

"""`make mutations`: makes each defect in a copy of the project, runs the tests that must see it, and prints a table.

Exit status 1 if one survives. First the tests are run without any defect: a test that fails by itself catches nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutations.defects import DEFECTS, Defect

ROOT = Path(__file__).parents[2]

PROCESSES = 2
"""How many runs of tests there are at once."""

HUNG_AFTER = 20
"""Seconds after which a test has hung, and so failed. Without a defect those that are run here take one or two."""

_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "benchmarks")


class Result(NamedTuple):
    """What came of one defect: the first test that failed, None if none did; and how long that took, in seconds."""

    caught_by: str | None
    seconds: float


class Broken(Exception):
    """The tests could not be run, or fail without any defect."""


class Copy:
    """A copy of the project, in which one defect at a time is made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        shutil.copytree(ROOT, directory, dirs_exist_ok=True, ignore=_NOT_COPIED)

    def judge(self, defect: Defect) -> Result:
        """Make the defect, run its tests, and take it back.

        Raises:
            Broken: the tests could not be run.
        """
        file = self._directory / "trioserve" / defect.file
        sound = file.read_text()
        file.write_text(with_defect(defect, sound))
        try:
            return self.run(defect.tests)
        finally:
            file.write_text(sound)

    def run(self, tests: Iterable[str]) -> Result:
        """Run tests up to the first that fails.

        Raises:
            Broken: they could not be run.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-v", "--tb=no", "--no-header"]
        # Always in the same order, so that it is always the same test that catches a defect.
        command += ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
        command += ["--override-ini", f"faulthandler_timeout={HUNG_AFTER}", *tests]
        # Programs that tests start are to meet the defect too; and no file that was compiled before is to be taken for
        # one that has changed since, within the same second and to the same size.
        environment = {**os.environ, "PYTHONPATH": str(self._directory), "PYTHONDONTWRITEBYTECODE": "1"}
        begun = time.monotonic()
        run = subprocess.run(
            command, cwd=self._directory, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        seconds = time.monotonic() - begun
        if run.returncode == 0:
            return Result(None, seconds)
        if run.returncode > 1:
            raise Broken(f"pytest has ended with {run.returncode}:\n{run.stdout}{run.stderr}")
        return Result(_culprit(run.stdout), seconds)


def with_defect(defect: Defect, sound: str) -> str:
    """The file's text, made wrong.

    Raises:
        Broken: the defect does not fit any more.
    """
    count = sound.count(defect.old)
    if count != 1:
        raise Broken(f"{defect.name}: `old` stands {count} times in {defect.file}, and not once; bring it up to date")
    return sound.replace(defect.old, defect.new)


def _culprit(output: str) -> str:
    """The test that failed; or the last that began, if the run ended with it."""
    if failed := re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE):
        return failed[1]
    *_, last = re.findall(r"^(tests/\S+::.+?)(?: [A-Z]+ .*)?$", output, re.MULTILINE) or ["no test"]
    return f"{last.rstrip()} (hung)"


@contextlib.contextmanager
def copies() -> Iterator[queue.SimpleQueue[Copy]]:
    """As many copies as there are runs at once."""
    with tempfile.TemporaryDirectory(prefix="trioserve-mutations-") as directory:
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(PROCESSES):
            free.put(Copy(Path(directory, str(number))))
        yield free


def judge_all(defects: Sequence[Defect]) -> list[Result]:
    """The results, in order.

    Raises:
        Broken: the tests could not be run, or fail without any defect.
    """
    with copies() as free, ThreadPoolExecutor(PROCESSES) as threads:

        def judge(defect: Defect) -> Result:
            copy = free.get()
            try:
                result = copy.judge(defect)
            finally:
                free.put(copy)
            print(f"{defect.name}: {result.caught_by or 'SURVIVED'}", file=sys.stderr)
            return result

        sound = free.get()
        failed, _ = sound.run(sorted({test for defect in defects for test in defect.tests}))
        free.put(sound)
        if failed is not None:
            raise Broken(f"without any defect this fails: {failed}")
        return list(threads.map(judge, defects))


def print_table(defects: Sequence[Defect], results: Sequence[Result]) -> None:
    print("| defect | in | caught by | seconds |")
    print("| --- | --- | --- | --- |")
    for defect, (caught_by, seconds) in zip(defects, results, strict=True):
        test = caught_by.removeprefix("tests/") if caught_by else "**nothing**"
        print(f"| {defect.name.replace('-', ' ')} | {defect.file} | {test} | {seconds:.1f} |")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the names of the defects, and do nothing")
    parser.add_argument("--only", action="append", metavar="NAME", help="this defect only; may be given again")
    options = parser.parse_args()
    if options.list:
        print(*(f"{defect.name}  ({defect.file})" for defect in DEFECTS), sep="\n")
        return 0
    if unknown := set(options.only or ()) - {defect.name for defect in DEFECTS}:
        parser.error(f"there is no defect {', '.join(sorted(unknown))}; --list shows them")
    defects = [defect for defect in DEFECTS if options.only is None or defect.name in options.only]
    try:
        results = judge_all(defects)
    except Broken as error:
        print(error, file=sys.stderr)
        return 2
    print_table(defects, results)
    survived = sum(caught_by is None for caught_by, _ in results)
    print(f"\n{len(defects)} defects, of which {survived} survived.")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks`: trioserve beside its peers, in one run, and what becomes of clients that leave."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import tables
from benchmarks.options import Options, Progress, cores, to_stderr
from benchmarks.promises import exit_code, promise_table
from benchmarks.results import Report, Result, load
from benchmarks.suite import abandonment, compare, publish, targets, wrk
from benchmarks.suite.measure import Bench, Task, plan, seconds
from benchmarks.suite.peers import BY_KEY, PEERS
from benchmarks.suite.workloads import QUICK_PEERS, QUICK_WORKLOADS, WORKLOADS, Workload

DESCRIPTORS = 4096
"""Open files that a server with 2,000 connections needs, or the load."""

DISTRIBUTIONS = (
    "trio", "h11", "h11r", "uvicorn", "httptools", "uvloop", "starlette", "fastapi", "granian", "aiohttp", "hypercorn",
    "anycorn", "quart-trio",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = the_parser()
    options = parser.parse_args(arguments)
    try:
        workloads, departures = chosen(options.only, quick=options.quick)
        before = load(options.compare) if options.compare else None
        server_core, load_core = cores()
        raise_descriptors()
    except (LookupError, OSError, ValueError) as error:
        return refuse(str(error))
    if workloads and (reason := wrk.missing()):
        return refuse(reason)
    for_all = Options(
        rounds=options.rounds or (2 if options.quick else 5),
        seconds=options.seconds or (1 if options.quick else 4),
        quick=options.quick,
        server_core=server_core,
        load_core=load_core,
        peers=options.peer,
    )
    wanted = options.peer or (QUICK_PEERS if options.quick else None)
    departures = [one for one in departures if one.seconds(for_all) > 0]
    tasks, left_out = plan(workloads, wanted)
    measured_under = conditions(for_all, arguments if arguments is not None else sys.argv[1:])
    report = measured(tasks, departures, for_all, measured_under, left_out)

    for line in publish.write(report, options.out):
        to_stderr(line)
    if options.save:
        report.save(options.save)
    if options.publish:
        for line in publish.write(report, publish.PUBLISHED):
            to_stderr(line)
        for document in publish.DOCUMENTS:
            publish.show(report, document)
    print((options.out / "results.md").read_text())
    if before is not None:
        print(f"## Beside {options.compare}\n\n{compare.as_markdown(before, report)}")
    if report.all_promises:
        kept = sum(promise.kept is True for promise in report.all_promises)
        to_stderr(f"{promise_table(report.all_promises)}\n{kept} of {len(report.all_promises)} promises kept")
    return exit_code(report.all_promises) if options.strict else 0


def the_parser() -> argparse.ArgumentParser:
    names = [workload.name for workload in WORKLOADS] + [one.NAME for one in abandonment.measurements()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer of everything: under two minutes")
    parser.add_argument("--only", type=Listed(names), metavar="NAME[,NAME]", help=f"of: {', '.join(names)}")
    parser.add_argument(
        "--peer",
        type=Listed(list(BY_KEY)),
        metavar="NAME[,NAME]",
        help=f"these servers, wherever they can serve; of: {', '.join(peer.key for peer in PEERS)}",
    )
    parser.add_argument("--rounds", type=positive, help="(default: 5; --quick: 2)")
    parser.add_argument(
        "--seconds",
        type=positive,
        help="of load for each server in each round of plaintext, half of it for most others (default: 4; --quick: 1)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), metavar="FOLDER", help="(default: %(default)s)"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the results there too, for --compare")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print what has changed since that was saved")
    parser.add_argument("--publish", action="store_true", help="write into docs/benchmarks and README.md too")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a promise is broken")
    return parser


class Listed:
    """For argparse: a list with commas, each of which must be one of the names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, text: str) -> tuple[str, ...]:
        given = tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = [name for name in given if name not in self._names]
        if unknown or not given:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown) or 'name'}; there are {', '.join(self._names)}"
            )
        return given


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def chosen(
    only: tuple[str, ...] | None, *, quick: bool
) -> tuple[Sequence[Workload], Sequence[abandonment.Measurement]]:
    """The workloads and the measurements of departures that are to be run."""
    workloads = [w for w in WORKLOADS if (w.name in only if only else not quick or w.name in QUICK_WORKLOADS)]
    return workloads, [one for one in abandonment.measurements() if only is None or one.NAME in only]


def measured(
    tasks: Sequence[Task],
    departures: Sequence[abandonment.Measurement],
    options: Options,
    under: dict[str, str],
    left_out: tuple[str, ...],
) -> Report:
    """Everything, one after another. Ctrl-C and SIGTERM stop the servers, and end it."""
    signal.signal(signal.SIGTERM, _interrupt)
    estimate = seconds(tasks, options) + sum(one.seconds(options) for one in departures)
    progress = Progress(estimate)
    for line in left_out:
        progress.say(line)
    servers = sum(len(task.peers) for task in tasks)
    progress.say(
        f"{len(tasks)} workloads with {servers} servers in all, {len(departures)} measurements of departures, "
        f"{options.rounds} rounds of {options.seconds} s: some {estimate / 60:.1f} minutes"
    )
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="trioserve-bench-") as scratch:
        bench = Bench(options, progress, Path(scratch))
        try:
            results += bench.measure(tasks)
        finally:
            bench.close()
    results += (one.measure(options, progress) for one in departures)
    return Report(under, tuple(results), (*left_out, *bench.left_out), targets.promises(results))


def conditions(options: Options, arguments: Iterable[str]) -> dict[str, str]:
    """What the figures depend on."""
    return {
        "command": "`" + " ".join(["python -m benchmarks", *arguments]) + "`",
        "day": str(dt.datetime.now(dt.UTC).date()),
        "commit": tables.commit(),
        "machine": f"{os.cpu_count()} cores ({tables.cpu()}), {platform.system()} {platform.release()}",
        "load average at the start": f"{tables.load_average():.1f}",
        "Python": platform.python_version(),
        "versions": ", ".join([f"{name} {found}" for name in DISTRIBUTIONS if (found := installed(name))] + programs()),
        "rounds": f"{options.rounds} of {options.seconds} s; figures are medians, with the least and the greatest",
    }


def programs() -> list[str]:
    """Those that are there, with their versions, as they say them."""
    found = []
    for name, option in (("go", "version"), ("node", "-v"), ("nginx", "-v"), ("wrk", "-v")):
        if shutil.which(name) is not None:
            said = subprocess.run([name, option], capture_output=True, text=True, check=False)
            number = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
            found.append(f"{name} {number[0] if number else 'of an unknown version'}")
    return found


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def raise_descriptors() -> None:
    """As many open files as 2,000 connections need; servers and load inherit it.

    Raises:
        OSError: the system does not allow that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise OSError(f"{DESCRIPTORS} open files are needed, and the system allows {hard}; see `ulimit -Hn`")
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def refuse(reason: str) -> int:
    to_stderr(f"python -m benchmarks: {reason}")
    return 2


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        to_stderr("stopped")
        sys.exit(130)

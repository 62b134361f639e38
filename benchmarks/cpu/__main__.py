"""`python -m benchmarks.cpu`: CPU microseconds per plaintext request, by server."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.process_facts import cpu_seconds
from benchmarks.server_process import ServerProcess
from benchmarks.tables import load_average, measured_where, publish, table

CONNECTIONS = 32
WARM_UP = 1
"""Seconds of load before the first round."""


@dataclass(slots=True)
class Contender:
    """One server."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    costs: list[float] = field(default_factory=list)  # CPU microseconds a request, one figure a round


def contenders() -> list[Contender]:
    plaintext = "benchmarks.cpu.plaintext"
    return [
        Contender("bare trio, no HTTP (the floor)", "benchmarks.cpu.bare_trio"),
        Contender("bare trio + h11", "benchmarks.cpu.bare_h11"),
        Contender("trioserve, hangup news: kernel", plaintext, ["--hangup-news=kernel"]),
        Contender("trioserve, hangup news: none", plaintext, ["--hangup-news=none"]),
        Contender("trioserve, hangup news: read-ahead", plaintext, ["--hangup-news=read-ahead"]),
        Contender("trioserve, kernel, access log", plaintext, ["--hangup-news=kernel", "--access-log"]),
    ]


FLOOR, H11, KERNEL = 0, 1, 2
"""The contenders that the others are compared with."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of load for each server in each round (default: 3)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    others = load_average()

    missing = what_is_missing()
    if missing:
        print(f"benchmarks.cpu: {missing}", file=sys.stderr)
        return 2
    server_core, *_, client_core = sorted(os.sched_getaffinity(0))
    all_of_them = contenders()
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(c.module, *c.arguments, core=server_core)) for c in all_of_them]
        for server in servers:
            load(server, WARM_UP, client_core)
        for round_ in range(options.rounds):
            for contender, server in zip(all_of_them, servers, strict=True):
                measure(contender, server, options.seconds, client_core)
                print(
                    f"round {round_ + 1}/{options.rounds}: {contender.name}: {contender.costs[-1]:.1f} us",
                    file=sys.stderr,
                    flush=True,
                )
    publish(f"{measured_where(others)}\n\n{as_table(all_of_them)}", options.markdown)
    return 0


def what_is_missing() -> str | None:
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is not installed; on Debian: apt-get install {package}"
    if len(os.sched_getaffinity(0)) < 2:
        return "two cores are needed, one for the server and one for wrk"
    return None


def measure(contender: Contender, server: ServerProcess, seconds: int, core: int) -> None:
    before = cpu_seconds(server.pid)
    requests = load(server, seconds, core)
    contender.costs.append((cpu_seconds(server.pid) - before) / requests * 1e6)


def load(server: ServerProcess, seconds: int, core: int) -> int:
    """Let wrk ask for so long; returns how many requests were answered.

    Raises:
        RuntimeError: some were not, or not well.
    """
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}/"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    answered = re.search(r"(\d+) requests in", said)
    if answered is None or "Socket errors" in said or "Non-2xx" in said:
        raise RuntimeError(f"wrk reports trouble:\n{said}")
    return int(answered[1])


def as_table(all_of_them: Sequence[Contender]) -> str:
    def ratios(contender: Contender, base: int) -> str:
        """Round by round, since what disturbs the machine disturbs a whole round."""
        pairs = zip(contender.costs, all_of_them[base].costs, strict=True)
        return spread([cost / base_cost for cost, base_cost in pairs], ".2f")

    columns = ("server", ">CPU us a request", ">x floor", ">x trio + h11", ">x kernel")
    return table(
        columns,
        [(c.name, spread(c.costs, ".1f"), ratios(c, FLOOR), ratios(c, H11), ratios(c, KERNEL)) for c in all_of_them],
    )


def spread(figures: Sequence[float], form: str) -> str:
    """The median, and in brackets the least and the greatest."""
    return f"{statistics.median(figures):{form}} ({min(figures):{form}}-{max(figures):{form}})"


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.idle`: memory of an idle keep-alive connection. Exit code 1 if trioserve breaks a promise."""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.idle.holding import Contender, measure
from benchmarks.promises import Promise, at_most, exactly, exit_code, promise_table
from benchmarks.server_process import ServerProcess
from benchmarks.tables import load_average, measured_where, publish, table

DESCRIPTORS_BESIDE = 100
"""What a process needs beside its connections, generously."""

SECOND_TIME = 1.05
"""How much more memory the same number of connections may take when they come again: the allocator's noise."""

INSTALL = "python3 -m venv .peers && .peers/bin/python -m pip install -r benchmarks/idle/peers.txt"

PEERS = ("uvicorn", "httptools", "uvloop", "hypercorn")


def contenders() -> list[Contender]:
    ours, peers = "benchmarks.idle.server", "benchmarks.idle.peers"
    return [
        # It came to 16 and 20 KB each. The portable read-ahead has a second task for each connection.
        Contender("trioserve, hangup news: kernel", ours, "kernel", kilobytes_allowed=20),
        Contender("trioserve, hangup news: read-ahead", ours, "read-ahead", kilobytes_allowed=26),
        Contender("uvicorn, httptools, uvloop", peers, "uvicorn-httptools"),
        Contender("uvicorn, h11, uvloop", peers, "uvicorn-h11"),
        Contender("hypercorn, trio", peers, "hypercorn-trio"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="held at once (default: 10,000)")
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help=f"has the other servers; {INSTALL}")
    parser.add_argument("--without-peers", action="store_true", help="trioserve only")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    load = load_average()

    missing = what_is_missing(options.connections, None if options.without_peers else options.peers)
    if missing:
        print(f"benchmarks.idle: {missing}", file=sys.stderr)
        return 2
    chosen = [contender for contender in contenders() if contender.ours or not options.without_peers]
    for contender in chosen:
        python = sys.executable if contender.ours else options.peers
        with ServerProcess(contender.module, contender.argument, python=python) as server:
            print(f"{contender.name}: {options.connections:,} connections", file=sys.stderr, flush=True)
            measure(contender, server, options.connections)
    promises = [promise for c in chosen if c.ours for promise in promised(c, options.connections)]
    peers = "" if options.without_peers else f"; {versions(options.peers)}"
    publish(f"{measured_where(load)}{peers}\n\n{as_table(chosen)}\n\n{promise_table(promises)}", options.markdown)
    return exit_code(promises)


def what_is_missing(connections: int, peers: str | None) -> str | None:
    """Take all the descriptors that this process may have, its servers inherit that; say what is still in the way."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < connections + DESCRIPTORS_BESIDE:
        return f"only {most} descriptors are allowed; raise it (ulimit -Hn) or give fewer --connections"
    if peers is not None and not versions(peers):
        return f"{peers} has not all of the other servers; {INSTALL}; then --peers .peers/bin/python"
    return None


def versions(peers: str) -> str:
    """The other servers' versions; nothing if one is not installed."""
    ask = f"from importlib.metadata import version; print(*(f'{{p}} {{version(p)}}' for p in {PEERS}), sep=', ')"
    return subprocess.run([peers, "-c", ask], capture_output=True, text=True, check=False).stdout.strip()


def promised(contender: Contender, connections: int) -> list[Promise]:
    assert contender.kilobytes_allowed is not None, "nothing is promised of others"
    name = contender.name
    return [
        exactly(f"{name}: connections held", contender.held, connections),
        exactly(f"{name}: each of them answered again", len(contender.delays), connections),
        at_most(f"{name}: descriptors left", contender.descriptors_left, 0),
        at_most(f"{name}: memory of one", round(contender.kilobytes_each, 1), contender.kilobytes_allowed, " KB"),
        at_most(
            f"{name}: memory with as many again, of that before",
            # Closing thousands at once takes some memory too, which the allocator keeps for the next.
            round(contender.second_time / max(contender.with_all, contender.after), 3) if contender.after else math.nan,
            SECOND_TIME,
        ),
    ]


def as_table(all_of_them: Sequence[Contender]) -> str:
    columns = (
        "server",
        ">held",
        ">KB each",
        ">resident before, MB",
        ">with all",
        ">after",
        ">answered again",
        ">p50 ms",
        ">max ms",
        "trouble",
    )
    return table(columns, [cells(contender) for contender in all_of_them])


def cells(contender: Contender) -> tuple[str, ...]:
    memory = (contender.before, contender.with_all, contender.after)
    p50, worst = (statistics.median(contender.delays), max(contender.delays)) if contender.delays else (0.0, 0.0)
    return (
        contender.name,
        f"{contender.held:,}",
        f"{contender.kilobytes_each:.1f}",
        *(f"{kilobytes / 1024:.0f}" for kilobytes in memory),
        f"{len(contender.delays):,}",
        f"{p50 * 1000:.2f}",
        f"{worst * 1000:.2f}",
        contender.trouble,
    )


if __name__ == "__main__":
    sys.exit(main())

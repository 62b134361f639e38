"""What an idle keep-alive connection costs in resident memory. `benchmarks.idle` holds many more, and promises more."""

from __future__ import annotations

import resource
import time

from benchmarks import process_facts
from benchmarks.abandonment.peers import Peer, chosen, row_of_each
from benchmarks.idle.holding import Contender, hold, warm_up
from benchmarks.options import Options, Progress
from benchmarks.promises import at_most
from benchmarks.results import Figure, Result, Row

NAME = "idle connections"

KILOBYTES_AT_MOST = 12
SETTLE = 0.3
"""Seconds between the last request and a look at the memory."""


def connections_of(options: Options) -> int:
    return 1000 if options.quick else 3000


def _estimate(options: Options) -> float:
    return 1.5 + 2 * SETTLE + connections_of(options) * 0.001


def seconds(options: Options) -> float:
    return _estimate(options) * len(chosen(options, engines=True))


def measure(options: Options, progress: Progress) -> Result:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the servers inherit it
    count = connections_of(options)
    rows, left_out = row_of_each(
        chosen(options, engines=True), lambda peer: one_server(peer, count, options), progress, _estimate(options)
    )
    return Result(
        NAME,
        f"Memory of an idle connection, with {count:,} of them",
        rows,
        tuple(
            at_most(
                f"{row.name}: memory of an idle connection",
                round(row.figures["each"].median, 1),
                KILOBYTES_AT_MOST,
                " KB",
            )
            for row in rows
            if row.name.startswith("trioserve")
        ),
        "Each was asked twice, and is kept. What the kernel needs for a socket is not in it." + left_out,
    )


def one_server(peer: Peer, count: int, options: Options) -> Row:
    seen = Contender(peer.name)
    with peer.start(options.server_core) as server:
        warm_up(server)
        time.sleep(SETTLE)
        seen.before = process_facts.resident_kilobytes(server.pid)
        seen.with_all = hold(seen, server, count, settle=SETTLE)
    return Row(
        peer.name,
        {"each": Figure.once(seen.kilobytes_each, "KB"), "before": Figure.once(seen.before / 1024, "MB")},
    )

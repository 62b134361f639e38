"""A storm: a thousand clients whose handlers wait leave at once. How long until the last of them is stopped, and told?

Every delay is counted from that client's own close. The closing itself takes some milliseconds, for it is one system
call after another; so *all done* is counted from the first of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from benchmarks.abandonment.asking import Notes, begin, notes_of, notes_once
from benchmarks.abandonment.peers import Peer, chosen, row_of_each
from benchmarks.options import Options, Progress
from benchmarks.percentiles import percentile
from benchmarks.promises import Promise, at_most, exactly
from benchmarks.results import Figure, Result, Row

NAME = "storm"
CLIENTS = 1000
ARRIVAL_PATIENCE = 20.0
"""Seconds in which all handlers must have started; none may have ended by itself meanwhile."""

PATIENCE = 2.0
"""Seconds in which the last must have been stopped."""


@dataclass(slots=True)
class Storm:
    """What was seen of one server. Delays are in seconds."""

    clients: int = 0
    cancelled: list[float] = field(default_factory=list)  # each from its own close to its handler's cancellation
    recorded: list[float] = field(default_factory=list)  # each from its own close to its record; trioserve only
    closing: list[float] = field(default_factory=list)  # of each round: from the first close to the last
    done: list[float] = field(default_factory=list)  # of each round: from the first close to the last note


def rounds_of(options: Options) -> int:
    return 1 if options.quick else min(options.rounds, 2)


def _estimate(options: Options) -> float:
    return 2.0 + 1.2 * rounds_of(options)


def seconds(options: Options) -> float:
    return _estimate(options) * len(chosen(options, engines=True))


def measure(options: Options, progress: Progress) -> Result:
    rows, left_out = row_of_each(
        chosen(options, engines=True),
        lambda peer: as_row(peer, raise_storm(peer, rounds_of(options), options.server_core)),
        progress,
        _estimate(options),
    )
    return Result(
        NAME,
        f"A storm: {CLIENTS:,} clients leave at once",
        rows,
        tuple(promise for row in rows for promise in promised(row)),
        "From each client's own close to its handler's cancellation, and to its record; *all done* is from the first "
        "close to the last of both." + left_out,
    )


ALL_DONE, STOPPED, LAST_CANCELLED, LAST_RECORDED = "all done", "stopped", "cancelled, max", "recorded, max"


def as_row(peer: Peer, seen: Storm) -> Row:
    figures = {STOPPED: Figure("%", (100 * len(seen.cancelled) / seen.clients,))}
    if seen.cancelled:
        figures["cancelled, p50"] = milliseconds(percentile(seen.cancelled, 50))
        figures[LAST_CANCELLED] = milliseconds(max(seen.cancelled))
    if seen.recorded:
        figures[LAST_RECORDED] = milliseconds(max(seen.recorded))
    if seen.done:
        figures[ALL_DONE] = milliseconds(*seen.done)
    return Row(peer.name, figures, "" if seen.cancelled else "the handlers run on to their end")


def milliseconds(*values: float) -> Figure:
    return Figure("ms", tuple(value * 1000 for value in values))


def promised(row: Row) -> list[Promise]:
    """Of our own rows."""
    if not row.name.startswith("trioserve"):
        return []
    done = row.figures.get(ALL_DONE)
    return [
        exactly(f"{row.name}: stopped, of {CLIENTS:,} clients that leave at once", row.figures[STOPPED].median, 100),
        at_most(
            f"{row.name}: {CLIENTS:,} leave; from the first close to the last cancellation and record, median",
            round(done.median, 1) if done else math.inf,
            100,
            " ms",
        ),
    ]


def raise_storm(peer: Peer, rounds: int, core: int | None) -> Storm:
    """Some storms on one server. One that stops nobody gets no second one: it is still busy with the first."""
    seen = Storm()
    with peer.start(core) as server:
        for number in range(rounds):
            one_storm(server.port, range(number * CLIENTS, (number + 1) * CLIENTS), seen, ours=peer.ours)
            if len(seen.cancelled) < seen.clients:
                break
    return seen


def one_storm(port: int, names: range, seen: Storm, *, ours: bool) -> None:
    before = notes_of(port).started
    clients = {name: begin(port, f"/wait/{name}") for name in names}
    notes_once(port, lambda notes: notes.started == before + len(names), ARRIVAL_PATIENCE)
    left = {}
    for name, client in clients.items():
        left[name] = time.monotonic()
        client.close()
    closed = time.monotonic()

    def all_told(notes: Notes) -> bool:
        return left.keys() <= notes.cancelled.keys() and (not ours or left.keys() <= notes.recorded.keys())

    time.sleep(min(PATIENCE, 0.3))  # for that is work too, and is not to disturb
    notes = notes_once(port, all_told, PATIENCE)
    cancelled = [(notes.cancelled[name], left[name]) for name in names if name in notes.cancelled]
    recorded = [(notes.recorded[name], left[name]) for name in names if name in notes.recorded]
    seen.clients += len(names)
    seen.cancelled += [end - begun for end, begun in cancelled]
    seen.recorded += [end - begun for end, begun in recorded]
    first = min(left.values())
    seen.closing.append(closed - first)
    if len(cancelled) == len(names):
        seen.done.append(max(end for end, _ in cancelled + recorded) - first)

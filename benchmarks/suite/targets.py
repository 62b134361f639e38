"""What we promise of our speed, as ratios within one run: of CPU time a request, medians of the rounds.

A promise is only made where both sides were measured. Those about departures are made by their measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.promises import Promise
from benchmarks.results import Figure, Result
from benchmarks.suite.measure import CPU
from benchmarks.suite.peers import H11R, title_of

OURS = ("trioserve", H11R)


@dataclass(frozen=True, slots=True)
class Target:
    """`peer` on `workload` costs at most `bound` times what `base` costs there, or on `base_workload`."""

    workload: str
    peer: str
    bound: float
    base: str
    base_workload: str | None = None


TARGETS: tuple[Target, ...] = (
    Target("plaintext", "trioserve", 1.25, "bare-h11"),
    Target("plaintext", "trioserve", 1.0, "uvicorn-h11"),
    Target("plaintext", "trioserve", 0.2, "hypercorn"),
    Target("plaintext", H11R, 2.0, "floor"),
    Target("plaintext", H11R, 1.0, "uvicorn-starlette"),
    Target("plaintext", H11R, 1.0, "granian-starlette"),
    Target("plaintext", H11R, 1.0, "aiohttp"),
    Target("plaintext", H11R, 1.25, "uvicorn"),
    Target("plaintext", "trioserve", 1.02, "trioserve-unwatched"),
    Target("plaintext", "trioserve-logged", 1.10, "trioserve"),
    *(Target(workload, peer, 1.0, "uvicorn") for workload in ("large", "stream", "upload") for peer in OURS),
    *(Target("close", peer, 1.5, "floor") for peer in OURS),
    *(Target("2000", peer, 1.3, peer, "plaintext") for peer in OURS),
)


def promises(results: Sequence[Result]) -> tuple[Promise, ...]:
    """In the order of TARGETS."""
    return tuple(filter(None, (_promise(target, results) for target in TARGETS)))


def _promise(target: Target, results: Iterable[Result]) -> Promise | None:
    by_name = {result.name: result for result in results}
    own = _cpu(by_name, target.workload, target.peer)
    base = _cpu(by_name, target.base_workload or target.workload, target.base)
    if own is None or base is None:
        return None
    ratio = own.to(base).median if len(own.values) == len(base.values) else own.median / base.median
    of_what = title_of(target.base) if target.base_workload is None else f"itself, {target.base_workload}"
    what = f"{target.workload}: {title_of(target.peer)}, to {of_what}"
    return Promise(what, f"at most {target.bound:.2f}", f"{ratio:.2f}", ratio <= target.bound)


def _cpu(by_name: dict[str, Result], workload: str, peer: str) -> Figure | None:
    row = by_name[workload].row(peer) if workload in by_name else None
    return None if row is None else row.figures[CPU]

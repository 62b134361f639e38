"""What we promise of our speed, as ratios within one run: of CPU time a request, medians of the rounds.

A promise is only made where both sides were measured. Those about departures are made by their measurements. One is
kept, or broken, only if the bound is outside of where the median lies for certain (`Figure.between`); else it cannot be
told.

Where two workloads are compared, each is first taken to its own floor, within its rounds: they were measured minutes
apart, on what may have been another machine.

What is compared with h11: see REMEMBERED.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.promises import Promise
from benchmarks.results import Figure, Result
from benchmarks.suite.measure import CPU
from benchmarks.suite.peers import H11R, title_of

REMEMBERED = (
    "What is compared: trioserve's default engine remembers what h11 has made of a whole response that is framed alike "
    "(the same status code, the same way to end the connection), and does not ask it again. bare trio + h11 makes its "
    "response once, but lets h11 work through each exchange, as uvicorn does with h11. So the ratio to those tells "
    "what trioserve costs beside h11, and not on top of it."
)
"""To be said beside the table."""

OURS = ("trioserve", H11R)


@dataclass(frozen=True, slots=True)
class Target:
    """`peer` on `workload` costs `bound` times what `base` does at most, there or on `base_workload`."""

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
    Target("watch", "trioserve", 1.02, "trioserve-unwatched"),
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
    ratio = _ratio(target, by_name)
    if ratio is None:
        return None
    of_what = title_of(target.base)
    if target.base_workload is not None:
        of_what = f"itself, {target.base_workload}, each as a ratio to its floor"
    what = f"{target.workload}: {title_of(target.peer)}, to {of_what}"
    least, greatest = ratio.between
    seen = f"{ratio.median:.2f} ({least:.2f}-{greatest:.2f})"
    return Promise(what, f"at most {target.bound:.2f}", seen, judged(ratio, target.bound))


def judged(ratio: Figure, bound: float) -> bool | None:
    """Whether it is at most that; None: it cannot be told."""
    least, greatest = ratio.between
    if greatest <= bound:
        return True
    return False if least > bound else None


def _ratio(target: Target, by_name: dict[str, Result]) -> Figure | None:
    if target.base_workload is None:
        return _to(by_name, target.workload, target.peer, target.base)
    own = _to(by_name, target.workload, target.peer, "floor")
    base = _to(by_name, target.base_workload, target.base, "floor")
    return None if own is None or base is None else own.to(base)


def _to(by_name: dict[str, Result], workload: str, peer: str, base: str) -> Figure | None:
    """Within each round; None: one of the two was not measured."""
    rows = [by_name[workload].row(key) for key in (peer, base)] if workload in by_name else [None, None]
    own, other = rows
    return None if own is None or other is None else own.figures[CPU].to(other.figures[CPU])

"""What a benchmark asserts of the server: promises, each with what was seen. One that is broken is exit code 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.tables import table


class Promise(NamedTuple):
    """One assertion. `bound` and `seen` are for readers; `kept` is the judgement."""

    what: str
    bound: str
    seen: str
    kept: bool


def at_most(what: str, seen: float, bound: float, unit: str = "") -> Promise:
    return Promise(what, f"at most {bound:,g}{unit}", f"{seen:,g}{unit}", seen <= bound)


def at_least(what: str, seen: float, bound: float, unit: str = "") -> Promise:
    return Promise(what, f"at least {bound:,g}{unit}", f"{seen:,g}{unit}", seen >= bound)


def exactly(what: str, seen: float, wanted: float) -> Promise:
    return Promise(what, f"{wanted:,g}", f"{seen:,g}", seen == wanted)


def promise_table(promises: Sequence[Promise]) -> str:
    columns = ("promise", ">bound", ">seen", "")
    return table(columns, [(p.what, p.bound, p.seen, "kept" if p.kept else "**BROKEN**") for p in promises])


def exit_code(promises: Sequence[Promise]) -> int:
    return 0 if all(promise.kept for promise in promises) else 1

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
    kept: bool | None  # None: the spread of what was seen has the bound in it, so that it cannot be told

    @property
    def verdict(self) -> str:
        return {True: "kept", False: "**BROKEN**", None: "cannot be told"}[self.kept]


def at_most(what: str, seen: float, bound: float, unit: str = "") -> Promise:
    return Promise(what, f"at most {bound:,g}{unit}", f"{seen:,g}{unit}", seen <= bound)


def at_least(what: str, seen: float, bound: float, unit: str = "") -> Promise:
    return Promise(what, f"at least {bound:,g}{unit}", f"{seen:,g}{unit}", seen >= bound)


def exactly(what: str, seen: float, wanted: float) -> Promise:
    return Promise(what, f"{wanted:,g}", f"{seen:,g}", seen == wanted)


def promise_table(promises: Sequence[Promise]) -> str:
    columns = ("promise", ">bound", ">seen", "")
    return table(columns, [(p.what, p.bound, p.seen, p.verdict) for p in promises])


def exit_code(promises: Sequence[Promise]) -> int:
    return 1 if any(promise.kept is False for promise in promises) else 0

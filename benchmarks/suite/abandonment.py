"""The measurements that are about clients that leave: modules of `benchmarks.abandonment`, in the order of the report.

Each has `NAME: str` (as in --only), `def seconds(options: Options) -> float` (an estimate of how long it takes; 0: none
of the servers that were asked for is in it, and it is not measured) and
`def measure(options: Options, progress: Progress) -> Result`, which calls `progress.step(text, estimated)` so that the
estimates of its steps add up to `seconds(options)`.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from benchmarks.options import Options, Progress
from benchmarks.results import Result

MODULES = ("latency", "storm", "wasted", "retries", "idle")


class Measurement(Protocol):
    """What such a module offers."""

    NAME: str

    def seconds(self, options: Options, /) -> float: ...

    def measure(self, options: Options, progress: Progress, /) -> Result: ...


def measurements() -> tuple[Measurement, ...]:
    return tuple(cast("Measurement", importlib.import_module(f"benchmarks.abandonment.{name}")) for name in MODULES)

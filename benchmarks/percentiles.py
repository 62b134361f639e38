"""Percentiles of what was measured, by the nearest rank: each is a value that was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that is not below `percent` of them. With fewer than 100 values the 99th is the greatest.

    Raises:
        ValueError: no values, or no percentage above 0.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"there is no {percent:g}th percentile of {len(values)} values")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]

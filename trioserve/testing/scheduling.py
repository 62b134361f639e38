"""The order in which trio runs tasks that can run at the same time: drawn at random, and here the same each time.

Trio shuffles what is ready, so that nobody relies on an order. A play has to be played again exactly, so it fixes the
order for as long as it lasts, and puts back what there was.

There is no public way. Trio keeps its own random numbers and a switch that sorts what is ready before it is shuffled,
for Hypothesis, which seeds and sets the same two. Where a later trio has them no more, the order is trio's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from trio._core import _run

_SEED = 0
_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"


@contextmanager
def fixed_order() -> Iterator[None]:
    """Inside, tasks are scheduled by the same numbers each time, from the beginning."""
    numbers, sorts = getattr(_run, "_r", None), getattr(_run, _SWITCH, None)
    if not isinstance(numbers, random.Random) or not isinstance(sorts, bool):
        yield
        return
    state = numbers.getstate()
    numbers.seed(_SEED)
    setattr(_run, _SWITCH, True)
    try:
        yield
    finally:
        numbers.setstate(state)
        setattr(_run, _SWITCH, sorts)

"""Which signals to end are orders: those that somebody has sent on purpose, once each.

Who stops a process often signals it twice: `timeout` sends to the process and then to its group, a wrapper passes on
what its own group was sent. Such an echo comes milliseconds later; it must not count as the second order, which cuts
what the first one lets end. Somebody who is shown that it drains and decides not to wait takes longer.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import trio

TOGETHER = 0.5
"""Seconds within which a further signal to end says the same as the one before."""


async def without_echoes(signals: AsyncIterator[int]) -> AsyncIterator[int]:
    """The signals, without those to end (SIGINT, SIGTERM) that follow one within TOGETHER seconds."""
    deaf_until = -float("inf")
    async for number in signals:
        if number in {signal.SIGINT, signal.SIGTERM}:
            if trio.current_time() < deaf_until:
                continue
            deaf_until = trio.current_time() + TOGETHER
        yield number

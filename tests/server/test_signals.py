"""An echo of a signal to end is no second order."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable

import pytest
import trio

from trioserve.server.signals import TOGETHER, without_echoes

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


async def sent(signals: Iterable[tuple[float, int]]) -> AsyncIterator[int]:
    """Each at its time."""
    begin = trio.current_time()
    for when, number in signals:
        await trio.sleep_until(begin + when)
        yield number


@pytest.mark.parametrize(
    ("signals", "taken"),
    [
        ([(0, TERM)], [TERM]),
        ([(0, TERM), (0, TERM)], [TERM]),
        ([(0, TERM), (TOGETHER - 0.01, INT)], [TERM]),
        ([(0, INT), (TOGETHER + 0.01, INT)], [INT, INT]),
        # One that is left out does not put off when the next counts.
        ([(0, TERM), (0.3, TERM), (0.6, TERM)], [TERM, TERM]),
        # The second order has echoes too.
        ([(0, TERM), (1, TERM), (1.1, TERM), (2, TERM)], [TERM, TERM, TERM]),
        ([(0, HUP), (0, HUP), (0, TERM), (0, HUP)], [HUP, HUP, TERM, HUP]),
    ],
)
async def test_a_signal_to_end_right_behind_another_is_an_echo(autojump_clock, signals, taken):
    assert [number async for number in without_echoes(sent(signals))] == taken

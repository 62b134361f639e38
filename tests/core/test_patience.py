"""Patience: silences, drips, and what a client may take at the most."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.core.patience import Patience

CAPACITY = 10.0
RATE = 100


def left_after(*steps: tuple[float, int]) -> float:
    """What is left after waits of so many seconds, each ended by so many bytes."""
    patience = Patience(CAPACITY, RATE)
    for seconds, size in steps:
        patience.waited(seconds)
        if size:
            patience.got(size)
    return patience.left


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], 10),
        ([(4, 0)], 6),
        ([(9.5, 0)], 0.5),
        ([(10, 0)], 0),
        ([(11, 0)], 0),  # no debts
        ([(4, 100)], 7),  # a hundred bytes may take a second
        ([(4, 1)], 6.01),
        ([(4, 400)], 10),
        ([(4, 10**9)], 10),  # and nothing is put aside
        ([(11, 100)], 1),
        ([(4, 100), (4, 100)], 4),
        ([(4, 0), (4, 100)], 3),  # a wait that was given up counts
        ([(0, 100)] * 5, 10),
        ([(1, 100)] * 100, 10),
        ([(1, 90)] * 100, 0.9),
        ([(1, 1)] * 10, 0.1),
    ],
)
def test_waiting_drains_it_and_bytes_fill_it(steps, left):
    assert left_after(*steps) == pytest.approx(left)


def test_any_byte_will_do_where_there_is_no_rate():
    patience = Patience(CAPACITY, math.inf)
    patience.waited(9.9)
    patience.got(1)
    assert patience.left == CAPACITY


@pytest.mark.parametrize("rate", [RATE, math.inf])
def test_it_has_no_end_where_there_is_no_stall(rate):
    patience = Patience(math.inf, rate)
    patience.waited(10**9)
    patience.got(1)
    assert patience.left == math.inf


waits = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 3000)), max_size=50)


@given(waits=waits)
def test_all_waits_together_take_no_longer_than_the_bytes_may_and_one_capacity(waits):
    patience, waited, came = Patience(CAPACITY, RATE), 0.0, 0
    for seconds, size in waits:
        if seconds > patience.left:
            waited += patience.left  # and then it is cut
            break
        patience.waited(seconds)
        patience.got(size)
        waited, came = waited + seconds, came + size
    assert waited <= CAPACITY + came / RATE + 1e-6


@given(waits=st.lists(st.tuples(st.floats(0, CAPACITY), st.integers(0, 3000)), max_size=50))
def test_who_is_never_slower_than_the_rate_is_never_cut(waits):
    patience = Patience(CAPACITY, RATE)
    for seconds, more in waits:
        assert seconds <= patience.left
        patience.waited(seconds)
        patience.got(math.ceil(seconds * RATE) + more + 1)
        assert patience.left == pytest.approx(CAPACITY)


@given(waits=waits)
def test_it_is_never_more_than_the_capacity_nor_less_than_nothing(waits):
    patience = Patience(CAPACITY, RATE)
    for seconds, size in waits:
        patience.waited(seconds)
        assert 0 <= patience.left <= CAPACITY
        patience.got(size)
        assert 0 < patience.left <= CAPACITY

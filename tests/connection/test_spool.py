"""The spool keeps bytes in order, within its own limit and the server's budget, and gives back what it took."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.connection.spool import RECEIVE_SIZE, Budget, Spool


def full(data: bytes = b"a") -> bytes:
    """As many bytes as are received at a time."""
    return data * RECEIVE_SIZE


def test_a_budget_gives_what_it_has_and_no_more():
    budget = Budget(10)

    assert budget.take(4)
    assert not budget.take(7)
    assert budget.take(6)
    assert not budget.take(1)
    budget.give_back(1)
    assert budget.take(1)


def test_a_budget_without_a_limit_gives_everything():
    budget = Budget(math.inf)

    assert budget.take(10**15)
    assert budget.take(10**15)


def test_an_empty_spool_has_nothing():
    assert Spool(math.inf, Budget(math.inf)).take() is None


def test_bytes_come_out_in_the_order_in_which_they_went_in():
    spool = Spool(math.inf, Budget(math.inf))
    for data in (b"a", b"bc", b"d"):
        spool.put(data)

    assert spool.size == 4
    assert [spool.take(), spool.take(), spool.take(), spool.take()] == [b"a", b"bc", b"d", None]
    assert spool.size == 0


def test_what_a_spool_may_hold_on_its_own_it_may_hold_when_others_have_put_back_more_than_was_left():
    """Else two clients that push what nobody reads would keep all others over TLS from being read."""
    budget = Budget(100)
    Spool(math.inf, budget).put_back(bytes(1000))
    spool = Spool(math.inf, budget, allowance=RECEIVE_SIZE)

    assert spool.has_room()
    spool.put(full())
    assert not spool.has_room()
    assert spool.take() == full()
    assert budget.left == -900


def test_what_is_put_back_is_the_oldest_again_and_counts_even_where_there_is_no_room():
    budget = Budget(0)
    spool = Spool(1, budget)

    spool.put_back(b"cd")
    spool.put_back(b"ab")

    assert not spool.has_room()
    assert [spool.take(), spool.take(), spool.take()] == [b"ab", b"cd", None]
    assert budget.left == 0


@pytest.mark.parametrize("short", [0, 1], ids=["at the limit", "one byte short"])
def test_a_spool_has_room_only_for_a_whole_receive_within_its_limit(short):
    spool = Spool(2 * RECEIVE_SIZE - short, Budget(math.inf))
    spool.put(full())

    assert spool.has_room() == (not short)


@pytest.mark.parametrize("short", [0, 1], ids=["at the budget", "one byte short"])
def test_a_spool_has_room_only_for_a_whole_receive_within_the_budget(short):
    budget = Budget(2 * RECEIVE_SIZE - short)
    one, other = Spool(math.inf, budget), Spool(math.inf, budget)
    one.put(full())

    assert other.has_room() == (not short)


def test_what_is_taken_out_makes_room_for_others():
    budget = Budget(RECEIVE_SIZE)
    one, other = Spool(math.inf, budget), Spool(math.inf, budget)
    one.put(full())
    assert not other.has_room()

    one.take()

    assert other.has_room()


def test_what_is_cleared_makes_room_for_others_once():
    budget = Budget(RECEIVE_SIZE)
    spool = Spool(math.inf, budget)
    spool.put(b"abc")

    spool.clear()
    spool.clear()

    assert (spool.size, spool.take(), budget.left) == (0, None, RECEIVE_SIZE)


@given(
    limit=st.integers(0, 5 * RECEIVE_SIZE),
    total=st.integers(0, 5 * RECEIVE_SIZE),
    steps=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2), st.sampled_from(["take", "clear"]), st.just(0)),
            st.tuples(st.integers(0, 2), st.just("put"), st.sampled_from([1, 1_000, RECEIVE_SIZE])),
        ),
        max_size=40,
    ),
)
def test_spools_together_never_hold_more_than_their_limits_and_give_back_what_they_took(limit, total, steps):
    budget = Budget(total)
    spools = [Spool(limit, budget) for _ in range(3)]
    held: list[list[bytes]] = [[], [], []]
    for number, step, size in steps:
        spool, expected = spools[number], held[number]
        if step == "put":
            if spool.has_room():
                data = bytes([len(expected)]) * size
                spool.put(data)
                expected.append(data)
        elif step == "take":
            assert spool.take() == (expected.pop(0) if expected else None)
        else:
            spool.clear()
            expected.clear()
        assert [spool.size for spool in spools] == [sum(map(len, parts)) for parts in held]
        assert all(spool.size <= limit for spool in spools)
        assert budget.left == total - sum(spool.size for spool in spools)
        assert budget.left >= 0

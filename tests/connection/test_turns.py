"""Turns: who has one, who waits, and that none is lost."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioserve.connection.turns import Turns


@pytest.mark.parametrize("limit", [1, 3])
def test_as_many_are_free_as_the_limit_says(limit):
    turns = Turns(limit, 1)
    assert [turns.take() for _ in range(limit + 1)] == [True] * limit + [False]


def test_without_a_limit_one_is_always_free():
    turns = Turns(math.inf, 1)
    assert all(turns.take() for _ in range(1000))
    turns.give_back()
    assert turns.take()


def test_one_that_is_given_back_can_be_taken_again():
    turns = Turns(1, 1)
    for _ in range(3):
        assert turns.take()
        assert not turns.take()
        turns.give_back()


@pytest.mark.parametrize("places", [1, 3])
async def test_the_queue_is_full_when_as_many_wait_as_there_are_places(nursery, places):
    turns = Turns(1, places)
    turns.take()
    for _ in range(places):
        assert not turns.queue_is_full
        nursery.start_soon(turns.wait)
        await wait_all_tasks_blocked()
    assert turns.queue_is_full
    nursery.cancel_scope.cancel()


async def test_who_has_waited_longest_is_next_and_nobody_comes_in_between(nursery):
    turns, served = Turns(1, 10), []
    turns.take()

    async def wait(number: int) -> None:
        await turns.wait()
        served.append(number)

    for number in range(4):
        nursery.start_soon(wait, number)
        await wait_all_tasks_blocked()
    for number in range(4):
        turns.give_back()
        assert not turns.take(), "it is handed on, and not free for who comes now"
        await wait_all_tasks_blocked()
        assert served == list(range(number + 1))
    turns.give_back()
    assert turns.take()


async def test_who_gives_up_waiting_leaves_its_place_and_takes_no_turn(nursery):
    turns, served, impatient = Turns(1, 1), trio.Event(), trio.CancelScope()
    turns.take()

    async def wait_impatiently() -> None:
        with impatient:
            await turns.wait()

    async def wait() -> None:
        await turns.wait()
        served.set()

    nursery.start_soon(wait_impatiently)
    await wait_all_tasks_blocked()
    assert turns.queue_is_full
    impatient.cancel()
    await wait_all_tasks_blocked()
    assert not turns.queue_is_full
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    turns.give_back()
    await served.wait()


async def test_a_turn_that_comes_together_with_a_cancellation_is_taken(nursery):
    """So that it can be given back: a turn is never lost between the two."""
    turns, scope, came = Turns(1, 1), trio.CancelScope(), trio.Event()
    turns.take()

    async def wait() -> None:
        with scope:
            await turns.wait()
            came.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    turns.give_back()
    scope.cancel()
    await came.wait()

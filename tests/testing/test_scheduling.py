"""Plays are the same each time, although trio shuffles what it schedules."""

from __future__ import annotations

import random

import trio
from trio._core import _run

from trioserve import App
from trioserve.testing import Checkpoint, Way, leave_at_every_point, run
from trioserve.testing.scheduling import fixed_order


def orders_of_tasks(seed: int) -> list[str]:
    """In which order the tasks of a handler went on, in three plays, when trio began with this seed."""
    app = App()
    orders = []

    @app.get("/")
    async def handler() -> str:
        order: list[str] = []

        async def child(name: str) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                order.append(name)

        async with trio.open_nursery() as nursery:
            for name in "abcdef":
                nursery.start_soon(child, name)
        orders.append("".join(order))
        await trio.sleep(1)
        return "done"

    _run._r.seed(seed)
    run(leave_at_every_point, app, "/", at=Checkpoint(20), how=Way.FIN)
    return orders


def test_every_play_is_the_same_however_trio_is_seeded() -> None:
    seen = [orders_of_tasks(seed) for seed in range(5)]
    assert seen == [seen[0]] * 5
    _, staying, leaving = seen[0]  # only the first play starts what the run keeps
    assert staying == leaving


def test_the_order_of_what_comes_behind_is_as_if_there_had_been_no_play(monkeypatch) -> None:
    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    _run._r.seed(7)
    with fixed_order():
        first = _run._r.random()
        assert _run._ALLOW_DETERMINISTIC_SCHEDULING
    assert not _run._ALLOW_DETERMINISTIC_SCHEDULING
    assert _run._r.random() == random.Random(7).random()
    with fixed_order():
        assert _run._r.random() == first


def test_without_these_numbers_the_order_is_trios(monkeypatch) -> None:
    monkeypatch.delattr(_run, "_r")
    with fixed_order():
        pass

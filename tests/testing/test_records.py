"""Records keep what they are told, and let a test wait for it."""

from __future__ import annotations

import trio
import trio.testing

from tests.support.sample_records import abandoned, completed
from trioserve.testing import Records

HERE, THERE = ("198.51.100.7", 1), ("198.51.100.7", 2)


async def test_all_is_kept_in_order_and_so_is_what_the_hook_was_told():
    records, first, second = Records(), completed(), abandoned()
    records.completed(first)
    records.abandoned(second)
    assert records.all == [first, second]
    assert records.told == []
    await records.hook(second)
    assert records.told == [second]


async def test_count_waits_for_so_many_records_and_for_the_hooks_of_the_abandoned_ones():
    records, came = Records(), []

    async def wait():
        await records.count(2)
        came.append("two")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        last = abandoned()
        for tell in [lambda: records.completed(completed()), lambda: records.abandoned(last)]:
            tell()
            await trio.testing.wait_all_tasks_blocked()
            assert not came
        await records.hook(last)
    assert came == ["two"]
    await records.count(0)


async def test_the_record_of_one_exchange_is_found_by_its_connections_address_and_its_number():
    records, found = Records(), []

    async def find():
        found.append(await records.of(HERE, 2))

    others = [(HERE, 1), (THERE, 2)]
    mine = completed(client=HERE, exchange_number=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(find)
        for client, number in others:
            records.completed(completed(client=client, exchange_number=number))
            await trio.testing.wait_all_tasks_blocked()
            assert not found
        records.completed(mine)
    assert found == [mine]


async def test_the_record_of_an_abandoned_exchange_is_there_when_its_hook_was_called():
    records, found = Records(), []
    mine = abandoned(client=HERE, exchange_number=1)

    async def find():
        found.append(await records.of(HERE, 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find)
        records.abandoned(mine)
        await trio.testing.wait_all_tasks_blocked()
        assert not found
        await records.hook(mine)
    assert found == [mine]


async def test_an_exchange_is_found_by_its_connections_id_and_the_first_of_its_records_is_taken():
    records = Records()
    mine, another = abandoned(client=HERE, connection_id=7), abandoned(client=THERE, connection_id=7)
    for record in (mine, another):
        records.abandoned(record)
        await records.hook(record)
    assert await records.of(7, mine.exchange_number) is mine
    assert await records.of(THERE, mine.exchange_number) is another
    assert records.has(HERE, mine.exchange_number)
    assert not records.has(HERE, mine.exchange_number + 1)


async def test_to_find_one_of_many_records_is_not_to_look_at_the_others():
    class Looked:
        """Stands for a record and counts how often it is looked at."""

        looks = 0

        def __init__(self, number: int) -> None:
            self.connection_id, self.client = number, ("198.51.100.7", number)

        @property
        def exchange_number(self) -> int:
            Looked.looks += 1
            return 1

    records = Records()
    for number in range(100):
        records.completed(Looked(number))
    Looked.looks = 0
    assert records.has(99, 1)
    assert not records.has(100, 1)
    assert Looked.looks == 0

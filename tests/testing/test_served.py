"""An app served in memory, with its records and its handlers' waits, and nothing changed in it."""

from __future__ import annotations

import pytest
import trio

from trioserve import Abandoned, App, Completed, Config
from trioserve.testing import Records, Way, run, served, wire_of
from trioserve.testing.wire import head_of


def sleeping() -> App:
    app = App()

    @app.get("/")
    async def sleep() -> str:
        await trio.sleep(1)
        return "rested"

    return app


def test_a_client_is_answered_and_the_record_is_kept():
    async def play():
        async with served(sleeping()) as it:
            peer = it.connect()
            await peer.send(wire_of("/").head)
            record = await it.records.of(peer.client, 1)
            return record, await peer.receive(), len(it.watch.waits)

    record, received, waits = run(play)
    assert isinstance(record, Completed)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"rested")
    assert waits == 1


def test_the_hook_is_told_beside_the_apps_own_and_the_app_is_not_changed():
    app, told = sleeping(), []

    @app.on_abandoned
    async def own(record):
        told.append(record)

    async def play():
        async with served(app) as it:
            peer = it.connect()
            await peer.send(wire_of("/").head, pieces=[1])
            peer.leave(Way.RESET)
            await it.records.count(1)
            return it.records

    for times in (1, 2):
        records = run(play)
        assert records.told == records.all == told[times - 1 :]
        assert isinstance(records.all[0], Abandoned)
    assert app.hooks == (own,)


def test_the_users_observers_are_told_too_and_nothing_is_logged(caplog):
    observer = Records()

    async def play():
        async with served(sleeping(), Config(observers=(observer,))) as it:
            peer = it.connect()
            await peer.send(wire_of("/").head)
            await it.records.count(1)
            return it.records.all

    with caplog.at_level("INFO"):
        assert run(play) == observer.all
    assert not caplog.records


def test_clients_that_are_still_there_at_the_end_leave():
    async def play():
        async with served(sleeping()) as it:
            await it.connect().send(wire_of("/").head, pieces=[1])
            idle = it.connect()
        return it.records.all, trio.current_time(), idle

    records, ended, _ = run(play)
    assert [type(record) for record in records] == [Abandoned]
    assert ended < 1


def test_an_error_in_the_block_comes_out_as_it_is():
    async def play():
        async with served(sleeping()) as it:
            await it.connect().send(head_of("GET", b"/", []))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(play)

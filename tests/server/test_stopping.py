"""How a server stops: the drain, its deadline, and cancellation."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support import Cut, Running, happens, start
from tests.support.logs import errors
from trioserve import Abandoned, App, Cause, Completed, Deadlines, Outcome, Phase, Response

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n"

SHORT = Deadlines(drain=0.1, linger=0.1)


class Slow(App):
    """An app whose handlers wait to be let go; `entered` when one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.leave = trio.Event(), trio.Event()
        self.unwound: list[str] = []

        @self.get("/")
        async def whole() -> str:
            await self.wait_to_leave()
            return "late"

        @self.get("/stream")
        async def stream() -> Response:
            return Response.stream(self.write_body)

    async def write_body(self, send) -> None:
        await send("first")
        await self.wait_to_leave()
        await send("second")

    async def wait_to_leave(self) -> None:
        self.entered.set()
        try:
            await self.leave.wait()
        except trio.Cancelled as cancelled:
            self.unwound.append(str(cancelled))
            raise


async def drain(server: Running) -> None:
    """Order the server to stop, and let it do what it does at once."""
    server.drain.set()
    await trio.testing.wait_all_tasks_blocked()


async def test_a_server_without_connections_ends_when_it_is_drained(nursery):
    server = await start(nursery, Slow())

    server.drain.set()

    await happens(server.ended.wait())


async def test_an_idle_connection_is_closed_without_a_record(nursery):
    app = Slow()
    app.leave.set()
    server = await start(nursery, app)
    used, unused = await server.connect(), await server.connect()
    await used.get()
    await server.records.next(Completed)

    server.drain.set()

    assert await used.is_closed()
    assert await unused.is_closed()
    await happens(server.ended.wait())
    assert server.records.unread == []


async def test_an_exchange_under_way_completes_and_announces_the_end(nursery):
    app = Slow()
    server = await start(nursery, app)
    client = await server.ask(GET)
    await happens(app.entered.wait())
    await drain(server)
    assert not server.ended.is_set()

    app.leave.set()

    answer = await client.answer()
    assert (answer.status, answer.body, answer.closes) == (200, b"late", True)
    assert await client.is_closed()
    assert (await server.records.next(Completed)).status == 200
    await happens(server.ended.wait())


async def test_a_stream_under_way_completes_and_the_connection_ends(nursery):
    app = Slow()
    server = await start(nursery, app)
    client = await server.ask(STREAM)
    await happens(app.entered.wait())
    await drain(server)

    app.leave.set()

    assert (await client.answer()).body == b"firstsecond"
    assert await client.is_closed()
    assert (await server.records.next(Completed)).status == 200
    await happens(server.ended.wait())


async def test_a_request_whose_head_has_begun_is_still_served(nursery):
    app = Slow()
    app.leave.set()
    server = await start(nursery, app)
    client = await server.ask(GET[:10])
    await trio.testing.wait_all_tasks_blocked()
    await drain(server)

    await client.send(GET[10:])

    answer = await client.answer()
    assert (answer.body, answer.closes) == (b"late", True)
    await happens(server.ended.wait())


async def test_nothing_pipelined_is_begun_once_the_server_drains(nursery):
    app = Slow()
    server = await start(nursery, app)
    client = await server.ask(GET + GET)
    await happens(app.entered.wait())
    await drain(server)

    app.leave.set()

    assert (await client.answer()).closes
    assert await client.is_closed()
    await happens(server.ended.wait())
    await server.records.next(Completed)
    assert server.records.unread == []


async def test_at_the_deadline_what_has_not_answered_is_cancelled_and_answered_503(nursery, caplog):
    app = Slow()
    server = await start(nursery, app, deadlines=SHORT)
    client = await server.ask(GET)
    await happens(app.entered.wait())

    server.drain.set()

    answer = await client.answer()
    assert (answer.status, answer.closes) == (503, True)
    assert await client.is_closed()
    record = await server.records.next(Completed)
    assert (record.status, record.target, record.route) == (503, "/", "/")
    assert [("DRAIN" in reason, "HANDLER" in reason) for reason in app.unwound] == [(True, True)]
    await happens(server.ended.wait())
    assert server.records.unread == []
    assert not errors(caplog)


async def test_at_the_deadline_a_stream_is_cut_and_abandoned(nursery, caplog):
    app = Slow()
    server = await start(nursery, app, deadlines=SHORT)
    client = await server.ask(STREAM)
    await happens(app.entered.wait())

    server.drain.set()

    with pytest.raises(Cut) as cut:
        await client.answer()
    assert (cut.value.answer.status, cut.value.answer.body) == (200, b"first")
    record = await server.records.next(Abandoned)
    assert (record.status, record.phase, record.cause) == (503, Phase.RESPONSE_BODY, Cause.DRAIN)
    assert (record.by, record.sent_status, record.outcome) == ("server", 200, Outcome.CANCELLED)
    await happens(server.ended.wait())
    assert not errors(caplog)


async def test_at_the_deadline_a_head_that_is_not_complete_is_answered_503(nursery):
    server = await start(nursery, Slow(), deadlines=SHORT)
    client = await server.ask(GET[:10])
    await trio.testing.wait_all_tasks_blocked()

    server.drain.set()

    assert (await client.answer()).status == 503
    assert await client.is_closed()
    assert (await server.records.next(Completed)).target is None
    await happens(server.ended.wait())


async def test_clean_up_outlives_the_drains_deadline(nursery):
    app = App()
    entered, cleaned = trio.Event(), trio.Event()

    @app.get("/")
    async def handler() -> None:
        entered.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(0.1)
                cleaned.set()

    server = await start(nursery, app, deadlines=SHORT)
    client = await server.ask(GET)
    await happens(entered.wait())
    server.drain.set()
    await happens(server.ended.wait())

    assert cleaned.is_set()
    assert (await client.answer()).status == 503


async def test_hooks_hear_of_what_the_drain_has_cut(nursery):
    app = Slow()
    told: list[Abandoned] = []

    @app.on_abandoned
    async def hook(record: Abandoned) -> None:
        await trio.lowlevel.checkpoint()
        told.append(record)

    server = await start(nursery, app, deadlines=SHORT)
    await server.ask(STREAM)
    await happens(app.entered.wait())
    server.drain.set()
    await happens(server.ended.wait())

    assert [(record.cause, record.sent_status) for record in told] == [(Cause.DRAIN, 200)]


async def test_cancelling_the_server_unwinds_handlers_answers_503_and_makes_records(nursery, caplog):
    app = Slow()
    server = await start(nursery, app)
    client = await server.ask(GET)
    await happens(app.entered.wait())

    server.scope.cancel()
    await happens(server.ended.wait())

    assert len(app.unwound) == 1
    assert (await client.answer()).status == 503
    assert await client.is_closed()
    assert (await server.records.next(Completed)).status == 503
    assert not errors(caplog)


async def test_cancelling_the_server_cuts_streams_and_tells_the_hooks(nursery, caplog):
    app = Slow()
    told: list[Abandoned] = []

    @app.on_abandoned
    async def hook(record: Abandoned) -> None:
        await trio.sleep(0.05)  # a hook may wait, also while everything around it is cancelled
        told.append(record)

    server = await start(nursery, app)
    client = await server.ask(STREAM)
    await happens(app.entered.wait())

    server.scope.cancel()
    await happens(server.ended.wait())

    record = await server.records.next(Abandoned)
    assert (record.cause, record.phase, record.sent_status) == (Cause.DRAIN, Phase.RESPONSE_BODY, 200)
    assert told == [record]
    with pytest.raises(Cut):
        await client.answer()
    assert not errors(caplog)


async def test_cancelling_the_server_closes_idle_connections_without_a_record(nursery):
    server = await start(nursery, Slow())
    client = await server.connect()
    await trio.testing.wait_all_tasks_blocked()

    server.scope.cancel()

    assert await client.is_closed()
    await happens(server.ended.wait())
    assert server.records.all == []


async def test_cancelling_a_server_that_drains_does_not_wait_for_the_deadline(nursery):
    app = Slow()
    server = await start(nursery, app)
    client = await server.ask(GET)
    await happens(app.entered.wait())
    await drain(server)

    server.scope.cancel()

    await happens(server.ended.wait())
    assert (await client.answer()).status == 503


async def test_a_plain_handler_learns_that_the_server_stops(nursery):
    app = App()
    entered, told = trio.Event(), trio.Event()

    @app.get("/")
    def handler() -> None:
        trio.from_thread.run_sync(entered.set)
        try:
            while True:
                trio.from_thread.run(trio.lowlevel.checkpoint)
        except trio.Cancelled:
            trio.from_thread.run_sync(told.set)
            raise

    server = await start(nursery, app, deadlines=SHORT)
    client = await server.ask(GET)
    await happens(entered.wait())
    server.drain.set()

    assert (await client.answer()).status == 503
    await happens(server.ended.wait())
    assert told.is_set()


async def test_two_servers_in_one_run_stop_on_their_own(nursery):
    app = Slow()
    first, second = await start(nursery, Slow()), await start(nursery, app)
    app.leave.set()
    first.drain.set()
    await happens(first.ended.wait())

    client = await second.connect()
    assert (await client.get()).body == b"late"

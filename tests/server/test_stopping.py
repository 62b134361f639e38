"""How a server stops: the drain, its deadline, and cancellation."""

from __future__ import annotations

import math
import socket

import pytest
import trio
import trio.testing

from tests.support import Client, Cut, Running, happens, start
from tests.support.logs import errors
from tests.support.memory import in_memory
from tests.support.websocket import HANDSHAKE
from trioserve import (
    Abandoned,
    App,
    Cause,
    Completed,
    Deadlines,
    Limits,
    OpenSocket,
    Outcome,
    Phase,
    Request,
    Response,
    WebSocket,
)
from trioserve.server.server import ACCEPT_AT_ONCE, FIRST_REQUEST

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n"

GOING_AWAY = b"\x88\x02\x03\xe9"
"""A Close frame with code 1001."""

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


# The delay, in which others hear of it

LONG_DELAY = Deadlines(drain_delay=math.inf)


def quick_app() -> App:
    app = App()
    app.readiness("/ready")

    @app.get("/")
    async def draining(request: Request) -> str:
        return f"draining: {request.draining}"

    return app


async def test_while_the_drain_is_delayed_connections_are_accepted_and_end_with_their_answer(nursery):
    server = await start(nursery, quick_app(), delays_drain=True, deadlines=LONG_DELAY)
    used, idle = await server.connect(), await server.connect()
    for client in (used, idle):
        answer = await client.get()
        assert (answer.body, answer.closes) == (b"draining: False", False)
    await drain(server)

    for client in (used, await server.connect()):
        answer = await client.get()
        assert (answer.status, answer.body, answer.closes) == (200, b"draining: True", True)
        assert await client.is_closed()

    assert not server.ended.is_set()
    server.hasten.set()
    assert await idle.is_closed()
    await happens(server.ended.wait())


@pytest.mark.parametrize("order", ["drain", "replace"])
async def test_an_answer_announces_the_end_from_the_very_moment_of_the_order_on(nursery, order):
    app = App()

    @app.get("/")
    async def give_the_order(request: Request) -> str:
        getattr(server, order).set()  # and nobody else has a turn before this is answered
        return f"draining: {request.draining}"

    server = await start(nursery, app, delays_drain=True, deadlines=LONG_DELAY)
    client = await server.connect()

    answer = await client.get()

    assert (answer.body, answer.closes) == (b"draining: True", True)
    server.hasten.set()
    await happens(server.ended.wait())


async def test_readiness_is_refused_from_the_order_to_stop_on(nursery):
    server = await start(nursery, quick_app(), delays_drain=True, deadlines=LONG_DELAY)
    client = await server.connect()
    before = await client.get("/ready")
    await drain(server)

    after = await client.get("/ready")

    assert (before.status, before.body, before.get("cache-control")) == (200, b"ready\n", "no-store")
    assert (after.status, after.get("cache-control"), after.closes) == (503, "no-store", True)


async def test_a_stream_that_began_before_the_order_ends_its_connection_too(nursery):
    app = Slow()
    server = await start(nursery, app, delays_drain=True, deadlines=LONG_DELAY)
    client = await server.ask(STREAM)
    await happens(app.entered.wait())
    await drain(server)
    app.leave.set()
    assert (await client.answer()).body == b"firstsecond"

    answer = await client.get()

    assert (answer.status, answer.closes) == (200, True), "its answer had not announced the end; the next one does"


async def test_the_delay_is_a_part_of_the_drain(autojump_clock):
    app = Slow()
    async with in_memory(app, deadlines=Deadlines(drain_delay=10, drain=4)) as served:
        client = served.connect()
        await client.send(GET)
        await app.entered.wait()
        ordered_at = trio.current_time()

        await served.server.drain_slowly()

        assert trio.current_time() - ordered_at == pytest.approx(4)
        assert (await client.answer()).status == 503


async def test_after_the_delay_nobody_is_accepted_any_more(nursery):
    server = await start(nursery, quick_app(), delays_drain=True, deadlines=Deadlines(drain_delay=0))
    server.drain.set()
    await happens(server.ended.wait())

    with pytest.raises(ConnectionRefusedError):
        await server.connect()


@pytest.mark.parametrize("order", ["drain", "replace"])
async def test_a_stream_that_waits_for_news_can_come_to_its_end_at_the_order_to_end(nursery, order):
    app = App()
    entered = trio.Event()

    @app.get("/")
    async def handler(request: Request) -> Response:
        async def write_events(send) -> None:
            await send("hello")
            entered.set()
            await request.until_draining()
            await send("bye")
            await request.until_draining()

        return Response.events(write_events)

    server = await start(nursery, app, delays_drain=True, deadlines=LONG_DELAY)
    client = await server.ask(GET)
    await happens(entered.wait())
    await trio.testing.wait_all_tasks_blocked()

    getattr(server, order).set()

    assert (await client.answer()).body == b"data: hello\n\ndata: bye\n\n"
    assert (await server.records.next(Completed)).status == 200
    server.hasten.set()
    await happens(server.ended.wait())


async def test_a_websocket_that_waits_for_messages_can_be_closed_at_the_order_to_end(nursery):
    app = App()

    @app.websocket("/")
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        await socket.request.until_draining()
        await socket.close(1001)

    server = await start(nursery, app, delays_drain=True, deadlines=LONG_DELAY)
    client = await server.ask(HANDSHAKE)
    received = await client.receive()
    await trio.testing.wait_all_tasks_blocked()

    server.drain.set()

    while not received.endswith(GOING_AWAY):
        received += await client.receive()
    client.close()
    server.hasten.set()
    await happens(server.ended.wait())


# Replaced: others serve the same sockets, and go on


async def test_a_server_that_is_replaced_takes_nobody_from_the_others_and_does_not_say_that_the_service_stops(nursery):
    with socket.create_server(("127.0.0.1", 0)) as shared:
        server = await start(
            nursery, quick_app(), delays_drain=True, deadlines=LONG_DELAY, listen=(OpenSocket(shared.dup().detach()),)
        )
        used, ready, idle = [await server.connect() for _ in range(3)]
        for client in (used, ready, idle):
            assert not (await client.get()).closes

        server.replace.set()
        await trio.testing.wait_all_tasks_blocked()

        late = await server.connect()
        accepted, _ = shared.accept()
        accepted.close()
        assert await late.is_closed(), "whoever comes is the others'"
        answer = await ready.get("/ready")
        assert (answer.status, answer.body, answer.closes) == (200, b"ready\n", True)
        answer = await used.get()
        assert (answer.body, answer.closes) == (b"draining: True", True)
        assert not server.ended.is_set(), "idle connections have the delay too, to hear of it"

        server.hasten.set()
        assert await idle.is_closed()
        await happens(server.ended.wait())


async def test_readiness_is_refused_when_the_service_stops_while_a_server_is_being_replaced(nursery):
    server = await start(nursery, quick_app(), delays_drain=True, deadlines=LONG_DELAY)
    client = await server.connect()
    await client.get()
    server.replace.set()
    await trio.testing.wait_all_tasks_blocked()

    server.drain.set()

    assert (await client.get("/ready")).status == 503
    server.hasten.set()
    await happens(server.ended.wait())


# What is there is answered


async def test_an_idle_connection_in_which_a_request_lies_is_answered(autojump_clock):
    async with in_memory(quick_app()) as served:
        client = served.connect()
        await client.get()
        client.stream.send_nowait(GET)  # and nobody has had the time to read it

        await served.server.drain()

        answer = await client.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert await client.is_closed()


async def test_an_idle_connection_in_which_a_request_lies_is_answered_on_a_socket(nursery):
    server = await start(nursery, quick_app())
    client = await server.connect()
    await client.get()

    server.drain.set()
    client.stream.socket._sock.send(GET)

    assert (await client.answer()).status == 200
    assert await client.is_closed()
    await happens(server.ended.wait())


async def test_empty_lines_are_no_request_that_a_drain_would_wait_for(autojump_clock):
    app = Slow()
    async with in_memory(app, deadlines=Deadlines(idle=500, drain=500)) as served:
        idle, busy = served.connect(), served.connect()
        app.leave.set()
        await idle.get()
        app.leave = trio.Event()
        busy.stream.send_nowait(STREAM + b"\r\n")
        await trio.testing.wait_all_tasks_blocked()
        idle.stream.send_nowait(b"\r\n")
        begun = trio.current_time()
        async with trio.open_nursery() as draining:
            draining.start_soon(served.server.drain)

            assert await idle.is_closed()
            app.leave.set()
            assert not (await busy.answer()).closes
            assert await busy.is_closed()

        assert trio.current_time() < begun + 100


async def test_a_request_behind_an_answer_that_did_not_announce_the_end_is_answered(nursery):
    app = Slow()
    server = await start(nursery, app)
    client = await server.ask(STREAM + GET)
    await happens(app.entered.wait())
    await drain(server)

    app.leave.set()

    assert not (await client.answer()).closes
    answer = await client.answer()
    assert (answer.body, answer.closes) == (b"late", True)
    await happens(server.ended.wait())


async def test_a_client_that_has_left_is_no_request(autojump_clock):
    async with in_memory(quick_app()) as served:
        client = served.connect()
        await client.get()
        client.stream.send_eof_nowait()

        await served.server.drain()

        assert await client.is_closed()


async def test_a_client_in_the_backlog_is_answered(nursery):
    server = await start(nursery, quick_app(), delays_drain=True, deadlines=Deadlines(drain_delay=0))
    await trio.testing.wait_all_tasks_blocked()
    server.drain.set()
    with socket.create_connection(("127.0.0.1", server.port)) as early:  # before the server has its turn
        early.settimeout(0)
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(early)))

        answer = await client.get()

        assert (answer.status, answer.closes) == (200, True)
    await happens(server.ended.wait())


async def test_a_client_that_waited_in_the_backlog_for_room_is_answered(nursery):
    app = Slow()
    server = await start(
        nursery, app, delays_drain=True, limits=Limits(connections=1), deadlines=Deadlines(drain_delay=0)
    )
    first = await server.ask(GET)
    await happens(app.entered.wait())
    second = await server.ask(GET)
    await trio.testing.wait_all_tasks_blocked()

    await drain(server)
    app.leave.set()

    for client in (first, second):
        answer = await client.answer()
        assert (answer.status, answer.closes) == (200, True)
    await happens(server.ended.wait())


async def test_a_connection_that_was_just_accepted_gets_time_for_its_first_request(nursery):
    server = await start(nursery, quick_app(), delays_drain=True, deadlines=Deadlines(drain_delay=0))
    client = await server.connect()
    await trio.testing.wait_all_tasks_blocked()
    await drain(server)

    answer = await client.get()

    assert (answer.status, answer.closes) == (200, True)
    await happens(server.ended.wait())


async def test_a_connection_without_a_first_request_does_not_hold_up_the_drain_for_long(autojump_clock):
    async with in_memory(quick_app(), deadlines=Deadlines(drain_delay=0)) as served:
        client = served.connect()
        await trio.testing.wait_all_tasks_blocked()
        ordered_at = trio.current_time()

        await served.server.drain_slowly()

        assert trio.current_time() - ordered_at == pytest.approx(FIRST_REQUEST)
        assert await client.is_closed()
        assert served.records.all == []


async def test_a_hastened_drain_does_not_wait_for_first_requests(autojump_clock):
    async with in_memory(quick_app()) as served:
        client = served.connect()
        await trio.testing.wait_all_tasks_blocked()
        ordered_at = trio.current_time()

        await served.server.drain()

        assert trio.current_time() == ordered_at
        assert await client.is_closed()


# The deadline


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


async def test_all_who_wait_in_the_backlog_when_the_drain_begins_are_served(nursery):
    """Also more of them than are accepted at once."""
    app = Slow()
    app.leave.set()
    server = await start(nursery, app)
    # Without a step of the scheduler: nobody is accepted before the drain was ordered.
    waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3 * ACCEPT_AT_ONCE)]
    for sock in waiting:
        sock.sendall(GET)
    server.drain.set()

    for sock in waiting:
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
        assert (await client.answer()).status == 200
        client.close()
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

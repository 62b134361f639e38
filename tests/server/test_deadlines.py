"""Deadlines on real sockets: what is cut, when, and what the client and the records are told."""

from __future__ import annotations

import pytest
import trio

from tests.support import happens, start
from tests.support.logs import errors, logged
from trioserve import Abandoned, App, Cause, Completed, Deadlines, Limits, Outcome, Phase, Request, Response

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def app_that_reads() -> App:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    @app.post("/")
    async def echo(request: Request) -> bytes:
        return await request.body()

    return app


async def test_a_head_that_is_dripped_is_cut_in_total_and_answered_408(nursery, caplog):
    server = await start(nursery, app_that_reads(), deadlines=Deadlines(head=0.2))
    client = await server.connect()

    async def drip() -> None:
        await client.send(b"GET / HTTP/1.1\r\nHost: test\r\nA: ")
        while True:
            await client.send(b"b")
            await trio.sleep(0.02)

    async with trio.open_nursery() as dripping:
        dripping.start_soon(drip)
        answer = await client.answer()
        dripping.cancel_scope.cancel()

    assert (answer.status, answer.closes) == (408, True)
    record = await server.records.next(Completed)
    assert (record.status, record.method, record.target, record.exchange_number) == (408, "GET", "/", 1)
    assert record.headers is None
    assert record.duration >= 0.2
    assert not errors(caplog)


async def test_a_connection_that_says_nothing_is_closed_without_answer_or_record(nursery):
    server = await start(nursery, app_that_reads(), deadlines=Deadlines(head=0.1))
    client = await server.connect()

    assert await client.is_closed()
    assert server.records.all == []


async def test_an_idle_connection_is_closed_without_a_record_of_its_own(nursery, caplog):
    server = await start(nursery, app_that_reads(), deadlines=Deadlines(idle=0.1))
    client = await server.connect()
    await client.get()
    await server.records.next(Completed)

    assert await client.is_closed()
    assert server.records.unread == []
    assert not errors(caplog)


async def test_idle_time_does_not_count_while_a_handler_runs(nursery):
    app = App()

    @app.get("/")
    async def handler() -> str:
        await trio.sleep(0.2)
        return "late"

    server = await start(nursery, app, deadlines=Deadlines(idle=0.05, head=0.05, body_stall=0.05, send_stall=0.05))
    client = await server.connect()

    assert (await client.get()).body == b"late"


async def test_a_body_that_stalls_is_answered_408_and_its_handler_stopped(nursery, caplog):
    app = App()
    stopped = trio.Event()

    @app.post("/")
    async def handler(request: Request) -> None:
        try:
            await request.body()
        finally:
            stopped.set()

    server = await start(nursery, app, deadlines=Deadlines(body_stall=0.1))
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")

    answer = await client.answer("POST")

    assert (answer.status, answer.closes) == (408, True)
    assert stopped.is_set()
    record = await server.records.next(Completed)
    assert (record.status, record.route, record.request_body_bytes) == (408, "/", 3)
    assert not errors(caplog)


async def test_a_body_that_is_slow_but_does_not_stall_is_served(nursery):
    server = await start(nursery, app_that_reads(), limits=Limits(body_rate=10), deadlines=Deadlines(body_stall=0.3))
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n")

    for byte in b"abcdefgh":  # half a second altogether
        await client.send(bytes([byte]))
        await trio.sleep(0.06)

    assert (await client.answer("POST")).body == b"abcdefgh"


async def test_a_body_that_is_dripped_is_answered_408_though_it_never_stalls(nursery, caplog):
    server = await start(nursery, app_that_reads(), limits=Limits(body_rate=1000), deadlines=Deadlines(body_stall=0.3))
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n")

    async def drip() -> None:
        while True:
            await client.send(b"b")
            await trio.sleep(0.02)

    async with trio.open_nursery() as dripping:
        dripping.start_soon(drip)
        answer = await client.answer("POST")
        dripping.cancel_scope.cancel()

    assert (answer.status, answer.closes) == (408, True)
    record = await server.records.next(Completed)
    assert (record.status, record.route) == (408, "/")
    assert record.duration >= 0.3
    assert not errors(caplog)


async def test_a_client_that_takes_nothing_of_a_stream_is_cut_as_too_slow(nursery, caplog):
    app = App()
    told: list[Abandoned] = []
    app.on_abandoned(told.append)

    async def write_body(send) -> None:
        while True:
            await send(bytes(65_536))

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app, deadlines=Deadlines(send_stall=0.1))
    client = await server.connect(receive_buffer=4096)
    await client.send(GET)

    record = await server.records.next(Abandoned)

    assert (record.status, record.phase, record.cause) == (499, Phase.RESPONSE_BODY, Cause.WRITE_TIMEOUT)
    assert (record.by, record.sent_status, record.logged_status) == ("client", 200, 200)
    assert record.outcome is Outcome.CANCELLED
    assert record.response_body_bytes > 0
    assert record.unacked_bytes > 0
    assert not errors(caplog)
    # What is queued for such a client does not stay in the kernel's memory: the connection is reset.
    with pytest.raises(trio.BrokenResourceError):
        await client.read_to_end()


async def test_a_client_that_takes_nothing_of_a_whole_response_is_cut_too(nursery):
    app = App()

    @app.get("/")
    async def handler() -> bytes:
        return bytes(50_000_000)

    server = await start(nursery, app, deadlines=Deadlines(send_stall=0.1))
    client = await server.connect(receive_buffer=4096)
    await client.send(GET)

    record = await server.records.next(Abandoned)

    assert (record.status, record.phase, record.cause) == (499, Phase.RESPONSE_BODY, Cause.WRITE_TIMEOUT)
    assert record.response_body_expected == 50_000_000
    assert 0 < record.response_body_bytes < 50_000_000


async def test_a_handler_that_takes_too_long_is_cancelled_and_answered_503(nursery, caplog):
    app = App()
    stopped = trio.Event()

    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()

    server = await start(nursery, app, deadlines=Deadlines(handler=0.1))
    client = await server.connect()

    answer = await client.get()

    assert (answer.status, answer.closes) == (503, True)
    assert stopped.is_set()
    assert await client.is_closed()
    record = await server.records.next(Completed)
    assert record.status == 503
    assert record.duration >= 0.1
    assert not errors(caplog)


async def test_the_deadline_of_a_route_prevails_and_holds_for_each_exchange(nursery):
    app = App()

    @app.get("/short", deadline=0.1)
    async def short() -> None:
        await trio.sleep_forever()

    @app.get("/long", deadline=60)
    async def long() -> str:
        await trio.sleep(0.2)
        return "long"

    server = await start(nursery, app, deadlines=Deadlines(handler=0.1))
    client = await server.connect()

    assert (await client.get("/long")).body == b"long"
    assert (await client.get("/short")).status == 503


async def test_the_deadline_holds_until_the_end_of_the_response(nursery):
    app = App()

    async def write_body(send) -> None:
        await send("part")
        await trio.sleep_forever()

    @app.get("/", deadline=0.1)
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app)
    await server.ask(GET)

    record = await server.records.next(Abandoned)

    assert (record.status, record.phase, record.cause) == (503, Phase.RESPONSE_BODY, Cause.DEADLINE)
    assert (record.by, record.sent_status) == ("server", 200)


async def test_a_deadline_while_the_body_is_awaited_is_503_too(nursery):
    app = App()

    @app.post("/", deadline=0.1)
    async def handler(request: Request) -> bytes:
        return await request.body()

    server = await start(nursery, app)
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")

    assert (await client.answer("POST")).status == 503
    assert (await server.records.next(Completed)).status == 503


async def test_a_plain_handler_over_its_deadline_is_told_and_answered_503_when_it_ends(nursery):
    app = App()

    @app.get("/", deadline=0.1)
    def handler() -> None:
        while True:
            trio.from_thread.run(trio.sleep, 0.01)

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get()).status == 503


async def test_a_handler_that_does_not_end_after_its_cancellation_is_reported_with_its_stack_and_not_cut(
    nursery, caplog
):
    app = App()
    may_end = trio.Event()

    @app.get("/", deadline=0.05)
    async def cleans_up_slowly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await may_end.wait()

    server = await start(nursery, app, deadlines=Deadlines(unwind=0.05))
    with logged("trioserve.error") as warning:
        client = await server.ask(GET)
        await happens(warning.wait())
    assert server.records.all == []
    may_end.set()

    assert (await client.answer()).status == 503
    [message] = errors(caplog)
    assert "Deadlines.unwind" in message
    assert "cleans_up_slowly" in message
    assert "await may_end.wait()" in message

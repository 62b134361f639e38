"""What the server ends by itself: deadlines, drain, failures, silence; and how a handler behaves once it is ended."""

from __future__ import annotations

import logging
import math

import pytest
import trio
import trio.testing

from lifecycle.stage import GET, Client, Stage, Visit, every_stage, in_clear_memory, in_memory
from trioserve import (
    Abandoned,
    App,
    Cause,
    ClientGone,
    Completed,
    Config,
    Deadlines,
    DropConnection,
    HTTPError,
    Limits,
    Outcome,
    Phase,
    Request,
    Response,
)

# Deadlines


@every_stage
async def test_a_handler_that_takes_too_long_is_cancelled_and_answered_503(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/", deadline=0.1)
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert visit.cancelled
        assert (await theatre.completed()).status == 503


@in_memory
async def test_a_deadline_ends_with_its_exchange(stage: Stage) -> None:
    app = App()

    @app.get("/", deadline=5)
    async def quick() -> str:
        return "quick"

    @app.get("/slow", deadline=math.inf)
    async def slow() -> str:
        await trio.sleep(10)
        return "slow"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET + GET.replace(b" / ", b" /slow "))
        assert await client.response() == (200, b"quick")
        assert await client.response() == (200, b"slow")
        await theatre.records(2)


@every_stage
async def test_a_deadline_in_the_middle_of_a_response_cuts_it(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            await visit.until_cancelled()

        return Response.stream(write_body)

    async with stage.serve(app, Config(deadlines=Deadlines(handler=0.1))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        answer = await client.read_to_end()
        assert answer.endswith(b"\r\n5\r\nfirst\r\n"), "no last chunk: the client sees that something is missing"
        record = await theatre.abandoned()
        assert (record.status, record.sent_status, record.cause) == (503, 200, Cause.DEADLINE)
        assert record.logged_status == 200
        assert (record.phase, record.by, record.outcome) == (Phase.RESPONSE_BODY, "server", Outcome.CANCELLED)


@in_memory
async def test_a_head_must_be_whole_within_its_deadline_however_it_is_dripped(stage: Stage) -> None:
    app = App()
    async with stage.serve(app, Config(deadlines=Deadlines(head=10))) as theatre, trio.open_nursery() as dripping:
        client = await theatre.connect()

        async def drip() -> None:
            for byte in GET * 100:
                await client.send(bytes([byte]))
                await trio.sleep(1)

        dripping.start_soon(drip)
        answer = await client.read_to_end()
        dripping.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() <= 10 + 1
        assert (await theatre.completed()).method is None


@in_memory
async def test_a_new_connection_that_says_nothing_is_closed_without_a_record(stage: Stage) -> None:
    async with stage.serve(App(), Config(deadlines=Deadlines(head=10))) as theatre:
        client = await theatre.connect()
        assert await client.read_to_end() == b""
        assert trio.current_time() == 10
    assert not theatre.observed.all


@in_memory
async def test_an_idle_connection_is_closed_without_a_record(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async with stage.serve(app, Config(deadlines=Deadlines(idle=75))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.response()
        answered_at = trio.current_time()
        assert await client.read_to_end() == b""
        assert trio.current_time() == answered_at + 75
        await theatre.completed()


@in_memory
async def test_a_client_that_has_sent_empty_lines_is_idle(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async with stage.serve(app, Config(deadlines=Deadlines(head=10, idle=75))) as theatre:
        client = await theatre.connect()
        await client.send(b"\r\n" + GET + b"\r\n")
        await client.response()
        answered_at = trio.current_time()
        await trio.sleep(50)
        await client.send(b"\r\n")
        assert await client.read_to_end() == b""
        assert trio.current_time() == answered_at + 75
        await theatre.completed()


@in_memory
async def test_a_body_that_stops_coming_is_answered_408(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.post("/")
    async def upload(request: Request) -> None:
        async with visit:
            await request.body()

    async with stage.serve(app, Config(deadlines=Deadlines(body_stall=30))) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\nhello")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 408 ")
        assert visit.cancelled
        assert (await theatre.completed()).status == 408


@in_memory
async def test_a_body_that_drips_in_is_answered_408_when_all_waits_have_lasted_too_long(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.post("/")
    async def upload(request: Request) -> None:
        async with visit:
            await request.body()

    config = Config(limits=Limits(body_rate=10), deadlines=Deadlines(body_stall=30))
    async with stage.serve(app, config) as theatre, trio.open_nursery() as dripping:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 1000\r\n\r\n")
        dripping.start_soon(drip, client)
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel_scope.cancel()
        assert visit.cancelled
        record = await theatre.completed()
        assert record.status == 408
        # At a byte a second, each of which may take a tenth of one: one came, or 33, and with the last three seconds
        # and a third were won.
        assert record.request_body_bytes == 33
        assert record.duration == pytest.approx(30 + 3.3)


async def drip(client: Client) -> None:
    for _ in range(1000):
        await trio.sleep(1)
        await client.send(b"d")


@in_memory
async def test_only_waiting_for_a_body_counts_and_not_what_the_handler_does_in_between(stage: Stage) -> None:
    app = App()

    @app.post("/")
    async def upload(request: Request) -> str:
        async for _ in request.stream():
            await trio.sleep(100)
        return "taken"

    config = Config(limits=Limits(body_rate=10), deadlines=Deadlines(body_stall=10))
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await trio.sleep(1)
            await client.send(b"d")
            await trio.sleep(100)
        assert await client.response(b"POST") == (200, b"taken")
        assert (await theatre.completed()).request_body_bytes == 10


@every_stage
async def test_content_that_has_come_with_its_head_may_be_too_large_too(stage: Stage) -> None:
    app = App()

    @app.post("/", max_body=5)
    async def upload(request: Request) -> bytes:
        return await request.body()

    async with stage.serve(app) as theatre:
        for size, status in (5, 200), (6, 413):
            client = await theatre.connect()
            await client.send(
                b"POST / HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"%d\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
            )
            assert (await client.response(b"POST"))[0] == status


@in_memory
async def test_slowness_with_one_request_does_not_count_against_the_next(stage: Stage) -> None:
    app = App()

    @app.post("/")
    async def upload(request: Request) -> bytes:
        return await request.body()

    config = Config(limits=Limits(body_rate=1000), deadlines=Deadlines(body_stall=10))
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        for _ in range(3):
            await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 4\r\n\r\n")
            await trio.sleep(8)
            await client.send(b"done")
            assert await client.response(b"POST") == (200, b"done")
        await theatre.records(3)


@in_memory
async def test_waits_for_a_body_that_the_handler_gives_up_count_too(stage: Stage) -> None:
    app = App()

    @app.post("/")
    async def upload(request: Request) -> None:
        parts = aiter(request.stream())
        while True:
            with trio.move_on_after(1):
                await anext(parts)

    async with stage.serve(app, Config(deadlines=Deadlines(body_stall=30))) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\n")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 408 ")
        assert (await theatre.completed()).duration == 30


@in_clear_memory
async def test_a_client_that_takes_its_response_byte_by_byte_is_too_slow(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def big() -> bytes:
        return bytes(100_000)

    config = Config(limits=Limits(send_rate=10), deadlines=Deadlines(send_stall=30))
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect(window=100, send_buffer=100)
        await client.send(GET)
        for _ in range(60):
            await client.receive(1)
            await trio.sleep(1)
        record = await theatre.abandoned()
        assert (record.status, record.phase, record.cause) == (499, Phase.RESPONSE_BODY, Cause.WRITE_TIMEOUT)
        assert 33 <= record.noticed_at <= 34


@in_clear_memory
async def test_a_client_that_takes_its_response_as_fast_as_it_must_gets_it(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def big() -> bytes:
        return bytes(2000)

    config = Config(limits=Limits(send_rate=10), deadlines=Deadlines(send_stall=30))
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect(window=100, send_buffer=100)
        await client.send(GET)
        for _ in range(250):
            await client.receive(10)
            await trio.sleep(1)
        record = await theatre.completed()
        assert record.response_body_bytes == 2000
        assert record.duration > 100


# The drain


@every_stage
async def test_a_drain_lets_an_exchange_end_and_closes_its_connection(stage: Stage) -> None:
    app, visit, go_on = App(), Visit(), trio.Event()

    @app.get("/")
    async def handler() -> str:
        async with visit:
            await go_on.wait()
        return "done"

    async with stage.serve(app) as theatre:
        client, idle = await theatre.connect(), await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        theatre.nursery.start_soon(theatre.drain)
        assert await idle.read_to_end() == b""
        go_on.set()
        answer = await client.read_to_end()
        assert answer.endswith(b"done")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        await theatre.completed()


@every_stage
async def test_a_drains_deadline_cancels_and_answers_503(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app, Config(deadlines=Deadlines(drain=0.1))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        theatre.nursery.start_soon(theatre.drain)
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 503 ")
        assert visit.reason is not None
        assert "DRAIN" in visit.reason
        assert (await theatre.completed()).status == 503


# The handler's own doing


@every_stage
async def test_a_handler_can_ask_for_silence(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise DropConnection

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.read_to_end() == b""
        record = await theatre.abandoned()
        assert (record.status, record.phase, record.cause) == (444, Phase.HANDLER, Cause.DROPPED)
        assert (record.by, record.outcome, record.sent_status) == ("server", Outcome.FINISHED, None)


@every_stage
async def test_a_handler_that_raises_is_500_and_the_connection_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise ValueError("a secret")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(2):
            await client.send(GET)
            status, body = await client.response()
            assert status == 500
            assert b"secret" not in body
        assert [record.status for record in await theatre.records(2)] == [500, 500]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all("a secret" in str(record.exc_info) for record in caplog.records)


@every_stage
async def test_a_handler_that_raises_in_its_stream_has_the_response_cut(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            raise ValueError("half-way")

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert (await client.read_to_end()).endswith(b"\r\n5\r\nfirst\r\n")
        record = await theatre.abandoned()
        assert (record.status, record.sent_status, record.cause) == (500, 200, Cause.HANDLER_FAILED)
        assert record.outcome is Outcome.FAILED
        assert isinstance(record.exception, ValueError)
    assert len(caplog.records) == 1


@every_stage
async def test_a_handler_that_exits_ends_its_exchange_and_not_the_server(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise SystemExit(1)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(2):
            await client.send(GET)
            assert (await client.response())[0] == 500
        await theatre.records(2)
    assert len(caplog.records) == 2


@every_stage
async def test_an_http_error_is_an_answer(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise HTTPError(409, "it is taken")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.response() == (409, b"409 Conflict\nit is taken\n")
        assert (await theatre.completed()).status == 409
    assert not caplog.records


# Once it is ended


@every_stage
async def test_a_failure_while_unwinding_is_told_by_the_record_and_not_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, started = App(), trio.Event()

    @app.get("/")
    async def handler() -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            raise ValueError("clean-up failed")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave("FIN")
        record = await theatre.abandoned()
        assert (record.status, record.cause, record.outcome) == (499, Cause.FIN, Outcome.FAILED)
        assert isinstance(record.exception, ValueError)
    assert not caplog.records


@every_stage
async def test_a_failure_in_a_child_task_while_unwinding_is_told_too(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, started = App(), trio.Event()

    async def child() -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            raise ValueError("clean-up failed")

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave("RESET")
        record = await theatre.abandoned()
        assert record.outcome is Outcome.FAILED
        assert isinstance(record.exception, ExceptionGroup)
        assert [type(error) for error in record.exception.exceptions] == [ValueError]
    assert not caplog.records


@every_stage
async def test_a_handler_that_swallows_its_cancellation_sends_nothing_all_the_same(stage: Stage) -> None:
    app, started = App(), trio.Event()

    @app.get("/")
    async def handler() -> str:
        try:
            started.set()
            await trio.sleep_forever()
        except trio.Cancelled:
            pass
        return "too late"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET + GET)
        await started.wait()
        client.half_close()
        assert await client.read_to_end() == b""
        record = await theatre.abandoned()
        # A handler with dependencies is not over before they are, and those meet the cancellation.
        outcome = Outcome.CANCELLED if stage.has_layers else Outcome.FINISHED
        assert (record.status, record.outcome) == (499, outcome)


@every_stage
async def test_a_send_inside_a_shield_raises_after_the_departure_instead_of_waiting(stage: Stage) -> None:
    app, started, errors = App(), trio.Event(), []

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            try:
                started.set()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    try:
                        await send(b"bye")
                    except ClientGone as error:
                        errors.append(error)

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.half_close()
        record = await theatre.abandoned()
        assert len(errors) == 1
        assert record.outcome is Outcome.CANCELLED


@every_stage
async def test_a_shielded_send_that_is_blocked_ends_with_the_departure(stage: Stage) -> None:
    app, started, errors = App(), trio.Event(), []

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            with trio.CancelScope(shield=True):
                started.set()
                try:
                    await send(bytes(50_000_000))
                except ClientGone as error:
                    errors.append(error)

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        await trio.testing.wait_all_tasks_blocked()
        client.leave("RESET")
        await theatre.abandoned()
        assert len(errors) == 1


@every_stage
async def test_a_shielded_read_of_the_body_ends_with_the_departure(stage: Stage) -> None:
    app, started, errors = App(), trio.Event(), []

    @app.post("/")
    async def handler(request: Request) -> None:
        with trio.CancelScope(shield=True):
            started.set()
            try:
                await request.body()
            except ClientGone as error:
                errors.append(error)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\nhello")
        await started.wait()
        client.leave("RESET")
        record = await theatre.abandoned()
        assert (record.phase, record.status) == (Phase.BODY, 400)
        assert len(errors) == 1


@in_memory
async def test_a_slow_unwind_is_reported_while_it_lasts_and_never_cut(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, started = App(), trio.Event()

    @app.get("/slow")
    async def slow_to_clean_up() -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)

    async with stage.serve(app, Config(deadlines=Deadlines(unwind=5))) as theatre:
        client = await theatre.connect()
        await client.send(GET.replace(b" / ", b" /slow "))
        await started.wait()
        client.leave("FIN")
        await trio.sleep(6)
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        assert "GET /slow" in warning.message
        assert "in slow_to_clean_up" in warning.message, "the stack says where it waits"
        assert not theatre.observed.all
        record = await theatre.abandoned()
        assert record.unwind_time == 60


@every_stage
async def test_a_send_that_the_handler_cancels_half_way_does_not_break_the_framing(stage: Stage) -> None:
    app = App()
    first, second = b"a" * 5_000_000, b"b" * 1000

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            with trio.move_on_after(0.05) as scope:
                await send(first)
            assert scope.cancelled_caught
            await send(second)

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(0.1)  # reads nothing until the handler's patience is over
        assert await client.response() == (200, first + second)
        assert (await theatre.completed()).response_body_bytes == len(first + second)


@every_stage
async def test_two_tasks_cannot_send_at_once(stage: Stage) -> None:
    app, refused = App(), trio.Event()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            async def second() -> None:
                try:
                    await send(b"second")
                except trio.BusyResourceError:
                    refused.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, bytes(5_000_000))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(second)

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await refused.wait()
        assert await client.response() == (200, bytes(5_000_000))
        await theatre.completed()


@every_stage
async def test_cancelling_the_server_ends_an_exchange_as_drain(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await client.read_to_end()).startswith(b"HTTP/1.1 503 ")
            record = await theatre.only_record()
            assert isinstance(record, Completed)
            assert record.status == 503


@every_stage
async def test_cancelling_the_server_in_the_middle_of_a_response_is_an_abandonment(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            await visit.until_cancelled()

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await client.read_to_end()
            record = await theatre.only_record()
            assert isinstance(record, Abandoned)
            assert (record.status, record.sent_status, record.cause) == (503, 200, Cause.DRAIN)

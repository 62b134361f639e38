"""Orders of events that once broke a rule: each is short, and unlikely, and its rule holds all the same.

They are grouped by what goes wrong: a handler that goes on after the end; sends and reads that it cancels; tasks that
outlive their exchange; a server that is cancelled; failures in groups; and so on.
"""

from __future__ import annotations

import contextlib
import logging
import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import (
    GET,
    Stage,
    Theatre,
    Visit,
    every_stage,
    in_bare_memory,
    in_clear_memory,
    in_memory,
    on_sockets,
)
from trioserve import (
    CANCEL,
    FINISH,
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
    RequestError,
    Response,
    ResponseError,
)
from trioserve.connection.connection import UNREAD_AFTER
from trioserve.connection.timers import current_timers
from trioserve.server.server import Server
from trioserve.testing.transport import WINDOW

SECOND = GET.replace(b" / ", b" /second ")

CHUNKED = b"POST / HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n" % size


def server_of(theatre: Theatre) -> Server:
    """The server behind the stage; in memory only."""
    return theatre.drain.__self__._server


# After the end


@every_stage
async def test_what_a_handler_returns_after_its_deadline_is_not_sent(stage: Stage) -> None:
    app = App()

    @app.get("/", deadline=0.1)
    async def handler() -> str:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "too late"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"too late" not in answer
        assert (await theatre.completed()).status == 503


@in_memory
@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_a_handler_that_shields_itself_past_its_deadline_is_answered_503_when_it_ends(
    stage: Stage, how: str
) -> None:
    app = App()

    async def write_body(send) -> None:
        await send(b"too late")

    @app.get("/", deadline=5)
    async def handler() -> bytes | Response:
        with trio.CancelScope(shield=True):
            await trio.sleep(9)
            return b"too late" if how == "whole" else Response.stream(write_body)

    @app.get("/second")
    async def second() -> str:
        return "second"

    async with stage.serve(app) as theatre:
        client, other = await theatre.connect(), await theatre.connect()
        await client.send(GET)
        answer = await client.read_to_end()
        assert trio.current_time() == 9
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"too late" not in answer
        assert (await theatre.completed()).status == 503
        await other.send(SECOND)
        assert await other.response() == (200, b"second")


@on_sockets
@pytest.mark.parametrize("why", ["deadline", "drain"])
async def test_what_a_plain_handler_returns_after_its_cancellation_is_not_sent(stage: Stage, why: str) -> None:
    app, started = App(), trio.Event()

    @app.get("/", deadline=0.1 if why == "deadline" else math.inf)
    def handler() -> str:
        trio.from_thread.run_sync(started.set)
        try:
            trio.from_thread.run(trio.sleep_forever)
        except trio.Cancelled:
            return "too late"

    async with stage.serve(app, Config(deadlines=Deadlines(drain=0.1))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        if why == "drain":
            theatre.nursery.start_soon(theatre.drain)
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"too late" not in answer
        assert (await theatre.completed()).status == 503


@in_memory
async def test_a_shielded_read_that_begins_after_we_gave_up_ends_at_once(stage: Stage) -> None:
    app, ended_at = App(), []

    @app.post("/", deadline=5)
    async def handler(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), pytest.raises(ClientGone):
                await request.body()
            ended_at.append(trio.current_time())

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(100) + b"abc")
        await trio.sleep(3600)
    assert ended_at == [5]
    assert [type(record) for record in theatre.observed.all] == [Completed]


@in_memory
async def test_under_finish_a_departure_ends_a_send_that_is_blocked(stage: Stage) -> None:
    app, ended_at = App(disconnect=FINISH), []

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(bytes(400_000))
            ended_at.append(trio.current_time())

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(1)
        client.half_close()
        await trio.sleep(3600)
    assert ended_at == [1]
    (record,) = theatre.observed.all
    assert isinstance(record, Abandoned)
    assert (record.cause, record.outcome, record.unwind_time) == (Cause.FIN, Outcome.FINISHED, 0)


@in_clear_memory
async def test_under_finish_a_blocked_send_writes_nothing_more_after_the_departure(stage: Stage) -> None:
    app = App(disconnect=FINISH)

    @app.get("/")
    async def handler() -> bytes:
        return bytes(400_000)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(1)
        client.half_close()
        sent = client.sent_by_server
        assert 0 < sent < 400_000
        assert len(await client.read_to_end()) == sent
        assert client.sent_by_server == sent
        record = await theatre.abandoned()
        assert sent - 1000 < record.response_body_bytes < sent


@in_memory
@pytest.mark.parametrize("policy", [CANCEL, FINISH], ids=["CANCEL", "FINISH"])
async def test_nobody_is_asked_for_a_body_after_the_departure(stage: Stage, policy: object) -> None:
    app, left, read = App(disconnect=policy), trio.Event(), trio.Event()

    @app.post("/")
    async def handler(request: Request) -> None:
        with trio.CancelScope(shield=True):
            await left.wait()
            with pytest.raises(ClientGone):
                await request.body()
            read.set()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(5).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        await wait_all_tasks_blocked()
        client.half_close()
        await wait_all_tasks_blocked()
        left.set()
        assert await client.read_to_end() == b""
        assert read.is_set()
        await theatre.abandoned()


@in_memory
async def test_a_shielded_read_that_waits_when_we_give_up_ends_at_once(stage: Stage) -> None:
    app, ended_at = App(), []

    @app.post("/", deadline=5)
    async def handler(request: Request) -> None:
        with trio.CancelScope(shield=True), pytest.raises(ClientGone):
            await request.body()
        ended_at.append(trio.current_time())

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(100) + b"abc")
        await trio.sleep(10)
    assert ended_at == [5]
    assert [type(record) for record in theatre.observed.all] == [Completed]


@in_memory
async def test_a_shielded_send_that_is_blocked_when_we_give_up_ends_at_once(stage: Stage) -> None:
    app, ended_at = App(), []

    @app.get("/", deadline=5)
    async def handler() -> Response:
        async def write_body(send) -> None:
            with trio.CancelScope(shield=True), pytest.raises(ClientGone):
                await send(bytes(50_000_000))
            ended_at.append(trio.current_time())

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(10)
    assert ended_at == [5]
    assert [record.cause for record in theatre.observed.all] == [Cause.DEADLINE]


@in_memory
async def test_under_finish_a_whole_response_that_is_blocked_when_its_client_leaves_is_abandoned(stage: Stage) -> None:
    app = App(disconnect=FINISH)

    @app.get("/")
    async def handler() -> bytes:
        return bytes(400_000)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(1)
        client.half_close()
        await trio.sleep(3600)
    (record,) = theatre.observed.all
    assert isinstance(record, Abandoned)
    assert (record.cause, record.outcome, record.noticed_at) == (Cause.FIN, Outcome.FINISHED, 1)
    assert 0 < record.response_body_bytes < record.response_body_expected == 400_000


@in_memory
async def test_a_client_that_leaves_while_its_handler_unwinds_from_a_deadline_is_not_written_to(stage: Stage) -> None:
    app = App()

    @app.get("/", deadline=5)
    async def handler() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(6)
        client.close()
        record = await theatre.abandoned()
        assert client.sent_by_server == 0
        assert (record.cause, record.status, record.sent_status) == (Cause.DEADLINE, 503, None)
        assert (record.noticed_at, record.unwind_time) == (5, 3)


@in_memory
@pytest.mark.parametrize("data", [post(6) + b"abc", b"GET / HT"], ids=["in a body", "in a head"])
async def test_while_a_client_is_given_time_to_read_its_answer_nothing_is_overdue(
    stage: Stage, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    app = App()

    @app.post("/")
    async def handler(request: Request) -> None:
        await request.body()

    async with stage.serve(app, Config(deadlines=Deadlines(head=1, body_stall=1, unwind=1, linger=5))) as theatre:
        client = await theatre.connect()
        await client.send(data)
        await trio.sleep(60)
        assert (await theatre.completed()).status == 408
    assert not caplog.records


# Sends and reads that the handler cancels


@in_memory
async def test_of_a_part_that_is_cancelled_before_its_turn_not_one_byte_counts(stage: Stage) -> None:
    app = App()
    first, second, third = b"a" * 200_000, b"b" * 1000, b"c" * 1000

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            with trio.move_on_after(1):
                await send(first)  # blocked half-way: the rest goes before whatever comes next
            with trio.move_on_after(1):
                await send(second)  # still waits for the rest of the first
            await send(third)

        return Response.stream(write_body, headers={"content-length": str(len(first + third))})

    @app.get("/second")
    async def next_one() -> str:
        return "second"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(5)
        assert await client.response() == (200, first + third)
        await client.send(SECOND)
        assert await client.response() == (200, b"second")
        assert (await theatre.records(2))[0].response_body_bytes == len(first + third)


@in_memory
async def test_a_response_that_lacks_a_cancelled_part_is_cut_and_not_taken_for_whole(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    parts = [b"a" * 200_000, b"b" * 1000, b"c" * 1000]

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            for part in parts[:2]:
                with trio.move_on_after(1):
                    await send(part)
            await send(parts[2])

        return Response.stream(write_body, headers={"content-length": "202000"})

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(5)
        answer = await client.read_to_end()
        assert answer.endswith(b"\r\n\r\n" + parts[0] + parts[2])
        record = await theatre.abandoned()
        assert (record.status, record.sent_status, record.cause) == (500, 200, Cause.HANDLER_FAILED)
        assert (record.response_body_bytes, record.response_body_expected) == (201_000, 202_000)
    assert len(caplog.records) == 1


@every_stage
async def test_a_part_that_was_refused_because_another_is_being_sent_can_be_sent_again(stage: Stage) -> None:
    app, refused = App(), trio.Event()
    first, second = b"a" * 5_000_000, b"b" * 1000

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, first)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await send(second)
                refused.set()
            await send(second)

        return Response.stream(write_body, headers={"content-length": str(len(first + second))})

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await refused.wait()
        assert await client.response() == (200, first + second)
        assert (await theatre.completed()).response_body_bytes == len(first + second)


@in_memory
async def test_a_handler_that_gives_its_sends_up_again_and_again_does_not_set_the_stalls_clock_back(
    stage: Stage,
) -> None:
    app = App()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            while True:
                with trio.move_on_after(1):
                    await send(bytes(200_000))

        return Response.stream(write_body)

    async with stage.serve(app, Config(deadlines=Deadlines(send_stall=30, handler=300))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        record = await theatre.abandoned()
        assert (record.cause, record.noticed_at) == (Cause.WRITE_TIMEOUT, 30)


@every_stage
async def test_a_body_can_be_asked_for_again_when_a_first_wait_for_it_was_cancelled(stage: Stage) -> None:
    app, given_up = App(), trio.Event()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.body)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        given_up.set()
        return await request.body()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(6) + b"abc")
        await given_up.wait()
        await client.send(b"def")
        assert await client.response(b"POST") == (200, b"abcdef")
        assert (await theatre.completed()).request_body_bytes == 6


@in_bare_memory
async def test_bytes_that_come_in_the_moment_of_the_answer_are_not_for_a_task_that_was_left_over(stage: Stage) -> None:
    app, clients, told = App(), [], []

    async def late(request: Request) -> None:
        with pytest.raises(ClientGone):
            await request.body()
        told.append("that it is over")

    async with trio.open_nursery() as outer:

        @app.post("/")
        async def first(request: Request) -> str:
            outer.start_soon(late, request)
            await wait_all_tasks_blocked()
            clients[0].send_nowait(b"defghij" + SECOND)
            return "first"

        @app.get("/second")
        async def second() -> str:
            return "second"

        async with stage.serve(app) as theatre:
            # Who has the next turn, that task or the connection's, is for trio to choose.
            for number in range(1, 11):
                told.clear()
                clients[:] = [await theatre.connect()]
                await clients[0].send(post(10) + b"abc")
                assert await clients[0].response(b"POST") == (200, b"first")
                assert await clients[0].response() == (200, b"second")
                await theatre.records(2 * number)
                await wait_all_tasks_blocked()
                assert told == ["that it is over"]


@on_sockets
async def test_who_asks_for_a_body_behind_a_closed_connection_leaves_nothing_to_be_looked_at(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, started, closed, delay_passed = App(), trio.Event(), trio.Event(), trio.Event()

    class Afterwards:
        def delay_passed(self) -> None:
            delay_passed.set()

    async def late(request: Request) -> None:
        await closed.wait()
        with pytest.raises(ClientGone):
            await request.body()
        current_timers().delay(UNREAD_AFTER).begin(Afterwards())

    @app.on_abandoned
    def tell(_event: Abandoned) -> None:
        trio.from_thread.run_sync(closed.set)

    async with trio.open_nursery() as outer:

        @app.post("/")
        async def handler(request: Request) -> None:
            outer.start_soon(late, request)
            started.set()
            await trio.sleep_forever()

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            await client.send(post(10) + b"abc")
            await started.wait()
            client.close()
            await delay_passed.wait()
    assert not caplog.records


@in_memory
async def test_a_request_that_comes_in_the_moment_in_which_we_give_up_waiting_is_not_begun(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def handler() -> None: ...

    async with stage.serve(app, Config(deadlines=Deadlines(head=5))) as theatre:
        for _ in range(10):
            client = await theatre.connect()
            await wait_all_tasks_blocked()
            await trio.sleep(5)
            client.send_nowait(GET)
            await trio.sleep(1)
    assert theatre.observed.all == []


@in_clear_memory
async def test_a_response_of_which_not_one_byte_got_out_was_not_sent_though_the_100_before_it_was(stage: Stage) -> None:
    app = App()

    @app.post("/", deadline=5)
    async def handler(request: Request) -> bytes:
        return await request.body()

    async with stage.serve(app) as theatre:
        client = await theatre.connect(send_buffer=len(b"HTTP/1.1 100 Continue\r\n\r\n") - 1, window=1)
        await client.send(post(3).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        await wait_all_tasks_blocked()
        await client.send(b"abc")
        record = await theatre.abandoned()
        assert client.sent_by_server == len(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (record.phase, record.sent_status, record.logged_status) == (Phase.RESPONSE_HEAD, None, 503)


@in_clear_memory
@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize("room", [0, 5, 24])
async def test_a_100_that_was_taken_in_part_goes_whole_before_the_response(stage: Stage, how: str, room: int) -> None:
    app, large = App(), bytes(100_000)

    @app.get("/")
    async def first() -> bytes:
        return large

    @app.post("/")
    async def second(request: Request) -> bytes | Response:
        body = await request.body()

        async def write_body(send) -> None:
            await send(body)

        return body if how == "whole" else Response.stream(write_body)

    async with stage.serve(app) as theatre:
        measure = await theatre.connect()
        await measure.send(GET)
        await wait_all_tasks_blocked()
        size = measure.sent_by_server
        await measure.response()
        # After the first answer, which it does not read yet, this client has so much room left and no more.
        client = await theatre.connect(send_buffer=size - WINDOW + room)
        await client.send(GET)
        await wait_all_tasks_blocked()
        await client.send(post(3).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        await wait_all_tasks_blocked()
        assert client.sent_by_server == size + room
        await client.send(b"abc")
        await wait_all_tasks_blocked()
        assert await client.response() == (200, large)
        assert await client.response(b"POST") == (200, b"abc")
        await theatre.records(3)


# Tasks that outlive their exchange


async def send_until_refused(send, ended: trio.Event) -> None:
    try:
        while True:
            await send(b"late")
    except ResponseError:
        ended.set()


@every_stage
async def test_a_task_left_over_from_an_exchange_cannot_send_into_the_next(stage: Stage) -> None:
    app = App()

    async with trio.open_nursery() as outer:

        @app.get("/")
        async def first() -> Response:
            async def write_body(send) -> None:
                outer.start_soon(send_until_refused, send, ended)
                for _ in range(3):
                    await send(b"1")

            return Response.stream(write_body)

        @app.get("/second")
        async def second() -> Response:
            async def write_body(send) -> None:
                for _ in range(3):
                    await send(b"2")

            return Response.stream(write_body)

        async with stage.serve(app) as theatre:
            for number in range(1, 21):  # who comes first is up to trio's scheduler
                ended = trio.Event()
                client = await theatre.connect()
                await client.send(GET + SECOND)
                with trio.fail_after(5):
                    status, body = await client.response()
                    assert (status, body.replace(b"late", b"")) == (200, b"111")
                    assert await client.response() == (200, b"222")
                    await ended.wait()
                    await theatre.records(2 * number)


@every_stage
async def test_a_send_that_is_overtaken_by_the_end_of_its_response_does_not_spoil_the_connection(stage: Stage) -> None:
    app = App()

    async def send_once(send, begun: trio.Event, ended: trio.Event) -> None:
        begun.set()
        with contextlib.suppress(ResponseError):
            await send(b"late")
        ended.set()

    async with trio.open_nursery() as outer:

        @app.get("/")
        async def first() -> Response:
            async def write_body(send) -> None:
                begun = trio.Event()
                await send(b"first")
                outer.start_soon(send_once, send, begun, ended)
                await begun.wait()

            return Response.stream(write_body)

        @app.get("/second")
        async def second() -> str:
            return "second"

        async with stage.serve(app) as theatre:
            for number in range(1, 21):  # who comes first is up to trio's scheduler
                ended = trio.Event()
                client = await theatre.connect()
                await client.send(GET)
                with trio.fail_after(5):
                    status, body = await client.response()
                    assert (status, body.replace(b"late", b"")) == (200, b"first")
                    await ended.wait()
                    await client.send(SECOND)
                    assert await client.response() == (200, b"second")
                    await theatre.records(2 * number)


@every_stage
@pytest.mark.parametrize("ending", [True, False], ids=["close", "keep-alive"])
async def test_a_task_that_waits_for_the_body_of_a_complete_exchange_is_told_so(
    stage: Stage, caplog: pytest.LogCaptureFixture, *, ending: bool
) -> None:
    app, told = App(), trio.Event()

    async def late(request: Request) -> None:
        with pytest.raises(ClientGone):
            await request.body()
        told.set()

    async with trio.open_nursery() as outer:

        @app.post("/")
        async def first(request: Request) -> str:
            outer.start_soon(late, request)
            await wait_all_tasks_blocked()
            return "first"

        @app.get("/second")
        async def second() -> str:
            return "second"

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            head = post(10)
            await client.send(
                (head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if ending else head) + b"abc"
            )
            with trio.fail_after(5):
                assert await client.response(b"POST") == (200, b"first")
                await told.wait()
                if ending:
                    assert await client.receive() == b""
                    await theatre.completed()
                else:
                    await client.send(b"defghij" + SECOND)
                    assert await client.response() == (200, b"second")
                    await theatre.records(2)
    assert not caplog.records


@every_stage
async def test_a_task_that_begins_to_read_when_its_connection_has_ended_is_told_so(stage: Stage) -> None:
    app, visit, ended, told = App(), Visit(), trio.Event(), trio.Event()

    async def late(request: Request) -> None:
        await ended.wait()
        with trio.fail_after(5), pytest.raises(ClientGone):
            await request.body()
        told.set()

    async with trio.open_nursery() as outer:

        @app.post("/")
        async def handler(request: Request) -> None:
            outer.start_soon(late, request)
            await visit.until_cancelled()

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            await client.send(post(10) + b"abc")
            await visit.started.wait()
            client.leave("FIN")
            await theatre.abandoned()
            ended.set()
            await told.wait()


@every_stage
async def test_of_two_tasks_that_read_one_body_the_second_is_refused_and_the_first_gets_it(stage: Stage) -> None:
    app, refused = App(), trio.Event()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        parts, stream = [], request.stream()

        async def read() -> None:
            parts.extend([part async for part in stream])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await read()
            refused.set()
        return b"".join(parts)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(6) + b"abc")
        with trio.fail_after(5):
            await refused.wait()
            await client.send(b"def")
            assert await client.response(b"POST") == (200, b"abcdef")
            await theatre.completed()


@every_stage
async def test_a_second_reader_that_is_refused_does_not_stop_the_clock_of_the_first(stage: Stage) -> None:
    app, refused = App(), trio.Event()

    @app.post("/")
    async def handler(request: Request) -> None:
        stream = request.stream()

        async def read() -> None:
            async for _ in stream:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await read()
            refused.set()

    async with stage.serve(app, Config(deadlines=Deadlines(body_stall=0.3))) as theatre:
        client = await theatre.connect()
        await client.send(post(6) + b"abc")
        with trio.fail_after(5):
            assert (await client.read_to_end()).startswith(b"HTTP/1.1 408 ")
        assert refused.is_set()
        assert (await theatre.completed()).status == 408


# The server is cancelled


@every_stage
@pytest.mark.parametrize("where", ["in the handler", "in a task of it"])
async def test_a_clean_up_that_fails_while_the_server_is_cancelled_is_answered_503_and_reaches_nobody(
    stage: Stage, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    app, started = App(), trio.Event()

    async def clean_up_badly() -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            raise ValueError("clean-up failed")

    @app.get("/")
    async def handler() -> None:
        if where == "in the handler":
            await clean_up_badly()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep_forever)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await client.read_to_end()).startswith(b"HTTP/1.1 503 ")
            assert (await theatre.completed()).status == 503
    assert not caplog.records


def cleans_up_slowly(visit: Visit, seconds: float, *, streams: bool) -> App:
    """An app whose handler takes `seconds` to unwind, after it has sent something if it `streams`."""
    app = App()

    async def last_long(send=None) -> None:
        if send is not None:
            await send(b"first")
        try:
            await visit.until_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    @app.get("/")
    async def handler() -> Response | None:
        return Response.stream(last_long) if streams else await last_long()

    return app


@in_memory
async def test_when_the_server_is_cancelled_that_is_when_the_end_is_noticed(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    visit = Visit()
    async with stage.serve(cleans_up_slowly(visit, 20, streams=True), Config(deadlines=Deadlines(unwind=5))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(1)
        theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            record = await theatre.abandoned()
            assert (record.cause, record.noticed_at, record.unwound_at) == (Cause.DRAIN, 1, 21)
    assert visit.reason is not None
    assert "DRAIN" in visit.reason
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING], "a slow unwind is reported"


@in_memory
async def test_a_client_that_leaves_after_the_server_was_cancelled_is_not_the_cause(stage: Stage) -> None:
    visit = Visit()
    async with stage.serve(cleans_up_slowly(visit, 4, streams=False)) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
            client.half_close()
            record = await theatre.abandoned()
            assert (record.cause, record.status, record.noticed_at) == (Cause.DRAIN, 503, 0)
            assert client.sent_by_server == 0


@in_memory
async def test_a_shielded_read_that_begins_when_the_server_was_cancelled_ends_at_once(stage: Stage) -> None:
    app, started, ended_at = App(), trio.Event(), []

    @app.post("/")
    async def handler(request: Request) -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), pytest.raises(ClientGone):
                await request.body()
            ended_at.append(trio.current_time())

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(5))
        await started.wait()
        theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
            assert (await theatre.completed()).status == 503
    assert ended_at == [0]


@every_stage
async def test_a_drain_does_not_wait_for_a_body_that_nobody_reads(stage: Stage) -> None:
    app = App()

    @app.post("/")
    async def handler() -> str:
        return "done"

    async with stage.serve(app, Config(deadlines=Deadlines(drain=math.inf, body_stall=math.inf))) as theatre:
        client = await theatre.connect()
        await client.send(post(10) + b"12345")
        assert await client.response(b"POST") == (200, b"done")
        await wait_all_tasks_blocked()
        theatre.nursery.start_soon(theatre.drain)
        assert await client.receive() == b""
        await theatre.completed()


# Failures, in groups or of their own kind


@every_stage
async def test_a_handler_that_exits_in_a_task_of_its_own_ends_its_exchange_and_not_the_server(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    async def leave() -> None:
        raise SystemExit(3)

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(2):
            await client.send(GET)
            assert (await client.response())[0] == 500
        await theatre.records(2)
    assert len(caplog.records) == 2


@every_stage
async def test_an_http_error_raised_in_a_task_of_the_handler_is_an_answer(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    async def refuse() -> None:
        raise HTTPError(409, "it is taken")

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert (await client.response())[0] == 409
        await theatre.completed()
    assert not caplog.records


@every_stage
async def test_a_task_of_the_handler_can_ask_for_silence(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    async def drop() -> None:
        raise DropConnection

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.read_to_end() == b""
        assert (await theatre.abandoned()).status == 444
    assert not caplog.records


@every_stage
async def test_a_clients_mistake_met_in_a_task_of_the_handler_is_the_clients(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, reading = App(), trio.Event()

    @app.post("/", max_body=5)
    async def handler(request: Request) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.body)
            reading.set()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(CHUNKED)
        await reading.wait()
        await client.send(b"9\r\n123456789\r\n")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 413 ")
        assert (await theatre.completed()).status == 413
    assert not caplog.records


@every_stage
async def test_a_body_that_was_too_large_is_never_taken_for_a_whole_one(stage: Stage) -> None:
    app, reading, read = App(), trio.Event(), []

    @app.post("/", max_body=5)
    async def handler(request: Request) -> str:
        for _ in range(2):
            reading.set()
            try:
                read.append(await request.body())
            except HTTPError as error:
                read.append(error.status)
        return "read"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(CHUNKED)
        await reading.wait()
        await client.send(b"9\r\n123456789\r\n0\r\n\r\n")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200 ")
        assert (await theatre.completed()).status == 200
    assert read == [413, 413]


@every_stage
async def test_a_clients_mistake_met_while_the_response_streams_is_told_by_the_record_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, begun = App(), trio.Event()

    @app.post("/")
    async def handler(request: Request) -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            begun.set()
            await request.body()

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(CHUNKED)
        await begun.wait()
        await client.send(b"no chunk\r\n")
        assert (await client.read_to_end()).endswith(b"\r\n5\r\nfirst\r\n")
        record = await theatre.abandoned()
        assert (record.status, record.sent_status, record.outcome) == (500, 200, Outcome.FAILED)
        assert isinstance(record.exception, RequestError)
    assert not caplog.records


@every_stage
async def test_a_status_function_that_exits_is_logged_and_the_default_holds(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(phase: Phase, cause: Cause) -> int:
        raise SystemExit(1)

    app, visit = App(abandoned_status=leave), Visit()

    @app.get("/")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("RESET")
        assert (await theatre.abandoned()).status == 499
    assert len(caplog.records) == 1


@in_memory
async def test_a_hook_may_take_its_time_while_the_server_drains(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    app, visit, told_at = App(), Visit(), []

    @app.on_abandoned
    async def slow(_record: Abandoned) -> None:
        await trio.sleep(8)
        told_at.append(trio.current_time())

    @app.get("/")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app, Config(deadlines=Deadlines(hook=10, drain=1, unwind=1))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        await visit.ended.wait()
    assert told_at == [8]
    assert not caplog.records


# Reading ahead under a budget


@in_memory
async def test_what_is_taken_of_the_budget_is_within_it_and_given_back(stage: Stage) -> None:
    app, entered, go_on = App(), [], trio.lowlevel.ParkingLot()

    @app.post("/", max_body=math.inf)
    async def handler() -> None:
        entered.append(True)
        await go_on.park()
        raise DropConnection

    async with stage.serve(app, Config(limits=Limits(spool_total=524_288))) as theatre:
        spools = server_of(theatre)._spools
        budget, least = spools.left, spools.left
        for number in (10, 20, 30):
            clients = [await theatre.connect() for _ in range(10)]
            await wait_all_tasks_blocked()
            for client in clients:  # all in one step: whoever waits for bytes gets some
                client.send_nowait(post(10**9) + bytes(60_000))
            await trio.sleep(1)
            for client in clients:
                client.send_until_blocked()
            await trio.sleep(1)
            least = min(least, spools.left)
            assert len(entered) == number
            go_on.unpark_all()
            await theatre.records(number)
            assert spools.left == budget
        assert 0 <= least < budget


@in_memory
async def test_a_client_that_uses_the_whole_budget_up_starves_nobody(stage: Stage) -> None:
    app = App()

    @app.post("/", max_body=math.inf)
    async def flooded() -> None:
        await trio.sleep(60)
        raise DropConnection

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async with stage.serve(app, Config(limits=Limits(spool_total=262_144), deadlines=Deadlines(head=60))) as theatre:
        flood, before = await theatre.connect(), await theatre.connect()
        await flood.send(post(10**9))
        for _ in range(10):
            flood.send_until_blocked()
            await trio.sleep(1)
        during = await theatre.connect()
        for client in (before, during):
            with trio.fail_after(1):
                await client.send(GET)
                assert await client.response() == (200, b"hello")
        await theatre.records(3)
        with trio.fail_after(1):
            await during.send(GET)
            assert await during.response() == (200, b"hello")


@in_memory
async def test_a_fin_behind_unread_bytes_is_noticed_also_when_a_read_was_given_up_before(stage: Stage) -> None:
    app = App()

    @app.post("/", max_body=math.inf)
    async def handler(request: Request) -> None:
        with trio.move_on_after(1):
            await request.body()
        await trio.sleep_forever()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(10**6))
        await trio.sleep(2)
        with trio.fail_after(60):
            await client.send(bytes(190_000))
            client.half_close()
            record = await theatre.abandoned()
        assert (record.cause, record.phase) == (Cause.FIN, Phase.BODY)


@every_stage
async def test_a_reset_is_noticed_also_where_there_is_no_room_to_read_on(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.post("/", max_body=math.inf)
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app, Config(limits=Limits(spool=131_072, spool_total=262_144))) as theatre:
        client = await theatre.connect()
        await client.send(post(1_000_000_000))
        await visit.started.wait()
        # Until the server has taken in all that it may, and the client can send no more.
        with trio.move_on_after(1):
            while True:
                await client.send(bytes(65_536))
        client.leave("RESET")
        assert (await theatre.abandoned()).cause is Cause.RESET
        assert visit.cancelled


@every_stage
async def test_a_fin_that_waited_for_room_is_noticed_when_another_gives_the_room_back(stage: Stage) -> None:
    app, first, second = App(), Visit(), Visit()

    @app.post("/{number:int}", max_body=math.inf)
    async def handler(number: int) -> None:
        await (first if number == 1 else second).until_cancelled()

    async with stage.serve(app, Config(limits=Limits(spool_total=16_000_000))) as theatre:
        greedy, waiting = await theatre.connect(), await theatre.connect()
        await greedy.send(post(1_000_000_000).replace(b" / ", b" /1 "))
        await first.started.wait()
        with trio.move_on_after(1):  # until it has used up what all may use, and can send no more
            while True:
                await greedy.send(bytes(65_536))
        await waiting.send(post(1_000_000_000).replace(b" / ", b" /2 "))
        await second.started.wait()
        waiting.send_until_blocked()
        waiting.leave("FIN")
        greedy.leave("RESET")
        await theatre.records(2)
        assert first.cancelled
        assert second.cancelled


# Neither record, or both


class TimeOut:
    """A middleware around an app, which cancels what takes longer than a second."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.rules, self.on_abandoned, self.running = app.rules, app.on_abandoned, app.running

    @property
    def hooks(self):
        return self._app.hooks

    def endpoint(self, head):
        return TimedOut(self._app.endpoint(head))


class TimedOut:
    def __init__(self, endpoint) -> None:
        self._endpoint = endpoint
        self.name, self.rules = endpoint.name, endpoint.rules

    async def __call__(self, exchange) -> None:
        with trio.move_on_after(1):
            await self._endpoint(exchange)


@in_bare_memory
async def test_a_blocked_stream_that_a_middleware_cancels_has_a_record_and_is_cut(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(bytes(300_000))

        return Response.stream(write_body)

    async with stage.serve(TimeOut(app)) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        with trio.fail_after(60):
            record = await theatre.abandoned()
        assert (record.status, record.sent_status, record.cause) == (500, 200, Cause.HANDLER_FAILED)
        assert not (await client.read_to_end()).endswith(b"0\r\n\r\n")
    assert len(caplog.records) == 1


@in_bare_memory
async def test_a_whole_response_whose_blocked_sending_a_middleware_cancels_has_a_record(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def handler() -> bytes:
        return bytes(300_000)

    async with stage.serve(TimeOut(app)) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await trio.sleep(5)
        with trio.fail_after(60):
            assert await client.response() == (200, bytes(300_000))
            await theatre.completed()


@in_bare_memory
async def test_a_plain_handler_whose_client_leaves_as_it_gets_its_thread_either_runs_or_is_not_started(
    stage: Stage,
) -> None:
    app, called = App(), []

    @app.get("/")
    def handler() -> None:
        called.append(True)

    async with stage.serve(app, Config(limits=Limits(threads=1))) as theatre:
        threads = server_of(theatre)._context.threads
        for number in range(1, 31):  # which of the two comes first is up to trio's scheduler
            called.clear()
            await threads.acquire()
            client = await theatre.connect()
            await client.send(GET)
            await wait_all_tasks_blocked()
            threads.release()
            client.reset()
            record = (await theatre.records(number))[-1]
            assert isinstance(record, Abandoned)
            not_started = (Phase.QUEUED, Outcome.NOT_STARTED)
            assert (record.phase, record.outcome) == ((Phase.HANDLER, Outcome.FINISHED) if called else not_started)


# Probes


@every_stage
async def test_a_client_that_half_closes_with_its_request_is_probed_once(stage: Stage) -> None:
    app = App(half_close="probe")

    @app.get("/")
    async def handler() -> str:
        await wait_all_tasks_blocked()
        return "hello"

    async with stage.serve(app) as theatre:
        for _ in range(20):  # whether the watch or the connection comes first is up to trio's scheduler
            client = await theatre.connect()
            await wait_all_tasks_blocked()
            client.send_nowait(GET)
            client.half_close()
            answer = await client.read_to_end()
            assert answer.count(b"HTTP/1.1 100 ") == 1
            assert answer.endswith(b"hello")
        await theatre.records(20)


# Numbers in records, and what they count


@every_stage
async def test_each_record_counts_the_bytes_of_its_own_response_alone(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def hello() -> bytes:
        return bytes(1000)

    @app.get("/second")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(2):
            await client.send(GET)
            await client.response()
        await client.send(SECOND)
        await visit.started.wait()
        client.leave("RESET")
        records = await theatre.records(3)
        assert [record.response_body_bytes for record in records] == [1000, 1000, 0]


@every_stage
async def test_under_finish_a_response_that_nobody_gets_has_no_bytes(stage: Stage) -> None:
    app, started, left = App(disconnect=FINISH), trio.Event(), trio.Event()

    @app.get("/")
    async def hello() -> bytes:
        return bytes(1000)

    @app.get("/second")
    async def handler() -> bytes:
        started.set()
        await left.wait()
        return bytes(10)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.response()
        await client.send(SECOND)
        await started.wait()
        client.leave("FIN")
        await wait_all_tasks_blocked(0.01)
        left.set()
        record = (await theatre.records(2))[1]
        assert isinstance(record, Abandoned)
        assert (record.phase, record.outcome) == (Phase.HANDLER, Outcome.FINISHED)
        assert (record.response_body_bytes, record.response_body_expected, record.sent_status) == (0, None, None)


@every_stage
async def test_a_content_length_that_is_no_number_is_the_handlers_failure(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(b"abc")
            await trio.sleep_forever()

        return Response.stream(write_body, headers={"content-length": "5, 5"})

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(2):
            await client.send(GET)
            with trio.fail_after(5):
                assert (await client.response())[0] == 500
        await theatre.records(2)
    assert len(caplog.records) == 2


@in_memory
async def test_an_idle_connection_holds_nothing_of_the_response_before(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def handler() -> bytes:
        return bytes(500_000)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.response() == (200, bytes(500_000))
        await theatre.completed()
        (connection,) = server_of(theatre)._living
        assert sum(map(len, connection.sender._wire)) + sum(map(len, connection.sender._unsent)) == 0

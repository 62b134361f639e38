"""The queue of exchanges whose turn has not come: who waits, who is sent away, and what ends the waiting."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import GET, BusyThread, Client, Stage, Theatre, Visit, every_stage, in_memory, on_sockets
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    Completed,
    Config,
    Deadlines,
    DisconnectPolicy,
    Grace,
    HTTPError,
    Limits,
    Outcome,
    Phase,
    Request,
    Response,
)


class Desk:
    """An app at which one exchange waits behind the other: each handler ends when it is told to."""

    def __init__(self, disconnect: DisconnectPolicy = CANCEL) -> None:
        self.app = App(disconnect=disconnect)
        self.begun: list[str] = []
        self.go_on = trio.Semaphore(0)
        self._news = trio.lowlevel.ParkingLot()

        @self.app.get("/{name}")
        async def handle(name: str) -> str:
            self.begun.append(name)
            self._news.unpark_all()
            await self.go_on.acquire()
            return name

        @self.app.post("/{name}")
        async def read(name: str, request: Request) -> bytes:
            self.begun.append(name)
            self._news.unpark_all()
            return await request.body()

    async def has_begun(self, *names: str) -> None:
        while self.begun != list(names):
            await self._news.park()


def get(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\nHost: example\r\n\r\n".encode()


async def come(theatre: Theatre, name: str) -> Client:
    """A client that asks, and is in the queue, or served, when this returns."""
    client = await theatre.connect()
    await client.send(get(name))
    await wait_all_tasks_blocked()  # over loopback what was sent is there at once
    return client


ONE = Limits(exchanges=1)


# Turns


@every_stage
async def test_exchanges_are_handled_one_after_the_other_in_the_order_in_which_they_came(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        clients = [await come(theatre, name) for name in "abcd"]
        for number, client in enumerate(clients):
            await desk.has_begun(*"abcd"[: number + 1])
            await wait_all_tasks_blocked()
            assert desk.begun == list("abcd"[: number + 1])
            desk.go_on.release()
            assert await client.response() == (200, b"abcd"[number : number + 1])
        assert [record.status for record in await theatre.records(4)] == [200] * 4


@every_stage
async def test_as_many_are_handled_at_once_as_the_limit_says_and_one_more_waits(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=Limits(exchanges=2))) as theatre:
        first, second, third = [await come(theatre, name) for name in "abc"]
        await desk.has_begun("a", "b")
        desk.go_on.release()
        assert await first.response() == (200, b"a")
        await desk.has_begun("a", "b", "c")
        desk.go_on.release()
        desk.go_on.release()
        assert await second.response() == (200, b"b")
        assert await third.response() == (200, b"c")


@every_stage
async def test_a_connection_has_no_turn_between_its_requests(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        clients = [await theatre.connect() for _ in range(3)]
        for name in "abc":
            for client in clients:
                desk.go_on.release()
                await client.send(get(name))
                assert await client.response() == (200, name.encode())


@every_stage
@pytest.mark.parametrize("how", ["raises", "answers an error", "is cut", "is silent", "streams", "leaves"])
async def test_a_turn_is_given_back_however_the_exchange_ends(
    stage: Stage, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, visit = App(), Visit()

    @app.get("/first")
    async def first() -> Response | None:
        async def write_body(send) -> None:
            await send(b"part")
            if how == "is cut":
                raise ValueError

        match how:
            case "raises":
                raise ValueError
            case "answers an error":
                raise HTTPError(409)
            case "is silent":
                return None
            case "leaves":
                await visit.until_cancelled()
        return Response.stream(write_body)

    @app.get("/second")
    async def second() -> str:
        return "second"

    async with stage.serve(app, Config(limits=ONE)) as theatre:
        client = await theatre.connect()
        await client.send(get("first"))
        if how == "leaves":
            await visit.started.wait()
            client.leave("RESET")
        await theatre.records(1)
        other = await theatre.connect()
        await other.send(get("second"))
        assert await other.response() == (200, b"second")
    assert len(caplog.records) == (how in {"raises", "is cut"})


@every_stage
async def test_a_handler_that_runs_on_without_its_client_keeps_its_turn(stage: Stage) -> None:
    desk = Desk(FINISH)
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        first = await come(theatre, "a")
        await desk.has_begun("a")
        first.leave("FIN")
        second = await come(theatre, "b")
        assert desk.begun == ["a"]
        desk.go_on.release()
        desk.go_on.release()
        assert await second.response() == (200, b"b")
        gone, _ = await theatre.records(2)
        assert (gone.outcome, gone.phase) == (Outcome.FINISHED, Phase.HANDLER)


# Who is sent away


@every_stage
async def test_who_finds_the_queue_full_is_answered_503_and_told_when_to_come_again(stage: Stage) -> None:
    desk = Desk()
    config = Config(limits=Limits(exchanges=1, queue=2), deadlines=Deadlines(queue=7.5))
    async with stage.serve(desk.app, config) as theatre:
        waiting = [await come(theatre, name) for name in "abc"]  # one is handled, two fill the queue
        late = await theatre.connect()
        for _ in range(2):  # and its connection goes on
            await late.send(get("d"))
            assert await late.response() == (503, b"503 Service Unavailable\nthe server is busy; try again later\n")
        assert [(record.status, record.route) for record in await theatre.records(2)] == [(503, "/{name}")] * 2
        for name, client in zip("abc", waiting, strict=True):
            desk.go_on.release()
            assert await client.response() == (200, name.encode())
        assert desk.begun == ["a", "b", "c"]


@every_stage
@pytest.mark.parametrize("queue", [1, 2])
async def test_a_request_that_its_head_already_refuses_is_told_so_at_once(stage: Stage, queue: int) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=Limits(exchanges=1, queue=queue, body=10))) as theatre:
        waiting = [await come(theatre, name) for name in "ab"]
        late = await theatre.connect()
        await late.send(b"POST /c HTTP/1.1\r\nHost: example\r\nContent-Length: 11\r\n\r\n")
        assert (await late.response(b"POST"))[0] == 413
        for name, client in zip("ab", waiting, strict=True):
            desk.go_on.release()
            assert await client.response() == (200, name.encode())
        assert desk.begun == ["a", "b"]


@in_memory
@pytest.mark.parametrize(("seconds", "field"), [(7.5, b"8"), (0.1, b"1"), (60, b"60"), (61, b"60"), (math.inf, b"60")])
async def test_retry_after_is_when_all_who_wait_will_have_been_served_or_sent_away(
    stage: Stage, seconds: float, field: bytes
) -> None:
    desk = Desk()
    config = Config(limits=Limits(exchanges=1, queue=1), deadlines=Deadlines(queue=seconds))
    async with stage.serve(desk.app, config) as theatre:
        clients = [await come(theatre, name) for name in "abc"]
        assert b"\r\nretry-after: " + field + b"\r\n" in await clients[2].receive()


@in_memory
async def test_who_has_waited_too_long_is_answered_503_and_may_ask_again(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE, deadlines=Deadlines(queue=10))) as theatre:
        first, second = await come(theatre, "a"), await theatre.connect()
        asked_at = trio.current_time()
        await second.send(get("b"))
        assert (await second.response())[0] == 503
        assert trio.current_time() == asked_at + 10
        record = await theatre.completed()
        assert (record.status, record.target, record.duration) == (503, "/b", 10)
        desk.go_on.release()
        assert await first.response() == (200, b"a")
        await second.send(get("c"))
        desk.go_on.release()
        assert await second.response() == (200, b"c")
        assert desk.begun == ["a", "c"]


@in_memory
async def test_whose_turn_comes_in_the_last_moment_is_served(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE, deadlines=Deadlines(queue=10))) as theatre:
        first, second = await theatre.connect(), await theatre.connect()
        await first.send(get("a"))
        await wait_all_tasks_blocked()
        await second.send(get("b"))
        await trio.sleep(9.999)
        desk.go_on.release()
        desk.go_on.release()
        assert await second.response() == (200, b"b")


@every_stage
async def test_a_body_that_comes_with_a_request_that_is_sent_away_does_no_harm(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=Limits(exchanges=1, queue=1))) as theatre:
        for name in "ab":
            await come(theatre, name)
        late = await theatre.connect()
        for body in (b"x" * 10, b"x" * 100_000):
            await late.send(b"POST /c HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert (await late.response(b"POST"))[0] == 503
        desk.go_on.release()
        desk.go_on.release()
        await theatre.records(4)
        await late.send(b"POST /c HTTP/1.1\r\nHost: example\r\nContent-Length: 3\r\n\r\nabc")
        assert await late.response(b"POST") == (200, b"abc")


# The clocks


@in_memory
async def test_the_handlers_deadline_does_not_run_in_the_queue(stage: Stage) -> None:
    desk = Desk()
    config = Config(limits=ONE, deadlines=Deadlines(handler=6, queue=100))
    async with stage.serve(desk.app, config) as theatre:
        first, second = await theatre.connect(), await theatre.connect()
        await first.send(get("a"))
        await wait_all_tasks_blocked()
        await second.send(get("b"))
        await trio.sleep(5)
        desk.go_on.release()
        await desk.has_begun("a", "b")
        await trio.sleep(5)
        desk.go_on.release()
        assert await second.response() == (200, b"b")
        assert (await first.response())[0] == 200
        # And from its turn on it does.
        await first.send(get("c"))
        assert (await first.response())[0] == 503
        assert [record.duration for record in await theatre.records(3)] == [5, 10, 6]


@in_memory
async def test_a_body_that_waits_in_the_queue_is_not_too_slow(stage: Stage) -> None:
    desk = Desk()
    config = Config(limits=ONE, deadlines=Deadlines(body_stall=5, head=5, idle=5, queue=100))
    async with stage.serve(desk.app, config) as theatre:
        await come(theatre, "a")
        client = await theatre.connect()
        await client.send(b"POST /b HTTP/1.1\r\nHost: example\r\nContent-Length: 6\r\n\r\nabc")
        await trio.sleep(50)
        desk.go_on.release()
        await client.send(b"def")
        assert await client.response(b"POST") == (200, b"abcdef")


@in_memory
async def test_who_waits_to_be_told_to_send_its_body_is_told_so_when_its_turn_comes(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        await come(theatre, "a")
        client = await theatre.connect()
        await client.send(b"POST /b HTTP/1.1\r\nHost: example\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        with trio.move_on_after(5) as in_the_queue:
            await client.receive()
        assert in_the_queue.cancelled_caught
        desk.go_on.release()
        assert (await client.receive()).startswith(b"HTTP/1.1 100 ")


# Departure


@every_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_a_client_that_leaves_the_queue_is_noticed_at_once_and_its_handler_not_started(
    stage: Stage, how: str
) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        first, second, third = [await come(theatre, name) for name in "abc"]
        second.leave(how)
        record = await theatre.abandoned()
        assert (record.status, record.phase, record.cause) == (499, Phase.QUEUED, Cause(how))
        assert (record.outcome, record.target, record.route) == (Outcome.NOT_STARTED, "/b", "/{name}")
        desk.go_on.release()
        assert await first.response() == (200, b"a")
        desk.go_on.release()
        assert await third.response() == (200, b"c")
        assert desk.begun == ["a", "c"]


@every_stage
async def test_under_finish_the_handler_of_a_client_that_left_the_queue_runs_in_its_turn(stage: Stage) -> None:
    desk = Desk(FINISH)
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        first, second, third = [await come(theatre, name) for name in "abc"]
        second.leave("FIN")
        await wait_all_tasks_blocked()
        for name, client in (("a", first), ("b", None), ("c", third)):
            desk.go_on.release()
            if client is not None:
                assert await client.response() == (200, name.encode())
        assert desk.begun == ["a", "b", "c"]
        record = next(record for record in await theatre.records(3) if isinstance(record, Abandoned))
        assert (record.status, record.phase, record.cause) == (499, Phase.QUEUED, Cause.FIN)
        assert (record.outcome, record.target) == (Outcome.FINISHED, "/b")


@in_memory
@pytest.mark.parametrize(("disconnect", "seconds"), [(FINISH, 10), (Grace(3), 4)])
async def test_a_client_that_left_has_no_better_place_than_others(
    stage: Stage, disconnect: DisconnectPolicy, seconds: float
) -> None:
    """Its handler is not started when the queue's deadline, or the grace that it was given, is over before its turn."""
    desk = Desk(disconnect)
    async with stage.serve(desk.app, Config(limits=ONE, deadlines=Deadlines(queue=10))) as theatre:
        await come(theatre, "a")
        client = await theatre.connect()
        await client.send(get("b"))
        await trio.sleep(1)
        client.leave("FIN")
        record = await theatre.abandoned()
        assert (record.phase, record.cause, record.status) == (Phase.QUEUED, Cause.FIN, 499)
        assert (record.outcome, record.noticed_at - record.started_at) == (Outcome.NOT_STARTED, 1)
        assert record.duration == pytest.approx(seconds)
        assert desk.begun == ["a"]


@every_stage
async def test_a_client_that_leaves_when_the_queue_is_full_is_not_answered(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=Limits(exchanges=1, queue=1))) as theatre:
        for name in "ab":
            await come(theatre, name)
        late = await theatre.connect()
        late.send_nowait(get("c"))
        late.leave("FIN")
        record = await theatre.abandoned()
        assert (record.phase, record.cause, record.outcome) == (Phase.QUEUED, Cause.FIN, Outcome.NOT_STARTED)


@every_stage
async def test_a_client_that_leaves_before_its_body_was_whole_leaves_the_queue(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        await come(theatre, "a")
        client = await theatre.connect()
        await client.send(b"POST /b HTTP/1.1\r\nHost: example\r\nContent-Length: 10000\r\n\r\n" + b"x" * 5000)
        await wait_all_tasks_blocked()
        client.leave("FIN")
        record = await theatre.abandoned()
        assert (record.status, record.phase, record.outcome) == (400, Phase.BODY, Outcome.NOT_STARTED)
        assert desk.begun == ["a"]


@every_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_a_client_that_has_sent_much_before_its_turn_leaves_the_queue(stage: Stage, how: str) -> None:
    desk = Desk()
    size = 10_000_000
    async with stage.serve(desk.app, Config(limits=Limits(exchanges=1, body=math.inf))) as theatre:
        await come(theatre, "a")
        client = await theatre.connect()
        await client.send(f"POST /b HTTP/1.1\r\nHost: example\r\nContent-Length: {size + 1}\r\n\r\n".encode())
        await client.send(bytes(size))  # goes through only because the server takes in what lies unread
        client.leave(how)
        record = await theatre.abandoned()
        assert (record.status, record.phase, record.cause) == (400, Phase.BODY, Cause(how))
        assert record.outcome is Outcome.NOT_STARTED
        assert desk.begun == ["a"]


@every_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_a_client_that_leaves_in_the_moment_in_which_its_turn_comes_is_not_handled(
    stage: Stage, how: str
) -> None:
    app, go_on = App(), trio.Event()

    @app.get("/first")
    async def first() -> str:
        await go_on.wait()
        clients[1].leave(how)  # from here to the end of the exchange there is no step of the scheduler
        return "first"

    @app.get("/second")
    async def second() -> None:
        pytest.fail("the client has left")

    @app.get("/third")
    async def third() -> str:
        return "third"

    async with stage.serve(app, Config(limits=ONE)) as theatre:
        clients = [await come(theatre, name) for name in ("first", "second", "third")]
        go_on.set()
        assert await clients[0].response() == (200, b"first")
        assert await clients[2].response() == (200, b"third")
        [gone] = [record for record in await theatre.records(3) if isinstance(record, Abandoned)]
        assert (gone.target, gone.outcome) == ("/second", Outcome.NOT_STARTED)
        assert (gone.status, gone.phase, gone.cause) == (499, Phase.QUEUED, Cause(how))


# Pipelined requests


@every_stage
async def test_pipelined_requests_queue_one_after_the_other(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=Limits(exchanges=1, queue=1))) as theatre:
        first = await come(theatre, "a")
        client = await theatre.connect()
        await client.send(get("b") + get("c") + get("d"))
        for name in "abcd":
            await desk.has_begun(*"abcd"[: "abcd".index(name) + 1])
            desk.go_on.release()
        assert await first.response() == (200, b"a")
        for name in "bcd":
            assert await client.response() == (200, name.encode())


# The drain


@every_stage
async def test_a_drain_serves_those_in_the_queue_too(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE)) as theatre:
        clients = [await come(theatre, name) for name in "abc"]
        theatre.nursery.start_soon(theatre.drain)
        await wait_all_tasks_blocked()
        for name, client in zip("abc", clients, strict=True):
            desk.go_on.release()
            answer = await client.read_to_end()
            assert answer.endswith(name.encode())
            assert b"\r\nconnection: close\r\n" in answer.lower()


@every_stage
async def test_a_drains_deadline_answers_those_in_the_queue_503(stage: Stage) -> None:
    desk = Desk()
    async with stage.serve(desk.app, Config(limits=ONE, deadlines=Deadlines(drain=0.1))) as theatre:
        clients = [await come(theatre, name) for name in "abc"]
        theatre.nursery.start_soon(theatre.drain)
        for client in clients:
            assert (await client.read_to_end()).startswith(b"HTTP/1.1 503 ")
        records = await theatre.records(3)
        assert all(isinstance(record, Completed) and record.status == 503 for record in records)
        assert desk.begun == ["a"]


# Requests per connection


@every_stage
async def test_the_last_request_that_a_connection_may_have_is_answered_with_its_end(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async with stage.serve(app, Config(limits=Limits(requests=3))) as theatre:
        client = await theatre.connect()
        for _ in range(2):
            await client.send(GET)
            assert b"connection: close" not in (await answer_to(client)).lower()
        await client.send(GET + GET)  # and the one behind it does no harm
        rest = await client.read_to_end()
        assert rest.count(b"HTTP/1.1 ") == 1
        assert b"\r\nconnection: close\r\n" in rest.lower()
        assert [record.exchange_number for record in await theatre.records(3)] == [1, 2, 3]


async def answer_to(client: Client) -> bytes:
    received = b""
    while not received.endswith(b"hello"):
        received += await client.receive()
    return received


# Threads


@on_sockets
async def test_who_waits_too_long_for_a_thread_is_sent_away_and_his_connection_goes_on(stage: Stage) -> None:
    busy = BusyThread()

    @busy.app.get("/plain")
    def plain() -> str:
        return "plain"

    @busy.app.get("/")
    async def no_thread() -> str:
        return "no thread"

    config = Config(limits=Limits(threads=1), deadlines=Deadlines(queue=0.05))
    async with stage.serve(busy.app, config) as theatre:
        first, second = await theatre.connect(), await theatre.connect()
        await first.send(get("busy"))
        await busy.taken.wait()
        await second.send(get("plain"))
        status, body = await second.response()
        assert (status, body) == (503, b"503 Service Unavailable\nthe server is busy; try again later\n")
        assert (await theatre.completed()).route == "/plain"
        await second.send(get(""))
        assert await second.response() == (200, b"no thread")
        busy.go_on.set()
        assert await first.response() == (200, b"done")
        await second.send(get("plain"))
        assert await second.response() == (200, b"plain")

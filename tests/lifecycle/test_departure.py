"""Design, section 3: every situation in which a client can leave, on every kind of connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lifecycle.stage import (
    GET,
    NO_LIMIT,
    PROBE,
    BusyThread,
    Stage,
    Visit,
    every_stage,
    in_memory,
    on_bare_sockets,
    on_sockets,
)
from trioserve import (
    FINISH,
    Abandoned,
    App,
    Cause,
    Completed,
    Config,
    Deadlines,
    Limits,
    Outcome,
    Phase,
    Request,
    Response,
)

WAYS = ["FIN", "RESET"]


def each_way(play):
    """Play with a client that closes, and with one that resets."""
    return pytest.mark.parametrize("how", WAYS)(play)


def sleeper() -> tuple[App, Visit]:
    """An app whose handler at "/" waits for ever."""
    app, visit = App(), Visit()

    @app.route("/", methods=["GET", "POST"])
    async def sleep() -> None:
        await visit.until_cancelled()

    return app, visit


def post(length: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n" % length


def expect(record: Abandoned, phase: Phase, cause: str, status: int, outcome: Outcome = Outcome.CANCELLED) -> None:
    assert (record.phase, record.cause, record.status, record.outcome) == (phase, Cause(cause), status, outcome)


# The handler awaits


@every_stage
@each_way
async def test_a_sleeping_handler_is_cancelled_at_once(stage: Stage, how: str) -> None:
    app, visit = sleeper()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        left_at = trio.current_time()
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.HANDLER, how, 499)
        assert record.sent_status is None
        assert record.logged_status == 499
        assert record.exception is None
        if stage.in_memory:
            assert record.noticed_at == left_at


@every_stage
async def test_the_cancellation_says_cause_and_phase(stage: Stage) -> None:
    app, visit = sleeper()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        await theatre.abandoned()
        assert visit.reason is not None
        assert "FIN in phase HANDLER" in visit.reason


@every_stage
async def test_the_fourth_exchange_of_a_connection_is_cancelled_and_numbered(stage: Stage) -> None:
    app, visit = sleeper()

    @app.get("/quick")
    async def quick() -> str:
        return "done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(3):
            await client.send(GET.replace(b" / ", b" /quick "))
            assert await client.response() == (200, b"done")
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        *completed, record = await theatre.records(4)
        assert [type(done) for done in completed] == [Completed] * 3
        assert isinstance(record, Abandoned)
        assert record.exchange_number == 4
        expect(record, Phase.HANDLER, "FIN", 499)
        assert len({r.connection_id for r in (*completed, record)}) == 1


@every_stage
async def test_a_shielded_cleanup_may_end_and_the_record_comes_after_it(stage: Stage) -> None:
    app, started, cleaned = App(), trio.Event(), []

    @app.get("/")
    async def handler() -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(0.2)
                cleaned.append(trio.current_time())

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave("FIN")
        record = await theatre.abandoned()
        (cleaned_at,) = cleaned
        assert record.noticed_at + 0.2 <= cleaned_at <= record.unwound_at
        assert record.unwind_time >= 0.2


@every_stage
async def test_everything_below_the_handler_is_cancelled(stage: Stage) -> None:
    app, visits = App(), [Visit(), Visit(), Visit()]

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            for visit in visits[1:]:
                nursery.start_soon(visit.until_cancelled)
            await visits[0].until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        for visit in visits:
            await visit.started.wait()
        client.leave("RESET")
        expect(await theatre.abandoned(), Phase.HANDLER, "RESET", 499)
        assert [visit.cancelled for visit in visits] == [True, True, True]


@on_sockets
async def test_a_plain_handler_in_a_thread_learns_of_it_and_is_waited_for(stage: Stage) -> None:
    app, started, told = App(), trio.Event(), []

    @app.get("/")
    def handler() -> None:
        trio.from_thread.run_sync(started.set)
        try:
            while True:
                trio.from_thread.check_cancelled()
        except trio.Cancelled:
            told.append(True)
            raise

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave("FIN")
        expect(await theatre.abandoned(), Phase.HANDLER, "FIN", 499)
        assert told == [True]


@on_bare_sockets
async def test_a_plain_handler_that_waits_for_a_thread_is_not_started(stage: Stage) -> None:
    busy = BusyThread()

    @busy.app.get("/")
    def never() -> None:
        raise AssertionError("its client had left before there was a thread")

    async with stage.serve(busy.app, Config(limits=Limits(threads=1))) as theatre:
        first, second = await theatre.connect(), await theatre.connect()
        await first.send(GET.replace(b" / ", b" /busy "))
        await busy.taken.wait()
        await second.send(GET)
        second.leave("FIN")
        expect(await theatre.abandoned(), Phase.QUEUED, "FIN", 499, Outcome.NOT_STARTED)
        busy.go_on.set()
        assert await first.response() == (200, b"done")


# The body is unread


@every_stage
@each_way
@pytest.mark.parametrize("size", [32_768, 10_000_000, 50_000_000])
async def test_a_client_that_has_sent_much_that_nobody_read_is_noticed(stage: Stage, how: str, size: int) -> None:
    app, visit = sleeper()
    async with stage.serve(app, Config(limits=NO_LIMIT)) as theatre:
        client = await theatre.connect()
        await client.send(post(size + 1))
        await visit.started.wait()
        await client.send(bytes(size))  # goes through only because the server takes in what lies unread
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.BODY, how, 400)
        assert record.request_body_expected == size + 1
        assert record.request_body_bytes == 0


@every_stage
@each_way
async def test_a_client_that_leaves_while_backpressure_blocks_it_is_noticed(stage: Stage, how: str) -> None:
    app, visit = sleeper()
    async with stage.serve(app, Config(limits=NO_LIMIT)) as theatre:
        client = await theatre.connect()
        await client.send(post(50_000_000))
        await visit.started.wait()
        client.send_until_blocked()
        client.leave(how)
        expect(await theatre.abandoned(), Phase.BODY, how, 400)
        assert visit.cancelled


# The body is being read


@every_stage
@each_way
@pytest.mark.parametrize("framing", ["fixed", "chunked"])
async def test_a_client_that_leaves_while_its_body_is_read_is_noticed(stage: Stage, how: str, framing: str) -> None:
    app, visit, received = App(), Visit(), bytearray()

    @app.post("/")
    async def upload(request: Request) -> None:
        async with visit:
            async for part in request.stream():
                received.extend(part)

    request = b"POST / HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n400\r\nha"
    if framing == "fixed":
        request = post(1000) + b"hello"
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(request)
        await visit.started.wait()
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.BODY, how, 400)
        assert record.request_body_expected == (1000 if framing == "fixed" else None)
        assert received.startswith(b"hello")


@every_stage
@each_way
async def test_a_client_that_leaves_instead_of_sending_the_body_it_announced_is_noticed(stage: Stage, how: str) -> None:
    app, visit = App(), Visit()

    @app.post("/")
    async def upload(request: Request) -> None:
        async with visit:
            await request.body()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 100 ")
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.BODY, how, 400)
        assert record.sent_status is None, "an interim response is no response"


# Pipelined requests wait


@every_stage
@each_way
@pytest.mark.parametrize("waiting", [1, 30_000])
async def test_what_waits_behind_the_current_request_hides_nothing_and_is_not_begun(
    stage: Stage, how: str, waiting: int
) -> None:
    app, visit, begun = App(), Visit(), []

    @app.get("/")
    async def first() -> None:
        await visit.until_cancelled()

    @app.get("/next")
    async def following() -> None:
        begun.append(True)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        await client.send(GET.replace(b" / ", b" /next ") * waiting)  # up to 1.3 MB
        client.leave(how)
        expect(await theatre.abandoned(), Phase.HANDLER, how, 499)
        assert visit.cancelled
        assert not begun


@every_stage
async def test_a_client_that_pipelines_and_stays_gets_its_answers_in_order(stage: Stage) -> None:
    app = App()

    @app.get("/{number:int}")
    async def answer(number: int) -> str:
        await trio.sleep(0.001)
        return str(number)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(b"".join(GET.replace(b" / ", b" /%d " % number) for number in range(100)))
        assert [await client.response() for _ in range(100)] == [(200, b"%d" % number) for number in range(100)]
        await theatre.records(100)
        assert not theatre.observed.told


# The response is under way


@every_stage
@each_way
async def test_a_stream_is_cancelled_between_two_parts(stage: Stage, how: str) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def stream() -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            await visit.until_cancelled()

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        received = b""
        while not received.endswith(b"first\r\n"):
            received += await client.receive()
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.RESPONSE_BODY, how, 499)
        assert (record.sent_status, record.logged_status) == (200, 200)
        assert record.response_body_bytes == len(b"first")
        assert record.response_body_expected is None


@every_stage
async def test_a_stream_that_never_waits_is_stopped_by_its_own_sends(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def stream() -> Response:
        async def write_body(send) -> None:
            async with visit:
                while True:
                    await send(b"x" * 1000)

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.receive()
        client.leave("RESET")
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.RESPONSE_BODY, "RESET", 499)


def flood() -> tuple[App, Visit]:
    """An app whose answer is larger than any buffer."""
    app, visit = App(), Visit()

    @app.get("/")
    async def answer() -> Response:
        async def write_body(send) -> None:
            async with visit:
                await send(bytes(50_000_000))

        return Response.stream(write_body, headers={"content-length": "50000000"})

    return app, visit


@every_stage
async def test_a_blocked_send_is_cancelled_by_a_reset(stage: Stage) -> None:
    app, visit = flood()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        await trio.testing.wait_all_tasks_blocked()
        client.leave("RESET")
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.RESPONSE_BODY, "RESET", 499)
        assert 0 < record.response_body_bytes < record.response_body_expected == 50_000_000


@every_stage
async def test_a_blocked_send_is_cancelled_when_a_client_closes_without_reading(stage: Stage) -> None:
    # The client's system makes a reset of it, since what it has received lies unread.
    app, visit = flood()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        await trio.testing.wait_all_tasks_blocked()
        client.close()
        record = await theatre.abandoned()
        assert visit.cancelled
        assert record.phase is Phase.RESPONSE_BODY
        assert record.status == 499


@every_stage
async def test_a_blocked_send_is_cancelled_by_a_half_close(stage: Stage) -> None:
    app, visit = flood()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        await trio.testing.wait_all_tasks_blocked()
        client.half_close()
        expect(await theatre.abandoned(), Phase.RESPONSE_BODY, "FIN", 499)
        assert visit.cancelled


@every_stage
async def test_a_half_closed_client_that_never_reads_is_cut_by_the_send_deadline(stage: Stage) -> None:
    app, visit = flood()
    config = Config(half_close="finish", deadlines=Deadlines(send_stall=0.3))
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        client.half_close()
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.RESPONSE_BODY, "WRITE_TIMEOUT", 499)
        assert record.by == "client"


@every_stage
async def test_a_client_that_reads_slowly_is_not_taken_for_gone(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def answer() -> bytes:
        return bytes(3_000_000)

    async with stage.serve(app, Config(deadlines=Deadlines(send_stall=0.5))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        left = 3_000_000
        while left > 0:
            await trio.sleep(0.005)  # this is what slow reading means
            left -= len(await client.receive())
        assert (await theatre.completed()).response_body_bytes == 3_000_000


# A FIN is not always departure


@every_stage
async def test_a_half_close_is_departure_by_default(stage: Stage) -> None:
    app, visit = sleeper()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.half_close()
        expect(await theatre.abandoned(), Phase.HANDLER, "FIN", 499)
        assert await client.read_to_end() == b"", "nothing is written after the departure"


def patient(half_close: str, *, per_route: bool) -> tuple[App, Config, Visit, trio.Event]:
    """An app whose handler waits until it is told, under a half-close policy of the server or of the route."""
    app, visit, go_on = App(), Visit(), trio.Event()

    @app.route("/", methods=["GET", "POST"], half_close=half_close if per_route else None)
    async def handler() -> str:
        async with visit:
            await go_on.wait()
        return "done"

    return app, Config() if per_route else Config(half_close=half_close), visit, go_on


@every_stage
@pytest.mark.parametrize("per_route", [True, False])
@pytest.mark.parametrize("half_close", ["finish", "probe"])
async def test_a_half_closed_client_gets_its_answer(stage: Stage, half_close: str, *, per_route: bool) -> None:
    app, config, visit, go_on = patient(half_close, per_route=per_route)
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.half_close()
        if half_close == "probe":
            assert await client.receive() == PROBE
        go_on.set()
        assert (await client.read_to_end()).endswith(b"done")
        assert (await theatre.completed()).status == 200


@every_stage
async def test_under_finish_a_reset_is_departure_also_after_a_fin(stage: Stage) -> None:
    app, config, visit, _ = patient("finish", per_route=True)
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.half_close()
        client.leave("RESET")
        expect(await theatre.abandoned(), Phase.HANDLER, "RESET", 499)
        assert visit.cancelled


@every_stage
async def test_a_probe_finds_that_a_client_is_gone(stage: Stage) -> None:
    app, config, visit, _ = patient("probe", per_route=False)
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.close()
        record = await theatre.abandoned()
        assert visit.cancelled
        expect(record, Phase.HANDLER, "RESET", 499)
        assert record.sent_status is None


@every_stage
async def test_an_http_1_0_client_is_not_probed_but_answered(stage: Stage) -> None:
    app, config, visit, go_on = patient("probe", per_route=False)
    async with stage.serve(app, config) as theatre:
        client = await theatre.connect()
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        await visit.started.wait()
        client.half_close()
        go_on.set()
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200 ")
        assert (await theatre.completed()).http_version == "1.0"


@every_stage
@pytest.mark.parametrize("half_close", ["abort", "finish", "probe"])
async def test_a_fin_inside_a_body_that_is_read_is_departure_whatever_the_policy(stage: Stage, half_close: str) -> None:
    app, visit = App(), Visit()

    @app.post("/", half_close=half_close)
    async def upload(request: Request) -> None:
        async with visit:
            await request.body()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(post(10) + b"12345")
        await visit.started.wait()
        client.half_close()
        expect(await theatre.abandoned(), Phase.BODY, "FIN", 400)
        assert visit.cancelled


@every_stage
async def test_a_half_closed_client_that_pipelined_gets_all_its_answers(stage: Stage) -> None:
    app = App()

    @app.get("/", half_close="finish")
    async def handler() -> str:
        await trio.sleep(0.001)
        return "done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET * 3)
        client.half_close()
        assert (await client.read_to_end()).count(b"done") == 3
        await theatre.records(3)


@every_stage
async def test_a_fin_heard_during_one_exchange_is_judged_anew_for_the_next(stage: Stage) -> None:
    app, visit, go_on, begun = App(), Visit(), trio.Event(), []

    @app.get("/", half_close="finish")
    async def first() -> str:
        async with visit:
            await go_on.wait()
        return "done"

    @app.get("/next", half_close="abort")
    async def following() -> None:
        begun.append(True)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET + GET.replace(b" / ", b" /next "))
        await visit.started.wait()
        client.half_close()
        go_on.set()
        completed, abandoned = await theatre.records(2)
        assert isinstance(completed, Completed)
        assert isinstance(abandoned, Abandoned)
        expect(abandoned, Phase.QUEUED, "FIN", 499, Outcome.NOT_STARTED)
        assert not begun


# Before the handler


@every_stage
@each_way
async def test_a_handler_whose_client_left_at_once_is_not_started(stage: Stage, how: str) -> None:
    app, begun = App(), []

    @app.get("/")
    async def handler() -> None:
        begun.append(True)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        client.send_nowait(GET)
        client.leave(how)
        await trio.testing.wait_all_tasks_blocked()
        assert not begun
        if how == "FIN":
            expect(await theatre.abandoned(), Phase.QUEUED, how, 499, Outcome.NOT_STARTED)


@every_stage
async def test_under_finish_a_handler_whose_client_left_at_once_is_started_all_the_same(stage: Stage) -> None:
    app, bodies = App(), []

    @app.post("/", disconnect=FINISH)
    async def webhook(request: Request) -> None:
        bodies.append(await request.body())

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        client.send_nowait(post(5) + b"hello")
        client.leave("FIN")
        expect(await theatre.abandoned(), Phase.QUEUED, "FIN", 499, Outcome.FINISHED)
        assert bodies == [b"hello"]


@every_stage
@each_way
@pytest.mark.parametrize(("size", "line"), [(10, (None, None, None)), (20, ("GET", "/", "1.1"))])
async def test_a_partial_head_is_recorded_as_400_and_never_reaches_a_handler(
    stage: Stage, how: str, size: int, line: tuple[str | None, ...]
) -> None:
    app, visit = sleeper()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET[:size])
        # The server must have the partial head before the reset, which overtakes what is on its way.
        await trio.testing.wait_all_tasks_blocked()
        client.leave(how)
        record = await theatre.abandoned()
        expect(record, Phase.HEAD, how, 400, Outcome.NOT_STARTED)
        assert (record.method, record.target, record.http_version) == line
        assert (record.headers, record.route) == (None, None)
        assert not visit.started.is_set()


@every_stage
@each_way
@pytest.mark.parametrize("exchanges", [0, 2])
async def test_leaving_an_idle_connection_is_no_abandonment(stage: Stage, how: str, exchanges: int) -> None:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(exchanges):
            await client.send(GET)
            assert await client.response() == (200, b"hello")
        await trio.testing.wait_all_tasks_blocked()
        client.leave(how)
        await theatre.records(exchanges)
    assert not theatre.observed.told


# The client vanishes


@in_memory
async def test_a_client_that_vanishes_is_noticed_within_the_deadline(stage: Stage) -> None:
    app, visit = sleeper()
    async with stage.serve(app, Config(deadlines=Deadlines(vanish=30))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        vanished_at = trio.current_time()
        client.vanish()
        record = await theatre.abandoned()
        assert visit.cancelled
        if not stage.reads_ahead:
            assert record.noticed_at == vanished_at + 30
        expect(record, Phase.HANDLER, "VANISHED", 499)


# Many at once


@every_stage
async def test_500_clients_that_leave_in_the_same_instant_are_all_noticed(stage: Stage) -> None:
    app, started, cancelled = App(), [], []

    @app.get("/")
    async def handler() -> None:
        started.append(True)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async with stage.serve(app) as theatre:
        clients = [await theatre.connect() for _ in range(500)]
        for client in clients:
            await client.send(GET)
        while len(started) < 500:
            await trio.lowlevel.checkpoint()
        for client in clients:
            client.leave("FIN")
        records = await theatre.records(500)
        assert len(cancelled) == 500
        for record in records:
            assert isinstance(record, Abandoned)
            expect(record, Phase.HANDLER, "FIN", 499)


@every_stage
async def test_a_client_that_leaves_in_the_moment_of_its_answer_has_one_record(stage: Stage) -> None:
    app, visit, go_on = App(), Visit(), trio.Event()

    @app.get("/")
    async def handler() -> str:
        async with visit:
            await go_on.wait()
        return "done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        go_on.set()
        client.leave("FIN")
        record = await theatre.only_record()
        if isinstance(record, Abandoned):
            expect(record, Phase.HANDLER, "FIN", 499, record.outcome)
        else:
            assert record.status == 200

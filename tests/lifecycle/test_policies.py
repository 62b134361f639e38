"""What a user may decide: the disconnect policy and the status policy, per app and per route."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from lifecycle.stage import GET, Stage, Visit, every_stage, in_memory
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    ClientGone,
    Config,
    ConfigError,
    Deadlines,
    DisconnectPolicy,
    Grace,
    Outcome,
    Phase,
    Request,
    Response,
)


def app_with(policy: DisconnectPolicy | None, *, per_route: bool) -> App:
    return App() if per_route or policy is None else App(disconnect=policy)


@every_stage
@pytest.mark.parametrize("per_route", [True, False])
async def test_finish_lets_the_handler_run_to_its_end_and_discards_the_response(
    stage: Stage, *, per_route: bool
) -> None:
    app, visit, go_on = app_with(FINISH, per_route=per_route), Visit(), trio.Event()

    @app.get("/", disconnect=FINISH if per_route else None)
    async def pay() -> str:
        async with visit:
            await go_on.wait()
        return "paid"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        await trio.testing.wait_all_tasks_blocked()
        assert not visit.ended.is_set()
        assert not theatre.observed.all, "the record comes after the handler's end"
        go_on.set()
        record = await theatre.abandoned()
        assert not visit.cancelled
        assert (record.phase, record.cause, record.status) == (Phase.HANDLER, Cause.FIN, 499)
        assert record.outcome is Outcome.FINISHED
        assert record.sent_status is None
        assert record.response_body_bytes == 0


@every_stage
async def test_under_finish_a_stream_is_discarded_part_by_part(stage: Stage) -> None:
    app, visit, go_on, parts = App(), Visit(), trio.Event(), []

    @app.get("/", disconnect=FINISH)
    async def export() -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            async with visit:
                await go_on.wait()
            for number in range(3):
                await send(b"more")
                parts.append(number)

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("RESET")
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        record = await theatre.abandoned()
        assert parts == [0, 1, 2]
        assert record.outcome is Outcome.FINISHED
        assert (record.phase, record.cause, record.sent_status) == (Phase.RESPONSE_BODY, Cause.RESET, 200)
        assert record.response_body_bytes == len(b"first")


@every_stage
async def test_under_finish_a_failure_after_the_departure_is_told_by_the_record_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, visit, go_on = App(), Visit(), trio.Event()

    @app.get("/", disconnect=FINISH)
    async def pay() -> None:
        async with visit:
            await go_on.wait()
        raise ValueError("no money")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        record = await theatre.abandoned()
        assert record.outcome is Outcome.FAILED
        assert (record.cause, record.status) == (Cause.FIN, 499)
        assert isinstance(record.exception, ValueError)
        assert not caplog.records


async def size_read_after_departure(stage: Stage, how: str, size: int) -> int:
    """How much of a body of this size a handler reads under FINISH, if its client has sent all and left."""
    app, visit, left = App(disconnect=FINISH), Visit(), trio.Event()
    sizes = []

    @app.post("/")
    async def pay(request: Request) -> None:
        async with visit:
            await left.wait()
            sizes.append(len(await request.body()))

    async with stage.serve(app) as theatre:
        client = await theatre.connect(window=2 * size)
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await visit.started.wait()
        client.leave(how)
        await trio.testing.wait_all_tasks_blocked()
        left.set()
        await theatre.only_record()
    return sum(sizes)


@every_stage
async def test_under_finish_a_body_that_was_sent_whole_is_read_whole(stage: Stage) -> None:
    assert await size_read_after_departure(stage, "FIN", 300_000) == 300_000


@in_memory
async def test_under_finish_the_rest_of_a_body_that_comes_together_with_the_fin_is_read(stage: Stage) -> None:
    app, sizes = App(disconnect=FINISH), []

    @app.post("/")
    async def handler(request: Request) -> None:
        sizes.append(len(await request.body()))

    async with stage.serve(app) as theatre:
        # Who has the next turn, the reader or who tells it of the FIN, is for trio to choose.
        for number in range(1, 11):
            client = await theatre.connect()
            await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\nabc")
            await trio.testing.wait_all_tasks_blocked()
            client.send_nowait(b"defghij")
            client.leave("FIN")
            await theatre.records(number)
    assert sizes == [10] * 10


@in_memory
async def test_under_finish_a_body_that_had_come_whole_before_a_reset_is_read_whole(stage: Stage) -> None:
    assert await size_read_after_departure(stage, "RESET", 300_000) == 300_000


@every_stage
async def test_under_finish_a_body_that_will_never_come_is_an_error_for_who_reads_it(stage: Stage) -> None:
    app, visit, errors = App(), Visit(), []

    @app.post("/", disconnect=FINISH)
    async def upload(request: Request) -> None:
        async with visit:
            try:
                await request.body()
            except ClientGone as error:
                errors.append(error)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\nhello")
        await visit.started.wait()
        client.leave("FIN")
        record = await theatre.abandoned()
        assert len(errors) == 1
        assert (record.phase, record.status, record.outcome) == (Phase.BODY, 400, Outcome.FINISHED)


@in_memory
async def test_grace_cancels_when_it_is_over(stage: Stage) -> None:
    app, visit = App(disconnect=Grace(3)), Visit()

    @app.get("/")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        record = await theatre.abandoned()
        assert visit.cancelled
        assert visit.reason is not None
        assert "FIN in phase HANDLER" in visit.reason
        assert record.outcome is Outcome.CANCELLED
        assert record.unwound_at == record.noticed_at + 3


@in_memory
async def test_grace_is_enough_for_a_handler_that_ends_in_time(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.get("/", disconnect=Grace(3))
    async def handler() -> None:
        async with visit:
            await trio.sleep(2)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("RESET")
        record = await theatre.abandoned()
        assert not visit.cancelled
        assert record.outcome is Outcome.FINISHED
        assert record.unwound_at == record.noticed_at + 2


@every_stage
async def test_a_routes_policy_prevails_over_the_apps(stage: Stage) -> None:
    app, visit = App(disconnect=FINISH), Visit()

    @app.get("/", disconnect=CANCEL)
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        assert (await theatre.abandoned()).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_grace_takes_a_positive_number_of_seconds(seconds: float) -> None:
    with pytest.raises(ConfigError, match="Grace"):
        Grace(seconds)


# The status policy


async def _status_of_departure(stage: Stage, app: App, **route: object) -> Abandoned:
    visit = Visit()

    @app.get("/", **route)
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        return await theatre.abandoned()


@every_stage
async def test_a_single_cell_of_the_status_policy_can_be_replaced(stage: Stage) -> None:
    app = App(abandoned_status={(Phase.HANDLER, Cause.FIN): 408})
    assert (await _status_of_departure(stage, app)).status == 408


@every_stage
async def test_a_route_can_have_a_status_of_its_own(stage: Stage) -> None:
    app = App(abandoned_status={(Phase.HANDLER, Cause.FIN): 408})
    record = await _status_of_departure(stage, app, abandoned_status=202)
    assert (record.status, record.logged_status, record.sent_status) == (202, 202, None)


@every_stage
async def test_a_function_can_decide_the_status(stage: Stage) -> None:
    app = App(abandoned_status=lambda phase, cause: 600 + len(phase) + len(cause))
    assert (await _status_of_departure(stage, app)).status == 600 + len("HANDLER") + len("FIN")


@every_stage
async def test_a_status_function_that_fails_is_logged_and_the_default_holds(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(phase: Phase, cause: Cause) -> int:
        raise LookupError("no idea")

    record = await _status_of_departure(stage, App(abandoned_status=fail))
    assert record.status == 499
    (logged,) = caplog.records
    assert logged.levelno == logging.ERROR
    assert "abandoned_status" in logged.message


# The hook


@every_stage
async def test_a_hook_hears_of_it_when_the_connection_is_closed(stage: Stage) -> None:
    app, closed, heard = App(), trio.Event(), []

    @app.on_abandoned
    async def tell(_: Abandoned) -> None:
        with trio.move_on_after(1):
            await closed.wait()
        heard.append(closed.is_set())

    @app.get("/", deadline=0.01)
    async def handler() -> Response:
        async def write_body(send) -> None:
            await send(b"first")
            await trio.sleep_forever()

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.read_to_end()
        closed.set()
        await theatre.abandoned()
    assert heard == [True]


@in_memory
async def test_a_hook_that_hangs_is_stopped_and_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    app, cancelled_at = App(), []

    @app.on_abandoned
    async def hang(event: Abandoned) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    visit = Visit()

    @app.get("/")
    async def handler() -> None:
        await visit.until_cancelled()

    async with stage.serve(app, Config(deadlines=Deadlines(hook=2))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("FIN")
        record = await theatre.abandoned()
    assert cancelled_at == [record.unwound_at + 2]
    (logged,) = caplog.records
    assert "hang" in logged.message
    assert "Deadlines.hook" in logged.message


@every_stage
async def test_a_hook_hears_of_it_after_the_unwind(stage: Stage) -> None:
    app, order = App(), []

    @app.on_abandoned
    async def tell(event: Abandoned) -> None:
        order.append("hook")

    started = trio.Event()

    @app.get("/")
    async def handler() -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.sleep(0.01)
            order.append("unwound")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave("FIN")
        await theatre.abandoned()
    assert order == ["unwound", "hook"]

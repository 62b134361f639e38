"""The end of a WebSocket in every order: our Close, the client's, the handler's end, departures, deadlines, drain."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import Stage, Visit, every_bare_stage, in_bare_memory
from tests.support.websocket import HANDSHAKE, Frames, OneWebSocket
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    Config,
    Deadlines,
    DisconnectPolicy,
    Grace,
    Outcome,
    Phase,
    Request,
    Response,
    WebSocket,
    WebSocketClosed,
)
from trioserve.app.router import Next

WAYS = ["FIN", "RESET"]
NO_FRAME = b"\xff\xff"

# Keep-alive judges nobody whom it has not asked


@in_bare_memory
async def test_a_client_that_closed_and_waits_for_our_close_has_not_vanished(stage: Stage) -> None:
    async def clean_up(socket: WebSocket) -> None:
        async for _ in socket:
            pass
        await trio.sleep(100)

    async with stage.serve(OneWebSocket(clean_up, ping=20)) as theatre:
        client = await Frames.connect(theatre)
        await client.close(1001)
        assert await client.closed() == (1001, "")
        assert (await theatre.completed()).status == 101


@in_bare_memory
async def test_a_client_that_closed_and_waits_for_a_busy_handler_has_not_vanished(stage: Stage) -> None:
    async def busy(socket: WebSocket) -> None:
        await socket.accept()
        await trio.sleep(60)

    async with stage.serve(OneWebSocket(busy, ping=20)) as theatre:
        client = await Frames.connect(theatre)
        await client.close(1001)
        assert await client.closed() == (1001, "")
        assert (await theatre.completed()).status == 101


@in_bare_memory
@pytest.mark.parametrize("own_close", [True, False])
async def test_a_client_that_was_sent_no_ping_has_not_vanished(stage: Stage, *, own_close: bool) -> None:
    visit = Visit()

    async def slow(socket: WebSocket) -> None:
        if own_close:
            await socket.close()
        else:
            await trio.sleep(5)
            await socket.accept()
        async with visit:
            await trio.sleep(100 if own_close else 24)

    async with stage.serve(OneWebSocket(slow, ping=20)) as theatre:
        await Frames.connect(theatre)
        await visit.ended.wait()
        assert not visit.cancelled


@in_bare_memory
@pytest.mark.parametrize("policy", [FINISH, Grace(1000)])
@pytest.mark.parametrize("held_up", [0, 100])
async def test_for_a_handler_that_runs_on_a_client_that_answers_no_ping_is_1006(
    stage: Stage, policy: DisconnectPolicy, held_up: float
) -> None:
    seen = []

    async def listen(socket: WebSocket) -> None:
        assert await socket.receive() == "one"
        await trio.sleep(held_up)
        with pytest.raises(WebSocketClosed) as caught:
            await socket.receive()
        seen.append(caught.value.code)

    async with stage.serve(OneWebSocket(listen, ping=20, disconnect=policy)) as theatre:
        client = await Frames.connect(theatre)
        await client.send("one")
        record = await theatre.abandoned()
        assert (record.cause, record.outcome) == (Cause.VANISHED, Outcome.FINISHED)
        assert record.duration < 200
        assert seen == [1006]


# The record does not depend on who finds the client gone


@every_bare_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_handler_that_ends_by_closed_after_a_departure_has_finished(stage: Stage, how: str) -> None:
    async def flood(socket: WebSocket) -> None:
        with trio.CancelScope(shield=True):
            await socket.accept()
            while True:
                await socket.send(bytes(50_000))

    async with stage.serve(OneWebSocket(flood)) as theatre:
        client = await Frames.connect(theatre)
        await wait_all_tasks_blocked()
        client.client.leave(how)
        record = await theatre.abandoned()
        assert (record.outcome, record.exception) == (Outcome.FINISHED, None)


@every_bare_stage
async def test_a_handler_that_accepts_after_a_departure_has_finished(stage: Stage) -> None:
    go_on, visit = trio.Event(), Visit()

    async def late(socket: WebSocket) -> None:
        with trio.CancelScope(shield=True):
            async with visit:
                await go_on.wait()
            await socket.accept()

    async with stage.serve(OneWebSocket(late)) as theatre:
        client = await theatre.connect()
        await client.send(HANDSHAKE)
        await visit.started.wait()
        client.leave("FIN")
        await wait_all_tasks_blocked()
        go_on.set()
        record = await theatre.abandoned()
        assert (record.outcome, record.exception) == (Outcome.FINISHED, None)


@every_bare_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_handler_that_is_cancelled_beside_a_closed_was_cancelled(stage: Stage, how: str) -> None:
    async def receive_shielded(socket: WebSocket) -> None:
        with trio.CancelScope(shield=True):
            await socket.receive()

    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_shielded, socket)
            await trio.sleep_forever()

    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await wait_all_tasks_blocked()
        client.client.leave(how)
        record = await theatre.abandoned()
        assert (record.outcome, record.exception) == (Outcome.CANCELLED, None)


# What a handler does behind our Close frame is still its exchange


class ClosesAndWorksOn:
    """A handler that says Close itself, and then works for some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.visit = Visit()

    async def __call__(self, socket: WebSocket) -> None:
        await socket.close()
        async with self.visit:
            await trio.sleep(self.seconds)


class MissesTheMistake(ClosesAndWorksOn):
    """A handler that works on while its client makes a mistake and is told so."""

    async def __call__(self, socket: WebSocket) -> None:
        await socket.accept()
        async with self.visit:
            await trio.sleep(self.seconds)


def expect(record: Abandoned, cause: Cause, outcome: Outcome = Outcome.CANCELLED) -> None:
    assert (record.phase, record.cause, record.outcome) == (Phase.RESPONSE_BODY, cause, outcome)
    assert record.sent_status == 101


@in_bare_memory
async def test_a_handler_that_works_on_behind_its_close_is_told_of_when_it_has_ended(stage: Stage) -> None:
    async with stage.serve(OneWebSocket(ClosesAndWorksOn(10))) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1000, "")
        await client.close()
        await trio.sleep(9)
        assert not theatre.observed.all
        assert (await theatre.completed()).duration == pytest.approx(10)


@in_bare_memory
@pytest.mark.parametrize("answered", [True, False])
async def test_behind_our_close_a_client_may_go_but_not_work_on_for_nobody_for_ever(
    stage: Stage, *, answered: bool
) -> None:
    config = Config(deadlines=Deadlines(unwind=7))
    for seconds in 6, 100:
        handler = ClosesAndWorksOn(seconds)
        async with stage.serve(OneWebSocket(handler), config) as theatre:
            client = await Frames.connect(theatre)
            await client.closed()
            if answered:
                await client.close()
            client.client.leave("FIN")
            record = await theatre.only_record()
            assert handler.visit.cancelled is (seconds > 7)
            if handler.visit.cancelled:
                assert isinstance(record, Abandoned)
                expect(record, Cause.FIN)
                assert record.duration == pytest.approx(7)
            else:
                assert record.status == 101


@every_bare_stage
@pytest.mark.parametrize("answered", [True, False])
async def test_behind_our_close_a_fin_alone_stops_nobody(stage: Stage, *, answered: bool) -> None:
    handler = ClosesAndWorksOn(0.05)
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await client.closed()
        if answered:
            await client.close()
        client.client.half_close()
        assert (await theatre.completed()).status == 101
        assert not handler.visit.cancelled


@every_bare_stage
async def test_behind_our_close_a_reset_is_a_departure(stage: Stage) -> None:
    handler = ClosesAndWorksOn(100)
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await client.closed()
        client.client.leave("RESET")
        expect(await theatre.abandoned(), Cause.RESET)
        assert handler.visit.cancelled


@in_bare_memory
@pytest.mark.parametrize("how", WAYS)
async def test_a_handler_that_may_run_on_does_so_behind_its_close_too(stage: Stage, how: str) -> None:
    handler = ClosesAndWorksOn(10)
    async with stage.serve(OneWebSocket(handler, disconnect=FINISH)) as theatre:
        client = await Frames.connect(theatre)
        await client.closed()
        client.client.leave(how)
        expect(await theatre.abandoned(), Cause(how), Outcome.FINISHED)
        assert not handler.visit.cancelled


@in_bare_memory
async def test_a_drain_lets_a_handler_end_behind_its_close(stage: Stage) -> None:
    handler = ClosesAndWorksOn(1)
    async with stage.serve(OneWebSocket(handler)) as theatre:
        await Frames.connect(theatre)
        await handler.visit.started.wait()
        await theatre.drain()
        assert (await theatre.completed()).status == 101
        assert not handler.visit.cancelled


@in_bare_memory
async def test_a_handler_that_fails_behind_its_close_has_failed(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(socket: WebSocket) -> None:
        await socket.close(4000)
        raise ValueError("oh")

    async with stage.serve(OneWebSocket(fail)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (4000, "")
        assert await client.next() is None
        expect(await theatre.abandoned(), Cause.HANDLER_FAILED, Outcome.FAILED)
        assert "oh" in caplog.text


@in_bare_memory
@pytest.mark.parametrize("kind_of_handler", [ClosesAndWorksOn, MissesTheMistake])
async def test_a_deadline_holds_behind_our_close(stage: Stage, kind_of_handler: type[ClosesAndWorksOn]) -> None:
    handler = kind_of_handler(100)
    async with stage.serve(OneWebSocket(handler, deadline=10)) as theatre:
        client = await Frames.connect(theatre)
        if kind_of_handler is MissesTheMistake:
            await client.client.send(NO_FRAME)
        await client.closed()
        record = await theatre.abandoned()
        expect(record, Cause.DEADLINE)
        assert record.duration == pytest.approx(10)
        assert await client.next() is None  # one Close frame is all


@every_bare_stage
async def test_a_client_that_makes_a_mistake_and_goes_has_ended_for_a_handler_that_receives(stage: Stage) -> None:
    visit = Visit()

    async def receive(socket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed):
            async with visit:
                await socket.receive()
        await trio.sleep(0.01)  # clean-up is not cut

    async with stage.serve(OneWebSocket(receive)) as theatre:
        client = await Frames.connect(theatre)
        await visit.started.wait()
        client.client.send_nowait(NO_FRAME)
        client.client.half_close()
        assert (await theatre.completed()).status == 101
        assert not visit.cancelled


# A WebSocket's dependencies and middleware


class Transaction:
    """A dependency, and what became of it."""

    def __init__(self, app: App, *, fails: bool = False) -> None:
        self.log: list[str] = []
        self.commit = Visit()

        @app.dependency
        async def begin() -> AsyncIterator[Transaction]:
            try:
                yield self
            except BaseException:
                self.log.append("rolled back")
                raise
            async with self.commit:
                await trio.sleep(2)
                if fails:
                    raise ValueError("the commit failed")
            self.log.append("committed")


@in_bare_memory
async def test_a_commit_that_fails_is_told_to_the_client_and_in_the_record(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    Transaction(app, fails=True)

    @app.websocket("/")
    async def pay(socket: WebSocket, _transaction: Transaction) -> None:
        await socket.receive()

    async with stage.serve(app) as theatre:
        client = await Frames.connect(theatre)
        await client.send("pay")
        assert await client.closed() == (1011, "the server failed")
        expect(await theatre.abandoned(), Cause.HANDLER_FAILED, Outcome.FAILED)
        assert "the commit failed" in caplog.text


@in_bare_memory
@pytest.mark.parametrize("policy", [CANCEL, FINISH])
async def test_a_commit_is_part_of_the_exchange(stage: Stage, policy: DisconnectPolicy) -> None:
    app = App(disconnect=policy)
    transaction = Transaction(app)

    @app.websocket("/")
    async def pay(socket: WebSocket, transaction: Transaction) -> None:
        transaction.log.append(str(await socket.receive()))

    async with stage.serve(app) as theatre:
        client = await Frames.connect(theatre)
        await client.send("pay")
        await transaction.commit.started.wait()
        client.client.leave("RESET")
        record = await theatre.abandoned()
        assert (record.phase, record.cause) == (Phase.RESPONSE_BODY, Cause.RESET)
        assert transaction.log == (["pay"] if policy is CANCEL else ["pay", "committed"])


@every_bare_stage
async def test_closed_at_the_end_of_a_session_rolls_nothing_back(stage: Stage) -> None:
    app = App()
    transaction = Transaction(app)

    @app.websocket("/")
    async def take_all(socket: WebSocket, _transaction: Transaction) -> None:
        while True:
            await socket.receive()

    async with stage.serve(app) as theatre:
        client = await Frames.connect(theatre)
        await client.close(1001)
        assert await client.closed() == (1001, "")
        assert (await theatre.completed()).status == 101
        assert transaction.log == ["committed"]


@every_bare_stage
@pytest.mark.parametrize("how", [*WAYS, "drain"])
async def test_middleware_that_goes_on_behind_a_session_is_not_stopped(stage: Stage, how: str) -> None:
    app, visit = App(), Visit()

    @app.middleware
    async def count(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        async with visit:
            await trio.sleep(0.01)
        return response

    @app.websocket("/")
    async def leave(_: WebSocket) -> None:
        pass

    async with stage.serve(app) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1000, "")
        await theatre.completed()
        # While the client's answer to our Close is awaited.
        if how == "drain":
            await theatre.drain()
            await client.close()
        else:
            client.client.leave(how)
        await visit.ended.wait()
        assert not visit.cancelled

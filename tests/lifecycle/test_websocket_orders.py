"""The end of a WebSocket in every order: our Close, the client's, the handler's end, departures, deadlines, drain."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import Stage, Visit, every_bare_stage, in_bare_memory
from tests.support.websocket import HANDSHAKE, Frames, OneWebSocket
from trioserve import FINISH, Cause, DisconnectPolicy, Grace, Outcome, WebSocket, WebSocketClosed

WAYS = ["FIN", "RESET"]

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

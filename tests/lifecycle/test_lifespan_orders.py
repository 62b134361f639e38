"""A lifespan that breaks while the app is served stops the server as a cancellation does; `serve` raises its error.

What makes it hard is where the lifespan stands: its nursery is around all connections, and cancels what is inside.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, NewType

import pytest
import trio
import trio.testing

from lifecycle.stage import (
    GET,
    PATIENCE,
    Stage,
    Theatre,
    Visit,
    every_bare_stage,
    every_stage,
    in_bare_memory,
    on_bare_sockets,
)
from tests.support.logs import errors
from tests.support.websocket import Frames
from trioserve import (
    FINISH,
    Abandoned,
    App,
    Cause,
    Config,
    Deadlines,
    HangupNews,
    Outcome,
    Phase,
    Request,
    Response,
    Send,
    TcpAddress,
    WebSocket,
    serve,
)

Pool = NewType("Pool", list[str])

STOPPED = b"HTTP/1.1 503 Service Unavailable\r\n"

EXCEEDED = 60
"""Seconds after which a play that goes on behind the server's end is given up."""


class Breaking(App):
    """An app with a pool, which is a log of what is done with it; the pool's own task raises `error` at `breaks`."""

    def __init__(self, **policies: Any) -> None:
        super().__init__(**policies)
        self.breaks, self.close = trio.Event(), trio.Event()
        self.close.set()
        self.error = OSError("the pool broke")
        self.log = Pool([])

        @self.lifespan
        async def pool() -> AsyncIterator[Pool]:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen)
                    yield self.log
            finally:
                with trio.CancelScope(shield=True):
                    await self.close.wait()
                self.log.append("pool is closed")

    async def _listen(self) -> None:
        await self.breaks.wait()
        raise self.error


@contextlib.asynccontextmanager
async def served(stage: Stage, app: Breaking, config: Config | None = None) -> AsyncIterator[Theatre]:
    """Serve an app that breaks in the block. The block goes on behind the server's end; which is by just that error."""
    try:
        async with stage.serve(app, config) as theatre:
            with trio.fail_after(EXCEEDED, shield=True):
                yield theatre
                await theatre.close()
    except ExceptionGroup as group:
        if group.exceptions != (app.error,):
            raise
    else:
        pytest.fail("the server did not end with the lifespan's error")
    assert app.log[-1] == "pool is closed"


# Exchanges


@every_stage
async def test_a_handler_is_stopped_as_by_a_drain_and_answered_503(stage: Stage, caplog) -> None:
    app, visit = Breaking(), Visit()
    app.get("/")(visit.until_cancelled)
    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        assert (await client.read_to_end()).startswith(STOPPED)
        assert (await theatre.completed()).status == 503
    assert visit.cancelled
    assert "DRAIN in phase HANDLER" in visit.reason
    assert not errors(caplog)


@every_bare_stage
async def test_a_clean_up_that_fails_is_answered_503_and_not_logged(stage: Stage, caplog) -> None:
    app, visit, handled = Breaking(), Visit(), []

    @app.error_handler(Exception)
    async def handle(request: Request, error: Exception) -> str:
        handled.append((request, error))
        return "handled"

    @app.get("/")
    async def handler() -> None:
        try:
            await visit.until_cancelled()
        finally:
            raise ValueError("the clean-up failed")

    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        assert (await client.read_to_end()).startswith(STOPPED)
        assert (await theatre.completed()).status == 503
    assert handled == []
    assert not errors(caplog)


@every_stage
async def test_a_handler_that_swallows_its_cancellation_is_answered_503(stage: Stage) -> None:
    app, visit = Breaking(), Visit()

    @app.get("/")
    async def handler() -> str:
        with contextlib.suppress(trio.Cancelled):
            await visit.until_cancelled()
        return "all is well"

    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        assert (await client.read_to_end()).startswith(STOPPED)
        assert (await theatre.completed()).status == 503


@every_stage
async def test_a_handler_that_runs_on_without_its_client_is_stopped_too(stage: Stage) -> None:
    app, visit = Breaking(disconnect=FINISH), Visit()
    app.get("/")(visit.until_cancelled)
    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        client.leave("RESET")
        await trio.testing.wait_all_tasks_blocked(0.01)
        app.breaks.set()
        record = await theatre.abandoned()
        assert (record.cause, record.outcome) == (Cause.RESET, Outcome.CANCELLED)


@in_bare_memory
async def test_the_moment_is_that_of_the_failure_and_a_client_that_leaves_later_is_not_the_cause(
    stage: Stage, caplog
) -> None:
    app, visit = Breaking(), Visit()

    @app.get("/")
    async def handler() -> None:
        try:
            await visit.until_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(20)

    async with served(stage, app, Config(deadlines=Deadlines(unwind=5))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        await trio.sleep(1)
        app.breaks.set()
        broke_at = trio.current_time()
        await trio.sleep(10)
        client.leave("FIN")
        record = await theatre.abandoned()
        assert (record.cause, record.phase, record.status) == (Cause.DRAIN, Phase.HANDLER, 503)
        assert (record.noticed_at, record.unwound_at) == (broke_at, broke_at + 20)
    (warning,) = errors(caplog)
    assert "was cancelled 5 s ago (Deadlines.unwind)" in warning


@every_stage
async def test_a_stream_is_cut_and_the_hook_is_told_while_the_pool_is_open(stage: Stage, caplog) -> None:
    app, visit = Breaking(), Visit()

    async def write_body(send: Send) -> None:
        await send("first")
        await visit.until_cancelled()

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    @app.on_abandoned
    async def tell(event: Abandoned) -> None:
        await trio.lowlevel.checkpoint()
        app.log.append(f"told of {event.cause}")

    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        assert b"first" in await client.read_to_end()
        record = await theatre.abandoned()
        assert (record.cause, record.phase, record.sent_status) == (Cause.DRAIN, Phase.RESPONSE_BODY, 200)
    assert app.log == ["told of DRAIN", "pool is closed"]
    assert not errors(caplog)


@every_stage
async def test_a_head_that_is_not_complete_is_answered_503_and_who_is_idle_is_closed(stage: Stage) -> None:
    app = Breaking()
    async with served(stage, app) as theatre:
        idle, begun = await theatre.connect(), await theatre.connect()
        await begun.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked(0.01)
        app.breaks.set()
        assert (await begun.read_to_end()).startswith(STOPPED)
        assert await idle.read_to_end() == b""
        assert (await theatre.completed()).target is None


@every_bare_stage
async def test_a_websocket_is_closed_with_1001(stage: Stage) -> None:
    app, visit = Breaking(), Visit()

    @app.websocket("/")
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        await visit.until_cancelled()

    async with served(stage, app) as theatre:
        client = await Frames.connect(theatre)
        await visit.started.wait()
        app.breaks.set()
        assert await client.closed() == (1001, "the server is stopping")
        assert (await theatre.abandoned()).cause is Cause.DRAIN


@every_bare_stage
async def test_a_clean_up_finds_its_pool_and_the_work_that_it_starts_ends_before_that_is_closed(stage: Stage) -> None:
    app, visit = Breaking(), Visit()

    async def work(pool: Pool, name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            pool.append(name)

    @app.get("/")
    async def handler(pool: Pool) -> None:
        app.start_soon(work, pool, "work")
        try:
            await visit.until_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            pool.append("handler")
            app.start_soon(work, pool, "late work")

    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        assert (await client.read_to_end()).startswith(STOPPED)
    assert app.log[0] == "handler"
    assert sorted(app.log[1:3]) == ["late work", "work"]
    assert app.log[3:] == ["pool is closed"]


@every_bare_stage
async def test_a_drain_that_waits_for_a_handler_is_cut_short(stage: Stage) -> None:
    app, visit = Breaking(), Visit()
    app.get("/")(visit.until_cancelled)
    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        theatre.nursery.start_soon(theatre.drain)
        await trio.testing.wait_all_tasks_blocked(0.01)
        app.breaks.set()
        assert (await client.read_to_end()).startswith(STOPPED)
        assert (await theatre.completed()).status == 503


@every_bare_stage
async def test_one_that_keeps_its_error_to_itself_stops_the_server_all_the_same(stage: Stage) -> None:
    app, visit, breaks = App(), Visit(), trio.Event()

    @app.lifespan
    async def pool() -> AsyncIterator[None]:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, breaks, scope)
                yield

    app.get("/")(visit.until_cancelled)
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        breaks.set()
        assert (await client.read_to_end()).startswith(STOPPED)
        assert (await theatre.completed()).status == 503


async def cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@on_bare_sockets
@pytest.mark.parametrize("order", ["cancelled first", "broken first"])
async def test_beside_a_cancellation_of_serve_its_error_is_still_all_that_comes_out(stage: Stage, order: str) -> None:
    app, visit, unwinds, raised = Breaking(), Visit(), trio.Event(), []

    @app.get("/")
    async def handler() -> None:
        try:
            await visit.until_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await unwinds.wait()

    async def run(scope: trio.CancelScope, *, task_status: trio.TaskStatus[Any]) -> None:
        with scope:
            try:
                await serve(app, config_of(stage), task_status=task_status)
            except Exception as error:
                raised.append(error)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        (address,) = await nursery.start(run, scope)
        client = connecting(address.port)
        client.send(GET)
        await visit.started.wait()
        endings = [scope.cancel, app.breaks.set]
        for end in endings if order == "cancelled first" else reversed(endings):
            end()
            await trio.testing.wait_all_tasks_blocked(0.01)
        unwinds.set()
    with client:
        assert client.recv(100).startswith(STOPPED)
    assert raised == [app.error]


# New connections


@in_bare_memory
async def test_who_comes_while_handlers_unwind_is_closed_without_a_record(stage: Stage) -> None:
    app, visit, unwinds = Breaking(), Visit(), trio.Event()

    @app.get("/")
    async def handler() -> None:
        try:
            await visit.until_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await unwinds.wait()

    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        await trio.testing.wait_all_tasks_blocked()
        late = await theatre.connect()
        assert await late.read_to_end() == b""
        unwinds.set()
        assert (await theatre.completed()).status == 503


@on_bare_sockets
@pytest.mark.parametrize("unwinds", ["handler", "lifespan"])
async def test_nobody_is_accepted_while_it_unwinds(stage: Stage, unwinds: str) -> None:
    app, visit, leave = Breaking(), Visit(), trio.Event()
    if unwinds == "lifespan":
        app.close = leave

    @app.get("/")
    async def handler() -> None:
        try:
            await visit.until_cancelled()
        finally:
            if unwinds == "handler":
                with trio.CancelScope(shield=True):
                    await leave.wait()

    async with served(stage, app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await visit.started.wait()
        app.breaks.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(OSError, match="connect"):
            await theatre.connect()
        leave.set()
        assert (await client.read_to_end()).startswith(STOPPED)


@on_bare_sockets
async def test_whoever_comes_in_that_moment_is_not_lost(stage: Stage) -> None:
    app = Breaking()

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        with pytest.raises(OSError, match="the pool broke"):
            await serve(app, config_of(stage), task_status=task_status)

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(run)
        clients = [connecting(address.port) for _ in range(100)]
        app.breaks.set()
    # Each was closed by the server, or refused by the system: nobody waits for what nobody serves.
    for client in clients:
        with client, contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""


def config_of(stage: Stage) -> Config:
    """For a play that serves by itself."""
    news = HangupNews.READ_AHEAD if stage.reads_ahead else HangupNews.KERNEL
    return Config(listen=(TcpAddress("127.0.0.1", 0),), access_log=False, hangup_news=news)


def connecting(port: int) -> socket.socket:
    """A client, without a step of the scheduler."""
    client = socket.socket()
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", port))
    return client

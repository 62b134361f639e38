"""Background work that speaks with a client: when that leaves, it ends, and that is no failure."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lifecycle.stage import Stage, every_bare_stage
from tests.support.logs import errors
from tests.support.websocket import Frames
from trioserve import FINISH, App, Outcome, Request, WebSocket

POST = b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\n"


@every_bare_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_one_that_pushes_to_a_websocket_ends_with_its_client(stage: Stage, how: str, caplog) -> None:
    app, ended = App(), trio.Event()

    async def push(socket: WebSocket) -> None:
        try:
            while True:
                await socket.send("tick")
        finally:
            ended.set()

    @app.websocket("/")
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        app.start_soon(push, socket)
        async for _ in socket:
            pass

    async with stage.serve(app) as theatre:
        client = await Frames.connect(theatre)
        assert await client.message() == "tick"
        client.client.leave(how)
        assert (await theatre.abandoned()).outcome is Outcome.CANCELLED
        await ended.wait()
    assert not errors(caplog)


@every_bare_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_one_that_reads_a_body_ends_with_its_client(stage: Stage, how: str, caplog) -> None:
    app, reading, ended = App(disconnect=FINISH), trio.Event(), trio.Event()

    async def read(request: Request) -> None:
        reading.set()
        try:
            await request.body()
        finally:
            ended.set()

    @app.post("/")
    async def handler(request: Request) -> None:
        app.start_soon(read, request)
        await ended.wait()

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(POST)
        await reading.wait()
        await trio.testing.wait_all_tasks_blocked()
        client.leave(how)
        await theatre.abandoned()
    assert not errors(caplog)

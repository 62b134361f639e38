"""What a client gets that has its answer coming while it still sends: all of it, whatever else happens meanwhile.

The server has said its last, and reads on for a while, since a close with bytes unread would be a RST, which destroys
what is still on its way (RFC 9112 §9.6). So in each of these plays the client reads last, and must see a FIN behind it.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import GET, Client, Stage, every_stage
from trioserve import App

LONG = 1_000_000
"""Bytes of a body that is longer than the server will throw away to keep the connection."""

UPLOAD = b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n" % LONG

ANSWER = bytes(100_000)
"""So long that it is on its way until the client reads it."""


def answers_early() -> App:
    """An app that reads no body."""
    app = App()

    @app.post("/")
    async def early() -> bytes:
        return ANSWER

    return app


async def content_of_answer(client: Client) -> bytes:
    """The content of the last answer, at whose end must be a FIN.

    Raises:
        trio.BrokenResourceError: it was a RST.
    """
    received = b""
    while data := await client.receive():
        received += data
    return received.partition(b"\r\n\r\n")[2]


@every_stage
async def test_a_client_that_uploads_first_and_reads_afterwards_gets_an_early_answer(stage: Stage) -> None:
    async with stage.serve(answers_early()) as theatre:
        client = await theatre.connect()
        await client.send(UPLOAD)
        assert (await theatre.completed()).status == 200
        await client.send(bytes(LONG))
        assert await content_of_answer(client) == ANSWER


@every_stage
async def test_a_client_that_has_pipelined_behind_its_last_request_gets_the_last_answer(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def handler() -> bytes:
        client.send_nowait(GET)  # it lies there when the answer is out, and nobody has had the time to look
        return ANSWER

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n")
        assert (await theatre.completed()).status == 200
        assert await content_of_answer(client) == ANSWER


@every_stage
@pytest.mark.parametrize("order", ["drain", "stop"])
async def test_a_server_that_ends_meanwhile_takes_the_answer_from_nobody(stage: Stage, order: str) -> None:
    async with stage.serve(answers_early()) as theatre:
        client = await theatre.connect()
        await client.send(UPLOAD)
        assert (await theatre.completed()).status == 200
        if order == "drain":
            theatre.nursery.start_soon(theatre.drain)
        else:
            theatre.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()  # every connection has been told
            await client.send(bytes(LONG))
            assert await content_of_answer(client) == ANSWER

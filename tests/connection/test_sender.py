"""The sender's blocked sends, where the news of the departure and room for more come in one moment."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from trioserve import CANCEL, FINISH, App, Cause, Config, DisconnectPolicy, Response, Send
from trioserve.connection.sender import JOINED
from trioserve.testing import Records, memory_server
from trioserve.testing.answers import GET as ASKED
from trioserve.testing.answers import read_answers

GET = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"
ROOM = 8


@pytest.mark.parametrize("disconnect", [CANCEL, FINISH], ids=repr)
async def test_a_send_that_is_told_of_room_and_then_of_the_departure_writes_nothing_more(
    disconnect: DisconnectPolicy,
) -> None:
    app, records = App(disconnect=disconnect), Records()
    app.on_abandoned(records.hook)

    @app.get("/")
    async def answer() -> bytes:
        return bytes(1000)

    async with memory_server(app, Config(access_log=False, observers=(records,))) as server:
        client = server.connect(response_room=ROOM)
        await client.send_all(GET)
        await wait_all_tasks_blocked()
        written = client.written
        # Without a step of the scheduler in between: the send is woken, and has not gone on yet.
        assert client._incoming.receive(ROOM)
        client.send_eof_nowait()
        client._transport.look()
        await records.count(1)
        (record,) = records.told
        assert (record.cause, record.sent_status) == (Cause.FIN, 200)
        assert client.written == written


@pytest.mark.parametrize("size", [JOINED - 1, JOINED, 3 * JOINED])
@pytest.mark.parametrize("room", [7, 4096])
async def test_wherever_there_is_no_more_room_the_rest_of_a_piece_follows(size: int, room: int) -> None:
    app, content = App(), bytes(i % 251 for i in range(size))

    @app.get("/whole")
    async def whole() -> bytes:
        return content

    @app.get("/streamed")
    async def streamed() -> Response:
        async def write(send: Send) -> None:
            await send(content)
            await send(b"and more")

        return Response.stream(write)

    async with memory_server(app, Config(access_log=False)) as server:
        client = server.connect(response_room=room)
        await client.send_all(b"GET /whole HTTP/1.1\r\nHost: example\r\n\r\n")
        await client.send_all(b"GET /streamed HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n")
        received = b""
        while data := await client.receive_some():
            received += data
    answers = read_answers(received, [ASKED, ASKED])
    assert [answer.content for answer in answers] == [content, content + b"and more"]

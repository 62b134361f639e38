"""The sender's blocked sends, where the news of the departure and room for more come in one moment."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from trioserve import CANCEL, FINISH, App, Cause, Config, DisconnectPolicy
from trioserve.testing import Records, memory_server

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

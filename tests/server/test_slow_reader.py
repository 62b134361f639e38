"""A client that reads slowly is told from one that does not read. This takes real time, since it is about the kernel's
buffers: the system speaks of room only when a good part of one is free, which a slow reader takes long to reach.
"""

from __future__ import annotations

import pytest
import trio

from tests.support import start
from trioserve import Abandoned, App, Cause, Completed, Deadlines, Limits, Phase, Response

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SIZE = 6_000_000
STALL = 0.3


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_a_client_that_takes_some_bytes_all_the_time_is_not_too_slow(nursery, how):
    app = App()

    async def write_body(send) -> None:
        for _ in range(SIZE // 100_000):
            await send(bytes(100_000))

    @app.get("/")
    async def handler() -> bytes | Response:
        return bytes(SIZE) if how == "whole" else Response.stream(write_body, headers={"content-length": str(SIZE)})

    server = await start(nursery, app, deadlines=Deadlines(send_stall=STALL))
    client = await server.connect(receive_buffer=65_536)
    await client.send(GET)

    received, slow_until = 0, trio.current_time() + 3 * STALL
    while received < SIZE:
        received += len(await client.receive())
        if trio.current_time() < slow_until:
            await trio.sleep(STALL / 10)

    assert (await server.records.next(Completed)).response_body_bytes == SIZE


async def test_a_client_that_takes_bytes_all_the_time_but_too_few_is_too_slow(nursery):
    app = App()

    @app.get("/")
    async def handler() -> bytes:
        return bytes(SIZE)

    server = await start(nursery, app, limits=Limits(send_rate=10**9), deadlines=Deadlines(send_stall=STALL))
    client = await server.connect(receive_buffer=65_536)
    await client.send(GET)

    async def trickle() -> None:
        while True:
            await client.receive()
            await trio.sleep(STALL / 10)

    async with trio.open_nursery() as trickling:
        trickling.start_soon(trickle)
        record = await server.records.next(Abandoned)
        trickling.cancel_scope.cancel()

    assert (record.cause, record.phase) == (Cause.WRITE_TIMEOUT, Phase.RESPONSE_BODY)

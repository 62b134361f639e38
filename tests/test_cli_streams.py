"""The streams that the command writes to, and what becomes of the server where they take nothing any more."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import connect
from tests.support.program import Program, trioserve
from trioserve import UnixAddress

SHOP = """
import os
from collections.abc import AsyncIterator
from trioserve import App

app = App()

@app.lifespan
async def life() -> AsyncIterator[None]:
    print(f"starts: {os.getpid()}")
    yield
    print(f"ends: {os.getpid()}")

@app.post("/order")
async def order(request):
    print("order: started")
    return await request.body()

@app.get("/hello")
async def hello():
    return "hello"
"""

SOCKET = ("--unix", "s")
WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["single", "workers"])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the application shop:app."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@contextlib.contextmanager
def full() -> Iterator[int]:
    """A descriptor that has no room for a byte."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def without_reader() -> Iterator[int]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


BROKEN = pytest.mark.parametrize("broken", [full, without_reader])


async def order_under_way(program: Program, shop: Path):
    """A client that has sent half of its request, whose handler has begun."""
    await program.line("starts: ")
    client = await connect(UnixAddress(str(shop / "s")))
    await client.send(b"POST /order HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\n\r\ntea")
    await program.line("order: started")
    return client


async def is_answered(client) -> bool:
    """Send the other half."""
    await client.send(b"pot")
    answer = await client.answer()
    client.close()
    return (answer.status, answer.body) == (200, b"teapot")


# stderr


@BROKEN
@WORKERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_whose_stderr_takes_nothing_drains_all_the_same(shop, broken, workers, number):
    with broken() as stderr:
        async with trioserve("run", "shop:app", *SOCKET, *workers, cwd=shop, stderr=stderr) as program:
            client = await order_under_way(program, shop)
            program.process.send_signal(number)
            assert await is_answered(client)
            assert await program.process.wait() == 0


@BROKEN
async def test_workers_are_replaced_also_where_nothing_can_be_said_of_it(shop, broken):
    with broken() as stderr:
        async with trioserve("run", "shop:app", *SOCKET, "--workers", "2", cwd=shop, stderr=stderr) as program:
            (victim, _) = await program.lines("starts: ", 2)
            os.kill(int(victim.partition(": ")[2]), signal.SIGKILL)
            await program.lines("starts: ", 3)
            program.process.send_signal(signal.SIGHUP)
            await program.lines("ends: ", 2)
            client = await connect(UnixAddress(str(shop / "s")))
            assert (await client.get("/hello")).status == 200
            client.close()
            assert await program.end(signal.SIGTERM) == 0

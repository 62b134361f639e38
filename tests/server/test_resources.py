"""What a server does when the system runs out of something, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support import Client, Running, connect, happens, start
from trioserve import Abandoned, App, TcpAddress
from trioserve.connection.connection import Connection

DESCRIPTORS = Path("/proc/self/fd")

CRAMPED_SERVER = """
import logging, os, resource, sys
import trio
import trio.testing
from trioserve import App, Config, Response, TcpAddress, serve

logging.basicConfig(stream=sys.stdout, format="%(message)s")
app = App()

@app.get("/")
async def hello() -> str:
    return "hello"

@app.get("/file")
async def file() -> Response:
    return Response.file(sys.executable)

async def main() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(serve, app, Config(listen=(TcpAddress("127.0.0.1", 0),)))
        spare = os.open(os.devnull, os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 12, spare + 12))
        print(address.port, flush=True)

trio.run(main)
"""


async def test_a_server_without_a_descriptor_to_spare_goes_on_when_there_is_one_again(nursery):
    """More clients come than there are descriptors; the system keeps them until some of the others have gone."""
    process = await nursery.start(
        partial(trio.run_process, [sys.executable, "-c", CRAMPED_SERVER], stdout=subprocess.PIPE, check=False)
    )
    clients: list[Client] = []
    try:
        output = process.stdout
        address = TcpAddress("127.0.0.1", int(await line(output)))
        clients += [await connect(address) for _ in range(14)]
        for client in clients:
            await client.send(b"GET / HTTP/1.1\r\n")  # who says nothing is idle, and is closed for others after a while
        assert "cannot accept connections" in await line(output)
        for client in clients[:5]:
            await client.send(b"Host: test\r\n\r\n")
            assert (await client.answer()).status == 200
        # There is a reserve for what it takes to serve them.
        assert (await clients[0].get("/file")).status == 200

        for client in clients[:5]:
            client.close()

        for client in clients[5:]:
            await client.send(b"Host: test\r\n\r\n")
            assert (await client.answer()).status == 200

        # However many come and go, the reserve is there.
        waiting = [await connect(address) for _ in range(6)]
        clients += waiting
        for client in waiting:
            await client.send(b"GET / HTTP/1.1\r\n")
        for gone, client in zip(clients[5:11], waiting, strict=True):
            gone.close()
            await client.send(b"Host: test\r\n\r\n")
            assert (await client.answer()).status == 200
            assert (await client.get("/file")).status == 200
    finally:
        for client in clients:
            client.close()
        process.send_signal(signal.SIGKILL)


CROWDED_SERVER = """
import os, resource
import trio
from trioserve import App, Config, TcpAddress, serve

app = App()
others = []

@app.get("/")
async def hello() -> str:
    return "hello"

async def main() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(serve, app, Config(listen=(TcpAddress("127.0.0.1", 0),), access_log=False))
        others.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(100))
        resource.setrlimit(resource.RLIMIT_NOFILE, (others[-1] + 3, others[-1] + 3))
        print(address.port, flush=True)

trio.run(main)
"""


async def test_a_server_whose_application_has_opened_almost_all_there_is_serves_one_client_after_another(nursery):
    process = await nursery.start(
        partial(trio.run_process, [sys.executable, "-c", CROWDED_SERVER], stdout=subprocess.PIPE, check=False)
    )
    try:
        address = TcpAddress("127.0.0.1", int(await line(process.stdout)))
        for _ in range(5):
            client = await connect(address)
            assert (await client.get("/", "Connection: close")).status == 200
            client.close()
    finally:
        process.send_signal(signal.SIGKILL)


async def line(output: trio.abc.ReceiveStream) -> str:
    received = b""
    while not received.endswith(b"\n"):
        part = await happens(output.receive_some(1))
        assert part, f"the server has ended; the last that it said is {received!r}"
        received += part
    return received.decode()


class Busy(App):
    """An app in which clients can leave in many ways; counts the handlers that run, and says when some have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.now_running = 0
        self.begun = trio.Semaphore(0)

        @self.get("/sleep")
        async def sleep() -> None:
            with self:
                await trio.sleep_forever()

        @self.get("/nursery")
        async def nursery() -> None:
            with self:
                async with trio.open_nursery() as inner:
                    inner.start_soon(trio.sleep_forever)
                    inner.start_soon(trio.sleep_forever)

        @self.get("/thread")
        def thread() -> None:
            with self:
                while True:
                    trio.from_thread.run(trio.sleep, 0.001)

        @self.post("/body")
        async def body(request) -> bytes:
            with self:
                return await request.body()

    def __enter__(self) -> None:
        self.now_running += 1
        if threading.current_thread() is threading.main_thread():
            self.begun.release()
        else:
            trio.from_thread.run_sync(self.begun.release)

    def __exit__(self, *error: object) -> None:
        self.now_running -= 1


WAYS = (
    b"GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /nursery HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /thread HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc",
)


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="open descriptors are counted in /proc/self/fd")
@pytest.mark.parametrize("hangup_news", ["kernel", "read-ahead"])
async def test_nothing_is_left_of_hundreds_of_abandoned_exchanges(nursery, hangup_news):
    if hangup_news == "kernel" and sys.platform != "linux":
        pytest.skip("the hangup watch is Linux's")
    app = Busy()
    server = await start(nursery, app, hangup_news=hangup_news)
    await forty_come_and_go(app, server)  # makes what is made once, such as threads that wait for work
    before = what_there_is()

    for _ in range(10):
        await forty_come_and_go(app, server)

    assert app.now_running == 0
    # Less may be left than before: what earlier tests had left to the garbage collector.
    assert {name: count for name, count in what_there_is().items() if count > before[name]} == {}


async def forty_come_and_go(app: Busy, server: Running) -> None:
    clients = [await server.ask(WAYS[number % len(WAYS)]) for number in range(40)]
    for _ in clients:
        await happens(app.begun.acquire())
    for number, client in enumerate(clients):
        client.close() if number % 8 < 4 else client.reset()
    for _ in clients:
        await server.records.next(Abandoned)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("asked", ["Connection: close\r\n", ""])
async def test_a_connection_that_has_ended_leaves_nothing_for_the_garbage_collector(nursery, asked):
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    server = await start(nursery, app)
    gc.collect()
    of_other_tests = connections()
    gc.disable()
    try:
        for _ in range(3):
            client = await server.ask(f"GET / HTTP/1.1\r\nHost: test\r\n{asked}\r\n".encode())
            assert (await client.receive()).startswith(b"HTTP/1.1 200")
            client.close()
        server.drain.set()
        await happens(server.ended.wait())
        assert connections() <= of_other_tests
    finally:
        gc.enable()


def what_there_is() -> dict[str, int]:
    gc.collect()
    return {"tasks": tasks(), "descriptors": sum(1 for _ in DESCRIPTORS.iterdir()), "connections": connections()}


def tasks() -> int:
    """How many tasks there are in this run."""
    root = trio.lowlevel.current_root_task()
    waiting, count = [root], 0
    while waiting:
        task = waiting.pop()
        count += 1
        waiting += [child for inner in task.child_nurseries for child in inner.child_tasks]
    return count


def connections() -> int:
    """How many connections are held in memory, by whoever it may be."""
    return sum(isinstance(thing, Connection) for thing in gc.get_objects())

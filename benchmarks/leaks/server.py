"""The server whose clients leave. It says on stdout which handlers start; a route tells what lives in it."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from typing import Any

import trio

from benchmarks.server_process import STATISTICS, announce, say
from trioserve import Abandoned, App, Completed, Config, Request, Response, TcpAddress, serve
from trioserve.app.streaming import Send

app = App()

completed: Counter[str] = Counter()
abandoned: Counter[str] = Counter()
hooked: Counter[str] = Counter()


def starts(request: Request) -> None:
    assert request.client is not None, "it is served on TCP"
    say({"started": request.client[1]})


@app.get("/sleep")
@app.post("/sleep", max_body=math.inf)
async def sleep(request: Request) -> None:
    starts(request)
    await trio.sleep_forever()


@app.get("/nursery")
async def nursery(request: Request) -> None:
    """With tasks and a socket of its own, as a handler has that calls others."""
    starts(request)
    async with trio.open_nursery() as children:
        for _ in range(3):
            children.start_soon(trio.sleep_forever)
        with trio.socket.socket() as sock:
            await sock.bind(("127.0.0.1", 0))
            sock.listen()
            await sock.accept()


@app.post("/read", max_body=math.inf)
async def read(request: Request) -> None:
    starts(request)
    await request.body()


@app.get("/stream")
async def stream(request: Request) -> Response:
    starts(request)

    async def write(send: Send) -> None:
        while True:
            await send(b"x" * 1024)
            await trio.sleep(0.001)

    return Response.stream(write)


@app.get("/flood")
async def flood(request: Request) -> Response:
    starts(request)

    async def write(send: Send) -> None:
        while True:
            await send(b"x" * 65_536)

    return Response.stream(write)


@app.get("/thread")
def thread(request: Request) -> None:
    starts(request)
    while True:
        trio.from_thread.check_cancelled()
        time.sleep(0.001)


@app.get(STATISTICS)
async def statistics() -> dict[str, Any]:
    """What lives here now, this request and its connection included."""
    gc.collect()
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "objects": sum(type(thing).__module__.startswith("trioserve.") for thing in gc.get_objects()),
        "completed": completed.total(),
        "abandoned": abandoned.total(),
        "hook calls": hooked.total(),
        "stories": abandoned,
    }


@app.on_abandoned
async def hook(record: Abandoned) -> None:
    hooked[story(record)] += 1


def story(record: Abandoned) -> str:
    return f"{record.status} {record.phase} {record.cause} {record.outcome}"


class Records:
    """An observer that counts."""

    def completed(self, record: Completed) -> None:
        completed[str(record.status)] += 1

    def abandoned(self, record: Abandoned) -> None:
        abandoned[story(record)] += 1


async def main() -> None:
    config = Config(listen=(TcpAddress("127.0.0.1", 0),), access_log=False, observers=(Records(),))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve, app, config)
        announce(address.port)


if __name__ == "__main__":
    trio.run(main)

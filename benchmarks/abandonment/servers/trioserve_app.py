"""trioserve: an `App`. Its record of each abandoned request is noted too, by an observer."""

from __future__ import annotations

import sys
import time
from typing import Any

import trio

from benchmarks.abandonment.servers.backend import BUSY, PLACES, Full, Pool, notes, wait, work
from benchmarks.answers import HELLO
from benchmarks.server_process import announce
from trioserve import Abandoned, App, Completed, Config, Deadlines, Response, TcpAddress, serve

app = App()
pool = Pool(trio.Semaphore(PLACES), trio.sleep)


@app.get("/")
async def hello() -> bytes:
    return HELLO


@app.get("/wait/{name:int}")
async def waiting(name: int) -> str:
    return await wait(name, trio.sleep)


@app.get("/work/{name:int}/{milliseconds:int}")
async def working(name: int, milliseconds: int) -> str:
    return await work(name, milliseconds, trio.sleep)


@app.get("/call/{milliseconds:int}")
async def calling(milliseconds: int) -> Response:
    try:
        return Response(await pool.call(milliseconds))
    except Full:
        return Response(BUSY, status=503)


@app.get("/notes")
async def tell() -> dict[str, Any]:
    return notes.as_json()


class Recorded:
    """An observer, as the access log is one."""

    def abandoned(self, record: Abandoned) -> None:
        if record.target is not None and record.target.startswith("/wait/"):
            notes.recorded[int(record.target.removeprefix("/wait/"))] = time.monotonic()

    def completed(self, record: Completed) -> None:
        pass


async def main(engine: str) -> None:
    config = Config(
        listen=(TcpAddress("127.0.0.1", 0),),
        access_log=False,
        observers=(Recorded(),),
        deadlines=Deadlines(idle=3600),
        engine=engine,
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve, app, config)
        announce(address.port)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "h11")

"""Quart-Trio, on hypercorn's trio worker."""

from __future__ import annotations

import socket
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

from benchmarks.abandonment.servers.backend import BUSY, PLACES, Full, Pool, notes, wait, work
from benchmarks.answers import HELLO
from benchmarks.server_process import announce

app = QuartTrio(__name__)
pool = Pool(trio.Semaphore(PLACES), trio.sleep)


@app.get("/")
async def hello() -> bytes:
    return HELLO


@app.get("/wait/<int:name>")
async def waiting(name: int) -> str:
    return await wait(name, trio.sleep)


@app.get("/work/<int:name>/<int:milliseconds>")
async def working(name: int, milliseconds: int) -> str:
    return await work(name, milliseconds, trio.sleep)


@app.get("/call/<int:milliseconds>")
async def calling(milliseconds: int) -> tuple[str, int]:
    try:
        return await pool.call(milliseconds), 200
    except Full:
        return BUSY, 503


@app.get("/notes")
async def tell() -> dict[str, Any]:
    return notes.as_json()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.keep_alive_timeout = 3600
        config.backlog = 2048
        config.loglevel = "CRITICAL"
        announce(listener.getsockname()[1])
        trio.run(serve, app, config)

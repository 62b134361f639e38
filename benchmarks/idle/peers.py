"""Other servers, each with the same answer from a bare ASGI app, and connections that may be idle as long as ours.

`python -m benchmarks.idle.peers NAME` serves; it is run by a Python that has the server (see `__main__`), and imports
nothing of trioserve.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from benchmarks.answers import HELLO
from benchmarks.server_process import announce

BACKLOG = 2048
IDLE = 3600
"""Seconds that a connection may be idle."""


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    length = str(len(HELLO)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": HELLO})


def uvicorn(listener: socket.socket, http: str) -> None:
    import uvicorn as server

    config = server.Config(
        app, http=http, timeout_keep_alive=IDLE, backlog=BACKLOG, access_log=False, log_level="warning"
    )
    asyncio.run(server.Server(config).serve(sockets=[listener]))


def hypercorn_trio(listener: socket.socket) -> None:
    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = IDLE
    config.backlog = BACKLOG
    config.loglevel = "WARNING"
    trio.run(serve, app, config)


SERVERS = {
    "uvicorn-httptools": lambda listener: uvicorn(listener, "httptools"),
    "uvicorn-h11": lambda listener: uvicorn(listener, "h11"),
    "hypercorn-trio": hypercorn_trio,
}


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    announce(listening.getsockname()[1])
    SERVERS[sys.argv[1]](listening)

"""Starlette, on uvicorn (httptools, uvloop) and on granian."""

from __future__ import annotations

import asyncio
import socket
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.abandonment.servers.backend import BUSY, PLACES, Full, Pool, notes, wait, work
from benchmarks.answers import HELLO
from benchmarks.server_process import announce

pool = Pool(asyncio.Semaphore(PLACES), asyncio.sleep)


async def hello(_request: Request) -> Response:
    return PlainTextResponse(HELLO)


async def waiting(request: Request) -> Response:
    return PlainTextResponse(await wait(request.path_params["name"], asyncio.sleep))


async def working(request: Request) -> Response:
    path = request.path_params
    return PlainTextResponse(await work(path["name"], path["milliseconds"], asyncio.sleep))


async def calling(request: Request) -> Response:
    try:
        return PlainTextResponse(await pool.call(request.path_params["milliseconds"]))
    except Full:
        return PlainTextResponse(BUSY, status_code=503)


async def tell(_request: Request) -> Response:
    return JSONResponse(notes.as_json())


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/wait/{name:int}", waiting),
        Route("/work/{name:int}/{milliseconds:int}", working),
        Route("/call/{milliseconds:int}", calling),
        Route("/notes", tell),
    ]
)


def uvicorn() -> None:
    import uvicorn as server

    config = server.Config(
        app, http="httptools", loop="uvloop", access_log=False, log_level="critical", timeout_keep_alive=3600
    )
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        announce(listener.getsockname()[1])
        server.Server(config).run(sockets=[listener])


def granian() -> None:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    # It takes no listening socket. The port is free now, and on loopback nobody else asks for it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def main() -> None:
        server = Server(app, port=port, interface=Interfaces.ASGI, log_enabled=False, backlog=2048, backpressure=10_000)
        serving = asyncio.create_task(server.serve())
        while not serving.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                announce(port)
                break
        await serving

    import uvloop

    uvloop.run(main())


if __name__ == "__main__":
    {"uvicorn": uvicorn, "granian": granian}[sys.argv[1]]()

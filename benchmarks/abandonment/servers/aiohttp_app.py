"""aiohttp, with `handler_cancellation=True`: off by default, it cancels a handler whose client has left."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from benchmarks.abandonment.servers.backend import BUSY, PLACES, Full, Pool, notes, wait, work
from benchmarks.answers import HELLO
from benchmarks.server_process import announce

pool = Pool(asyncio.Semaphore(PLACES), asyncio.sleep)
routes = web.RouteTableDef()


@routes.get("/")
async def hello(_request: web.Request) -> web.Response:
    return web.Response(body=HELLO)


@routes.get(r"/wait/{name:\d+}")
async def waiting(request: web.Request) -> web.Response:
    return web.Response(text=await wait(int(request.match_info["name"]), asyncio.sleep))


@routes.get(r"/work/{name:\d+}/{milliseconds:\d+}")
async def working(request: web.Request) -> web.Response:
    path = request.match_info
    return web.Response(text=await work(int(path["name"]), int(path["milliseconds"]), asyncio.sleep))


@routes.get(r"/call/{milliseconds:\d+}")
async def calling(request: web.Request) -> web.Response:
    try:
        return web.Response(text=await pool.call(int(request.match_info["milliseconds"])))
    except Full:
        return web.Response(text=BUSY, status=503)


@routes.get("/notes")
async def tell(_request: web.Request) -> web.Response:
    return web.json_response(notes.as_json())


if __name__ == "__main__":
    app = web.Application()
    app.add_routes(routes)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        announce(listener.getsockname()[1])
        web.run_app(
            app,
            sock=listener,
            handler_cancellation=True,
            access_log=None,
            print=None,
            keepalive_timeout=3600,
            backlog=2048,
        )

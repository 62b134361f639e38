"""aiohttp on uvloop, with `handler_cancellation`, since the others are asked for the same."""

from __future__ import annotations

import argparse
import ssl

import uvloop
from aiohttp import web

from benchmarks.peers.content import DOCUMENT, HELLO, LARGE, PIECE, PIECES

routes = web.RouteTableDef()


@routes.get("/")
async def hello(_: web.Request) -> web.Response:
    return web.Response(text=HELLO)


@routes.get("/json")
async def document(_: web.Request) -> web.Response:
    return web.json_response(DOCUMENT)


@routes.get(r"/items/{number:\d+}")
async def item(request: web.Request) -> web.Response:
    number = int(request.match_info["number"])
    return web.Response(text=f"{number} {request.query['color']} {request.query['page']}")


@routes.post("/echo")
async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


@routes.get("/large")
async def large(_: web.Request) -> web.Response:
    return web.Response(body=LARGE)


@routes.get("/stream")
async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _number in range(PIECES):
        await response.write(PIECE)
    await response.write_eof()
    return response


@routes.post("/upload")
async def upload(request: web.Request) -> web.Response:
    count = 0
    async for part in request.content.iter_any():
        count += len(part)
    return web.Response(text=str(count))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    options = parser.parse_args()
    context = None
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*options.tls)
    app = web.Application()
    app.add_routes(routes)
    web.run_app(
        app,
        host="127.0.0.1",
        port=options.port,
        ssl_context=context,
        loop=uvloop.new_event_loop(),
        handler_cancellation=True,
        access_log=None,
        print=None,
        backlog=2048,
    )


if __name__ == "__main__":
    main()

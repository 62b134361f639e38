"""Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.peers.content import DOCUMENT, HELLO, LARGE, PIECE, PIECES


async def hello(_: Request) -> Response:
    return PlainTextResponse(HELLO)


async def document(_: Request) -> Response:
    return JSONResponse(DOCUMENT)


async def item(request: Request) -> Response:
    number = request.path_params["number"]
    query = request.query_params
    return PlainTextResponse(f"{number} {query['color']} {query['page']}")


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def large(_: Request) -> Response:
    return Response(LARGE)


async def stream(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _number in range(PIECES):
            yield PIECE

    return StreamingResponse(pieces())


async def upload(request: Request) -> Response:
    count = 0
    async for part in request.stream():
        count += len(part)
    return PlainTextResponse(str(count))


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/json", document),
        Route("/items/{number:int}", item),
        Route("/echo", echo, methods=["POST"]),
        Route("/large", large),
        Route("/stream", stream),
        Route("/upload", upload, methods=["POST"]),
    ]
)

"""Quart-Trio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio

from benchmarks.peers.content import DOCUMENT, HELLO, LARGE, PIECE, PIECES

app = QuartTrio(__name__)


def text(body: str) -> Response:
    return Response(body, content_type="text/plain; charset=utf-8")


@app.get("/")
async def hello() -> Response:
    return text(HELLO)


@app.get("/json")
async def document() -> dict[str, Any]:
    return DOCUMENT


@app.get("/items/<int:number>")
async def item(number: int) -> Response:
    return text(f"{number} {request.args['color']} {request.args['page']}")


@app.post("/echo")
async def echo() -> Response:
    return Response(await request.get_data(), content_type="application/octet-stream")


@app.get("/large")
async def large() -> Response:
    return Response(LARGE, content_type="application/octet-stream")


@app.get("/stream")
async def stream() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _number in range(PIECES):
            yield PIECE

    return Response(pieces(), content_type="application/octet-stream")


@app.post("/upload")
async def upload() -> Response:
    request.max_content_length = None
    count = 0
    async for part in request.body:
        count += len(part)
    return text(str(count))

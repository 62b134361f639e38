"""trioserve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from benchmarks.peers.content import DOCUMENT, HELLO, LARGE, PIECE, PIECES
from trioserve import App, Request, Response

app = App()


@app.get("/")
async def hello() -> str:
    return HELLO


@app.get("/json")
async def document() -> dict[str, Any]:
    return DOCUMENT


@app.get("/items/{number:int}")
async def item(request: Request, number: int) -> str:
    return f"{number} {request.query['color']} {request.query['page']}"


@app.post("/echo")
async def echo(request: Request) -> bytes:
    return await request.body()


@app.get("/large")
async def large() -> bytes:
    return LARGE


@app.get("/stream")
async def stream() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(PIECES):
            yield PIECE

    return Response.stream(pieces())


@app.post("/upload", max_body=20_000_000)
async def upload(request: Request) -> str:
    count = 0
    async for part in request.stream():
        count += len(part)
    return str(count)

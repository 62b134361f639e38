"""FastAPI. Without `from __future__ import annotations`, as its users write it."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from benchmarks.peers.content import DOCUMENT, HELLO, LARGE, PIECE, PIECES

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
async def hello() -> str:
    return HELLO


@app.get("/json")
async def document() -> dict[str, Any]:
    return DOCUMENT


@app.get("/items/{number}", response_class=PlainTextResponse)
async def item(number: int, color: str, page: int) -> str:
    return f"{number} {color} {page}"


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body())


@app.get("/large")
async def large() -> Response:
    return Response(LARGE)


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _number in range(PIECES):
            yield PIECE

    return StreamingResponse(pieces())


@app.post("/upload", response_class=PlainTextResponse)
async def upload(request: Request) -> str:
    count = 0
    async for part in request.stream():
        count += len(part)
    return str(count)

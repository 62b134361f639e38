"""What is served: each answer says which worker gave it, and each worker says when it has ended."""

import os
from collections.abc import AsyncIterator

from benchmarks.rolling.clients import READY
from trioserve import App, Request, Response

ENDED = "worker ended"

app = App()
ME = {"x-worker": str(os.getpid())}


@app.lifespan
async def say_when_it_has_ended() -> AsyncIterator[None]:
    yield
    print(ENDED)


@app.get("/")
async def hello() -> Response:
    return Response("Hello, world!", headers=ME)


@app.get("/ready")
async def ready(request: Request) -> Response:
    return Response(READY, status=503 if request.stopping else 200, headers=ME)


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), headers=ME)

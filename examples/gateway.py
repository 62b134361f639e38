"""A gateway that passes tokens on from a slow upstream. Who leaves the gateway stops the upstream too. Needs httpx.

trioserve run examples.gateway:upstream --port 9000
trioserve run examples.gateway:gateway
curl -N http://127.0.0.1:8000/answers/why

Stop curl while it prints. There is not a line about departure in the gateway: its stream is cancelled, `resources` are
closed, httpx hangs up, and so the upstream, which could be any server that watches for departures, hears of it in turn.
"""

import os
from collections.abc import AsyncIterator

import httpx
import trio

from trioserve import App, HTTPError, Request, Response

gateway = App()
UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:9000")


@gateway.lifespan
async def pool() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=UPSTREAM, timeout=60) as client:
        yield client


@gateway.get("/answers/{question}")
async def answer(request: Request, question: str, client: httpx.AsyncClient) -> Response:
    stream = client.stream("GET", "/tokens", params={"question": question})
    try:
        reply = await request.resources.enter_async_context(stream)
    except httpx.TransportError as error:
        raise HTTPError(502, f"the upstream does not answer: {error}") from error
    return Response.stream(reply.aiter_bytes(), status=reply.status_code, content_type=reply.headers["content-type"])


# The upstream, for trying it out.

upstream = App()


@upstream.get("/tokens")
async def tokens(request: Request) -> Response:
    return Response.stream(think(request.query["question"]), content_type="text/plain")


async def think(question: str) -> AsyncIterator[str]:
    print("thinking about", question)
    try:
        while True:
            yield f"{question}? "
            await trio.sleep(0.5)  # every token takes time, and costs
    finally:
        print("the meter has stopped")

"""A gateway in front of a service that costs something by the second. Needs httpx.

trioserve run examples.gateway:service --port 9000
trioserve run examples.gateway:gateway
curl -m 1 http://127.0.0.1:8000/answers/why

There is not a line about departure in it: when the client leaves, the gateway's handler is cancelled, and so is the
request on which it waits; httpx closes that connection, and so the service hears of it in its turn.
"""

import os

import httpx
import trio

from trioserve import App, Request, Response

gateway = App()
service = App()

SERVICE = os.environ.get("SERVICE", "http://127.0.0.1:9000")


@gateway.get("/answers/{question}")
async def ask(question: str) -> Response:
    async with httpx.AsyncClient(timeout=120) as client:
        answer = await client.get(f"{SERVICE}/models/large", params={"question": question})
    return Response(answer.content, status=answer.status_code, content_type=answer.headers["content-type"])


@service.get("/models/large")
async def think(request: Request) -> dict[str, int]:
    print("thinking about", request.query_string)
    try:
        await trio.sleep(60)
    finally:
        print("the meter has stopped")
    return {"answer": 42}

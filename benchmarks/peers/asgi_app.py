"""Bare ASGI: what a server costs without a framework on it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from benchmarks.peers.content import DOCUMENT, HELLO, LARGE, PIECE, PIECES

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope["path"]
    handler = HANDLERS.get(path) or (item if path.startswith("/items/") else not_found)
    await handler(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def answer(send: Send, body: bytes, content_type: bytes, status: int = 200) -> None:
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def hello(_: Scope, __: Receive, send: Send) -> None:
    await answer(send, HELLO.encode(), b"text/plain; charset=utf-8")


async def document(_: Scope, __: Receive, send: Send) -> None:
    await answer(send, json.dumps(DOCUMENT, separators=(",", ":")).encode(), b"application/json")


async def item(scope: Scope, _: Receive, send: Send) -> None:
    query = parse_qs(scope["query_string"].decode())
    number = int(scope["path"].removeprefix("/items/"))
    text = f"{number} {query['color'][0]} {query['page'][0]}"
    await answer(send, text.encode(), b"text/plain; charset=utf-8")


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await answer(send, body, b"application/octet-stream")


async def large(_: Scope, __: Receive, send: Send) -> None:
    await answer(send, LARGE, b"application/octet-stream")


async def stream(_: Scope, __: Receive, send: Send) -> None:
    fields = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    for _number in range(PIECES):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def upload(_: Scope, receive: Receive, send: Send) -> None:
    count, more = 0, True
    while more:
        message = await receive()
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, str(count).encode(), b"text/plain; charset=utf-8")


async def not_found(_: Scope, __: Receive, send: Send) -> None:
    await answer(send, b"not found", b"text/plain; charset=utf-8", 404)


HANDLERS = {
    "/": hello,
    "/json": document,
    "/echo": echo,
    "/large": large,
    "/stream": stream,
    "/upload": upload,
}

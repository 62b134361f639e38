"""TestClient and httpx over a network make the same of the same server."""

from __future__ import annotations

import h11
import httpx
import pytest
import trio

from tests.support.sockets import PATIENCE
from trioserve import App, Config, DropConnection, HTTPError, Request, Response, TcpAddress, serve
from trioserve.testing import TestClient, run


def the_app() -> App:  # noqa: C901 - they are many small ones
    app = App()

    @app.get("/hello")
    async def hello(request: Request) -> Response:
        return Response.json({"word": request.query.get("word"), "cookies": dict(request.cookies)})

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        async def body(send):
            async for part in request.stream():
                await send(part)

        kind = request.headers.get("content-type", "application/octet-stream")
        return Response.stream(body, content_type=kind)

    @app.post("/length")
    async def length(request: Request) -> str:
        fields = [request.headers.get("content-length", "none"), request.headers.get("transfer-encoding", "none")]
        return " ".join([str(len(await request.body())), *fields])

    @app.post("/refuse")
    async def refuse() -> Response:
        raise HTTPError(403, "no")

    @app.get("/log-in")
    async def log_in() -> Response:
        response = Response("welcome")
        response.set_cookie("who", "me", secure=False)
        return response

    @app.get("/old")
    async def old() -> Response:
        return Response("moved", status=302, headers={"location": "/hello?word=moved"})

    @app.post("/old")
    async def old_post() -> Response:
        return Response("moved", status=307, headers={"location": "/echo"})

    @app.get("/unchanged")
    async def unchanged() -> Response:
        return Response(status=304, headers={"etag": '"a"'})

    @app.get("/nothing")
    async def nothing() -> None:
        return None

    @app.get("/parts")
    async def parts() -> Response:
        async def body(send):
            for number in range(5):
                await send(b"%d" % number * 20_000)

        return Response.stream(body)

    @app.get("/large")
    async def large() -> bytes:
        return bytes(1_000_000)

    @app.get("/silence")
    async def silence() -> Response:
        raise DropConnection

    @app.get("/cut")
    async def cut() -> Response:
        async def body(send):
            await send(b"half")
            raise DropConnection

        return Response.stream(body)

    @app.get("/cut-length")
    async def cut_length() -> Response:
        async def body(send):
            await send(b"half")
            raise DropConnection

        return Response.stream(body, headers={"content-length": "8"})

    @app.get("/last")
    async def last() -> Response:
        return Response("bye", headers={"connection": "close"})

    @app.get("/fields")
    async def fields(request: Request) -> Response:
        # All but that of the host, which has a port.
        return Response.json([[name, value] for name, value in request.headers if name != "host"])

    return app


async def seen(answer: httpx.Response | None, error: Exception | None = None) -> dict:
    """What a user sees of an answer."""
    if answer is None:
        return {"error": type(error).__name__}
    fields = {name: value for name, value in answer.headers.items() if name != "date"}
    try:
        content = await answer.aread()
    except httpx.HTTPError as cut:
        content = type(cut).__name__
    return {
        "status": answer.status_code,
        "reason": answer.reason_phrase,
        "version": answer.http_version,
        "fields": fields,
        "content": content,
        "history": [each.status_code for each in answer.history],
        "cookies": dict(answer.cookies),
        "path": answer.url.path,
    }


async def one(client: httpx.AsyncClient, method: str, path: str, **options) -> dict:
    try:
        async with client.stream(method, path, **options) as answer:
            return await seen(answer)
    except (httpx.HTTPError, h11.LocalProtocolError) as error:  # httpx lets some of h11's errors through
        return await seen(None, error)


async def in_pieces():
    for _ in range(4):
        yield b"piece"
        await trio.lowlevel.checkpoint()


EXCHANGES = {
    "params": ("GET", "/hello", {"params": {"word": "ä b"}}),
    "head": ("HEAD", "/hello", {}),
    "options": ("OPTIONS", "/hello", {}),
    "json": ("POST", "/echo", {"json": {"a": [1, 2]}}),
    "form": ("POST", "/echo", {"data": {"a": "1"}}),
    "content": ("POST", "/echo", {"content": b"x" * 500_000}),
    "no content": ("POST", "/length", {}),
    "stream up": ("POST", "/length", {"content": in_pieces}),
    "expect": ("POST", "/length", {"content": b"hello", "headers": {"expect": "100-continue"}}),
    "refused early": ("POST", "/refuse", {"content": b"x" * 10_000}),
    "redirect": ("GET", "/old", {"follow_redirects": True}),
    "redirect not followed": ("GET", "/old", {}),
    "redirect with content": ("POST", "/old", {"content": b"again", "follow_redirects": True}),
    "304": ("GET", "/unchanged", {}),
    "204": ("GET", "/nothing", {}),
    "404": ("GET", "/nowhere", {}),
    "405": ("DELETE", "/hello", {}),
    "stream down": ("GET", "/parts", {}),
    "large": ("GET", "/large", {}),
    "close": ("GET", "/last", {}),
    "no answer": ("GET", "/silence", {}),
    "cut": ("GET", "/cut", {}),
    "cut with length": ("GET", "/cut-length", {}),
    "fields": ("GET", "/fields", {"headers": [("X-Two", "1"), ("X-Two", "2")], "cookies": {"a": "b"}}),
    "malformed field": ("GET", "/hello", {"headers": {"x": "a\r\nb"}}),
    "too little content": ("POST", "/echo", {"content": b"12345", "headers": {"content-length": "9"}}),
    "timeout": ("GET", "/hello", {"timeout": 5}),
}


async def the_app_in_memory(play):
    async with TestClient(the_app()) as client:
        return await play(client)


async def the_app_on_a_socket(play):
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            config = Config(listen=(TcpAddress("127.0.0.1", 0),), access_log=False)
            (address,) = await nursery.start(serve, the_app(), config)
            async with httpx.AsyncClient(base_url=str(address), timeout=None, trust_env=False) as client:
                result = await play(client)
            nursery.cancel_scope.cancel()
            return result


def agreed(play):
    """What both see of the play."""
    in_memory = run(the_app_in_memory, play)
    on_a_socket = trio.run(the_app_on_a_socket, play)
    assert in_memory == on_a_socket
    return in_memory


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_is_seen_of_one_exchange_is_the_same(name):
    method, path, options = EXCHANGES[name]

    async def play(client):
        kept = {key: value() if callable(value) else value for key, value in options.items()}
        return await one(client, method, path, **kept)

    agreed(play)


def test_the_cases_are_of_every_kind():
    async def play(client):
        return [
            (await one(client, *EXCHANGES[name][:2], **EXCHANGES[name][2]))
            for name in ["no answer", "cut", "redirect", "json"]
        ]

    silence, cut, redirect, json = agreed(play)
    assert silence == {"error": "RemoteProtocolError"}
    assert (cut["status"], cut["content"]) == (200, "RemoteProtocolError")
    assert (redirect["history"], redirect["path"]) == ([302], "/hello")
    assert json["content"] == b'{"a":[1,2]}'


def test_cookies_are_kept_for_the_next_request():
    async def play(client):
        return [await one(client, "GET", path) for path in ["/hello", "/log-in", "/hello"]]

    before, _, after = agreed(play)
    assert b'"cookies":{}' in before["content"]
    assert b'"cookies":{"who":"me"}' in after["content"]


def test_all_exchanges_one_after_another_go_through_one_client():
    async def play(client):
        names = [name for name, (_, _, options) in EXCHANGES.items() if options.get("content") is not in_pieces]
        return [await one(client, *EXCHANGES[name][:2], **EXCHANGES[name][2]) for name in names * 2]

    agreed(play)


def test_a_body_that_is_too_large_gets_its_answer():
    async def play(client):
        return await one(client, "POST", "/refuse", content=bytes(3_000_000))

    assert agreed(play)["status"] == 413

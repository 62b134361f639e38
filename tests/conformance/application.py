"""What the corpus talks to: an app with few resources, each there for some of the cases."""

from __future__ import annotations

from collections import Counter
from functools import cache

from trioserve import App, Request, Response, WebSocket

Served = Counter[tuple[str, int] | None]
"""How many handlers a client has had started and given its whole request."""


class Secret(Exception):
    """What the handlers that fail raise."""


def application() -> tuple[App, Served]:
    """The app, and whom it has served. One for all servers, one after another; but each counts anew, since addresses of
    clients come again.
    """
    app, served = _made_once()
    served.clear()
    return app, served


@cache
def _made_once() -> tuple[App, Served]:
    app = App()
    served: Served = Counter()
    _that_tell_of_the_request(app, served)
    _whose_responses_differ(app, served)
    _that_fail(app, served)
    return app, served


def _that_tell_of_the_request(app: App, served: Served) -> None:
    @app.get("/")
    async def hello(request: Request) -> str:
        served[request.client] += 1
        return "hello"

    @app.get("/next")
    async def next_request(request: Request) -> str:
        served[request.client] += 1
        return "next"

    @app.post("/")
    async def echo(request: Request) -> Response:
        content = await request.body()
        served[request.client] += 1
        return Response(content, content_type="application/octet-stream")

    @app.post("/unread")
    async def unread(request: Request) -> str:
        served[request.client] += 1
        return "unread"

    @app.route("/method", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
    async def method(request: Request) -> str:
        served[request.client] += 1
        return request.method

    @app.get("/target/")
    @app.get("/target/{rest:path}")
    async def target(request: Request, rest: str = "") -> str:
        served[request.client] += 1
        return request.target

    @app.get("/authority")
    async def authority(request: Request) -> str:
        served[request.client] += 1
        return str(request.exchange.head.authority)

    @app.get("/field")
    async def field(request: Request) -> bytes:
        """All values of X, one a line."""
        served[request.client] += 1
        return "\n".join(request.headers.get_all("x")).encode("latin-1")


def _whose_responses_differ(app: App, served: Served) -> None:
    @app.get("/nothing")
    async def nothing(request: Request) -> None:
        served[request.client] += 1

    @app.get("/status/{status:int}")
    async def status(request: Request, status: int) -> Response:
        served[request.client] += 1
        return Response("content", status=status)

    @app.get("/stream")
    async def stream(request: Request) -> Response:
        served[request.client] += 1
        return Response.stream(_write)

    @app.get("/stream/{status:int}")
    async def stream_of_status(request: Request, status: int) -> Response:
        served[request.client] += 1
        return Response.stream(_write, status=status)

    @app.get("/counted-stream/{length:int}")
    async def counted(request: Request, length: int) -> Response:
        served[request.client] += 1
        return Response.stream(_write, headers={"content-length": str(length)})

    @app.get("/with/{name}")
    async def with_field(request: Request, name: str) -> Response:
        r"""A response with a field of this name, its value that of the request's X, where \r, \n and \0 are spelt."""
        served[request.client] += 1
        value = request.headers["x"].replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0")
        return Response("content", headers={name: value})

    @app.websocket("/chat")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()


def _that_fail(app: App, served: Served) -> None:
    @app.get("/failing")
    @app.post("/failing")
    async def failing(request: Request) -> str:
        raise Secret

    @app.get("/broken-stream")
    async def broken(request: Request) -> Response:
        served[request.client] += 1
        return Response.stream(_write_and_fail)


async def _write(send) -> None:
    await send("abc")
    await send("def")


async def _write_and_fail(send) -> None:
    await send("abc")
    raise Secret

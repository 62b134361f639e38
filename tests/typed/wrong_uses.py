"""Wrong uses, which type checkers are to report: in every line that is marked as wrong, and in no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

from trioserve import (
    Abandoned,
    App,
    Config,
    Deadlines,
    Event,
    Grace,
    HTTPError,
    Next,
    Observer,
    PolicyOptions,
    Request,
    Response,
    Router,
    Send,
    SendEvent,
    TcpAddress,
    WebSocket,
)

app = App()

# Options and settings

App(disconect=Grace(5))  # wrong
Router(deadline="5")  # wrong
options: PolicyOptions = {"max_size": 5}  # wrong
Grace("5")  # wrong
Deadlines(handler="60")  # wrong
Config(listen=(("127.0.0.1", 8000),))  # wrong
TcpAddress("127.0.0.1", "8000")  # wrong


@app.get("/", dedline=5)  # wrong
@app.get("/", disconnect="finish")  # wrong
@app.get("/", abandoned_status="499")  # wrong
@app.route("/")  # wrong
async def right() -> str:
    return ""


# Handlers


@app.get("/pair")  # wrong
async def pair() -> tuple[int, str]:
    return 200, "hello"


@app.get("/number")  # wrong
def number() -> int:
    return 5


@app.get("/events")  # wrong
async def events() -> AsyncIterator[Event]:
    yield Event("hello")


@app.websocket("/socket")  # wrong
def socket(socket: WebSocket) -> None: ...


# Middleware, error handlers, dependencies, hooks


@app.middleware  # wrong
async def without_next(request: Request) -> Response:
    return Response()


@app.middleware  # wrong
async def without_response(request: Request, call_next: Next) -> None:
    await call_next(request)


@app.middleware  # wrong
def plain(request: Request, call_next: Next) -> Response:
    return Response()


@app.error_handler("404")  # wrong
async def by_text(request: Request, error: HTTPError) -> str:
    return ""


@app.error_handler(404)  # wrong
async def without_error(request: Request) -> str:
    return ""


@app.dependency  # wrong
async def no_generator() -> Config:
    return Config()


@app.lifespan  # wrong
def no_async_generator() -> Config:
    return Config()


@app.on_abandoned  # wrong
async def tell_more(event: Abandoned, more: str) -> None: ...


class Half:
    def completed(self, record: object) -> None: ...


half: Observer = Half()  # wrong


# Requests and responses


async def use(request: Request, response: Response, send: Send, send_event: SendEvent) -> None:
    int(request.query.get("number"))  # wrong
    request.headers["accept"] = "*/*"  # wrong
    request.cookies["user"] = "ann"  # wrong
    await request.body() + "text"  # wrong
    async for _ in request.body():  # wrong
        pass
    response.set_cookie("name", "value", same_site="sometimes")  # wrong
    response.headers["x-number"] = 5  # wrong
    await send(5)  # wrong
    await send_event(5)  # wrong
    app.url_for(5)  # wrong
    Response({"a": 1})  # wrong
    Response(headers={"x-number": 5})  # wrong
    Response.stream(["a", "b"])  # wrong
    Response.events(right)  # wrong
    Event(5)  # wrong
    HTTPError("404")  # wrong

"""A user's module: an app that uses every public name in the natural way, as strict type checkers are to accept it.

What a value is to be known as, and not only accepted, is said with `assert_type`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, Unpack, assert_type

import trio

from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    ClientGone,
    Completed,
    Config,
    ConfigError,
    Converter,
    Deadlines,
    DisconnectPolicy,
    DropConnection,
    EngineName,
    Event,
    Form,
    ForwardedFields,
    Grace,
    HalfClose,
    HangupNews,
    Headers,
    HTTPError,
    Limits,
    Middleware,
    MultiDict,
    MutableHeaders,
    Next,
    Observer,
    OpenSocket,
    Outcome,
    Phase,
    PolicyOptions,
    Request,
    RequestError,
    Response,
    ResponseError,
    RouteOptions,
    Router,
    Send,
    SendEvent,
    TcpAddress,
    TrioserveError,
    UnixAddress,
    UploadedFile,
    WebSocket,
    WebSocketClosed,
    serve,
    tls_context,
)
from trioserve.testing import Answer, Checkpoint, MemoryPeer, MemoryServer, TestClient, Way, memory_server

log = logging.getLogger(__name__)

# An app, with what holds for all its routes


def status_of(phase: Phase, cause: Cause) -> int:
    return 408 if phase is Phase.BODY and cause is Cause.FIN else 499


policies: PolicyOptions = {"disconnect": CANCEL, "deadline": 30, "half_close": "probe", "abandoned_status": status_of}
days = Converter("[0-9]{4}-[0-9]{2}-[0-9]{2}", dt.date.fromisoformat)
app = App(debug=False, converters={"day": days}, **policies)


# Lifespans and dependencies


@dataclass
class Stock:
    items: dict[str, int]


class Transaction:
    """A dependency may be a class that is an async context manager."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...


@app.lifespan
async def shelves() -> AsyncIterator[Stock]:
    yield Stock({"pear": 3})


@app.lifespan
@asynccontextmanager
async def bell(app: App) -> AsyncGenerator[None]:
    app.start_soon(trio.sleep, 0)
    yield


app.dependency(Transaction)


@app.dependency
async def turn(request: Request, stock: Stock) -> AsyncIterator[trio.Lock]:
    assert_type(request.path_params, dict[str, Any])
    async with (lock := trio.Lock()):
        yield lock


@app.dependency(provides=str)
@asynccontextmanager
async def user(request: Request) -> AsyncGenerator[str]:
    yield request.cookies.get("user", "nobody")


# Middleware and error handlers


@app.middleware
async def timing(request: Request, call_next: Next) -> Response:
    request.state.started = trio.current_time()
    response = await call_next(request)
    response.headers["server-timing"] = f"app;dur={1000 * (trio.current_time() - request.state.started):.1f}"
    return response


def limited(to: int) -> Middleware:
    """Middleware that is made."""
    limiter = trio.CapacityLimiter(to)

    async def limit(request: Request, call_next: Next) -> Response:
        async with limiter:
            return await call_next(request)

    return limit


class OutOfStock(Exception):
    pass


@app.error_handler(OutOfStock)
async def out_of_stock(request: Request, error: OutOfStock) -> Response:
    return Response.json({"sorry": str(error), "at": request.path}, status=409)


@app.error_handler(404)
def nothing_there(request: Request, error: HTTPError) -> str:
    return f"{error.status} {error.detail}"


@app.error_handler(RequestError)
@app.error_handler(TrioserveError)
async def ours(request: Request, error: TrioserveError) -> dict[str, str]:
    return {"error": str(error)}


# Handlers, and what they return


class Item(TypedDict):
    name: str
    count: int


@app.get("/items/{name}", disconnect=FINISH, deadline=5, name="item")
async def item(name: str, transaction: Transaction) -> dict[str, int]:
    if name not in transaction.stock.items:
        raise HTTPError(404, f"we have no {name}", headers={"cache-control": "no-store"})
    return {name: transaction.stock.items[name]}


@app.get("/items")
def items(request: Request, stock: Stock) -> list[Item]:
    query = assert_type(request.query, MultiDict[str])
    assert_type(query.get("most"), str | None)
    most = int(query.get("most", "10"))
    for number, _ in enumerate(stock.items):
        trio.from_thread.check_cancelled()
        assert number >= 0
    return [Item(name=name, count=count) for name, count in stock.items.items()][:most]


@app.get("/first-item")
async def first_item(stock: Stock) -> Item:
    return Item(name="pear", count=stock.items["pear"])


@app.get("/days/{day:day}", abandoned_status={(Phase.HANDLER, Cause.FIN): 408})
async def day(day: dt.date) -> str:
    return day.isoformat()


@app.put("/items/{name}", disconnect=Grace(2.5))
async def put(request: Request, name: str, stock: Stock, lock: trio.Lock, user: str) -> Response:
    stock.items[name] = int((await request.json())["count"])
    request.after_response(log.info, "%s has put %s", user, name)
    response = Response.redirect(request.url_for(item, name=name))
    response.set_cookie("last", name, max_age=3600, same_site="strict")
    response.delete_cookie("first")
    headers = assert_type(response.headers, MutableHeaders)
    headers.add("vary", "cookie")
    return response


@app.delete("/items/{name}", half_close=HalfClose.FINISH)
async def remove(name: str, stock: Stock) -> None:
    if stock.items.pop(name, None) is None:
        raise DropConnection


@app.route("/echo", methods=["POST", "QUERY"], max_body=1e9)
async def echo(request: Request) -> bytes:
    headers = assert_type(request.headers, Headers)
    assert_type(headers.get_all("accept"), list[str])
    assert_type(request.client, tuple[str, int] | None)
    assert_type(request.scheme, Literal["http", "https"])
    assert_type(request.host, str | None)
    assert_type(request.url, str)
    return await request.body()


@app.post("/photos")
async def photo(request: Request) -> dict[str, object]:
    form = assert_type(await request.form(), Form)
    upload = assert_type(form.file("photo"), UploadedFile)
    async for part in upload:
        assert_type(part, bytes)
    return {"title": form.text("title", "untitled"), "name": upload.filename, "bytes": upload.size}


@app.patch("/old/{rest:path}")
async def old(rest: str) -> Response:
    return Response("<h1>Gone</h1>", status=410, headers=[("x-rest", rest)], content_type="text/html")


@app.head("/health")
@app.options("/health")
async def health() -> Response:
    return Response()


# Streams


@app.get("/numbers")
async def numbers() -> AsyncIterator[str]:
    for number in range(10):
        yield f"{number}\n"


@app.get("/lines")
async def lines(request: Request) -> Response:
    async def write(send: Send) -> None:
        async for part in request.stream():
            await send(part)
        try:
            await send("the end")
        except (ClientGone, ResponseError) as error:
            log.info("the end did not get out: %s", error)

    return Response.stream(write, content_type="text/plain")


@app.get("/passed-on")
async def passed_on() -> Response:
    """What a trio stream receives is bytes or bytearray."""
    return Response.stream(await trio.open_tcp_stream("localhost", 7))


@app.get("/channel")
async def channel() -> Response:
    into, out = trio.open_memory_channel[str](1)
    await into.send("hello")
    return Response.stream(out)


@app.get("/ticks")
async def ticks(request: Request) -> Response:
    async def events() -> AsyncIterator[Event | str]:
        yield "hello"
        yield Event({"tick": 1}, event="tick", id=request.last_event_id)

    return Response.events(events(), retry=2)


@app.get("/counts")
async def counts() -> Response:
    async def events() -> AsyncIterator[dict[str, int]]:
        yield {"count": 1}

    return Response.events(events(), ping=5)


@app.get("/changes")
async def changes() -> Response:
    async def write(send: SendEvent) -> None:
        await send({"changed": ["pear"]})
        await send(Event("", event="over"))

    return Response.events(write)


@app.get("/files/{name:path}")
async def file(name: str) -> Response:
    return Response.file(name, root="/srv/files", filename="file.txt")


# WebSockets


@app.websocket("/chat/{room}", ping=10, max_message=10_000)
async def chat(socket: WebSocket, room: str) -> None:
    await socket.accept(subprotocol=next(iter(socket.subprotocols), None))
    try:
        async for message in socket:
            assert_type(message, str | bytes)
            await socket.send(message)
        await socket.send_json(await socket.receive_json())
    except WebSocketClosed as closed:
        log.info("%s: %s %s", room, closed.code, closed.reason)
    await socket.close(1000, "bye")


# Routers, and decorators of one's own

ListsText = Callable[[], Awaitable[list[str]]]
shop = Router(middleware=[limited(to=4)], disconnect=FINISH)


def patient(path: str, **options: Unpack[RouteOptions]) -> Callable[[ListsText], ListsText]:
    options.setdefault("deadline", 600)
    return shop.get(path, **options)


@patient("/orders", name="orders")
async def orders() -> list[str]:
    return []


app.include(shop, prefix="/shop")


def policy(*, patient: bool) -> DisconnectPolicy:
    return Grace(10) if patient else CANCEL


# Hooks, observers, serving


@app.on_abandoned
async def tell(event: Abandoned) -> None:
    if event.outcome is Outcome.FINISHED:
        assert_type(event.sent_status, int | None)
        log.info("%s %s %s %s %s", event.status, event.phase, event.cause, event.target, event.unwind_time)


@app.on_abandoned
def note(event: Abandoned) -> None:
    log.info("%s", event.logged_status)


class Metrics:
    def __init__(self) -> None:
        self.count: Counter[tuple[str | None, int]] = Counter()

    def completed(self, record: Completed) -> None:
        self.count[record.route, record.status] += 1

    def abandoned(self, record: Abandoned) -> None:
        self.count[record.route, record.logged_status] += 1


async def main(inherited: Sequence[int] = ()) -> None:
    metrics: Observer = Metrics()
    try:
        config = Config(
            listen=(
                TcpAddress("127.0.0.1", 0, tls=tls_context("certificate.pem", "key.pem")),
                UnixAddress("/run/shop.sock", proxy_protocol=True),
                *(OpenSocket(descriptor) for descriptor in inherited),
            ),
            deadlines=Deadlines(handler=60, drain=10),
            limits=Limits(body=5_000_000),
            half_close=HalfClose.PROBE,
            hangup_news=HangupNews.READ_AHEAD,
            engine=EngineName.H11R,
            trusted_proxies=("10.0.0.0/8", "unix"),
            forwarded_fields=ForwardedFields.X_FORWARDED,
            observers=(metrics,),
        )
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    drain = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, app, config)
        await serve(app, config, drain=drain)


# Tests of one's own


async def test_item() -> None:
    async with memory_server(app, Config(access_log=False)) as server:
        assert_type(server, MemoryServer)
        async with server.connect() as client:
            assert_type(client, MemoryPeer)
            await client.send_all(b"GET /items/pear HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            assert b"".join([data async for data in client]).endswith(b'{"pear":3}')
    assert_type(await item("pear", Transaction(Stock({"pear": 3}))), dict[str, int])


async def ask_in_a_test() -> None:
    """As a user's test does."""
    async with TestClient(app, Config(), follow_redirects=True) as client:
        answer = await client.get("/", params={"word": "x"}, headers={"x": "y"})
        assert_type(answer, Answer)
        assert_type(answer.status_code, int)
        assert answer.record.status == 200
        assert isinstance(answer.record, Completed)
        async with client.stream("POST", "/", json={"a": 1}) as streamed:
            assert_type(streamed, Answer)
        client.leave(Way.RESET, Checkpoint(1))
        left = await client.request("GET", "/")
        assert_type(left, Answer)
        assert isinstance(left.record, Abandoned)
        assert_type(left.record.phase, Phase)

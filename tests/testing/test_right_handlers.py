"""Handlers that are safe to abandon, of every kind: no alarm at any point, in any way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from trioserve import (
    FINISH,
    App,
    Config,
    DropConnection,
    Grace,
    HalfClose,
    HangupNews,
    HTTPError,
    Request,
    Response,
    Send,
    SendEvent,
)
from trioserve.testing import LeftAMess, Tally, leave_at_every_point, run

POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n3\r\nyou\r\n0\r\nExpires: never\r\n\r\n"
)
EXPECTS = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"


class Slots:
    """Something of which there is so much, and which is given back by code that awaits."""

    def __init__(self) -> None:
        self.free = 3

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        self.free -= 1
        try:
            yield
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(1)
            self.free += 1


slots = Slots()


def count() -> int:
    return slots.free


def prove(app: App, request: str | bytes = "/", *, config: Config | None = None, refused: bool = False) -> Tally:
    slots.free = 3
    tally = run(leave_at_every_point, app, request, snapshot=count, config=config, allow=("fails",) if refused else ())
    assert tally.total > 30
    return tally


async def three_awaits() -> str:
    async with slots.taken():
        await trio.sleep(1)
        await trio.lowlevel.checkpoint()
        await trio.sleep(100)
    return "done"


HANDLERS: list[Callable[..., object]] = []
READERS: list[Callable[..., object]] = []


def right(handler: Callable[..., object]) -> Callable[..., object]:
    """One that is safe to abandon."""
    HANDLERS.append(handler)
    return handler


def reader(handler: Callable[..., object]) -> Callable[..., object]:
    """One for requests with content."""
    READERS.append(handler)
    return handler


def name_of(handler: Callable[..., object]) -> str:
    return handler.__name__


@right
async def answers_at_once() -> str:
    return "done"


@right
async def nothing() -> None:
    await trio.sleep(1)


@right
async def json(request: Request) -> dict[str, int]:
    return {"length": len(request.headers)}


@right
def in_a_thread() -> str:
    trio.from_thread.check_cancelled()
    return "done"


@right
def in_a_thread_that_asks_trio() -> str:
    for _ in range(3):
        trio.from_thread.run(trio.sleep, 1)
    return "done"


@right
async def calls_a_thread() -> str:
    async with slots.taken():
        await trio.to_thread.run_sync(lambda: None)
    return "done"


@right
async def waits_for_tasks() -> str:
    async def work(seconds: float) -> None:
        async with slots.taken():
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, 1)
        nursery.start_soon(work, 5)
    return "done"


@right
async def cancels_a_task_of_its_own() -> str:
    async with slots.taken(), trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    return "done"


@right
async def tries_again_later() -> str:
    for seconds in range(1, 3):
        try:
            raise OSError  # the database is away
        except OSError:
            await trio.sleep(seconds)
    return "done"


@right
async def gives_up_waiting() -> str:
    with trio.move_on_after(1):
        await trio.sleep_forever()
    return "done"


@right
async def raises_an_http_error() -> str:
    async with slots.taken():
        await trio.sleep(1)
        raise HTTPError(409)


@right
async def drops_the_connection() -> str:
    await trio.sleep(1)
    raise DropConnection


@right
async def streams() -> Response:
    async def write_body(send: Send) -> None:
        async with slots.taken():
            for number in range(3):
                await send(b"part %d" % number)
                await trio.sleep(1)

    return Response.stream(write_body)


@right
async def streams_much() -> Response:
    async def write_body(send: Send) -> None:
        async with slots.taken():
            for _ in range(3):
                await send(bytes(100_000))

    return Response.stream(write_body)


@right
async def sends_events() -> Response:
    async def events(send: SendEvent) -> None:
        async with slots.taken():
            for number in range(3):
                await send(f"event {number}")
                await trio.sleep(20)

    return Response.events(events)


@right
async def sends_much() -> bytes:
    async with slots.taken():
        await trio.sleep(1)
    return bytes(300_000)


@right
async def sends_a_file() -> Response:
    return Response.file(__file__)


@right
async def uses_a_temporary_file() -> str:
    with tempfile.TemporaryFile() as file:
        await trio.sleep(1)
        file.write(b"x")
        await trio.sleep(1)
    return "done"


@right
async def reads_a_file() -> str:
    async with await trio.open_file(__file__) as file:
        return await file.readline()


@pytest.mark.parametrize("handler", [three_awaits, *HANDLERS], ids=name_of)
def test_a_right_handler_passes(handler: object) -> None:
    app = App()
    app.get("/")(handler)
    prove(app, refused=handler is raises_an_http_error)


@pytest.mark.parametrize("disconnect", [FINISH, Grace(0.5), Grace(50)], ids=repr)
@pytest.mark.parametrize("half_close", ["abort", "finish", "probe"])
@pytest.mark.parametrize("deadline", [None, 50])
def test_a_right_handler_passes_under_every_policy(disconnect, half_close: str, deadline: float | None) -> None:
    app = App()
    app.get("/", disconnect=disconnect, half_close=half_close, deadline=deadline)(three_awaits)
    prove(app, refused=deadline is not None)


@reader
async def reads_all(request: Request) -> str:
    async with slots.taken():
        return f"{len(await request.body())}"


@reader
async def reads_in_parts(request: Request) -> str:
    size = 0
    async with slots.taken():
        async for part in request.stream():
            size += len(part)
            await trio.sleep(1)
    return f"{size}"


@reader
async def reads_nothing() -> str:
    async with slots.taken():
        await trio.sleep(1)
    return "done"


@reader
async def refuses_it() -> str:
    raise HTTPError(403)


@reader
async def answers_before_it_reads(request: Request) -> Response:
    async def write_body(send: Send) -> None:
        await send(b"begin")
        async for part in request.stream():
            await send(part)

    return Response.stream(write_body)


@pytest.mark.parametrize("handler", READERS, ids=name_of)
@pytest.mark.parametrize("request_", [POST, CHUNKED, EXPECTS], ids=["sized", "chunked", "expects"])
@pytest.mark.parametrize("half_close", ["abort", "finish", "probe"])
def test_a_right_handler_of_a_request_with_content_passes(handler: object, request_: bytes, half_close: str) -> None:
    app = App()
    app.post("/")(handler)
    prove(app, request_, config=Config(half_close=HalfClose(half_close)), refused=handler is refuses_it)


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
)
def test_a_right_handler_passes_where_the_connection_is_closed_behind_it(request_: bytes) -> None:
    app = App()
    app.get("/")(three_awaits)
    prove(app, request_)


def test_a_right_handler_passes_where_news_comes_from_reading_ahead() -> None:
    app = App()
    app.get("/")(three_awaits)
    prove(app, config=Config(hangup_news=HangupNews.READ_AHEAD))


def test_middleware_dependencies_and_background_work_pass() -> None:
    app = App()
    later = []

    @app.middleware
    async def hold(request: Request, next_) -> Response:
        async with slots.taken():
            await trio.sleep(1)
            return await next_(request)

    async def work() -> None:
        await trio.sleep(10)
        later.append(1)

    @app.get("/")
    async def handle(request: Request) -> str:
        app.start_soon(work)
        await trio.sleep(1)
        return "done"

    prove(app)
    assert later


def test_what_an_app_holds_for_all_requests_passes(tmp_path: Path) -> None:
    app = App()

    @app.lifespan
    async def hold() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()

    app.get("/")(three_awaits)
    prove(app)


class Rows:
    """What a handler writes in a worker thread, for good."""

    def __init__(self) -> None:
        self.rows = 0

    def commit(self) -> None:
        self.rows += 1


@pytest.mark.parametrize("size", [1, 300_000])
def test_a_handler_whose_last_await_cannot_be_undone_passes(size: int) -> None:
    rows = Rows()
    app = App()

    @app.lifespan
    async def database() -> AsyncIterator[Rows]:
        yield rows

    @app.get("/")
    async def write(database: Rows) -> bytes:
        await trio.sleep(1)
        await trio.to_thread.run_sync(database.commit)
        return bytes(size)

    assert run(leave_at_every_point, app, "/", snapshot=lambda: rows.rows).total > 30


def test_a_handler_that_goes_on_behind_what_cannot_be_undone_does_not_pass() -> None:
    rows = Rows()
    app = App()

    @app.get("/")
    async def write() -> str:
        await trio.to_thread.run_sync(rows.commit)
        await trio.sleep(1)
        return "done"

    with pytest.raises(LeftAMess, match="rule    snapshot"):
        run(leave_at_every_point, app, "/", snapshot=lambda: rows.rows)


async def ticks(slots: Slots) -> AsyncIterator[str]:
    async with slots.taken():
        while True:
            yield "tick"
            await trio.sleep(1)


async def streams_for_ever() -> Response:
    return Response.stream(ticks(slots), content_type="text/plain")


async def sends_events_for_ever() -> Response:
    async def events(send: SendEvent) -> None:
        async with slots.taken():
            while True:
                await send("tick")
                await trio.sleep(1)

    return Response.events(events)


@pytest.mark.parametrize("handler", [streams_for_ever, sends_events_for_ever], ids=name_of)
@pytest.mark.parametrize("half_close", ["abort", "finish", "probe"])
def test_a_stream_without_an_end_passes_if_it_is_said_how_long_the_client_stays(
    handler: object, half_close: str
) -> None:
    app = App()
    app.get("/", half_close=half_close)(handler)
    slots.free = 3
    tally = run(leave_at_every_point, app, "/", snapshot=count, stay=5)
    assert tally.plays["Checkpoint"] >= 4 * 5
    assert tally.plays["ResponseBytes"] >= 4 * 5
    assert not tally.missed


def test_a_stay_longer_than_the_exchange_changes_nothing() -> None:
    app = App()
    app.get("/")(three_awaits)
    slots.free = 3
    tally = run(leave_at_every_point, app, "/", snapshot=count, stay=1000)
    assert tally == run(leave_at_every_point, app, "/", snapshot=count)


@pytest.mark.parametrize("stay", [0, -1, float("inf"), float("nan")])
def test_a_stay_is_a_number_of_seconds(stay: float) -> None:
    with pytest.raises(ValueError, match="give the seconds for which the client stays"):
        run(leave_at_every_point, App(), "/", stay=stay)


@pytest.mark.parametrize("half_close", HalfClose)
def test_a_right_handler_passes_where_a_client_of_http_1_0_wants_to_stay(half_close: HalfClose) -> None:
    app = App()
    app.get("/")(three_awaits)
    prove(app, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", config=Config(half_close=half_close))


@pytest.mark.parametrize("size", [65_536, 200_000])
@pytest.mark.parametrize("handler", [reads_nothing, reads_all], ids=name_of)
def test_a_right_handler_passes_where_content_fills_the_window(handler: object, size: int) -> None:
    app = App()
    app.post("/")(handler)
    prove(app, b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

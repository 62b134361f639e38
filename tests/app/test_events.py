"""Server-sent events: how they are written, and how a stream of them is kept alive."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import FrozenInstanceError
from typing import NamedTuple

import httpx
import pytest
import trio
from fake_exchange import FakeExchange
from hypothesis import given
from hypothesis import strategies as st

from tests.support.server import start
from trioserve import App, ClientGone, Event, Request, Response, ResponseError

# The client's side: the algorithm of WHATWG HTML §9.2.6, word for word


class Heard(NamedTuple):
    type: str
    data: str
    last_event_id: str


class Interpreter:
    """An event source that is given the stream's bytes."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.retry: int | None = None
        self.comments: list[str] = []
        self.last_event_id = ""
        self._data = self._type = self._id = ""

    def interpret(self, stream: bytes) -> Interpreter:
        text = stream.decode("utf-8")
        text = text.removeprefix("\ufeff")
        line, position = "", 0
        while position < len(text):
            character = text[position]
            position += 1
            if character == "\r" and text[position : position + 1] == "\n":
                position += 1
            if character in {"\r", "\n"}:
                self._line(line)
                line = ""
            else:
                line += character
        return self  # an incomplete event at the end is discarded

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        elif ":" in line:
            field, _, value = line.partition(":")
            self._field(field, value.removeprefix(" "))
        else:
            self._field(line, "")

    def _field(self, field: str, value: str) -> None:
        if field == "event":
            self._type = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            self.heard.append(Heard(self._type or "message", self._data.removesuffix("\n"), self.last_event_id))
        self._data = self._type = ""


def heard(*events: Event) -> list[Heard]:
    return Interpreter().interpret(b"".join(event.encode() for event in events)).heard


# How an event is written


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (Event("x"), b"data: x\n\n"),
        (Event(""), b"data: \n\n"),
        (Event("a\nb\r\nc\rd\n"), b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        (Event(" a:b"), b"data:  a:b\n\n"),
        (Event("a\x0bb\u2028c\x85d"), "data: a\x0bb\u2028c\x85d\n\n".encode()),
        (Event({"a": ["é", None]}), 'data: {"a":["é",null]}\n\n'.encode()),
        (Event([]), b"data: []\n\n"),
        (Event("x", "tick", "7", 2.5, "why"), b": why\nretry: 2500\nid: 7\nevent: tick\ndata: x\n\n"),
        (Event(id=""), b"id: \n\n"),
        (Event(retry=0), b"retry: 0\n\n"),
        (Event(comment="a\nb"), b": a\n: b\n\n"),
        (Event(comment=""), b": \n\n"),
        (Event("a\rb"), b"data: a\ndata: b\n\n"),
        (Event(comment="a\rb"), b": a\n: b\n\n"),
    ],
)
def test_an_event_is_written_in_lines(event, written):
    assert event.encode() == written


LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0") | st.sampled_from(": \ufeff"), max_size=5)
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\r\n: \ufeff"), max_size=9)
EVENTS = st.builds(
    Event,
    data=TEXT | st.dictionaries(TEXT, TEXT | st.none() | st.integers(), max_size=2) | st.lists(TEXT, max_size=2),
    event=st.none() | LINE,
    id=st.none() | LINE,
    retry=st.none() | st.integers(min_value=0, max_value=10_000),
    comment=st.none() | TEXT,
) | st.builds(Event, id=st.none() | LINE, comment=st.none() | TEXT)


@given(events=st.lists(EVENTS, max_size=4))
def test_9_2_6_what_is_written_is_what_a_client_hears(events):
    client = Interpreter().interpret(b"".join(event.encode() for event in events))
    last_id, retry, expected = "", None, []
    for event in events:
        last_id = last_id if event.id is None else event.id
        retry = retry if event.retry is None else event.retry * 1000
        if event.data is not None:
            expected.append((event.event or "message", event.data, last_id))
    assert len(client.heard) == len(expected)
    for (name, data, event_id), (expected_name, expected_data, expected_id) in zip(client.heard, expected, strict=True):
        assert (name, event_id) == (expected_name, expected_id)
        if isinstance(expected_data, str):
            assert data == expected_data.replace("\r\n", "\n").replace("\r", "\n")
        else:
            assert json.loads(data) == expected_data
    assert (client.last_event_id, client.retry) == (last_id, retry)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": 5}, "not int"),
        ({"data": b"x"}, "not bytes"),
        ({"data": ("x",)}, "not tuple"),
        ({"event": "tick"}, 'say data=""'),
        *(({"data": "x", "event": f"a{c}b"}, "an event's event is text") for c in "\r\n\0"),
        *(({"data": "x", "id": f"a{c}b"}, "an event's id is text") for c in "\r\n\0"),
        ({"id": 7}, "an event's id is text"),
        ({"data": "", "event": 7}, "an event's event is text"),
        ({"comment": 7}, "comment is text"),
        *(({"retry": value}, "retry=") for value in (-1, math.inf, math.nan, True, "1")),
    ],
)
def test_what_is_no_event_is_refused_with_advice(arguments, said):
    with pytest.raises(ResponseError, match=said):
        Event(**arguments)


@pytest.mark.parametrize("data", [{"a": object()}, [math.nan]])
def test_data_that_cannot_be_json_is_an_error_when_it_is_written(data):
    with pytest.raises((TypeError, ValueError)):
        Event(data).encode()


@pytest.mark.parametrize("event", [Event("\ud800"), Event(["\ud800"]), Event("", id="\ud800")])
def test_text_that_utf_8_cannot_carry_is_an_error_when_it_is_written(event):
    with pytest.raises(ResponseError, match="UTF-8"):
        event.encode()


def test_an_event_is_a_value():
    assert Event("x", id="1") == Event("x", id="1")
    assert hash(Event("x")) == hash(Event("x"))
    with pytest.raises(FrozenInstanceError):
        Event("x").data = "y"


# How a stream of them is sent


class Timed(FakeExchange):
    """An exchange that notes when each part came, and that insists on one at a time."""

    def __init__(self, method: str = "GET", *, takes: float = 0) -> None:
        super().__init__(method)
        self.takes = takes  # seconds that each part takes
        self.times: list[tuple[float, bytes]] = []
        self.busy = False

    async def send_part(self, data: bytes) -> None:
        if self.busy:
            raise trio.BusyResourceError
        self.busy = True
        try:
            await trio.sleep(self.takes)
            await super().send_part(data)
        finally:
            self.busy = False
        self.times.append((trio.current_time(), data))


async def sent(response: Response, exchange: FakeExchange | None = None) -> FakeExchange:
    exchange = exchange or FakeExchange()
    await response.send_to(exchange)
    return exchange


async def write_all_kinds(send) -> None:
    await send("text")
    await send({"a": 1})
    await send([1])
    await send(Event("x", event="tick", id="1"))


async def all_kinds():
    yield "text"
    yield {"a": 1}
    yield [1]
    yield Event("x", event="tick", id="1")


@pytest.mark.parametrize("source", [lambda: write_all_kinds, all_kinds])
@pytest.mark.parametrize("ping", [15, math.inf])
async def test_events_are_sent_as_they_come(source, ping):
    exchange = await sent(Response.events(source(), ping=ping))
    assert exchange.status == 200
    assert exchange.headers == {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
    }
    assert Interpreter().interpret(exchange.body).heard == [
        ("message", "text", ""),
        ("message", '{"a":1}', ""),
        ("message", "[1]", ""),
        ("tick", "x", "1"),
    ]
    assert exchange.log == ["head", "part", "part", "part", "part", "end"]


async def test_fields_and_status_may_be_others():
    headers = {"Cache-Control": "no-cache", "x": "1", "X-Accel-Buffering": "yes"}
    exchange = await sent(Response.events(all_kinds(), headers=headers, status=201))
    assert exchange.status == 201
    assert exchange.headers == {
        "cache-control": "no-cache",
        "x": "1",
        "x-accel-buffering": "yes",
        "content-type": "text/event-stream",
    }


async def test_the_client_is_told_first_when_to_come_again():
    exchange = await sent(Response.events(all_kinds(), retry=0.25))
    assert exchange.parts[0] == b"retry: 250\n\n"
    assert len(exchange.parts) == 5


async def test_the_head_goes_out_before_the_source_begins():
    exchange = FakeExchange()

    async def write(_send) -> None:
        assert exchange.log == ["head"]

    assert (await sent(Response.events(write), exchange)).body == b""


async def test_events_are_not_begun_but_closed_where_no_content_is_allowed():
    generator = all_kinds()
    exchange = await sent(Response.events(generator, retry=1), FakeExchange("HEAD"))
    assert exchange.log == ["head", "end"]
    assert await anext(generator, "closed") == "closed"
    generator = all_kinds()
    await Response.events(generator).aclose()
    assert await anext(generator, "closed") == "closed"


async def test_a_stream_of_events_is_streamed():
    assert Response.events(write_all_kinds).streamed


@pytest.mark.parametrize("ping", [0, -1, math.nan, True, "15", None])
def test_a_ping_that_is_no_time_is_refused(ping):
    with pytest.raises(ResponseError, match="ping="):
        Response.events(write_all_kinds, ping=ping)


@pytest.mark.parametrize("retry", [-1, math.inf, math.nan, "1"])
def test_a_retry_that_is_no_time_is_refused(retry):
    with pytest.raises(ResponseError, match="retry="):
        Response.events(write_all_kinds, retry=retry)


@pytest.mark.parametrize("source", [None, ["x"], all_kinds])
def test_what_is_no_source_of_events_is_refused(source):
    with pytest.raises(ResponseError, match="a stream takes"):
        Response.events(source)


@pytest.mark.parametrize("ping", [15, math.inf])
async def test_what_is_no_event_is_an_error_at_the_yield(ping):
    seen = []

    async def source():
        try:
            yield 5
        except ResponseError as error:
            seen.append(str(error))
            raise

    with pytest.raises(ResponseError, match="not int"):
        await sent(Response.events(source(), ping=ping))
    assert len(seen) == 1


async def test_an_event_in_another_kind_of_stream_is_refused_with_advice():
    async def source():
        yield Event("x")

    with pytest.raises(ResponseError, match=r"is it Response\.events\?"):
        await sent(Response.stream(source()))


# Pings


async def test_a_comment_is_sent_whenever_nothing_was_for_so_long(autojump_clock):
    async def write(send) -> None:
        await trio.sleep(25)
        await send("a")
        await trio.sleep(9)
        await send("b")
        await trio.sleep(21)

    exchange = Timed()
    await sent(Response.events(write, ping=10), exchange)
    ping = b":\n\n"
    assert exchange.times == [
        (10, ping),
        (20, ping),
        (25, b"data: a\n\n"),
        (34, b"data: b\n\n"),
        (44, ping),
        (54, ping),
    ]
    assert trio.current_time() == 55
    assert [event.data for event in Interpreter().interpret(exchange.body).heard] == ["a", "b"]


async def test_without_pings_nothing_is_sent_but_events(autojump_clock):
    async def write(send) -> None:
        await trio.sleep(1000)
        await send("a")

    exchange = Timed()
    await sent(Response.events(write, ping=math.inf), exchange)
    assert exchange.times == [(1000, b"data: a\n\n")]


async def test_an_event_waits_for_a_ping_and_a_ping_for_an_event(autojump_clock):
    async def write(send) -> None:
        await trio.sleep(11)  # a ping is under way until 13
        await send("a")  # until 16
        await trio.sleep(9)
        await send("b")  # from 25 to 28: no ping is needed
        await trio.sleep(9)

    exchange = Timed(takes=3)
    await sent(Response.events(write, ping=10), exchange)
    assert exchange.times == [(13, b":\n\n"), (16, b"data: a\n\n"), (28, b"data: b\n\n")]


async def test_the_end_of_the_source_does_not_wait_for_a_ping(autojump_clock):
    async def write(_send) -> None:
        await trio.sleep(12)

    exchange = Timed(takes=1000)
    await sent(Response.events(write, ping=10), exchange)
    assert trio.current_time() == 12
    assert exchange.log == ["head", "end"]


async def test_several_tasks_may_send_and_each_event_goes_out_whole(autojump_clock):
    async def write(send) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(send, str(number))

    exchange = Timed(takes=1)
    await sent(Response.events(write), exchange)
    assert {event.data for event in Interpreter().interpret(exchange.body).heard} == {"0", "1", "2"}


class DeafToPings(FakeExchange):
    """No ping can be sent."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.pings = 0

    async def send_part(self, data: bytes) -> None:
        if data.startswith(b":"):
            self.pings += 1
            raise self.error
        await super().send_part(data)


@pytest.mark.parametrize("error", [ClientGone("gone"), ResponseError("over")])
async def test_a_ping_that_cannot_be_sent_is_nobodys_error(error, autojump_clock):
    async def write(send) -> None:
        await trio.sleep(100)
        await send("x")

    exchange = DeafToPings(error)
    await sent(Response.events(write, ping=10), exchange)
    assert exchange.body == b"data: x\n\n"
    assert exchange.pings == 1


async def test_a_mistake_of_ours_in_a_ping_is_not_hidden(autojump_clock):
    async def write(_send) -> None:
        await trio.sleep(100)

    with pytest.raises(ZeroDivisionError):
        await sent(Response.events(write, ping=10), DeafToPings(ZeroDivisionError()))


# Errors and cancellations come out as themselves


async def test_an_error_of_the_writer_is_not_in_a_group():
    async def write(send) -> None:
        await send("x")
        raise ZeroDivisionError

    exchange = FakeExchange()
    with pytest.raises(ZeroDivisionError):
        await sent(Response.events(write), exchange)
    assert exchange.log == ["head", "part"]


async def test_an_error_of_the_generator_is_not_in_a_group():
    async def source():
        yield "x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await sent(Response.events(source()))


async def test_a_cancellation_is_not_in_a_group_and_the_pings_end_with_the_source(autojump_clock):
    seen = []

    async def write(_send) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append("cancelled")
            with trio.CancelScope(shield=True):
                await trio.sleep(7)
            raise

    exchange = Timed()
    with trio.move_on_after(25) as scope:
        try:
            await sent(Response.events(write, ping=10), exchange)
        except trio.Cancelled:
            seen.append("not in a group")
            raise
    assert scope.cancelled_caught
    assert seen == ["cancelled", "not in a group"]
    assert [time for time, _ in exchange.times] == [10, 20, 30]


async def test_a_writers_own_cancellations_work(autojump_clock):
    async def write(send) -> None:
        with trio.move_on_after(25):
            await trio.sleep_forever()
        await send("x")

    exchange = Timed()
    await sent(Response.events(write, ping=10), exchange)
    assert exchange.times == [(10, b":\n\n"), (20, b":\n\n"), (25, b"data: x\n\n")]


async def test_a_scope_around_the_yields_works(autojump_clock):
    async def source():
        with trio.move_on_after(25):
            while True:
                yield "x"
                await trio.sleep(20)
        yield "end"

    exchange = Timed()
    await sent(Response.events(source(), ping=15), exchange)
    assert exchange.times == [(0, b"data: x\n\n"), (15, b":\n\n"), (20, b"data: x\n\n"), (25, b"data: end\n\n")]


@pytest.mark.parametrize("ping", [15, math.inf])
@pytest.mark.parametrize("kind", ["scope", "nursery"])
async def test_what_a_generator_opened_before_it_was_handed_over_works_as_ever(autojump_clock, ping, kind):
    async def source():
        async with contextlib.AsyncExitStack() as stack:
            if kind == "scope":
                stack.enter_context(trio.move_on_at(25))
            else:
                nursery = await stack.enter_async_context(trio.open_nursery())
                nursery.cancel_scope.deadline = 25
            while True:
                yield "x"
                await trio.sleep(20)
        yield "end"

    begun = source()
    assert await anext(begun) == "x"  # to choose the status code by it, say
    exchange = Timed()
    await sent(Response.events(begun, ping=ping), exchange)
    pings = [] if ping == math.inf else [(15, b":\n\n")]
    assert exchange.times == [*pings, (20, b"data: x\n\n"), (25, b"data: end\n\n")]


async def test_the_source_runs_in_the_task_of_its_exchange():
    async def write(_send) -> None:
        tasks.append(trio.lowlevel.current_task())

    tasks: list = []
    await sent(Response.events(write))
    assert tasks == [trio.lowlevel.current_task()]


# On a socket


@contextlib.asynccontextmanager
async def client_of(app: App):
    async with trio.open_nursery() as nursery:
        server = await start(nursery, app)
        async with httpx.AsyncClient(base_url=server.url) as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_a_client_hears_events_and_pings_while_they_are_made():
    app, more = App(), trio.Event()

    @app.get("/")
    async def feed() -> Response:
        async def write(send) -> None:
            await send(Event("one\ntwo", event="tick", id="é"))
            await more.wait()
            await send({"n": 2})

        return Response.events(write, ping=0.001, retry=2)

    interpreter = Interpreter()
    async with client_of(app) as client, client.stream("GET", "/") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        pending = b""
        async for part in answer.aiter_bytes():
            pending += part
            whole, separator, pending = pending.rpartition(b"\n\n")
            interpreter.interpret(whole + separator)
            if interpreter.heard and interpreter.comments:
                more.set()
    assert interpreter.retry == 2000
    assert interpreter.heard == [("tick", "one\ntwo", "é"), ("message", '{"n":2}', "é")]


async def test_the_head_is_heard_before_there_is_an_event():
    app, more = App(), trio.Event()

    @app.get("/")
    async def feed() -> Response:
        async def source():
            await more.wait()
            yield "x"

        return Response.events(source())

    async with client_of(app) as client, client.stream("GET", "/") as answer:
        assert answer.status_code == 200
        more.set()
        assert await answer.aread() == b"data: x\n\n"


async def test_a_client_that_comes_again_goes_on_where_it_was():
    app = App()

    @app.get("/")
    async def feed(request: Request) -> Response:
        async def source():
            first = int(request.last_event_id or 0) + 1
            for number in range(first, first + 2):
                yield Event(str(number), id=str(number))

        return Response.events(source())

    interpreter = Interpreter()
    async with client_of(app) as client:
        for _ in range(2):
            answer = await client.get("/", headers={"last-event-id": interpreter.last_event_id or "0"})
            interpreter.interpret(answer.content)
    assert [event.data for event in interpreter.heard] == ["1", "2", "3", "4"]


async def test_a_source_that_fails_cuts_the_stream():
    app = App()

    @app.get("/")
    async def feed() -> Response:
        async def source():
            yield "x"
            raise ZeroDivisionError

        return Response.events(source())

    async with client_of(app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")

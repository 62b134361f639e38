"""Response: what a handler returns, and how it is sent."""

from __future__ import annotations

import contextlib
import math

import httpx
import pytest
import trio
from fake_exchange import FakeExchange

from tests.support.server import start
from trioserve import App, Request
from trioserve.app.response import Response, as_response
from trioserve.core.errors import ClientGone, ResponseError


async def sent(response: Response, method: str = "GET") -> FakeExchange:
    exchange = FakeExchange(method)
    await response.send_to(exchange)
    return exchange


# Whole responses


@pytest.mark.parametrize(
    ("response", "status", "fields", "body"),
    [
        (Response(), 200, [], b""),
        (Response("é"), 200, [(b"content-type", b"text/plain; charset=utf-8")], "é".encode()),
        (Response(b"\xff"), 200, [(b"content-type", b"application/octet-stream")], b"\xff"),
        (Response(status=404), 404, [], b""),
        (Response("x", content_type="text/html"), 200, [(b"content-type", b"text/html")], b"x"),
        (Response(content_type="text/html"), 200, [(b"content-type", b"text/html")], b""),
        (Response("x", headers={"Content-Type": "text/css"}), 200, [(b"content-type", b"text/css")], b"x"),
        (Response(headers={"X-One": "1", "x-two": "é"}), 200, [(b"x-one", b"1"), (b"x-two", b"\xe9")], b""),
        (Response(headers=[("x", "1"), ("X", "2")]), 200, [(b"x", b"1"), (b"x", b"2")], b""),
        (Response(headers=iter([("x", "1")])), 200, [(b"x", b"1")], b""),
    ],
)
async def test_a_whole_response_is_sent_as_it_was_made(response, status, fields, body):
    exchange = await sent(response)
    assert (exchange.status, exchange.fields, exchange.body) == (status, fields, body)


async def test_a_response_may_be_sent_again():
    response = Response("x", headers=iter([("x", "1")]))
    first, second = await sent(response), await sent(response)
    assert (first.fields, first.body) == (second.fields, second.body)


@pytest.mark.parametrize(
    "headers",
    [{"é": "x"}, {"x": "ε"}, {"x": 1}, {1: "x"}, {"x": None}, {b"x": b"y"}],
)
def test_a_header_that_is_no_text_for_http_is_a_response_error(headers):
    with pytest.raises(ResponseError, match="response header"):
        Response(headers=headers)


def test_a_content_type_that_is_no_text_for_http_is_a_response_error():
    with pytest.raises(ResponseError, match="response header"):
        Response("x", content_type="text/ε")


@pytest.mark.parametrize("body", [{"a": 1}, [1], 5, None, bytearray(b"x"), object()])
def test_a_body_that_is_neither_text_nor_bytes_is_a_response_error_that_names_its_type(body):
    with pytest.raises(ResponseError, match=f"not {type(body).__name__}"):
        Response(body)


# JSON


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"a": [1, None, True]}, b'{"a":[1,null,true]}'),
        ([], b"[]"),
        ("é", '"é"'.encode()),
        (None, b"null"),
        (1.5, b"1.5"),
    ],
)
async def test_json_is_compact_and_utf_8(value, body):
    exchange = await sent(Response.json(value, status=201, headers={"x": "1"}))
    assert exchange.status == 201
    assert exchange.headers == {"x": "1", "content-type": "application/json"}
    assert exchange.body == body


async def test_json_may_have_another_media_type():
    exchange = await sent(Response.json({}, headers={"content-type": "application/problem+json"}))
    assert exchange.headers == {"content-type": "application/problem+json"}


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, {"a": b"x"}, CIRCLE, math.nan, math.inf, {"a": [-math.inf]}, "\udc80"]
)
def test_what_cannot_be_json_is_refused_when_the_response_is_made(value):
    with pytest.raises((TypeError, ValueError)):
        Response.json(value)


# Pages, and the way to others


async def test_html_is_utf_8_and_says_so():
    exchange = await sent(Response.html("<p>é", status=201, headers={"x": "1"}))
    assert (exchange.status, exchange.body) == (201, "<p>é".encode())
    assert exchange.headers == {"x": "1", "content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_has_a_location_and_no_body(status):
    exchange = await sent(Response.redirect("/next", status, headers={"x": "1"}))
    assert (exchange.status, exchange.headers, exchange.body) == (status, {"x": "1", "location": "/next"}, b"")


async def test_a_redirect_asks_with_get_unless_it_says_otherwise():
    assert (await sent(Response.redirect("/next"))).status == 303


@pytest.mark.parametrize(
    ("location", "sent_as"),
    [
        ("https://user:pw@b.example:8/a;b/c,d?e=f&g=%20+h#i", "https://user:pw@b.example:8/a;b/c,d?e=f&g=%20+h#i"),
        ("http://[::1]:80/~a/(b)/'c'/!$*", "http://[::1]:80/~a/(b)/'c'/!$*"),
        ("../x?", "../x?"),
        ("/é b", "/%C3%A9%20b"),
        ('/a"<b>|{c}^`d', "/a%22%3Cb%3E%7C%7Bc%7D%5E%60d"),
        ("/\\evil.example", "/%5Cevil.example"),  # which browsers take for //evil.example
        ("/%C3%A9", "/%C3%A9"),
    ],
)
def test_a_location_is_percent_encoded_where_it_must_be(location, sent_as):
    assert Response.redirect(location).headers["location"] == sent_as


@pytest.mark.parametrize("location", ["", "/x\r\ny: z", "/\n", "\t/x", "/\0", "/\x7f", "/\ud800", None, b"/x", 5])
def test_what_is_no_location_is_refused(location):
    with pytest.raises(ResponseError, match="location="):
        Response.redirect(location)


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 404, None, "303"])
def test_a_status_that_does_not_redirect_is_refused(status):
    with pytest.raises(ResponseError, match="does not redirect"):
        Response.redirect("/", status)


async def test_a_client_follows_a_redirect_from_a_form_with_get(nursery):
    app = App()

    @app.post("/form")
    async def form() -> Response:
        return Response.redirect("/done?é")

    @app.post("/again")
    async def again() -> Response:
        return Response.redirect("/form", 307)

    @app.get("/done")
    async def done(request: Request) -> Response:
        return Response.html(f"<p>{request.method} {request.query_string}")

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url, follow_redirects=True) as client:
        answer = await client.post("/again", content=b"x")
    assert [step.status_code for step in answer.history] == [307, 303]
    assert (answer.status_code, answer.text) == (200, "<p>GET %C3%A9")
    nursery.cancel_scope.cancel()


# Streams


async def write_three(send):
    await send(b"one ")
    await send("zwölf ")
    await send(b"")
    await send(b"three")


async def test_a_stream_is_sent_part_by_part_after_its_head():
    exchange = await sent(Response.stream(write_three, status=206, headers={"x": "1"}, content_type="text/plain"))
    assert exchange.status == 206
    assert exchange.headers == {"x": "1", "content-type": "text/plain"}
    assert [part for part in exchange.parts if part] == [b"one ", "zwölf ".encode(), b"three"]
    assert exchange.log == ["head", "part", "part", "part", "part", "end"]


async def test_a_stream_is_of_bytes_unless_it_says_otherwise():
    assert (await sent(Response.stream(write_three))).headers == {"content-type": "application/octet-stream"}


async def test_a_stream_of_nothing_is_complete():
    async def write_nothing(_send): ...

    assert (await sent(Response.stream(write_nothing))).body == b""


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_stream_is_not_written_where_no_content_is_allowed(method, status):
    async def write(_send):
        pytest.fail("write_body was called")

    exchange = await sent(Response.stream(write, status=status), method)
    assert exchange.log == ["head", "end"]


async def test_a_stream_that_fails_has_no_end():
    async def write(send):
        await send(b"x")
        raise ZeroDivisionError

    exchange = FakeExchange()
    with pytest.raises(ZeroDivisionError):
        await Response.stream(write).send_to(exchange)
    assert exchange.log == ["head", "part"]


async def test_a_stream_is_written_in_the_task_and_the_scope_of_its_exchange():
    tasks = []

    async def write(send):
        tasks.append(trio.lowlevel.current_task())
        await send(b"x")
        scope.cancel()
        await send(b"y")

    exchange = FakeExchange()
    with trio.CancelScope() as scope:
        await Response.stream(write).send_to(exchange)
    assert scope.cancelled_caught
    assert tasks == [trio.lowlevel.current_task()]
    assert exchange.parts == [b"x"]


# Streams from async generators, and from other async iterators


class Log(list):
    """What a generator did, in order."""


async def three(log: Log):
    try:
        log.append("begun")
        yield b"one "
        yield "zwölf "
        yield b""
        yield b"three"
        log.append("at its end")
    finally:
        log.append("finally")


@pytest.mark.parametrize("made", [Response.stream, as_response])
async def test_a_generator_is_sent_part_by_part_after_its_head(made):
    log = Log()
    exchange = await sent(made(three(log)))
    assert exchange.headers == {"content-type": "application/octet-stream"}
    assert [part for part in exchange.parts if part] == [b"one ", "zwölf ".encode(), b"three"]
    assert exchange.log == ["head", "part", "part", "part", "part", "end"]
    assert log == ["begun", "at its end", "finally"]


class Countdown:
    """An async iterator that is no generator, and cannot be closed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __aiter__(self):
        return self

    async def __anext__(self) -> str:
        if not self.number:
            raise StopAsyncIteration
        self.number -= 1
        return str(self.number)


class Countable:
    """An async iterable whose iterator is a generator."""

    async def __aiter__(self):
        for number in range(3):
            yield str(number)


@pytest.mark.parametrize(("source", "body"), [(Countdown(3), b"210"), (Countable(), b"012"), (Countdown(0), b"")])
async def test_any_async_iterator_is_a_stream(source, body):
    assert (await sent(Response.stream(source, content_type="text/plain"))).body == body


async def test_a_channel_is_a_stream_and_is_closed_with_it():
    sender, receiver = trio.open_memory_channel(2)
    await sender.send("a")
    await sender.send("b")
    sender.close()
    assert (await sent(Response.stream(receiver))).body == b"ab"
    with pytest.raises(trio.ClosedResourceError):
        receiver.receive_nowait()


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_generator_is_not_begun_but_closed_where_no_content_is_allowed(method, status):
    log = Log()
    generator = three(log)
    exchange = await sent(Response.stream(generator, status=status), method)
    assert exchange.log == ["head", "end"]
    assert log == []
    assert await anext(generator, "closed") == "closed"


async def test_a_generator_of_a_response_that_is_never_sent_is_closed_by_aclose():
    sender, receiver = trio.open_memory_channel(0)
    response = Response.stream(receiver)
    await response.aclose()
    await response.aclose()
    with pytest.raises(trio.BrokenResourceError):
        sender.send_nowait("x")
    generator = three(Log())
    await Response.stream(generator).aclose()
    assert await anext(generator, "closed") == "closed"


async def test_to_close_what_holds_nothing_is_no_error():
    response = Response("x")
    assert not response.streamed
    await response.aclose()
    assert (await sent(response)).body == b"x"
    written = Response.stream(write_three)
    assert written.streamed
    await written.aclose()
    await Response.stream(Countdown(1)).aclose()


async def test_a_generator_is_closed_where_its_head_could_not_be_sent():
    class Refusing(FakeExchange):
        async def start_response(self, *_head) -> None:
            raise ResponseError("no")

    generator = three(Log())
    with pytest.raises(ResponseError, match="no"):
        await Response.stream(generator).send_to(Refusing())
    assert await anext(generator, "closed") == "closed"


async def test_a_generator_that_fails_has_no_end():
    async def fail():
        yield b"x"
        raise ZeroDivisionError

    exchange = FakeExchange()
    with pytest.raises(ZeroDivisionError):
        await Response.stream(fail()).send_to(exchange)
    assert exchange.log == ["head", "part"]


class Failing(FakeExchange):
    """Its first part cannot be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = False

    async def send_part(self, data: bytes) -> None:
        if not self.failed:
            self.failed = True
            raise ClientGone("the client has left")
        await super().send_part(data)


async def test_what_ends_a_send_is_raised_at_the_yield_and_the_generator_cleans_up():
    log = Log()

    async def source():
        try:
            yield b"x"
        except ClientGone:
            log.append("seen")
            raise
        finally:
            await trio.lowlevel.checkpoint()
            log.append("finally")

    with pytest.raises(ClientGone):
        await Response.stream(source()).send_to(Failing())
    assert log == ["seen", "finally"]


async def test_a_generator_may_catch_what_ended_a_send_and_go_on():
    async def source():
        try:
            yield b"x"
        except ClientGone:
            yield b"y"
        yield b"z"

    exchange = Failing()
    await Response.stream(source()).send_to(exchange)
    assert exchange.body == b"yz"


async def test_a_generator_may_catch_what_ended_a_send_and_end():
    async def source():
        with contextlib.suppress(ClientGone):
            yield b"x"

    exchange = Failing()
    await Response.stream(source()).send_to(exchange)
    assert exchange.body == b""


async def test_an_iterator_that_cannot_be_told_is_left_where_its_part_was_not_sent():
    countdown = Countdown(3)
    with pytest.raises(ClientGone):
        await Response.stream(countdown).send_to(Failing())
    assert countdown.number == 2


class Stuck(FakeExchange):
    """A client that does not read."""

    async def send_part(self, _data: bytes) -> None:
        await trio.sleep_forever()


async def test_a_generator_is_cancelled_at_its_yield_and_what_it_awaits_then_is_cancelled_unless_shielded():
    log = Log()

    async def source():
        try:
            yield b"x"
        except trio.Cancelled:
            log.append("cancelled")
            raise
        finally:
            try:
                await trio.sleep(1)
            except trio.Cancelled:
                log.append("again")
            with trio.move_on_after(5, shield=True):
                await trio.lowlevel.checkpoint()
                log.append("shielded")

    with trio.CancelScope() as scope:
        scope.cancel()
        await Response.stream(source()).send_to(Stuck())
    assert scope.cancelled_caught
    assert log == ["cancelled", "again", "shielded"]


async def test_a_scope_around_the_yields_of_a_generator_works_as_around_any_send(autojump_clock):
    async def source():
        with trio.move_on_after(5):
            yield b"x"

    exchange = Stuck()
    await Response.stream(source()).send_to(exchange)
    assert trio.current_time() == 5
    assert exchange.log == ["head", "end"]


async def test_a_nursery_around_the_yields_of_a_generator_works_as_around_any_send():
    async def fail() -> None:
        raise ZeroDivisionError

    async def source():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield b"x"

    with pytest.raises(ExceptionGroup) as caught:
        await Response.stream(source()).send_to(Stuck())
    assert caught.group_contains(ZeroDivisionError)


async def write_with_yield(send):
    yield b"x"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda: write_three(None), r"write_three, not write_three\(...\)"),
        (lambda: write_with_yield, r"write_with_yield\(\)"),
        (lambda: [b"x"], "not list"),
        (lambda: b"x", "not bytes"),
        (lambda: None, "not NoneType"),
    ],
)
def test_what_is_no_source_of_a_stream_is_refused_with_advice(source, said):
    with pytest.raises(ResponseError, match=said):
        Response.stream(source())


async def test_a_plain_function_is_no_source_of_a_stream():
    with pytest.raises(ResponseError, match="must be `async def`"):
        await Response.stream(lambda _send: None).send_to(FakeExchange())


async def test_a_lambda_that_calls_an_async_function_is_a_source():
    assert (await sent(Response.stream(lambda send: write_three(send=send)))).body == "one zwölf three".encode()


# What a handler may return


@pytest.mark.parametrize(
    ("value", "status", "content_type", "body"),
    [
        ("é", 200, "text/plain; charset=utf-8", "é".encode()),
        ("", 200, None, b""),
        (b"x", 200, "application/octet-stream", b"x"),
        ({"a": 1}, 200, "application/json", b'{"a":1}'),
        ({}, 200, "application/json", b"{}"),
        ([1], 200, "application/json", b"[1]"),
        (None, 204, None, b""),
        (Response("x", status=418), 418, "text/plain; charset=utf-8", b"x"),
    ],
)
async def test_what_is_plainly_a_response_is_one(value, status, content_type, body):
    exchange = await sent(as_response(value))
    assert (exchange.status, exchange.headers.get("content-type"), exchange.body) == (status, content_type, body)


@pytest.mark.parametrize(
    "response",
    [Response("x", status=201), Response.stream(write_three), Response.events(write_three), Response.file("x")],
    ids=["whole", "stream", "events", "file"],
)
def test_a_response_that_was_handed_over_shares_no_headers(response):
    before = list(response.headers)
    own = response.handed_over()
    assert (type(own), own.status, own.body) == (type(response), response.status, response.body)
    assert list(own.headers) == before
    own.set_cookie("session", "secret")
    assert list(response.headers) == before


def test_a_response_of_a_users_own_class_keeps_what_it_has():
    class Tagged(Response):
        def __init__(self, tag: str) -> None:
            super().__init__(tag)
            self.tag = tag

    assert Tagged("x").handed_over().tag == "x"


@pytest.mark.parametrize("make", [Response.stream, Response.events])
async def test_a_generator_is_handed_over_or_sent_once_and_a_second_time_is_refused(make):
    async def texts():
        yield "x"

    kept = make(texts())
    own = kept.handed_over()
    await kept.aclose()  # which holds nothing any more
    for again in (kept.handed_over, lambda: kept.send_to(FakeExchange())):
        with pytest.raises(ResponseError, match="this stream was sent before; make a new Response for each request"):
            await again()
    assert b"x" in (await sent(own)).body
    with pytest.raises(ResponseError, match="this stream was sent before"):
        await sent(own)


async def test_a_function_is_called_for_each_exchange():
    kept = Response.stream(write_three)
    assert [(await sent(kept.handed_over())).body for _ in "12"] == [(await sent(kept)).body] * 2


async def test_a_source_is_closed_once():
    closed = []

    class Source:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise StopAsyncIteration

        async def aclose(self) -> None:
            closed.append(True)

    response = Response.stream(Source())
    await sent(response)
    await response.aclose()
    assert closed == [True]


def test_a_response_is_itself():
    response = Response.stream(write_three)
    assert as_response(response) is response


@pytest.mark.parametrize("value", [1, 1.5, True, (1, 2), {1}, object(), bytearray(b"x"), Response, (200, "x")])
def test_what_is_no_response_is_a_response_error_that_names_its_type(value):
    with pytest.raises(ResponseError, match=f"it returned {type(value).__name__}, which is no response"):
        as_response(value)


@pytest.mark.parametrize("status", [99, 199, 600, "200", None])
def test_a_status_that_is_none_is_refused_when_the_response_is_made(status):
    with pytest.raises(ResponseError, match="200 to 599"):
        Response(status=status)


@pytest.mark.parametrize("part", [None, 0, []])
async def test_a_part_that_is_neither_text_nor_bytes_is_refused(part):
    exchange = FakeExchange()

    async def write_body(send) -> None:
        await send(part)

    with pytest.raises(ResponseError, match="str or bytes"):
        await Response.stream(write_body).send_to(exchange)


async def test_a_body_that_was_replaced_by_something_else_is_refused():
    response = Response("text")
    response.body = ["abc"]
    with pytest.raises(ResponseError, match="str or bytes"):
        await response.send_to(FakeExchange())


@pytest.mark.parametrize("part", [bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("I")])
async def test_a_part_in_another_kind_of_buffer_is_sent_as_its_bytes(part):
    exchange = FakeExchange()

    async def write_body(send) -> None:
        await send(part)

    await Response.stream(write_body).send_to(exchange)
    assert exchange.body == b"abcd"

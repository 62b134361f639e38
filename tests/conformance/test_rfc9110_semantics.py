"""RFC 9110: what a server owes a client whatever the handler does: Date, HEAD, Expect, and errors without details."""

from __future__ import annotations

import email.utils
import time

import pytest
import trio

from tests.support import Cut, happens, start
from tests.support.logs import errors, tracebacks
from trioserve import Abandoned, App, Cause, Completed, HTTPError, Limits, Request, Response
from trioserve.core.application import Rules
from trioserve.server.server import date_field

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
WAITING = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"


async def test_6_6_1_every_answer_has_one_date_of_now(nursery):
    server = await start(nursery, some_resources())
    client = await server.connect()

    for target in ("/", "/stream", "/nowhere", "/nothing"):
        before = int(time.time())
        answer = await client.get(target)
        date = answer.get("date")
        assert date is not None
        assert date.endswith(" GMT")
        assert before <= email.utils.parsedate_to_datetime(date).timestamp() <= time.time()


def test_6_6_1_a_date_is_made_once_a_second():
    times = iter([784_111_777.0, 784_111_777.9, 784_111_778.0])
    date = date_field(lambda: next(times))

    first, second = date(), date()
    assert second is first == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert date() == b"Sun, 06 Nov 1994 08:49:38 GMT"


async def test_6_6_1_a_refusal_has_a_date_too(nursery):
    server = await start(nursery, some_resources())
    client = await server.ask(b"hello\r\n\r\n")

    assert (await client.answer()).get("date") is not None


async def test_6_6_1_a_date_set_by_the_handler_is_the_one_that_is_sent(nursery):
    app = App()
    date = "Sun, 06 Nov 1994 08:49:37 GMT"

    @app.get("/")
    async def handler() -> Response:
        return Response("old", headers={"Date": date})

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get()).all("date") == [date]


@pytest.mark.parametrize("target", ["/", "/stream", "/stream-of-known-length", "/nothing", "/nowhere", "/failing"])
async def test_9_3_2_head_has_the_fields_of_get_and_no_content(nursery, target):
    server = await start(nursery, some_resources())
    client = await server.connect()

    got = await client.get(target)
    head = await client.get(target, method="HEAD")

    assert head.status == got.status
    assert without_date(head.headers) == without_date(got.headers)
    assert head.body == b""
    # Nothing was sent behind the head: the next answer begins where the head ended.
    assert (await client.get()).body == b"hello"


def without_date(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name != "date"]


async def test_7_4_a_target_for_https_in_the_clear_is_misdirected(nursery, caplog):
    server = await start(nursery, some_resources())
    client = await server.connect()

    answer = await client.get("https://test/")

    assert (answer.status, answer.closes) == (421, True)
    assert (await server.records.next(Completed)).status == 421
    assert not errors(caplog)


async def test_7_4_a_target_for_https_in_the_clear_is_served_where_a_trusted_proxy_vouches_for_it(nursery):
    server = await start(nursery, some_resources(), trusted_proxies=["127.0.0.1"])

    for target, proto, status in (("https", "https", 200), ("http", "https", 421), ("https", "http", 421)):
        client = await server.connect()
        answer = await client.get(f"{target}://test/", "X-Forwarded-For: 192.0.2.1", f"X-Forwarded-Proto: {proto}")
        assert answer.status == status


async def test_9_3_2_head_writes_no_stream(nursery):
    app = App()

    async def write_body(send) -> None:
        pytest.fail("the stream was written")

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get(method="HEAD")).status == 200
    assert (await server.records.next(Completed)).response_body_bytes == 0


@pytest.mark.parametrize(
    ("parts", "arrives", "advice"),
    [
        (["hel"], b"hel", "shorter than its Content-Length says"),
        ([], b"", "shorter than its Content-Length says"),
        (["hel", "lo!"], b"hel", "longer than its Content-Length says"),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_8_6_a_stream_that_is_not_as_long_as_it_says_is_cut_and_its_author_told(
    nursery, caplog, parts, arrives, advice, version
):
    app = App()

    async def write_body(send) -> None:
        for part in parts:
            await send(part)

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body, headers={"content-length": "5"})

    server = await start(nursery, app)
    client = await server.ask(f"GET / HTTP/{version}\r\nHost: test\r\n\r\n".encode() + GET)

    with pytest.raises(Cut) as cut:
        await client.answer()
    assert (cut.value.answer.status, cut.value.answer.body) == (200, arrives)
    record = await server.records.next(Abandoned)
    assert (record.cause, record.sent_status, record.response_body_bytes) == (Cause.HANDLER_FAILED, 200, len(arrives))
    assert server.records.unread == []
    assert len(errors(caplog)) == 1
    assert advice in caplog.text


async def test_8_6_what_a_stream_sends_beyond_its_length_is_no_part_of_another_response(nursery):
    app = App()

    async def write_body(send) -> None:
        await send("hello")
        await send("HTTP/1.1 200 OK\r\n\r\n")

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body, headers={"content-length": "5"})

    server = await start(nursery, app)
    client = await server.ask(GET + GET)

    assert (await client.answer()).body == b"hello"
    assert await client.is_closed()


async def test_10_1_1_a_client_that_waits_hears_100_when_the_handler_first_asks_for_the_body(nursery):
    started, may_read = trio.Event(), trio.Event()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        started.set()
        await happens(may_read.wait())
        return await request.body()

    server = await start(nursery, app)
    client = await server.ask(WAITING)

    await happens(started.wait())
    with pytest.raises(BlockingIOError):
        client.stream.socket._sock.recv(1)
    may_read.set()
    interim = await client.receive()
    assert interim.startswith(b"HTTP/1.1 100 ")
    assert interim.endswith(b"\r\n\r\n")
    await client.send(b"abc")

    answer = await client.answer("POST")
    assert (answer.interim, answer.status, answer.body, answer.closes) == ([], 200, b"abc", False)
    assert (await client.post(b"def")).body == b"def"


async def test_10_1_1_100_is_sent_once_for_a_body_that_is_read_in_parts(nursery):
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return b"".join([part async for part in request.stream()])

    server = await start(nursery, app)
    client = await server.ask(WAITING)

    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += await client.receive()
    for byte in b"abc":
        await client.send(bytes([byte]))

    answer = await client.answer("POST")
    assert (answer.interim, answer.body) == ([], b"abc")


async def test_10_1_1_a_body_that_is_there_already_needs_no_100(nursery):
    server = await start(nursery, echo())
    client = await server.ask(WAITING + b"abc")

    answer = await client.answer("POST")

    assert (answer.interim, answer.body, answer.closes) == ([], b"abc", False)


async def test_10_1_1_a_handler_that_never_asks_sends_no_100_and_the_connection_ends(nursery):
    """The client may send its body all the same or not; nobody can tell what its next bytes are."""
    app = App()

    @app.post("/")
    async def handler() -> str:
        return "not read"

    server = await start(nursery, app)
    client = await server.ask(WAITING)

    answer = await client.answer("POST")

    assert (answer.interim, answer.body, answer.closes) == ([], b"not read", True)
    assert await client.is_closed()


async def test_10_1_1_a_body_that_is_too_large_is_refused_instead_of_asked_for(nursery):
    server = await start(nursery, echo(), limits=Limits(body=2))
    client = await server.ask(WAITING)

    answer = await client.answer("POST")

    assert (answer.interim, answer.status, answer.closes) == ([], 413, True)
    assert await client.is_closed()


async def test_10_1_1_a_1_0_client_gets_no_100(nursery):
    server = await start(nursery, echo())
    client = await server.ask(WAITING.replace(b"1.1", b"1.0"))
    await client.send(b"abc")

    answer = await client.answer("POST")

    assert (answer.interim, answer.body) == ([], b"abc")


@pytest.mark.parametrize("expect", ["100-Continue", "100-CONTINUE", " 100-continue ,", ",", ""])
async def test_10_1_1_an_expectation_may_be_written_in_any_way_that_a_list_allows(nursery, expect):
    server = await start(nursery, some_resources())
    client = await server.connect()

    assert (await client.get("/", f"Expect: {expect}")).status == 200


@pytest.mark.parametrize(
    "expect",
    ["200-ok", "100-continue, 200-ok", "100-continue=1", "100-continue;a=b", "100", "100-continue 100-continue"],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_10_1_1_an_expectation_that_nobody_knows_is_417(nursery, caplog, expect, version):
    server = await start(nursery, never_reached())
    client = await server.ask(
        f"POST / HTTP/{version}\r\nHost: test\r\nContent-Length: 3\r\nExpect: {expect}\r\n\r\n".encode()
    )

    answer = await client.answer("POST")

    assert (answer.interim, answer.status, answer.closes) == ([], 417, True)
    assert b"100-continue" in answer.body
    assert await client.is_closed()
    record = await server.records.next(Completed)
    assert (record.status, record.route) == (417, "/")
    assert not errors(caplog)


async def test_10_1_1_a_second_expectation_is_no_better_known_in_a_line_of_its_own(nursery):
    server = await start(nursery, never_reached())
    client = await server.connect()

    assert (await client.get("/", "Expect: 100-continue", "Expect: 200-ok", method="POST")).status == 417


async def test_10_1_1_an_error_handler_may_answer_417_in_its_own_way(nursery):
    app = never_reached()

    @app.error_handler(417)
    async def handler(_request, error: HTTPError) -> Response:
        return Response("expect less", status=error.status)

    server = await start(nursery, app)
    client = await server.connect()

    answer = await client.get("/", "Expect: 200-ok", method="POST")
    assert (answer.status, answer.body, answer.closes) == (417, b"expect less", True)


def never_reached() -> App:
    app = App()

    @app.post("/")
    async def handler() -> None:
        pytest.fail("the handler was called")

    return app


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_15_5_14_a_body_as_large_as_the_limit_is_served_and_one_byte_more_is_413(nursery, chunked):
    server = await start(nursery, echo(), limits=Limits(body=1000))
    for size, status in ((1000, 200), (1001, 413)):
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        body = b"%X\r\n%b\r\n0\r\n\r\n" % (size, bytes(size)) if chunked else bytes(size)
        client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\n%b\r\n\r\n" % framing)
        await client.send(body)

        answer = await client.answer("POST")

        assert (answer.status, answer.closes) == (status, status == 413)
        assert (await server.records.next(Completed)).status == status


async def test_15_5_14_a_route_may_take_larger_bodies_than_the_others(nursery):
    app = echo()

    @app.put("/", max_body=20)
    async def handler(request: Request) -> bytes:
        return await request.body()

    server = await start(nursery, app, limits=Limits(body=10))

    for method, status in (("PUT", 200), ("POST", 413)):
        client = await server.ask(f"{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n".encode())
        await client.send(bytes(20))
        assert (await client.answer()).status == status


async def test_15_5_14_a_handler_may_answer_for_itself_that_a_body_is_too_large(nursery):
    started = trio.Event()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        started.set()
        try:
            await request.body()
        except HTTPError as error:
            return f"caught {error.status}"
        raise AssertionError

    server = await start(nursery, app, limits=Limits(body=10))
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    await happens(started.wait())
    await client.send(b"B\r\n%b\r\n" % bytes(11))

    assert (await client.answer("POST")).body == b"caught 413"


async def test_15_6_1_a_handler_that_raises_is_500_without_details_and_the_connection_goes_on(nursery, caplog):
    server = await start(nursery, some_resources())
    client = await server.connect()

    answer = await client.get("/failing")

    assert (answer.status, answer.closes) == (500, False)
    assert b"secret" not in answer.body
    assert (await client.get()).body == b"hello"
    [error] = tracebacks(caplog)
    assert (type(error), str(error)) == (ValueError, "secret")
    assert len(errors(caplog)) == 1
    assert (await server.records.next(Completed)).status == 500


async def test_15_6_1_a_handler_that_raises_several_errors_at_once_is_500_too(nursery, caplog):
    app = App()

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(fail)
            inner.start_soon(fail)

    async def fail() -> None:
        raise ValueError

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get()).status == 500
    assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize("kind", [SystemExit, trio.ClosedResourceError, AssertionError, RecursionError])
async def test_15_6_1_whatever_a_handler_raises_is_500(nursery, kind):
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise kind

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get()).status == 500
    assert (await client.get()).status == 500


async def test_15_6_1_a_plain_handler_that_raises_is_500(nursery, caplog):
    app = App()

    @app.get("/")
    def handler() -> None:
        raise ValueError

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get()).status == 500
    assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize("value", [42, object, ("a", 200), {1: object}], ids=["int", "class", "tuple", "not JSON"])
async def test_15_6_1_what_is_no_response_is_500_and_the_log_names_the_handler(nursery, caplog, value):
    async def returns_nonsense() -> object:
        return value

    app = App()
    app.get("/")(returns_nonsense)
    server = await start(nursery, app)
    client = await server.connect()

    answer = await client.get()

    assert (answer.status, answer.closes) == (500, False)
    assert len(errors(caplog)) == 1
    assert f"{__name__}.{returns_nonsense.__qualname__}" in caplog.text
    assert (await client.get()).status == 500


BAD_RESPONSES = {
    "a header with a line break": lambda: Response("a", headers={"x": "b\r\nSet-Cookie: c"}),
    "a header with a NUL": lambda: Response("a", headers={"x": "\0"}),
    "a header beyond ISO-8859-1": lambda: Response("a", headers={"x": "☃"}),
    "a header name with a space": lambda: Response("a", headers={"x y": "b"}),
    "an empty header name": lambda: Response("a", headers={"": "b"}),
    "a header that is no text": lambda: Response("a", headers={"x": 1}),
    "a Content-Length that is too large": lambda: Response("a", headers={"content-length": "2"}),
    "a Content-Length that is too small": lambda: Response("a", headers={"content-length": "0"}),
    "a Content-Length that is no number": lambda: Response("a", headers={"content-length": "a"}),
    "an interim status code": lambda: Response("a", status=100),
    "a status code that is none": lambda: Response("a", status=1000),
    "a Content-Length of thousands of digits": lambda: Response("a", headers={"content-length": "9" * 5000}),
    "two Content-Lengths": lambda: Response("a", headers=[("content-length", "1"), ("content-length", "2")]),
    "a transfer coding": lambda: Response("a", headers={"transfer-encoding": "chunked"}),
    "a stream with a transfer coding": lambda: Response.stream(write_nothing, headers={"transfer-encoding": "chunked"}),
    "Keep-Alive": lambda: Response("a", headers={"keep-alive": "timeout=5"}),
    "Proxy-Connection": lambda: Response("a", headers={"proxy-connection": "close"}),
    "TE": lambda: Response("a", headers={"te": "trailers"}),
    "trailers": lambda: Response("a", headers={"trailer": "x-sum"}),
    "an upgrade": lambda: Response("a", headers={"connection": "upgrade", "upgrade": "h2c"}),
    "an Upgrade field": lambda: Response("a", headers={"upgrade": "h2c"}),
    "Connection with another option than close": lambda: Response("a", headers={"connection": "keep-alive"}),
    "a stream with another option than close": lambda: Response.stream(write_nothing, headers={"connection": "x"}),
    "a 204 with a transfer coding": lambda: Response(status=204, headers={"transfer-encoding": "chunked"}),
    "a stream with two Content-Lengths": lambda: Response.stream(
        write_nothing, headers=[("content-length", "1"), ("content-length", "2")]
    ),
    "a stream with a bad header": lambda: Response.stream(write_nothing, headers={"x": "\n"}),
    "a stream with a bad status code": lambda: Response.stream(write_nothing, status=0),
}


async def write_nothing(send) -> None:
    pytest.fail("there is nothing to write")


@pytest.mark.parametrize("make", BAD_RESPONSES.values(), ids=BAD_RESPONSES)
async def test_15_6_1_a_response_that_http_cannot_carry_is_500_and_the_connection_goes_on(nursery, caplog, make):
    app = App()

    @app.get("/")
    async def handler() -> Response:
        return make()

    @app.get("/well")
    async def well() -> str:
        return "well"

    server = await start(nursery, app)
    client = await server.connect()

    answer = await client.get()

    assert (answer.status, answer.all("set-cookie"), answer.closes) == (500, [], False)
    assert len(errors(caplog)) == 1
    assert (await client.get("/well")).body == b"well"


async def test_15_6_1_what_a_handler_may_not_set_is_500_also_in_the_headers_of_its_error(nursery, caplog):
    class Endpoint:
        name, rules = "raw", Rules()

        async def __call__(self, _exchange) -> None:
            raise HTTPError(403, headers={"connection": "keep-alive"})

    app = App()
    app.endpoint = lambda _head: Endpoint()
    server = await start(nursery, app)
    client = await server.connect()

    for _ in range(2):
        answer = await client.get()
        assert (answer.status, answer.closes) == (500, False)
    assert all("keep-alive" in str(error) for error in tracebacks(caplog))


NO_CONTENT = {
    204: None,
    205: "0",
    304: None,
}


@pytest.mark.parametrize(("status", "length"), NO_CONTENT.items())
@pytest.mark.parametrize("kind", ["whole", "whole with its length", "stream", "stream with its length"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_6_4_1_a_status_code_without_content_has_none_whatever_the_handler_gives(
    nursery, status, length, kind, version
):
    app = App()

    async def write_body(send) -> None:
        await send("hello")

    @app.get("/")
    async def handler() -> Response:
        headers = {"content-length": "5"} if "length" in kind else {}
        if kind.startswith("stream"):
            return Response.stream(write_body, status=status, headers=headers)
        return Response("hello", status=status, headers=headers)

    server = await start(nursery, app)
    client = await server.ask(f"GET / HTTP/{version}\r\nHost: test\r\n\r\n".encode())

    answer = await client.answer()
    assert (answer.status, answer.body, answer.get("transfer-encoding")) == (status, b"", None)
    told = "5" if status == 304 and "length" in kind else length
    assert answer.get("content-length") == told
    if version == "1.1":
        assert (await client.get()).status == status  # nothing was sent behind the head
    assert (await server.records.next(Completed)).response_body_bytes == 0


async def test_15_5_22_a_426_says_to_which_protocol_and_the_connection_goes_on(nursery):
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise HTTPError(426, headers={"upgrade": "HTTP/3.0"})

    server = await start(nursery, app)
    client = await server.connect()

    for _ in range(2):
        answer = await client.get()
        assert (answer.status, answer.get("upgrade"), answer.get("connection")) == (426, "HTTP/3.0", "upgrade")


async def test_15_a_handler_may_raise_any_error_status(nursery, caplog):
    app = App()

    @app.get("/{status:int}")
    async def handler(status: int) -> None:
        raise HTTPError(status, "because")

    server = await start(nursery, app)
    client = await server.connect()

    for status in (400, 404, 418, 429, 500, 503, 599):
        answer = await client.get(f"/{status}")
        assert (answer.status, answer.closes) == (status, False)
        assert b"because" in answer.body
    assert not errors(caplog)


async def test_15_an_error_raised_behind_the_begin_of_a_stream_cuts_it(nursery):
    app = App()

    async def write_body(send) -> None:
        await send("part")
        raise HTTPError(404)

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app)
    client = await server.connect()

    with pytest.raises(Cut) as cut:
        await client.get()
    assert cut.value.answer.status == 200


def echo() -> App:
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.body()

    return app


def some_resources() -> App:
    app = App()

    async def write_body(send) -> None:
        await send("hello")

    @app.get("/")
    async def whole() -> str:
        return "hello"

    @app.get("/stream")
    async def stream() -> Response:
        return Response.stream(write_body)

    @app.get("/stream-of-known-length")
    async def known() -> Response:
        return Response.stream(write_body, headers={"content-length": "5"})

    @app.get("/nothing")
    async def nothing() -> None:
        return None

    @app.get("/failing")
    async def failing() -> None:
        raise ValueError("secret")

    return app

"""RFC 9112 §9: how long a connection lasts, pipelining, and an end at which no answer is lost."""

from __future__ import annotations

import httpx
import pytest
import trio

from tests.support import happens, start
from tests.support.logs import errors
from trioserve import App, Completed, Deadlines, Limits, Request, Response

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def app_with_a_name() -> App:
    """An app that answers a path with itself, streams it, or takes a body and does not read it."""
    app = App()

    @app.get("/stream/{name}")
    async def stream(name: str) -> Response:
        async def write_body(send) -> None:
            await send(name)

        return Response.stream(write_body)

    @app.get("/{name:path}")
    async def handler(name: str) -> str:
        return name

    @app.post("/{name:path}")
    async def unread(name: str) -> str:
        return name

    return app


async def test_9_3_a_connection_serves_one_exchange_after_another(nursery):
    server = await start(nursery, app_with_a_name())
    client = await server.connect()

    for number in range(1, 5):
        answer = await client.get(f"/{number}")
        assert (answer.body, answer.closes) == (b"%d" % number, False)

    records = [await server.records.next(Completed) for _ in range(4)]
    assert [record.exchange_number for record in records] == [1, 2, 3, 4]
    assert len({record.connection_id for record in records}) == 1


async def test_9_3_a_stream_does_not_end_the_connection(nursery):
    server = await start(nursery, app_with_a_name())
    client = await server.connect()

    assert (await client.get("/stream/a")).body == b"a"
    assert (await client.get("/b")).body == b"b"


async def test_9_3_connection_close_ends_the_connection_after_the_answer(nursery):
    server = await start(nursery, app_with_a_name())
    client = await server.connect()

    answer = await client.get("/last", "Connection: close")

    assert (answer.body, answer.closes) == (b"last", True)
    assert await client.is_closed()


async def test_9_3_connection_close_ends_the_connection_after_a_stream_too(nursery):
    server = await start(nursery, app_with_a_name())
    client = await server.connect()

    answer = await client.get("/stream/last", "Connection: close")

    assert (answer.body, answer.closes) == (b"last", True)
    assert await client.is_closed()


async def test_9_3_the_handler_may_ask_for_the_connections_end(nursery):
    app = App()

    @app.get("/")
    async def handler() -> Response:
        return Response("last", headers={"connection": "close"})

    server = await start(nursery, app)
    client = await server.connect()

    answer = await client.get()

    assert (answer.body, answer.closes) == (b"last", True)
    assert await client.is_closed()


@pytest.mark.parametrize("value", ["close", "Close", "close, close"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_9_6_nothing_is_served_behind_an_answer_with_connection_close(nursery, value, streamed):
    served: list[str] = []
    app = App()

    async def write_body(send) -> None:
        await send("last")

    @app.post("/")
    async def handler() -> Response:
        served.append("once")
        headers = {"connection": value}
        return Response.stream(write_body, headers=headers) if streamed else Response("last", headers=headers)

    server = await start(nursery, app)
    # Its content is not read, which announces the end of the connection too, but only once.
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n" + bytes(10) + GET * 2)

    answer = await client.answer("POST")
    assert (answer.body, answer.all("connection")) == (b"last", ["close"])
    assert await client.is_closed()
    assert served == ["once"]


@pytest.mark.parametrize("behind", [b"", GET, b"nonsense\r\n\r\n", b"\0" * 100_000, GET[:-1]])
async def test_9_6_what_comes_behind_connection_close_is_ignored_without_harm(nursery, caplog, behind):
    server = await start(nursery, app_with_a_name())
    client = await server.ask(b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" + behind)

    answer = await client.answer()
    assert (answer.body, answer.closes) == (b"last", True)
    assert await client.is_closed()
    await server.records.next(Completed)
    assert server.records.unread == []
    assert not errors(caplog)


async def test_9_3_an_offer_to_change_protocols_is_ignored_with_content_too(nursery):
    server = await start(nursery, app_with_a_name())
    client = await server.connect()

    for _ in range(2):
        assert (await client.post(b"xyz", "/a", "Connection: upgrade", "Upgrade: websocket")).body == b"a"
    assert (await client.get("/b")).body == b"b"


async def test_9_3_an_offer_to_change_protocols_is_ignored(nursery):
    server = await start(nursery, app_with_a_name())
    client = await server.connect()

    assert (await client.get("/a", "Connection: upgrade", "Upgrade: h2c")).body == b"a"
    assert (await client.get("/b")).body == b"b"


@pytest.mark.parametrize("split", [None, 1, 40], ids=["in one segment", "byte by byte", "by 40 bytes"])
async def test_9_3_2_pipelined_requests_are_answered_in_their_order(nursery, split):
    server = await start(nursery, app_with_a_name())
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(20))
    client = await server.connect()

    step = split or len(requests)
    for begin in range(0, len(requests), step):
        await client.send(requests[begin : begin + step])

    assert [(await client.answer()).body for _ in range(20)] == [b"%d" % number for number in range(20)]


async def test_9_3_2_requests_with_bodies_can_be_pipelined(nursery):
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.body()

    server = await start(nursery, app)
    client = await server.ask(
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc"
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nghi"
    )

    assert [(await client.answer()).body for _ in range(3)] == [b"abc", b"def", b"ghi"]


async def test_9_3_2_a_pipelined_request_begins_after_the_end_of_the_one_before(nursery):
    steps: list[str] = []
    app = App()

    @app.get("/{name}")
    async def handler(name: str) -> str:
        steps.append(f"{name} begins")
        await trio.lowlevel.checkpoint()
        steps.append(f"{name} ends")
        return name

    server = await start(nursery, app)
    client = await server.ask(
        b"GET /a HTTP/1.1\r\nHost: test\r\n\r\nGET /b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )

    assert [(await client.answer()).body for _ in range(2)] == [b"a", b"b"]
    assert steps == ["a begins", "a ends", "b begins", "b ends"]


async def test_9_3_2_more_than_a_megabyte_of_pipelined_requests_is_served(nursery):
    server = await start(nursery, app_with_a_name())
    count = 1200
    client = await server.connect()
    padding = b"a" * 1000

    async def push() -> None:
        await client.send(b"".join(b"GET /%d?%b HTTP/1.1\r\nHost: test\r\n\r\n" % (n, padding) for n in range(count)))

    async with trio.open_nursery() as pushing:
        pushing.start_soon(push)
        answers = [(await client.answer()).body for _ in range(count)]

    assert answers == [b"%d" % number for number in range(count)]


async def test_9_3_2_nothing_is_served_behind_connection_close(nursery):
    served: list[str] = []
    app = App()

    @app.get("/")
    async def handler() -> str:
        served.append("once")
        return "last"

    server = await start(nursery, app)
    client = await server.ask(CLOSING + GET + GET)

    assert (await client.answer()).body == b"last"
    assert await client.is_closed()
    assert served == ["once"]


async def test_9_5_an_ordinary_client_pool_keeps_its_connection(nursery):
    server = await start(nursery, app_with_a_name())

    async with httpx.AsyncClient(base_url=server.url) as client:
        for name in ("a", "b", "stream/c"):
            response = await client.get(f"/{name}")
            assert response.text == name.removeprefix("stream/")
        response = await client.post("/d", content=b"not read")
        assert response.text == "d"

    records = [await server.records.next(Completed) for _ in range(4)]
    assert len({record.connection_id for record in records}) == 1


@pytest.mark.parametrize("size", [1, 1000], ids=["one byte", "as much as the limit"])
async def test_9_6_a_small_unread_body_is_read_over_and_the_connection_goes_on(nursery, size):
    server = await start(nursery, app_with_a_name(), limits=Limits(unread_body=1000))
    client = await server.ask(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size)

    answer = await client.answer("POST")
    assert (answer.body, answer.closes) == (b"a", False)
    await client.send(bytes(size))

    assert (await client.get("/b")).body == b"b"


async def test_9_6_a_large_unread_body_closes_the_connection_and_the_answer_says_so(nursery):
    server = await start(nursery, app_with_a_name(), limits=Limits(unread_body=1000))
    client = await server.ask(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 1001\r\n\r\n")

    answer = await client.answer("POST")

    assert (answer.body, answer.closes) == (b"a", True)
    assert await client.is_closed()


async def test_9_6_a_chunked_unread_body_is_read_over_up_to_the_limit(nursery):
    server = await start(nursery, app_with_a_name(), limits=Limits(unread_body=1000))
    client = await server.ask(b"POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")

    assert (await client.answer("POST")).body == b"a"
    await client.send(b"3E8\r\n%b\r\n0\r\n\r\n" % bytes(1000))

    assert (await client.get("/b")).body == b"b"


async def test_9_6_a_chunked_unread_body_over_the_limit_ends_the_connection(nursery):
    server = await start(nursery, app_with_a_name(), limits=Limits(unread_body=1000))
    client = await server.ask(b"POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")

    assert (await client.answer("POST")).body == b"a"
    await client.send(b"3E9\r\n%b\r\n" % bytes(1001))

    assert await client.is_closed()


async def test_9_6_malformed_chunks_of_an_unread_body_end_the_connection_in_silence(nursery, caplog):
    server = await start(nursery, app_with_a_name())
    client = await server.ask(b"POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")

    assert (await client.answer("POST")).body == b"a"
    await client.send(b"no size\r\n")

    assert await client.is_closed()
    await server.records.next(Completed)
    assert server.records.unread == []
    assert not errors(caplog)


async def test_9_6_a_part_of_the_body_may_stay_unread(nursery):
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        async for part in request.stream():
            return part
        raise AssertionError

    server = await start(nursery, app)
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")

    assert (await client.answer("POST")).body == b"abc"
    await client.send(b"def")
    assert (await client.post(b"ghi")).body == b"ghi"


PUSHERS = {
    "413: too large": (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n", 413),
    "400: not HTTP": (b"\x00" * 100 + b"\r\n\r\n", 400),
    "404: nothing there": (b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n", 404),
    "200: not read": (b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n", 200),
}


@pytest.mark.parametrize(("head", "status"), PUSHERS.values(), ids=PUSHERS)
async def test_9_6_a_client_that_is_still_sending_gets_its_answer_whole(nursery, head, status):
    """A close with unread bytes would send a RST, which can destroy an answer on its way."""
    app = App()

    @app.post("/", max_body=1000)
    async def limited() -> None:
        pytest.fail("the handler was called")

    @app.put("/", max_body=10**9)
    async def handler() -> bytes:
        return bytes(200_000)

    server = await start(nursery, app)
    client = await server.connect()
    await client.send(head + bytes(1_000_000))

    answer = await client.answer()

    assert (answer.status, answer.closes) == (status, True)
    assert len(answer.body) == int(answer.get("content-length") or 0)
    assert await client.is_closed()


async def test_9_6_a_client_that_never_stops_sending_is_cut_when_the_linger_is_over(nursery):
    server = await start(nursery, app_with_a_name(), deadlines=Deadlines(linger=0.1), limits=Limits(body=10))
    client = await server.ask(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n")
    assert (await client.answer("POST")).status == 413

    async def push_for_ever() -> None:
        while True:
            await client.stream.send_all(bytes(65536))

    with pytest.raises(trio.BrokenResourceError):
        await happens(push_for_ever())

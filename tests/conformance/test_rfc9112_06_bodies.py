"""RFC 9112 §6-§8: message bodies in both directions, by length, in chunks, and until the close."""

from __future__ import annotations

import pytest
import trio

from tests.support import Cut, happens, start
from tests.support.logs import errors
from trioserve import Abandoned, App, Cause, Completed, Limits, Outcome, Phase, Request, Response
from trioserve.connection.connection import UNREAD_AFTER

CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = bytes(range(256)) * 4096  # a mebibyte, more than any one segment


def echo() -> App:
    """An app that sends the request's content back, whole."""
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.body()

    return app


async def test_6_1_a_response_has_no_other_transfer_coding_than_chunked_and_no_length_beside_it(nursery):
    server = await start(nursery, streaming(b"abc", b"def"))
    client = await server.connect()

    answer = await client.get()

    assert (answer.get("transfer-encoding"), answer.get("content-length")) == ("chunked", None)
    assert answer.body == b"abcdef"


async def test_6_2_a_whole_response_has_its_length(nursery):
    server = await start(nursery, echo())
    client = await server.connect()

    answer = await client.post(b"abc")

    assert (answer.get("content-length"), answer.get("transfer-encoding")) == ("3", None)


@pytest.mark.parametrize("content", [b"", b"a", LARGE], ids=["empty", "one byte", "large"])
async def test_6_3_a_body_of_known_length_arrives_whole(nursery, content):
    server = await start(nursery, echo())
    client = await server.connect()

    assert (await client.post(content)).body == content
    assert (await client.post(b"again")).body == b"again"
    record = await server.records.next(Completed)
    assert (record.request_body_bytes, record.response_body_bytes) == (len(content), len(content))


async def test_6_3_a_body_in_single_bytes_arrives_whole(nursery):
    server = await start(nursery, echo())
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n")

    for byte in b"abcde":
        await client.send(bytes([byte]))

    assert (await client.answer()).body == b"abcde"


async def test_6_3_a_request_without_length_has_no_content(nursery):
    server = await start(nursery, echo())
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\n\r\n")

    assert (await client.answer()).body == b""


@pytest.mark.parametrize("status", [204, 304])
async def test_6_3_a_response_of_204_or_304_ends_with_its_head(nursery, status):
    app = App()

    @app.get("/")
    async def whole() -> Response:
        return Response(b"not to be sent", status=status)

    @app.get("/stream")
    async def stream() -> Response:
        return Response.stream(never, status=status)

    async def never(send) -> None:
        pytest.fail("there is nothing to write")

    server = await start(nursery, app)
    client = await server.connect()

    for target in ("/", "/stream", "/"):
        answer = await client.get(target)
        assert (answer.status, answer.body, answer.get("transfer-encoding")) == (status, b"", None)
        assert (await server.records.next(Completed)).response_body_bytes == 0


async def test_6_3_none_is_204_without_a_length(nursery):
    app = App()

    @app.get("/")
    async def handler() -> None:
        return None

    server = await start(nursery, app)
    client = await server.connect()

    answer = await client.get()

    assert (answer.status, answer.get("content-length")) == (204, None)


async def test_6_3_a_stream_to_a_1_0_client_ends_with_the_connection(nursery):
    server = await start(nursery, streaming(b"abc", b"def"))
    client = await server.ask(b"GET / HTTP/1.0\r\n\r\n")

    answer = await client.answer()

    assert answer.body == b"abcdef"
    assert (answer.get("transfer-encoding"), answer.get("content-length"), answer.closes) == (None, None, True)
    assert (await server.records.next(Completed)).response_body_bytes == 6


async def test_6_3_a_stream_of_known_length_is_not_chunked(nursery):
    server = await start(nursery, streaming(b"abc", b"def", length=6))
    client = await server.connect()

    answer = await client.get()

    assert (answer.get("content-length"), answer.get("transfer-encoding")) == ("6", None)
    assert answer.body == b"abcdef"
    assert (await client.get()).body == b"abcdef"


@pytest.mark.parametrize(
    ("segments", "content"),
    [
        ((b"0\r\n\r\n",), b""),
        ((b"3\r\nabc\r\n0\r\n\r\n",), b"abc"),
        ((b"3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n"), b"abcdef"),
        ((b"3;name=value\r\nabc\r\n0\r\nTrailer: yes\r\n\r\n",), b"abc"),
        ((b"0A\r\n0123456789\r\n0\r\n\r\n",), b"0123456789"),
        (tuple(bytes([byte]) for byte in b"3\r\nabc\r\n0\r\n\r\n"), b"abc"),
        ((b"%X\r\n" % len(LARGE), LARGE, b"\r\n0\r\n\r\n"), LARGE),
    ],
    ids=["empty", "one", "two segments", "extension and trailer", "hexadecimal", "single bytes", "large"],
)
async def test_7_1_a_chunked_body_arrives_whole(nursery, segments, content):
    server = await start(nursery, echo())
    client = await server.ask(CHUNKED)

    for segment in segments:
        await client.send(segment)

    assert (await client.answer()).body == content
    assert (await client.post(b"again")).body == b"again"


async def test_7_1_a_malformed_chunk_is_400_also_when_the_handler_runs_already(nursery, caplog):
    reached = trio.Event()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        reached.set()
        return await request.body()

    server = await start(nursery, app)
    client = await server.ask(CHUNKED + b"3\r\nabc\r\n")
    await happens(reached.wait())
    await client.send(b"no size\r\n")

    answer = await client.answer("POST")

    assert (answer.status, answer.closes) == (400, True)
    assert await client.is_closed()
    assert (await server.records.next(Completed)).status == 400
    assert not errors(caplog)


async def test_7_1_a_part_of_a_stream_is_sent_when_it_is_written(nursery):
    arrived = trio.Event()

    async def write_body(send) -> None:
        await send("first")
        await happens(arrived.wait())
        await send("second")

    app = App()

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app)
    client = await server.ask(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")

    received = b""
    while b"first" not in received:
        received += await client.receive()
    arrived.set()
    while not received.endswith(b"0\r\n\r\n"):
        received += await client.receive()

    assert received.endswith(b"\r\n\r\n5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")


async def test_7_1_an_empty_part_of_a_stream_does_not_end_it(nursery):
    server = await start(nursery, streaming(b"abc", b"", b"def"))
    client = await server.connect()

    assert (await client.get()).body == b"abcdef"


async def test_8_a_chunked_response_that_fails_midway_has_no_last_chunk(nursery, caplog):
    server = await start(nursery, streaming(b"abc", ValueError("broken")))
    client = await server.connect()

    with pytest.raises(Cut) as cut:
        await client.get()

    assert (cut.value.answer.status, cut.value.answer.body) == (200, b"abc")
    record = await server.records.next(Abandoned)
    assert (record.status, record.phase, record.cause) == (500, Phase.RESPONSE_BODY, Cause.HANDLER_FAILED)
    assert (record.sent_status, record.outcome, record.response_body_bytes) == (200, Outcome.FAILED, 3)
    assert isinstance(record.exception, ValueError)
    assert [log.exc_info[1] for log in caplog.records if log.exc_info] == [record.exception]


async def test_8_a_response_without_length_to_a_1_0_client_that_fails_midway_is_reset(nursery):
    arrived = trio.Event()

    async def write_body(send) -> None:
        await send(b"abc")
        await happens(arrived.wait())
        raise ValueError

    app = App()

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app)
    client = await server.ask(b"GET / HTTP/1.0\r\n\r\n")
    received = b""
    while not received.endswith(b"abc"):
        received += await client.receive()
    arrived.set()

    assert await client.is_reset()


async def test_8_a_stream_that_writes_less_than_its_length_is_cut(nursery, caplog):
    server = await start(nursery, streaming(b"abc", length=4))
    client = await server.connect()

    with pytest.raises(Cut) as cut:
        await client.get()

    assert cut.value.answer.body == b"abc"
    record = await server.records.next(Abandoned)
    assert (record.cause, record.sent_status, record.response_body_expected) == (Cause.HANDLER_FAILED, 200, 4)
    assert len(errors(caplog)) == 1


async def test_8_a_stream_never_sends_more_than_its_length(nursery, caplog):
    server = await start(nursery, streaming(b"abc", b"def", length=4))
    client = await server.connect()

    with pytest.raises(Cut) as cut:
        await client.get()

    assert cut.value.answer.body == b"abc"
    assert (await server.records.next(Abandoned)).cause is Cause.HANDLER_FAILED
    assert len(errors(caplog)) == 1


async def test_a_client_that_pushes_is_held_back_while_the_handler_does_not_read(nursery):
    """What the server takes in for a handler that does not read is bounded: by the spool, and the system's buffers."""
    release = trio.Event()
    app = App()

    @app.post("/", max_body=10**9)
    async def handler(request: Request) -> dict[str, int]:
        await release.wait()
        return {"received": sum([len(part) async for part in request.stream()])}

    size = 64 * 2**20
    server = await start(nursery, app, limits=Limits(spool=2**20))
    client = await server.ask(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size)
    piece, sent = bytes(65536), 0
    while sent < size:
        # Twice as long as the server waits before it takes in what lies unread. A slow machine can only make the
        # test stop too early, which it survives.
        with trio.move_on_after(2 * UNREAD_AFTER):
            sent += await client.socket.send(piece)
            continue
        break

    assert sent < size / 2
    release.set()
    await client.send(bytes(size - sent))
    assert (await client.answer("POST")).body == b'{"received":%d}' % size


def streaming(*parts: bytes | Exception, length: int | None = None) -> App:
    """An app that streams these parts; an exception among them is raised in its place."""

    async def write_body(send) -> None:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            await send(part)

    app = App()

    @app.get("/")
    async def handler() -> Response:
        headers = {} if length is None else {"content-length": str(length)}
        return Response.stream(write_body, headers=headers)

    return app

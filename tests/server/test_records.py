"""The records of exchanges, field by field, and the access log's lines that are made of them."""

from __future__ import annotations

import logging
import re

import pytest
import trio
import trio.testing

from tests.support import happens, start
from trioserve import Abandoned, App, Cause, Completed, Outcome, Phase, Request, Response, UnixAddress

LINE = re.compile(
    r'(?P<client>\S+) "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<size>\d+)B (?P<duration>\d+\.\d)ms'
    r"(?: abandoned (?P<how>\S+ \S+ \S+) unwind=(?P<unwind>\d+\.\d)ms)?"
)


@pytest.fixture(autouse=True)
def _hear_the_access_log(caplog):
    caplog.set_level(logging.INFO, "trioserve.access")


def lines(caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "trioserve.access"]


class Exports(App):
    """An app with an echo, and a stream that sends five bytes of ten and then waits; `waiting` when it does."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = trio.Event()

        @self.post("/echo/{name}")
        async def echo(request: Request, name: str) -> bytes:
            return await request.body()

        @self.put("/export/{number:int}")
        async def export(request: Request, number: int) -> Response:
            async for _ in request.stream():
                break
            return Response.stream(self.write_body, headers={"content-length": "10"}, status=203)

        @self.get("/sleep")
        async def sleep() -> None:
            self.waiting.set()
            await trio.sleep_forever()

    async def write_body(self, send) -> None:
        await send("12345")
        self.waiting.set()
        await trio.sleep_forever()


async def test_the_fields_of_a_completed_exchange(nursery):
    server = await start(nursery, Exports())
    client = await server.connect()

    before = trio.current_time()
    await client.post(b"hello", "/echo/a?b=c", "X-Two: 1", "X-Two: 2")
    record = await server.records.next(Completed)
    after = trio.current_time()

    assert record.status == 200
    assert (record.method, record.target, record.route) == ("POST", "/echo/a?b=c", "/echo/{name}")
    assert record.http_version == "1.1"
    assert record.headers is not None
    assert list(record.headers) == [("host", "test"), ("content-length", "5"), ("x-two", "1"), ("x-two", "2")]
    assert record.client == client.socket.getsockname()
    assert (record.exchange_number, record.connection_id > 0) == (1, True)
    assert (record.request_body_bytes, record.response_body_bytes) == (5, 5)
    assert before <= record.started_at <= record.started_at + record.duration <= after

    await client.post(b"", "/echo/a")
    second = await server.records.next(Completed)
    assert (second.connection_id, second.exchange_number) == (record.connection_id, 2)
    assert second.started_at > record.started_at + record.duration
    other = await server.connect()
    await other.post(b"", "/echo/a")
    assert (await server.records.next(Completed)).connection_id != record.connection_id


async def test_the_fields_of_an_abandoned_exchange(nursery):
    app = Exports()
    server = await start(nursery, app)
    client = await server.connect()

    before = trio.current_time()
    await client.send(b"PUT /export/7 HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\nabc")
    await happens(app.waiting.wait())
    address = client.socket.getsockname()
    left = trio.current_time()
    client.close()
    record = await server.records.next(Abandoned)
    after = trio.current_time()

    assert record.status == 499
    assert (record.phase, record.by) == (Phase.RESPONSE_BODY, "client")
    # The client closed with our bytes unread, which makes its FIN a RST.
    assert record.cause is Cause.RESET
    assert (record.sent_status, record.logged_status) == (203, 203)
    assert record.outcome is Outcome.CANCELLED
    assert (record.method, record.target, record.route) == ("PUT", "/export/7", "/export/{number:int}")
    assert record.http_version == "1.1"
    assert record.headers is not None
    assert list(record.headers) == [("host", "test"), ("content-length", "20")]
    assert record.client == address
    assert (record.exchange_number, record.connection_id > 0) == (1, True)
    assert (record.request_body_bytes, record.request_body_expected) == (3, 20)
    assert (record.response_body_bytes, record.response_body_expected) == (5, 10)
    assert record.unacked_bytes == 0
    assert before <= record.started_at <= left <= record.noticed_at <= record.unwound_at <= after
    assert record.duration == record.unwound_at - record.started_at
    assert record.unwind_time == record.unwound_at - record.noticed_at
    assert record.exception is None


async def test_the_fields_of_an_exchange_that_was_abandoned_before_its_response(nursery):
    app = Exports()
    server = await start(nursery, app)
    client = await server.ask(b"GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n")
    await happens(app.waiting.wait())

    client.close()
    record = await server.records.next(Abandoned)

    assert (record.status, record.phase, record.cause, record.by) == (499, Phase.HANDLER, Cause.FIN, "client")
    assert (record.sent_status, record.logged_status) == (None, 499)
    assert (record.request_body_bytes, record.request_body_expected) == (0, 0)
    assert (record.response_body_bytes, record.response_body_expected) == (0, None)


async def test_a_request_without_a_route_has_none_in_its_record(nursery):
    server = await start(nursery, App())
    client = await server.connect()

    await client.get("/nowhere")

    record = await server.records.next(Completed)
    assert (record.status, record.route, record.target) == (404, None, "/nowhere")


async def test_the_access_log_has_a_line_for_each_exchange(nursery, caplog):
    app = Exports()
    server = await start(nursery, app)
    client = await server.connect()
    host, port = client.socket.getsockname()

    await client.post(b"hello", "/echo/a?b=c")
    await client.get("/nowhere")
    await client.send(b"GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n")
    await happens(app.waiting.wait())
    client.close()
    records = [await server.records.next(kind) for kind in (Completed, Completed, Abandoned)]

    first, second, third = [LINE.fullmatch(record.getMessage()) for record in lines(caplog)]
    assert [match["client"] for match in (first, second, third)] == [f"{host}:{port}"] * 3
    assert (first["request"], first["status"], first["size"]) == ("POST /echo/a?b=c HTTP/1.1", "200", "5")
    assert (second["request"], second["status"]) == ("GET /nowhere HTTP/1.1", "404")
    assert (third["request"], third["status"], third["size"]) == ("GET /sleep HTTP/1.1", "499", "0")
    assert [match["how"] for match in (first, second, third)] == [None, None, "HANDLER FIN cancelled"]
    for match, record in zip((first, second, third), records, strict=True):
        assert float(match["duration"]) == pytest.approx(record.duration * 1000, abs=0.06)
    assert float(third["unwind"]) == pytest.approx(records[2].unwind_time * 1000, abs=0.06)
    assert [record.exchange for record in lines(caplog)] == records


async def test_the_access_log_says_what_was_sent_if_anything_was(nursery, caplog):
    app = Exports()
    server = await start(nursery, app)
    client = await server.ask(b"PUT /export/1 HTTP/1.1\r\nHost: test\r\n\r\n")
    await happens(app.waiting.wait())
    client.reset()
    await server.records.next(Abandoned)

    [line] = [LINE.fullmatch(record.getMessage()) for record in lines(caplog)]
    assert (line["status"], line["size"], line["how"]) == ("203", "5", "RESPONSE_BODY RESET cancelled")


async def test_the_access_log_has_a_line_for_what_was_no_request(nursery, caplog):
    server = await start(nursery, App())
    client = await server.ask(b"hello\r\n\r\n")
    await client.answer()
    await server.records.next(Completed)

    [line] = [LINE.fullmatch(record.getMessage()) for record in lines(caplog)]
    assert (line["request"], line["status"]) == ("-", "400")


async def test_nothing_that_a_client_sends_can_forge_a_line_of_the_access_log(nursery, caplog):
    server = await start(nursery, App())

    for target in ("/%22%0d%0a", '/"%0d%0a'):
        client = await server.connect()
        await client.get(target)
        await server.records.next(Completed)

    encoded, raw = [LINE.fullmatch(record.getMessage()) for record in lines(caplog)]
    assert encoded["request"] == "GET /%22%0d%0a HTTP/1.1"
    assert (raw["request"], raw["status"]) == ("GET /%22%0d%0a HTTP/1.1", "400")


async def test_of_a_head_that_was_refused_the_record_and_the_access_log_have_the_request_line(nursery, caplog):
    server = await start(nursery, App())
    client = await server.ask(b"GET /a{b HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (await client.answer()).status == 400
    record = await server.records.next(Completed)

    assert (record.method, record.target, record.http_version) == ("GET", "/a{b", "1.1")
    assert (record.headers, record.route) == (None, None)
    [line] = [LINE.fullmatch(record.getMessage()) for record in lines(caplog)]
    assert (line["request"], line["status"]) == ("GET /a{b HTTP/1.1", "400")


@pytest.mark.parametrize(
    ("wire", "told"),
    [
        (b"GE\x1b[1mT / HTTP/1.1\r\n", "a request from {} with 400: the request does not begin with a method"),
        (b"GET /\x1b[1m HTTP/1.1\r\n", "a request from {} with 400: the request target is empty or has a character"),
        (b"GET /a HTTP/1.1\r\n\r\n", "GET /a from {} with 400: the request has no Host field"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nExpect: \xff\r\n\r\n", "GET /a from {} with 417: "),
        (
            b"POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
            "POST /echo/a from {} with 413: the request body is larger",
        ),
        (
            b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno",
            "POST /echo/a from {} with 400: a chunk",
        ),
    ],
)
async def test_a_request_that_is_refused_is_one_line_at_level_debug_that_says_why(nursery, caplog, wire, told):
    caplog.set_level(logging.DEBUG, "trioserve.error")
    server = await start(nursery, Exports())
    client = await server.ask(wire)
    await client.answer()

    [entry] = [record for record in caplog.records if record.name == "trioserve.error"]
    assert entry.levelname == "DEBUG"
    host, port = client.socket.getsockname()
    assert entry.getMessage().startswith("refused " + told.format(f"{host}:{port}"))
    assert entry.getMessage().isprintable()


async def test_a_body_that_breaks_while_a_handler_reads_it_is_told_of_too(nursery, caplog):
    caplog.set_level(logging.DEBUG, "trioserve.error")
    server = await start(nursery, Exports())
    client = await server.ask(b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    await client.send(b"no")
    await client.answer()

    [entry] = [record for record in caplog.records if record.name == "trioserve.error"]
    assert re.match(r"refused POST /echo/a from \S+ with 400: a chunk", entry.getMessage())


async def test_the_access_log_names_no_client_on_a_unix_socket(nursery, caplog, tmp_path):
    server = await start(nursery, App(), listen=(UnixAddress(str(tmp_path / "s")),))
    client = await server.connect()
    await client.get()
    await server.records.next(Completed)

    [line] = [LINE.fullmatch(record.getMessage()) for record in lines(caplog)]
    assert line["client"] == "-"


async def test_without_an_access_log_nothing_is_logged(nursery, caplog):
    server = await start(nursery, App(), access_log=False)
    client = await server.connect()
    await client.get()
    await server.records.next(Completed)

    assert lines(caplog) == []

"""RFC 9112 §2-§5: what is a request, and what is none.

Whatever is none gets one answer with the right status code, and the connection is closed: never the handler, never a
traceback, and every byte of the answer arrives.
"""

from __future__ import annotations

import pytest

from tests.support import start
from tests.support.logs import errors
from trioserve import App, Completed, Limits, Request

FEW = Limits(target=50, head=400, fields=5, body=10)

MALFORMED = {
    "2.2: no request line": (b"hello\r\n\r\n", 400),
    "2.2: TLS to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "2.2: a line feed alone": (b"GET / HTTP/1.1\r\nHost: test\n\r\n", 400),
    "2.2: a carriage return alone": (b"GET / HTTP/1.1\r\nHost: test\rA: b\r\n\r\n", 400),
    "2.2: white space before the first field": (b"GET / HTTP/1.1\r\n Host: test\r\n\r\n", 400),
    "2.3: HTTP/2's version": (b"GET / HTTP/2.0\r\nHost: test\r\n\r\n", 505),
    "2.3: the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "2.3: HTTP/0.9's version": (b"GET / HTTP/0.9\r\nHost: test\r\n\r\n", 505),
    "2.3: no version": (b"GET /\r\nHost: test\r\n\r\n", 400),
    "2.3: a version that is none": (b"GET / HTTP/1.x\r\nHost: test\r\n\r\n", 400),
    "3: a space in the target": (b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3: a control character in the target": (b"GET /\x01 HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3: bytes beyond ASCII in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3: a target over the limit": (b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n" % (b"a" * 50), 414),
    "3: a request line that never ends": (b"GET /" + b"a" * 1000, 414),
    "3.2: no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "3.2: two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "3.2: a Host that is none": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "3.2: two Hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "3.2.1: no leading slash": (b"GET a HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3.2.1: a fragment": (b"GET /#a HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3.2.1: a character that must be encoded": (b"GET /?{a} HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3.2.2: a user in the target": (b"GET http://user@test/ HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3.2.3: CONNECT without a port": (b"CONNECT test HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "3.2.4: GET *": (b"GET * HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "5: more fields than the limit": (b"GET / HTTP/1.1\r\nHost: test\r\n" + b"A: b\r\n" * 5 + b"\r\n", 431),
    "5: a head over the limit": (b"GET / HTTP/1.1\r\nHost: test\r\nA: %b\r\n\r\n" % (b"b" * 400), 431),
    "5: a head that never ends": (b"GET / HTTP/1.1\r\nHost: test\r\nA: " + b"b" * 1000, 431),
    "5.1: white space before the colon": (b"GET / HTTP/1.1\r\nHost: test\r\nA : b\r\n\r\n", 400),
    "5.1: no colon": (b"GET / HTTP/1.1\r\nHost: test\r\nA\r\n\r\n", 400),
    "5.1: no field name": (b"GET / HTTP/1.1\r\nHost: test\r\n: b\r\n\r\n", 400),
    "5.2: a folded line": (b"GET / HTTP/1.1\r\nHost: test\r\nA: b\r\n c\r\n\r\n", 400),
    "5.5: a NUL in a field": (b"GET / HTTP/1.1\r\nHost: test\r\nA: \0\r\n\r\n", 400),
    "6.1: a transfer coding that we do not know": (
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        501,
    ),
    "6.1: both Transfer-Encoding and Content-Length": (
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    "6.1: Transfer-Encoding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "6.2: a Content-Length that is no number": (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n", 400),
    "6.2: a negative Content-Length": (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n", 400),
    "6.3: two Content-Lengths that differ": (
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    "6.3: a Content-Length over the limit": (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n", 413),
    "7.1: a chunk size that is none, in the same segment": (
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        400,
    ),
}


def never_called() -> App:
    """An app whose only handler must not be reached."""
    app = App()

    @app.route("/", methods=["GET", "POST"])
    async def handler() -> None:
        pytest.fail("the handler was called")

    return app


@pytest.mark.parametrize(("data", "status"), MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_request_is_answered_and_the_connection_closed(nursery, caplog, data, status):
    server = await start(nursery, never_called(), limits=FEW)
    client = await server.ask(data)

    answer = await client.answer()

    assert (answer.status, answer.closes) == (status, True)
    assert answer.body.startswith(str(status).encode())
    assert await client.is_closed()
    record = await server.records.next(Completed)
    assert record.status == status
    assert server.records.unread == []
    assert not errors(caplog)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD / HTTP/1.2\r\nHost: test\r\n\r\n", 505),
        (b"HEAD /%b HTTP/1.1\r\nHost: test\r\n\r\n" % (b"a" * 50), 414),
        (b"HEAD / HTTP/1.1\r\nHost: test\r\n" + b"A: b\r\n" * 5 + b"\r\n", 431),
        (b"HEAD / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n", 413),
    ],
    ids=["505", "414", "431", "400", "413"],
)
async def test_a_refused_head_gets_no_content_either(nursery, caplog, data, status):
    server = await start(nursery, never_called(), limits=FEW)
    client = await server.ask(data)

    answer = await client.answer("HEAD")

    assert (answer.status, answer.closes) == (status, True)
    assert await client.is_closed()
    assert (await server.records.next(Completed)).response_body_bytes == 0
    assert not errors(caplog)


CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1%b\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("limits", "at_limit", "beyond", "refused"),
    [
        (Limits(method=4), b"POST / HTTP/1.1\r\nHost: test\r\n\r\n", b"PATCH / HTTP/1.1\r\n", 501),
        (
            Limits(field=10),
            b"GET / HTTP/1.1\r\nHost: test\r\nA: 3456789\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nA: 34567890",
            431,
        ),
        (Limits(field=30, chunk_extensions=5), CHUNKED % b";a=bc", CHUNKED % b";a=bcd", 413),
    ],
    ids=["3: method", "5: field", "7.1.1: chunk extensions"],
)
async def test_a_request_is_served_at_a_limit_and_refused_beyond_it(nursery, limits, at_limit, beyond, refused):
    app = App()

    @app.route("/", methods=["GET", "POST"])
    async def handler(request: Request) -> bytes:
        return await request.body()

    server = await start(nursery, app, limits=limits)
    for wire, status in ((at_limit, 200), (beyond, refused)):
        client = await server.ask(wire)
        answer = await client.answer()
        assert (answer.status, answer.closes) == (status, status != 200)


async def test_2_2_empty_lines_before_a_request_are_skipped(nursery):
    server = await start(nursery, hello())
    client = await server.ask(b"\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n\r\n")

    assert (await client.answer()).body == b"hello"
    assert (await client.get()).body == b"hello"


async def test_2_2_malformed_bytes_behind_a_good_request_spoil_only_themselves(nursery, caplog):
    server = await start(nursery, hello())
    client = await server.ask(b"GET / HTTP/1.1\r\nHost: test\r\n\r\nhello\r\n\r\n")

    assert (await client.answer()).status == 200
    refusal = await client.answer()

    assert (refusal.status, refusal.closes) == (400, True)
    assert await client.is_closed()
    assert [(await server.records.next(Completed)).exchange_number for _ in range(2)] == [1, 2]
    assert not errors(caplog)


async def test_2_2_an_answer_to_malformed_bytes_tells_nothing_of_the_inside(nursery):
    server = await start(nursery, hello())
    client = await server.ask(b"GET / HTTP/1.1\r\nHost: test\r\nA : b\r\n\r\n")

    answer = await client.answer()

    assert b"Traceback" not in answer.body
    assert b".py" not in answer.body


async def test_2_3_a_client_of_version_1_0_is_answered_in_its_manner(nursery):
    server = await start(nursery, hello())
    client = await server.ask(b"GET / HTTP/1.0\r\n\r\n")

    answer = await client.answer()

    assert (answer.status, answer.body, answer.closes) == (200, b"hello", True)
    assert answer.get("transfer-encoding") is None
    assert await client.is_closed()


async def test_3_a_request_line_in_many_segments_is_one_request_line(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    for byte in b"GET / HTTP/1.1\r\nHost: test\r\n\r\n":
        await client.send(bytes([byte]))

    assert (await client.answer()).body == b"hello"


async def test_3_a_target_as_long_as_the_limit_is_served(nursery):
    app = App()

    @app.get("/{name}")
    async def handler(name: str) -> str:
        return name

    server = await start(nursery, app, limits=FEW)
    client = await server.connect()

    assert (await client.get("/" + "a" * 49)).body == b"a" * 49


async def test_3_1_an_unknown_method_is_501_and_ends_the_connection(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    answer = await client.get(method="BREW")
    assert (answer.status, answer.closes) == (501, True)
    assert await client.is_closed()


async def test_3_1_methods_are_case_sensitive(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    assert (await client.get(method="get")).status == 501


async def test_3_1_a_method_that_the_resource_does_not_have_is_405_with_those_that_it_has(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    answer = await client.post(b"")

    assert (answer.status, answer.get("allow")) == (405, "GET, HEAD, OPTIONS")
    assert (await client.get()).body == b"hello"


async def test_3_2_3_connect_is_501_and_what_comes_behind_it_is_not_served(nursery):
    """It may be meant for the tunnel."""
    server = await start(nursery, hello())
    client = await server.ask(b"CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n")

    answer = await client.answer("CONNECT")

    assert (answer.status, answer.closes) == (501, True)
    assert await client.is_closed()


async def test_3_2_4_options_about_the_server_is_answered_by_the_server(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    for target in ("*", "http://test"):
        answer = await client.get(target, method="OPTIONS")
        assert (answer.status, answer.get("allow"), answer.closes) == (204, "GET, HEAD, OPTIONS", False)
        assert answer.get("content-length") is None


async def test_3_2_2_a_target_in_absolute_form_is_served(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    assert (await client.get("http://test/")).body == b"hello"
    assert (await client.get("HTTP://Test:80")).body == b"hello"


async def test_3_2_2_a_target_in_absolute_form_and_a_host_that_contradict_each_other_are_refused(nursery):
    """A server may only heed the target. But then a cache on the way that heeds Host keeps our answer for another."""
    server = await start(nursery, never_called())
    client = await server.connect()

    answer = await client.get("http://elsewhere/")

    assert (answer.status, answer.closes) == (400, True)
    assert b"elsewhere" in answer.body


async def test_3_2_2_a_target_that_leads_nowhere_is_404_and_the_connection_goes_on(nursery):
    server = await start(nursery, hello())
    client = await server.connect()

    assert (await client.get("/nowhere")).status == 404
    assert (await client.get()).body == b"hello"


async def test_5_as_many_fields_as_the_limit_are_served(nursery):
    server = await start(nursery, hello(), limits=FEW)
    client = await server.connect()

    assert (await client.get("/", "A: b", "A: b", "A: b", "A: b")).body == b"hello"


async def test_5_a_head_as_large_as_the_limit_is_served_and_one_byte_more_is_not(nursery):
    server = await start(nursery, hello(), limits=FEW)
    frame = len(b"GET / HTTP/1.1\r\nHost:test\r\nA:\r\n\r\n")

    for extra, status in ((0, 200), (1, 431)):
        client = await server.ask(b"GET / HTTP/1.1\r\nHost:test\r\nA:%b\r\n\r\n" % (b"b" * (FEW.head - frame + extra)))
        assert (await client.answer()).status == status


async def test_5_1_white_space_around_a_field_value_is_not_part_of_it(nursery):
    app = App()

    @app.get("/")
    async def handler(request: Request) -> list[str]:
        return request.headers.get_all("a")

    server = await start(nursery, app)
    client = await server.connect()

    assert (await client.get("/", "A:  b  ", "a:c")).body == b'["b","c"]'


def hello() -> App:
    app = App()

    @app.get("/")
    async def handler() -> str:
        return "hello"

    return app

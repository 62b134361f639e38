"""One request as on the wire, from what is at hand."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from trioserve.testing.wire import Wire, wire_of


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("/x", Wire(b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n", b"", "GET", "/x")),
        ("/x?y=%20", Wire(b"GET /x?y=%20 HTTP/1.1\r\nHost: test\r\n\r\n", b"", "GET", "/x?y=%20")),
        ("DELETE /x", Wire(b"DELETE /x HTTP/1.1\r\nHost: test\r\n\r\n", b"", "DELETE", "/x")),
        ("POST /x", Wire(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n", b"", "POST", "/x")),
        ("OPTIONS *", Wire(b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", b"", "OPTIONS", "*")),
        (
            "GET http://test/x",
            Wire(b"GET http://test/x HTTP/1.1\r\nHost: test\r\n\r\n", b"", "GET", "http://test/x"),
        ),
    ],
)
def test_a_text_is_a_target_or_a_method_and_a_target(text, wire):
    assert wire_of(text) == wire


@pytest.mark.parametrize("text", ["", "x", "/a b", "GET", "GET x", "/x y HTTP/1.1", "/ü", "GET  /x", "/x\r\nHost: y"])
def test_any_other_text_is_refused_with_what_would_be_right(text):
    with pytest.raises(ValueError, match=r'is no request; give a target that begins with "/"'):
        wire_of(text)


CHUNKED = b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n", b""),
        (b"GET /x HTTP/1.1\r\n\r\n", b""),
        (b"GET /x HTTP/9\r\n x: y\r\n\r\n", b""),
        (b"PUT /x HTTP/1.1\r\nhost: test\r\ncontent-length:  5 \r\n\r\n", b"12345"),
        (CHUNKED, b"0\r\n\r\n"),
        (CHUNKED, b"3\r\nabc\r\n00;x=y\r\n\r\n"),
        (CHUNKED, b"A;x\r\n0123456789\r\n0\r\nx: y\r\nz: 1\r\n\r\n"),
        (CHUNKED, b"malformed"),
        (CHUNKED, b"3\r\nabc\r\nmalformed"),
    ],
)
def test_bytes_are_taken_as_they_are_and_divided_behind_the_head(head, body):
    wire = wire_of(head + body)
    assert wire[:2] == (head, body)
    assert wire.target == "/x"
    assert wire.method == head.split()[0].decode()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"", "no end of a head"),
        (b"GET /x HTTP/1.1\r\nHost: test\r\n", "no end of a head"),
        (b"GET\r\n\r\n", "is no request line"),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", "nothing is before it"),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n1234", "Content-Length says 5, but 4 bytes"),
        (b"PUT /x HTTP/1.1\r\n\r\n1234", r"b'1234' comes behind the request's end.*Content-Length"),
        (b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", "comes behind the request's end"),
        (CHUNKED, "is not all there"),
        (CHUNKED + b"3\r\nabc\r\n", "is not all there"),
        (CHUNKED + b"3\r\nab", "is not all there"),
        (CHUNKED + b"0\r\nx: y\r\n", "is not all there"),
        (CHUNKED + b"0\r\n\r\nabc", "b'abc' comes behind"),
    ],
)
def test_bytes_that_are_not_one_whole_request_are_refused_with_what_is_wrong(request_, message):
    with pytest.raises(ValueError, match=message):
        wire_of(request_)


def test_an_httpx_request_is_sent_with_its_fields_and_content_as_they_are():
    request = httpx.Request("PUT", "http://test/a%20b?c=d#e", headers={"X-Word": "y"}, content=b"hello")
    assert wire_of(request) == Wire(
        b"PUT /a%20b?c=d HTTP/1.1\r\nHost: test\r\nX-Word: y\r\nContent-Length: 5\r\n\r\n",
        b"hello",
        "PUT",
        "/a%20b?c=d",
    )


def test_an_httpx_request_needs_no_host():
    assert wire_of(httpx.Request("GET", "/x")) == wire_of("/x")


def test_a_list_as_an_httpx_requests_content_is_a_chunk_each():
    wire = wire_of(httpx.Request("POST", "/x", content=[b"ab", b"", b"0123456789"]))
    assert b"Transfer-Encoding: chunked\r\n" in wire.head
    assert wire.body == b"2\r\nab\r\na\r\n0123456789\r\n0\r\n\r\n"


def test_an_httpx_request_with_files_has_all_their_bytes():
    wire = wire_of(httpx.Request("POST", "/x", files={"a": b"content"}))
    assert b"\r\n\r\ncontent\r\n" in wire.body
    assert f"Content-Length: {len(wire.body)}\r\n".encode() in wire.head


def test_an_httpx_request_with_an_async_stream_is_refused():
    async def content():
        yield b"x"

    with pytest.raises(ValueError, match="async stream, which can be sent only once; give it as bytes"):
        wire_of(httpx.Request("POST", "/x", content=content()))


def test_an_httpx_request_whose_length_is_a_lie_is_refused():
    with pytest.raises(ValueError, match="Content-Length says 9, but"):
        wire_of(httpx.Request("POST", "/x", content=b"short", headers={"Content-Length": "9"}))
    with pytest.raises(ValueError, match="Content-Length says 1, but the request has 5"):
        wire_of(httpx.Request("POST", "/x", content=b"short", headers={"Content-Length": "1"}))


@pytest.mark.parametrize("other", [None, 5, ["/x"]])
def test_anything_else_is_no_request(other):
    with pytest.raises(TypeError, match="is no request; give a target"):
        wire_of(other)


def test_httpx_is_not_needed_for_texts_and_bytes():
    program = """
import sys
sys.modules["httpx"] = None
from trioserve.testing.wire import wire_of
assert wire_of("/x") == wire_of(b"GET /x HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
try:
    wire_of(5)
except TypeError:
    print("fine")
"""
    assert (
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "fine\n"
    )

"""Request: what a handler is given."""

from __future__ import annotations

import itertools
from urllib.parse import parse_qsl

import pytest
from fake_exchange import FakeExchange
from hypothesis import given
from hypothesis import strategies as st

from trioserve.app.request import Request
from trioserve.core.errors import ClientGone, HTTPError, RequestError, ResponseError


def request(*parts: bytes | Exception, target: str = "/", **more) -> Request:
    return Request(FakeExchange("POST", target, parts=parts, **more), {})


def test_a_request_tells_what_its_head_says():
    made = Request(
        FakeExchange("PUT", "/a%20b/7?x=1&y=%20", fields=[(b"x-one", b"1")], http_version="1.0"), {"number": 7}
    )
    assert made.method == "PUT"
    assert made.target == "/a%20b/7?x=1&y=%20"
    assert made.path == "/a b/7"
    assert made.query_string == "x=1&y=%20"
    assert made.http_version == "1.0"
    assert made.headers["X-One"] == "1"
    assert made.client == ("127.0.0.1", 50_000)
    assert made.path_params == {"number": 7}


def test_on_a_unix_socket_there_is_no_client_address():
    assert request(client=None).client is None


@given(query=st.text("ab=&;%+2Cé?/", max_size=12))
def test_a_query_is_read_as_the_standard_library_reads_it_whether_anything_is_encoded_or_not(query):
    pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
    assert list(request(target=f"/?{query}").query) == pairs


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/?", "/", ""),
        ("/x?a?b", "/x", "a?b"),
        ("/caf%C3%A9", "/café", ""),
        ("/%FF", "/\N{REPLACEMENT CHARACTER}", ""),
        ("/a+b", "/a+b", ""),
        ("http://host", "/", ""),
        ("http://host/", "/", ""),
        ("http://host/x/y?z=/1", "/x/y", "z=/1"),
        ("http://host?x=/y", "/", "x=/y"),
        ("https://user@host:8000/x", "/x", ""),
        ("/http://host/x", "/http://host/x", ""),
        ("*", "*", ""),
        ("host:443", "host:443", ""),
        ("://x/y", "://x/y", ""),
    ],
)
def test_rfc9112_3_2_the_path_is_that_of_the_target_in_each_of_its_forms(target, path, query):
    assert request(target=target).path == path
    assert request(target=target).query_string == query


def test_scheme_and_host_are_those_of_the_exchange():
    made = request(scheme="https", authority="shop.example:8443")
    assert (made.scheme, made.host) == ("https", "shop.example:8443")


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/", "http://shop.example/"),
        ("/a%2Fb/caf%C3%A9?x=1&y=%20", "http://shop.example/a%2Fb/caf%C3%A9?x=1&y=%20"),
        ("/?", "http://shop.example/?"),
        ("/x?a?b", "http://shop.example/x?a?b"),
        ("//x", "http://shop.example//x"),
        ("http://shop.example", "http://shop.example/"),
        ("http://shop.example/x?y", "http://shop.example/x?y"),
        ("http://shop.example?y", "http://shop.example/?y"),
        # The connection is not encrypted, whatever the target says.
        ("HTTPS://SHOP.example/x", "http://shop.example/x"),
        ("*", "http://shop.example"),
        ("shop.example:443", "http://shop.example"),
    ],
)
def test_rfc9112_3_3_the_url_is_put_together_from_what_the_request_says(target, url):
    assert request(target=target, authority="shop.example").url == url


def test_the_url_has_the_scheme_and_host_that_a_proxy_names():
    assert request(target="/x", scheme="https", authority="shop.example:8443").url == "https://shop.example:8443/x"
    assert request(target="/x", authority="[2001:db8::7]").url == "http://[2001:db8::7]/x"


def test_a_client_that_names_no_host_has_a_url_without_one():
    made = request(target="/x?y", authority=None)
    assert (made.host, made.url) == (None, "/x?y")


# The body


async def test_the_body_is_all_its_parts():
    assert await request(b"one ", b"two").body() == b"one two"
    assert await request().body() == b""


@pytest.mark.parametrize("sizes", [[1] * 10_000, [4095, 1, 4096, 1, 5000, 2], [2000] * 7, [9000]], ids=len)
async def test_a_body_is_whole_whatever_the_sizes_of_its_parts(sizes: list[int]):
    content = bytes(i % 251 for i in range(sum(sizes)))
    ends = list(itertools.accumulate(sizes))
    parts = [content[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    made = request(*parts)
    assert await made.body() == content
    assert len(made._parts._parts) == 1  # and it is not kept twice


async def test_of_a_body_in_tiny_parts_few_are_kept():
    made = request(*[b"x"] * 10_000, ClientGone("left"))
    with pytest.raises(ClientGone):
        await made.body()
    assert len(made._parts._parts) == 3


async def test_the_body_may_be_asked_for_again():
    made = request(b"one")
    assert await made.body() == await made.body() == b"one"


async def test_the_stream_is_the_parts_as_they_arrive():
    assert [part async for part in request(b"one", b"two").stream()] == [b"one", b"two"]
    assert [part async for part in request().stream()] == []


async def test_a_stream_that_has_ended_stays_ended():
    stream = request(b"one").stream()
    assert [part async for part in stream] == [b"one"]
    assert [part async for part in stream] == []


async def test_a_stream_can_be_left_and_taken_up_again():
    stream = request(b"one", b"two", b"three").stream()
    async for part in stream:
        assert part == b"one"
        break
    assert [part async for part in stream] == [b"two", b"three"]


async def test_the_body_can_be_read_once():
    made = request(b"one")
    made.stream()
    with pytest.raises(ResponseError, match="read already"):
        made.stream()
    with pytest.raises(ResponseError, match="read already"):
        await made.body()


async def test_a_stream_after_the_body_is_refused():
    made = request(b"one")
    await made.body()
    with pytest.raises(ResponseError, match="read already"):
        made.stream()


@pytest.mark.parametrize("error", [RequestError(413), ClientGone()])
async def test_what_ends_the_body_early_is_raised(error):
    with pytest.raises(type(error)):
        await request(b"one", error).body()
    with pytest.raises(type(error)):
        await request(b"one", error).json()
    parts = []
    with pytest.raises(type(error)):
        parts.extend([part async for part in request(b"one", error).stream()])


async def test_json_is_what_the_body_says():
    assert await request(b'{"a": [1, ', b'"\xc3\xa9"]}').json() == {"a": [1, "é"]}


async def test_json_and_the_body_may_both_be_asked_for():
    made = request(b"[1]")
    assert await made.json() == await made.json() == [1]
    assert await made.body() == b"[1]"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a': 1}", b"\xff\xff", b"[1] x", b"[" * 100_000, b"1" * 5000, b"NaN", b"[-Infinity]"]
)
async def test_what_is_no_json_is_a_400(body):
    with pytest.raises(HTTPError, match="not JSON") as caught:
        await request(body).json()
    assert caught.value.status == 400
    assert not isinstance(caught.value, RequestError), "HTTP itself was right: the connection may go on"


@pytest.mark.parametrize(
    ("body", "why"), [(b"[" * 100_000, "nested too deeply"), (b"1" * 5000, "a number is too long")]
)
async def test_what_the_interpreter_refuses_is_told_in_words_for_a_client(body, why):
    with pytest.raises(HTTPError, match=f"the request body is not JSON that can be read: .*{why}$"):
        await request(body).json()


async def test_rfc8259_8_1_json_is_utf8_with_or_without_a_byte_order_mark():
    assert await request(b'\xef\xbb\xbf["\xc3\xa9"]').json() == ["é"]
    with pytest.raises(HTTPError, match="not JSON") as caught:
        await request('["é"]'.encode("utf-16")).json()
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "content_type", [b"application/json; charset=UTF-8", b"text/plain", b"application/json;;", b"x;y"]
)
async def test_json_is_read_whatever_its_type_says_but_for_another_charset(content_type):
    assert await request(b"[1]", fields=[(b"content-type", content_type)]).json() == [1]


async def test_json_that_declares_another_charset_is_a_400():
    with pytest.raises(HTTPError, match="in the charset 'iso-8859-1'; send JSON in UTF-8") as caught:
        await request(b"[1]", fields=[(b"content-type", b"application/json; charset=iso-8859-1")]).json()
    assert caught.value.status == 400


# Forms; what they are like is tested in test_forms.py


def form_request(*parts: bytes | Exception, content_type: bytes = b"application/x-www-form-urlencoded") -> Request:
    return request(*parts, fields=[(b"content-type", content_type)])


async def test_a_form_is_what_the_body_says_and_may_be_asked_for_again():
    made = form_request(b"a=1&", b"b=2")
    form = await made.form()
    assert list(form) == [("a", "1"), ("b", "2")]
    assert await made.form() is form
    await made.resources.aclose()


async def test_after_the_body_a_form_is_read_from_what_was_kept():
    for asked in (Request.body, Request.json):
        made = form_request(b"1", b"2")
        await asked(made)
        assert list(await made.form()) == [("12", "")]
        assert await made.body() == b"12"
        await made.resources.aclose()


async def test_after_a_form_the_body_cannot_be_read():
    made = form_request(b"a=1")
    await made.form()
    with pytest.raises(ResponseError, match="read already"):
        await made.body()
    await made.resources.aclose()


async def test_what_is_no_form_is_a_415_and_the_body_can_still_be_read():
    made = form_request(b"{}", content_type=b"application/json")
    with pytest.raises(HTTPError) as caught:
        await made.form()
    assert caught.value.status == 415
    assert await made.json() == {}
    assert made._resources is None


@pytest.mark.parametrize("error", [RequestError(413), ClientGone()])
async def test_what_ends_a_form_early_is_raised(error):
    made = form_request(b"a=1", error)
    with pytest.raises(type(error)):
        await made.form()
    await made.resources.aclose()

"""Messages: Headers, the view for people; Wire, which tells content from framing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.core.messages import FileSlice, Headers, RequestHead, Wire

RAW = [(b"host", b"a"), (b"x-one", b"1"), (b"accept", b"text/html"), (b"x-one", b"2"), (b"empty", b"")]
HEADERS = Headers(RAW)


@pytest.mark.parametrize("name", ["x-one", "X-One", "X-ONE"])
def test_a_field_is_found_whatever_the_case_of_its_name(name):
    assert HEADERS.get(name) == "1"
    assert HEADERS[name] == "1"
    assert HEADERS.get_all(name) == ["1", "2"]
    assert name in HEADERS


def test_a_field_that_is_not_there_is_none_or_the_default():
    assert HEADERS.get("x-two") is None
    assert HEADERS.get("x-two", "other") == "other"
    assert HEADERS.get_all("x-two") == []
    assert "x-two" not in HEADERS
    with pytest.raises(KeyError, match="X-Two"):
        HEADERS["X-Two"]


def test_an_empty_value_is_a_value():
    assert HEADERS.get("empty", "other") == ""
    assert HEADERS["empty"] == ""
    assert "empty" in HEADERS


@pytest.mark.parametrize("name", ["é", "ε", "x-one\n", "", b"x-one", None, 1])
def test_what_is_no_field_name_is_not_there(name):
    assert name not in HEADERS


@pytest.mark.parametrize("name", ["é", "ε", "x-one\n", ""])
def test_asking_for_what_is_no_field_name_finds_nothing(name):
    assert HEADERS.get(name) is None
    assert HEADERS.get_all(name) == []


@given(value=st.binary())
def test_rfc9110_5_5_every_byte_of_a_value_is_a_character(value):
    text = Headers([(b"x", value)])["x"]
    assert len(text) == len(value)
    assert text.encode("latin-1") == value


def test_iterating_gives_every_field_line_in_order():
    assert list(HEADERS) == [("host", "a"), ("x-one", "1"), ("accept", "text/html"), ("x-one", "2"), ("empty", "")]
    assert len(HEADERS) == 5
    assert len(Headers()) == 0


def test_headers_are_values():
    assert Headers(RAW) == Headers(tuple(RAW))
    assert hash(Headers(RAW)) == hash(Headers(tuple(RAW)))
    assert Headers(RAW) != Headers(RAW[::-1])
    assert Headers(RAW) != RAW
    assert repr(Headers(RAW[:1])) == "Headers([('host', 'a')])"


def test_headers_keep_what_they_were_made_from():
    raw = list(RAW)
    headers = Headers(raw)
    raw.clear()
    assert headers == HEADERS


def test_a_request_head_has_its_fields_as_headers():
    assert RequestHead("GET", "/", "1.1", RAW, 0).headers == HEADERS


@pytest.mark.parametrize(("sent", "payload"), [(0, 0), (4, 0), (5, 0), (6, 1), (11, 6), (12, 7), (13, 7), (14, 7)])
def test_payload_sent_counts_the_content_among_the_bytes_on_the_wire(sent, payload):
    wire = Wire(b"12345", b"payload", b"\r\n")
    assert wire.payload_sent(sent) == payload


@pytest.mark.parametrize(
    ("part", "offset", "length"),
    [
        (slice(0, None), 100, 10),
        (slice(3, None), 103, 7),
        (slice(10, None), 110, 0),
        (slice(11, None), 110, 0),
        (slice(None, 4), 100, 4),
        (slice(2, 4), 102, 2),
        (slice(-3, None), 107, 3),
    ],
)
def test_a_slice_of_a_file_is_sliced_like_bytes(part, offset, length):
    file = object()
    narrower = FileSlice(file, 100, 10)[part]
    assert (narrower.file, narrower.offset, len(narrower)) == (file, offset, length)
    assert length == len(bytes(10)[part])
    assert bool(narrower) is (length > 0)


def test_a_slice_of_a_file_has_no_gaps():
    with pytest.raises(ValueError, match="no gaps"):
        FileSlice(object(), 0, 10)[::2]


@given(parts=st.tuples(st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9)), data=st.data())
def test_payload_sent_is_the_overlap_of_what_was_sent_and_the_payload(parts, data):
    sent = data.draw(st.integers(min_value=0, max_value=sum(map(len, parts))))
    kinds = [kind for kind, part in zip("pcs", parts, strict=True) for _ in part]
    assert Wire(*parts).payload_sent(sent) == kinds[:sent].count("c")

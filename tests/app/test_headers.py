"""MutableHeaders: a response's header section, for those who write one."""

from __future__ import annotations

import string

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.app.headers import MutableHeaders, fields_of
from trioserve.app.response import Response
from trioserve.core.errors import ResponseError
from trioserve.core.messages import Headers

TOKEN = set(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")


def headers() -> MutableHeaders:
    return MutableHeaders([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])


def test_a_field_is_set_in_the_place_of_its_first_value():
    changed = MutableHeaders([*headers().raw, *headers().raw])
    changed["A"] = "4"
    assert list(changed) == [("a", "4"), ("b", "2"), ("b", "2")]


def test_a_field_that_was_not_there_is_set_at_the_end():
    changed = headers()
    changed["C"] = ""
    assert list(changed) == [("a", "1"), ("b", "2"), ("a", "3"), ("c", "")]


def test_a_field_is_added_beside_those_of_its_name():
    changed = headers()
    changed.add("B", "é")
    assert changed.get_all("b") == ["2", "é"]
    assert changed.raw[-1] == (b"b", b"\xe9")


def test_a_default_is_set_where_there_is_no_value():
    changed = headers()
    assert changed.setdefault("A", "9") == "1"
    assert changed.setdefault("C", "9") == "9"
    assert changed.get_all("a") == ["1", "3"]
    assert changed["c"] == "9"


def test_a_field_that_is_deleted_has_no_value_left():
    changed = headers()
    del changed["A"]
    del changed["never-there"]
    assert list(changed) == [("b", "2")]


def test_they_are_read_like_any_headers():
    assert isinstance(headers(), Headers)
    assert headers()["A"] == "1"
    assert headers().get("x", "default") == "default"
    assert "b" in headers()
    assert len(headers()) == 3
    assert repr(headers()) == "MutableHeaders([('a', '1'), ('b', '2'), ('a', '3')])"


def test_they_are_equal_to_headers_with_the_same_fields_and_have_no_hash():
    assert headers() == headers()
    assert headers() == Headers(headers().raw)
    assert Headers(headers().raw) == headers()
    assert headers() != MutableHeaders()
    assert headers() != [("a", "1")]
    with pytest.raises(TypeError):
        hash(headers())


def test_they_are_a_view_of_the_list_that_they_were_made_from():
    raw = [(b"a", b"1")]
    MutableHeaders(raw)["b"] = "2"
    assert raw == [(b"a", b"1"), (b"b", b"2")]


def test_what_is_set_in_the_headers_of_a_response_is_there_to_stay():
    response = Response("x", headers=[("a", "1"), ("A", "2")])
    response.headers["X-Request-Id"] = "7"
    del response.headers["a"]
    assert list(response.headers) == [("content-type", "text/plain; charset=utf-8"), ("x-request-id", "7")]


SETTERS = [
    lambda name, value: fields_of({name: value}, None),
    lambda name, value: fields_of(iter([(name, value)]), None),
    lambda name, value: MutableHeaders().add(name, value),
    lambda name, value: MutableHeaders().setdefault(name, value),
    lambda name, value: MutableHeaders().__setitem__(name, value),
]


@pytest.mark.parametrize("set_field", SETTERS)
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("", "x", "'' is no name"),
        ("a b", "x", "'a b' is no name"),
        ("a:", "x", "'a:' is no name"),
        ("é", "x", "'é' is no name"),
        ("a\r\nb", "x", r"'a\\r\\nb' is no name"),
        ("\u212a", "x", "is no name"),  # becomes a plain k in lower case
        ("\ud800", "x", "is no name"),
        (b"a", "x", "is text, not b'a'"),
        (1, "x", "is text, not 1"),
        (None, "x", "is text, not None"),
        ("a", b"x", "header a is text, not b'x'"),
        ("a", 1, "header a is text, not 1"),
        ("a", None, "header a is text, not None"),
        ("a", "ε", "beyond ISO-8859-1"),
        ("a", "\ud800", "beyond ISO-8859-1"),
        ("a", "x\r\nset-cookie: y", "control character"),
        ("a", "x\n", "control character"),
        ("a", "\rx", "control character"),
        ("a", "x\0y", "control character"),
        ("a", "x\x7f", "control character"),
        ("a", "\x0c", "control character"),
        ("a", " x", "white space"),
        ("a", "x\t", "white space"),
        ("a", " ", "white space"),
    ],
)
def test_what_http_cannot_carry_is_refused_and_named(set_field, name, value, said):
    with pytest.raises(ResponseError, match="response header") as caught:
        set_field(name, value)
    assert caught.match(said)


@pytest.mark.parametrize("items", ["ab", [("a",)], [("a", "b", "c")], [1], 5])
def test_what_is_no_headers_at_all_is_refused(items):
    with pytest.raises(ResponseError, match="pairs of name and value"):
        fields_of(items, None)


@given(value=st.text(st.characters(max_codepoint=0x2FF), max_size=8))
def test_rfc9110_5_5_a_value_is_taken_if_it_is_visible_text_with_white_space_inside(value):
    legal = (
        all(c == "\t" or (" " <= c <= "\xff" and c != "\x7f") for c in value)
        and value[:1] not in {" ", "\t"}
        and value[-1:] not in {" ", "\t"}
    )
    if legal:
        assert fields_of({"a": value}, None) == [(b"a", value.encode("latin-1"))]
    else:
        with pytest.raises(ResponseError):
            fields_of({"a": value}, None)


@given(name=st.text(st.characters(max_codepoint=0x17F), max_size=4))
def test_rfc9110_5_1_a_name_is_taken_if_it_is_a_token(name):
    if name and set(name) <= TOKEN:
        assert fields_of({name: "x"}, None) == [(name.lower().encode(), b"x")]
    else:
        with pytest.raises(ResponseError):
            fields_of({name: "x"}, None)


@given(value=st.text(st.characters(max_codepoint=0xFF), max_size=8))
def test_what_is_taken_can_be_sent(value):
    try:
        fields = fields_of({"a": value}, None)
    except ResponseError:
        return
    h11.Response(status_code=200, headers=fields)  # the strictest that comes after us

"""The fields of a section: they are the same whether their lines are remembered or not, and what is remembered."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.core import field_section
from trioserve.core.field_section import fields_of
from trioserve.core.remembered import MAX_REMEMBERED, MAX_REMEMBERED_SIZE

TOKEN = set(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")


@pytest.fixture(autouse=True)
def forgotten():
    field_section._remembered.clear()


def fields_in(lines: list[bytes]) -> tuple | None:
    return fields_of(b"".join(line + b"\r\n" for line in lines))


def plainly(lines: list[bytes]) -> tuple | None:
    """By RFC 9112 §5 and RFC 9110 §5.5, one byte after another."""
    lines = [part for line in lines for part in line.split(b"\r\n")]
    fields = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not name or not colon or not set(name) <= TOKEN:
            return None
        if any((char < " " and char != "\t") or char == "\x7f" for char in value):
            return None
        fields.append((name.lower().encode(), value.strip(" \t").encode("latin-1")))
    return tuple(fields)


LINES = st.lists(
    st.one_of(
        st.sampled_from([
            b"Host: a", b"host:a", b"HOST: \ta ", b"Accept: */*", b"accept:*/*", b"Cookie: a=b", b"X: \xe9", b"Accept:",
            b"Accept: a\r", b"\nAccept: a", b"Accept : a", b" Accept: a", b"Accept", b"", b"Accept: a\r\nHost: b",
            b"Accept: \0", b":a",
        ]),
        st.binary(max_size=6),
        st.tuples(st.sampled_from([b"Accept", b"Via", b"cookie"]), st.binary(max_size=6)).map(b":".join),
    ),
    max_size=6,
)  # fmt: skip


@given(sections=st.lists(LINES, min_size=1, max_size=4))
def test_rfc9112_5_a_line_means_the_same_whatever_came_before(sections):
    for _ in range(2):
        for lines in sections:
            assert fields_in(lines) == plainly(lines)


@pytest.mark.parametrize("section", [b"Accept: a", b"Accept: a\r", b"Accept: a\n", b"Host: a\r\nAccept: a", b"\r"])
def test_a_line_without_an_end_is_none(section):
    assert fields_of(section) is None


def test_a_line_that_comes_again_is_remembered_by_all_of_its_bytes():
    first = fields_in([b"Accept: */*"])
    assert fields_in([b"Via: a", b"Accept: */*"])[1] is first[0]
    assert fields_in([b"ACCEPT: */*"])[0] is not first[0]
    assert fields_in([b"Accept: */* "])[0] is not first[0]


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: session=secret",
        b"Authorization: Basic YTpi",
        b"Proxy-Authorization: Basic YTpi",
        b"X-Api-Key: secret",
        b"Referer: http://a/?token=secret",
        b"X-Forwarded-For: 192.0.2.1",
    ],
)
def test_what_may_be_secret_is_not_remembered(line):
    assert fields_in([line, b"Accept: */*"]) == plainly([line, b"Accept: */*"])
    assert list(field_section._remembered) == [b"Accept: */*"]


def test_what_is_remembered_is_bounded():
    for number in range(3 * MAX_REMEMBERED):
        fields_in([b"Accept: %d" % number])
        assert len(field_section._remembered) <= MAX_REMEMBERED
    assert fields_in([b"Accept: 1"]) == ((b"accept", b"1"),)


@pytest.mark.parametrize(("size", "remembered"), [(MAX_REMEMBERED_SIZE, True), (MAX_REMEMBERED_SIZE + 1, False)])
def test_a_long_line_is_not_remembered(size, remembered):
    line = b"Accept: ".ljust(size, b"x")
    assert fields_in([line]) == plainly([line])
    assert (line in field_section._remembered) is remembered

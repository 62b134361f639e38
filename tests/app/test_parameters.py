"""Parameters of a media type or disposition (RFC 9110 §5.6.6), as they are sent."""

from __future__ import annotations

import pytest

from trioserve.app.parameters import charset_of, is_utf8, parse_parameters


@pytest.mark.parametrize(
    ("text", "value", "parameters"),
    [
        ("", "", {}),
        ("text/plain", "text/plain", {}),
        (" Text/PLAIN ; Charset=UTF-8", "text/plain", {"charset": "UTF-8"}),
        ("a/b;c=d;e=f", "a/b", {"c": "d", "e": "f"}),
        ("a/b; ; c=d;", "a/b", {"c": "d"}),
        ('a/b; c="d;e=f"; g=h', "a/b", {"c": "d;e=f", "g": "h"}),
        ('a/b; c=""', "a/b", {"c": ""}),
        (r'a/b; c="say \"x\" \\"', "a/b", {"c": r'say "x" ' + "\\"}),
        # As browsers send them, which escape no backslash.
        (r'form-data; filename="C:\new\x.txt"', "form-data", {"filename": r"C:\new\x.txt"}),
        ('form-data; name="a\\"; filename="b\\"', "form-data", {"name": "a\\", "filename": "b\\"}),
        ('form-data; name="a\\"; filename=""', "form-data", {"name": "a\\", "filename": ""}),
        ('form-data; name="a\nb"', "form-data", {"name": "a\nb"}),
        ("a/b; filename*=utf-8''x", "a/b", {"filename*": "utf-8''x"}),
    ],
)
def test_what_is_sent_is_read(text, value, parameters):
    assert parse_parameters(text) == (value, parameters)


@pytest.mark.parametrize(
    "text", ["a; b", "a; =c", "a; b=", 'a; b="c', 'a; b="c"d', "a; b=c d", "a; b=c; b=c", "a; b=c; B=d", "a; b = c"]
)
def test_what_is_malformed_is_told_apart(text):
    assert parse_parameters(text) is None


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        (None, None),
        ("a/b", None),
        ("a/b; c=d", None),
        ("a/b; Charset=X", "X"),
        ('a/b; c=d; charset="x"', "x"),
        ("a;b", None),
    ],
)
def test_a_content_type_may_declare_a_charset(content_type, charset):
    assert charset_of(content_type) == charset


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", "us-ascii", "ASCII"])
def test_utf8_has_these_names(charset):
    assert is_utf8(charset)


@pytest.mark.parametrize("charset", ["", "iso-8859-1", "utf-16", "utf-7", "x"])
def test_no_other_charset_is_utf8(charset):
    assert not is_utf8(charset)

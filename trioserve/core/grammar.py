"""The grammar of requests (RFC 9112), as patterns, and what is said of a line that does not fit it.

Of each kind of line there is a pattern for all of it, which is fast, and one for as much of it as there is (SO_FAR),
which tells the first byte that cannot be in its place.

No byte is looked at many times, whatever the input: what is repeated is either possessive (`*+`), or what follows it
matches in any case.
"""

from __future__ import annotations

import re
from typing import Final

from trioserve.core.fields import TOKEN

MAX_EMPTY_LINES: Final = 8
"""Empty lines that are skipped before a request line. RFC 9112 §2.2 asks for one; old clients add it to a POST."""

MAX_SIZE_DIGITS: Final = 16
"""Digits in a chunk's size, leading zeros among them: as many as 2^64 - 1 has."""

_TOKEN = TOKEN.encode() + b"+"
_TARGET = rb"[\x21-\x7e]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"  # RFC 9110 §5.5, with the white space around it

REQUEST_LINE = re.compile(b"(" + _TOKEN + b") (" + _TARGET + rb") HTTP/(1\.[01])\r\n")
_FIELD_LINE = _TOKEN + b":" + _VALUE
FIELD_LINES = re.compile(_FIELD_LINE + rb"(?:\r\n" + _FIELD_LINE + b")*+")  # without the last one's end


def _longest_beginning(*parts: bytes) -> bytes:
    """A pattern for as much of `parts`, one after another, as there is.

    It always matches. Where the match ends, the input ends too, or goes on with a byte that does not fit; and it ends
    with a line feed only if the line is complete.
    """
    pattern = b""
    for part in reversed(parts):
        pattern = b"(?:" + part + pattern + b")?"
    return pattern


REQUEST_LINE_SO_FAR = re.compile(
    _longest_beginning(
        _TOKEN, b" ", _TARGET, b" ", b"H", b"T", b"T", b"P", b"/", b"[0-9]", rb"\.", b"[0-9]", b"\r", b"\n"
    )
)
FIELD_LINE_SO_FAR = re.compile(rb"\r\n?|" + _longest_beginning(_TOKEN, b":", _VALUE, b"\r", b"\n"))

# RFC 9112 §7.1 and §7.1.1. The name of an extension that goes on with "=" is left to the last part, where its value may
# be incomplete.
_SPACE = rb"[\t ]*+"
_IN_QUOTES = rb"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\[\t\x20-\x7e\x80-\xff])*"
_EXTENSION = b'%b;%b%b(?:%b=%b(?:%b|"%b")|(?!%b=))' % (
    _SPACE, _SPACE, _TOKEN, _SPACE, _SPACE, _TOKEN, _IN_QUOTES, _SPACE,
)  # fmt: skip
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,%d})\r\n" % MAX_SIZE_DIGITS)  # without extensions
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]*+")
EXTENSIONS_SO_FAR = re.compile(
    b"(?:" + _EXTENSION + rb")*(?:\r\n?|"
    + _longest_beginning(_SPACE, b";", _SPACE, _TOKEN, _SPACE, b"=", _SPACE, b'"', _IN_QUOTES, rb"\\")
    + b")"
)  # fmt: skip

_CR, LF = b"\r\n"


# Why a line is none: `line` is its longest beginning that would be one, and `byte` the one behind it.


def why_no_request_line(line: bytes, byte: int) -> str:
    parts = line.count(b" ")
    if not line and byte == _CR:
        return f"there are more than {MAX_EMPTY_LINES} empty lines before the request, or a carriage return alone"
    if not line and byte == 0x16:
        return "this is no HTTP request, but looks like TLS; this port speaks plain HTTP"
    if line.startswith(b"PROXY ") or (not line and byte == 0):  # version 1; version 2, behind its empty lines
        return (
            "this is no HTTP request, but looks like a header of the PROXY protocol, which is not read at this port; "
            "let the proxy not send it, or start the server with --proxy-protocol (proxy_protocol=True of an address)"
        )
    if not parts:
        return "the request does not begin with a method and one space (RFC 9112 §3.1)"
    if parts == 1:
        return "the request target is empty or has a character that it cannot have (RFC 9112 §3.2)"
    return "the request line does not end with one space, HTTP/1.1 and a line break (RFC 9112 §3)"


def why_no_field_line(line: bytes, byte: int) -> str:
    if line.endswith(b"\r"):
        return "a carriage return in the request is not followed by a line feed (RFC 9112 §2.2)"
    if not line and byte in b" \t":
        return "a line of the request begins with white space; line folding is obsolete (RFC 9112 §5.2)"
    if b":" not in line:
        if byte in b" \t":
            return "there is white space before the colon of a field (RFC 9112 §5.1)"
        return "a line of the request is no field: a name, a colon and a value (RFC 9112 §5)"
    if byte == LF:
        return "a line of the request ends with a line feed alone (RFC 9112 §2.2)"
    return "a field of the request has a control character (RFC 9110 §5.5)"


def why_no_chunk_line(line: bytes, byte: int) -> str:
    if not line:
        return "a chunk of the request's content does not begin with its size in hexadecimal digits (RFC 9112 §7.1)"
    if line.endswith(b"\r") or byte == LF:
        return "a chunk's first line does not end with a carriage return and a line feed (RFC 9112 §7.1)"
    return "a chunk extension is malformed (RFC 9112 §7.1.1)"

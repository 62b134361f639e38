"""Plain requests: those that every server has to serve, as the model reads them. By a reader of its own, so that the
oracle does not take the server's word for what a request is.
"""

from __future__ import annotations

import re

from trioserve.testing.wire import Wire

_FIELD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*(?:[!-~]+(?:[ \t]+[!-~]+)*)?[ \t]*\r\n"
_HEAD = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) /[!$-;=?-Z_a-z~]* HTTP/1\.[01]\r\n(?:" + _FIELD + rb")*\r\n"
)
_HOST = re.compile(rb"\r\nhost:[ \t]*[a-z0-9.-]+(?::[0-9]+)?[ \t]*(?=\r\n)", re.IGNORECASE)
_ANY_HOST = re.compile(rb"\r\nhost:", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*(?=\r\n)", re.IGNORECASE)
_ANY_LENGTH = re.compile(rb"\r\n(?:content-length|transfer-encoding|upgrade|trailer):", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_ANY_EXPECTS = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


def is_right(wire: Wire) -> bool:
    """True if this is a plain request that every server has to serve. What is not plain may be right all the same."""
    hosts = len(_ANY_HOST.findall(wire.head))
    if len(wire.head) > 4000:
        return False  # there are limits
    if not _HEAD.fullmatch(wire.head) or hosts > 1 or hosts != len(_HOST.findall(wire.head)):
        return False
    if not hosts and b" HTTP/1.1\r\n" in wire.head:
        return False
    if len(_ANY_EXPECTS.findall(wire.head)) != len(_EXPECTS.findall(wire.head)):
        return False
    return _framed(wire) is not None


def content_of(wire: Wire) -> bytes:
    """The content of a request, without chunk framing; of one that is not right, what follows its head."""
    content = _framed(wire)
    return wire.body if content is None else content


def _framed(wire: Wire) -> bytes | None:
    """The content of a request whose framing is right; None if it is not."""
    framings = len(_ANY_LENGTH.findall(wire.head))
    if _CHUNKED.search(wire.head) and framings == 1 and b" HTTP/1.1\r\n" in wire.head:
        return _dechunked(wire.body)
    length = _LENGTH.search(wire.head)
    if framings != (length is not None) or len(wire.body) != (int(length[1]) if length else 0):
        return None
    return wire.body


def _dechunked(body: bytes) -> bytes | None:
    content, at = b"", 0
    while match := _CHUNK.match(body, at):
        size, begin = int(match[1], 16), match.end()
        at = begin + size + 2
        if body[begin + size : at] != b"\r\n":
            return None
        if not size:
            return content if at == len(body) else None
        content += body[begin : begin + size]
    return None


def expects_continue(wire: Wire) -> bool:
    """True if its client waits for a 100 Continue (RFC 9110 §10.1.1)."""
    return _EXPECTS.search(wire.head) is not None


def asks_to_close(wire: Wire) -> bool:
    """True if it is to be the last on its connection (RFC 9112 §9.6)."""
    return _CLOSE.search(wire.head) is not None

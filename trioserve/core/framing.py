"""How a request says where its content ends (RFC 9112 §6): in one way, or it is refused. And if the client waits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from trioserve.core.errors import RequestError
from trioserve.core.messages import Field

MAX_LENGTH_DIGITS: Final = 20
"""Digits in a Content-Length, leading zeros among them: as many as 2^64 - 1 has."""

FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
"""The fields that say it."""

_LENGTH = re.compile(rb"[0-9]{1,%d}" % MAX_LENGTH_DIGITS)


def content_length(fields: Sequence[Field], http_version: str) -> int | None:
    """The announced length of a request's content: None if it is chunked, 0 if there is none (RFC 9112 §6.3).

    Raises:
        RequestError: it is not announced in exactly one way.
    """
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in fields:
        if name in FRAMING:
            (lengths if name == b"content-length" else codings).append(value)
    if codings:
        if lengths:
            raise RequestError(400, "the request has both Content-Length and Transfer-Encoding (RFC 9112 §6.1)")
        if http_version == "1.0":
            raise RequestError(400, "an HTTP/1.0 request cannot have Transfer-Encoding (RFC 9112 §6.1)")
        _check_chunked(b",".join(codings))
        return None
    if not lengths:
        return 0
    # Equal ones could be taken for one (§6.3), but who sends two has been tampered with.
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise RequestError(400, "the request's Content-Length is not one number of bytes (RFC 9112 §6.3)")
    return int(lengths[0])


def expects_continue(fields: Sequence[Field]) -> bool:
    """True if the client asks to hear 100 Continue before it sends content (RFC 9110 §10.1.1)."""
    return any(
        expectation.strip(b" \t") == b"100-continue"
        for name, value in fields
        if name == b"expect"
        for expectation in value.lower().split(b",")
    )


def _check_chunked(codings: bytes) -> None:
    names = [coding.strip(b" \t").lower() for coding in codings.split(b",")]
    if names == [b"chunked"]:
        return
    if names[-1] != b"chunked":
        raise RequestError(400, "chunked is not the last transfer coding of the request (RFC 9112 §6.3)")
    if b"chunked" in names[:-1] or not all(names):
        raise RequestError(400, "the request's Transfer-Encoding is malformed (RFC 9112 §6.1)")
    raise RequestError(501, "this server knows no transfer coding but chunked (RFC 9112 §6.1)")

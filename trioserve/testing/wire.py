"""Wire: one request as it is on the wire, made from what is at hand: a target, raw bytes, or an `httpx.Request`.

Bytes are taken as they are, right or wrong, so that a test can send what no client library would. Refused is only what
is not one request: a head that does not end, content that is not all there or more than it says, since whoever plays it
would wait for the rest, or for an answer to the second.

httpx is not needed for texts and bytes, and not imported here at all.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import httpx

HOST = "test"
"""The Host of requests that do not say one."""

_HEAD_END = b"\r\n\r\n"
_TARGET = re.compile(r"(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+) )?((?:/|\*$|[A-Za-z][A-Za-z0-9+.\-]*://)[!-~]*)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*\bchunked[ \t]*\r\n", re.IGNORECASE)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[^\r\n]*\r\n")
"""A chunk's size, with its extensions and line end (RFC 9112 §7.1)."""

_WITH_CONTENT = {"POST", "PUT", "PATCH"}


class Wire(NamedTuple):
    """One request as it is on the wire."""

    head: bytes  # from the request line to the empty line, both included
    body: bytes  # what follows: content, with its chunk framing if it is chunked
    method: str
    target: str


def wire_of(request: str | bytes | httpx.Request) -> Wire:
    """A request as it is on the wire.

    Args:
        request: a target ("/x"), a method and a target ("POST /x"); all of a request as raw bytes; or an
            `httpx.Request`, for fields and content.

    Raises:
        TypeError: it is none of these.
        ValueError: it is not one whole request; the message says what is wrong.
    """
    if isinstance(request, str):
        return _of_text(request)
    if isinstance(request, bytes | bytearray | memoryview):
        return _of_bytes(bytes(request))
    httpx = sys.modules.get("httpx")
    if httpx is not None and isinstance(request, httpx.Request):
        return _of_httpx(request)
    raise TypeError(
        f'{request!r} is no request; give a target ("/x"), a method and a target ("POST /x"), raw bytes, or an '
        f"httpx.Request"
    )


def head_of(method: str, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A request's head, with fields as they are given."""
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in fields)]
    return b"\r\n".join([*lines, b"", b""])


def chunks_of(pieces: Iterable[bytes]) -> bytes:
    """Content in chunks (RFC 9112 §7.1), one for each piece that is not empty, and the last chunk."""
    return b"".join([*(chunk_of(piece) for piece in pieces if piece), LAST_CHUNK])


def chunk_of(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def _of_text(request: str) -> Wire:
    match = _TARGET.fullmatch(request)
    if match is None:
        raise ValueError(
            f'{request!r} is no request; give a target that begins with "/" and is percent-encoded ("/x?y=%20"), or '
            'a method and a target ("POST /x"); for fields and content give an httpx.Request, or raw bytes'
        )
    method, target = match[1] or "GET", match[2]
    fields = [(b"Host", HOST.encode())]
    if method in _WITH_CONTENT:
        fields.append((b"Content-Length", b"0"))  # RFC 9110 §8.6
    return Wire(head_of(method, target.encode(), fields), b"", method, target)


def _of_bytes(request: bytes) -> Wire:
    head, end, body = request.partition(_HEAD_END)
    if not end:
        raise ValueError(f"{_shown(request)} has no end of a head: \\r\\n\\r\\n, also where there is no content")
    head += end
    line = head.split(b"\r\n", 1)[0]
    words = line.split(b" ")
    if len(words) < 2 or not all(words[:2]):
        raise ValueError(
            f"{_shown(line)} is no request line; it has a method and a target, like 'GET /x HTTP/1.1', and nothing is "
            "before it"
        )
    if (surplus := len(body) - _body_size(head, body)) > 0:
        raise ValueError(
            f"{_shown(body[-surplus:])} comes behind the request's end. Give one request; if this is its content, its "
            "head must say so (Content-Length)"
        )
    return Wire(head, body, words[0].decode("latin-1"), words[1].decode("latin-1"))


def _body_size(head: bytes, body: bytes) -> int:
    """How many bytes the body has, by its head and chunk framing.

    Raises:
        ValueError: they are not all there.
    """
    if is_chunked(head):
        return _chunked_size(body)
    length = _LENGTH.search(head)
    size = int(length[1]) if length else 0
    if size > len(body):
        raise ValueError(f"Content-Length says {size}, but {len(body)} bytes of content follow the head")
    return size


def is_chunked(head: bytes) -> bool:
    """True if a request with this head has its content in chunks."""
    return _CHUNKED.search(head) is not None


def _chunked_size(body: bytes) -> int:
    """How many bytes chunked content has. What is no chunk framing is taken for its end: a server refuses it there."""
    at = 0
    while match := CHUNK_SIZE.match(body, at):
        size = int(match[1], 16)
        if not size:
            # The trailer section: fields, and an empty line.
            end = body.find(_HEAD_END, match.end() - 2)
            at = end + len(_HEAD_END) if end >= 0 else len(body) + 1
            break
        at = match.end() + size + 2
    if at > len(body) or (match is None and at == len(body)):
        raise ValueError(
            f"the chunked content {_shown(body)} is not all there; it ends with a chunk of size 0 (RFC 9112 §7.1)"
        )
    return len(body) if match is None else at


def _of_httpx(request: httpx.Request) -> Wire:
    content = _content_of(request)
    chunked = request.headers.get("transfer-encoding", "").lower() == "chunked"
    body = chunks_of(content) if chunked else b"".join(content)
    target = target_of(request)
    head = head_of(request.method, target, fields_of(request))
    if (size := _body_size(head, body)) != len(body):
        raise ValueError(f"Content-Length says {size}, but the request has {len(body)} bytes of content")
    return Wire(head, body, request.method, target.decode("ascii"))


def target_of(request: httpx.Request) -> bytes:
    """The target of a request to an origin server."""
    extension: bytes | None = request.extensions.get("target")
    return extension or request.url.raw_path or b"/"


def fields_of(request: httpx.Request) -> Sequence[tuple[bytes, bytes]]:
    """A request's fields as they were given; a Host if there is none, or an empty one, as for a relative URL."""
    fields = [(name, value) for name, value in request.headers.raw if name.lower() != b"host" or value]
    if not any(name.lower() == b"host" for name, _ in fields):
        fields.insert(0, (b"Host", HOST.encode()))
    return fields


def _content_of(request: httpx.Request) -> list[bytes]:
    """The pieces of a request's content."""
    import httpx

    try:
        return [request.content]
    except httpx.RequestNotRead:
        if isinstance(request.stream, httpx.SyncByteStream):
            return list(request.stream)
    raise ValueError(
        "the request's content is an async stream, which can be sent only once; give it as bytes, or as a list of bytes"
        " for one chunk each"
    )


def _shown(data: bytes) -> str:
    """Bytes in a message: all, or how they begin."""
    return repr(data) if len(data) <= 60 else f"{data[:50]!r}... ({len(data)} bytes)"

"""What clients and server agree on: the name of each exchange, the content that an answer must have, and raw requests.

Each request has a name of its own in its target, which the server's records repeat. The content of answers is made from
the name's number, so that an answer that was meant for somebody else is a wrong one.
"""

from __future__ import annotations

import random
import re
import zlib

BLOCK = 4096

_NAME = re.compile(r"[?&]name=(\d{1,12})-([0-9a-f]{8})(?:&|$)")


def name_of(number: int) -> str:
    """With a check sum, so that no other name comes of a request that was mutated."""
    return f"{number}-{zlib.crc32(b'%d' % number):08x}"


def number_in(target: str | None) -> int | None:
    """The number of the exchange that a target names; None if there is none, or it was mutated."""
    match = _NAME.search(target) if target is not None else None
    if match is None or match[0].rstrip("&").partition("=")[2] != name_of(int(match[1])):
        return None
    return int(match[1])


def content(number: int, size: int) -> bytes:
    block = random.Random(number).randbytes(BLOCK)
    return (block * (size // BLOCK + 1))[:size]


def event_text(number: int, position: int) -> str:
    """The data of one server-sent event, of two lines."""
    return f"event {position}\nof {number}"


def target(path: str, number: int, **query: int) -> str:
    return f"{path}?" + "".join(f"{key}={value}&" for key, value in query.items()) + f"name={name_of(number)}"


def head(method: str, target: str, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: soak.example", *fields, "", ""]).encode()


def with_length(method: str, target: str, body: bytes, *fields: str) -> bytes:
    return head(method, target, f"Content-Length: {len(body)}", *fields) + body


def chunked(body: bytes, chance: random.Random) -> bytes:
    """The body in chunks of random sizes, some with an extension, with a trailer field perhaps."""
    pieces = []
    position = 0
    while position < len(body):
        size = min(chance.choice((1, 100, 5000, 20_000)), len(body) - position)
        extension = chance.choice(("", "", ';name="quoted; value"', ";token=value"))
        pieces.append(b"%x%s\r\n" % (size, extension.encode()) + body[position : position + size] + b"\r\n")
        position += size
    trailer = chance.choice((b"", b"X-Trailer: yes\r\n"))
    return b"".join(pieces) + b"0\r\n" + trailer + b"\r\n"


def multipart(boundary: str, title: str, filename: str, file: bytes) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="title"\r\n\r\n{title}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + b"%s\r\n--%s--\r\n" % (file, boundary.encode())

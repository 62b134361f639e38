"""What is thrown at the server: real requests, mutated, and the ways to cut them into segments.

All of it is drawn from one `random.Random`, so an input is known by its number alone and can be thrown again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

BROWSER = (
    b"Host: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"Cookie: session=0123456789abcdef; theme=dark\r\n"
    b"Connection: keep-alive\r\n"
)

REQUESTS: Sequence[bytes] = (
    b"GET / HTTP/1.1\r\n" + BROWSER + b"\r\n",
    b"GET /items/42?q=a%20b&page=2 HTTP/1.1\r\nHost: example.com:8080\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"OPTIONS /echo HTTP/1.1\r\nHost: example.com\r\nOrigin: https://example.org\r\n\r\n",
    b"GET http://example.com/items/1 HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"DELETE /items/7 HTTP/1.1\r\nHost: example.com\r\nAccept: application/json\r\n\r\n",
    (
        b"POST /echo HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
        b'{"name": "tea"}'
    ),
    (
        b"PUT /echo HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n10;name=value\r\n0123456789abcdef\r\n0\r\n\r\n"
    ),
    (
        b"POST /echo HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b'a;a="b;c"\r\n0123456789\r\n0\r\nX-Sum: 1234\r\n\r\n'
    ),
    b"POST /echo HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    (
        b"POST /form HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 17\r\n\r\nname=tea&size=big"
    ),
    (
        b"POST /form HTTP/1.1\r\nHost: example.com\r\nContent-Type: multipart/form-data; boundary=cut\r\n"
        b"Content-Length: 79\r\n\r\n"
        b'--cut\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nabc\r\n--cut--\r\n'
    ),
    b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
)

TOKENS: Sequence[bytes] = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b'"', b"\\", b"\x7f", b"\x80", b"\xff", b"\r\n\r\n"),
    *(b"0\r\n\r\n", b"\r\n ", b"\r\n\t", b"%00", b"#", b"?", b"//", b"/../", b"@", b"[", b"]", b"*"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.10", b"HTTP/2.0", b"http/1.1", b"GET ", b"BREW ", b"http://"),
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Host: other\r\n",
    b"Host:\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: tea\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, close\r\n",
    b"Upgrade: websocket\r\n",
    b"X: " + b"x" * 9000 + b"\r\n",
    b"X: y\r\n" * 101,
    b"FFFFFFFFFFFFFFFF\r\n",
    b"-1\r\n",
    b"0x5\r\n",
    b";" + b"e" * 5000,
    b"/" * 9000,
)


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    begin = _place(rng, data)
    return begin, min(len(data), begin + rng.choice((1, 1, 2, 4, 16, 64)))


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data)) if data else 0
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _insert_line(rng: random.Random, data: bytes) -> bytes:
    """A token at the beginning of a line, where most of them mean most."""
    ends = [at + 2 for at in range(len(data)) if data.startswith(b"\r\n", at)]
    at = rng.choice(ends) if ends else 0
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + data[end:]


def _double(rng: random.Random, data: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:end] + data[begin:end] + data[end:]


def _replace(rng: random.Random, data: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + rng.choice(TOKENS) + data[end:]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(REQUESTS)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _swap_case(rng: random.Random, data: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + data[begin:end].swapcase() + data[end:]


MUTATIONS: Sequence[Callable[[random.Random, bytes], bytes]] = (
    *(_flip, _insert, _insert_line, _delete, _double, _replace, _truncate, _splice, _swap_case),
)


def mutated(rng: random.Random) -> bytes:
    """One to three requests in a row, of which up to four bytes or places were changed; some are left as they are."""
    data = b"".join(rng.choices(REQUESTS, k=rng.choice((1, 1, 2, 3))))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4))):
        data = rng.choice(MUTATIONS)(rng, data)
    return data


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def by_the_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The data, cut at these places."""
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


def cut_at_random(rng: random.Random, data: bytes) -> list[bytes]:
    return cut(data, [_place(rng, data) for _ in range(rng.randint(1, 5))])

"""`python -m benchmarks.receiving`: CPU time of the gate and of the engine behind it, for usual and hostile input."""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import repeat

from benchmarks.tables import load_average, measured_where, publish, table
from trioserve.core.engine_h11 import H11Engine
from trioserve.core.errors import RequestError
from trioserve.core.gate import Gate
from trioserve.core.limits import Limits
from trioserve.core.messages import NEED_DATA, EndOfRequest, ResponseHead

LIMITS = Limits()
SEGMENT = 65_536
MEBIBYTE = 1_048_576
CONTENT = 10 * MEBIBYTE
SMALL = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BROWSER = (
    b"GET /a/b/c?x=1&y=2 HTTP/1.1\r\nHost: www.example.org:8000\r\nConnection: keep-alive\r\n"
    b'Cache-Control: max-age=0\r\nsec-ch-ua: "Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"\r\n'
    b"sec-ch-ua-mobile: ?0\r\nUpgrade-Insecure-Requests: 1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 "
    b"Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9,de;q=0.8\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n"
)
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
FIXED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % CONTENT
POST = SMALL[:-2].replace(b"GET", b"POST") + b"Content-Length: 10240\r\n\r\n" + bytes(10_240)
ANSWER = ResponseHead(200, [(b"content-length", b"2")])


def in_chunks_of(size: int, number: int) -> bytes:
    return CHUNKED + (b"%x\r\n" % size + bytes(size) + b"\r\n") * number + b"0\r\n\r\n"


def segments(wire: bytes, size: int = SEGMENT) -> list[bytes]:
    return [wire[start : start + size] for start in range(0, len(wire), size)]


def with_other_cookies(number: int) -> bytes:
    return BROWSER.replace(b"0123456789abcdef", b"%016x" % number)


def with_other_lines(number: int) -> bytes:
    """All of the browser's field lines but Connection say something else."""
    head = BROWSER.replace(b"\r\n\r\n", b"%d\r\n\r\n" % number)
    return re.sub(rb"\n(?!Connection)([^:\n]+): ", rb"\n\1: %d" % number, head)


# What usual requests cost: wires as (requests in it, pieces).
USUAL: dict[str, tuple[int, list[bytes]]] = {
    f"GET of a browser, {len(BROWSER)} bytes": (2_000, list(repeat(BROWSER, 2_000))),
    "the same, with ever new cookies": (2_000, list(map(with_other_cookies, range(2_000)))),
    "the same, with ever new lines": (2_000, list(map(with_other_lines, range(2_000)))),
    "GET with Host alone": (2_000, list(repeat(SMALL, 2_000))),
    "GET with Host alone, pipelined": (2_000, segments(SMALL * 2_000)),
    "POST of 10 KiB": (1_000, list(repeat(POST, 1_000))),
    "1,000 chunks of 60 bytes": (1, segments(in_chunks_of(60, 1_000))),
    "10 MiB of known length": (1, segments(FIXED + bytes(CONTENT))),
    "10 MiB in chunks of 64 KiB": (1, segments(in_chunks_of(65_536, CONTENT // 65_536))),
    "10 MiB in chunks of 4 KiB": (1, segments(in_chunks_of(4_096, CONTENT // 4_096))),
}
# What tries to make much work of little: pieces. All of it is within the limits, or else refused.
HOSTILE: dict[str, list[bytes]] = {
    "a head of a browser byte by byte": segments(BROWSER, 1),
    "1 MiB in chunks of one byte": segments(in_chunks_of(1, MEBIBYTE // 6)),
    "a head of 16 KiB and 100 fields": [SMALL[:-2] + (b"x:" + b"y" * 156 + b"\r\n") * 99 + b"\r\n"],
    "the same byte by byte": segments(SMALL[:-2] + (b"x:" + b"y" * 156 + b"\r\n") * 99 + b"\r\n", 1),
    "a field line of 8 KiB byte by byte": segments(SMALL[:-2] + b"x:" + b"y" * 8_190 + b"\r\n\r\n", 1),
    "a target of 8 KiB byte by byte": segments(b"GET /" + b"y" * 8_000 + SMALL[5:], 1),
    "a chunk extension of 16 KiB byte by byte": [CHUNKED, *segments(b"1;" + b"y" * 16_383 + b"\r\nx\r\n0\r\n\r\n", 1)],
    "the same with a quoted value": [CHUNKED, *segments(b'1;y="' + b"y" * 16_379 + b'"\r\nx\r\n0\r\n\r\n', 1)],
    "the same of pairs in quotes": [CHUNKED, *segments(b'1;y="' + b'\\"' * 8_189 + b'"\r\nx\r\n0\r\n\r\n', 1)],
    "the same of many extensions": [CHUNKED, *segments(b"1" + b";y" * 8_192 + b"\r\nx\r\n0\r\n\r\n", 1)],
    "16 KiB of extensions in one line": [CHUNKED + b"1" + b";y" * 8_192 + b"\r\nx\r\n0\r\n\r\n"],
    "64 KiB of spaces in a chunk's line": [CHUNKED + b"1" + b" " * 65_536],
    "64 KiB without a line": [b"y" * 65_536],
    "64 KiB of empty lines": [b"\r\n" * 32_768],
}


def through_gate(pieces: list[bytes]) -> None:
    gate = Gate(LIMITS)
    for piece in pieces:
        gate.receive_data(piece)
        while (event := gate.next_event()) is not NEED_DATA:
            if isinstance(event, EndOfRequest):
                gate.start_next_request()


def through_engine(pieces: list[bytes]) -> None:
    """Receive and answer, as a connection does."""
    engine, source = H11Engine(LIMITS), iter(pieces)
    for event in events(engine, source):
        if isinstance(event, EndOfRequest):
            engine.respond(ANSWER, b"ok")
            engine.start_next_exchange()


def events(engine: H11Engine, source: Iterator[bytes]) -> Iterator[object]:
    while True:
        while (event := engine.next_event()) is NEED_DATA:
            piece = next(source, None)
            if piece is None:
                return
            engine.receive_data(piece)
        yield event


def cost(receive: Callable[[list[bytes]], None], pieces: list[bytes]) -> float:
    """Microseconds of CPU."""
    begun = time.process_time_ns()
    try:
        receive(pieces)
    except RequestError:
        pass  # refused, which is an end like another here
    return (time.process_time_ns() - begun) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receiving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", metavar="FILE")
    arguments = parser.parse_args()
    load = load_average()

    def median(receive: Callable[[list[bytes]], None], pieces: list[bytes]) -> float:
        return statistics.median(cost(receive, pieces) for _ in range(arguments.rounds))

    usual = [
        [name, *(f"{median(receive, pieces) / requests:,.1f}" for receive in (through_gate, through_engine))]
        for name, (requests, pieces) in USUAL.items()
    ]
    hostile = [
        [name, f"{len(pieces):,}", f"{(total := median(through_gate, pieces)):,.0f}", f"{total / len(pieces):,.1f}"]
        for name, pieces in HOSTILE.items()
    ]
    tables = (
        table(["CPU us a request", ">gate", ">engine and gate, with the answer"], usual),
        table(["hostile input", ">pieces", ">CPU us in the gate", ">a piece"], hostile),
    )
    publish("\n\n".join([measured_where(load), *tables]), arguments.markdown)


if __name__ == "__main__":
    main()

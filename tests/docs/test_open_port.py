"""docs/open-port.md: the table of what is refused, row by row, and the defaults that the text names."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from tests.docs.clients import receive_all
from trioserve import App, Config, Deadlines, Limits, Request
from trioserve.testing import memory_server

PAGE = (Path(__file__).parents[2] / "docs/open-port.md").read_text()
_, _, _SECTION = PAGE.partition("## What is refused\n")
_SECTION, _, _ = _SECTION.partition("\n## ")
ROWS = {row: answer for row, answer in re.findall(r"^\| (.+) \| (.+) \|$", _SECTION, re.MULTILINE) if row[0] != "-"}
del ROWS["what comes"]

ELSEWHERE = {"plain HTTP where TLS": 400, "no PROXY protocol header": None, "more exchanges": 503}
"""Rows that need more than bytes: tests/server/test_tls.py, test_proxy_protocol.py and test_admission.py."""

END = b"\r\n\r\n"
HOST = b" HTTP/1.1\r\nHost: a"
CHUNKED = b"POST /all" + HOST + b"\r\nTransfer-Encoding: chunked"
BOTH_KINDS = b"\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1"

OPEN, CLOSED = True, False
# What begins the row; what is sent, without the end of its head; whether the connection is open afterwards.
CASES = [
    ("what is no request", b"GET /" + HOST + b"\nb: c", CLOSED),
    ("what is no request", b"GET /" + HOST + b"\rb: c", CLOSED),
    ("what is no request", b"GET /" + HOST + b"\r\n folded", CLOSED),
    ("what is no request", b"GET /" + HOST + b"\r\nb : c", CLOSED),
    ("what is no request", b"GET /" + HOST + b"\r\nb: \x01", CLOSED),
    ("what is no request", CHUNKED + END + b"2\r\nabc", CLOSED),
    ("what is no request", b"\x16\x03\x01\x02\x00", CLOSED),
    ("a length that is said twice", CHUNKED + b"\r\nContent-Length: 4", CLOSED),
    ("a length that is said twice", b"POST /all" + HOST + b"\r\nContent-Length: 1\r\nContent-Length: 1", CLOSED),
    ("a length that is said twice", CHUNKED + b", gzip", CLOSED),
    ("a length that is said twice", b"POST /all HTTP/1.0\r\nTransfer-Encoding: chunked", CLOSED),
    ("no Host, several", b"GET / HTTP/1.1", CLOSED),
    ("no Host, several", b"GET /" + HOST + b"\r\nHost: a", CLOSED),
    ("no Host, several", b"GET /" + HOST + b" b", CLOSED),
    ("no Host, several", b"GET http://b/" + HOST, CLOSED),
    ("a target with a fragment", b"GET /#a" + HOST, CLOSED),
    ("a target with a fragment", b"GET /{a}" + HOST, CLOSED),
    ("a target with a fragment", b"GET /%a" + HOST, CLOSED),
    ("`Forwarded` beside", b"GET /" + HOST + BOTH_KINDS, CLOSED),
    ("a method that the address does not have", b"POST /" + HOST, OPEN),
    ("a head that is not complete", b"GET / HTTP/1.1\r\nHost: a\r\nb", CLOSED),
    ("a head that is not complete", b"POST /all" + HOST + b"\r\nContent-Length: 9" + END + b"abc", CLOSED),
    ("a body larger", b"POST /all" + HOST + b"\r\nContent-Length: 1048577", CLOSED),
    ("a body larger", CHUNKED + END + b"1" + 16_384 * b";a=bcd" + b"\r\n", CLOSED),
    ("a target longer", b"GET /" + 8192 * b"a" + HOST, CLOSED),
    ("an expectation other", b"GET /" + HOST + b"\r\nExpect: a", CLOSED),
    ("a target in absolute-form", b"GET https://a/" + HOST, CLOSED),
    ("a head larger", b"GET /" + HOST + 3 * (b"\r\nb: " + 8000 * b"c"), CLOSED),
    ("a head larger", b"GET /" + HOST + b"\r\nb: " + 8192 * b"c", CLOSED),
    ("a head larger", b"GET /" + HOST + 100 * b"\r\nb: c", CLOSED),
    ("CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1", CLOSED),
    ("CONNECT", b"BREW /" + HOST, CLOSED),
    ("CONNECT", 33 * b"A" + b" /" + HOST, CLOSED),
    ("CONNECT", b"POST /all" + HOST + b"\r\nTransfer-Encoding: gzip, chunked", CLOSED),
    ("another version", b"GET / HTTP/1.2\r\nHost: a", CLOSED),
    ("another version", b"PRI * HTTP/2.0\r\n\r\nSM", CLOSED),
]


@pytest.fixture
def app() -> App:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    @app.post("/all")
    async def read_all(request: Request) -> int:
        return str(len(await request.body()))

    return app


def answer_of(beginning: str) -> str:
    [answer] = [answer for row, answer in ROWS.items() if row.startswith(beginning)]
    return answer


@pytest.mark.parametrize(("beginning", "sent", "stays_open"), CASES, ids=lambda value: str(value)[:60])
async def test_what_the_table_says_is_refused_as_it_says(app, autojump_clock, beginning, sent, stays_open):
    incomplete = beginning.startswith("a head that is not complete")
    async with memory_server(app, Config(trusted_proxies=("198.51.100.7",))) as server, server.connect() as client:
        await client.send_all(sent if incomplete else sent + END)
        received, closed = await receive_all(client, at_most=60)
        assert received.startswith(f"HTTP/1.1 {answer_of(beginning)[:3]} ".encode()), received
        assert received.count(b"\r\ncontent-length: ") == 1
        assert closed is not stays_open, received


def test_every_row_of_the_table_has_been_tried():
    tried = {beginning for beginning, _, _ in CASES} | set(ELSEWHERE)
    assert len(tried) == len(ROWS)
    for beginning in tried:
        assert answer_of(beginning)
    for beginning, code in ELSEWHERE.items():
        assert answer_of(beginning).startswith("none" if code is None else str(code))


def test_the_defaults_that_the_page_tells_are_as_they_are():
    limits, deadlines = Limits(), Deadlines()
    for said in (
        f"1 MiB, unless a route says `max_body=`{'' if limits.body == 2**20 else '!'}",
        f"may pause for `body_stall` and `send_stall` ({deadlines.body_stall:.0f} s)",
        f"`Limits.body_rate` and `send_rate` ({limits.body_rate:.0f} bytes a second)",
    ):
        assert said in " ".join(PAGE.split())
    assert (deadlines.send_stall, limits.send_rate) == (deadlines.body_stall, limits.body_rate)
    assert (limits.exchanges, limits.connections_per_client, deadlines.handler) == (math.inf, math.inf, math.inf)

"""The gate: which requests are read of the peer's bytes, and what is refused, where and why.

Two properties carry most of it, over requests that are good, bad and damaged: what passes and what is refused does not
depend on the pieces in which it comes; and what passes, h11 reads as the gate does, and takes what it is told of it
without complaint. The tables say the rest: for each bad request, with which status code it is refused and at which
byte.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trioserve.core import field_section
from trioserve.core import gate as gate_module
from trioserve.core.errors import RequestError
from trioserve.core.framing import MAX_LENGTH_DIGITS, content_length
from trioserve.core.gate import LOOKED_AT_EARLY, Gate
from trioserve.core.grammar import MAX_EMPTY_LINES, MAX_SIZE_DIGITS
from trioserve.core.limits import Limits
from trioserve.core.messages import NEED_DATA, BodyPart, EndOfRequest, RequestHead

LIMITS = Limits()
TOLD = {b"connection", b"upgrade"}  # of a head to the machine
INF = float("inf")

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
GET = LINE + HOST + b"\r\n"
FIXED = b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Passed:
    """What has passed a gate: heads, content and trailers of whole requests, and what of the last one is there."""

    requests: list[tuple[RequestHead, bytes, tuple]] = field(default_factory=list)
    head: RequestHead | None = None
    content: bytes = b""
    refusal: tuple[int, str] | None = None
    request_line: tuple[str, str, str] | None = None


def run(pieces: Iterable[bytes], limits: Limits = LIMITS) -> Passed:
    """Send pieces through a gate, one request after another."""
    gate, passed = Gate(limits), Passed()
    try:
        for piece in pieces:
            gate.receive_data(piece)
            while pass_on(gate, passed):
                pass
    except RequestError as error:
        passed.refusal = error.status, error.detail
        with pytest.raises(RequestError) as again:
            gate.next_event()
        assert (again.value.status, again.value.detail) == passed.refusal
    passed.request_line = gate.request_line
    return passed


def pass_on(gate: Gate, passed: Passed) -> bool:
    match gate.next_event():
        case RequestHead() as head:
            assert passed.head is None
            assert gate.head is head
            assert gate.method == head.method
            assert gate.request_complete is (head.content_length == 0)
            assert_the_machine_takes(gate)
            passed.head = head
        case BodyPart(data):
            assert data, "a part is never empty"
            assert not gate.awaits_continue
            passed.content += data
            assert gate.request_complete is (passed.head.content_length == len(passed.content))
        case EndOfRequest(trailers):
            passed.requests.append((passed.head, passed.content, tuple(trailers)))
            passed.head, passed.content = None, b""
            assert gate.request_complete
            assert gate.next_event() is NEED_DATA
            gate.start_next_request()
        case event:
            assert event is NEED_DATA
            return False
    return True


def assert_the_machine_takes(gate: Gate) -> None:
    """What it is told of a head is to h11 a request without content, and is answered like it."""
    machine = h11.Connection(h11.SERVER, 2**40)
    machine.receive_data(gate.head_for_machine)
    request = machine.next_event()
    method = gate.head.method if gate.head.method in {"HEAD", "CONNECT"} else "GET"
    assert (request.method, request.http_version) == (method.encode(), gate.head.http_version.encode())
    assert [*request.headers][1:] == [field for field in gate.head.fields if field[0] in TOLD]
    assert isinstance(machine.next_event(), h11.EndOfMessage)
    assert not machine.they_are_waiting_for_100_continue
    assert not machine.trailing_data[0]


def bytewise(wire: bytes) -> list[bytes]:
    return [wire[place : place + 1] for place in range(len(wire))]


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(wire) + 1) for place in places}), len(wire)]
    return [piece for start, end in itertools.pairwise(edges) if (piece := wire[start:end])]


def head_of(wire: bytes, limits: Limits = LIMITS) -> RequestHead:
    """The head of a request that passes, in whatever pieces."""
    passed = run([wire], limits)
    assert passed.refusal is None
    assert run(bytewise(wire), limits) == passed
    [(head, _, _)] = passed.requests
    return head


def content_of(framed: bytes, limits: Limits = LIMITS) -> tuple[bytes, tuple]:
    """Content and trailers of a chunked request that passes, in whatever pieces."""
    passed = run([CHUNKED + framed], limits)
    assert passed.refusal is None
    assert run(bytewise(CHUNKED + framed), limits) == passed
    [(_, content, trailers)] = passed.requests
    return content, trailers


def refused(wire: bytes, limits: Limits = LIMITS) -> tuple[int, int]:
    """The status code with which the bytes are refused, and how many of them it takes."""
    passed = run([wire], limits)
    assert passed.refusal is not None, "it was not refused"
    pieces = iter(bytewise(wire))
    assert run(pieces, limits) == passed, "it is refused otherwise when it comes in pieces"
    return passed.refusal[0], len(wire) - len(list(pieces))


# What passes


def test_rfc9112_3_a_head_passes_with_its_fields_as_they_came_but_for_the_case_of_names():
    wire = (
        b"PATCH /a?b HTTP/1.1\r\nhOsT:a:80\r\nX:  1 \r\nx:\t2\r\nX: \xc3\xa9 \xff\r\nEmpty:\r\nSpace: \t \r\n"
        b"!#$%&'*+-.^_`|~09azAZ: ,;\"(:)\r\nCONTENT-LENGTH: 000\r\n\r\n"
    )
    assert head_of(wire) == RequestHead(
        "PATCH",
        "/a?b",
        "1.1",
        (
            (b"host", b"a:80"),
            (b"x", b"1"),
            (b"x", b"2"),
            (b"x", b"\xc3\xa9 \xff"),
            (b"empty", b""),
            (b"space", b""),
            (b"!#$%&'*+-.^_`|~09azaz", b',;"(:)'),
            (b"content-length", b"000"),
        ),
        0,
        "a:80",
    )


def test_rfc9112_3_a_head_without_fields_passes_in_1_0():
    assert head_of(b"GET / HTTP/1.0\r\n\r\n") == RequestHead("GET", "/", "1.0", (), 0, None)


def test_the_machine_is_told_of_a_head_what_it_acts_on_and_of_no_content():
    gate = Gate(LIMITS)
    gate.receive_data(
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: b\r\nCONNECTION: close\r\nExpect:100-continue\r\nUpgrade: c\r\n"
        b"Content-Length: 3\r\nX: Host: d\r\n\r\nabc"
    )
    assert isinstance(gate.next_event(), RequestHead)
    assert gate.head_for_machine == b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nupgrade: c\r\n\r\n"
    assert gate.next_event() == BodyPart(b"abc")
    assert gate.next_event() == EndOfRequest(())
    assert gate.next_event() is NEED_DATA


@pytest.mark.parametrize(
    ("fields", "version", "awaits"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"1.1", True),
        (b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", b"1.1", True),
        (b"Expect: x, 100-Continue\t, y\r\nContent-Length: 1\r\n", b"1.1", True),
        (b"Expect: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n", b"1.1", True),
        (b"Expect: 100-continued\r\nContent-Length: 1\r\n", b"1.1", False),
        (b"Content-Length: 1\r\n", b"1.1", False),
        (b"Expect: 100-continue\r\n", b"1.1", False),
        (b"Expect: 100-continue\r\nContent-Length: 0\r\n", b"1.1", False),
        (b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"1.0", False),
    ],
)
def test_rfc9110_10_1_1_a_client_awaits_continue_if_it_says_so_and_has_content_to_send(fields, version, awaits):
    gate = Gate(LIMITS)
    gate.receive_data(b"PUT / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, fields))
    assert isinstance(gate.next_event(), RequestHead)
    assert gate.awaits_continue is awaits
    gate.continue_said()
    assert not gate.awaits_continue


def test_rfc9110_10_1_1_a_client_that_begins_with_its_content_awaits_nothing():
    for content in (b"a", b"1\r\na", b"0\r\n\r\n"):
        gate = Gate(LIMITS)
        framing = b"Content-Length: 2" if content == b"a" else b"Transfer-Encoding: chunked"
        gate.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + b"\r\n\r\n" + content)
        assert isinstance(gate.next_event(), RequestHead)
        assert gate.awaits_continue
        assert gate.next_event() is not NEED_DATA
        assert not gate.awaits_continue


@pytest.mark.parametrize("number", range(MAX_EMPTY_LINES + 1))
def test_rfc9112_2_2_some_empty_lines_before_a_request_are_skipped(number):
    for before in (b"", GET, FIXED):
        wire = before + b"\r\n" * number + GET
        passed = run([wire])
        assert (len(passed.requests), passed.refusal) == (bool(before) + 1, None)
        assert run(bytewise(wire)) == passed


def test_rfc9112_2_2_empty_lines_begin_no_request():
    gate = Gate(LIMITS)
    gate.receive_data(GET + b"\r\n\r\n")
    assert gate.next_event() is gate.head
    assert gate.next_event() == EndOfRequest(())
    assert gate.unparsed_bytes == b"\r\n\r\n"  # of a switched protocol, for all the gate knows
    gate.start_next_request()
    assert not gate.has_unparsed_bytes
    gate.receive_data(b"\r\n")
    assert not gate.has_unparsed_bytes
    assert gate.unparsed_bytes == b""
    gate.receive_data(b"\r")
    assert not gate.has_unparsed_bytes
    gate.receive_data(b"\n")
    assert gate.unparsed_bytes == b""
    gate.receive_data(b"G")
    assert gate.has_unparsed_bytes
    assert gate.unparsed_bytes == b"G"


def test_rfc9112_7_1_content_is_taken_out_of_its_chunks():
    gate = Gate(LIMITS)
    gate.receive_data(CHUNKED + b"3;a\r\nabc\r\n00004\r\ndefg\r\n5\r\nhi")
    assert gate.next_event() is gate.head
    assert gate.next_event() == BodyPart(b"abcdefghi")
    assert gate.next_event() is NEED_DATA
    assert not gate.has_unparsed_bytes
    gate.receive_data(b"jkl\r")
    assert gate.next_event() == BodyPart(b"jkl")
    gate.receive_data(b"\n0;last\r\nA: b\r\n\r\nGET")
    assert gate.next_event() == EndOfRequest(((b"a", b"b"),))
    assert gate.trailers == ((b"a", b"b"),)
    assert gate.next_event() is NEED_DATA
    assert gate.unparsed_bytes == b"GET"


CHUNK_LINES = [
    b"1", b"01", b"0000000000000001",
    b"1;a", b"1;a;b", b"1;a=b", b"1;a=b;c=d", b'1;a=""', b'1;a="b;c\r"'.replace(b"\r", b"\t"), b'1;a="\\"\\\\\xe9"',
    b"1 ;a", b"1;\ta", b"1 ; a = b ;\tc", b"1;a =b", b'1;a= "b" ; c',
]  # fmt: skip


@pytest.mark.parametrize("line", CHUNK_LINES)
def test_rfc9112_7_1_1_chunk_extensions_by_the_grammar_are_ignored(line):
    assert content_of(line + b"\r\nx\r\n0" + line[line.find(b"1") + 1 :] + b"\r\n\r\n") == (b"x", ())


@pytest.mark.parametrize("size", [b"a", b"A", b"0a", b"00A"])
def test_rfc9112_7_1_a_chunk_s_size_is_hexadecimal(size):
    assert content_of(size + b"\r\n0123456789\r\n0\r\n\r\n") == (b"0123456789", ())


def test_rfc9112_7_1_2_a_trailer_section_passes_by_itself():
    framed = b"0\r\nSum: 45 \r\nsum:\xff\r\nHost: b\r\n\r\n"
    assert content_of(framed) == (b"", ((b"sum", b"45"), (b"sum", b"\xff"), (b"host", b"b")))


@pytest.mark.parametrize(
    ("fields", "version", "length"),
    [
        ([], "1.1", 0),
        ([(b"content-length", b"0")], "1.1", 0),
        ([(b"content-length", b"007")], "1.0", 7),
        ([(b"content-length", b"9" * MAX_LENGTH_DIGITS)], "1.1", 10**MAX_LENGTH_DIGITS - 1),
        ([(b"transfer-encoding", b"chunked")], "1.1", None),
        ([(b"x", b"y"), (b"transfer-encoding", b"CHUNKED")], "1.1", None),
    ],
)
def test_rfc9112_6_3_the_length_of_content_is_what_one_field_says(fields, version, length):
    assert content_length(fields, version) == length


# What is refused: (bytes, status code, how many of the bytes it takes)

DIGITS = b"0" * MAX_SIZE_DIGITS

BAD_HEADS = {
    # RFC 9112 §2.2
    "too many empty lines": (b"\r\n" * (MAX_EMPTY_LINES + 1) + GET, 400, 2 * MAX_EMPTY_LINES + 2),
    "an empty line of a line feed": (b"\n" + GET, 400, 1),
    "a carriage return before the request": (b"\r" + GET, 400, 2),
    "white space before the request": (b" " + GET, 400, 1),
    "white space before the first field": (LINE + b" " + HOST + b"\r\n", 400, len(LINE) + 1),
    "a line feed alone behind the request line": (LINE[:-2] + b"\n" + HOST + b"\r\n", 400, len(LINE) - 1),
    "a line feed alone behind a field": (LINE + HOST[:-2] + b"\n\r\n", 400, len(LINE + HOST) - 1),
    "a line feed alone as the empty line": (LINE + HOST + b"\n", 400, len(LINE + HOST) + 1),
    "a carriage return alone as the empty line": (LINE + HOST + b"\rX: y\r\n\r\n", 400, len(LINE + HOST) + 2),
    "a carriage return alone in the request line": (b"GET /\r HTTP/1.1\r\n\r\n", 400, 6),
    "a carriage return alone behind the request line": (LINE[:-1] + HOST + b"\r\n", 400, len(LINE)),
    "two carriage returns behind the request line": (LINE[:-1] + b"\r\n" + HOST + b"\r\n", 400, len(LINE)),
    # §2.3
    "version 2.0": (b"GET / HTTP/2.0\r\n", 505, 16),
    "version 0.9": (b"GET / HTTP/0.9\r\n", 505, 16),
    "version 1.2": (b"GET / HTTP/1.2\r\n", 505, 16),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 16),
    "no version": (b"GET /\r\n\r\n", 400, 6),
    "a version that is none": (b"GET / HTTP/1.x\r\n", 400, 14),
    "a version of two digits": (b"GET / HTTP/1.10\r\n", 400, 15),
    "a version in lower case": (b"GET / http/1.1\r\n", 400, 7),
    "a version of another protocol": (b"GET / HTTPS/1.1\r\n", 400, 11),
    "white space behind the version": (b"GET / HTTP/1.1 \r\n", 400, 15),
    # §3
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, 1),
    "no method": (b" / HTTP/1.1\r\n", 400, 1),
    "a method that is no token": (b"G(T / HTTP/1.1\r\n", 400, 2),
    "a method beyond ASCII": (b"G\xcbT / HTTP/1.1\r\n", 400, 2),
    "a tab for the space": (b"GET\t/ HTTP/1.1\r\n", 400, 4),
    "two spaces before the target": (b"GET  / HTTP/1.1\r\n", 400, 5),
    "two spaces behind the target": (b"GET /  HTTP/1.1\r\n", 400, 7),
    "no target": (b"GET HTTP/1.1\r\n", 400, 13),
    "a space in the target": (b"GET /a b HTTP/1.1\r\n", 400, 8),
    "a control character in the target": (b"GET /\x07 HTTP/1.1\r\n", 400, 6),
    "a byte beyond ASCII in the target": (b"GET /\xe9 HTTP/1.1\r\n", 400, 6),
    "DEL in the target": (b"GET /\x7f HTTP/1.1\r\n", 400, 6),
    # §3.2, in whole heads
    "no Host": (LINE + b"\r\n", 400, len(LINE) + 2),
    "two Hosts": (LINE + HOST + HOST + b"\r\n", 400, len(LINE + HOST + HOST) + 2),
    "a Host that is none": (LINE + b"Host: a b\r\n\r\n", 400, len(LINE) + 13),
    "a target for somebody else": (b"GET http://b/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, 35),
    # §5
    "a folded line": (LINE + HOST + b"X: a\r\n b\r\n\r\n", 400, len(LINE + HOST) + 7),
    "a line folded with a tab": (LINE + HOST + b"X: a\r\n\tb\r\n\r\n", 400, len(LINE + HOST) + 7),
    "a space before the colon": (LINE + b"Host : a\r\n\r\n", 400, len(LINE) + 5),
    "a tab before the colon": (LINE + b"Host\t: a\r\n\r\n", 400, len(LINE) + 5),
    "no colon": (LINE + HOST + b"x\r\n\r\n", 400, len(LINE + HOST) + 2),
    "no name": (LINE + HOST + b": x\r\n\r\n", 400, len(LINE + HOST) + 1),
    "a name that is no token": (LINE + HOST + b"x(): y\r\n\r\n", 400, len(LINE + HOST) + 2),
    "a name beyond ASCII": (LINE + HOST + b"\xe9: y\r\n\r\n", 400, len(LINE + HOST) + 1),
    "a CR in a value": (LINE + HOST + b"x: a\rb\r\n\r\n", 400, len(LINE + HOST) + 6),
    **{
        f"control character {code} in a value": (
            LINE + HOST + b"x: a%cb\r\n\r\n" % code, 400, len(LINE + HOST) + 5 + (code == 13)
        )
        for code in [*range(9), *range(10, 32), 127]
    },
}  # fmt: skip

BAD_FRAMING = {
    # RFC 9112 §6.1
    "Transfer-Encoding beside Content-Length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
    "Content-Length beside Transfer-Encoding": (b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
    "another coding before chunked": (b"Transfer-Encoding: gzip, chunked\r\n", 501),
    "another coding before chunked, in two fields": (
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        501,
    ),
    "another coding behind chunked": (b"Transfer-Encoding: chunked, gzip\r\n", 400),
    "another coding alone": (b"Transfer-Encoding: gzip\r\n", 400),
    "identity": (b"Transfer-Encoding: identity\r\n", 400),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked\r\n", 400),
    "chunked twice, in two fields": (b"Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n", 400),
    "chunked with a parameter": (b"Transfer-Encoding: chunked;a=b\r\n", 400),
    "chunked in quotes": (b'Transfer-Encoding: "chunked"\r\n', 400),
    "chunked and nothing behind a comma": (b"Transfer-Encoding: chunked,\r\n", 400),
    "chunked and nothing before a comma": (b"Transfer-Encoding: , chunked\r\n", 400),
    "chunked behind a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n", 400),
    "no coding": (b"Transfer-Encoding:\r\n", 400),
    # §6.2 and §6.3
    "no length": (b"Content-Length:\r\n", 400),
    "a negative length": (b"Content-Length: -1\r\n", 400),
    "a signed length": (b"Content-Length: +1\r\n", 400),
    "a hexadecimal length": (b"Content-Length: 0x1\r\n", 400),
    "a length with a point": (b"Content-Length: 1.0\r\n", 400),
    "a length with an underscore": (b"Content-Length: 1_0\r\n", 400),
    "a length with a space": (b"Content-Length: 1 0\r\n", 400),
    "a length in other digits": (b"Content-Length: \xb2\r\n", 400),
    "two lengths": (b"Content-Length: 1\r\nContent-Length: 2\r\n", 400),
    "two equal lengths": (b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
    "two lengths in a list": (b"Content-Length: 1, 2\r\n", 400),
    "two equal lengths in a list": (b"Content-Length: 1, 1\r\n", 400),
    "a length of too many digits": (b"Content-Length: %s\r\n" % (b"0" * MAX_LENGTH_DIGITS + b"1"), 400),
}

CONTENT = CHUNKED + b"5\r\nhello\r\n"
BAD_CONTENT = {
    # RFC 9112 §7.1
    "no size": (b"\r\nx", 400, 1),
    "a size that is none": (b"xyz\r\n", 400, 1),
    "a negative size": (b"-1\r\n", 400, 1),
    "a size with 0x": (b"0x1\r\n", 400, 2),
    "a size with an underscore": (b"1_0\r\n", 400, 2),
    "a size of too many digits": (DIGITS + b"1\r\n", 400, MAX_SIZE_DIGITS + 1),
    "white space before the size": (b" 1\r\nx\r\n", 400, 1),
    "white space behind the size": (b"1 \r\nx\r\n", 400, 3),
    "a line feed alone behind the size": (b"1\nx\r\n", 400, 2),
    "a carriage return alone behind the size": (b"1\rx\r\n", 400, 3),
    "more in a chunk than it says": (b"1\r\nxy\r\n", 400, 5),
    "a line feed alone behind a chunk": (b"1\r\nx\n0\r\n", 400, 5),
    "a carriage return alone behind a chunk": (b"1\r\nx\r0\r\n", 400, 6),
    # §7.1.1
    "no extension behind a semicolon": (b"1;\r\nx", 400, 3),
    "no extension between two semicolons": (b"1;;a\r\nx", 400, 3),
    "no name before a value": (b"1;=a\r\nx", 400, 3),
    "no value behind an equals sign": (b"1;a=\r\nx", 400, 5),
    "two values": (b"1;a=b=c\r\nx", 400, 6),
    "two values in quotes": (b'1;a="b""c"\r\nx', 400, 8),
    "a name that is no token": (b"1;a(\r\nx", 400, 4),
    "two names": (b"1;a b\r\nx", 400, 5),
    "an extension without a semicolon": (b"1 a\r\nx", 400, 3),
    "white space behind an extension": (b"1;a \r\nx", 400, 5),
    "white space behind a value": (b"1;a=b \r\nx", 400, 7),
    "quotes that do not end": (b'1;a="b\r\nx', 400, 7),
    "quotes that end in an escaped quote": (b'1;a="b\\"\r\nx', 400, 9),
    "a control character in quotes": (b'1;a="\0"\r\nx', 400, 6),
    "a carriage return in an extension": (b"1;a\rb\r\nx", 400, 5),
    "a line feed in an extension": (b"1;a\nb\r\nx", 400, 4),
    "a line feed in quotes": (b'1;a="\n"\r\nx', 400, 6),
    # §7.1.2 and §5
    "a trailer that is no field": (b"0\r\nno colon\r\n\r\n", 400, 6),
    "a folded trailer": (b"0\r\na: b\r\n c\r\n\r\n", 400, 10),
    "a control character in a trailer": (b"0\r\na: \x01\r\n\r\n", 400, 7),
    "a line feed alone behind a trailer": (b"0\r\na: b\n\r\n", 400, 8),
    "a line feed alone at the end": (b"0\r\n\n", 400, 4),
    "a carriage return alone at the end": (b"0\r\n\ra", 400, 5),
    # RFC 9110 §6.5.1
    "Content-Length as a trailer": (b"0\r\nContent-Length: 0\r\n\r\n", 400, 24),
    "Transfer-Encoding as a trailer": (b"0\r\ntransfer-encoding: chunked\r\n\r\n", 400, 33),
}


def in_table(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


@in_table(BAD_HEADS)
def test_rfc9112_2_to_5_a_bad_head_is_refused_at_the_byte_that_makes_it_so(case):
    wire, status, size = case
    assert refused(wire) == (status, size)
    assert refused(FIXED + wire) == (status, len(FIXED) + size)
    assert len(run([FIXED + wire]).requests) == 1


@in_table(BAD_FRAMING)
def test_rfc9112_6_content_that_is_not_announced_in_one_way_is_refused_with_its_head(case):
    fields, status = case
    head = b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n"
    assert refused(head + GET)[0] == status
    if b"\x0b" not in fields:
        assert refused(head + GET)[1] == len(head)
    assert not run([head + GET]).requests


@pytest.mark.parametrize("codings", [b"chunked", b"gzip, chunked", b"gzip"])
def test_rfc9112_6_1_a_1_0_client_has_no_transfer_encoding(codings):
    head = b"POST / HTTP/1.0\r\nTransfer-Encoding: %b\r\n\r\n" % codings
    assert refused(head + b"0\r\n\r\n") == (400, len(head))


@in_table(BAD_CONTENT)
def test_rfc9112_7_1_bad_chunks_are_refused_at_the_byte_that_makes_them_so_and_what_came_before_passes(case):
    wire, status, size = case
    assert refused(CONTENT + wire) == (status, len(CONTENT) + size)
    passed = run([CONTENT + wire])
    assert passed.head is not None
    assert passed.content.startswith(b"hello")


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 80\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
    ],
)
def test_who_sends_a_proxy_protocol_header_where_none_is_read_is_told_how_one_is(header):
    status, detail = run([header + GET]).refusal
    assert status == 400
    assert "PROXY protocol" in detail
    assert "--proxy-protocol" in detail


def test_a_method_that_is_called_proxy_is_one_like_others():
    assert run([GET.replace(b"GET", b"PROXY")]).refusal is None


def test_a_refusal_says_what_is_wrong():
    details = [run([wire]).refusal[1] for wire, _, _ in BAD_HEADS.values()]
    assert "looks like TLS" in run([BAD_HEADS["a TLS hello"][0]]).refusal[1]
    assert "obsolete" in run([BAD_HEADS["a folded line"][0]]).refusal[1]
    assert len(set(details)) > 12


@pytest.mark.parametrize(
    ("wire", "method"),
    [
        (b"HEAD", None),
        (b"HEAD ", "HEAD"),
        (b"HEAD  ", "HEAD"),
        (b"HEAD /" + b"x" * 9000, "HEAD"),
        (b"HEAD / HTTP/2.0\r\n", "HEAD"),
        (b"HEAD / HTTP/1.1\r\n\r\n", "HEAD"),
        (GET.replace(b"GET", b"HEAD") + b"\r\n", "HEAD"),
        (b"H(AD /", None),
    ],
)
def test_the_method_is_known_as_soon_as_it_is_there_also_of_a_head_that_is_refused(wire, method):
    gate = Gate(LIMITS)
    gate.receive_data(wire)
    try:
        gate.next_event()
    except RequestError:
        pass
    assert gate.method == method


@pytest.mark.parametrize(
    ("wire", "line"),
    [
        (b"GET / HTTP/1.1\r", None),
        (b"GET / HTTP/1.1\r\n", ("GET", "/", "1.1")),
        (b"GET /a HTTP/1.0\r\nHost: a\r\nA", ("GET", "/a", "1.0")),
        (b"\r\nGET / HTTP/1.1\r\nA : b", ("GET", "/", "1.1")),
        (b"GET /a{b HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/a{b", "1.1")),
        (b"GET / HTTP/1.1\r\n\r\n", ("GET", "/", "1.1")),  # without Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 70_000, ("GET", "/", "1.1")),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", None),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /\x1b[1m HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"", None),
        (GET, None),  # has passed
        (GET + b"GET /b HTTP/1.1\r\nHo", ("GET", "/b", "1.1")),
        (FIXED[:-1], None),
        (CHUNKED + b"0\r\nA : b", None),
    ],
)
def test_of_a_head_that_does_not_pass_the_request_line_is_known_if_it_is_good(wire, line):
    assert run([wire]).request_line == line
    assert run(bytewise(wire)).request_line == line


# Limits, each at limit and limit + 1


def test_rfc9112_3_a_method_is_taken_up_to_its_limit_and_no_further():
    limits = Limits(method=5)
    assert head_of(GET.replace(b"GET", b"PATCH"), limits).method == "PATCH"
    assert refused(GET.replace(b"GET", b"PATCHY"), limits) == (501, 6)
    assert refused(b"PATCHYYYY" * 10000, limits) == (501, 6)
    assert refused(b"PATCHY", Limits(head=5)) == (501, 6)


def test_rfc9112_3_a_target_is_taken_up_to_its_limit_and_no_further():
    limits = Limits(target=20)
    assert len(head_of(b"GET /%b HTTP/1.1\r\n" % (b"x" * 19) + HOST + b"\r\n", limits).target) == 20
    assert refused(b"GET /%b HTTP/1.1\r\n" % (b"x" * 20) + HOST + b"\r\n", limits) == (414, 25)
    assert refused(b"GET /" + b"x" * 30_000, limits) == (414, 25)


def test_rfc9112_3_a_request_line_beyond_the_limit_of_the_head_is_414():
    limits = Limits(head=30)
    assert head_of(GET, limits).target == "/"
    for wire in (b"GET /%b HTTP/1.1\r\n" % (b"x" * 30), b"GET /%b HTTP/1.1\r\n" % (b"x" * 15), b"GET /" + b"x" * 99):
        assert refused(wire, limits) == (414, 31)


def test_rfc9112_5_a_field_line_is_taken_up_to_its_limit_and_no_further():
    limits = Limits(field=20)
    for more in (b"", b"y: z\r\n"):
        assert len(head_of(LINE + HOST + b"x:" + b"y" * 18 + b"\r\n" + more + b"\r\n", limits).fields) == 2 + bool(more)
        assert refused(LINE + HOST + b"x:" + b"y" * 19 + b"\r\n" + more + b"\r\n", limits) == (431, 46)
    assert refused(LINE + HOST + b"x:" + b"y" * 18 + b"\0", limits) == (400, 46)
    assert refused(LINE + HOST + b"x" * 100, limits) == (431, 46)
    limits = Limits(field=30)
    assert len(content_of(b"0\r\nx:" + b"y" * 28 + b"\r\n\r\n", limits)[1]) == 1
    assert refused(CHUNKED + b"0\r\nx:" + b"y" * 29, limits) == (431, len(CHUNKED) + 3 + 31)


def test_rfc9112_5_a_head_is_taken_up_to_its_limit_and_no_further():
    limits = Limits(head=100)
    frame = len(LINE + HOST + b"x:\r\n\r\n")
    for value in (b"y", b" "):
        assert head_of(LINE + HOST + b"x:" + value * (100 - frame) + b"\r\n\r\n", limits)
        assert refused(LINE + HOST + b"x:" + value * (101 - frame) + b"\r\n\r\n", limits) == (431, 101)
        assert refused(LINE + HOST + b"x:" + value * 1000 + b"\r\n\r\n", limits) == (431, 101)
    assert head_of(b"\r\n" * 8 + LINE + HOST + b"x:" + b"y" * (100 - frame) + b"\r\n\r\n", limits), "they do not count"


def test_rfc9112_5_fields_are_taken_up_to_their_limit_and_no_further():
    limits = Limits(fields=3)
    assert len(head_of(LINE + HOST + b"x:\r\n" * 2 + b"\r\n", limits).fields) == 3
    assert refused(LINE + HOST + b"x:\r\n" * 3 + b"\r\n", limits) == (431, len(LINE + HOST) + 9)
    assert refused(LINE + HOST + b"x:\r\n" * 2 + b"\0", limits) == (431, len(LINE + HOST) + 9)
    assert refused(LINE + HOST + b"x:\r\n" * 2 + b"\r\r", limits) == (400, len(LINE + HOST) + 10)


def test_rfc9112_7_1_2_trailers_are_taken_up_to_the_limits_of_a_head_and_no_further():
    few, small = Limits(fields=3), Limits(head=100)
    assert len(content_of(b"0\r\n" + b"x:\r\n" * 3 + b"\r\n", few)[1]) == 3
    assert refused(CHUNKED + b"0\r\n" + b"x:\r\n" * 4 + b"\r\n", few) == (431, len(CHUNKED) + 3 + 13)
    assert content_of(b"0\r\nx:" + b"y" * 94 + b"\r\n\r\n", small)[1] == ((b"x", b"y" * 94),)
    assert refused(CHUNKED + b"0\r\nx:" + b"y" * 95 + b"\r\n\r\n", small) == (431, len(CHUNKED) + 3 + 101)


@pytest.mark.parametrize("lines", [[b";abcdefghi"], [b";abcd", b";efgh"], [b" ; a=b", b"", b";a"]])
def test_rfc9112_7_1_1_chunk_extensions_are_taken_up_to_their_limit_in_all_and_no_further(lines):
    total = len(b"".join(lines))
    framed = b"".join(b"1%b\r\nx\r\n" % line for line in lines)
    assert content_of(framed + b"0\r\n\r\n", Limits(chunk_extensions=total))[0] == b"x" * len(lines)
    assert refused(CHUNKED + framed + b"0\r\n\r\n", Limits(chunk_extensions=total - 1)) == (
        413,
        len(CHUNKED + framed) - len(b"\r\nx\r\n"),
    )
    assert refused(CHUNKED + framed + b"0;a\r\n\r\n", Limits(chunk_extensions=total + 1))[0] == 413


@pytest.mark.parametrize("size", [LOOKED_AT_EARLY - 1, LOOKED_AT_EARLY, LOOKED_AT_EARLY + 1, 2 * LOOKED_AT_EARLY])
@pytest.mark.parametrize("bad", [b"\0", b'"', b"\r\0"])
def test_rfc9112_7_1_1_long_chunk_extensions_are_refused_alike_but_perhaps_not_before_they_end(size, bad):
    line = CHUNKED + b"1;" + b"x" * (size - 1)
    early = size + len(bad) <= LOOKED_AT_EARLY
    assert refused(line + bad + b"\n") == (400, len(line + bad) + (not early))
    tight = Limits(chunk_extensions=size + 1)
    assert content_of(b"1;" + b"x" * size + b"\r\nx\r\n0\r\n\r\n", tight)[0] == b"x"
    assert refused(line + b"xx" + bad, tight) == (413, len(line) + 2)
    assert refused(line + b"xx\r\n", tight) == (413, len(line) + 2)


def test_chunk_extensions_are_counted_anew_for_each_request():
    wire = CHUNKED + b"0;abc\r\n\r\n"
    assert len(run([wire * 3], Limits(chunk_extensions=4)).requests) == 3


def test_without_limits_nothing_is_too_long():
    limits = Limits(method=INF, target=INF, field=INF, head=INF, fields=INF, chunk_extensions=INF)
    long = b"x" * 70_000
    wire = b"%b /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%by: %b\r\n\r\n0;%b\r\n\r\n" % (
        long, long, b"x: y\r\n" * 500, long, long,
    )  # fmt: skip
    passed = run(cut(wire, range(0, len(wire), 10_000)), limits)
    assert (len(passed.requests), passed.refusal) == (1, None)


# The two properties

UPGRADE = b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
GOOD = [
    GET,
    GET + GET,
    b"\r\n" + GET + b"\r\n\r\n" + FIXED,
    FIXED + GET,
    UPGRADE + FIXED,
    b"GET / HTTP/1.0\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET,
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\nX:  1 \r\nx:\t2\r\nX: \xc3\xa9\r\nExpect: 100-continue\r\n\r\n",
    CHUNKED + b"5\r\nhello\r\n00b\r\n, my world!\r\n0\r\n\r\n" + GET,
    CHUNKED + b'A;name=value\r\n0123456789\r\n1 ; a = "b\\"c" ;d\r\nx\r\n0;last\r\nSum: 45\r\nsum:  46 \r\n\r\n' + GET,
]
WIRES = st.sampled_from(
    [
        *GOOD,
        *(wire for wire, _, _ in BAD_HEADS.values()),
        *(b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n0\r\n\r\n" for fields, _ in BAD_FRAMING.values()),
        *(CONTENT + wire for wire, _, _ in BAD_CONTENT.values()),
    ]
)
CHANGES = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=400),  # where
        st.integers(min_value=0, max_value=20),  # how much goes
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from([
                b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"=", b'"', b"\\", b"0", b"-1", b"9" * 30,
                b"1.0", b"HEAD ", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: x\r\n",
                b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Host: b\r\n", b"CONNECT ", b"x" * 30, GET,
            ]),
        ),
    ),
    max_size=4,
)  # fmt: skip
PLACES = st.lists(st.integers(min_value=0, max_value=1000), max_size=8)
SPACE_IN_CHUNK_LINE = re.compile(rb"\n[0-9A-Fa-f]+[\t ]")
TIGHT = Limits(method=8, target=20, field=30, head=90, fields=4, chunk_extensions=12)


def damaged(wire: bytes, changes: list) -> bytes:
    for where, gone, new in changes:
        at = where % (len(wire) + 1)
        wire = wire[:at] + new + wire[at + gone :]
    return wire


@settings(max_examples=10 * settings.default.max_examples)
@given(wire=WIRES, changes=CHANGES, places=PLACES, limits=st.sampled_from([LIMITS, TIGHT]))
@example(wire=b"\r\r", changes=[], places=[1], limits=LIMITS)
def test_what_passes_and_what_is_refused_does_not_depend_on_the_pieces(wire, changes, places, limits):
    wire = damaged(wire, changes)
    whole = run([wire], limits)  # that h11 takes what it is told is asserted there
    assert run(bytewise(wire), limits) == whole
    assert run(cut(wire, places), limits) == whole


@settings(max_examples=3 * settings.default.max_examples)
@given(wire=WIRES, changes=CHANGES, places=PLACES, limits=st.sampled_from([LIMITS, TIGHT]))
def test_what_passes_and_what_is_refused_does_not_depend_on_what_came_before(wire, changes, places, limits):
    pieces = cut(damaged(wire, changes), places)
    field_section._remembered.clear()
    gate_module._terms.cache_clear()
    anew = run(pieces, limits)
    # Nothing is refused or let through because another server, with other limits, has seen it.
    run([damaged(wire, changes)], TIGHT if limits is LIMITS else LIMITS)
    assert run(pieces, limits) == anew


def test_the_terms_of_large_heads_are_not_kept():
    gate_module._terms.cache_clear()
    for number in range(4):
        head_of(b"GET / HTTP/1.1\r\nHost: %s%d\r\n\r\n" % (b"a" * 3000, number))
    assert gate_module._terms.cache_info().currsize == 0
    head_of(GET)
    assert gate_module._terms.cache_info().currsize == 1


@settings(max_examples=5 * settings.default.max_examples)
@given(wire=WIRES, changes=CHANGES)
def test_h11_by_itself_reads_what_passes_in_the_same_way(wire, changes):
    wire = damaged(wire, changes)
    passed = run([wire])
    for head, content, trailers in passed.requests:
        alone = h11.Connection(h11.SERVER, 2**40)
        # What h11 does not take: empty lines before a request, and white space in chunk lines.
        wire = wire.lstrip(b"\r\n")
        alone.receive_data(wire)
        try:
            request = alone.next_event()
            data = b""
            while isinstance(event := alone.next_event(), h11.Data):
                data += event.data
        except h11.RemoteProtocolError:
            assert SPACE_IN_CHUNK_LINE.search(wire)
            return
        assert (request.method.decode(), request.target.decode(), request.http_version.decode()) == head[:3]
        assert [(name, value.lower()) for name, value in request.headers] == [
            (name, value.lower()) for name, value in head.fields
        ]
        assert data == content
        assert list(event.headers) == list(trailers)
        wire = alone.trailing_data[0]


@given(wire=WIRES, changes=CHANGES, size=st.integers(min_value=1, max_value=50))
def test_nothing_is_held_but_what_cannot_pass_yet(wire, changes, size):
    wire = damaged(wire, changes)
    gate = Gate(TIGHT)
    try:
        for piece in cut(wire, range(0, len(wire), size)):
            gate.receive_data(piece)
            while gate.next_event() is not NEED_DATA:
                if gate.request_complete:
                    gate.start_next_request()
            assert len(gate.unparsed_bytes) <= TIGHT.head + 2 + TIGHT.chunk_extensions
            assert gate.has_unparsed_bytes == bool(gate.unparsed_bytes) or (
                gate.unparsed_bytes == b"\r" and gate._next.name == "HEAD"
            )
            assert gate.unparsed_bytes or not gate._held, "what has passed is not kept"
    except RequestError:
        pass

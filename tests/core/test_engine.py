"""The engine: bytes in, events out; response parts in, bytes out.

Every byte path is tried whole, split at each byte, at random splits and with trailing bytes, always by the rule that
the engine asks of its user: bytes are fed only when it needs some. What is refused is refused however it arrives.
The answers are read back by a small reader of our own (`read_response`), not by the library that made them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trioserve.core.engine import Engine, EngineName
from trioserve.core.errors import RequestError, ResponseError
from trioserve.core.limits import Limits
from trioserve.core.messages import NEED_DATA, BodyPart, EndOfRequest, FileSlice, RequestHead, ResponseHead, Wire

LIMITS = Limits()
new_engine = EngineName.H11.maker()


@pytest.fixture(autouse=True, params=list(EngineName))
def each_engine(request, monkeypatch):
    """Every test is about each engine."""
    monkeypatch.setitem(globals(), "new_engine", request.param.maker())


EMPTY = [(b"content-length", b"0")]
CLOSE = (b"connection", b"close")


@dataclass
class Received:
    """A request as the engine told it, with its content joined."""

    method: str
    target: str
    http_version: str = "1.1"
    fields: list = field(default_factory=lambda: [(b"host", b"a")])
    content_length: int | None = 0
    content: bytes = b""
    trailers: list = field(default_factory=list)


class Input:
    """Pieces of bytes on their way to an engine, which gets the next one only when it needs some."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.left = [piece for piece in pieces if piece]

    def next_event(self, engine: Engine):
        """The engine's next event; None if there are no bytes left and it needs more."""
        while (event := engine.next_event()) is NEED_DATA:
            if not self.left:
                return None
            engine.receive_data(self.left.pop(0))
        return event

    def request(self, engine: Engine) -> Received | None:
        """The next request, whole; None if the bytes do not suffice."""
        head = self.next_event(engine)
        if head is None:
            return None
        assert isinstance(head, RequestHead)
        content = b""
        while isinstance(event := self.next_event(engine), BodyPart):
            assert event.data, "a part is never empty"
            content += event.data
            assert engine.request_complete is (len(content) == head.content_length)
        if event is None:
            return None
        assert isinstance(event, EndOfRequest)
        assert engine.request_complete
        return Received(*head[:3], list(head.fields), head.content_length, content, list(event.trailers))


def answer(engine: Engine, status: int = 200, *more: tuple[bytes, bytes]) -> bytes:
    return b"".join(engine.respond(ResponseHead(status, [*EMPTY, *more]), b""))


def serve(engine: Engine, pieces: Iterable[bytes], status: int = 200) -> tuple[list[Received], RequestError | None]:
    """Receive the requests among the bytes and answer each, as a connection does; and the error that ended it."""
    source, received = Input(pieces), []
    try:
        while (request := source.request(engine)) is not None:
            received.append(request)
            answer(engine, status)
            if not engine.reusable:
                break
            engine.start_next_exchange()
    except RequestError as error:
        return received, error
    return received, None


def requests(pieces: Iterable[bytes], limits: Limits = LIMITS) -> list[Received]:
    """The requests among the bytes, none of which is refused."""
    received, error = serve(new_engine(limits), pieces)
    assert error is None
    return received


def refusal(pieces: Iterable[bytes], limits: Limits = LIMITS) -> tuple[int, Engine]:
    """The status code with which the bytes are refused, and the engine that refused them."""
    engine = new_engine(limits)
    _, error = serve(engine, pieces)
    assert error is not None, "it was not refused"
    return error.status, engine


def engine_after(wire: bytes, limits: Limits = LIMITS) -> Engine:
    """An engine that has received one whole request."""
    engine = new_engine(limits)
    assert Input([wire]).request(engine) is not None
    return engine


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    """The bytes in pieces."""
    edges = [0, *sorted({place % (len(wire) + 1) for place in places}), len(wire)]
    return [wire[start:end] for start, end in itertools.pairwise(edges)]


def bytewise(wire: bytes) -> list[bytes]:
    return cut(wire, range(len(wire)))


PLACES = st.lists(st.integers(min_value=0, max_value=10_000), max_size=20)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
FIXED = b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00b\r\n, my world!\r\n0\r\n\r\n"
)
TRAILERS = (
    b"POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"A;name=value\r\n0123456789\r\n0;last\r\nSum: 45\r\nsum:  46 \r\n\r\n"
)
EXPECT = b"PUT /e HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"

A_GET = Received("GET", "/")
A_FIXED = Received("POST", "/f", "1.1", [(b"host", b"a"), (b"content-length", b"5")], 5, b"hello")
A_CHUNKED = Received(
    "POST", "/c", "1.1", [(b"host", b"a"), (b"transfer-encoding", b"chunked")], None, b"hello, my world!"
)
A_TRAILERS = Received(
    "POST",
    "/t",
    "1.1",
    [(b"host", b"a"), (b"transfer-encoding", b"Chunked")],
    None,
    b"0123456789",
    [(b"sum", b"45"), (b"sum", b"46")],
)
AN_EXPECT = Received(
    "PUT", "/e", "1.1", [(b"host", b"a"), (b"expect", b"100-Continue"), (b"content-length", b"2")], 2, b"ok"
)
AN_UPGRADE = Received("GET", "/u", "1.1", [(b"host", b"a"), (b"connection", b"upgrade"), (b"upgrade", b"websocket")])

GOOD = {
    "no content": (GET, [A_GET]),
    "HEAD": (HEAD, [Received("HEAD", "/")]),
    "HTTP/1.0": (GET_10, [Received("GET", "/", "1.0", [])]),
    "HTTP/1.0 with content": (
        b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
        [Received("POST", "/", "1.0", [(b"content-length", b"1")], 1, b"x")],
    ),
    "asterisk-form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [Received("OPTIONS", "*")]),
    "absolute-form": (b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", [Received("GET", "http://a/b?c")]),
    "a method nobody knows": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", [Received("BREW", "/")]),
    "white space around values, names in any case, a name twice": (
        b"GET / HTTP/1.1\r\nhOsT:a\r\nX:  1 \r\nx:\t2\r\nX: \xc3\xa9\r\n\r\n",
        [Received("GET", "/", "1.1", [(b"host", b"a"), (b"x", b"1"), (b"x", b"2"), (b"x", b"\xc3\xa9")])],
    ),
    "fixed content": (FIXED, [A_FIXED]),
    "fixed content of no bytes": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        [Received("POST", "/", "1.1", [(b"host", b"a"), (b"content-length", b"0")], 0)],
    ),
    "chunked content": (CHUNKED, [A_CHUNKED]),
    "chunked content of no bytes": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        [Received("POST", "/", "1.1", [(b"host", b"a"), (b"transfer-encoding", b"chunked")], None)],
    ),
    "trailers": (TRAILERS, [A_TRAILERS]),
    "expectation": (EXPECT, [AN_EXPECT]),
    "an upgrade that is not taken up": (UPGRADE + FIXED, [AN_UPGRADE, A_FIXED]),
    "pipelined": (
        GET + FIXED + CHUNKED + TRAILERS + EXPECT + GET,
        [A_GET, A_FIXED, A_CHUNKED, A_TRAILERS, AN_EXPECT, A_GET],
    ),
}
good = pytest.mark.parametrize(("wire", "expected"), GOOD.values(), ids=GOOD.keys())


# What is received


@good
def test_a_request_that_arrives_whole_is_received(wire, expected):
    assert requests([wire]) == expected


@good
def test_a_request_is_received_alike_wherever_it_is_split(wire, expected):
    for place in range(len(wire)):
        assert requests([wire[:place], wire[place:]]) == expected, f"split at {place}"


@good
def test_a_request_is_received_alike_byte_by_byte(wire, expected):
    assert requests(bytewise(wire)) == expected


@given(case=st.sampled_from(list(GOOD.values())), places=PLACES)
def test_a_request_is_received_alike_at_any_splits(case, places):
    wire, expected = case
    assert requests(cut(wire, places)) == expected


@good
def test_trailing_bytes_change_nothing_of_the_request_before_them(wire, expected):
    for trailing in (b"G", GET[:-1], b"\x16\x03\x01 no HTTP at all \r\n\r\n", b"\0" * 1000):
        engine, source = new_engine(LIMITS), Input([wire + trailing])
        for number, request in enumerate(expected, start=1):
            assert source.request(engine) == request
            assert engine.has_unparsed_bytes
            answer(engine)
            if number < len(expected):
                engine.start_next_exchange()


@good
def test_a_truncated_request_is_never_complete(wire, expected):
    for end in range(len(wire)):
        assert len(requests([wire[:end]])) < len(expected), f"after {end} bytes"


def test_content_is_told_as_it_arrives():
    engine = new_engine(LIMITS)
    engine.receive_data(FIXED[:-3])
    assert isinstance(engine.next_event(), RequestHead)
    assert engine.next_event() == BodyPart(b"he")
    assert engine.next_event() is NEED_DATA
    assert not engine.request_complete
    engine.receive_data(FIXED[-3:])
    assert engine.next_event() == BodyPart(b"llo")
    assert engine.request_complete
    assert isinstance(engine.next_event(), EndOfRequest)
    assert engine.request_complete


def test_the_head_tells_the_length_of_the_content_before_it_is_there():
    engine = new_engine(LIMITS)
    engine.receive_data(FIXED[:-5])
    assert engine.next_event().content_length == 5


@pytest.mark.parametrize(
    ("wire", "authority"),
    [
        (GET, "a"),
        (GET.replace(b"Host: a", b"Host: A:8"), "a:8"),
        (GET.replace(b" / ", b" http://a:80/ "), "a:80"),
        (GET_10, None),
    ],
)
def test_rfc9112_3_2_the_head_tells_for_whom_the_request_is(wire, authority):
    engine = new_engine(LIMITS)
    engine.receive_data(wire)
    assert engine.next_event().authority == authority


def test_a_new_engine_has_no_request():
    engine = new_engine(LIMITS)
    assert engine.next_event() is NEED_DATA
    assert not engine.has_unparsed_bytes
    assert not engine.request_complete
    assert not engine.client_awaits_continue
    assert not engine.keeps_alive
    assert not engine.reusable
    assert not engine.closing_ends_response


def test_unparsed_bytes_are_those_of_which_no_event_has_told():
    engine = new_engine(LIMITS)
    engine.receive_data(FIXED[:10])
    assert engine.next_event() is NEED_DATA
    assert engine.has_unparsed_bytes
    engine.receive_data(FIXED[10:] + b"G")
    for _ in range(3):
        assert engine.next_event() is not NEED_DATA
    assert engine.has_unparsed_bytes
    answer(engine)
    engine.start_next_exchange()
    assert engine.has_unparsed_bytes


def test_what_is_pipelined_is_not_told_before_the_exchange_is_over():
    engine = engine_after(GET + FIXED)
    assert engine.next_event() is NEED_DATA
    answer(engine)
    assert engine.next_event() is NEED_DATA
    engine.start_next_exchange()
    assert engine.next_event().target == "/f"


@given(
    wires=st.lists(st.sampled_from([GET, FIXED, CHUNKED, TRAILERS, EXPECT, UPGRADE]), min_size=1, max_size=30),
    size=st.integers(min_value=1, max_value=300),
)
def test_the_buffer_holds_no_more_than_an_event_and_a_piece(wires, size):
    engine, wire = new_engine(LIMITS), b"".join(wires)
    source = Input(cut(wire, range(0, len(wire), size)))
    longest_event = max(map(len, wires))
    for _ in wires:
        while not engine.request_complete:
            assert source.next_event(engine) is not None
            assert len(engine.unparsed_bytes) <= longest_event + size
        answer(engine)
        engine.start_next_exchange()
    assert not engine.has_unparsed_bytes
    assert not source.left


# Expect: 100-continue (RFC 9110 §10.1.1)


def test_rfc9110_10_1_1_a_client_awaits_continue_until_it_hears_it():
    engine = new_engine(LIMITS)
    engine.receive_data(EXPECT[:-2])
    assert isinstance(engine.next_event(), RequestHead)
    assert engine.client_awaits_continue
    status, fields, content, rest = read_response(engine.interim(100), "PUT")
    assert (status, fields, content, rest) == (100, [], b"", b"")
    assert not engine.client_awaits_continue
    engine.receive_data(EXPECT[-2:])
    assert engine.next_event() == BodyPart(b"ok")


def test_rfc9110_10_1_1_a_client_that_sends_its_content_unasked_waits_for_nothing():
    engine = new_engine(LIMITS)
    engine.receive_data(EXPECT)
    assert isinstance(engine.next_event(), RequestHead)
    assert isinstance(engine.next_event(), BodyPart)
    assert not engine.client_awaits_continue


def test_rfc9110_10_1_1_a_final_response_answers_the_expectation_too():
    engine = new_engine(LIMITS)
    engine.receive_data(EXPECT[:-2])
    assert isinstance(engine.next_event(), RequestHead)
    answer(engine, 403)
    assert not engine.client_awaits_continue
    assert not engine.request_complete


def test_rfc9110_10_1_1_an_expectation_from_an_http_1_0_client_is_ignored():
    engine = new_engine(LIMITS)
    engine.receive_data(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert isinstance(engine.next_event(), RequestHead)
    assert not engine.client_awaits_continue


# What is refused


BAD = {
    # RFC 9112 §2.3 and RFC 9110 §15.6.6
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "version 0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "version 1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    # §3
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "a version that is none": (b"GET / HTTP/one\r\nHost: a\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a method that is no token": (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a control character in the target": (b"GET /\x07 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a byte beyond ASCII in the target": (b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # §3.2
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a Host that is none": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a target that contradicts Host": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment in the target": (b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    # §5
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: a\r\nx\r\n\r\n", 400),
    "a field without a name": (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
    "CR in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    # §6.1
    "Transfer-Encoding beside Content-Length": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    "Content-Length beside Transfer-Encoding": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "Transfer-Encoding from a 1.0 client": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "another coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "two codings": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
    # §6.2
    "a negative length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "a signed length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
    "a hexadecimal length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "a length of thousands of digits": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000),
        400,
    ),
    # §7.1
    "a chunk size that is none": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a negative chunk size": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "a chunk size of thousands of digits": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % (b"f" * 5000),
        400,
    ),
    "a chunk longer than it says": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        400,
    ),
    "a trailer that is no field": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n",
        400,
    ),
    "nonsense behind a good request": (FIXED + b"nonsense\r\n\r\n", 400),
}
bad = pytest.mark.parametrize(("wire", "status"), BAD.values(), ids=BAD.keys())


@bad
def test_what_is_no_request_is_refused(wire, status):
    assert refusal([wire])[0] == status


@bad
def test_what_is_no_request_is_refused_byte_by_byte(wire, status):
    assert refusal(bytewise(wire))[0] == status


@given(case=st.sampled_from(list(BAD.values())), places=PLACES)
def test_what_is_no_request_is_refused_at_any_splits(case, places):
    wire, status = case
    assert refusal(cut(wire, places))[0] == status


@bad
def test_a_refusal_can_be_answered_and_ends_the_connection(wire, status):
    _, engine = refusal([wire])
    wire = b"".join(engine.respond(ResponseHead(status, [(b"content-length", b"3"), CLOSE]), b"no\n"))
    assert read_response(wire, "GET") == (status, [(b"content-length", b"3"), CLOSE], b"no\n", b"")
    assert not engine.keeps_alive
    assert not engine.reusable


@pytest.mark.parametrize(
    ("wire", "limits"),
    [
        *((wire, LIMITS) for wire, _ in BAD.values()),
        (GET, Limits(head=20)),
        (TRAILERS.replace(b"Sum:", b"One: more\r\nSum:"), Limits(fields=2)),
    ],
)
def test_after_a_refusal_nothing_more_is_received(wire, limits):
    _, engine = refusal([wire + GET], limits)
    for more in (b"", GET):
        if more:
            engine.receive_data(more)
        with pytest.raises(RequestError):
            engine.next_event()
        assert not engine.request_complete
    answer(engine)
    assert not engine.reusable


def test_a_refusal_of_head_is_answered_without_content():
    long = b"HEAD /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    for wire in (long, HEAD.replace(b"1.1", b"1.2"), HEAD.replace(b"Host: a", b"Host: a\r\n" + b"x: y\r\n" * 200)):
        _, engine = refusal([wire])
        assert not engine.content_allowed(400)
        sent = b"".join(engine.respond(ResponseHead(400, [(b"content-length", b"3"), CLOSE]), b"no\n"))
        assert read_response(sent, "HEAD") == (400, [(b"content-length", b"3"), CLOSE], b"", b"")


def test_a_refusal_of_what_comes_second_is_answered_as_one_of_what_comes_first():
    for method, content in ((b"GET", b"no\n"), (b"HEAD", b"")):
        _, engine = refusal([FIXED + GET.replace(b"GET", method).replace(b"1.1", b"1.2")])
        sent = b"".join(engine.respond(ResponseHead(505, [(b"content-length", b"3"), CLOSE]), b"no\n"))
        assert read_response(sent, method.decode()) == (505, [(b"content-length", b"3"), CLOSE], content, b"")
        assert not engine.reusable


def test_content_before_what_is_refused_in_the_same_piece_is_told():
    engine, source = new_engine(LIMITS), Input([CHUNKED_HEAD + b"5\r\nhello\r\n5\r\nwor\nx"])
    assert isinstance(source.next_event(engine), RequestHead)
    # The chunk that is not ended is told as far as it goes, as it would be if it came in pieces.
    assert source.next_event(engine) == BodyPart(b"hellowor\nx")
    engine.receive_data(b"more")
    with pytest.raises(RequestError):
        engine.next_event()
    assert not engine.request_complete


@settings(max_examples=3 * settings.default.max_examples)
@given(wire=st.binary(max_size=200), places=PLACES)
@example(wire=b"\r\n", places=[])
@example(wire=b"\0\r\n\r\n", places=[])
def test_no_bytes_at_all_make_the_engine_raise_anything_but_a_request_error(wire, places):
    assert_served_or_refused(cut(wire, places))


CHANGES = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=1000),  # where
        st.integers(min_value=0, max_value=20),  # how much goes
        st.one_of(
            st.binary(max_size=5),
            st.sampled_from([
                b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"-1", b"9" * 30, b"1.0", b"HEAD ",
                b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
                b"Connection: close\r\n", b"Upgrade: x\r\n", b"Host: b\r\n", b"CONNECT ",
            ]),
        ),
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


@settings(max_examples=5 * settings.default.max_examples)
@given(case=st.sampled_from([wire for wire, _ in (*GOOD.values(), *BAD.values())]), changes=CHANGES, places=PLACES)
def test_no_damage_to_a_request_makes_the_engine_raise_anything_but_a_request_error(case, changes, places):
    wire = case
    for where, gone, new in changes:
        at = where % (len(wire) + 1)
        wire = wire[:at] + new + wire[at + gone :]
    assert_served_or_refused(cut(wire, places))


def assert_served_or_refused(pieces: list[bytes]) -> None:
    """Whatever the bytes are, nothing but a RequestError comes of them, and that can be answered."""
    engine = new_engine(LIMITS)
    _, error = serve(engine, pieces, 404)
    if error is not None:
        assert 400 <= error.status <= 599
        assert answer(engine, error.status, CLOSE).startswith(b"HTTP/1.1 %d " % error.status)


# Limits


def head_of(size: int, value: bytes = b"") -> bytes:
    """A head of exactly so many bytes."""
    start, end = b"GET / HTTP/1.1\r\nHost: a\r\nX:", b"\r\n\r\n"
    return start + value.ljust(size - len(start) - len(end), b"x") + end


ARRIVALS = pytest.mark.parametrize("arrive", [lambda wire: [wire], bytewise], ids=["whole", "byte by byte"])


@ARRIVALS
def test_rfc9112_3_a_target_is_taken_up_to_its_limit_and_no_further(arrive):
    limits = Limits(target=20)
    [request] = requests(arrive(b"GET /" + b"x" * 19 + b" HTTP/1.1\r\nHost: a\r\n\r\n"), limits)
    assert len(request.target) == 20
    assert refusal(arrive(b"GET /" + b"x" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n"), limits)[0] == 414


def test_rfc9112_3_a_request_line_without_an_end_is_refused_beyond_the_limit_of_the_head():
    engine = new_engine(Limits(head=100))
    engine.receive_data(b"GET /" + b"x" * 95)
    assert engine.next_event() is NEED_DATA
    engine.receive_data(b"x")
    with pytest.raises(RequestError, match="request line") as caught:
        engine.next_event()
    assert caught.value.status == 414


@ARRIVALS
@pytest.mark.parametrize("value", [b"", b" " * 50], ids=["dense", "padded"])
def test_rfc9112_5_a_head_is_taken_up_to_its_limit_and_no_further(arrive, value):
    limits = Limits(head=100)
    assert len(requests(arrive(head_of(100, value)), limits)) == 1
    assert refusal(arrive(head_of(101, value)), limits)[0] == 431
    assert refusal(arrive(head_of(200, value)), limits)[0] == 431


def test_rfc9112_5_a_large_head_is_refused_also_where_more_comes_in_the_same_segment():
    assert refusal([head_of(101) + GET * 3], Limits(head=100))[0] == 431


def test_rfc9112_5_bytes_before_and_behind_a_head_do_not_count():
    content = FIXED.replace(b"5", b"500").replace(b"hello", b"x" * 500)
    limits = Limits(head=100)
    for pieces in ([content + head_of(100) + content], bytewise(content + head_of(100) + content)):
        assert [len(request.content) for request in requests(pieces, limits)] == [500, 0, 500]
    assert refusal([content + head_of(101)], limits)[0] == 431
    assert refusal([content, head_of(101)], limits)[0] == 431


@ARRIVALS
def test_rfc9112_5_fields_are_taken_up_to_their_limit_and_no_further(arrive):
    limits = Limits(fields=5)
    wire = b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n"
    [request] = requests(arrive(wire % (b"x: y\r\n" * 4)), limits)
    assert len(request.fields) == 5
    assert refusal(arrive(wire % (b"x: y\r\n" * 5)), limits)[0] == 431


CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@ARRIVALS
def test_rfc9112_7_1_2_trailers_are_taken_up_to_the_limits_of_a_head_and_no_further(arrive):
    few = Limits(fields=5)
    [request] = requests(arrive(CHUNKED_HEAD + b"0\r\n" + b"x: y\r\n" * 5 + b"\r\n"), few)
    assert len(request.trailers) == 5
    assert refusal(arrive(CHUNKED_HEAD + b"0\r\n" + b"x: y\r\n" * 6 + b"\r\n"), few)[0] == 431
    small = Limits(head=100)
    [request] = requests(arrive(CHUNKED_HEAD + b"0\r\nx:%s\r\n\r\n" % (b"y" * 94)), small)
    assert len(request.trailers[0][1]) == 94
    assert refusal(arrive(CHUNKED_HEAD + b"0\r\nx:%s\r\n\r\n" % (b"y" * 95)), small)[0] == 431


def test_rfc9112_7_1_1_a_chunk_line_without_an_end_is_refused_as_what_it_is():
    engine = new_engine(Limits(chunk_extensions=99))
    source = Input(bytewise(CHUNKED_HEAD + b"5;" + b"x" * 99))
    with pytest.raises(RequestError, match="chunk") as caught:
        source.request(engine)
    assert caught.value.status == 413
    assert not source.left, "it was refused before the limit"


def test_without_limits_nothing_is_too_long():
    inf = float("inf")
    limits = Limits(target=inf, head=inf, fields=inf)
    wire = b"GET /%s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (b"x" * 70_000, b"x: y\r\n" * 500)
    [request] = requests(cut(wire, range(0, len(wire), 10_000)), limits)
    assert (len(request.target), len(request.fields)) == (70_001, 501)


# What is sent


def read_response(wire: bytes, method: str) -> tuple[int, list, bytes, bytes]:
    """(status code, fields, content, the bytes that follow) of the first response in `wire`: RFC 9112 §4 and §6.3.

    A response that has no other end takes all that is there.
    """
    head, separator, rest = wire.partition(b"\r\n\r\n")
    assert separator, "the head has no end"
    status_line, *lines = head.split(b"\r\n")
    version, code, _reason = status_line.split(b" ", 2)
    assert version == b"HTTP/1.1"
    fields = [(name.lower(), value) for name, value in (line.split(b": ", 1) for line in lines)]
    status, names = int(code), dict(fields)
    if method == "HEAD" or status < 200 or status in (204, 304):
        return status, fields, b"", rest
    if b"transfer-encoding" in names:
        assert names[b"transfer-encoding"] == b"chunked"
        assert b"content-length" not in names
        content = b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            content, end, rest = content + rest[:length], rest[length : length + 2], rest[length + 2 :]
            assert end == b"\r\n"
            if length == 0:
                return status, fields, content, rest
    if b"content-length" in names:
        length = int(names[b"content-length"])
        assert len(rest) >= length, "content is missing"
        return status, fields, rest[:length], rest[length:]
    assert names.get(b"connection") == b"close"
    return status, fields, rest, b""


def streamed(engine: Engine, head: ResponseHead, parts: list[bytes]) -> bytes:
    wire = engine.start_response(head)
    for part in parts:
        wires = engine.send_part(part)
        assert wires.payload == part
        wire += b"".join(wires)
    return wire + engine.end_response()


def test_a_whole_response_has_its_status_fields_and_content():
    engine = engine_after(GET)
    head = ResponseHead(200, [(b"content-length", b"5"), (b"x", b"1"), (b"x", b"2")])
    wire = engine.respond(head, b"hello")
    assert wire == Wire(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: 1\r\nx: 2\r\n\r\n", b"hello", b"")


@pytest.mark.parametrize(
    ("status", "line"),
    [(404, b"HTTP/1.1 404 Not Found"), (413, b"HTTP/1.1 413 Content Too Large"), (599, b"HTTP/1.1 599 ")],
)
def test_a_status_code_has_its_reason_phrase_if_there_is_one(status, line):
    assert answer(engine_after(GET), status).partition(b"\r\n")[0] == line


@given(parts=st.lists(st.binary(max_size=50), max_size=10), method=st.sampled_from(["GET", "POST"]))
def test_a_streamed_response_is_chunked(parts, method):
    engine = engine_after(GET.replace(b"GET", method.encode()))
    wire = streamed(engine, ResponseHead(200, []), parts)
    assert read_response(wire, method) == (200, [(b"transfer-encoding", b"chunked")], b"".join(parts), b"")
    assert engine.reusable
    assert not engine.closing_ends_response


@given(parts=st.lists(st.binary(max_size=50), max_size=10), request=st.sampled_from([GET, GET_10]))
def test_a_streamed_response_with_a_content_length_keeps_it(parts, request):
    engine = engine_after(request)
    length = b"%d" % len(b"".join(parts))
    status, fields, content, rest = read_response(
        streamed(engine, ResponseHead(200, [(b"content-length", length)]), parts), "GET"
    )
    assert (status, content, rest) == (200, b"".join(parts), b"")
    assert (b"content-length", length) in fields
    assert not engine.closing_ends_response


@given(parts=st.lists(st.binary(max_size=50), max_size=10))
def test_a_streamed_response_to_an_http_1_0_client_ends_with_the_connection(parts):
    engine = engine_after(GET_10)
    wire = engine.start_response(ResponseHead(200, []))
    assert engine.closing_ends_response
    wire += b"".join(b"".join(engine.send_part(part)) for part in parts) + engine.end_response()
    assert read_response(wire, "GET") == (200, [CLOSE], b"".join(parts), b"")
    assert not engine.keeps_alive
    assert not engine.reusable


def test_a_streamed_response_to_no_request_at_all_ends_with_the_connection():
    engine = new_engine(LIMITS)
    wire = streamed(engine, ResponseHead(400, []), [b"what?"])
    assert engine.closing_ends_response
    assert read_response(wire, "GET") == (400, [CLOSE], b"what?", b"")


CHUNKED_FIELD = (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize("request_wire", [GET, GET_10], ids=["1.1", "1.0"])
def test_rfc9112_6_a_whole_response_without_a_length_is_framed_as_the_client_understands_it(request_wire):
    engine = engine_after(request_wire)
    wire = engine.respond(ResponseHead(200, []), b"hello")
    assert read_response(b"".join(wire), "GET")[2:] == (b"hello", b"")
    assert wire.payload == b"hello"
    assert engine.closing_ends_response == (request_wire is GET_10)


@pytest.mark.parametrize("fields", [[], [CLOSE]])
@pytest.mark.parametrize("status", [200, 204, 205, 304, 404, 500])
@pytest.mark.parametrize(
    "wire",
    [
        GET,
        HEAD,
        GET_10,
        FIXED,
        FIXED[:-1],
        GET.replace(b"Host", b"Connection: close\r\nHost"),
        GET.replace(b"Host", b"Connection: upgrade\r\nUpgrade: a\r\nHost"),
        GET_10.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        GET.replace(b"Host", b"Connection: " + b"x" * 300 + b", close\r\nHost"),
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        GET.replace(b"1.1", b"1.2"),
        HEAD.replace(b"1.1", b"1.2"),
        GET[:-2],
    ],
)
def test_a_whole_response_is_what_the_machine_makes_of_it_in_parts(wire, status, fields):
    engines = [new_engine(LIMITS) for _ in range(3)]
    for engine in engines:
        engine.receive_data(wire)
        with contextlib.suppress(RequestError):
            while engine.next_event() is not NEED_DATA:
                pass
    if wire.startswith(b"CONNECT") and status < 300:
        return
    first, again, parts = engines
    head = ResponseHead(status, [*fields, (b"x", b"y")], () if status == 204 else [(b"content-length", b"5")])
    body = b"" if status == 205 else b"hello"
    sent = parts.start_response(head)
    if parts.content_allowed(status):
        sent += b"".join(parts.send_part(body))
    sent += parts.end_response()
    for engine in (first, again):
        assert b"".join(engine.respond(head, body)) == sent
        for fact in ("response_complete", "keeps_alive", "reusable", "closing_ends_response", "client_awaits_continue"):
            assert getattr(engine, fact) is getattr(parts, fact), fact
        with pytest.raises(ResponseError):
            engine.respond(head, body)


def test_every_part_of_a_wire_that_is_content_is_payload_and_the_rest_is_not():
    engine = engine_after(GET)
    engine.start_response(ResponseHead(200, []))
    assert engine.send_part(b"0123456789abcdef") == Wire(b"10\r\n", b"0123456789abcdef", b"\r\n")
    engine = engine_after(GET_10)
    engine.start_response(ResponseHead(200, []))
    assert engine.send_part(b"hello") == Wire(b"", b"hello", b"")


def test_a_file_passes_through_as_it_is_with_its_framing_around_it():
    file = FileSlice(object(), 7, 16)
    engine = engine_after(GET)
    assert engine.respond(ResponseHead(200, [(b"content-length", b"16")]), file) == Wire(
        b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n", file, b""
    )
    assert engine.response_complete
    engine = engine_after(GET)
    engine.start_response(ResponseHead(200, []))
    assert engine.send_part(file) == Wire(b"10\r\n", file, b"\r\n")


def test_a_file_must_be_as_long_as_the_content_length_says():
    engine = engine_after(GET)
    with pytest.raises(ResponseError, match="the body has 16 bytes"):
        engine.respond(ResponseHead(200, [(b"content-length", b"17")]), FileSlice(object(), 0, 16))
    engine.start_response(ResponseHead(200, [(b"content-length", b"15")]))
    with pytest.raises(ResponseError, match="longer than its Content-Length says; leave"):
        engine.send_part(FileSlice(object(), 0, 16))


@pytest.mark.parametrize(("wire", "status"), [(GET.replace(b"GET", b"HEAD"), 200), (GET, 304)])
def test_a_file_is_not_sent_where_http_forbids_content(wire, status):
    answer = engine_after(wire).respond(ResponseHead(status, []), FileSlice(object(), 0, 16))
    assert (answer.payload, answer.suffix) == (b"", b"")


def test_a_part_of_no_bytes_does_not_end_a_chunked_response():
    engine = engine_after(GET)
    engine.start_response(ResponseHead(200, []))
    assert b"".join(engine.send_part(b"")) == b""
    assert b"".join(engine.send_part(b"x")) == b"1\r\nx\r\n"


# Responses that have no content (RFC 9110 §6.4.1, RFC 9112 §6.3)


@pytest.mark.parametrize(
    ("request_wire", "status", "allowed"),
    [(GET, 200, True), (GET, 204, False), (GET, 304, False), (GET, 404, True), (HEAD, 200, False), (HEAD, 404, False)],
)
def test_rfc9112_6_3_content_is_allowed_but_for_head_204_and_304(request_wire, status, allowed):
    assert engine_after(request_wire).content_allowed(status) is allowed


def test_rfc9112_6_3_a_response_to_head_has_the_fields_of_the_response_to_get_and_no_content():
    engine = engine_after(HEAD + FIXED)
    wire = engine.respond(ResponseHead(200, [(b"content-length", b"5")]), b"hello")
    assert read_response(b"".join(wire), "HEAD") == (200, [(b"content-length", b"5")], b"", b"")
    assert wire.payload == b""
    assert engine.reusable
    engine.start_next_exchange()
    assert engine.content_allowed(200) is True


def test_rfc9112_6_3_a_response_to_head_may_tell_the_length_of_content_that_was_never_made():
    engine = engine_after(HEAD)
    wire = b"".join(engine.respond(ResponseHead(200, [(b"content-length", b"500")]), b""))
    assert read_response(wire, "HEAD") == (200, [(b"content-length", b"500")], b"", b"")
    assert engine.reusable


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_rfc9112_6_3_a_streamed_response_to_head_is_complete_without_content(version):
    engine = engine_after(HEAD.replace(b"1.1", version.encode()))
    wire = engine.start_response(ResponseHead(200, []))
    assert not engine.closing_ends_response
    wire += engine.end_response()
    assert read_response(wire, "HEAD")[2:] == (b"", b"")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("request_wire", [GET, GET_10], ids=["1.1", "1.0"])
def test_rfc9112_6_3_a_response_without_content_is_complete_with_its_head(status, request_wire):
    engine = engine_after(request_wire)
    wire = engine.respond(ResponseHead(status, []), b"dropped")
    code, fields, content, rest = read_response(b"".join(wire), "GET")
    assert (code, content, rest) == (status, b"", b"")
    assert CHUNKED_FIELD not in fields
    assert not engine.closing_ends_response
    assert engine.keeps_alive is (request_wire is GET)


# What a handler does wrong: the client still gets its 500


BAD_HEADS = {
    "CR LF in a value": (200, [(b"x", b"a\r\nset-cookie: b")]),
    "LF in a value": (200, [(b"x", b"a\nb")]),
    "CR in a value": (200, [(b"x", b"a\rb")]),
    "NUL in a value": (200, [(b"x", b"a\0b")]),
    "white space around a value": (200, [(b"x", b" a")]),
    "CR LF in a name": (200, [(b"x\r\ny", b"a")]),
    "a colon in a name": (200, [(b"x:", b"a")]),
    "a space in a name": (200, [(b"x y", b"a")]),
    "no name": (200, [(b"", b"a")]),
    "a name beyond ASCII": (200, [(b"\xc3\xa9", b"a")]),
    "a length that is no number": (200, [(b"content-length", b"many")]),
    "two lengths": (200, [(b"content-length", b"4"), (b"content-length", b"5")]),
    "a length with zeros before it": (200, [(b"content-length", b"05")]),
    "a length that no machine can count to": (200, [(b"content-length", b"9" * 19)]),
    "a coding that we do not speak": (200, [(b"transfer-encoding", b"gzip")]),
    "a coding that is ours to set": (200, [CHUNKED_FIELD]),
    "a coding and a length": (200, [CHUNKED_FIELD, (b"content-length", b"5")]),
    "an interim status": (100, []),
    "a switch of protocols": (101, []),
    "a status below all": (99, []),
    "a status beyond all": (1000, []),
    "a status that is no number": ("200", []),
}
bad_head = pytest.mark.parametrize(("status", "fields"), BAD_HEADS.values(), ids=BAD_HEADS.keys())


def assert_500_can_be_sent(engine: Engine) -> None:
    assert read_response(sad(engine), "GET") == (500, [(b"content-length", b"4")], b"sad\n", b"")
    assert engine.reusable


def sad(engine: Engine) -> bytes:
    return b"".join(engine.respond(ResponseHead(500, [(b"content-length", b"4")]), b"sad\n"))


@bad_head
def test_a_malformed_head_is_refused_before_anything_is_lost(status, fields):
    engine = engine_after(GET)
    with pytest.raises(ResponseError):
        engine.respond(ResponseHead(status, fields), b"hello")
    assert_500_can_be_sent(engine)


@bad_head
def test_a_malformed_head_of_a_stream_is_refused_before_anything_is_lost(status, fields):
    engine = engine_after(GET)
    with pytest.raises(ResponseError):
        engine.start_response(ResponseHead(status, fields))
    assert_500_can_be_sent(engine)


@pytest.mark.parametrize("length", [b"0", b"4", b"6", b"05", b"5, 5"])
@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
def test_a_wrong_content_length_is_refused_before_anything_is_lost(length, name):
    engine = engine_after(GET)
    with pytest.raises(ResponseError, match="Content-Length"):
        engine.respond(ResponseHead(200, [(name, length)]), b"hello")
    assert_500_can_be_sent(engine)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_rfc9110_9_3_6_a_tunnel_is_refused_before_anything_is_lost(status):
    for send in (lambda engine, head: engine.respond(head, b""), lambda engine, head: engine.start_response(head)):
        engine = engine_after(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
        with pytest.raises(ResponseError, match="CONNECT"):
            send(engine, ResponseHead(status, EMPTY))
        assert read_response(sad(engine), "GET") == (500, [(b"content-length", b"4"), CLOSE], b"sad\n", b"")


def test_rfc9110_9_3_6_what_stands_behind_a_connect_is_not_taken_for_requests():
    engine = engine_after(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" + GET)
    assert CLOSE in read_response(answer(engine, 405), "GET")[1]
    assert not engine.keeps_alive
    assert not engine.reusable


def test_a_part_beyond_the_content_length_is_refused():
    engine = engine_after(GET)
    engine.start_response(ResponseHead(200, [(b"content-length", b"5")]))
    engine.send_part(b"hel")
    with pytest.raises(ResponseError, match="longer than its Content-Length says; leave"):
        engine.send_part(b"lo!")
    assert not engine.keeps_alive
    assert not engine.reusable


def test_an_end_before_the_content_length_is_refused():
    engine = engine_after(GET)
    engine.start_response(ResponseHead(200, [(b"content-length", b"5")]))
    engine.send_part(b"hell")
    with pytest.raises(ResponseError, match="shorter than its Content-Length says; leave"):
        engine.end_response()
    assert not engine.keeps_alive
    assert not engine.reusable


def test_a_second_response_to_a_request_is_refused():
    engine = engine_after(GET)
    answer(engine)
    for send in (
        lambda: answer(engine),
        lambda: engine.start_response(ResponseHead(200, [])),
        lambda: engine.send_part(b"x"),
        engine.end_response,
        lambda: engine.interim(100),
    ):
        with pytest.raises(ResponseError):
            send()


@pytest.mark.parametrize(
    ("wire", "content"),
    [(b"", b"slow"), (b"GET / HTTP/1.1\r\nHo", b"slow"), (b"HEA", b"slow"), (b"HEAD / HTTP/1.1\r\nHo", b"")],
)
def test_rfc9110_9_3_2_an_answer_before_the_head_is_complete_has_content_but_to_head(wire, content):
    engine = new_engine(LIMITS)
    if wire:
        engine.receive_data(wire)
    assert engine.next_event() is NEED_DATA
    answered = b"".join(engine.respond(ResponseHead(408, [(b"content-length", b"4")]), b"slow"))
    assert answered.partition(b"\r\n\r\n")[2] == content
    assert engine.response_complete
    assert not engine.request_complete
    assert not engine.keeps_alive
    assert not engine.reusable


def test_of_a_head_that_is_not_complete_or_was_refused_the_request_line_is_known():
    engine = new_engine(LIMITS)
    assert engine.request_line is None
    engine.receive_data(b"GET /a HTTP/1.1\r\n")
    assert engine.next_event() is NEED_DATA
    assert engine.request_line == ("GET", "/a", "1.1")
    engine.receive_data(b"A : b\r\n\r\n")
    with pytest.raises(RequestError):
        engine.next_event()
    assert engine.request_line == ("GET", "/a", "1.1")


def test_of_a_head_that_was_answered_before_it_was_complete_no_more_is_taken():
    engine = new_engine(LIMITS)
    engine.receive_data(b"GET /a HTTP/1.1\r\nHos")
    assert engine.next_event() is NEED_DATA
    answer(engine, 408)
    engine.receive_data(b"t: a\r\n\r\n")
    with pytest.raises(RequestError):
        engine.next_event()


def test_an_answer_to_a_refused_head_leaves_the_refusal_as_it_was():
    engine = new_engine(Limits(target=10))
    engine.receive_data(b"GET /" + b"x" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            engine.next_event()
        assert caught.value.status == 414
        if not engine.response_complete:
            answer(engine, 414)


def test_a_part_before_the_head_is_refused():
    with pytest.raises(ResponseError):
        engine_after(GET).send_part(b"x")


# Whether there is a next exchange (RFC 9112 §9.3)


def test_rfc9112_9_3_a_connection_persists_once_both_messages_are_complete():
    engine = engine_after(GET)
    assert not engine.keeps_alive
    assert not engine.reusable
    answer(engine)
    assert engine.keeps_alive
    assert engine.reusable
    engine.start_next_exchange()
    assert not engine.keeps_alive
    assert not engine.reusable
    assert not engine.request_complete


def test_rfc9112_9_3_a_connection_is_not_reused_before_the_request_is_complete():
    engine, source = new_engine(LIMITS), Input([FIXED[:-1], FIXED[-1:] + GET])
    engine.receive_data(source.left.pop(0))
    assert isinstance(engine.next_event(), RequestHead)
    answer(engine, 404)
    assert engine.keeps_alive
    assert not engine.reusable
    assert source.next_event(engine) == BodyPart(b"hell")
    assert source.next_event(engine) == BodyPart(b"o")
    assert isinstance(source.next_event(engine), EndOfRequest)
    assert engine.reusable
    engine.start_next_exchange()
    assert source.request(engine) == A_GET


@pytest.mark.parametrize(
    "wire",
    [
        GET.replace(b"Host", b"Connection: close\r\nHost"),
        GET.replace(b"Host", b"Connection: x, Close\r\nHost"),
        GET_10,
        GET_10.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
    ],
)
def test_rfc9112_9_3_a_connection_closes_if_the_client_asks_for_it_or_speaks_1_0(wire):
    engine = engine_after(wire)
    assert CLOSE in read_response(answer(engine), "GET")[1]
    assert not engine.keeps_alive
    assert not engine.reusable


def test_rfc9112_9_6_a_connection_closes_if_the_response_says_so():
    engine = engine_after(GET)
    answer(engine, 200, CLOSE)
    assert not engine.keeps_alive
    assert not engine.reusable


def test_rfc9112_9_6_what_stands_behind_a_request_that_closes_is_not_told():
    engine = engine_after(GET.replace(b"Host", b"Connection: close\r\nHost") + GET)
    assert engine.next_event() is NEED_DATA
    answer(engine)
    assert engine.next_event() is NEED_DATA
    assert engine.unparsed_bytes == GET
    assert not engine.reusable


# Switching protocols (RFC 9110 §7.8)

UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
TO_X = [(b"upgrade", b"x"), (b"Connection", b"Upgrade")]


def asked(data: bytes) -> Engine:
    """An engine that was fed a request and has given out its events."""
    engine = new_engine(Limits())
    engine.receive_data(data)
    while engine.next_event() is not NEED_DATA:
        pass
    return engine


def test_a_switch_is_a_101_with_the_fields_given_and_what_follows_the_request_is_kept():
    engine = asked(UPGRADE + b"\r\n\r\nraw \x00 bytes")
    assert engine.request_complete
    assert engine.switch_protocols(TO_X) == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nConnection: Upgrade\r\n\r\n"
    )
    assert engine.unparsed_bytes == b"\r\n\r\nraw \x00 bytes"
    assert not engine.reusable
    assert not engine.keeps_alive


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"Upgrade: x\r\n", b""),
        UPGRADE.replace(b"Connection: Upgrade\r\n", b""),
        UPGRADE.replace(b"Upgrade: x", b"Upgrade: x y, x"),
        UPGRADE.replace(b"/1.1", b"/1.0"),
        UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nab"),
    ],
    ids=["not asked", "no option", "malformed", "HTTP/1.0", "request incomplete"],
)
def test_a_switch_that_cannot_be_is_refused_and_another_response_can_be_sent(request_):
    engine = asked(request_)
    with pytest.raises(ResponseError, match="101"):
        engine.switch_protocols(TO_X)
    assert engine.respond(ResponseHead(500, ()), b"").prefix.startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize(
    "fields",
    [
        [(b"up grade", b"x"), *TO_X],
        [(b"x", b"a\r\nb: c"), *TO_X],
        [(b"content-length", b"0"), *TO_X],
        [(b"transfer-encoding", b"chunked"), *TO_X],
        [(b"upgrade", b"x")],
        [(b"connection", b"upgrade")],
        [(b"connection", b"upgrade"), (b"upgrade", b"y")],
        [(b"connection", b"upgrade"), (b"upgrade", b"x, y")],
        [(b"connection", b"upgrade"), (b"upgrade", b"x/2")],
    ],
)
def test_rfc9110_7_8_a_switch_that_is_malformed_or_not_what_was_asked_for_is_refused_and_another_response_can_be_sent(
    fields,
):
    engine = asked(UPGRADE)
    with pytest.raises(ResponseError):
        engine.switch_protocols(fields)
    assert engine.respond(ResponseHead(500, ()), b"").prefix.startswith(b"HTTP/1.1 500 ")


def test_a_request_for_a_switch_may_be_answered_like_any_other():
    engine = asked(UPGRADE)
    engine.respond(ResponseHead(200, [(b"content-length", b"0")]), b"")
    assert engine.reusable

"""The engines differ in nothing but speed; and what passes the gate is read alike by the parsers of both machines.

Two engines are driven in step, with the same bytes in the same pieces and the same answers, good and bad. After each
step all that an `Engine` says must be the same: events, bytes, properties, and errors with their code and their words.

The parsers see what passes the gate as it came, and not what is made of it for the machine. So they are two more
opinions of what a request is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import h11
import h11r
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from trioserve.core.engine import Engine, EngineName
from trioserve.core.errors import RequestError, ResponseError
from trioserve.core.gate import Gate
from trioserve.core.limits import Limits
from trioserve.core.messages import NEED_DATA, BodyPart, EndOfRequest, FileSlice, RequestHead, ResponseHead

LIMITS = Limits()

# Requests: good ones, and what is changed in them

GOOD_FIELDS = st.sampled_from(
    [
        b"Connection: close",
        b"Connection: Upgrade",
        b"Connection: keep-alive, upgrade",
        b"Upgrade: websocket",
        b"Upgrade: x/1, WebSocket",
        b"Expect: 100-continue",
        b"X: \xff",
        b"x:\ta \t",
        b"X:",
    ]
)
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"CONNECT", b"OPTIONS", b"BREW"])
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"*", b"a:443", b"http://a/b", b"/%ff", b"/\xff", b"", b"/a b"])
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"])
FIELDS = st.sampled_from(
    [
        b"Host: a",
        b"Host: a:443",
        b"host:b",
        b"Host: [::1]",
        b"Host: a b",
        b"Host:",
        b"Host: a/",
        b"Host: [v1.x]",
        b"Connection: close",
        b"Connection: Upgrade",
        b"Connection: keep-alive, upgrade",
        b"Connection: x,CLOSE",
        b"Connection:",
        b"Connection: upgrade;x",
        b"Upgrade: websocket",
        b"Upgrade: x/1, WebSocket",
        b"Upgrade: x y",
        b"Upgrade:",
        b"Expect: 100-continue",
        b"Expect: 100-Continue, x",
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: gzip, chunked",
        b"TE: trailers",
        b"X: \xff",
        b"X: \x00",
        b"X : a",
        b"X:\ta \t",
        b" folded",
        b"X",
    ]
)
CONTENTS = st.sampled_from(
    [
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"5\r\nhellox",
        b"G\r\n",
        b"0\r\n\r\n",
        b"\r\n",
    ]
)


@st.composite
def written_requests(draw: st.DrawFn) -> bytes:
    host = [b"Host: a"] if draw(st.integers(0, 9)) else []
    line = b" ".join([draw(METHODS), draw(TARGETS) if not draw(st.integers(0, 2)) else b"/", draw(VERSIONS)])
    return b"\r\n".join([line, *host, *draw(st.lists(FIELDS, max_size=3)), b"", draw(CONTENTS)])


@st.composite
def good_requests(draw: st.DrawFn) -> bytes:
    framing, content = draw(
        st.sampled_from(
            [
                ([], b""),
                ([b"Content-Length: 5"], b"hello"),
                ([b"Content-Length: 0"], b""),
                ([b"Transfer-Encoding: chunked"], b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"),
                ([b"Transfer-Encoding: Chunked"], b"00a\r\n0123456789\r\n0\r\nX: y\r\nx:\tz \r\n\r\n"),
            ]
        )
    )
    more = draw(st.lists(GOOD_FIELDS, max_size=2))
    fields = draw(st.permutations([b"Host: a", *framing, *more]))
    line = draw(st.sampled_from([b"GET / ", b"HEAD / ", b"POST /a?b ", b"CONNECT a:443 ", b"OPTIONS * "]))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0"]))
    if line.startswith(b"CONNECT"):
        fields = [b"Host: a:443" if field == b"Host: a" else field for field in fields]
    return draw(st.sampled_from([b"", b"", b"\r\n"])) + b"\r\n".join([line + version, *fields, b"", content])


@st.composite
def damaged(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with one piece left out, put in, or put in another's place."""
    wire = draw(sound)
    start = draw(st.integers(0, len(wire)))
    end = draw(st.integers(start, min(len(wire), start + 3)))
    piece = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"\x00", b"\x80", b"0", b"A"]))
    return wire[:start] + piece + wire[end:]


UPGRADES = st.just(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket, x/1\r\n\r\n")
REQUESTS = st.one_of(
    good_requests(),
    good_requests(),
    good_requests(),
    UPGRADES,
    written_requests(),
    damaged(good_requests()),
    st.binary(max_size=30),
)

# Answers

RESPONSE_FIELDS = st.sampled_from(
    [
        (b"content-length", b"5"),
        (b"Content-Length", b"0"),
        (b"content-length", b"6"),
        (b"content-length", b"05"),
        (b"content-length", b"9" * 18),
        (b"content-length", b"9" * 20),
        (b"connection", b"close"),
        (b"Connection", b"Close, upgrade"),
        (b"connection", b"keep-alive"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"x/1"),
        (b"transfer-encoding", b"chunked"),
        (b"x", b"a\r\nb: c"),
        (b"x", b"\x01"),
        (b"x y", b"a"),
        (b"X-Y", b"1"),
        (b"x", b""),
    ]
)
HEADS = st.builds(
    ResponseHead,
    st.sampled_from([200] * 6 + [204, 205, 304, 404, 426, 500, 599, 100, 101, 199, 600]),
    st.lists(RESPONSE_FIELDS, max_size=3),
    st.sampled_from([(), ((b"content-length", b"5"), (b"date", b"now"))]),
)
DATA = st.sampled_from([b"hello", b"", b"x", FileSlice(object(), 0, 5)])
SWITCH = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]

Step = Callable[[Engine], object]


def named(name: str, step: Step) -> Step:
    step.__qualname__ = name
    return step


def respond(head: ResponseHead, body: bytes) -> Step:
    return named(f"respond({head!r}, {body!r})", lambda engine: engine.respond(head, body))


def start(head: ResponseHead) -> Step:
    return named(f"start_response({head!r})", lambda engine: engine.start_response(head))


def send(data: bytes) -> Step:
    return named(f"send_part({data!r})", lambda engine: engine.send_part(data))


def switch(fields: list[tuple[bytes, bytes]]) -> Step:
    return named(f"switch_protocols({fields!r})", lambda engine: engine.switch_protocols(fields))


def interim(status: int) -> Step:
    return named(f"interim({status})", lambda engine: engine.interim(status))


def end(engine: Engine) -> object:
    return engine.end_response()


def go_on(engine: Engine) -> object:
    if engine.reusable:
        engine.start_next_exchange()
    return None


def receive_event(engine: Engine) -> object:
    return engine.next_event()


ANSWERS = st.one_of(
    st.builds(lambda head, body: [respond(head, body), go_on], HEADS, DATA),
    st.builds(lambda head, parts: [start(head), *map(send, parts), end, go_on], HEADS, st.lists(DATA, max_size=3)),
    st.builds(
        lambda length, parts: [start(ResponseHead(200, [(b"content-length", b"%d" % length)])), *map(send, parts), end],
        st.integers(0, 11),
        st.lists(st.sampled_from([b"hello", b"x"]), max_size=3),
    ),
    st.sampled_from([[interim(100)], [interim(102)], [switch(SWITCH)], [end], [send(b"x")], [go_on]]),
    st.builds(
        lambda fields: [switch(fields)], st.lists(RESPONSE_FIELDS, max_size=3).map(lambda more: SWITCH[:1] + more)
    ),
    st.just([receive_event]),
)
PLAYS = st.lists(st.one_of(REQUESTS, ANSWERS), min_size=1, max_size=8)


def outcome(step: Step, engine: Engine) -> object:
    try:
        return step(engine)
    except RequestError as error:
        return RequestError, error.status, error.detail, dict(error.headers or {})
    except ResponseError as error:
        return ResponseError, str(error)


def is_refusal(result: object) -> bool:
    return isinstance(result, tuple) and result[:1] == (ResponseError,)


def situation(engine: Engine) -> tuple[object, ...]:
    return (
        engine.has_unparsed_bytes,
        engine.unparsed_bytes,
        engine.request_line,
        engine.request_complete,
        engine.client_awaits_continue,
        engine.closing_ends_response,
        engine.response_complete,
        engine.keeps_alive,
        engine.reusable,
        *(engine.content_allowed(status) for status in (200, 204, 304)),
    )


class Pair:
    """Two engines to which the same is done."""

    def __init__(self) -> None:
        self.engines = [name.maker()(LIMITS) for name in EngineName]

    def do(self, step: Step) -> object:
        """Do it to both; what came of it."""
        reference, *others = [(outcome(step, engine), situation(engine)) for engine in self.engines]
        for other in others:
            assert other == reference, step.__qualname__
        return reference[0]

    def receive(self, data: bytes) -> None:
        """As a connection does: until nothing more comes, or what comes is refused."""
        self.do(named(f"receive_data({data!r})", lambda engine: engine.receive_data(data)))
        while isinstance(self.do(receive_event), RequestHead | BodyPart | EndOfRequest):
            pass


@settings(max_examples=10 * settings.default.max_examples, deadline=None)
@given(play=PLAYS, pieces=st.integers(1, 40))
@example(
    play=[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        [start(ResponseHead(200, [(b"content-length", b"1")])), send(b"xy"), send(b"x"), end, go_on],
    ],
    pieces=40,
)
@example(
    play=[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        [start(ResponseHead(200, [(b"content-length", b"2")])), end, send(b"xy"), end, go_on],
    ],
    pieces=40,
)
@example(
    play=[
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        [respond(ResponseHead(200, []), b""), respond(ResponseHead(405, []), b"hello"), go_on],
    ],
    pieces=40,
)
@example(
    play=[
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nraw",
        [switch(SWITCH)],
        [send(b"x"), go_on],
    ],
    pieces=40,
)
def test_the_engines_agree_on_every_answer(play, pieces):
    pair = Pair()
    for act in play:
        if isinstance(act, bytes):
            for at in range(0, len(act), pieces):
                pair.receive(act[at : at + pieces])
        else:
            for step in act:
                result = pair.do(step)
                event(f"{step.__qualname__.partition('(')[0]}, refused: {is_refusal(result)}")


# The gate, held against both parsers


class Request(NamedTuple):
    """A request as somebody has read it."""

    method: bytes
    target: bytes
    http_version: bytes
    fields: list[tuple[bytes, bytes]]
    content: bytes
    trailers: list[tuple[bytes, bytes]]


BEHIND = b"x"
"""What stands behind a request, and is none of it."""


def through_gate(wire: bytes) -> Iterator[tuple[Request, bytes]]:
    """The requests that pass, and of each the bytes in which it came."""
    gate = Gate(LIMITS)
    gate.receive_data(wire)
    start = 0
    try:
        while isinstance(head := gate.next_event(), RequestHead):
            content = b""
            while isinstance(part := gate.next_event(), BodyPart):
                content += part.data
            if part is NEED_DATA:
                return
            stop = len(wire) - len(gate.unparsed_bytes)
            line = [text.encode() for text in head[:3]]
            yield Request(*line, list(head.fields), content, list(part.trailers)), wire[start:stop]
            start = stop
            gate.start_next_request()
    except RequestError:
        return


def read_by_h11(wire: bytes) -> Request:
    machine = h11.Connection(h11.SERVER)
    # h11 takes an empty line before a request for a request (RFC 9112 §2.2 wants it skipped).
    machine.receive_data(wire.lstrip(b"\r\n") + BEHIND)
    request, content = machine.next_event(), b""
    while isinstance(event := machine.next_event(), h11.Data):
        content += bytes(event.data)
    assert machine.trailing_data[0] == BEHIND
    return Request(
        request.method, request.target, request.http_version, list(request.headers), content, list(event.headers)
    )


def read_by_h11r(wire: bytes) -> Request:
    machine = h11r.Connection(h11r.Role.SERVER)
    machine.receive_data(wire + BEHIND)
    request, content = machine.next_event(), b""
    while isinstance(event := machine.next_event(), h11r.Data):
        content += event.data
    assert machine.trailing_data[0] == BEHIND
    fields, trailers = ([(name.lower(), value) for name, value in part] for part in (request.headers, event.trailers))
    return Request(request.method, request.target, request.http_version, fields, content, trailers)


def names_lowered(request: Request) -> Request:
    """Names of codings have no case, and h11 tells them in lower case."""
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in request.fields]
    return request._replace(fields=fields)


@pytest.mark.parametrize("read", [read_by_h11, read_by_h11r])
@settings(max_examples=10 * settings.default.max_examples, deadline=None)
@given(wire=st.lists(REQUESTS, min_size=1, max_size=3).map(b"".join))
@example(wire=b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nX:  y \r\n\r\n")
@example(wire=b"GET /\x7e HTTP/1.0\r\nX:\xff\t\x80 \r\nx:\r\n\r\n")
def test_what_passes_the_gate_is_read_alike_by_the_parsers_of_both_machines(read, wire):
    for request, raw in through_gate(wire):
        event(f"passed, content: {bool(request.content)}")
        assert names_lowered(read(raw)) == names_lowered(request)

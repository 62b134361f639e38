"""Strategies for Hypothesis: requests, how they are cut, what clients do, whole connections, and several at once.

They are composed of each other, and each takes what it is composed of as arguments: `connections(requests(["/x"]))`.
What they give is data (`Wire`, `Script`, `Handler` ...) whose repr is code. They shrink to few requests without
content, sent in one piece, by a client that stays and reads.

trio schedules the same way in each run under Hypothesis, so in memory and in virtual time what fails shrinks and can be
played again: by the script that the failure shows, or by `@reproduce_failure`, which Hypothesis prints with
`settings(print_blob=True)`.

    pip install 'trioserve[testing]'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import DrawFn, SearchStrategy
except ImportError as error:  # pragma: no cover - it is installed where the tests run
    raise ImportError("trioserve.testing.strategies needs Hypothesis: pip install 'trioserve[testing]'") from error

from trioserve.core.lifecycle import CANCEL, FINISH, Grace, HalfClose
from trioserve.core.limits import Deadlines
from trioserve.testing.handlers import Handler, Service
from trioserve.testing.leaving import Way
from trioserve.testing.scripts import Action, Leave, Pause, Script, Send, Stay, Visit
from trioserve.testing.wire import Wire, chunks_of

LARGEST_PIECE = 400
STAYS_FOR = 60.0
"""Seconds for which a client that stays waits for the server to end the connection."""

# Requests

_FIELDS = (
    b"Accept: */*",
    b"Cookie: a=1; b=2",
    b"X-Empty:",
    b"x-latin: \xe9",
    b"Accept-Encoding: gzip, br",
    b"Content-Type: text/plain",
)


@st.composite
def requests(
    draw: DrawFn,
    targets: Sequence[str] = ("/",),
    *,
    methods: Sequence[str] = ("GET", "POST", "HEAD"),
    content: SearchStrategy[bytes] | None = None,
    versions: Sequence[str] = ("1.1", "1.1", "1.1", "1.0"),
) -> Wire:
    """Requests that every server has to serve.

    Args:
        targets, methods, versions: of which to draw.
        content: of those with POST; by default up to 512 bytes. Some come in chunks.
    """
    method, version = draw(st.sampled_from(methods)), draw(st.sampled_from(versions))
    target = draw(st.sampled_from(targets))
    fields = [b"Host: test", *draw(st.lists(st.sampled_from([each for each in _FIELDS if each.isascii()]), max_size=2))]
    body = b""
    if method == "POST":
        body = draw(_content() if content is None else content)
        if version == "1.1" and draw(st.booleans()):
            size = draw(st.sampled_from([len(body) or 1, 64, 1]))
            body = chunks_of(body[at : at + size] for at in range(0, len(body), size))
            fields.append(b"Transfer-Encoding: chunked")
        else:
            fields.append(b"Content-Length: %d" % len(body))
    if draw(st.integers(0, 9)) == 9:
        fields.append(b"Connection: close")
    elif version == "1.0" and draw(st.booleans()):
        fields.append(b"Connection: keep-alive")
    return _wire(f"{method} {target} HTTP/{version}".encode("ascii"), fields, body, method, target)


def _content() -> SearchStrategy[bytes]:
    return st.builds(lambda size: (b"0123456789abcdef" * 32)[:size], st.sampled_from([0, 5, 100, 512]))


def _wire(line: bytes, fields: Sequence[bytes], body: bytes, method: str, target: str) -> Wire:
    return Wire(b"\r\n".join([line, *fields, b"", b""]), body, method, target)


Spoil = Callable[[Wire], Wire]


def _line(old: bytes, new: bytes) -> Spoil:
    return lambda wire: wire._replace(head=wire.head.replace(old, new, 1))


def _field(field: bytes) -> Spoil:
    return lambda wire: wire._replace(head=wire.head[:-2] + field + b"\r\n\r\n")


MISTAKES: dict[str, Spoil] = {
    "a version that does not exist": _line(b" HTTP/1.", b" HTTP/9."),
    "no version": _line(b" HTTP/1.1", b""),
    "two spaces in the request line": _line(b" ", b"  "),
    "a method in lower case": lambda wire: wire._replace(head=wire.head[:1].lower() + wire.head[1:]),
    "a method of a character that no method has": lambda wire: wire._replace(head=b"(" + wire.head),
    "a fragment in the target": _line(b" HTTP/", b"#x HTTP/"),
    "a raw byte in the target": _line(b" HTTP/", b"\xff HTTP/"),
    "no slash before the target": _line(b" /", b" "),
    "no Host": _line(b"Host: test\r\n", b""),
    "two Hosts": _field(b"Host: other"),
    "a Host that is none": _line(b"Host: test", b"Host: te st"),
    "a space before the colon": _line(b"Host:", b"Host :"),
    "a line that is folded": _field(b"X: a\r\n b"),
    "a bare LF": _line(b"\r\n", b"\n"),
    "a bare CR": _field(b"X: a\rb"),
    "a NUL": _field(b"X: a\0b"),
    "a field without a name": _field(b": x"),
    "a field without a colon": _field(b"X"),
    "Content-Length beside chunks": lambda wire: _field(b"Content-Length: 4")(
        _field(b"Transfer-Encoding: chunked")(wire)
    ),
    "a Content-Length that is no number": _field(b"Content-Length: +5"),
    "two Content-Lengths": lambda wire: _field(b"Content-Length: 5")(_field(b"Content-Length: 6")(wire)),
    "a coding that nobody knows": _field(b"Transfer-Encoding: tea"),
    "an expectation that nobody knows": _field(b"Expect: tea"),
    "a field line that is too long": _field(b"X: " + b"x" * 9000),
    "chunks that are none": lambda wire: _field(b"Transfer-Encoding: chunked")(wire)._replace(body=b"zz\r\n"),
    "an empty line before it": lambda wire: wire._replace(head=b"\r\n" + wire.head),
    "bytes behind it": lambda wire: wire._replace(body=wire.body + b"\0"),
}
"""What almost valid requests have wrong, by what it is. Some of it a server may put up with."""


def almost_valid_requests(right: SearchStrategy[Wire] | None = None) -> SearchStrategy[Wire]:
    """Requests with one mistake each (see `MISTAKES`).

    Args:
        right: requests to spoil.
    """
    right = requests() if right is None else right
    return st.builds(lambda wire, mistake: MISTAKES[mistake](wire), right, st.sampled_from(list(MISTAKES)))


# Clients


def splits(*, largest: int = LARGEST_PIECE, most: int = 6) -> SearchStrategy[tuple[int, ...]]:
    """Sizes of pieces, over and over; () is one piece. As `Send(pieces=...)` and `Peer.send(pieces=...)` take them."""
    return st.lists(st.integers(1, largest), max_size=most).map(tuple)


@st.composite
def behaviours(
    draw: DrawFn,
    size: int,
    *,
    ways: Sequence[Way] = tuple(Way),
    pieces: SearchStrategy[tuple[int, ...]] | None = None,
    pauses: Sequence[float] = (0.0, 0.0, 0.01, 0.3),
    stays: Sequence[float] = (0.0, 0.0, 0.1, 0.6, 2.0),
) -> tuple[Action, ...]:
    """What a client does that has so many bytes to send: it sends all of them or not, and leaves in some way, or stays.

    Args:
        ways: of which to draw; none for clients that stay.
        pieces: see `splits`.
        pauses: seconds between two pieces; stays: seconds between the last and the departure.
    """
    way = draw(st.sampled_from([None, *ways]))
    count = draw(st.none() | st.integers(0, size)) if way is not None else None
    sizes = draw(splits() if pieces is None else pieces)
    waits = draw(st.lists(st.sampled_from(pauses), max_size=6).map(tuple)) if sizes else ()
    actions: list[Action] = [Send(count, sizes, waits if any(waits) else ())]
    if way is None:
        return (*actions, Stay(STAYS_FOR))
    if pause := draw(st.sampled_from(stays)):
        actions.append(Pause(pause))
    actions.append(Leave(way))
    if way is Way.HALF_CLOSE:
        actions.append(Stay(STAYS_FOR))
        if draw(st.booleans()):
            # It does not wait for all of it.
            actions[-1:] = [Pause(draw(st.sampled_from(stays)))]
    return tuple(actions)


@st.composite
def connections(
    draw: DrawFn,
    request: SearchStrategy[Wire] | None = None,
    *,
    most: int = 4,
    behaviour: Callable[[int], SearchStrategy[tuple[Action, ...]]] = behaviours,
    reads: SearchStrategy[bool] | None = None,
) -> Script:
    """Whole connections: requests one behind the other, pipelined or not, and what the client does.

    Args:
        request: each of them; by default `requests()`.
        most: how many there are at the most.
        behaviour: a strategy of actions for so many bytes: `behaviours`.
        reads: whether the client takes what comes.
    """
    wires = tuple(draw(st.lists(requests() if request is None else request, min_size=1, max_size=most)))
    size = sum(len(wire.head) + len(wire.body) for wire in wires)
    reads = st.sampled_from([True, False]) if reads is None else reads
    return Script(wires, draw(behaviour(size)), draw(reads))


def crowds(
    script: SearchStrategy[Script] | None = None, *, most: int = 4, comes_at: Sequence[float] = (0.0, 0.0, 0.01, 0.7)
) -> SearchStrategy[tuple[Visit, ...]]:
    """Several connections at once, interleaved.

    Args:
        script: what each of them does; by default `connections()`.
        comes_at: seconds from the beginning, of which to draw.
    """
    visit = st.builds(Visit, connections() if script is None else script, st.sampled_from(comes_at))
    return st.lists(visit, min_size=1, max_size=most).map(tuple)


# The server's side


@st.composite
def handlers(draw: DrawFn) -> Handler:
    """Handlers of all kinds: quick and slow, that read and that do not, that stream, fail, and tidy up."""
    kind = draw(st.sampled_from(["answers", "echoes", "streams", "fails", "drops"]))
    common: dict[str, Any] = {
        "reads": draw(st.sampled_from([True, False])),
        "waits": draw(st.sampled_from([0.0, 0.2, 1.0, 5.0])),
        "tidies": draw(st.sampled_from([0.0, 0.0, 0.3])),
    }
    match kind:
        case "answers":
            content, status = draw(st.sampled_from([0, 5, 300_000])), draw(st.sampled_from([200, 201, 404, 409]))
            return Handler(**common, content=content, status=status)
        case "echoes":
            return Handler(**common | {"reads": True}, echoes=True)
        case "streams":
            parts, pause = draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.2]))
            size = draw(st.sampled_from([4, 1000, 100_000]))
            return Handler(
                **common, parts=parts, pause=pause, content=size, fails=draw(st.sampled_from([False, False, True]))
            )
        case "fails":
            return Handler(**common, fails=True)
        case _:
            return Handler(**common, drops=True)


def deadlines() -> SearchStrategy[Deadlines]:
    """Deadlines that can pass: some for which a client must be patient, some that come before it is."""
    return st.builds(
        Deadlines,
        head=st.sampled_from([10.0, 1.0]),
        idle=st.sampled_from([15.0, 0.5]),
        body_stall=st.sampled_from([10.0, 1.0]),
        send_stall=st.sampled_from([10.0, 2.0]),
        vanish=st.sampled_from([20.0, 3.0]),
    )


def services(
    targets: Sequence[str] = ("/",),
    handler: SearchStrategy[Handler] | None = None,
    deadline: SearchStrategy[Deadlines] | None = None,
) -> SearchStrategy[Service]:
    """Servers' sides: a handler for each target, all policies, short deadlines.

    Args:
        handler: by default `handlers()`; deadline: by default `deadlines()`.
    """
    return st.builds(
        Service,
        handlers=st.fixed_dictionaries(dict.fromkeys(targets, handlers() if handler is None else handler)),
        disconnect=st.sampled_from([CANCEL, FINISH, Grace(0.5)]),
        half_close=st.sampled_from(HalfClose),
        deadlines=deadlines() if deadline is None else deadline,
        room=st.sampled_from([131_072, 8_000]),
    )

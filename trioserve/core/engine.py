"""The engine: the sans-IO HTTP/1.1 machine. Bytes in, events out; response parts in, bytes out.

`Engine` is the seam, and nothing outside knows which engine runs. There are two, `core.engine_h11` and
`core.engine_h11r`, each named for the library that is its machine and the only file that imports it. One engine serves
one connection, exchange after exchange.

Rules of use, which keep its buffer bounded: feed `receive_data` only when `next_event` said NEED_DATA while the request
was not complete. EOF is not fed to the engine at all: whether an EOF is a departure is the lifecycle's judgement.

What does not depend on the machine is done once for both, in `GatedEngine`, which is a gate with a machine. As a gate
it reads heads and content, and refuses what we do not serve. What a handler may say in the head of its response is
judged in `core.response_head`, and whether protocols can be switched in `core.switching`. What the machine is for is
the framing of the response, its state, and what becomes of the connection. It is told of the request when it is asked
for one of these first, as of a request without content; and of request and response it sees what its answer depends on,
and no more.

What it makes of a response that is whole, with content of a known length that is as long as it says, depends on so
little that a machine is asked once, and what it said is remembered: how the head ends, and whether the connection goes
on (`_whole`). Everything else, a stream, an interim response, a switch of protocols, goes through the connection's own.

So the engines differ in nothing but speed, and tests hold them to it. Whatever a machine refuses by itself has been
refused here before it is touched, but for content that is longer or shorter than its Content-Length says.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from trioserve.core.errors import ConfigError, ResponseError
from trioserve.core.gate import Gate
from trioserve.core.limits import Limits
from trioserve.core.messages import (
    Content,
    Field,
    RequestEvent,
    RequestLine,
    ResponseHead,
    Waiting,
    Wire,
)
from trioserve.core.response_head import STATUS_LINES, Judged, field_lines, judged
from trioserve.core.switching import check_switch


class Engine(Protocol):
    """One connection's HTTP/1.1 state, both directions."""

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the peer. Not empty: an EOF is not told to the engine."""
        ...

    def next_event(self) -> RequestEvent | Waiting:
        """The next event of the current request, or NEED_DATA. Its end comes as an event, but only if it is asked for.

        Raises:
            RequestError: the peer's bytes are not a request that we serve. Nothing more can be received.
        """
        ...

    @property
    def has_unparsed_bytes(self) -> bool:
        """True if bytes have been received that no event has consumed: part of a head, or pipelined bytes. Empty lines
        before a head begin nothing and do not count.
        """
        ...

    @property
    def unparsed_bytes(self) -> bytes:
        """The bytes that have been received and that no event has consumed."""
        ...

    @property
    def request_line(self) -> RequestLine | None:
        """The request line of a head that is not complete or was refused; None if there is no such head, or its request
        line is not all there or was refused itself. It depends on the bytes received, and not on how they were cut.
        """
        ...

    @property
    def request_complete(self) -> bool:
        """True if the request of the current exchange has been received to its end, be that told or not: with its head,
        or with the last part of its content, if there is no more of it.
        """
        ...

    @property
    def client_awaits_continue(self) -> bool:
        """True if the client holds its content back until it hears 100 Continue (RFC 9110 §10.1.1)."""
        ...

    def interim(self, status: int) -> bytes:
        """An interim (1xx) response."""
        ...

    def content_allowed(self, status: int) -> bool:
        """False where a response has no content: to HEAD, and with 204, 205 or 304 (RFC 9110 §6.4.1 and §15.3.6)."""
        ...

    def switch_protocols(self, fields: Sequence[Field]) -> bytes:
        """101 Switching Protocols (RFC 9110 §15.2.2). From now on the engine has no part in what is sent and received;
        what it has received already is in `unparsed_bytes`. The connection is not reusable.

        Raises:
            ResponseError: the client has not asked for it, its request is not complete, or the fields are malformed or
                do not say what was asked for. A response can be sent instead.
        """
        ...

    def respond(self, head: ResponseHead, body: Content) -> Wire:
        """A whole response, framed by its Content-Length if it has one. `body` is not sent where HTTP forbids it.

        Raises:
            ResponseError: the head is malformed, or the body is not as long as its Content-Length says. Another
                response can be sent instead.
        """
        ...

    def start_response(self, head: ResponseHead) -> bytes:
        """The head of a streamed response: chunked, or closed by the connection's end for a 1.0 client, unless it has
        a Content-Length.

        Raises:
            ResponseError: the head is malformed. Another response can be sent instead.
        """
        ...

    def send_part(self, data: Content) -> Wire:
        """A part of a streamed response's content.

        Raises:
            ResponseError: more content than the Content-Length says.
        """
        ...

    def end_response(self) -> bytes:
        """The end of a streamed response.

        Raises:
            ResponseError: less content than the Content-Length says.
        """
        ...

    @property
    def closing_ends_response(self) -> bool:
        """True if the response in progress has no other end than the connection's (RFC 9112 §6.3, rule 8)."""
        ...

    @property
    def response_complete(self) -> bool:
        """True if the response of the current exchange has been given to its end."""
        ...

    @property
    def keeps_alive(self) -> bool:
        """True if the response is complete and neither side asked to close: all depends on the request's end."""
        ...

    @property
    def reusable(self) -> bool:
        """True if both request and response are complete and neither side asked to close."""
        ...

    def start_next_exchange(self) -> None:
        """Prepare for the next request. Only when `reusable`."""
        ...


NO_CONTENT: Final = frozenset({204, 205, 304})
"""Final status codes whose responses never have content."""

_WITHOUT_FRAMING: Final = frozenset({204, 304})
_CHUNKED: Final = (b"Transfer-Encoding", b"chunked")
_CLOSE: Final = (b"Connection", b"close")
_MAX_REMEMBERED_SIZE: Final = 256
_ADVICE: Final = "leave Content-Length out, or send just as much"

# What a machine finds wrong with a handler's response, in words for its author.
TOO_LONG: Final = f"the response is longer than its Content-Length says; {_ADVICE}"
TOO_SHORT: Final = f"the response is shorter than its Content-Length says; {_ADVICE}"
NOT_IN_PROGRESS: Final = "there is no response in progress: start one first, and send nothing after its end"


class EngineName(StrEnum):
    """Which engine runs. They behave the same; see `docs/decisions/0022-a-second-engine.md`."""

    H11 = "h11"  # pure Python, and the reference
    H11R = "h11r"  # in Rust, and much faster where responses are streams; the extra `fast` installs it

    @classmethod
    def of(cls, name: str) -> EngineName:
        """The engine of that name.

        Raises:
            ConfigError: there is none, or what it needs is not installed.
        """
        try:
            engine = cls(name)
        except ValueError:
            raise ConfigError(f"engine={name!r}; use one of {', '.join(cls)}") from None
        engine.maker()
        return engine

    def maker(self) -> Callable[[Limits], Engine]:
        """What makes an engine for a connection.

        Raises:
            ConfigError: what it needs is not installed.
        """
        if self is EngineName.H11:
            from trioserve.core.engine_h11 import H11Engine

            return H11Engine
        try:
            from trioserve.core.engine_h11r import H11rEngine
        except ModuleNotFoundError as error:
            if error.name != "h11r":
                raise
            raise ConfigError("the engine h11r is not installed: pip install 'trioserve[fast]'") from None
        return H11rEngine


class Machine(Protocol):
    """What h11 and h11r call alike of a connection."""

    def receive_data(self, data: bytes) -> None: ...

    def next_event(self) -> object: ...

    def start_next_cycle(self) -> None: ...


class GatedEngine(Gate, ABC):
    """All of an `Engine` but its machine, which whoever fills in the abstract methods makes and asks.

    A machine that has refused something sends nothing more: `response_complete` and `keeps_alive` stay false.
    """

    __slots__ = ("_is_told", "_machine", "_whole", "closing_ends_response")

    _machine: Machine

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        # The machine knows of the current request. It does not, if this was answered by what is remembered.
        self._is_told = False
        self._whole: _Whole | None = None
        self.closing_ends_response = False

    # The machine

    @property
    @abstractmethod
    def _machine_awaits(self) -> bool:
        """True until a final response has begun."""

    @property
    @abstractmethod
    def _machine_is_done(self) -> bool:
        """True if a final response has come to its end."""

    @property
    @abstractmethod
    def _machine_keeps_alive(self) -> bool:
        """True if it is done and the connection can go on."""

    @abstractmethod
    def _send_interim(self, status: int, fields: Sequence[Field]) -> bytes:
        """An interim response. With 101 the protocol is switched."""

    @abstractmethod
    def _send_head(self, status: int, fields: Sequence[Field]) -> bytes:
        """The head of a final response, which begins with its status line and what of its framing is among `fields`.
        Without Content-Length and Transfer-Encoding it ends with its head or with the connection.
        """

    @abstractmethod
    def _send_data(self, data: Content) -> tuple[bytes, bytes]:
        """What stands before and behind a part of the content.

        Raises:
            ResponseError: it is more than the Content-Length says, or no response is in progress.
        """

    @abstractmethod
    def _send_end(self) -> bytes:
        """The end of the content.

        Raises:
            ResponseError: it is less than the Content-Length says, or no response is in progress.
        """

    def _make_known(self) -> None:
        """See that it knows of the current request, as of one without content."""
        if not self._is_told:
            machine = self._machine
            machine.receive_data(self.head_for_machine)
            machine.next_event()
            machine.next_event()  # its end
            self._is_told = True

    # The request

    @property
    def client_awaits_continue(self) -> bool:
        return self.awaits_continue and self._awaits_response

    # The response. What can be refused is refused before the machine is touched: once it has refused something itself,
    # it sends nothing more, not even a 500.

    def interim(self, status: int) -> bytes:
        if self.head is None or not self._awaits_response:
            raise ResponseError(f"{status} comes too early or too late: there is no request that awaits its response")
        assert 100 <= status < 200, "an interim response is one of 1xx"
        assert status != 101, "that is `switch_protocols`"
        self._make_known()
        wire = self._send_interim(status, ())
        self.continue_said()
        return wire

    def switch_protocols(self, fields: Sequence[Field]) -> bytes:
        if self.head is None or not self.request_complete or not self._awaits_response:
            raise ResponseError("101 comes too early or too late: the request is not complete, or was answered")
        field_lines(fields)
        check_switch(self.head, fields)
        self._make_known()
        return self._send_interim(101, fields)

    def content_allowed(self, status: int) -> bool:
        return status not in NO_CONTENT and self.method != "HEAD"

    def respond(self, head: ResponseHead, body: Content) -> Wire:
        status = head.status
        lines, length, closes = good = judged(head)
        content = body if body and self.content_allowed(status) else b""
        if length is not None and length != b"%d" % len(content) and self.content_allowed(status):
            raise ResponseError(f"Content-Length says {length.decode()}, but the body has {len(body)} bytes; {_ADVICE}")
        if self._is_told or (length is None and status not in _WITHOUT_FRAMING):
            return self._respond_in_parts(status, good, content)
        self._check_begin(status)
        known = self.head_for_machine
        # Of a longer head, the same function without its memory.
        whole_of = _whole if len(known) <= _MAX_REMEMBERED_SIZE else _whole.__wrapped__
        self._whole = whole = whole_of(type(self), known, status, closes)
        return Wire(STATUS_LINES[status] + lines + whole.added, content, b"")

    def _respond_in_parts(self, status: int, head: Judged, content: Content) -> Wire:
        start = self._begin(status, head)
        if not content:
            return Wire(start + self._send_end(), b"", b"")
        before, behind = self._send_data(content)
        return Wire(start + before, content, behind + self._send_end())

    def start_response(self, head: ResponseHead) -> bytes:
        return self._begin(head.status, judged(head))

    def _begin(self, status: int, head: Judged) -> bytes:
        """The head of a response: the handler's fields, and behind them what the machine has added."""
        version = self._check_begin(status)
        framing = None
        if head.length is not None:
            framing = b"content-length", head.length
        elif version == "1.1" and status not in _WITHOUT_FRAMING:
            framing = _CHUNKED
        added = self._added(status, framing, closes=head.closes)
        self.closing_ends_response = version == "1.0" and head.length is None and self.content_allowed(status)
        return STATUS_LINES[status] + head.lines + added

    def _check_begin(self, status: int) -> str:
        """See that a response with this status code can begin now. The version of the request that it answers."""
        if not self._awaits_response:
            raise ResponseError("a response was begun already; a request has exactly one")
        if self.method == "CONNECT" and status < 300:
            raise ResponseError(f"{status} to CONNECT would open a tunnel (RFC 9110 §9.3.6); this server has none")
        if self.head is not None:
            return self.head.http_version
        # Its head was refused, or is answered before it is all there, since it is too slow or the server stops. No more
        # of it is taken; the answer depends on whether it may have content, and is the connection's last.
        self.refuse(400, "the request was answered before its head was complete")
        self.head_for_machine = b"%b / HTTP/1.0\r\n\r\n" % (b"HEAD" if self.method == "HEAD" else b"GET")
        return "1.0"

    def _added(self, status: int, framing: Field | None, *, closes: bool) -> bytes:
        """Begin a final response; what the machine adds behind the fields that it was given, but for a length."""
        said = STATUS_LINES[status]
        fields: list[Field] = []
        if framing is not None:
            fields.append(framing)
            if framing is not _CHUNKED:
                said += b"%b: %b\r\n" % framing
        # What a client sends behind CONNECT, trusting in its tunnel, is not to be taken for requests.
        if closes or self.head_for_machine.startswith(b"CONNECT"):
            fields.append(_CLOSE)
        self._make_known()
        written = self._send_head(status, fields)
        assert written.startswith(said), "a machine adds its own behind what it was given"
        return written[len(said) :]

    def whole_to(self, head: bytes, status: int, *, closes: bool) -> _Whole:
        """What a machine that knows of nothing makes of a whole response, to a request with this head."""
        self.head_for_machine = head
        # No content is as good as any that is as long as its length says.
        framing = None if status in _WITHOUT_FRAMING else (b"content-length", b"0")
        added = self._added(status, framing, closes=closes) + self._send_end()
        return _Whole(added, self._machine_keeps_alive)

    def send_part(self, data: Content) -> Wire:
        if not self._is_told:
            raise ResponseError(NOT_IN_PROGRESS)
        before, behind = self._send_data(data)
        return Wire(before, data, behind)

    def end_response(self) -> bytes:
        if not self._is_told:
            raise ResponseError(NOT_IN_PROGRESS)
        return self._send_end()

    # What becomes of both

    @property
    def _awaits_response(self) -> bool:
        return self._whole is None and self._machine_awaits

    @property
    def response_complete(self) -> bool:
        return self._whole is not None or self._machine_is_done

    @property
    def keeps_alive(self) -> bool:
        return self._machine_keeps_alive if self._whole is None else self._whole.keeps_alive

    @property
    def reusable(self) -> bool:
        return self.request_complete and self.keeps_alive

    def start_next_exchange(self) -> None:
        if self._is_told:
            self._machine.start_next_cycle()
            self._is_told = False
        self._whole = None
        self.start_next_request()


class _Whole(NamedTuple):
    """What a machine makes of a whole response: what it adds to the head, and whether the connection goes on."""

    added: bytes
    keeps_alive: bool


@functools.lru_cache(512)  # its bytes are bounded (tests/core/test_kept.py), and no secret is in such a head
def _whole(engine: Callable[[Limits], GatedEngine], head: bytes, status: int, closes: bool) -> _Whole:  # noqa: FBT001
    """What the machine of such an engine makes of a response that is whole, to a request with this head."""
    return engine(Limits()).whole_to(head, status, closes=closes)

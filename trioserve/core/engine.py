"""The engine: the sans-IO HTTP/1.1 machine. Bytes in, events out; response parts in, bytes out.

`Engine` is the seam, and nothing outside knows which engine runs. There are two, `core.engine_h11` and
`core.engine_h11r`, each named for the library that is its machine and the only file that imports it. One engine serves
one connection, exchange after exchange.

Rules of use, which keep its buffer bounded: feed `receive_data` only when `next_event` said NEED_DATA while the request
was not complete. EOF is not fed to the engine at all: whether an EOF is a departure is the lifecycle's judgement.

What does not depend on the machine is done once for both, in `GatedEngine`. The request side is the gate's: it reads
heads and content, and refuses what we do not serve. The machine is told of each head that has passed, as of a request
without content. What a handler may say in the head of its response is judged in `core.response_head`, and whether
protocols can be switched in `core.switching`. What the machine is for is the framing of the response, its state, and
what becomes of the connection; and of a response it sees what these depend on, and no more.

So the engines differ in nothing but speed, and tests hold them to it. Whatever a machine refuses by itself has been
refused here before it is touched, but for content that is longer or shorter than its Content-Length says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, Protocol

from trioserve.core.errors import ConfigError, RequestError, ResponseError
from trioserve.core.gate import Gate
from trioserve.core.limits import Limits
from trioserve.core.messages import (
    Content,
    Field,
    RequestEvent,
    RequestHead,
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
        """The next event of the current request, or NEED_DATA.

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
        """True if the request of the current exchange has been received to its end."""
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
_ADVICE: Final = "leave Content-Length out, or send just as much"

# What is said of a head that has passed the gate and that a machine does not read all the same, which should not be.
UNREADABLE: Final = "the head of the request cannot be read (RFC 9112 §2.2)"

# What a machine finds wrong with a handler's response, in words for its author.
TOO_LONG: Final = f"the response is longer than its Content-Length says; {_ADVICE}"
TOO_SHORT: Final = f"the response is shorter than its Content-Length says; {_ADVICE}"
NOT_IN_PROGRESS: Final = "there is no response in progress: start one first, and send nothing after its end"


class EngineName(StrEnum):
    """Which engine runs. They behave the same; see `docs/decisions/0022-a-second-engine.md`."""

    H11 = "h11"  # pure Python, and the reference
    H11R = "h11r"  # in Rust, and much faster; the extra `fast` installs it

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


class GatedEngine(ABC):
    """All of an `Engine` but its machine, of which it asks what the abstract methods say.

    A machine that has refused something sends nothing more: `response_complete` and `keeps_alive` stay false.
    """

    __slots__ = ("_closing_ends_response", "_gate", "_refusal", "_told")

    def __init__(self, limits: Limits) -> None:
        self._gate = Gate(limits)
        # The current request as far as the machine knows it; None until it was told.
        self._told: RequestHead | None = None
        # Status code and detail with which the peer's bytes were refused.
        self._refusal: tuple[int, str] | None = None
        self._closing_ends_response = False

    # The machine

    @abstractmethod
    def _tell(self, head: bytes) -> None:
        """Tell it of a request that has this head and no content.

        Raises:
            RequestError: it reads no request there. The gate is stricter, so this should not be.
        """

    @abstractmethod
    def _renew(self) -> None:
        """Take a new one, that knows of nothing."""

    @property
    @abstractmethod
    def _awaits_response(self) -> bool:
        """True until a final response has begun."""

    @property
    @abstractmethod
    def response_complete(self) -> bool: ...

    @property
    @abstractmethod
    def keeps_alive(self) -> bool: ...

    @abstractmethod
    def _interim(self, status: int, fields: Sequence[Field]) -> bytes:
        """An interim response. With 101 the protocol is switched."""

    @abstractmethod
    def _head(self, status: int, fields: Sequence[Field]) -> bytes:
        """The head of a final response, which begins with its status line and what of its framing is among `fields`.
        Without Content-Length and Transfer-Encoding it ends with its head or with the connection.
        """

    @abstractmethod
    def _framed(self, data: Content) -> tuple[bytes, bytes]:
        """What stands before and behind a part of the content.

        Raises:
            ResponseError: it is more than the Content-Length says, or no response is in progress.
        """

    @abstractmethod
    def _end(self) -> bytes:
        """The end of the content.

        Raises:
            ResponseError: it is less than the Content-Length says, or no response is in progress.
        """

    @abstractmethod
    def _start_next(self) -> None:
        """Prepare for the next request."""

    # The request

    def receive_data(self, data: bytes) -> None:
        self._gate.receive_data(data)

    def next_event(self) -> RequestEvent | Waiting:
        if self._refusal is not None:
            raise RequestError(*self._refusal)
        try:
            event = self._gate.next_event()
            if type(event) is RequestHead:
                self._tell(self._gate.head_for_machine)
                self._told = event
            return event
        except RequestError as error:
            self._refusal = error.status, error.detail
            if self._told is None:
                self._tell_of_refused()
            raise

    def _tell_of_refused(self) -> None:
        """Tell the machine of a request whose head it was spared, as far as the answer depends on it: whether that may
        have content, and that it is the connection's last.
        """
        method = "HEAD" if self._gate.method == "HEAD" else "GET"
        self._renew()
        self._tell(method.encode() + b" / HTTP/1.0\r\n\r\n")
        self._told = RequestHead(method, "/", "1.0", (), 0)

    @property
    def has_unparsed_bytes(self) -> bool:
        return self._gate.holds

    @property
    def unparsed_bytes(self) -> bytes:
        return self._gate.held

    @property
    def request_line(self) -> RequestLine | None:
        return self._gate.request_line

    @property
    def request_complete(self) -> bool:
        return self._refusal is None and self._gate.complete

    @property
    def client_awaits_continue(self) -> bool:
        return self._gate.awaits_continue and self._awaits_response

    # The response. What can be refused is refused before the machine is touched: once it has refused something itself,
    # it sends nothing more, not even a 500.

    def interim(self, status: int) -> bytes:
        if self._told is None or not self._awaits_response:
            raise ResponseError(f"{status} comes too early or too late: there is no request that awaits its response")
        assert 100 <= status < 200, "an interim response is one of 1xx"
        assert status != 101, "that is `switch_protocols`"
        wire = self._interim(status, ())
        self._gate.continue_said()
        return wire

    def switch_protocols(self, fields: Sequence[Field]) -> bytes:
        if self._told is None or not self.request_complete or not self._awaits_response:
            raise ResponseError("101 comes too early or too late: the request is not complete, or was answered")
        field_lines(fields)
        check_switch(self._told, fields)
        return self._interim(101, fields)

    def content_allowed(self, status: int) -> bool:
        return status not in NO_CONTENT and (self._told is None or self._told.method != "HEAD")

    def respond(self, head: ResponseHead, body: Content) -> Wire:
        status, good = head.status, judged(head)
        if good.length is not None and good.length != b"%d" % len(body) and self.content_allowed(status):
            length = good.length.decode()
            raise ResponseError(f"Content-Length says {length}, but the body has {len(body)} bytes; {_ADVICE}")
        start = self._begin(status, good)
        if not body or not self.content_allowed(status):
            return Wire(start + self._end(), b"", b"")
        before, behind = self._framed(body)
        return Wire(start + before, body, behind + self._end())

    def start_response(self, head: ResponseHead) -> bytes:
        return self._begin(head.status, judged(head))

    def _begin(self, status: int, head: Judged) -> bytes:
        """The head of a response: the handler's fields, and behind them what the machine has added."""
        if not self._awaits_response:
            raise ResponseError("a response was begun already; a request has exactly one")
        if self._told is None:
            # Answered before its head is all there, since it is too slow or the server stops. No more of it is taken.
            self._refusal = 400, "the request was answered before its head was complete"
            self._tell_of_refused()
        assert self._told is not None
        method, _, version, *_ = self._told
        if method == "CONNECT" and status < 300:
            raise ResponseError(f"{status} to CONNECT would open a tunnel (RFC 9110 §9.3.6); this server has none")
        said = STATUS_LINES[status]
        fields: list[Field] = []
        if head.length is not None:
            said += b"content-length: " + head.length + b"\r\n"
            fields.append((b"content-length", head.length))
        elif version == "1.1" and status not in _WITHOUT_FRAMING:
            fields.append(_CHUNKED)
        # What a client sends behind CONNECT, trusting in its tunnel, is not to be taken for requests.
        if head.closes or method == "CONNECT":
            fields.append(_CLOSE)
        written = self._head(status, fields)
        assert written.startswith(said), "a machine adds its own behind what it was given"
        self._closing_ends_response = version == "1.0" and head.length is None and self.content_allowed(status)
        return STATUS_LINES[status] + head.lines + written[len(said) :]

    def send_part(self, data: Content) -> Wire:
        if self._told is None:
            raise ResponseError(NOT_IN_PROGRESS)
        before, behind = self._framed(data)
        return Wire(before, data, behind)

    def end_response(self) -> bytes:
        if self._told is None:
            raise ResponseError(NOT_IN_PROGRESS)
        return self._end()

    @property
    def closing_ends_response(self) -> bool:
        return self._closing_ends_response

    @property
    def reusable(self) -> bool:
        return self._refusal is None and self._gate.complete and self.keeps_alive

    def start_next_exchange(self) -> None:
        self._start_next()
        self._told = None
        self._gate.start_next_request()

"""The engine: the sans-IO HTTP/1.1 machine. Bytes in, events out; response parts in, bytes out.

`Engine` is the seam; `H11Engine` is the default and the reference, and this is the only file that imports h11.
Nothing outside knows which engine runs. One engine serves one connection, exchange after exchange.

Rules of use, which keep its buffer bounded: feed `receive_data` only when `next_event` said NEED_DATA while the request
was not complete. EOF is not fed to the engine at all: whether an EOF is a departure is the lifecycle's judgement, and
h11 does not reveal an EOF that stands behind pipelined bytes.

h11 is lenient where a strict origin server should not be. What is added here: the limits on target (414), head, trailer
section and number of fields (431), also when everything arrives in one segment; only the versions 1.0 and 1.1 (505);
framing that could be read in two ways (Transfer-Encoding beside Content-Length, or from a 1.0 client) is refused with
400; and so is a target or a Host that does not say clearly for whom the request is (`core.target`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from http import HTTPStatus
from typing import Final, Protocol

import h11

from trioserve.core.errors import RequestError, ResponseError
from trioserve.core.limits import Limits
from trioserve.core.messages import BodyPart, Content, EndOfRequest, Field, RequestHead, ResponseHead, Wire
from trioserve.core.target import authority_of


class Waiting(Enum):
    """What `next_event` returns when there is no event."""

    NEED_DATA = auto()


NEED_DATA: Final = Waiting.NEED_DATA
RequestEvent = RequestHead | BodyPart | EndOfRequest


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
        """True if bytes have been received that no event has consumed: part of a head, or pipelined bytes."""
        ...

    @property
    def unparsed_bytes(self) -> bytes:
        """The bytes that have been received and that no event has consumed."""
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
            ResponseError: the client has not asked for it, its request is not complete, or the fields are malformed.
                A response can be sent instead.
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

_VERSIONS = (b"1.1", b"1.0")
_REASONS: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_END_OF_MESSAGE = h11.EndOfMessage()


class H11Engine:
    """`Engine` on h11."""

    __slots__ = ("_closing_ends_response", "_fed", "_h11", "_limits", "_method", "_refusal")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # h11's own limit catches a head that never ends, long before we hold all of it.
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=int(min(limits.head, 2**31)))
        # Bytes fed since the current head was awaited: an upper bound for its size that costs nothing.
        self._fed = 0
        # The current request's method; None until its head is there.
        self._method: str | None = None
        # Status code and detail with which the peer's bytes were refused. h11 would go on after a refusal of ours.
        self._refusal: tuple[int, str] | None = None
        self._closing_ends_response = False

    def receive_data(self, data: bytes) -> None:
        self._fed += len(data)
        self._h11.receive_data(data)

    def next_event(self) -> RequestEvent | Waiting:
        if self._refusal is not None:
            raise RequestError(*self._refusal)
        try:
            return self._next_event()
        except RequestError as error:
            self._refusal = error.status, error.detail
            raise

    def _next_event(self) -> RequestEvent | Waiting:
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise self._refused(error) from None
        kind = type(event)
        if kind is h11.Request:
            return self._head(event)  # type: ignore[arg-type]
        if kind is h11.Data:
            return BodyPart(bytes(event.data))  # type: ignore[union-attr]
        if kind is h11.EndOfMessage:
            return self._end(event)  # type: ignore[arg-type]
        # PAUSED: the request is complete and what follows belongs to the next one. There is nothing to say.
        return NEED_DATA

    def _head(self, event: h11.Request) -> RequestHead:
        # A tuple once, since looking through h11's own headers costs several times as much.
        limits, fields = self._limits, tuple(event.headers)
        # First of all, since the answer to a head that is refused depends on it too.
        self._method = event.method.decode("ascii")
        if event.http_version not in _VERSIONS:
            raise RequestError(505, "this server speaks HTTP/1.1 and HTTP/1.0")
        if len(event.target) > limits.target:
            raise RequestError(414, f"the request target is longer than {limits.target:.0f} bytes")
        if len(fields) > limits.fields:
            raise RequestError(431, f"the request has more than {limits.fields:.0f} header fields")
        if self._fed > limits.head and self._fed - len(self._h11.trailing_data[0]) > limits.head:
            raise RequestError(431, f"the request's head is larger than {limits.head:.0f} bytes")
        target, http_version = event.target.decode("ascii"), event.http_version.decode("ascii")
        content_length = _content_length(fields, http_version)
        authority = authority_of(self._method, target, http_version, fields)
        return RequestHead(self._method, target, http_version, fields, content_length, authority)

    def _end(self, event: h11.EndOfMessage) -> EndOfRequest:
        limits, trailers = self._limits, event.headers
        if len(trailers) > limits.fields:
            raise RequestError(431, f"the request has more than {limits.fields:.0f} trailer fields")
        if trailers and _size(trailers) > limits.head:
            raise RequestError(431, f"the request's trailer section is larger than {limits.head:.0f} bytes")
        return EndOfRequest(trailers)

    def _refused(self, error: h11.RemoteProtocolError) -> RequestError:
        status = error.error_status_hint
        if status != 431:
            return RequestError(status, str(error).partition(":")[0])  # what follows shows our insides
        # h11 holds more bytes than the limit, and they are not a whole line or section yet.
        size = f"{self._limits.head:.0f} bytes"
        if self._method is not None:
            return RequestError(431, f"a chunk's first line or the trailer section is larger than {size}")
        if b"\n" not in self._h11.trailing_data[0]:
            return RequestError(414, f"the request line is longer than {size}")
        return RequestError(431, f"the request's head is larger than {size}")

    @property
    def has_unparsed_bytes(self) -> bool:
        return bool(self._h11.trailing_data[0])

    @property
    def unparsed_bytes(self) -> bytes:
        return self._h11.trailing_data[0]

    @property
    def request_complete(self) -> bool:
        return self._refusal is None and self._h11.their_state not in (h11.IDLE, h11.SEND_BODY)

    @property
    def client_awaits_continue(self) -> bool:
        return self._h11.they_are_waiting_for_100_continue

    def interim(self, status: int) -> bytes:
        return self._send(h11.InformationalResponse(status_code=status, headers=[], reason=_REASONS.get(status, b"")))

    def switch_protocols(self, fields: Sequence[Field]) -> bytes:
        # Checked before h11 is touched, as below. An Upgrade field from a 1.0 client is to be ignored (RFC 9110 §7.8).
        asked = self._h11.their_state is h11.MIGHT_SWITCH_PROTOCOL  # type: ignore[attr-defined]
        if not asked or self._h11.their_http_version != b"1.1":
            raise ResponseError("101 was not asked for: the request has no Upgrade field, or is not complete")
        try:
            response = h11.InformationalResponse(status_code=101, headers=list(fields), reason=_REASONS[101])
        except h11.LocalProtocolError as error:
            raise ResponseError(str(error)) from None
        return self._send(response)

    def respond(self, head: ResponseHead, body: Content) -> Wire:
        # Checked before h11 is touched: once it has refused something, it sends nothing more, not even a 500.
        if self.content_allowed(head.status):
            _check_length(head, body)
        prefix = self.start_response(head)
        if not body or not self.content_allowed(head.status):
            return Wire(prefix + self.end_response(), b"", b"")
        chunk_line, payload, suffix = self.send_part(body)
        return Wire(prefix + chunk_line, payload, suffix + self.end_response())

    def start_response(self, head: ResponseHead) -> bytes:
        status, fields = head
        try:
            response = h11.Response(status_code=status, headers=fields, reason=_REASONS.get(status, b""))  # type: ignore[arg-type]
        except h11.LocalProtocolError as error:
            raise ResponseError(str(error)) from None
        if self._method == "CONNECT" and status < 300:
            raise ResponseError(f"{status} to CONNECT would open a tunnel (RFC 9110 §9.3.6); this server has none")
        version = self._h11.their_http_version
        self._closing_ends_response = (
            (version is None or version < b"1.1") and self.content_allowed(status) and not _has_length(response)
        )
        return self._send(response)

    def send_part(self, data: Content) -> Wire:
        # h11 asks no more of the data than its length, and hands it back as it is.
        parts = self._send_parts(h11.Data(data=data))  # type: ignore[arg-type]
        if len(parts) == 3:
            return Wire(parts[0], data, parts[2])
        return Wire(b"", data, b"")

    def end_response(self) -> bytes:
        return self._send(_END_OF_MESSAGE)

    def _send(self, event: h11.Event) -> bytes:
        return b"".join(self._send_parts(event))

    def _send_parts(self, event: h11.Event) -> list[bytes]:
        try:
            return self._h11.send_with_data_passthrough(event) or []
        except h11.LocalProtocolError as error:
            raise ResponseError(str(error)) from None

    def content_allowed(self, status: int) -> bool:
        return status not in NO_CONTENT and self._method != "HEAD"

    @property
    def closing_ends_response(self) -> bool:
        return self._closing_ends_response

    @property
    def response_complete(self) -> bool:
        return self._h11.our_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}

    @property
    def keeps_alive(self) -> bool:
        return self._h11.our_state is h11.DONE

    @property
    def reusable(self) -> bool:
        return self._refusal is None and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def start_next_exchange(self) -> None:
        self._h11.start_next_cycle()
        self._method = None
        self._fed = len(self._h11.trailing_data[0])


def _size(fields: Sequence[Field]) -> int:
    """Bytes of a section as the shortest legal spelling has them: field lines and the empty line."""
    return sum(len(name) + len(value) + len(":\r\n") for name, value in fields) + len("\r\n")


def _content_length(fields: Sequence[Field], http_version: str) -> int | None:
    """The announced length of the content: None if chunked, 0 if there is none (RFC 9112 §6.3)."""
    length: int | None = None
    chunked = False
    for name, value in fields:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if not chunked:
        return length or 0
    if length is not None:
        raise RequestError(400, "the request has both Content-Length and Transfer-Encoding (RFC 9112 §6.1)")
    if http_version == "1.0":
        raise RequestError(400, "an HTTP/1.0 request cannot have Transfer-Encoding (RFC 9112 §6.1)")
    return None


def _has_length(response: h11.Response) -> bool:
    # Where a handler has set both, Transfer-Encoding prevails and h11 takes the length away.
    names = {name for name, _ in response.headers}
    return b"content-length" in names and b"transfer-encoding" not in names


def _check_length(head: ResponseHead, body: Content) -> None:
    for name, value in head.fields:
        if name.lower() == b"content-length" and value != b"%d" % len(body):
            raise ResponseError(f"Content-Length says {value!r}, but the body has {len(body)} bytes")

"""The engine: the sans-IO HTTP/1.1 machine. Bytes in, events out; response parts in, bytes out.

`Engine` is the seam; `H11Engine` is the default and the reference, and this is the only file that imports h11.
Nothing outside knows which engine runs. One engine serves one connection, exchange after exchange.

Rules of use, which keep its buffer bounded: feed `receive_data` only when `next_event` said NEED_DATA while the request
was not complete. EOF is not fed to the engine at all: whether an EOF is a departure is the lifecycle's judgement.

The request side is the gate's (gate.py): it reads heads and content, and refuses what we do not serve. h11 is told of
each head that has passed, as of a request without content; what it is for is all of the response, its state, and what
becomes of the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Protocol

import h11

from trioserve.core.errors import RequestError, ResponseError, phrase
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

_REASONS: Final = {status.value: phrase(status).encode("ascii") for status in HTTPStatus}
_END_OF_MESSAGE = h11.EndOfMessage()
_ADVICE = "leave Content-Length out, or send just as much"
# What h11 says of a handler's mistakes, in words for its author.
_EXPLAINED: Final = {
    "Too much data for declared Content-Length": f"the response is longer than its Content-Length says; {_ADVICE}",
    "Too little data for declared Content-Length": f"the response is shorter than its Content-Length says; {_ADVICE}",
}


class H11Engine:
    """`Engine` on h11."""

    __slots__ = ("_closing_ends_response", "_gate", "_h11", "_method", "_refusal")

    def __init__(self, limits: Limits) -> None:
        self._gate = Gate(limits)
        self._h11 = h11.Connection(h11.SERVER)
        # The current request's method, as h11 knows it; None until it has the head.
        self._method: str | None = None
        # Status code and detail with which the peer's bytes were refused.
        self._refusal: tuple[int, str] | None = None
        self._closing_ends_response = False

    def receive_data(self, data: bytes) -> None:
        self._gate.receive_data(data)

    def next_event(self) -> RequestEvent | Waiting:
        if self._refusal is not None:
            raise RequestError(*self._refusal)
        try:
            event = self._gate.next_event()
            if type(event) is RequestHead:
                self._begin_exchange(event)
            return event
        except RequestError as error:
            self._refusal = error.status, error.detail
            if self._h11.their_state is h11.IDLE:
                self._begin_refused_exchange()
            raise

    def _begin_exchange(self, head: RequestHead) -> None:
        """Tell h11 of a request whose head has passed."""
        try:
            self._h11.receive_data(self._gate.head_for_machine)
            self._h11.next_event()
            self._h11.next_event()  # its end, for all that h11 knows
        except h11.RemoteProtocolError as error:
            # The gate is stricter, so this should not be; but it is a refusal like another. What follows the colon
            # shows our insides.
            raise RequestError(error.error_status_hint, str(error).partition(":")[0]) from None
        self._method = head.method

    def _begin_refused_exchange(self) -> None:
        """Tell h11 of a request whose head it was spared, as far as the answer depends on it: whether that may have
        content, and that it is the connection's last.
        """
        self._method = "HEAD" if self._gate.method == "HEAD" else "GET"
        self._h11.receive_data(self._method.encode() + b" / HTTP/1.0\r\n\r\n")
        self._h11.next_event()

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
        return self._gate.awaits_continue

    def interim(self, status: int) -> bytes:
        interim = h11.InformationalResponse(status_code=status, headers=[], reason=_REASONS.get(status, b""))
        wire = self._send(interim)
        self._gate.continue_said()
        return wire

    def switch_protocols(self, fields: Sequence[Field]) -> bytes:
        # Checked before h11 is touched, as below. An Upgrade field from a 1.0 client is to be ignored (RFC 9110 §7.8).
        asked = self._h11.their_state is h11.MIGHT_SWITCH_PROTOCOL  # type: ignore[attr-defined]
        if not asked or not self._gate.complete or self._h11.their_http_version != b"1.1":
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
        if self._h11.their_state is h11.IDLE:
            # Answered before its head is all there, since it is too slow or the server stops. No more of it is taken.
            self._refusal = 400, "the request was answered before its head was complete"
            self._begin_refused_exchange()
        version = self._h11.their_http_version
        self._closing_ends_response = (
            (version is None or version < b"1.1") and self.content_allowed(status) and not _has_length(response)
        )
        wire = self._send(response)
        self._gate.continue_said()
        return wire

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
            raise ResponseError(_EXPLAINED.get(str(error), str(error))) from None

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
        return self._refusal is None and self._gate.complete and self._h11.our_state is h11.DONE

    def start_next_exchange(self) -> None:
        self._h11.start_next_cycle()
        self._method = None
        self._gate.start_next_request()


def _has_length(response: h11.Response) -> bool:
    # Where a handler has set both, Transfer-Encoding prevails and h11 takes the length away.
    names = {name for name, _ in response.headers}
    return b"content-length" in names and b"transfer-encoding" not in names


def _check_length(head: ResponseHead, body: Content) -> None:
    for name, value in head.fields:
        if name.lower() == b"content-length" and value != b"%d" % len(body):
            raise ResponseError(f"Content-Length says {value!r}, but the body has {len(body)} bytes; {_ADVICE}")

"""Exchange: one request and its response, as the application handles it and as the records tell it.

`ServedExchange` is the one implementation of `core.application.Exchange`. It holds what belongs to this exchange
alone; the connection's reader, sender, engine and departure do the work. Its phase is not stored but computed, from
facts each of which has one home: the engine knows whether the request is complete, the sender how many bytes of the
response are out, and the exchange the rest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from trioserve.connection.turns import busy
from trioserve.core.application import Endpoint, LastWords, T
from trioserve.core.engine import NO_CONTENT
from trioserve.core.errors import ClientGone, RequestError, ResponseError
from trioserve.core.forwarded import Forwarded, TrustedProxies
from trioserve.core.lifecycle import (
    Cause,
    End,
    HalfClose,
    Phase,
    half_close_after_switching,
    outcome_of,
    phase_of,
)
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import BodyPart, Content, Field, RequestHead, RequestLine, ResponseHead, Wire
from trioserve.core.records import Abandoned, ClientAddress, Completed
from trioserve.core.target import Scheme

if TYPE_CHECKING:
    from trioserve.connection.connection import Connection

_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_CLOSE = (b"connection", b"close")
# Of responses whose Content-Length is the same whatever the handler says (core.response_head).
_LENGTHS = {204: None, 205: 0}
# Whoever gets this far holds a token of the server's own limiter.
_NO_LIMIT = trio.CapacityLimiter(math.inf)


class ServedExchange:
    """One exchange of one connection.

    Args:
        head: None if no head was understood, which is so for exchanges that end in phase HEAD.
        endpoint: None exactly if `head` is None.
    """

    __slots__ = (
        "_client_may_go",
        "_connection",
        "_early_parts",
        "_forwarded",
        "_handler_returned",
        "_handler_started",
        "_head",
        "_last_words",
        "_request_bytes",
        "_response_head_size",
        "_said_last",
        "completed_at",
        "endpoint",
        "exception",
        "number",
        "refusal",
        "response",
        "started_at",
    )

    def __init__(
        self,
        connection: Connection,
        number: int,
        head: RequestHead | None,
        endpoint: Endpoint | None,
        started_at: float,
    ) -> None:
        self._connection = connection
        self._head = head
        self.number = number
        self.endpoint = endpoint
        self.started_at = started_at
        # What proxies have said of the request; None where none are trusted.
        self._forwarded: Forwarded | None = None
        # Content that had arrived with the head; taken from the engine so that it knows whether more is to come. After
        # a switch of protocols: the bytes behind the request.
        self._early_parts: deque[bytes] | None = None
        self._request_bytes = 0
        # Why its content is refused, or the rest of it.
        self.refusal: RequestError | None = None
        self._handler_started = False
        # The handler came to its end by itself: it returned, or gave its whole response.
        self._handler_returned = False
        # What it raised instead, if that was not a cancellation.
        self.exception: BaseException | None = None
        # The response as begun by the application, and the size of its head on the wire.
        self.response: ResponseHead | None = None
        self._response_head_size = 0
        # After a switch of protocols: what to say if we give up, whether the client may go since all was said, and
        # whether our last word was taken up.
        self._last_words: LastWords | None = None
        self._client_may_go = False
        self._said_last = False
        # When the response was handed whole to the transport; None before that.
        self.completed_at: float | None = None

    # What the application asks

    @property
    def head(self) -> RequestHead:
        assert self._head is not None, "an exchange without a head never reaches the application"
        return self._head

    @property
    def has_head(self) -> bool:
        """False for an exchange whose head was never understood."""
        return self._head is not None

    @property
    def request_line(self) -> RequestHead | RequestLine | None:
        """What begins the head, also of one that was never understood; None if that is not known either."""
        return self._head or self._connection.engine.request_line

    @property
    def connection_id(self) -> int:
        return self._connection.id

    @property
    def client(self) -> ClientAddress | None:
        return self._connection.transport.client if self._forwarded is None else self._forwarded.client

    @property
    def scheme(self) -> Scheme:
        said = None if self._forwarded is None else self._forwarded.scheme
        return said or self._connection.transport.scheme

    @property
    def authority(self) -> str | None:
        said = None if self._forwarded is None else self._forwarded.authority
        return said or self.head.authority

    def hear(self, proxies: TrustedProxies) -> None:
        """Take in what these proxies say of the request.

        Raises:
            RequestError: nobody can tell what they say and what the client does.
        """
        self._forwarded = proxies.forwarded(self._connection.transport.client, self.head.fields)

    @property
    def max_body(self) -> float:
        limit = self.endpoint.rules.max_body if self.endpoint is not None else None
        return self.limits.body if limit is None else limit

    @property
    def limits(self) -> Limits:
        return self._connection.context.limits

    @property
    def deadlines(self) -> Deadlines:
        return self._connection.context.deadlines

    @property
    def draining(self) -> bool:
        return self._connection.context.draining

    async def until_draining(self) -> None:
        await self._connection.context.drain_begun.wait()

    @property
    def stopping(self) -> bool:
        return self._connection.context.stopping.is_set()

    def content_allowed(self, status: int) -> bool:
        return self._connection.engine.content_allowed(status)

    # The request's content

    def handler_starts(self) -> None:
        self._handler_started = True

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        threads = self._connection.context.threads
        with trio.move_on_after(self.deadlines.queue) as waiting:
            await threads.acquire()
        if waiting.cancelled_caught:
            raise busy(self.deadlines.queue)
        try:
            # The cancellation may have come in the very moment in which there was a thread: then nothing is started.
            await trio.lowlevel.checkpoint_if_cancelled()
            self.handler_starts()
            return await trio.to_thread.run_sync(function, limiter=_NO_LIMIT)
        finally:
            threads.release()

    def take_early_parts(self) -> None:
        """Take from the engine what content it has already.

        Raises:
            RequestError: the content is malformed.
        """
        engine = self._connection.engine
        while isinstance(event := engine.next_event(), BodyPart):
            self._count(event.data)
            self._take_early(event.data)

    def _take_early(self, data: bytes) -> None:
        if self._early_parts is None:
            self._early_parts = deque()
        self._early_parts.append(data)

    async def receive_part(self) -> bytes:
        if self.completed_at is not None:
            raise ClientGone("this exchange is over; its body can no longer be read")
        if self.refusal is not None:
            raise self.refusal
        if self._early_parts:
            return self._early_parts.popleft()
        if self._connection.engine.request_complete:
            return b""
        if self._connection.engine.client_awaits_continue and self._connection.departure.lifecycle.ended is None:
            self.send_continue()
        try:
            event = await self._connection.reader.body_event()
            if not isinstance(event, BodyPart):
                return b""
            self._count(event.data)
        except RequestError as error:
            self.refusal = error  # whoever asks again is told the same: what has come is not the whole content
            self.close_connection()  # whoever answers it
            self.report_refusal(error)
            raise
        finally:
            # Also if the handler has cancelled its wait: bytes may lie unread from now on.
            self._connection.look_for_unread_bytes_later()
        return event.data

    def _count(self, data: bytes) -> None:
        self._request_bytes += len(data)
        if self._request_bytes > self.max_body:
            raise RequestError(413, f"the request body is larger than {self.max_body:.0f} bytes")

    def send_continue(self) -> None:
        """Send 100 Continue, without waiting: because the client waits for it, or as the probe after a FIN."""
        self._connection.sender.interim_now(self._connection.engine.interim(_CONTINUE))

    # The response. Each of these asks first whether there is still somebody to send to: once the end has come, the
    # engine and the record know nothing of what the handler still sends.

    async def respond(self, status: int, fields: Sequence[Field], body: Content) -> None:
        self._handler_returned = True
        if self.ended:
            await self._throw_away()
            return
        sender = self._connection.sender
        if not sender.is_ready:
            await sender.ready()
        await sender.send(self._begin_whole(status, fields, body))
        self._complete_unless_ended()

    def answer_now(self, status: int, fields: Sequence[Field], body: bytes) -> None:
        """Offer a whole response once, without waiting, when the exchange has ended. It is complete if it got out."""
        wire = self._begin_whole(status, fields, body)
        if self._connection.sender.send_now(wire):
            self._complete()

    async def start_response(self, status: int, fields: Sequence[Field]) -> None:
        if self.ended:
            await self._throw_away()
            return
        await self._connection.sender.ready()
        head = self._head_of_response(status, fields)
        data = self._connection.engine.start_response(head)
        self.response, self._response_head_size = head, len(data)
        await self._connection.sender.send(Wire(data, b"", b""))

    async def send_part(self, data: Content) -> None:
        # Before the part and not after it: nothing may be written once the client is known to be gone.
        await trio.lowlevel.checkpoint()
        if self.ended:
            await self._throw_away()
            return
        sender, engine = self._connection.sender, self._connection.engine
        if not sender.is_ready:
            await sender.ready()
        response = self._response_in_progress()
        if data and engine.content_allowed(response.status):
            await sender.send(engine.send_part(data))

    async def end_response(self) -> None:
        if self.ended:
            self._handler_returned = True
            await self._throw_away()
            return
        await self._connection.sender.ready()
        self._response_in_progress()
        data = self._connection.engine.end_response()
        self._handler_returned = True
        await self._connection.sender.send(Wire(data, b"", b""))
        self._complete_unless_ended()

    async def settle(self) -> None:
        """The endpoint has returned: see to it that its response is whole.

        Raises:
            ResponseError: there is none, or it has no end.
        """
        self._handler_returned = True
        if self.completed_at is not None:
            return
        if self.ended:
            await self._throw_away()
            return
        if self.response is None:
            raise ResponseError("the handler returned without a response")
        if not (self._connection.engine.response_complete or self._said_last):
            raise ResponseError("the handler returned in the middle of its response")
        # Somebody between us and the handler has cancelled the sending of a response that was complete.
        await self._connection.sender.ready()
        self._complete_unless_ended()

    # Another protocol. Here too: first, whether there is still somebody to talk to.

    @property
    def switched(self) -> bool:
        return self._last_words is not None

    async def switch_protocols(self, fields: Sequence[Field], last_words: LastWords) -> None:
        if self.ended:
            await self._throw_away()
            return
        await self._connection.sender.ready()
        self._check_nothing_begun()
        engine = self._connection.engine
        data = engine.switch_protocols(fields)
        self.response, self._response_head_size = ResponseHead(_SWITCHING_PROTOCOLS, fields), len(data)
        self._last_words = last_words
        if engine.has_unparsed_bytes:
            self._take_early(engine.unparsed_bytes)
        await self._connection.sender.send(Wire(data, b"", b""))

    async def receive_bytes(self) -> bytes:
        data = self._early_parts.popleft() if self._early_parts else await self._raw_bytes()
        if not data and not self._client_may_go:
            self.client_left()
            await self._connection.departure.checkpoint()
            raise ClientGone("the client left before its last word")
        self._request_bytes += len(data)
        return data

    async def _raw_bytes(self) -> bytes:
        try:
            return await self._connection.reader.raw_bytes()
        finally:
            if self.completed_at is None:
                self._connection.look_for_unread_bytes_later()

    def pause_reading(self) -> None:
        self._connection.departure.reader_rests()

    def client_may_go(self) -> None:
        self._client_may_go = True

    def client_left(self) -> None:
        self._connection.departure.input_ended()

    def client_vanished(self) -> None:
        if not self._connection.transport.unacked_bytes():
            self._connection.departure.hung_up(Cause.VANISHED)

    async def send_bytes(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.ended:
            await self._throw_away()
            return
        await self._connection.sender.ready()
        if not self.switched or self._said_last:
            raise ResponseError(
                "there is no switched protocol to send bytes in: switch first, and send none after its end"
            )
        await self._connection.sender.send(Wire(b"", data, b""))

    async def end_switched(self, data: bytes) -> None:
        if self.completed_at is not None:
            return
        if self.ended:
            await self._throw_away()
            return
        await self._connection.sender.ready()
        if not self._said_last:
            self._said_last = True
            await self._connection.sender.send(Wire(b"", data, b""))
        if self._handler_returned:
            self._complete_unless_ended()

    def say_last_words(self, cause: Cause) -> bool:
        """Let the protocol tell a client that is there that we give up: once, without waiting. Says if it got out."""
        assert self._last_words is not None, "only where protocols were switched"
        words = b"" if self._said_last else self._last_words(cause)
        return self._connection.sender.send_now(Wire(b"", words, b""))

    @property
    def half_close_after_switching(self) -> HalfClose:
        """What a FIN means now."""
        return half_close_after_switching(
            reader_waits=self._connection.reader.waiting, client_may_go=self._client_may_go
        )

    async def _throw_away(self) -> None:
        """The end has come, and nothing is sent: if the handler runs on without a client, it is none the wiser.

        Raises:
            trio.Cancelled, ClientGone: the handler is to stop.
        """
        await self._connection.departure.checkpoint()

    def _begin_whole(self, status: int, fields: Sequence[Field], body: Content) -> Wire:
        length = () if status in NO_CONTENT else ((b"content-length", b"%d" % len(body)),)
        head = self._head_of_response(status, fields, *length)
        wire = self._connection.engine.respond(head, body)
        self.response, self._response_head_size = head, len(wire.prefix)
        return wire

    def _head_of_response(self, status: int, fields: Sequence[Field], *defaults: Field) -> ResponseHead:
        self._check_nothing_begun()
        if self._connection.must_close_after(self):
            fields = [*fields, _CLOSE]
        return ResponseHead(status, fields, (*defaults, (b"date", self._connection.context.date())))

    def _check_nothing_begun(self) -> None:
        if self.response is not None or self._connection.exchange is not self:
            raise ResponseError("a response was begun already; an exchange has exactly one")

    def _response_in_progress(self) -> ResponseHead:
        # Nor is there, for this exchange, once the connection has gone on to its next.
        if self.response is None or self._connection.exchange is not self or self._connection.engine.response_complete:
            raise ResponseError("there is no response in progress: start one first, and send nothing after its end")
        return self.response

    def _complete_unless_ended(self) -> None:
        # If the client left and the handler ran on, the response was thrown away.
        if self._connection.departure.lifecycle.ended is None:
            self._complete()

    def _complete(self) -> None:
        self.completed_at = self._connection.now()
        self._connection.exchange_completed(self)

    @property
    def completed(self) -> bool:
        return self.completed_at is not None

    @property
    def ended(self) -> bool:
        return self._connection.departure.lifecycle.ended is not None

    @property
    def cancelled_for(self) -> str | None:
        """The reason with which all that runs inside the endpoint was cancelled; None if it was not. For tests."""
        return self._connection.departure.cancelled_for

    # How the handler ended

    def handler_returned(self) -> None:
        self._handler_returned = True

    def close_connection(self) -> None:
        self._connection.close_after_exchange()

    def report_refusal(self, error: RequestError) -> None:
        self._connection.context.reporter.request_refused(self.client, self.request_line, error)

    def report_failure(self, error: BaseException) -> None:
        self.exception = error
        if self._connection.departure.lifecycle.ended is None:
            self._connection.context.reporter.handler_failed(self.head, self.route, error)

    # What the records tell

    @property
    def phase(self) -> Phase:
        sender = self._connection.sender
        return phase_of(
            head_begun=True,
            head_complete=self._head is not None,
            request_complete=self._connection.engine.request_complete,
            handler_started=self._handler_started,
            response_begun=self.response is not None,
            response_head_sent=self.response is not None and sender.response_bytes >= self._response_head_size,
            response_complete=self.completed_at is not None,
        )

    @property
    def request_bytes_left(self) -> float:
        """How much content the client has still to send, as far as is known."""
        engine, expected = self._connection.engine, self._head.content_length if self._head else 0
        if engine.request_complete or expected is None:
            return 0
        return expected - self._request_bytes

    @property
    def sent_status(self) -> int | None:
        """The status code on the wire; None if not one byte of the response was sent."""
        if self.response is None or self._connection.sender.response_bytes <= 0:
            return None
        return self.response.status

    @property
    def is_cut(self) -> bool:
        """True if a response was begun and not all of it was handed over."""
        return self.response is not None and self.completed_at is None

    @property
    def route(self) -> str | None:
        return self.endpoint.name if self.endpoint is not None else None

    def completed_record(self) -> Completed:
        assert self.completed_at is not None
        assert self.response is not None
        line = self.request_line
        return Completed(
            status=self.response.status,
            method=line.method if line else None,
            target=line.target if line else None,
            route=self.route,
            http_version=line.http_version if line else None,
            headers=self._head.headers if self._head else None,
            client=self.client,
            connection_id=self.connection_id,
            exchange_number=self.number,
            request_body_bytes=self._request_bytes,
            response_body_bytes=self._connection.sender.content_bytes,
            started_at=self.started_at,
            duration=self.completed_at - self.started_at,
        )

    def abandoned_record(self, end: End, status: int, unacked_bytes: int | None) -> Abandoned:
        cause, phase, noticed_at = end
        line = self.request_line
        return Abandoned(
            status=status,
            phase=phase,
            cause=cause,
            by=cause.by,
            sent_status=self.sent_status,
            outcome=outcome_of(
                started=self._handler_started, returned=self._handler_returned, exception=self.exception
            ),
            method=line.method if line else None,
            target=line.target if line else None,
            route=self.route,
            http_version=line.http_version if line else None,
            headers=self._head.headers if self._head else None,
            client=self.client,
            connection_id=self.connection_id,
            exchange_number=self.number,
            request_body_bytes=self._request_bytes,
            request_body_expected=self._head.content_length if self._head and not self.switched else None,
            response_body_bytes=self._connection.sender.content_bytes if self.response else 0,
            response_body_expected=_content_length(self.response) if self.response else None,
            unacked_bytes=unacked_bytes,
            started_at=self.started_at,
            noticed_at=noticed_at,
            unwound_at=trio.current_time(),
            exception=self.exception,
        )


def _content_length(head: ResponseHead) -> int | None:
    """The length that a response announces, once it was begun."""
    if head.status in _LENGTHS:
        return _LENGTHS[head.status]
    for name, value in (*head.fields, *head.defaults):
        if name.lower() == b"content-length":
            return int(value)
    return None

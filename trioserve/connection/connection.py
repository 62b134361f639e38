"""Connection: one accepted transport from accept to close, one exchange after another, in one task.

Read `serve` from top to bottom: it is the whole life of a connection.

There is one cancel scope, made once. Everything that ends an exchange early (a departure, a deadline, a drain) goes
through `Departure`, which cancels it; so every early end, wherever it strikes, arrives at the same place, behind the
`with` in `serve`, and `_conclude` settles what is still owed: an answer, if the client is still there and was told
nothing; the close; the record. An early end is also the connection's end, so one scope is enough.

What goes well is settled on the spot, in `exchange_completed`, and never passes through here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from trioserve.connection.context import Context
from trioserve.connection.departure import Departure
from trioserve.connection.exchange import ServedExchange
from trioserve.connection.reader import Reader
from trioserve.connection.sender import Sender
from trioserve.connection.stack import stack_of
from trioserve.connection.timers import Timers
from trioserve.connection.transport import HungUp, Interrupted, Transport
from trioserve.connection.turns import busy
from trioserve.core.application import Endpoint, Rules
from trioserve.core.demands import check_expectations, check_size
from trioserve.core.errors import DropConnection, HTTPError, RequestError, ResponseError, error_content
from trioserve.core.fields import field_of
from trioserve.core.lifecycle import ANSWERABLE, CLIENT_SLOW, Cause, ClientRules, End, Phase
from trioserve.core.messages import BodyPart, Field, RequestHead
from trioserve.core.status import DEFAULT
from trioserve.core.target import check_scheme
from trioserve.failures import consists_of, is_failure, sole, without_cancellations

UNREAD_AFTER = 0.25
"""Seconds for which bytes may lie unread while a handler runs, before they are taken in to let a FIN behind them
arrive: a handler that is going to read its body has begun by then."""


class Connection:
    """One accepted transport.

    Args:
        id: unique in this process.
        closed: told when the transport is closed; hooks may be told of its last exchange after that.
    """

    __slots__ = (
        "_closed",
        "_closing",
        "_context_variables",
        "_endpoint_runs",
        "_ends_when_idle",
        "_exchanges_begun",
        "_handler_deadline",
        "_task",
        "_unread_delay",
        "_waits_for_endpoint",
        "context",
        "departure",
        "engine",
        "exchange",
        "id",
        "now",
        "reader",
        "sender",
        "transport",
    )

    def __init__(
        self,
        context: Context,
        transport: Transport,
        timers: Timers,
        id: int,
        closed: Callable[[Connection], None],
    ) -> None:
        self.context = context
        self._closed = closed
        self.transport = transport
        self.id = id
        self.engine = context.new_engine()
        self.departure = Departure(
            transport,
            timers,
            situation=self._situation,
            probe=self._probe,
            overdue=self._unwind_overdue,
            unwind=context.deadlines.unwind,
        )
        self.reader = Reader(
            transport,
            self.engine,
            self.departure,
            timers,
            limits=context.limits,
            deadlines=context.deadlines,
            hung_up=self._client_hung_up,
            nothing_there=self._end_if_due,
        )
        self.sender = Sender(transport, self.departure, timers, context.limits, context.deadlines)
        # The clock.
        self.now = timers.now
        self._handler_deadline = timers.timer(self._handler_too_slow)
        self._unread_delay = timers.delay(UNREAD_AFTER)
        # The exchange that is being served; None between exchanges and while a head arrives.
        self.exchange: ServedExchange | None = None
        self._exchanges_begun = 0
        # The current exchange is the last: the request was refused, or the application says so.
        self._closing = False
        # The server accepts no more: this connection ends as soon as no request is there.
        self._ends_when_idle = False
        # The endpoint of the current exchange has not returned. It may be clearing up behind its response; then what
        # would end an idle connection waits until it has.
        self._endpoint_runs = False
        self._waits_for_endpoint: list[Callable[[], None]] = []

    async def serve(self) -> None:
        """Serve exchanges until the connection ends, and close it.

        Raises nothing of a user's or our own doing. Cancelled from outside, or interrupted by the keyboard, it ends the
        current exchange with cause DRAIN, makes its record, and lets that pass.
        """
        # The task that serves this connection, and the context variables with which it began.
        self._task = trio.lowlevel.current_task()
        self._context_variables = self._task.context
        try:
            with self.departure.scope:
                self.transport.watch(self._client_hung_up)
                self.reader.take_first_bytes()
                await self._serve_exchanges()
        except BaseException as error:
            self._broke_out(error)
            if not is_failure(error):
                raise
        finally:
            await self._conclude()

    async def _serve_exchanges(self) -> None:
        patience = self.context.deadlines.head
        while True:
            # What a handler leaves in context variables is not the next request's. Takes effect at the next step of the
            # scheduler, which the reader takes in any case.
            self._task.context = self._context_variables.copy()
            self.context.idle.add(self)
            try:
                head = await self.reader.head(patience)
            except RequestError as error:
                await self._refuse(error)
                return
            if head is None:
                return
            exchange = self._begin_exchange(head)
            await self._serve_exchange(exchange, head)
            if self.departure.lifecycle.ended is not None:
                return
            if not (self.engine.reusable or await self._rest_is_read()) or self._closing:
                return
            self.engine.start_next_exchange()
            self.exchange = None
            del head, exchange  # while it is idle, a connection holds nothing of its last exchange
            patience = self.context.deadlines.idle

    def _begin_exchange(self, head: RequestHead | None) -> ServedExchange:
        self._exchanges_begun += 1
        endpoint = self.context.application.endpoint(head) if head is not None else None
        started_at = self.reader.head_begun_at
        assert started_at is not None, "an exchange begins with the first bytes of its head"
        self.exchange = ServedExchange(self, self._exchanges_begun, head, endpoint, started_at)
        self.sender.new_response()
        return self.exchange

    async def _serve_exchange(self, exchange: ServedExchange, head: RequestHead) -> None:
        endpoint = exchange.endpoint
        assert endpoint is not None, "an exchange with a head has an endpoint"
        try:
            self._look_at_request(exchange, head)
            self.departure.reader_rests()
            if exchange.refusal is not None:
                # There is nothing to handle: whoever has waited for a turn would be told only then, or never.
                await self._call_endpoint(exchange, endpoint)
                return
            if not self.context.turns.take():
                await self._wait_for_turn()
            try:
                await self._call_endpoint(exchange, endpoint)
            finally:
                self.context.turns.give_back()
        except BaseException as error:
            if not is_failure(error):
                raise
            await self._raised(exchange, sole(error))

    async def _wait_for_turn(self) -> None:
        """Wait in the queue. The client's departure meanwhile is judged as ever; nobody reads what it sends.

        Raises:
            HTTPError: the queue is full, or the wait was too long. 503, and the connection goes on.
            trio.Cancelled: the end has come: the client left, or the server gives up.
        """
        turns, patience = self.context.turns, self.context.deadlines.queue
        self.transport.look()
        if self.departure.cancelled:
            await self.departure.checkpoint()  # nor does a client that has left take a place in the queue
        if not turns.queue_is_full:
            self.look_for_unread_bytes_later()
            with trio.move_on_after(patience) as waiting:
                await turns.wait()
            if not waiting.cancelled_caught:
                return
        raise busy(patience)

    async def _call_endpoint(self, exchange: ServedExchange, endpoint: Endpoint) -> None:
        """Call the endpoint, and see its response out."""
        self.transport.look()
        if self.departure.cancelled:
            return  # a client that has left already does not get its handler started
        deadline = endpoint.rules.deadline
        if deadline is None:
            deadline = self.context.deadlines.handler
        if deadline < math.inf:
            self._handler_deadline.set(self.now() + deadline)
        self._unread_delay.begin(self)
        self._endpoint_runs = True
        try:
            await endpoint(exchange)
        finally:
            self._endpoint_runs = False
            while self._waits_for_endpoint:
                self._waits_for_endpoint.pop(0)()
        if exchange.completed_at is None:
            await exchange.settle()

    def _look_at_request(self, exchange: ServedExchange, head: RequestHead) -> None:
        try:
            if self.context.proxies is not None:
                exchange.hear(self.context.proxies)
            if not head.target.startswith("/"):
                check_scheme(head.target, exchange.scheme)
            check_expectations(head)
            if head.content_length != 0:
                check_size(head, exchange.max_body)
                exchange.take_early_parts()
        except RequestError as error:
            self.close_after_exchange()
            exchange.report_refusal(error)
            exchange.refusal = error  # for the endpoint to answer, as it answers everything that it can

    async def _raised(self, exchange: ServedExchange, error: BaseException) -> None:
        match error:
            case _ if consists_of(error, DropConnection):
                exchange.handler_returned()
                self.departure.give_up(Cause.DROPPED)
            case HTTPError():
                await self._answer_error(exchange, error)
            case _:
                await self._handler_failed(exchange, error)

    async def _answer_error(self, exchange: ServedExchange, error: HTTPError) -> None:
        if isinstance(error, RequestError):
            self.close_after_exchange()
        if exchange.response is not None:
            # Too late to say so. A client's mistake is no handler's failure to be logged; the record tells of it.
            if isinstance(error, RequestError):
                exchange.exception = error
                self.departure.give_up(Cause.HANDLER_FAILED)
            else:
                await self._handler_failed(exchange, error)
            return
        fields, body = _error_answer(exchange, error.status, error.detail)
        fields += [field_of(name, value) for name, value in error.headers.items()]
        try:
            await exchange.respond(error.status, fields, body)
        except ResponseError as mistake:  # in the error's headers
            await self._handler_failed(exchange, mistake)

    async def _handler_failed(self, exchange: ServedExchange, error: BaseException) -> None:
        exchange.report_failure(error)
        if self.departure.lifecycle.ended is not None:
            return  # it failed while it was being stopped, or ran on without a client: the record tells
        if exchange.response is not None:
            self.departure.give_up(Cause.HANDLER_FAILED)
            return
        await exchange.respond(500, *_error_answer(exchange, 500, _WHY[Cause.HANDLER_FAILED]))

    async def _refuse(self, error: RequestError) -> None:
        """Answer bytes that are not a request that we serve."""
        exchange = self._begin_exchange(None)
        exchange.report_refusal(error)
        await self._answer_error(exchange, error)

    async def _rest_is_read(self) -> bool:
        """Read and throw away what is left of the body, up to a bound in size and time, to keep the connection; says
        whether it can be kept.
        """
        if self.engine.request_complete or not self.engine.keeps_alive:
            return False
        left = self.context.limits.unread_body
        try:
            # In total, and not per byte: nobody is waiting for these bytes.
            with trio.move_on_after(self.context.deadlines.body_stall):
                while not self.engine.request_complete and left >= 0:
                    event = await self.reader.body_event()
                    if isinstance(event, BodyPart):
                        left -= len(event.data)
        except RequestError:
            pass  # its answer is out already; the engine is not reusable any more
        return self.engine.reusable

    # While an exchange is under way

    def close_after_exchange(self) -> None:
        """The current exchange is the last: behind a request that we do not serve, nothing is understood."""
        self._closing = True

    def must_close_after(self, exchange: ServedExchange) -> bool:
        """True if the response must announce the connection's end."""
        return (
            self._closing
            or self.context.draining
            or self.departure.lifecycle.ended is not None
            or exchange.number >= self.context.limits.requests
            or not (self.engine.request_complete or self._rest_may_be_read(exchange))
        )

    def _rest_may_be_read(self, exchange: ServedExchange) -> bool:
        """True if what is left of the request can be read and thrown away, to keep the connection."""
        # A client that awaits 100 Continue may send its body all the same, or not: nobody can tell.
        return not self.engine.client_awaits_continue and (
            exchange.request_bytes_left <= self.context.limits.unread_body
        )

    def exchange_completed(self, exchange: ServedExchange) -> None:
        """The response was handed whole to the transport."""
        if not exchange.switched:
            self.reader.dismiss()
        self._handler_deadline.stop()
        self._unread_delay.end(self)
        self.transport.unwatch_unread()
        if self.context.reporter.wants_completed:
            self.context.reporter.completed(exchange.completed_record())

    def look_for_unread_bytes_later(self) -> None:
        """The handler runs, or has just read some of the body and may do something else now."""
        self._unread_delay.begin(self)

    def delay_passed(self) -> None:
        """For so long bytes may have lain unread."""
        if not self.departure.cancelled:  # else a FIN has nothing to tell any more, and the transport may be closed
            self.transport.watch_unread(self._bytes_lie_unread)

    def _bytes_lie_unread(self) -> None:
        if self.reader.waiting or self.departure.lifecycle.ended is not None:
            return
        try:
            self.transport.absorb()
        except HungUp as error:
            self.departure.hung_up(error.cause)
        else:
            # Again later: there may not have been room for all, and then nothing more can arrive to tell us.
            self.look_for_unread_bytes_later()

    def _client_hung_up(self, cause: Cause) -> None:
        # A client that has its whole response may go. An endpoint that works on behind it, as one may that is no
        # handler of an `App`, is not stopped by that: the record has said that all went well.
        if self._clears_up:
            self._waits_for_endpoint.append(lambda: self._client_hung_up(cause))
        else:
            self.departure.hung_up(cause)

    @property
    def _clears_up(self) -> bool:
        """True while the endpoint runs on behind a response that got out whole."""
        exchange = self.exchange
        return self._endpoint_runs and exchange is not None and exchange.completed

    def _handler_too_slow(self) -> None:
        self.departure.give_up(Cause.DEADLINE)

    def _probe(self) -> None:
        assert self.exchange is not None, "a FIN between exchanges is not judged"
        self.exchange.send_continue()

    def _unwind_overdue(self) -> None:
        if self.exchange is not None and self.exchange.has_head:
            self.context.reporter.unwind_overdue(
                self.exchange.head, self.exchange.route, self.context.deadlines.unwind, stack_of(self._task)
            )

    def _situation(self) -> tuple[Phase, ClientRules]:
        """What the lifecycle must know to judge."""
        exchange, rules = self.exchange, self._rules
        half_close = rules.half_close
        if exchange is not None and exchange.switched:
            half_close = exchange.half_close_after_switching
        return self.phase, ClientRules(
            half_close=half_close or self.context.half_close,
            disconnect=rules.disconnect,
            http_version=exchange.head.http_version if exchange is not None and exchange.has_head else "1.1",
        )

    @property
    def phase(self) -> Phase:
        """How far the current exchange has come; IDLE or HEAD where there is none yet."""
        if self.exchange is not None:
            return self.exchange.phase
        return Phase.IDLE if self.reader.head_begun_at is None else Phase.HEAD

    @property
    def idle_since(self) -> float | None:
        """Since when a request is waited for of which nothing has come; None if that is not so."""
        if self.phase is not Phase.IDLE or self.departure.lifecycle.ended is not None or not self.reader.waiting:
            return None
        return self.reader.head_awaited_since

    @property
    def _rules(self) -> Rules:
        if self.exchange is not None and self.exchange.endpoint is not None:
            return self.exchange.endpoint.rules
        return self.context.application.rules

    # When the server stops

    def drain(self) -> None:
        """Nobody is accepted any more: end as soon as no request is there.

        One that lies in the socket, or behind an answer that did not announce the end, is there: who sent it did so in
        good faith. A client that was accepted just now gets until `end_if_idle` to send its first.
        """
        self._ends_when_idle = True
        self._end_if_due()

    def _end_if_due(self) -> None:
        if self._ends_when_idle and self._exchanges_begun:
            self.end_if_idle()

    def end_if_idle(self) -> None:
        """End now if no exchange is under way and no request is there: the server stops, or has no room."""
        if self._clears_up:
            self._waits_for_endpoint.append(self.end_if_idle)
        elif self.phase in {Phase.IDLE, Phase.COMPLETE} and not self._request_is_there:
            self.departure.give_up(Cause.DRAIN)

    @property
    def _request_is_there(self) -> bool:
        """True if bytes of a next request are there, and it may be answered."""
        if self._closing or (self.exchange is not None and not self.engine.reusable):
            return False
        return self.engine.has_unparsed_bytes or self.transport.has_bytes()

    def stop(self) -> None:
        """The drain's deadline has passed: cancel what still runs."""
        self.departure.give_up(Cause.DRAIN)

    # The end

    def _broke_out(self, error: BaseException) -> None:
        """Something came out of the scope that is not our own cancellation."""
        if self.departure.lifecycle.ended is None:
            if is_failure(error):
                self.context.reporter.internal_error(error)
                self.departure.give_up(Cause.HANDLER_FAILED)
            else:
                # We are being cancelled from outside; or the handler was interrupted, which ends the server: say which.
                interruption = without_cancellations(error)
                if self.exchange is not None and interruption is not None:
                    self.exchange.report_failure(interruption)
                self.departure.give_up(Cause.DRAIN)
        if self.exchange is not None:
            self.exchange.exception = self.exchange.exception or without_cancellations(error)

    async def _conclude(self) -> None:
        """Settle what is owed: an answer, the close, the record. In this order, and whatever goes wrong."""
        if self.departure.cancelled:
            # When a crowd leaves at once, every handler is stopped before the first record is made.
            await trio.lowlevel.cancel_shielded_checkpoint()
        self.departure.unwound()
        exchange, end = self.exchange, self.departure.lifecycle.ended
        if end is not None and end.phase is Phase.HEAD:
            exchange = self._begin_exchange(None)
        try:
            if exchange is not None and self._is_answered(exchange, end) and not self.departure.client_left:
                await self._linger()
        except Exception as error:
            self.context.reporter.internal_error(error)
        finally:
            self._close(exchange)
            if exchange is not None and end is not None and exchange.completed_at is None:
                status = self._abandoned_status(end)
                record = exchange.abandoned_record(end, status, self.departure.unacked_bytes)
                await self.context.reporter.abandoned(record)
            # With this and what was discarded nothing of a connection refers back to it, and it is gone when its task
            # is, without a search by the garbage collector.
            self.exchange = None

    def _is_answered(self, exchange: ServedExchange, end: End | None) -> bool:
        """Give the answer that is still owed, if one is; says whether the client has an answer now."""
        if exchange.completed_at is None and end is not None:
            if exchange.switched:
                return end.cause in ANSWERABLE and not self.departure.client_left and exchange.say_last_words(end.cause)
            if self.departure.owes_answer:
                status = _default_status(end)
                exchange.answer_now(status, *_error_answer(exchange, status, _WHY[end.cause]))
        return exchange.completed_at is not None

    async def _linger(self) -> None:
        """Let the client read our answer before the close.

        If unread bytes lie in the socket when it is closed, the system sends a RST, which can destroy an answer that
        is still on its way (RFC 9112 §9.6). So say that we are done, and read on for a while. A drain does not cut it
        short: it has its own deadline, and the answer is owed.
        """
        try:
            unread = self.transport.receive_nowait()
            if unread == b"" or (unread is None and self.engine.request_complete):
                return  # nothing is there, and nothing can come, or will
            self.transport.send_eof()
            with trio.move_on_after(self.context.deadlines.linger):
                while self.transport.receive_nowait() != b"":
                    await self.transport.wait_readable()
        except (HungUp, Interrupted):
            return

    def _close(self, exchange: ServedExchange | None) -> None:
        self.context.idle.discard(self)
        self._handler_deadline.discard()
        self._unread_delay.end(self)
        self.departure.discard()
        self.reader.discard()
        self.sender.discard()
        if exchange is not None and exchange.is_cut and self._must_reset():
            self.transport.reset()
        else:
            self.transport.close()
        self._closed(self)

    def _must_reset(self) -> bool:
        """True if a regular close after a cut response would do harm.

        It would look like the response's regular end, where that has no other; and to a client that takes nothing,
        what is queued for it would stay in the kernel's memory.
        """
        end = self.departure.lifecycle.ended
        return self.engine.closing_ends_response or (end is not None and end.cause in CLIENT_SLOW)

    def _abandoned_status(self, end: End) -> int:
        try:
            status = self._rules.status.status(end.phase, end.cause)
        except BaseException as error:
            if not is_failure(error):
                raise
            self.context.reporter.status_policy_failed(error)
            status = None
        return _default_status(end) if status is None else status


def _error_answer(exchange: ServedExchange, status: int, detail: str) -> tuple[list[Field], bytes]:
    """Fields and content of an error answer, in the form that the client likes."""
    accept = exchange.head.headers.get_all("accept") if exchange.has_head else ()
    content_type, body = error_content(status, detail, accept)
    return [(b"content-type", content_type.encode("ascii"))], body


def _default_status(end: End) -> int:
    """The default policy's code. 500 where the table has none: then the end is a mistake of our own."""
    return DEFAULT.cells.get((end.phase, end.cause)) or 500


_WHY = {
    Cause.READ_TIMEOUT: "the request took too long to arrive",
    Cause.DEADLINE: "the request took too long to handle",
    Cause.DRAIN: "the server is stopping",
    Cause.HANDLER_FAILED: "the server failed to answer this request",
}

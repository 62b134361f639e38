"""The seam between a connection and the application that it serves.

The connection knows nothing of routers, requests and responses: it finds an `Endpoint` for a head and calls it with
the `Exchange`, which is all that an application can do to one: read the request's content, send one response. The
app layer and ASGI are two implementations of `Application`; the connection is the one implementation of `Exchange`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from trioserve.core.errors import RequestError
from trioserve.core.lifecycle import CANCEL, Cause, DisconnectPolicy, HalfClose
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import Content, Field, RequestHead
from trioserve.core.records import Abandoned, ClientAddress
from trioserve.core.status import DEFAULT, StatusPolicy
from trioserve.core.target import Scheme

T = TypeVar("T")

Hook = Callable[[Abandoned], Awaitable[None] | None]
"""A user's function told of an `Abandoned`. A plain one runs in a worker thread."""

LastWords = Callable[[Cause], bytes]
"""What a switched protocol says to a client whom the server gives up for this cause."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one route. None means: as the server is configured."""

    disconnect: DisconnectPolicy = CANCEL
    half_close: HalfClose | None = None
    status: StatusPolicy = DEFAULT
    deadline: float | None = None  # seconds for the handler and its response; else Deadlines.handler
    max_body: float | None = None  # bytes of request content; else Limits.body


class Exchange(Protocol):
    """One request and its response, as the application sees it.

    Cancellation: when the client leaves, everything that runs inside `Endpoint.__call__` is cancelled by a scope of
    the connection's; the application has nothing to do for it and cannot prevent it but by shielding.
    """

    @property
    def head(self) -> RequestHead: ...

    @property
    def client(self) -> ClientAddress | None:
        """(host, port) of whoever made the request, by the word of trusted proxies; else of the peer. None if that is
        one of a Unix socket; port 0 if a proxy has not said it.
        """
        ...

    @property
    def scheme(self) -> Scheme:
        """By which scheme the client made it, by the word of trusted proxies; else by which it reached us."""
        ...

    @property
    def authority(self) -> str | None:
        """For which host[:port] the client made it, by the word of trusted proxies; else by its target or Host field.
        None if it did not say (HTTP/1.0).
        """
        ...

    @property
    def max_body(self) -> float:
        """How many bytes of content this request may have, by its route's rules."""
        ...

    @property
    def limits(self) -> Limits:
        """Those of the server. For the request's content there is `max_body`."""
        ...

    @property
    def deadlines(self) -> Deadlines:
        """Those of the server."""
        ...

    @property
    def refusal(self) -> RequestError | None:
        """Why the request is refused, where that is known from its head and what came with it: what its proxies say
        cannot be told from what the client says, or its content is malformed (400), it expects what nobody knows (417),
        or its content is larger than the route allows (413). An endpoint raises it instead of calling its handler.
        """
        ...

    def handler_starts(self) -> None:
        """Say so right before user code runs: until then an abandoned exchange counts as not started."""
        ...

    def handler_returned(self) -> None:
        """Say so when user code has ended and something is still to be sent. A whole response says it by itself."""
        ...

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """Run a plain function in one of the server's worker threads (`Limits.threads`); calls `handler_starts` when
        there is one.

        Raises:
            HTTPError: there was none within `Deadlines.queue` (503 with Retry-After).

        Cancellation: the wait for a thread is cancelled; once the function runs it is waited for, and learns of its
        cancellation from `trio.from_thread.check_cancelled()`.
        """
        ...

    def report_failure(self, error: BaseException) -> None:
        """Log that the handler raised `error`. For one who answers it himself; else it is done where it comes out."""
        ...

    def close_connection(self) -> None:
        """Let this exchange be the connection's last; its response announces it."""
        ...

    @property
    def completed(self) -> bool:
        """True once the response was handed whole to the transport."""
        ...

    @property
    def draining(self) -> bool:
        """True from the first order to end on: the server, or one of its workers, is going to end, and so is this
        connection after this exchange.
        """
        ...

    async def until_draining(self) -> None:
        """Wait until `draining` is true. A checkpoint, always."""
        ...

    @property
    def stopping(self) -> bool:
        """True from the order to stop on: the service is going to end. Not so for a worker that another replaces."""
        ...

    @property
    def ended(self) -> bool:
        """True once the client has left or the server gives up, whether the handler is stopped by that or runs on: what
        it still sends is thrown away.
        """
        ...

    def content_allowed(self, status: int) -> bool:
        """False where a response has no content: to HEAD, and with 204, 205 or 304."""
        ...

    async def receive_part(self) -> bytes:
        """The next bytes of the request's content; b"" at its end, and again after that. A checkpoint only if it waits.

        Sends `100 Continue` first if the client waits for it.

        Raises:
            RequestError: the content is malformed (400) or larger than the route allows (413).
            ClientGone: the client left before the content was complete (only where a cancellation cannot reach).
        """
        ...

    async def respond(self, status: int, fields: Sequence[Field], body: Content) -> None:
        """Send a whole response. `content-length` is added where the status code allows content.

        A file that is (a slice of) the body must stay open until this returns, and can then be closed.

        Raises:
            ResponseError: the response is malformed or has a field that is the server's to set, or one was begun
                before; or the body is a file that cannot be read, or has become shorter.
        """
        ...

    async def start_response(self, status: int, fields: Sequence[Field]) -> None:
        """Begin a streamed response: its head is sent at once."""
        ...

    async def send_part(self, data: Content) -> None:
        """Send one part of a streamed response; always a checkpoint, also when the client does not wait.

        A send that is cancelled half-way is completed by the next one, so framing never breaks. If the part was a file,
        it must stay open until then.

        Raises:
            ResponseError: no response was started, or the part goes beyond its Content-Length; or the part is a file
                that cannot be read, or has become shorter.
            ClientGone: the client has left (only where a cancellation cannot reach).
        """
        ...

    async def end_response(self) -> None:
        """Complete a streamed response.

        Raises:
            ResponseError: fewer bytes were sent than the Content-Length says.
        """
        ...

    # Another protocol on the same connection (RFC 9110 §7.8). In the records it is a response with status code 101, in
    # phase RESPONSE_BODY until `end_switched` has sent the last bytes and the handler has ended. The bytes after the
    # handshake count as content.

    @property
    def switched(self) -> bool:
        """True once `switch_protocols` has begun to send its 101."""
        ...

    async def switch_protocols(self, fields: Sequence[Field], last_words: LastWords) -> None:
        """Send 101 Switching Protocols, instead of a response. One that is cancelled half-way is completed by the next
        send.

        Args:
            fields: the 101's fields; nothing is added to them.
            last_words: called when the server gives up (drain, deadline, a failed handler) while the client is there:
                what it returns is offered to the client once, without waiting, before the close.

        Raises:
            ResponseError: the client has not asked for it, its request is not complete, the fields are malformed, or a
                response was begun before.
        """
        ...

    async def receive_bytes(self) -> bytes:
        """The next bytes; first those that came right behind the request. A checkpoint only if it waits.

        Has no deadline of its own. The client's FIN is a departure, and ends this as every departure does; after
        `client_may_go` it is none, and this returns b"". Goes on after `end_switched`, for an answer to the last word.

        Raises:
            ClientGone: the client has left (only where a cancellation cannot reach).
            trio.BusyResourceError: another task is receiving.
        """
        ...

    def pause_reading(self) -> None:
        """Say so before not calling `receive_bytes` again at once.

        Who reads meets the client's FIN in its place, behind what was sent before it; while nobody does, the FIN is a
        departure as soon as it is heard.
        """
        ...

    def client_may_go(self) -> None:
        """All was said: the client's last word was heard, or ours was sent. Its FIN alone is no departure any more."""
        ...

    def client_left(self) -> None:
        """The client may go no longer, and has: its FIN, met by `receive_bytes`, is a departure after all."""
        ...

    def client_vanished(self) -> None:
        """The protocol has found out that there is nobody any more: a departure with cause VANISHED.

        Without effect while the client's system has not acknowledged all that was sent: then it may only be slow, and
        `Deadlines.send_stall` and `Deadlines.vanish` judge that.
        """
        ...

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes; always a checkpoint. One that is cancelled half-way is completed by the next send, so nothing is
        ever sent in part.

        Raises:
            ResponseError: the protocol was ended before.
            ClientGone: the client has left (only where a cancellation cannot reach).
            trio.BusyResourceError: another task is sending.
        """
        ...

    async def end_switched(self, data: bytes) -> None:
        """Send the last bytes. Once they are out and the handler has ended, the exchange is complete: so call this
        again, with the same bytes, after `handler_returned`. If it was cancelled, that sends what is left of them too.

        Raises:
            ClientGone, trio.BusyResourceError: as for `send_bytes`.
        """
        ...


class Endpoint(Protocol):
    """What serves one route."""

    @property
    def name(self) -> str | None:
        """The route's pattern, for records; None where no route was found."""
        ...

    @property
    def rules(self) -> Rules: ...

    async def __call__(self, exchange: Exchange) -> None:
        """Serve the exchange: send exactly one response.

        Raises:
            HTTPError: answered with its status, if no response was begun.
            DropConnection: the connection is closed without an answer.
            Exception: anything else is the handler's failure: 500, or the response is cut.
        """
        ...


class Background(Protocol):
    """Where an application starts work that outlives the exchange; the server's."""

    def start_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Run `function(*args)` beside all exchanges: an async one as a task, a plain one in a worker thread.

        One that raises is logged and disturbs nobody; `ExchangeOver` is no failure. When the server stops, it is waited
        for until `Deadlines.background`, and then cancelled.

        May be called from a handler's worker thread too.

        Raises:
            TypeError: `function` is none.
            RuntimeError: the server has stopped.
        """
        ...

    async def stop(self) -> None:
        """Cancel all of it and wait for its end. For an application that fails to start, before it closes what that
        work may use; in every other case the server does it.

        Cancellation: waited out, since an unwind is not cut.
        """
        ...


class Application(Protocol):
    """What a server serves."""

    def running(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Entered before the first connection is accepted, left when the last has ended and no background work runs.

        Cancellation: while it is entered and while it is left, as usual; in between it is shielded, so that what it
        holds is there as long as a handler may use it. If it cancels its block itself, because what it holds has
        failed, the server stops as if it had been cancelled, and the block ends when all that runs has.
        """
        ...

    @property
    def rules(self) -> Rules:
        """What holds where no route is known yet: between exchanges and inside a head."""
        ...

    @property
    def hooks(self) -> Sequence[Hook]:
        """Whom to tell of every Abandoned."""
        ...

    def endpoint(self, head: RequestHead) -> Endpoint:
        """The endpoint for a request. Called before the body is read; must not block and must not raise.

        Where there is no route, this is an endpoint that answers 404, 405 or 501.
        """
        ...

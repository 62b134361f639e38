"""WebSocket: messages both ways over one connection (RFC 6455), on wsproto.

Theory
------
A session is one exchange that never becomes a response: a 101, then frames, then a Close frame from each side. So the
scope, the policies and the record are those of every exchange: when the client leaves without a Close frame, the
handler is cancelled wherever it waits, and one `Abandoned` tells of it (phase RESPONSE_BODY, `sent_status` 101). The
session is `Completed` when our Close frame is out *and* the handler has ended: what it does behind a `close` of its own
is under the deadline, the policies and the drain like all else.

Who does what, in one nursery: the *handler* runs in the task of the connection. The *reader* reads ahead, so that
pings, a Close frame and the client's end are met while the handler does something else. The *keeper* sends what
nobody waits for: pongs, keep-alive pings, and the Close frame after a mistake of the client's; so the reader never
waits for a client that does not read.

* **Back-pressure.** The reader keeps at most `Limits.websocket_queue` messages, and bytes for one message of full size,
  before the handler asks for them. Then it stops, and the client is held back; its departure is heard all the same. As
  with a request's content, bytes that lie unread may then be taken in, within `Limits.spool`, to see a FIN behind them.
* **A Close frame is no departure.** Messages before it are delivered; then `receive` raises WebSocketClosed, iteration
  ends, and so does a `send`. The handler is not cancelled by it. Our own Close frame goes out when the handler has
  ended and a route's dependencies are left, so that a commit that fails can still be told. A client that leaves right
  behind its Close frame is a departure as long as the handler does something else: there is nobody left to work for. A
  handler that knows of the end, since it waits in `receive`, has heard of it already, or has closed by itself, has
  `Deadlines.unwind` to clean up before the client's FIN is a departure. A reset is one at once.
* **Sends** from several tasks wait for each other: frames never mix. A send that is cancelled half-way is completed by
  the next one, so a message is sent whole or not at all, unless the connection ends.
* **The client's mistakes** (RFC 6455 §7.4.1): a Close frame with 1002 for a broken protocol, 1007 for text that is no
  UTF-8, 1009 for a message beyond the limit. The handler learns of it as of a Close frame.
* **Silence**: a client that sends nothing between one keep-alive ping and the time for the next has vanished. Pings end
  with the first Close frame, whosever it is; from there on the system alone judges whether there is anybody.
* **WebSocketClosed** that leaves the handler is a normal end once the session has ended, whoever noticed it first; what
  was cancelled beside it was cancelled.
* **Our own ends**: a handler that fails is logged, and the client hears 1011; so it does at a deadline. When the server
  stops, it hears 1001. An HTTPError is an answer before `accept` and a failure after it, since no status code can be
  said any more.
* **Refused**: extensions, permessage-deflate among them: its window is memory for each connection, for as long as the
  connection lives, which may be days.

Whether a page of another origin may connect is the handler's to say: browsers send `Origin`, and no same-origin policy
protects a WebSocket. Where cookies matter, compare `socket.request.headers.get("origin")` and raise HTTPError(403).
"""

from __future__ import annotations

import io
import json
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import trio

from trioserve.app.handshake import accepting_fields, check_handshake, subprotocols
from trioserve.app.headers import HeaderItems, fields_of
from trioserve.app.request import Request
from trioserve.core.errors import ClientGone, ConfigError, ExchangeOver, ResponseError
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import Field
from trioserve.failures import sole

if TYPE_CHECKING:
    from wsproto.events import Event, Message, Pong

PING = 20.0
"""Seconds between two keep-alive pings: below the 60 s after which the usual proxies drop a silent connection, and
below the 30 s of some mobile networks."""

NORMAL, GOING_AWAY, NO_CODE, ABNORMAL, TOO_BIG, FAILED = 1000, 1001, 1005, 1006, 1009, 1011
"""Close codes that we use ourselves: RFC 6455 §7.4.1."""

_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""Close codes that may stand in a Close frame (RFC 6455 §7.4, and IANA's registry for 1012 to 1014)."""

_CLOSE_REASON = 123
"""Bytes: what a control frame has room for beside the code (RFC 6455 §5.5)."""

Handler = Callable[["WebSocket"], Awaitable[object]]


class WebSocketClosed(ExchangeOver):
    """The session is over: no further message comes, and none can be sent.

    It may leave the handler, which is a normal end. `code` and `reason` are those of the Close frame that ended the
    session, the client's or our own; the code is 1005 if the client's had none, and 1006 if the client left without a
    Close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"the WebSocket is closed: {code} {reason}".rstrip())


async def serve_websocket(
    request: Request, handler: Handler, *, ping: float = PING, max_message: float | None = None
) -> None:
    """Serve a whole session: handshake, `handler`, Close frames.

    Args:
        ping: seconds between two keep-alive pings; math.inf for none.
        max_message: bytes of one message; beyond it Close 1009. None: `Limits.websocket_message`.

    Raises:
        HTTPError: the handshake is wrong, or the handler refuses it: nothing was sent yet.
        Exception: whatever else the handler raised, but for a WebSocketClosed at the end of the session.
    """
    exchange = request.exchange
    check_handshake(exchange.head)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            socket = WebSocket(
                request,
                nursery,
                ping=ping,
                max_message=exchange.limits.websocket_message if max_message is None else max_message,
            )
            exchange.handler_starts()
            await socket.attend(handler(socket))
            await socket.finish()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = sole(group)
    if failure is not None:
        raise failure  # out here, so that it does not have the nursery's group for its context


def _without_closed(error: BaseException) -> BaseException | None:
    """What remains of an exception without WebSocketClosed, which a handler's own nursery packs up; None if nothing."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(WebSocketClosed)[1]
    return None if isinstance(error, WebSocketClosed) else error


class WebSocket:
    """One session with one client. Made for each handshake; not to be used after its handler has ended.

    The handshake is accepted by `accept`, or else by whatever comes first of receive, send, ping and close. Until
    then, raising HTTPError refuses it with an ordinary answer.

    Cancellation: when the client leaves without a Close frame, whatever the handler awaits is cancelled. Where that
    cannot reach (inside a shield, or under the policies FINISH and Grace) `receive` gives out the messages that had
    come and then raises WebSocketClosed with code 1006; what is sent is thrown away.
    """

    def __init__(self, request: Request, nursery: trio.Nursery, *, ping: float, max_message: float) -> None:
        self.request = request
        self._exchange = request.exchange
        self._nursery = nursery
        self._ping = ping
        self._max_message = max_message
        self._connection, self._events = load_wsproto()
        self._protocol = self._connection.Connection(self._connection.ConnectionType.SERVER)
        # Held by whoever sends.
        self._line = trio.Lock()
        # Messages that nobody has asked for yet, each with its size in bytes; and the sum of these.
        self._messages: deque[tuple[str | bytes, int]] = deque()
        self._queued = 0
        # The fragments of the message that is coming, and their size so far. In a buffer: they may be tiny and many.
        self._fragments: io.StringIO | io.BytesIO | None = None
        self._size = 0
        # Who waits for a message, and the reader where it waits for room.
        self._receivers = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        # Code and reason with which the session ended; None while messages may come and go.
        self._end: tuple[int, str] | None = None
        # How the client ended its side: by a Close frame, or without one (ABNORMAL).
        self._clients_end: tuple[int, str] | None = None
        # A mistake of the client's, of which it is to be told.
        self._mistake: tuple[int, str] | None = None
        # Our Close frame, once there is one.
        self._goodbye: bytes | None = None
        # Set when there is nothing more to be heard: the client has ended its side, or made a mistake.
        self._heard_out = trio.Event()
        self._reading = trio.CancelScope()
        # The client's last ping, if it was not answered yet. RFC 6455 §5.5.3 asks for an answer to the last only.
        self._pong_owed: Pong | None = None
        self._keeper_wanted = trio.Event()
        self._heard_at = trio.current_time()

    # The handshake

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, the one that it likes best first (RFC 6455 §1.9)."""
        return subprotocols(self.request.headers)

    async def accept(self, subprotocol: str | None = None, headers: HeaderItems = ()) -> None:
        """Accept the handshake: 101 Switching Protocols.

        Args:
            subprotocol: one of `subprotocols`; None for none.
            headers: further fields of the 101, such as set-cookie.

        Raises:
            ResponseError: it was accepted already, the client does not offer the subprotocol, or a field cannot be set.
        """
        fields = accepting_fields(self.request.headers, subprotocol, fields_of(headers, None))
        async with self._line:
            if self._accepted:
                raise ResponseError("this WebSocket was accepted already; call accept() before any receive or send")
            await self._accept(fields)

    async def _accept_if_needed(self) -> None:
        if not self._accepted:
            async with self._line:
                if not self._accepted:
                    await self._accept(accepting_fields(self.request.headers, None, ()))

    @property
    def _accepted(self) -> bool:
        # The end can come before: a client that has left is not answered.
        return self._exchange.switched or self._end is not None

    async def _accept(self, fields: Sequence[Field]) -> None:
        try:
            await self._exchange.switch_protocols(fields, self._last_words)
        except ClientGone:
            raise self._gone() from None
        finally:
            # Also if the handler has cancelled the sending of the 101: its rest goes before the first frame.
            if self._exchange.switched:
                self._nursery.start_soon(self._read)
                self._nursery.start_soon(self._keep)
        if not self._exchange.switched:
            self._client_left()

    # Receiving

    async def receive(self) -> str | bytes:
        """The next message: str if it is text, bytes if it is binary.

        Always a checkpoint; a receive that is cancelled loses no message.

        Raises:
            WebSocketClosed: there is none.
        """
        await self._accept_if_needed()
        await trio.lowlevel.checkpoint()
        while not self._messages:
            if self._end is not None:
                raise self._closed(self._end)
            await self._receivers.park()
        message, size = self._messages.popleft()
        self._queued -= size
        self._room.unpark_all()
        return message

    async def receive_json(self) -> Any:
        """The next message as JSON.

        Raises:
            ValueError: it is not. The session goes on.
            WebSocketClosed: there is none.
        """
        return json.loads(await self.receive())

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        """The next message; the iteration ends with a Close frame, the client's or our own.

        Raises:
            WebSocketClosed: the client made a mistake, or left without a Close frame.
        """
        try:
            return await self.receive()
        except WebSocketClosed as error:
            if self._mistake is not None or error.code == ABNORMAL:
                raise
            raise StopAsyncIteration from None

    @property
    def close_code(self) -> int | None:
        """The code of the client's Close frame: 1005 if it had none, 1006 if the client left without a Close frame.

        None as long as neither has happened.
        """
        return None if self._clients_end is None else self._clients_end[0]

    @property
    def close_reason(self) -> str | None:
        """The reason in the client's Close frame, often empty. None as long as `close_code` is."""
        return None if self._clients_end is None else self._clients_end[1]

    # Sending

    async def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send a message: text for a str, binary for bytes. Always a checkpoint.

        Waits while the client does not take what was sent before, as long as `Deadlines.send_stall` allows. Tasks that
        send at the same time take turns. A send that is cancelled sends nothing, or the whole message with the next.

        Raises:
            WebSocketClosed: a Close frame came or was sent.
            TypeError: the message is neither text nor bytes.
            UnicodeEncodeError: the text has surrogates, which UTF-8 cannot carry.
        """
        if isinstance(message, str):
            event: Message[Any] = self._events.TextMessage(data=message)
        elif isinstance(message, bytes | bytearray | memoryview):
            event = self._events.BytesMessage(data=bytes(message))
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}; for JSON there is send_json")
        await self._send(event)

    async def send_json(self, value: Any) -> None:
        """Send a value as a text message of JSON.

        Raises:
            TypeError, ValueError: JSON cannot say it.
            WebSocketClosed: as for `send`.
        """
        await self.send(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))

    async def ping(self) -> None:
        """Send a ping. The pong is not waited for; the reader takes it as a sign of life, like all that comes.

        Raises:
            WebSocketClosed: as for `send`.
        """
        await self._send(self._events.Ping())

    async def _send(self, event: Event) -> None:
        await self._accept_if_needed()
        async with self._line:
            # A client that has left without a Close frame is no error here: the policies let the handler run on.
            if self._end is not None and self._end[0] != ABNORMAL:
                raise self._closed(self._end)
            await self._send_frame(event)

    async def _send_frame(self, event: Event) -> None:
        """Send a frame. The caller holds the line."""
        try:
            await self._exchange.send_bytes(bytes(self._protocol.send(event)))
        except ClientGone:
            raise self._gone() from None

    # Closing

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send a Close frame. Does nothing if one was sent already.

        Messages that were not received are thrown away. The client's answer is not waited for here, but when the
        handler has ended, for `Deadlines.linger`. A handler that works on after this is cancelled by a reset, by its
        deadline, and `Deadlines.unwind` after the client has gone.

        Args:
            code: 1000 for a normal end; an application's own codes are 4000 to 4999 (RFC 6455 §7.4.2).
            reason: for the client's program or its log, not for people; at most 123 bytes.

        Raises:
            ValueError: the code cannot be sent, or the reason is too long.
            WebSocketClosed: the client has left (only where a cancellation cannot reach).
        """
        if code not in _SENDABLE:
            raise ValueError(f"{code!r} is no close code that can be sent; use 1000, or your own from 4000 to 4999")
        if len(reason.encode()) > _CLOSE_REASON:
            raise ValueError(f"the reason of a close is longer than {_CLOSE_REASON} bytes: {reason!r}")
        await self._accept_if_needed()
        await self._say_goodbye(code, reason)
        self._handler_knows()

    async def attend(self, handling: Awaitable[object]) -> None:
        """Await what a handler does. For `serve_websocket`.

        A WebSocketClosed that leaves it is the end of this session, and no failure; unless this session has not ended.
        """
        try:
            await handling
        except (WebSocketClosed, BaseExceptionGroup) as error:
            rest = error if self._end is None else _without_closed(error)
            if rest is error:
                raise
        else:
            return
        if rest is not None:
            raise rest  # out here, so that it does not have what it was part of for its context

    async def finish(self) -> None:
        """The handler has ended: see to it that both sides have said goodbye. For `serve_websocket`."""
        self._exchange.handler_returned()
        try:
            await self._accept_if_needed()
            await self._say_goodbye(*self._last_code())
            self._handler_knows()
        except WebSocketClosed:
            return  # a shield around all this has held the cancellation off; there is nobody left
        with trio.move_on_after(self._exchange.deadlines.linger):
            await self._heard_out.wait()

    def _last_code(self) -> tuple[int, str]:
        """Code and reason for the Close frame that says nothing new: the client's code comes back to it."""
        if self._mistake is not None:
            return self._mistake
        code = self.close_code
        return (NORMAL if code is None or code == ABNORMAL else code), ""

    async def _say_goodbye(self, code: int, reason: str) -> None:
        async with self._line:
            self._goodbye = self._close_frame(code, reason)
            self._ended(code, reason)
            self._messages.clear()
            try:
                await self._exchange.end_switched(self._goodbye)
            except ClientGone:
                raise self._gone() from None

    def _last_words(self, cause: Cause) -> bytes:
        if cause is Cause.DRAIN:
            return self._close_frame(GOING_AWAY, "the server is stopping")
        return self._close_frame(FAILED, "the server failed")

    def _close_frame(self, code: int, reason: str) -> bytes:
        """Our Close frame. There is one at most: it is made once, and offered until it is out."""
        if self._goodbye is not None:
            return self._goodbye
        if code == NO_CODE:
            frame = self._events.CloseConnection(code=None)
        else:
            frame = self._events.CloseConnection(code=code, reason=reason)
        return bytes(self._protocol.send(frame))

    def _closed(self, end: tuple[int, str]) -> WebSocketClosed:
        """What to raise in a handler, which so hears of the end."""
        self._handler_knows()
        return WebSocketClosed(*end)

    def _handler_knows(self) -> None:
        """The handler knows how the session ended: if not by its leaving, the client may go."""
        if self.close_code != ABNORMAL:
            self._exchange.client_may_go()
            if self._heard_out.is_set():
                self._reading.cancel()

    @property
    def _handler_will_know(self) -> bool:
        """True if the handler has closed the session itself, or waits for a message and none is there."""
        return self._goodbye is not None or (bool(self._receivers) and not self._messages)

    def _ended(self, code: int, reason: str) -> None:
        """No message comes or goes any more."""
        if self._end is None:
            self._end = code, reason
        self._receivers.unpark_all()
        self._room.unpark_all()
        self._keeper_wanted.set()

    # The reader

    async def _read(self) -> None:
        try:
            with self._reading:
                while data := await self._exchange.receive_bytes():
                    self._heard_at = trio.current_time()
                    await self._take(data)
                self._client_left()
            # The client may go now, and the handler knows why. But one that works on for nobody is to be stopped: after
            # a while its client's leaving is a departure like any other.
            await trio.sleep(self._exchange.deadlines.unwind)
            while await self._exchange.receive_bytes():
                pass
            self._exchange.client_left()
        except ClientGone:
            pass
        finally:
            self._client_left()

    async def _take(self, data: bytes) -> None:
        # What comes behind a Close frame or a mistake means nothing; only the end of the input still does.
        if self._heard_out.is_set():
            return
        events = self._events
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            # Nothing is awaited here but room: a Close frame that is in our hands is met before a FIN behind it.
            match event:
                case events.Message():
                    await self._take_data(event)
                case events.Ping():
                    self._pong_owed = event.response()
                    self._keeper_wanted.set()
                case events.CloseConnection():
                    self._take_close(event.code, event.reason or "")
            if self._heard_out.is_set():
                return

    async def _take_data(self, frame: Message[Any]) -> None:
        if self._end is not None:
            return  # we have closed: it comes too late
        data = frame.data
        self._size += len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        if self._size > self._max_message:
            self._fail(TOO_BIG, f"a message has more than {self._max_message:.0f} bytes")
        elif self._fragments is None and frame.message_finished:
            await self._queue(data)
        else:
            if self._fragments is None:
                self._fragments = io.StringIO(newline="") if isinstance(data, str) else io.BytesIO()
            self._fragments.write(data)
            if frame.message_finished:
                whole, self._fragments = self._fragments.getvalue(), None
                await self._queue(whole)

    async def _queue(self, message: str | bytes) -> None:
        size, self._size = self._size, 0
        while self._end is None and not self._has_room(size):
            self._exchange.pause_reading()
            await self._room.park()
        if self._end is None:
            self._messages.append((message, size))
            self._queued += size
            self._receivers.unpark()

    def _has_room(self, size: int) -> bool:
        """True if a message of this size may be queued. One always may."""
        if not self._messages:
            return True
        return len(self._messages) < self._exchange.limits.websocket_queue and self._queued + size <= self._max_message

    def _take_close(self, code: int, reason: str) -> None:
        state = self._connection.ConnectionState
        if self._protocol.state in {state.OPEN, state.LOCAL_CLOSING}:
            self._fail(code, reason)  # not a Close frame, but what wsproto says of a broken one, or of another frame
            return
        self._clients_end = int(code), reason
        self._heard_out.set()
        handler_will_know = self._handler_will_know
        self._ended(*self._clients_end)
        if handler_will_know:
            self._handler_knows()

    def _fail(self, code: int, reason: str) -> None:
        """Nothing that the client sends can be understood any more."""
        self._heard_out.set()
        handler_will_know = self._handler_will_know
        if self._end is None:
            self._mistake = int(code), reason
            self._ended(*self._mistake)
        if handler_will_know:
            self._handler_knows()

    def _client_left(self) -> None:
        """The input has ended; without a Close frame, if none has come."""
        if self._clients_end is None:
            self._clients_end = ABNORMAL, ""
        self._ended(*self._clients_end)
        self._heard_out.set()

    def _gone(self) -> WebSocketClosed:
        """What to raise where a send finds nobody. It may find that before the reader does: the end is the same."""
        self._client_left()
        return WebSocketClosed(ABNORMAL, "")

    # The keeper

    async def _keep(self) -> None:
        try:
            await self._send_what_is_due()
        except WebSocketClosed:
            return  # a shield around all this has held the cancellation off; there is nobody left

    async def _send_what_is_due(self) -> None:
        due, pinged_at = trio.current_time() + self._ping, -math.inf
        while self._end is None:
            with trio.move_on_at(due) as silence:
                await self._keeper_wanted.wait()
            # A client that has said Close owes no pong, and after our own Close it gets no ping.
            if silence.cancelled_caught and self._end is None:
                if self._heard_at < pinged_at and not self._room:
                    self._exchange.client_vanished()
                await self._control(self._events.Ping())
                pinged_at = trio.current_time()  # now, and not before it was sent: it may have had to wait
                due = pinged_at + self._ping
            elif self._pong_owed is not None:
                pong, self._pong_owed = self._pong_owed, None
                self._keeper_wanted = trio.Event()
                await self._control(pong)
        if self._mistake is not None:
            await self._say_goodbye(*self._mistake)

    async def _control(self, event: Event) -> None:
        """Send a control frame, if there is still something to control."""
        async with self._line:
            if self._end is None:
                await self._send_frame(event)


def load_wsproto() -> tuple[ModuleType, ModuleType]:
    """The modules of wsproto for connections and for events. Only now: it is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from wsproto import connection, events
    except ImportError:
        raise ConfigError(
            "a WebSocket needs the package wsproto; install it with pip install 'trioserve[websocket]'"
        ) from None
    return connection, events

"""TestClient: httpx on the server in memory, and a client that can leave.

What httpx does is httpx's: parameters, JSON, forms, cookies, redirects, authentication, streams. Below it lies one
transport of our own: `_Calls` keeps connections as httpx does and has one `_Call` for each request on the wire, which
sends it whole, then reads its answer; h11 writes the one and reads the other. What the two make of a server that
misbehaves is the same as over a network: `RemoteProtocolError`, `ReadError`, and no answer.

A client that leaves by itself is no error: what it had received by then is its answer, as far as it came. A departure
is always between two bytes, and what is sent before it has reached the server.

Every answer has its record. To wait for it is to wait until the server has done with the exchange; that takes as long
as the handler, or the noticing of a client that vanished, takes in virtual time, and no time otherwise.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar, cast

import h11
import httpx
import trio

from trioserve.connection.exchange import ServedExchange
from trioserve.core.application import Application
from trioserve.core.records import Abandoned, Completed, Record
from trioserve.core.target import Scheme
from trioserve.server.config import Config
from trioserve.testing.facts import Wait
from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, Point, ResponseBytes, Way
from trioserve.testing.peer import STEPS_OF_NEWS
from trioserve.testing.served import Served, served
from trioserve.testing.wire import HOST, fields_of, head_of, target_of

P = ParamSpec("P")
T = TypeVar("T")

RECEIVE_SIZE = 65_536
"""Bytes taken at once."""

NO_ANSWER = 0
"""The status code of an answer that never came, as curl and browsers give it."""

SWITCHING_PROTOCOLS = 101

_STATUS_LINE = re.compile(rb"HTTP/[0-9.]+ ([2-9][0-9]{2})[ \r\n]")


class Answer(httpx.Response):
    """A response, and the record that the server made of its exchange.

    If the client left before the end: what was received; its status code is 0 if no status line was.
    """

    _record: Record | None
    is_over = False
    """True once it was read or closed, and the server has done with the exchange."""

    @property
    def record(self) -> Record | Any:
        """The server's record: `Completed` or `Abandoned`. None if it made none, as when the client left before it had
        sent anything (`HeadBytes(0)`).

        Raises:
            RuntimeError: the answer is still being read.
        """
        if not self.is_over:
            raise RuntimeError(
                "the exchange is not over, so there is no record; read the answer to its end, or close it"
            )
        return self._record

    def over(self, record: Record | None) -> None:
        """For its transport: the exchange is over."""
        self._record, self.is_over = record, True

    def raise_for_status(self) -> Self:
        """As httpx does.

        Raises:
            httpx.HTTPStatusError: the status code is not 2xx; or there is none, since the client left before.
        """
        if self.status_code != NO_ANSWER:
            return cast("Self", super().raise_for_status())
        end = f". {_in_words(self._record)}" if self.is_over else ""
        asked = f"{self.request.method} {self.request.url}"
        raise httpx.HTTPStatusError(
            f"the client left before it had received a status line, in {asked}{end}",
            request=self.request,
            response=self,
        )


# Decorators that put a method of httpx in the place of a stub, typed as what it gives here. As an attribute without a
# stub it would have the type that httpx says, in the eyes of some type checkers.


def _answering(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, httpx.Response]],
) -> Callable[[Callable[[Any], None]], Callable[Concatenate[Any, P], Coroutine[Any, Any, Answer]]]:
    return lambda _: cast("Any", method)


def _streaming(
    method: Callable[Concatenate[Any, P], AbstractAsyncContextManager[httpx.Response]],
) -> Callable[[Callable[[Any], None]], Callable[Concatenate[Any, P], AbstractAsyncContextManager[Answer]]]:
    return lambda _: cast("Any", method)


class TestClient(httpx.AsyncClient):
    """A client of an app that is served in memory while the client is open.

        async with TestClient(app) as client:
            answer = await client.get("/reports/2025", params={"full": "yes"})
            assert answer.json() == {"year": 2025}
            assert answer.record.status == 200

            client.leave(Way.RESET, Checkpoint(1))
            answer = await client.get("/reports/2025")
            assert answer.status_code == 0
            assert answer.record.phase is Phase.HANDLER

    An `httpx.AsyncClient`, with its methods and options, for use under a virtual clock (`trioserve.testing.run`, or
    trio's `MockClock`); under the real clock it works too, and waits take their time.

    URLs may be relative; whatever their host, they lead to the app. What is asked for by https reaches the app by https
    (`request.scheme`), without TLS being played. It is the default, so that cookies that are Secure come back; with
    `base_url="http://test"` they would not.

    Args:
        app: an `App`, or any other `Application`. Nothing is changed in it.
        config: as for `serve`.
        options: those of `httpx.AsyncClient`. There are no timeouts by default: a server that lets its clients wait is
            found by its own deadlines.

    Raises:
        TypeError: `app` or `config` is something else.
        RuntimeError: when the block is left, the client was still to `leave` in a next request.

    Cancellation: of a request, is a departure, as with httpx.
    """

    __test__ = False  # for pytest: this class is no test

    def __init__(self, app: Application, config: Config | None = None, **options: Any) -> None:
        _check_served(app, config)
        options = {"base_url": f"https://{HOST}", "timeout": None, **options}
        self._calls = _Calls()
        super().__init__(transport=self._calls, trust_env=False, **options)
        self._app = app
        self._config = config
        self._serving = served(app, config)

    @_answering(httpx.AsyncClient.get)
    def get(self) -> None: ...

    @_answering(httpx.AsyncClient.options)
    def options(self) -> None: ...

    @_answering(httpx.AsyncClient.head)
    def head(self) -> None: ...

    @_answering(httpx.AsyncClient.post)
    def post(self) -> None: ...

    @_answering(httpx.AsyncClient.put)
    def put(self) -> None: ...

    @_answering(httpx.AsyncClient.patch)
    def patch(self) -> None: ...

    @_answering(httpx.AsyncClient.delete)
    def delete(self) -> None: ...

    @_answering(httpx.AsyncClient.request)
    def request(self) -> None: ...

    @_answering(httpx.AsyncClient.send)
    def send(self) -> None: ...

    @_streaming(httpx.AsyncClient.stream)
    def stream(self) -> None: ...  # type: ignore[override] # httpx says which context manager it is

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._calls.open(await self._serving.__aenter__())
        return self

    async def __aexit__(  # type: ignore[override] # what ends the server may end the block
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool | None:
        await super().__aexit__(kind, error, traceback)
        self._calls.served = None
        ends_the_error = await self._serving.__aexit__(kind, error, traceback)
        if kind is None:
            self._calls.check_nothing_armed()
        return ends_the_error

    @property
    def is_unopened(self) -> bool:
        """True until it is opened."""
        return self._calls.served is None and not self.is_closed

    @property
    def served(self) -> Served:
        """What this client talks to: `served.records` are all records, `served.connect()` gives a client on raw bytes.

        Raises:
            RuntimeError: the client is not open.
        """
        return self._calls.demand_served()

    def leave(self, how: Way = Way.FIN, when: Point | None = None) -> None:
        """Leave in the next request at a point; or at once, in each request that is under way.

        The request then gives an `Answer` all the same: what had been received, and status code 0 if that was nothing.
        After a HALF_CLOSE it may be a whole one. Its `record` is None if the server never heard of the request, as
        after `HeadBytes(0)`.

        Args:
            how: FIN, RESET, VANISH or HALF_CLOSE.
            when: the point: `HeadBytes`, `BodyBytes`, `Checkpoint` or `ResponseBytes`. A request that ends before it
                raises a RuntimeError. If the next request is redirected, it is the first of those on the wire.

        Raises:
            RuntimeError: no request is under way in which to leave at once; or one is to be left already by an
                earlier call, and has not been sent yet.
            TypeError: `when` is no point.
            ValueError: no way is called so.
        """
        if when is None:
            self._calls.leave(Way(how))
        else:
            _check_point(when)
            self._calls.arm(Way(how), when)


class _Calls(httpx.AsyncBaseTransport):
    """Requests of one client, each on a connection of its own while it is under way; connections are kept."""

    def __init__(self) -> None:
        self.served: Served | None = None
        self._under_way: set[_Call] = set()
        self._idle: dict[Scheme, list[_Connection]] = {"http": [], "https": []}
        self._armed: tuple[Way, Point] | None = None

    def open(self, server: Served) -> None:
        self.served = server
        server.watch.on_checkpoint = self._at_checkpoint

    def _at_checkpoint(self, wait: Wait) -> None:
        for call in tuple(self._under_way):
            call.at_checkpoint(wait)

    def demand_served(self) -> Served:
        if self.served is None:
            raise RuntimeError("the client is not open; open it with `async with TestClient(app) as client:`")
        return self.served

    def arm(self, way: Way, point: Point) -> None:
        if self._armed is not None:
            raise RuntimeError(
                f"the client is to leave by {self._armed[0]!r} at {self._armed[1]!r} in the next request already; send "
                "that first, then say how to leave in the one after it"
            )
        self._armed = way, point

    def check_nothing_armed(self) -> None:
        if self._armed is not None:
            raise RuntimeError(
                f"the client was to leave by {self._armed[0]!r} at {self._armed[1]!r}, but no request followed; call "
                "leave() before the request"
            )

    def leave(self, way: Way) -> None:
        if not self._under_way:
            raise RuntimeError(
                "no request is under way in which to leave at once; say when=, a point in the next one, or call this "
                "from another task while one is"
            )
        for call in tuple(self._under_way):
            call.leave(way)

    async def handle_async_request(self, request: httpx.Request) -> Answer:
        connection = self._take_connection("https" if request.url.scheme in {"https", "wss"} else "http")
        armed, self._armed = self._armed, None
        call = _Call(connection, request, armed, self._ended)
        self._under_way.add(call)
        try:
            await call.send()
            return await call.answer()
        except BaseException:
            call.stop()
            raise

    def _take_connection(self, scheme: Scheme) -> _Connection:
        server = self.demand_served()
        idle = self._idle[scheme]
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                connection.begin()
                return connection
            connection.peer.close()
        return _Connection(server, scheme)

    def _ended(self, call: _Call) -> None:
        if call in self._under_way:
            self._under_way.remove(call)
            if call.connection.is_reusable:
                self._idle[call.connection.scheme].append(call.connection)
            else:
                call.connection.peer.close()


class _Connection:
    """One connection, and what h11 knows of it."""

    def __init__(self, server: Served, scheme: Scheme) -> None:
        self.server = server
        self.scheme = scheme
        self.peer = server.connect(scheme=scheme)
        # The server's; None if it has sent the connection away.
        self.id = self.peer.connection_id
        self.h11 = h11.Connection(h11.CLIENT)
        # The number of the exchange that is under way, or was.
        self.number = 1

    def begin(self) -> None:
        """Begin the next exchange on it."""
        self.h11.start_next_cycle()
        self.number += 1

    @property
    def is_reusable(self) -> bool:
        return self.peer.left is None and self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE

    @property
    def is_usable(self) -> bool:
        """False if the server has closed it meanwhile."""
        return not self.peer.is_readable


class _Over(Exception):
    """Nothing more of an answer comes. `error` is what httpx makes of that; None if it is the client's own doing."""

    def __init__(self, error: httpx.TransportError | None = None) -> None:
        self.error = error


class _Call:
    """One request on the wire and its answer, each read and written in order, as httpx does."""

    def __init__(
        self,
        connection: _Connection,
        request: httpx.Request,
        armed: tuple[Way, Point] | None,
        ended: Callable[[_Call], None],
    ) -> None:
        self.connection = connection
        self._peer = connection.peer
        self._request = request
        self._timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        self._ended = ended
        # How to leave and at which point; None once that is done.
        self._armed = armed
        # So many bytes of the response have come, and all of it has.
        self._received = 0
        self._is_whole = False
        # What is waited for now: the departure ends it.
        self._waiting: trio.CancelScope | None = None

    # Leaving

    def leave(self, way: Way) -> None:
        """Leave now, wherever the request is."""
        self._armed = None
        self._peer.leave(way)
        if self._waiting is not None and self._is_gone:
            self._waiting.cancel(reason="the client has left")

    @property
    def _has_left(self) -> bool:
        return self._peer.left is not None

    @property
    def _is_gone(self) -> bool:
        """True if the client has left in a way in which it receives nothing more."""
        return self._peer.left is not None and self._peer.left.way is not Way.HALF_CLOSE

    def at_checkpoint(self, wait: Wait) -> None:
        """A handler has reached a checkpoint, perhaps that of this request."""
        exchange = wait.exchange
        assert isinstance(exchange, ServedExchange), "whoever watches is called by the connection"
        if (exchange.connection_id, exchange.number) == (self.connection.id, self.connection.number):
            self._arrive(Checkpoint(wait.number))

    def _arrive(self, point: Point) -> None:
        """Leave, if this is the point."""
        if self._armed is not None and self._armed[1] == point:
            self.leave(self._armed[0])

    def _room(self, kind: type[HeadBytes | BodyBytes | ResponseBytes], so_far: int) -> int:
        """How many more bytes may go over the wire before the departure; very many if it is no matter of them."""
        if self._armed is None or not isinstance(self._armed[1], kind):
            return sys.maxsize
        return self._armed[1].count - so_far

    # The request

    async def send(self) -> None:
        """Send the request, all that the server takes and is to get."""
        try:
            await self._send(HeadBytes, 0, self._head())
            sent = await self._send(BodyBytes, 0, b"")
            async with aclosing(self._body()) as body:
                async for data in body:
                    sent += await self._send(BodyBytes, sent, data)
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        except trio.BrokenResourceError:
            pass  # it may have answered before
        except _Over:
            pass

    def _head(self) -> bytes:
        method, target, fields = self._request.method, target_of(self._request), fields_of(self._request)
        self._to_wire(h11.Request(method=method, target=target, headers=list(fields)))  # refuses what is malformed
        return head_of(method, target, fields)  # with the fields in their order, as in `wire_of`

    async def _body(self) -> AsyncGenerator[bytes]:
        stream = self._request.stream
        assert isinstance(stream, httpx.AsyncByteStream), "httpx has seen to that"
        pieces = aiter(stream)
        try:
            async for data in pieces:
                yield self._to_wire(h11.Data(data))
            yield self._to_wire(h11.EndOfMessage())
        finally:
            # The user's own generator lies in httpx's, which does not close it.
            for each in (pieces, getattr(stream, "_stream", None)):
                if isinstance(each, AsyncGenerator):
                    await each.aclose()

    def _to_wire(self, event: h11.Event) -> bytes:
        return self.connection.h11.send(event) or b""

    async def _send(self, kind: type[HeadBytes | BodyBytes], so_far: int, data: bytes) -> int:
        """Send bytes of the head, or the body, of which so many were sent before; not beyond the departure.

        Raises:
            _Over: the client has left.
            trio.BrokenResourceError: the server has broken off.
        """
        if self._has_left:
            raise _Over
        data = data[: self._room(kind, so_far)]
        await self._wait(lambda: self._peer.send(data), "write", httpx.WriteTimeout)
        if self._room(kind, so_far) == len(data):
            # The server is to have seen, and done, all that it can with what it was sent.
            for _ in range(STEPS_OF_NEWS):
                await self._wait(trio.lowlevel.checkpoint, "write", httpx.WriteTimeout)
            self._arrive(kind(so_far + len(data)))
            raise _Over
        return len(data)

    # The answer

    async def answer(self) -> Answer:
        """The answer, its content unread.

        Raises:
            httpx.TransportError: none came, though the client has not left.
        """
        try:
            event = await self._event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != SWITCHING_PROTOCOLS:
                event = await self._event()
        except _Over as over:
            if not self._has_left:
                await self._fail(over)
            match = _STATUS_LINE.match(self.connection.h11.trailing_data[0])
            return self._answer(int(match[1]) if match else NO_ANSWER)
        assert isinstance(event, h11.Response | h11.InformationalResponse), "an answer begins with its head"
        return self._answer(
            event.status_code,
            headers=event.headers.raw_items(),
            extensions={"http_version": b"HTTP/" + event.http_version, "reason_phrase": event.reason},
        )

    def _answer(self, status: int, **known: Any) -> Answer:
        content = _Content(self)
        content.answer = answer = Answer(status, stream=content, **known)
        return answer

    async def parts(self) -> AsyncGenerator[bytes]:
        """The answer's content, as far as it comes. None to a 101, behind which nothing is HTTP.

        Raises:
            httpx.TransportError: it was cut, though the client has not left.
        """
        try:
            while isinstance(event := await self._event(), h11.Data):
                yield bytes(event.data)
        except _Over as over:
            if over.error is not None and not self._has_left:
                await self._fail(over)
        else:
            self._is_whole = True

    async def _event(self) -> h11.Event:
        """What comes next of the answer.

        Raises:
            _Over: nothing does.
        """
        try:
            while True:
                event = self.connection.h11.next_event()
                if event is h11.PAUSED:
                    raise _Over  # it was a 101
                if event is not h11.NEED_DATA:
                    return cast("h11.Event", event)
                self.connection.h11.receive_data(await self._receive())
        except h11.RemoteProtocolError as error:
            raise _Over(httpx.RemoteProtocolError(str(error))) from error
        except trio.BrokenResourceError as error:
            raise _Over(httpx.ReadError("the server has reset the connection")) from error

    async def _receive(self) -> bytes:
        if self._is_gone:
            raise _Over
        most = min(RECEIVE_SIZE, self._room(ResponseBytes, self._received))
        data = await self._wait(lambda: self._peer.receive(most), "read", httpx.ReadTimeout)
        self._received += len(data)
        if data:
            self._arrive(ResponseBytes(self._received))
        if not data and not self._received:
            raise _Over(httpx.RemoteProtocolError("Server disconnected without sending a response."))
        return data

    async def _wait(self, what: Callable[[], Awaitable[T]], kind: str, too_long: type[httpx.TimeoutException]) -> T:
        """Wait for something, within the request's timeout of that kind, and not beyond the departure.

        Raises:
            _Over: the client has left.
        """
        seconds = self._timeouts.get(kind)
        with trio.CancelScope(deadline=math.inf if seconds is None else trio.current_time() + seconds) as scope:
            self._waiting = scope
            try:
                return await what()
            except trio.ClosedResourceError:
                raise _Over from None
            finally:
                self._waiting = None
        if self._has_left:
            raise _Over
        raise too_long(f"nothing within {seconds:g} s", request=self._request)

    async def _fail(self, over: _Over) -> NoReturn:
        """Raise the error, with the record in its message; what the handler raised is its cause."""
        self.stop()
        error, record = over.error, await self._record()
        assert error is not None, "who has not left is told why nothing comes"
        cause = record.exception if isinstance(record, Abandoned) else None
        raise type(error)(f"{error} {_in_words(record)}", request=self._request) from cause or error

    # The end

    def stop(self) -> None:
        """Nothing more is sent or received. If the answer is not complete, this is a departure."""
        self._ended(self)

    async def finish(self, answer: Answer) -> None:
        """The answer was read, or nobody wants to."""
        self.stop()
        answer.over(await self._record())
        if self._is_whole and self._armed is not None:
            raise RuntimeError(f"the client was to leave at {self._armed[1]!r}, but the exchange ended before that")

    async def _record(self) -> Record | None:
        records, connection, number = self.connection.server.records, self.connection.id, self.connection.number
        if connection is None:
            return None
        if not self._is_whole:
            await self._peer.until_server_closed()
            if not records.has(connection, number):
                return None
        return await records.of(connection, number)


class _Content(httpx.AsyncByteStream):
    """The content of an answer."""

    answer: Answer

    def __init__(self, call: _Call) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._call.parts()) as parts:
            async for part in parts:
                yield part

    async def aclose(self) -> None:
        if not self.answer.is_over:
            await self._call.finish(self.answer)


def _check_served(app: object, config: object) -> None:
    """Refuse what cannot be served, before something deep inside does."""
    if isinstance(app, type) or not callable(getattr(app, "endpoint", None)):
        raise TypeError(f"{app!r} is no app; give TestClient an App, or another Application")
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config={config!r} is no Config; give Config(...), or leave it out")


def _check_point(when: object) -> None:
    if not isinstance(when, Point):
        raise TypeError(
            f"when={when!r} is no point; give HeadBytes(n), BodyBytes(n), Checkpoint(k) or ResponseBytes(n), with a "
            "number, such as Checkpoint(1)"
        )


def _in_words(record: Record | None) -> str:
    """A record in a message: what tells why there was no answer."""
    match record:
        case None:
            return "The server has made no record."
        case Abandoned():
            return (
                f"The server's record: Abandoned, status {record.status}, phase {record.phase}, cause {record.cause}, "
                f"outcome {record.outcome}, exception {record.exception!r}."
            )
        case Completed():
            return f"The server's record: Completed, status {record.status}."

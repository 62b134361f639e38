"""Response: what a handler returns.

A response is whole (a body of bytes) or streamed. A stream is pushed and not pulled: `write_body(send)` runs inside
the exchange's scope, in the same task as the handler, so structured concurrency holds and clean-up is ordinary.

An async generator is taken too, and made to behave as if each `yield part` were `await send(part)`: it runs in the
same task, and what ends a send is raised at its `yield`. That is more than closing it: a generator may have a cancel
scope or a nursery around its yields, and these can only do their part if the Cancelled comes through them. However the
exchange ends, the generator is closed before its scope is left; none is left to the garbage collector.
"""

from __future__ import annotations

import inspect
import json as _json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, Protocol

from trioserve.app.headers import HeaderItems, MutableHeaders, fields_of
from trioserve.core.application import Exchange
from trioserve.core.errors import ResponseError
from trioserve.core.messages import Field


class Send(Protocol):
    """What a stream's writer is given: `await send(part)` sends one part of the body, text as UTF-8.

    A checkpoint, always; waits while the client is not reading. A send that is cancelled half-way is completed by the
    next one, and one that waits for that is as if it had not been made.

    Raises:
        ResponseError: the part goes beyond the response's Content-Length, or the response is over.
        ClientGone: the client has left, and a cancellation cannot reach here (inside a shield).
        trio.BusyResourceError: another task is sending.
    """

    async def __call__(self, part: bytes | str, /) -> None: ...


WriteBody = Callable[[Send], Awaitable[None]]
Body = WriteBody | AsyncIterable[bytes] | AsyncIterable[str] | AsyncIterable[bytes | str]


class Response:
    """A whole response.

    Args:
        body: text is sent as UTF-8.
        status: 200-599.
        headers: a mapping, or pairs where a name may come twice. Content-Length and Date are added.
        content_type: the Content-Type; by default text/plain for text and application/octet-stream for bytes.

    Raises:
        ResponseError: the body is neither text nor bytes, the status is none, or HTTP cannot carry a header.
    """

    __slots__ = ("_fields", "body", "status")

    streamed: ClassVar[bool] = False
    """True where the body is written while it is sent: what it is made from must stay open until then."""

    def __init__(
        self,
        body: str | bytes = b"",
        *,
        status: int = 200,
        headers: HeaderItems = (),
        content_type: str | None = None,
    ) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ResponseError(f"status={status!r}; a response has a status code from 200 to 599")
        if not isinstance(body, str | bytes):
            raise ResponseError(f"a response body is str or bytes, not {type(body).__name__}; is it Response.json?")
        if content_type is None and body:
            content_type = "text/plain; charset=utf-8" if isinstance(body, str) else "application/octet-stream"
        self.status = status
        self._fields: list[Field] = fields_of(headers, content_type)
        self.body = body.encode() if isinstance(body, str) else body

    @property
    def headers(self) -> MutableHeaders:
        """The header section, to be read and changed until the response is sent."""
        return MutableHeaders(self._fields)

    @classmethod
    def json(cls, value: Any, *, status: int = 200, headers: HeaderItems = ()) -> Response:
        """A response with `value` as JSON, compact and in UTF-8.

        Raises:
            TypeError, ValueError: `value` cannot be JSON.
        """
        text = _json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(text, status=status, headers=headers, content_type="application/json")

    @classmethod
    def stream(
        cls,
        source: Body,
        *,
        status: int = 200,
        headers: HeaderItems = (),
        content_type: str = "application/octet-stream",
    ) -> Response:
        """A response whose body is sent while it is made.

        Args:
            source: `async def write_body(send)`, which writes the body part by part with `await send(part)`; or an
                async generator, or any other async iterator, of the parts. Text is sent as UTF-8.

        The head is sent before the source begins. Where HTTP allows no body (HEAD, 204, 304), it does not begin. Each
        part is a checkpoint and waits while the client is not reading. An error in the source cannot change the status
        any more: the response is cut, visibly for the client.

        Cancellation: when the client leaves, the source is cancelled where it waits. `write_body` waits in `send` too;
        there `send` inside a shield raises `ClientGone`. A generator that is suspended at `yield part` while its part
        is sent is resumed by the Cancelled (or whatever else ended the send), raised at that `yield`: its `finally` and
        `except` blocks run, and as everywhere in trio what they await is cancelled at once unless it is shielded.
        A generator is always closed by the end of the exchange, also when it was never begun, and so is any other
        source with an `aclose`, such as a memory channel.

        Raises:
            ResponseError: `source` is none of these.
        """
        return _StreamedResponse(source, status, headers, content_type)

    async def send_to(self, exchange: Exchange) -> None:
        """Send this response. For the app layer."""
        await exchange.respond(self.status, self._fields, _as_bytes(self.body))

    async def aclose(self) -> None:
        """Free what a response holds that is never sent, such as a generator. Once sent it holds nothing."""


class _StreamedResponse(Response):
    """A response whose body comes from a source, and which closes that source."""

    __slots__ = ("_source",)

    streamed = True

    def __init__(self, source: Body, status: int, headers: HeaderItems, content_type: str) -> None:
        super().__init__(status=status, headers=headers, content_type=content_type)
        self._source = source_of(source)

    async def send_to(self, exchange: Exchange) -> None:
        async def send(part: bytes | str) -> None:
            await exchange.send_part(_as_bytes(part))

        try:
            await exchange.start_response(self.status, self._fields)
            if exchange.content_allowed(self.status):
                await pour(self._source, send)
            await exchange.end_response()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        await close_source(self._source)


# Sources: of streams, and of events


def source_of(source: Any) -> Any:
    """A source that was checked: a function that takes `send`, or an async iterator.

    Raises:
        ResponseError: it is neither.
    """
    if isinstance(source, AsyncIterable):
        return aiter(source)
    if inspect.iscoroutine(source):
        source.close()
        raise ResponseError(f"a stream takes the function itself: {source.__name__}, not {source.__name__}(...)")
    if inspect.isasyncgenfunction(source):
        raise ResponseError(f"a stream takes a generator, not the function that makes one: {source.__name__}()")
    if not callable(source):
        raise ResponseError(f"a stream takes `async def write(send)` or an async iterator, not {type(source).__name__}")
    return source


async def pour(source: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Give `send` all that the source has. The source is not closed by this if it was never begun."""
    if not isinstance(source, AsyncIterator):
        writing = source(send)
        if not inspect.isawaitable(writing):
            raise ResponseError("a stream's function must be `async def`: it writes with `await send(part)`")
        await writing
        return
    try:
        item = await anext(source)
        while True:
            try:
                await send(item)
            except BaseException as error:
                # What a send raises is raised at the `yield`, and may be caught there like any other.
                if not hasattr(source, "athrow"):
                    raise
                item = await source.athrow(error)
            else:
                item = await anext(source)
    except StopAsyncIteration:
        return


async def close_source(source: Any) -> None:
    """Close an iterator that can be closed. A function holds nothing before it is called."""
    if isinstance(source, AsyncIterator) and hasattr(source, "aclose"):
        await source.aclose()


def as_response(value: Any) -> Response:
    """What a handler returned, as a response: str, bytes, dict or list (JSON), None (204), an async generator (streamed
    as bytes, unless it is given to `Response.stream` with another content type), or a Response.

    Raises:
        ResponseError: it is none of these.
    """
    match value:
        case Response():
            return value
        case str() | bytes():
            return Response(value)
        case dict() | list():
            return Response.json(value)
        case None:
            return Response(status=204)
        case AsyncGenerator():
            return Response.stream(value)
        case _:
            raise ResponseError(
                f"it returned {type(value).__name__}, which is no response; return a Response, str, bytes, dict, list, "
                "None or an async generator"
            )


def _as_bytes(part: Any) -> bytes:
    """Content as bytes.

    Raises:
        ResponseError: it is neither bytes nor text.
    """
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytearray | memoryview):
        return bytes(part)
    raise ResponseError(f"a body is made of str or bytes, not of {type(part).__name__}")

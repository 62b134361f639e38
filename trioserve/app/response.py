"""Response: what a handler returns.

A response is whole (a body of bytes) or streamed. A stream is pushed and not pulled: `write_body(send)` runs inside
the exchange's scope, in the same task as the handler, so structured concurrency holds and clean-up is ordinary.
"""

from __future__ import annotations

import json as _json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

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
HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class Response:
    """A whole response.

    Args:
        body: text is sent as UTF-8.
        status: 200-599.
        headers: a mapping, or pairs where a name may come twice. Content-Length and Date are added.
        content_type: the Content-Type; by default text/plain for text and application/octet-stream for bytes.

    Raises:
        ResponseError: the body is neither text nor bytes, the status is none, or a header is not text in ISO-8859-1.
    """

    __slots__ = ("body", "headers", "status")

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
        self.headers = fields_of(headers, content_type)
        self.body = body.encode() if isinstance(body, str) else body

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
        write_body: WriteBody,
        *,
        status: int = 200,
        headers: HeaderItems = (),
        content_type: str = "application/octet-stream",
    ) -> Response:
        """A response whose body `async def write_body(send)` writes part by part with `await send(part)`.

        The head is sent before `write_body` begins. Where HTTP allows no body (HEAD, 204, 304), it is not called.
        Each `send` is a checkpoint and waits while the client is not reading. An error in it cannot change the status
        any more: the response is cut, visibly for the client.

        Cancellation: when the client leaves, `write_body` is cancelled where it waits; `send` inside a shield raises
        `ClientGone`.
        """
        return _StreamedResponse(write_body, status, headers, content_type)

    async def send_to(self, exchange: Exchange) -> None:
        """Send this response. For the app layer."""
        await exchange.respond(self.status, self.headers, _as_bytes(self.body))


class _StreamedResponse(Response):
    __slots__ = ("_write_body",)

    def __init__(self, write_body: WriteBody, status: int, headers: HeaderItems, content_type: str) -> None:
        super().__init__(status=status, headers=headers, content_type=content_type)
        self._write_body = write_body

    async def send_to(self, exchange: Exchange) -> None:
        async def send(part: bytes | str) -> None:
            await exchange.send_part(_as_bytes(part))

        await exchange.start_response(self.status, self.headers)
        if exchange.content_allowed(self.status):
            await self._write_body(send)
        await exchange.end_response()


def fields_of(headers: HeaderItems, content_type: str | None) -> list[Field]:
    """Headers as fields; `content_type` is added unless they have one.

    Raises:
        ResponseError: a name or value is not text in ISO-8859-1.
    """
    items = headers.items() if isinstance(headers, Mapping) else headers
    try:
        fields = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in items]
        if content_type is not None and not any(name == b"content-type" for name, _ in fields):
            fields.append((b"content-type", content_type.encode("latin-1")))
    except (UnicodeEncodeError, AttributeError) as error:
        raise ResponseError(f"a response header is not text that HTTP can carry: {error}") from None
    return fields


def as_response(value: Any) -> Response:
    """What a handler returned, as a response: str, bytes, dict or list (JSON), None (204), or a Response.

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
        case _:
            raise ResponseError(
                f"it returned {type(value).__name__}, which is no response; return a Response, str, bytes, dict, list "
                "or None"
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

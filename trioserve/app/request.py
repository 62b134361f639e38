"""Request: what a handler is given. Everything is parsed only when it is asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from trioserve.core.application import Exchange
from trioserve.core.errors import HTTPError, ResponseError
from trioserve.core.messages import Headers
from trioserve.core.records import ClientAddress


class Request:
    """One request. Made by the app for each exchange; not to be used after its handler has ended.

    Cancellation: when the client leaves, whatever the handler awaits is cancelled, these methods included. Only where
    that cannot reach (inside a shield, or under the policies FINISH and Grace) do they raise `ClientGone` instead.
    """

    __slots__ = ("_body", "_exchange", "_parts", "_streamed", "path_params")

    def __init__(self, exchange: Exchange, path_params: dict[str, Any]) -> None:
        self._exchange = exchange
        self.path_params = path_params
        # The whole body once `body` has read it.
        self._body: bytes | None = None
        # What of it `body` has read so far; None before `body` is called.
        self._parts: _Collected | None = None
        self._streamed = False

    @property
    def method(self) -> str:
        return self._exchange.head.method

    @property
    def target(self) -> str:
        """The request target as it was sent: RFC 9112 §3.2."""
        return self._exchange.head.target

    @property
    def path(self) -> str:
        """The target's path, percent-decoded; bytes that are no UTF-8 become U+FFFD."""
        return unquote(path_of(self.target))

    @property
    def query_string(self) -> str:
        """What follows the "?" in the target, as it was sent; "" if nothing does."""
        return self.target.partition("?")[2]

    @property
    def http_version(self) -> str:
        """The version that the client speaks: "1.1" or "1.0"."""
        return self._exchange.head.http_version

    @property
    def headers(self) -> Headers:
        return self._exchange.head.headers

    @property
    def client(self) -> ClientAddress | None:
        """(host, port) of the peer; None on a Unix socket."""
        return self._exchange.client

    async def body(self) -> bytes:
        """The whole body, at most as large as the route allows (`max_body`, else `Limits.body`). May be called again.

        Sends `100 Continue` first if the client waits for it.

        Raises:
            RequestError: the body is malformed (400) or too large (413). Unhandled, it is answered so.
            ClientGone: see the class.
        """
        if self._body is None:
            if self._parts is None:
                self._parts = _Collected(self.stream())
            self._body = await self._parts.all()
        return self._body

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            HTTPError: it is not (400).
            RequestError, ClientGone: as for `body`.
        """
        body = await self.body()
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise HTTPError(400, f"the request body is not JSON: {error}") from None

    def stream(self) -> BodyStream:
        """The body, part by part as it arrives: `async for part in request.stream()`. Can be read once.

        The client is held back while nobody reads: there is no buffer but the system's.

        Raises:
            ResponseError: it was read before.
            RequestError, ClientGone: from the iteration, as for `body`.
        """
        if self._streamed:
            raise ResponseError("the request body was read already; keep what `await request.body()` returned")
        self._streamed = True
        return BodyStream(self._exchange)


class BodyStream:
    """An async iterator over a body's parts: non-empty bytes. No generator, so nothing needs closing."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        part = await self._exchange.receive_part()
        if not part:
            raise StopAsyncIteration
        return part


class _Collected:
    """A body's parts, kept while they come: a handler may cancel its wait for the body, and ask again."""

    __slots__ = ("_parts", "_stream")

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._parts: list[bytes] = []

    async def all(self) -> bytes:
        async for part in self._stream:
            self._parts.append(part)
        return b"".join(self._parts)


def _no_constant(name: str) -> None:
    """NaN and the infinities, which Python's parser takes, are no JSON (RFC 8259 §6)."""
    raise ValueError(f"{name} is no number")


def path_of(target: str) -> str:
    """The path of a target in origin-form ("/x?y") or absolute-form ("http://host/x?y"); others are their own path."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if separator and scheme.isalnum():
            target = "/" + rest.partition("?")[0].partition("/")[2]
    return target.partition("?")[0]

"""Request: what a handler is given. Everything is parsed only when it is asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qsl, unquote

from trioserve.app.cookies import parse_cookies
from trioserve.app.forms import Form, FormReader, FormType
from trioserve.app.multidict import MultiDict
from trioserve.app.parameters import charset_of, is_utf8
from trioserve.core.application import Exchange
from trioserve.core.errors import HTTPError, ResponseError
from trioserve.core.messages import Headers
from trioserve.core.records import ClientAddress
from trioserve.core.target import Scheme, path_of

if TYPE_CHECKING:
    from trioserve.app.websocket import WebSocket


Later = tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...]
"""Background work that waits for the response: functions with their arguments."""


class Urls(Protocol):
    """Who knows the paths of routes: the app."""

    def url_for(self, route: str | Callable[..., Any], /, **parameters: Any) -> str: ...


class Request:
    """One request. Made by the app for each exchange; not to be used after its handler has ended.

    `path_params` are the values of the path's parameters. `exchange`, `later`, `hold`, `holds`, `release` and `close`
    are for the app layer.

    Cancellation: when the client leaves, whatever the handler awaits is cancelled, these methods included. Only where
    that cannot reach (inside a shield, or under the policies FINISH and Grace) do they raise `ClientGone` instead.
    """

    # What is not there yet is None in the class, so that making a request costs nothing for what nobody asks for.
    _body: bytes | None = None  # the whole body once `body` has read it
    _parts: _Collected | None = None  # what of it `body` has read so far; None before `body` is called
    _streamed = False
    _form: FormReader | None = None
    _query: MultiDict[str] | None = None
    _cookies: dict[str, str] | None = None
    _state: SimpleNamespace | None = None
    _resources: AsyncExitStack | None = None
    _held: AsyncExitStack | None = None
    later: Later = ()
    holds = False  # for the app layer: true from the first thing on that is to be closed when the exchange ends
    websocket: WebSocket | None = None  # for the app layer: the session for which this request asked

    def __init__(self, exchange: Exchange, path_params: dict[str, Any], urls: Urls | None = None) -> None:
        self.exchange = exchange
        self._urls = urls
        self.path_params = path_params

    @property
    def method(self) -> str:
        return self.exchange.head.method

    @property
    def target(self) -> str:
        """The request target as it was sent: RFC 9112 §3.2."""
        return self.exchange.head.target

    @property
    def path(self) -> str:
        """The target's path, percent-decoded; bytes that are no UTF-8 become U+FFFD."""
        return unquote(path_of(self.target))

    @property
    def query_string(self) -> str:
        """What follows the "?" in the target, as it was sent; "" if nothing does."""
        return self.target.partition("?")[2]

    @property
    def query(self) -> MultiDict[str]:
        """The query's pairs in their order: "a=1&b=2" (WHATWG URL §5.1). "+" is a space; bad UTF-8 becomes U+FFFD."""
        if self._query is None:
            self._query = MultiDict(_pairs_of(self.query_string))
        return self._query

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name (RFC 6265 §5.4). Of several with one name, the first: its path is the more specific."""
        if self._cookies is None:
            self._cookies = parse_cookies(self.headers.get_all("cookie"))
        return self._cookies

    @property
    def scheme(self) -> Scheme:
        """The scheme by which the client made the request, also that of a WebSocket: "http" or "https".

        Of a request that a trusted proxy has passed on (`Config.trusted_proxies`), the one that it says; else "https"
        exactly if the connection is encrypted.
        """
        return self.exchange.scheme

    @property
    def host(self) -> str | None:
        """The host for which the request was made, as "host" or "host:port" in lower case; None if the client does not
        say it, which HTTP/1.0 allows.

        Of a request that a trusted proxy has passed on, the one that it says; else that of the target if it is in
        absolute-form, else the Host field (RFC 9112 §3.3). It is a host by its grammar, and still what the client wants
        it to be: compare it with your own before you put it into a link that somebody else will follow.
        """
        return self.exchange.authority

    @property
    def url(self) -> str:
        """The URL of what was asked for: scheme, host, path and query as they were sent (RFC 9112 §3.3).

        Without scheme and host where no `host` is known. Of `OPTIONS *` and CONNECT: without a path.
        """
        origin = "" if self.host is None else f"{self.scheme}://{self.host}"
        path = path_of(self.target)
        if not path.startswith("/"):
            return origin
        return "".join((origin, path, *self.target.partition("?")[1:]))

    @property
    def last_event_id(self) -> str | None:
        """The id of the last event that a client of `Response.events` got before it came back; None at first."""
        value = self.headers.get("last-event-id")
        # The field is UTF-8 (WHATWG HTML §9.2.3), while fields are read as ISO-8859-1.
        return None if value is None else value.encode("latin-1").decode(errors="replace")

    @property
    def state(self) -> SimpleNamespace:
        """A place for whatever middleware has to tell the handler: `request.state.user = ...`."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    def url_for(self, route: str | Callable[..., Any], /, **parameters: Any) -> str:
        """As `App.url_for`, for those who have no app at hand."""
        assert self._urls is not None, "a request in a handler is one of an app"
        return self._urls.url_for(route, **parameters)

    def after_response(self, function: Callable[..., Any], *args: Any) -> None:
        """Run `function(*args)` as background work once the response has got out whole; see `App.start_soon`.

        It is not run if the response does not get out, because the client has left, say; or if the handler raises, or a
        dependency as it is left, whoever answers that: what they began is not to be finished. Work of middleware that
        does not raise itself is run then, unless the error is an unexpected one. For what must be done in any case
        there is `App.start_soon`.
        """
        self.later = (*self.later, (function, args))

    @property
    def resources(self) -> AsyncExitStack:
        """What is to be closed when the exchange ends, however it ends.

        If all goes well: once the response is made, before its last byte is sent; a stream is written by then.
        """
        if self._resources is None:
            self._resources = AsyncExitStack()
            self.holds = True
        return self._resources

    @property
    def http_version(self) -> str:
        """The version that the client speaks: "1.1" or "1.0"."""
        return self.exchange.head.http_version

    @property
    def headers(self) -> Headers:
        return self.exchange.head.headers

    @property
    def draining(self) -> bool:
        """True from the order to end on: this server, or worker, is going to. For a handler that can come to an early
        end. For readiness there is `stopping`.
        """
        return self.exchange.draining

    async def until_draining(self) -> None:
        """Wait until `draining` is true, which may be never. For a stream or a WebSocket that waits for something else.

        A checkpoint, always. Cancellation: nothing is lost, and it can be awaited again.
        """
        await self.exchange.until_draining()

    @property
    def stopping(self) -> bool:
        """True from the order to stop on: more requests are not welcome. For a readiness of your own.

        In a worker that drains because another has replaced it, `draining` is true and this is not: whoever sends
        requests is to go on with that.
        """
        return self.exchange.stopping

    @property
    def client(self) -> ClientAddress | None:
        """(host, port) of whoever made the request.

        Of a request that a trusted proxy has passed on (`Config.trusted_proxies`), the one whom it names; the port is 0
        if it does not say it. Else of the peer, or of whom a PROXY protocol header names; None on a Unix socket.
        """
        return self.exchange.client

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
        """The body as JSON. It is UTF-8 (RFC 8259 §8.1), whatever its Content-Type is.

        Raises:
            HTTPError: it is not, or the Content-Type declares another charset (400).
            RequestError, ClientGone: as for `body`.
        """
        charset = charset_of(self.headers.get("content-type"))
        if charset is not None and not is_utf8(charset):
            raise HTTPError(400, f"the request body is sent in the charset {charset!r}; send JSON in UTF-8")
        body = await self.body()
        try:
            return json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
        except (UnicodeDecodeError, json.JSONDecodeError, _NoNumberError) as error:
            raise HTTPError(400, f"the request body is not JSON: {error}") from None
        except RecursionError:
            raise HTTPError(400, "the request body is not JSON that can be read: it is nested too deeply") from None
        except ValueError:  # by the interpreter, which has advice, but not for a client
            raise HTTPError(400, "the request body is not JSON that can be read: a number is too long") from None

    async def form(self) -> Form:
        """The body as a form: urlencoded, or multipart with the extra `forms` (python-multipart). May be called again.

        It is read as it arrives. Text is held in memory, up to `Limits.form_memory`; of files as much again, and what
        is beyond it on disk. Files can be read until the exchange ends; then they are gone, however it ended. For
        large uploads raise the route's `max_body`. After `body` it is read from what that returned.

        Raises:
            HTTPError: it is no form (415), malformed or not in UTF-8 (400), or has more fields than `Limits.form_parts`
                or more text than `Limits.form_memory` (413).
            ConfigError: the form is multipart, and python-multipart is not installed.
            ResponseError: the body was read before, as a stream.
            OSError: a file cannot be written to disk.
            RequestError, ClientGone: as for `body`.
        """
        if self._form is None:
            form_type = FormType.of(self.headers.get("content-type"))
            parts = self.stream() if self._parts is None else _Kept(await self.body())
            self._form = FormReader(form_type, parts, self.exchange.limits, self.resources)
        return await self._form.read()

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
        return BodyStream(self.exchange)

    # For the app layer

    def hold(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call `close` when the exchange has ended: what a response holds that is perhaps never sent."""
        if self._held is None:
            self._held = AsyncExitStack()
            self.holds = True
        self._held.push_async_callback(close)

    async def release(self) -> None:
        """Close `resources`: the response is made, and its last byte is about to be sent."""
        resources, self._resources = self._resources, None
        if resources is not None:
            await resources.aclose()

    async def close(self, error: BaseException | None) -> None:
        """The exchange has ended, with `error` perhaps: close whatever is open still, responses before resources."""
        if self._held is not None:
            self.resources.push_async_exit(self._held)
            self._held = None
        if error is None:
            await self.release()
        elif self._resources is not None:
            await self._resources.__aexit__(type(error), error, error.__traceback__)


def _pairs_of(query: str) -> list[tuple[str, str]]:
    """The pairs of an urlencoded query (WHATWG URL §5.1)."""
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True, errors="replace")
    # What is encoded in no way needs no more than this, which takes a third of the time.
    return [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)]


class BodyStream:
    """An async iterator over a body's parts: non-empty bytes. No generator, so nothing needs closing."""

    __slots__ = ("exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        part = await self.exchange.receive_part()
        if not part:
            raise StopAsyncIteration
        return part


_JOINED: Final = 4096
"""Bytes up to which parts are joined while they come. A client may send a megabyte in chunks of a byte, and a list of
these would take fifty times as much."""


class _Collected:
    """A body's parts, kept while they come: a handler may cancel its wait for the body, and ask again."""

    __slots__ = ("_parts", "_stream")

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        # Any two neighbours are more than _JOINED bytes.
        self._parts: list[bytes] = []

    async def all(self) -> bytes:
        # No buffer that grows: it would be copied again and again, where others grow beside it.
        async for part in self._stream:
            if self._parts and len(self._parts[-1]) + len(part) <= _JOINED:
                self._parts[-1] += part
            else:
                self._parts.append(part)
        self._parts = [b"".join(self._parts)]
        return self._parts[0]


class _Kept:
    """A body that was read whole, as its only part."""

    __slots__ = ("_parts",)

    def __init__(self, body: bytes) -> None:
        self._parts = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class _NoNumberError(ValueError):
    """Something stands for a number and is none."""


def _no_constant(name: str) -> None:
    """NaN and the infinities, which Python's parser takes, are no JSON (RFC 8259 §6)."""
    raise _NoNumberError(f"{name} is no number")

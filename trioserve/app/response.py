"""Response: what a handler returns.

A response is whole (a body of bytes) or streamed. A stream is pushed and not pulled: `write_body(send)` runs inside
the exchange's scope, in the same task as the handler, so structured concurrency holds and clean-up is ordinary.

A response may be kept and returned again and again, but what middleware changes in it, a cookie say, must never be seen
by another client. So what middleware is given is always a copy (`handed_over`). An iterator, which cannot be copied,
goes with the first exchange and is refused to the second.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import datetime
from os import PathLike
from typing import Any, ClassVar
from urllib.parse import quote

from trioserve.app.cookies import SameSite, cookie_field
from trioserve.app.events import FIELDS, Event, Events, EventStream, checked_ping
from trioserve.app.headers import HeaderItems, MutableHeaders, fields_of
from trioserve.app.streaming import Body, Part, close_source, pour, source_of
from trioserve.core.application import Exchange
from trioserve.core.errors import ResponseError
from trioserve.core.messages import Field

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


Release = Callable[[], Awaitable[None]]


async def nothing_to_release() -> None:
    """For a response that was made of nothing but itself."""


class Response:
    """A whole response.

    Args:
        body: text is sent as UTF-8.
        status: 200-599.
        headers: a mapping, or pairs where a name may come twice. Content-Length and Date are added. Of what
            is for the connection only `Connection: close` may be set, which ends it behind this response.
        content_type: the Content-Type; by default text/plain for text and application/octet-stream for bytes.

    Raises:
        ResponseError: the body is neither text nor bytes, the status is none, or a header cannot be set (see
            `MutableHeaders`).
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
        if isinstance(body, str):
            body, default = body.encode(), "text/plain; charset=utf-8"
        elif isinstance(body, bytes):
            default = "application/octet-stream"
        else:
            raise ResponseError(f"a response body is str or bytes, not {type(body).__name__}; is it Response.json?")
        if content_type is None and body:
            content_type = default
        self.status = status
        self._fields: list[Field] = fields_of(headers, content_type)
        self.body = body

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
        return cls(_JSON.encode(value), status=status, headers=headers, content_type="application/json")

    @classmethod
    def html(cls, text: str, *, status: int = 200, headers: HeaderItems = ()) -> Response:
        """A response with `text` as an HTML page, in UTF-8. What comes from elsewhere: `html.escape` it first.

        Raises:
            ResponseError: as for `Response`.
        """
        return cls(text, status=status, headers=headers, content_type="text/html; charset=utf-8")

    @classmethod
    def redirect(cls, location: str, status: int = 303, *, headers: HeaderItems = ()) -> Response:
        """A response that sends the client to `location`, a URL or a path (RFC 9110 §15.4).

        Args:
            status: 303: ask for the other resource with GET (HEAD stays HEAD). The default, since it means the same to
                every client: after a form, a reload asks for the page again and posts nothing; after a GET it is as
                good as any. 302 and 301 leave it to the client whether POST becomes GET. Where the request is to be
                made again as it was, content included, use 307, or 308 if the resource has moved for good.

        What a URL cannot have, such as white space and characters beyond ASCII, is percent-encoded (as UTF-8);
        percent-encodings that are there stay. A location that the client has chosen may lead to any other site: check
        it first.

        Raises:
            ResponseError: the location is empty or has control characters, or the status does not redirect.
        """
        if status not in {301, 302, 303, 307, 308}:
            raise ResponseError(f"status={status!r} does not redirect; use 303, 307, 308, 302 or 301")
        if not isinstance(location, str) or not location or _CONTROL.search(location):
            raise ResponseError(f"location={location!r}; it is a URL or a path, without control characters")
        try:
            url = quote(location, safe="!#$%&'()*+,/:;=?@[]~")
        except UnicodeEncodeError:
            raise ResponseError(f"location={location!r} is no text that UTF-8 can carry") from None
        response = cls(status=status, headers=headers)
        response.headers["location"] = url
        return response

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

        A generator may have been begun before, to choose the status by its first part, and may then hold a nursery or a
        cancel scope open at its `yield`. But these are the handler's then: it must not be begun inside a nursery or a
        scope that is left before the response is sent, neither one of the handler's nor one that middleware opens.

        It is for one request, but for that of a function, which is called for each.

        Raises:
            ResponseError: `source` is none of these.
        """
        return _StreamedResponse(source, status, headers, content_type)

    @classmethod
    def events(
        cls,
        source: Events,
        *,
        ping: float = 15.0,
        retry: float | None = None,
        headers: HeaderItems = (),
        status: int = 200,
    ) -> Response:
        """A stream of server-sent events, for an `EventSource` (WHATWG HTML §9.2).

        Args:
            source: `async def write_events(send)`, which sends each with `await send(event)`; or an async generator, or
                any other async iterator. Each is an `Event`, or only the data of one: text, or a dict or list (JSON).
            ping: seconds without an event after which a comment is sent, which clients pass over, so that nobody on
                the way takes the connection for broken. The default is below the 30 to 60 seconds after which
                proxies close an idle one. `math.inf`: none.
            retry: seconds that the client is to wait before it comes again; None: as it likes, which is some 3.
            headers: Cache-Control: no-store and X-Accel-Buffering: no are added unless they are there.

        The head is sent at once, before the source begins. A client comes again when the stream has ended, and then
        `request.last_event_id` is the `id` of the last event that it has heard; answer 204 to have it stay away.

        Cancellation and closing: as for `Response.stream`. A ping that is being sent delays an event until it is out.

        Raises:
            ResponseError: `source` is none of these, or `ping` or `retry` is no number of seconds.
        """
        return _EventResponse(source, ping, retry, status, headers)

    @classmethod
    def file(
        cls,
        path: str | PathLike[str],
        *,
        root: str | PathLike[str] | None = None,
        filename: str | None = None,
        content_type: str | None = None,
        status: int = 200,
        headers: HeaderItems = (),
    ) -> Response:
        """A response with a file's content, which is not read into memory; the system sends it, where it can.

        Args:
            path: the file. Without `root` it is taken as it is, so it must not come from the client.
            root: a directory that the path must not lead out of, whether by "..", as an absolute path, or through a
                symbolic link. A relative path is taken from there.
            filename: have the client save the file under this name (Content-Disposition, RFC 6266).
            content_type: by default it is guessed from the name; text is taken to be UTF-8.
            headers: an ETag or Last-Modified among them prevails over the file's own, and conditions are judged by it.

        GET and HEAD get ETag, Last-Modified and Accept-Ranges, unless `status` is another than 200, and their
        conditions (RFC 9110 §13) and ranges (§14) are heeded: the answer may be 206, 304, 412 or 416. For several
        ranges at once the whole file is sent.

        When the handler has returned, the file is opened, in a worker thread; it is closed when it was sent, or when
        the exchange ends in another way. What is not there, is no regular file, may not be read, or is outside of
        `root`, is answered 404 (an `HTTPError`, as if the handler had raised it). A file that becomes shorter while it
        is sent is a `ResponseError`, and the response is cut.

        Raises:
            ResponseError: as for `Response`; or the filename is empty, or has a control character.

        Cancellation: when the client leaves, nothing more of the file is read.
        """
        from trioserve.app.files import FileResponse  # which is a Response, and so imports this

        return FileResponse(
            path, root=root, filename=filename, content_type=content_type, status=status, headers=headers
        )

    def set_cookie(
        self,
        name: str,
        value: str,
        *,
        max_age: int | None = None,
        expires: datetime | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool = True,
        http_only: bool = True,
        same_site: SameSite = "lax",
        partitioned: bool = False,
    ) -> None:
        """Have the client keep a cookie (RFC 6265 §4.1). The defaults are those of a session's cookie.

        Args:
            value: ASCII without white space, quotes, commas, semicolons and backslashes.
            max_age: seconds until it is forgotten; browsers keep none longer than 400 days. Prevails over `expires`.
            expires: when it is forgotten, with a time zone. Without either: when the browser ends its session.
            path: where it is sent: to this path and those below it.
            domain: sent to this host and those below it too; None: to the host that set it alone, which is safer.
            secure: sent over TLS only. Browsers make an exception for http://localhost; for plain http elsewhere say
                `secure=False`, or the cookie is not kept.
            http_only: hidden from scripts, so that a script that was smuggled in cannot steal it.
            same_site: "lax": sent from other sites only when the user follows a link to here, so that no other site
                can post in the user's name; "strict": not even then; "none": always, which needs `secure`.
            partitioned: kept apart for each site that embeds this one; needs `secure`.

        A name that begins with `__Host-` is held to its host by browsers: it needs `secure`, the path "/" and no
        domain; one that begins with `__Secure-` needs `secure`.

        Raises:
            ResponseError: browsers would not keep this cookie, or not as it is meant.
        """
        self.headers.add(
            "set-cookie",
            cookie_field(
                name,
                value,
                max_age=max_age,
                expires=expires,
                path=path,
                domain=domain,
                secure=secure,
                http_only=http_only,
                same_site=same_site,
                partitioned=partitioned,
            ),
        )

    def delete_cookie(
        self,
        name: str,
        *,
        path: str = "/",
        domain: str | None = None,
        secure: bool = True,
        same_site: SameSite = "lax",
        partitioned: bool = False,
    ) -> None:
        """Have the client forget a cookie. It forgets the one that was set with the same arguments.

        Raises:
            ResponseError: as for `set_cookie`.
        """
        self.set_cookie(
            name,
            "",
            max_age=0,
            path=path,
            domain=domain,
            secure=secure,
            same_site=same_site,
            partitioned=partitioned,
        )

    def handed_over(self) -> Response:
        """The same for one exchange: what is changed in it is seen in no other. For the app layer.

        Raises:
            ResponseError: it is a stream from an iterator, which was handed over or sent before.
        """
        if type(self) is Response:  # nearly always, and `copy.copy` takes ten times as long
            own = Response.__new__(Response)
            own.status = self.status
            own.body = self.body
        else:
            own = copy.copy(self)
        own._fields = self._fields.copy()
        return own

    async def send_to(self, exchange: Exchange, release: Release = nothing_to_release) -> None:
        """Send this response. For the app layer.

        `release` is called once nothing more is needed to make it, and before its last byte is sent: so what fails
        there can still be seen by the client, and no user's code runs behind a complete response.
        """
        if release is not nothing_to_release:
            await release()
        body = self.body  # bytes, unless somebody has put something else there
        await exchange.respond(self.status, self._fields, body if isinstance(body, bytes) else _as_bytes(body))

    async def aclose(self) -> None:
        """Free what a response holds that is never sent, such as a generator. Once sent it holds nothing."""


_TAKEN = object()
"""In the place of a source that can be read once, and is another's now."""


class _StreamedResponse(Response):
    """A response whose body comes from a source, and which closes that source."""

    __slots__ = ("_source",)

    streamed = True

    def __init__(self, source: Any, status: int, headers: HeaderItems, content_type: str) -> None:
        super().__init__(status=status, headers=headers, content_type=content_type)
        self._source = source_of(source)

    def handed_over(self) -> Response:
        own = super().handed_over()
        self._take_source()  # the copy has it
        return own

    async def send_to(self, exchange: Exchange, release: Release = nothing_to_release) -> None:
        source = self._take_source()
        try:
            await exchange.start_response(self.status, self._fields)
            if exchange.content_allowed(self.status):
                await self._write_to(exchange, source)
        finally:
            await close_source(source)
        await release()
        await exchange.end_response()

    def _take_source(self) -> Any:
        source = self._source
        if source is _TAKEN:
            raise ResponseError("this stream was sent before; make a new Response for each request")
        if isinstance(source, AsyncIterator):
            self._source = _TAKEN
        return source

    async def _write_to(self, exchange: Exchange, source: Any) -> None:
        async def send(part: Part) -> None:
            await exchange.send_part(_as_bytes(part))

        await pour(source, send)

    async def aclose(self) -> None:
        await close_source(self._source)


class _EventResponse(_StreamedResponse):
    """A stream of server-sent events."""

    __slots__ = ("_first", "_ping")

    def __init__(self, source: Events, ping: float, retry: float | None, status: int, headers: HeaderItems) -> None:
        self._ping = checked_ping(ping)
        # What is said before the source begins.
        self._first = None if retry is None else Event(retry=retry)
        super().__init__(source, status, headers, "text/event-stream")
        for name, value in FIELDS.items():
            self.headers.setdefault(name, value)

    async def _write_to(self, exchange: Exchange, source: Any) -> None:
        stream = EventStream(exchange.send_part, self._ping)
        if self._first is not None:
            await stream.send(self._first)
        await stream.send_all(source)


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
    advice = "; is it Response.events?" if isinstance(part, Event) else ""
    raise ResponseError(f"a body is made of str or bytes, not of {type(part).__name__}{advice}")

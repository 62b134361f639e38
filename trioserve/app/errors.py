"""Answers to what handlers raise.

An error handler is registered for a class of exceptions or for a status code. It answers where the error comes out of
the handler, so that middleware sees its answer like any other. So does the plain answer to an `HTTPError`. The most
specific one answers: of the error's classes the nearest that has one; the status code of an `HTTPError` comes between
classes derived from `HTTPError` and that itself. An error handler may raise an `HTTPError`, which is answered likewise.

Anything else is unexpected: it passes through all middleware, is logged with its traceback, and is answered 500, by the
error handler for 500 if there is one; in debug mode the traceback is shown in the page. An error handler for
`Exception` counts as one for 500.

Never answered here: cancellations, `DropConnection`, `ClientGone`, what comes when the response was begun, and whatever
a handler raises once the client has left or the server has given up: nobody would get the answer, and an error handler
would take the departure for a failure. Under FINISH and Grace too, the record tells of it.
"""

from __future__ import annotations

import html
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from trioserve.app.annotations import check_takes
from trioserve.app.handlers import Returned, invoking, response_of
from trioserve.app.request import Request
from trioserve.app.response import Response
from trioserve.core.errors import ClientGone, ConfigError, DropConnection, HTTPError, RequestError, error_content
from trioserve.failures import consists_of

ErrorHandler = Callable[[Request, Any], Returned | Awaitable[Returned]]
"""A user's function (request, error) -> whatever a handler may return. Async, or plain in a worker thread."""

_UNANSWERED = (DropConnection, ClientGone)

Answer = Callable[[Request, Any], Awaitable[Response]]


class ErrorHandlers:
    """The error handlers of one app. In debug mode, what is unexpected is answered with its traceback."""

    def __init__(self, *, debug: bool) -> None:
        self._by_class: dict[type[BaseException], Answer] = {}
        self._by_status: dict[int, Answer] = {}
        self._debug = debug

    def add(self, key: type[Exception] | int, handler: ErrorHandler) -> None:
        """Register a handler.

        Raises:
            ConfigError: `key` is neither an exception's class nor an error status code, or has a handler; or `handler`
                cannot be called with these two.
        """
        by_class = isinstance(key, type) and issubclass(key, Exception)
        by_status = isinstance(key, int) and not isinstance(key, bool) and 400 <= key <= 599
        if not (by_class or by_status):
            raise ConfigError(f"error_handler({key!r}): give a class of exceptions, or a status code from 400 to 599")
        check_takes(handler, f"error_handler({key!r}):", "`async def name(request, error)`, or a plain one", 2)
        handlers: dict[Any, Answer] = self._by_class if by_class else self._by_status
        if key in handlers:
            raise ConfigError(f"error_handler({key!r}) is registered twice")
        handlers[key] = _answer_by(handler)

    def expected(self, error: BaseException) -> Answer | None:
        """Who answers `error` inside the middleware; None if it is unexpected."""
        if consists_of(error, *_UNANSWERED):
            return None
        by_status = self._by_status.get(error.status) if isinstance(error, HTTPError) else None
        for kind in type(error).__mro__:
            if kind is HTTPError and by_status is not None:
                return by_status
            if kind is not Exception and kind in self._by_class:
                return self._by_class[kind]
        return plain_answer if isinstance(error, HTTPError) else None

    def unexpected(self, error: BaseException) -> Answer | None:
        """Who answers an error that nobody expected; None if nobody does."""
        if consists_of(error, *_UNANSWERED):
            return None
        if self._debug:
            return debug_answer
        return self._by_class.get(Exception) or self._by_status.get(500)

    async def answered(self, answer: Answer, request: Request, error: BaseException) -> Response:
        """What `answer` makes of `error`; and if it raises an `HTTPError`, what is answered to that."""
        if isinstance(error, RequestError):
            request.exchange.close_connection()  # as the connection does for what never comes here
        try:
            return await answer(request, error)
        except HTTPError as other:
            again = self.expected(other)
            if again is None or again is answer:
                again = plain_answer
            return await again(request, other)


def _answer_by(handler: ErrorHandler) -> Answer:
    invoke = invoking(handler)

    async def answer(request: Request, error: Any) -> Response:
        return response_of(handler, await invoke(request.exchange, request, error))

    return answer


async def plain_answer(request: Request, error: HTTPError) -> Response:
    """The answer to an `HTTPError` where nobody has registered another: its detail, as text or as problem details."""
    content_type, body = error_content(error.status, error.detail, request.headers.get_all("accept"))
    return Response(body, status=error.status, headers=error.headers, content_type=content_type)


async def debug_answer(request: Request, error: BaseException) -> Response:
    """A page that shows the traceback. It may hold secrets: for development only."""
    # It may quote what UTF-8 cannot carry, such as the name of a file.
    text, what = (
        "".join(lines).encode(errors="backslashreplace").decode()
        for lines in (traceback.format_exception(error), traceback.format_exception_only(error))
    )
    if "text/html" not in ",".join(request.headers.get_all("accept")):
        return Response(f"500 Internal Server Error\n\n{text}", status=500)
    title = html.escape(what.strip())
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=color-scheme content='light dark'>"
        f"<title>{title}</title><h1>{title}</h1><p>{html.escape(request.method)} {html.escape(request.target)}</p>"
        f"<pre>{html.escape(text)}</pre><p>This page is shown because the app is in debug mode.</p>\n"
    )
    return Response(page, status=500, content_type="text/html; charset=utf-8")

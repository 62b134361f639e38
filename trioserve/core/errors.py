"""Errors, by whose doing they are and by what can still be done.

* `HTTPError`: the exchange can be answered with a status code. `RequestError` is the one that the client caused.
* `ResponseError`: the handler's doing; the client gets 500 or sees the response cut.
* `ExchangeOver`: nothing comes or can be sent any more; for a WebSocket, `WebSocketClosed` says how it ended.
  `ClientGone`: the client has left; nothing can be said to it. A handler sees it only where a cancellation cannot
  reach (inside a shield, or under the policy FINISH).
* `DropConnection`: the handler asks for silence.
* `ConfigError`: the user's setting is wrong; said at start-up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from trioserve.core.fields import field_of

ERROR_LOGGER = "trioserve.error"
"""The logger on which the server says what has gone wrong."""


_SINCE_RFC_9110: Final = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""Reason phrases for which Python before 3.13 has the ones of earlier standards."""


class TrioserveError(Exception):
    """Whatever trioserve raises on purpose."""


class HTTPError(TrioserveError):
    """Raise it in a handler to answer with `status`; `detail` is the text that the client reads.

    `headers` go with the answer, such as {"retry-after": "120"}.

    Raises:
        ValueError: `status` is not an error status code (400-599).
        ResponseError: HTTP cannot carry a header, or it is the server's to set.
    """

    def __init__(self, status: int, detail: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"HTTPError takes a status code from 400 to 599, not {status}")
        self.status = status
        self.headers = dict(headers or {})
        for name, value in self.headers.items():
            try:
                field_of(name, value)
            except (TypeError, ValueError) as error:
                raise ResponseError(str(error)) from None
        self.detail = detail or phrase(status)
        super().__init__(f"{status} {self.detail}".rstrip())


class RequestError(HTTPError):
    """The request is malformed as HTTP, too large or not supported. Answered, and then the connection is closed."""


class ResponseError(TrioserveError):
    """The handler's response is none, or breaks HTTP framing (a body longer than its Content-Length, say)."""


class ExchangeOver(TrioserveError):
    """There is nobody to receive from or send to any more. It may leave background work, as a normal end."""


class ClientGone(ExchangeOver):
    """The client has left: the rest of the request will not come, and nothing more can be sent."""


class DropConnection(TrioserveError):
    """Raise it in a handler to close the connection without an answer (status code 444, cause DROPPED)."""


class ConfigError(TrioserveError, ValueError):
    """A setting is wrong. The message says which, and what would be right."""


def phrase(status: int) -> str:
    """The reason phrase of a status code (RFC 9110 §15), or an empty string for one that has none."""
    try:
        return _SINCE_RFC_9110.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return ""


def error_content(status: int, detail: str, accept: Sequence[str]) -> tuple[str, bytes]:
    """The content of an error answer: (its type, its bytes).

    Problem details (RFC 9457) for a client whose Accept fields `accept` name JSON; else plain text for people, with
    the code, its phrase, and what was wrong.
    """
    title = f"{status} {phrase(status)}".rstrip()
    if _accepts_problem(accept):
        problem = {"title": phrase(status), "status": status, "detail": detail}
        return "application/problem+json", json.dumps(problem).encode("ascii")
    # A handler may quote the client in `detail`: characters that UTF-8 cannot carry must not spoil the answer.
    return "text/plain; charset=utf-8", f"{title}\n{detail}\n".encode(errors="replace")


def _accepts_problem(accept: Sequence[str]) -> bool:
    """True if JSON is asked for by its name: a client that takes anything is a person more often than a program."""
    for media_range in ",".join(accept).split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name in {"application/problem+json", "application/json"}:
            return not any(
                parameter.replace(" ", "") in {"q=0", "q=0.0", "q=0.00", "q=0.000"} for parameter in parameters
            )
    return False

"""The fields of a request's head or trailer section, from their lines (RFC 9112 §5).

Nearly all lines of nearly all requests have come before, from this client or another: a browser has ever new cookies,
but the same Accept-Language. So the lines of some fields are remembered with what they mean, and reading one again is a
look into a dictionary. Three things must stay true of that:

* What a line means is a function of its bytes and of nothing else. Limits are judged by who asks.
* No secret is remembered: only lines of the fields in `_REMEMBERED` are, which say what kind of client it is and what
  it takes, for which host and from which site it comes, or how the message is framed and the connection goes on; and
  never who the user is.
* Memory is bounded, in each process, as `Remembered` says. How much that can be is measured in
  `tests/core/test_kept.py`.
"""

from __future__ import annotations

from typing import Final

from trioserve.core.grammar import FIELD_LINES
from trioserve.core.messages import Field
from trioserve.core.remembered import Remembered

_REMEMBERED: Final = frozenset({
    b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control", b"connection",
    b"content-encoding", b"content-length", b"content-type", b"dnt", b"expect", b"host", b"keep-alive", b"origin",
    b"pragma", b"priority", b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform", b"sec-fetch-dest",
    b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user", b"sec-gpc", b"te", b"transfer-encoding", b"upgrade",
    b"upgrade-insecure-requests", b"user-agent", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto",
    b"x-requested-with",
})  # fmt: skip

_remembered: Remembered[bytes, Field] = Remembered()


def fields_of(section: bytes) -> tuple[Field, ...] | None:
    """The fields in whole lines, each with its end; None if one of them is none."""
    lines = section.split(b"\r\n")
    if lines.pop():
        return None  # it has no end
    fields = list(map(_remembered.get, lines))
    if not all(fields):
        new = [place for place, field in enumerate(fields) if field is None]
        if FIELD_LINES.fullmatch(b"\r\n".join([lines[place] for place in new])) is None:
            return None
        for place in new:
            line = lines[place]
            name, _, value = line.partition(b":")
            name = name.lower()
            fields[place] = field = name, value.strip(b" \t")
            if name in _REMEMBERED:
                _remembered.remember(line, field, line)
    return tuple(fields)  # type: ignore[arg-type]

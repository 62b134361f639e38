"""Field lines (RFC 9110 §5) made from text, for those who write one.

What HTTP cannot carry, such as a value with a line break that would forge a further field, is refused where it is
written and not when it is sent. So is a field that is the server's to set.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from trioserve.core.messages import Field

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - of RFC 9110, and no password
"""What a method, a field's name and a cookie's name look like: RFC 9110 §5.6.2."""

SERVERS_OWN: Final = {
    b"transfer-encoding": "leave it out, as the server frames its responses itself (RFC 9112 §6.1)",
    b"keep-alive": "leave it out, as how long a connection is kept is for the server to say",
    b"proxy-connection": "leave it out, as it is no field of HTTP (RFC 9112 §C.2.2)",
    b"te": "leave it out, as it is a field of requests (RFC 9110 §10.1.4)",
    b"trailer": "leave it out, as this server sends no trailer section",
}
"""Fields between a server and its client that no handler may set (RFC 9110 §7.6.1), with what to do instead."""

_TOKEN = re.compile(TOKEN.encode())
# RFC 9110 §5.5: visible characters, between them spaces and tabs too.
_VALUE = re.compile(rb"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")


def field_of(name: Any, value: Any) -> Field:
    """A field line.

    Raises:
        TypeError: one of them is no text.
        ValueError: the name is no token (RFC 9110 §5.1), or one of the server's own; or the value has characters beyond
            ISO-8859-1, has a control character such as a line break, or begins or ends with white space (§5.5).
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a response header is text, not {name!r}")
    return _name(name), _value(name, value)


@functools.lru_cache(512)
def _name(name: str) -> bytes:
    raw = name.encode(errors="replace").lower()
    if not _TOKEN.fullmatch(raw):
        raise ValueError(
            f"{name!r} is no name of a response header; it may have letters, digits and !#$%&'*+.^_`|~- (RFC 9110 §5.1)"
        )
    if raw in SERVERS_OWN:
        raise ValueError(f"the response header {name} is not yours to set; {SERVERS_OWN[raw]}")
    return raw


def _value(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"the response header {name} is text, not {value!r}")
    if value.isascii() and value.isprintable() and value.strip() == value:  # what nearly all are, found out fast
        return value.encode()
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(
            f"the response header {name} has a character beyond ISO-8859-1, which HTTP cannot carry: {value!r}; "
            "encode it, with urllib.parse.quote for example"
        ) from None
    if not _VALUE.fullmatch(raw):
        raise ValueError(
            f"the response header {name} has a control character, or white space at an end, which HTTP cannot carry: "
            f"{value!r}; clean it, with str.strip or str.splitlines for example"
        )
    return raw

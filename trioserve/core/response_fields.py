"""What a handler may say in the head of its response, and what becomes of it.

A field that tells the client how to read the response, or what becomes of the connection, is the server's to set: it
knows what the client understands and what it sends itself. A handler that sets one is told so where it writes text
(`core.fields`); and, whatever way its fields came, here, before anything is sent. So no response can be read as two.
What it may say of the connection is that it is to be closed.

Fields that contradict the status code are put right where that can mean one thing only: 204 has no Content-Length,
205 has one of zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from trioserve.core.errors import ResponseError
from trioserve.core.fields import SERVERS_OWN
from trioserve.core.messages import Field

_NO_CONTENT, _RESET_CONTENT, _UPGRADE_REQUIRED = 204, 205, 426
_WITHOUT_LENGTH = frozenset({_NO_CONTENT, _RESET_CONTENT})
_JUDGED = frozenset({b"connection", b"upgrade", *SERVERS_OWN})


def response_fields(status: int, fields: Sequence[Field]) -> list[Field]:
    """The fields of a final response as they are sent: `fields`, with names in lower case and Connection put in order.

    Raises:
        ResponseError: the status code is not that of a final response, or a field is not the handler's to set.
    """
    if not 200 <= status <= 599:
        raise ResponseError(f"{status} is not the status code of a response; give one from 200 to 599")
    result = [(name.lower(), value) for name, value in fields]
    if status in _WITHOUT_LENGTH:
        result = [field for field in result if field[0] != b"content-length"]
        if status == _RESET_CONTENT:
            result.append((b"content-length", b"0"))
    if _JUDGED.isdisjoint([name for name, _ in result]):
        return result
    return _judged(status, result)


def _judged(status: int, fields: Sequence[Field]) -> list[Field]:
    """Fields among which are some that are not, or not always, the handler's to set."""
    result: list[Field] = []
    options: set[bytes] = set()
    for name, value in fields:
        if name in SERVERS_OWN:
            raise ResponseError(f"the response has {name.decode()}; {SERVERS_OWN[name]}")
        if name == b"upgrade":
            if status != _UPGRADE_REQUIRED:
                raise ResponseError(
                    "the response has upgrade; leave it out, as only a 426 says to which protocol a client must change "
                    "(RFC 9110 §15.5.22), and only the server changes it"
                )
            options.add(b"upgrade")
        if name == b"connection":
            options.update(option.strip(b" \t").lower() for option in value.split(b","))
        else:
            result.append((name, value))
    return result + _connection(options, may_be={b"close", b"upgrade"} if status == _UPGRADE_REQUIRED else {b"close"})


def _connection(options: set[bytes], *, may_be: set[bytes]) -> list[Field]:
    """One field line for each option (RFC 9110 §7.6.1)."""
    options.discard(b"")
    if wrong := options - may_be:
        raise ResponseError(
            f"the response has the connection option {min(wrong).decode('latin-1')!a}; a handler may only say close, "
            "the rest is between the server and its client (RFC 9110 §7.6.1)"
        )
    return [(b"connection", option) for option in sorted(options)]

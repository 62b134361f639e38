"""The head of a response: what a handler may say in it, what becomes of it, and how it is written.

A field that tells the client how to read the response, or what becomes of the connection, is the server's to set: it
knows what the client understands and what it sends itself. A handler that sets one is told so where it writes text
(`core.fields`); and, whatever way its fields came, here, before anything is sent. So no response can be read as two.
What it may say of the connection is that it is to be closed.

Fields that contradict the status code are put right where that can mean one thing only: 204 has no Content-Length,
205 has one of zero.

All of it is done in one sweep over the fields. Most responses say what others have said, so the lines of some fields
are remembered with their names, and saying one again is a look into a dictionary. What holds of the lines of requests
(`core.field_section`) holds of that too: what is remembered is a function of the field alone; no secret is, only lines
of the fields in `_REMEMBERED`, which say what kind of thing a response is and never to whom or where; and there is a
bound, at which all is forgotten.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Final, NamedTuple

from trioserve.core.errors import ResponseError, phrase
from trioserve.core.fields import SERVERS_OWN, TOKEN
from trioserve.core.messages import Field, ResponseHead
from trioserve.core.remembered import Remembered

_NO_CONTENT, _RESET_CONTENT, _UPGRADE_REQUIRED = 204, 205, 426
_WITHOUT_LENGTH = frozenset({_NO_CONTENT, _RESET_CONTENT})
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_JUDGED = frozenset({b"connection", b"upgrade", b"content-length", *SERVERS_OWN})

REASONS: Final = {status.value: phrase(status).encode("ascii") for status in HTTPStatus}
STATUS_LINES: Final = {status: b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"")) for status in range(200, 600)}
"""The status lines of final responses (RFC 9112 §4)."""

_REMEMBERED: Final = frozenset({
    b"accept-ranges", b"access-control-allow-credentials", b"access-control-allow-headers",
    b"access-control-allow-methods", b"access-control-allow-origin", b"access-control-expose-headers",
    b"access-control-max-age", b"allow", b"cache-control", b"content-encoding", b"content-language", b"content-length",
    b"content-type", b"date", b"permissions-policy", b"pragma", b"referrer-policy", b"server",
    b"strict-transport-security", b"vary", b"x-content-type-options", b"x-frame-options",
})  # fmt: skip

_remembered: Remembered[Field, tuple[bytes, bytes]] = Remembered()

_NAME = re.compile(TOKEN.encode())
# A line with a value as it must be (RFC 9110 §5.5). The name is known to be good, so the first colon ends it.
_LINE = re.compile(rb"[^:]++: (?:\r\n|(?![ \t])[\t\x20-\x7e\x80-\xff]*+\r\n(?<![ \t]\r\n))")
# No more digits than any machine can count with, and no zeros before them.
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")


class Judged(NamedTuple):
    """A head that is good.

    `lines` are its field lines but for those that the machine adds: how it is framed where it has no `length`, and that
    the connection closes. `closes` says whether the handler wants that.
    """

    lines: bytes
    length: bytes | None  # as it is written in Content-Length
    closes: bool


def judged(head: ResponseHead) -> Judged:  # noqa: C901 - one sweep that reads top to bottom
    """The head of a final response as it is sent: names in lower case, and Connection put in order.

    Raises:
        ResponseError: the status code is not that of a final response, or a field is malformed or not the handler's to
            set.
    """
    status = head.status
    if status not in STATUS_LINES:
        raise ResponseError(f"{status} is not the status code of a response; give one from 200 to 599")
    length: bytes | None = None
    options: frozenset[bytes] = _NO_OPTIONS
    lines: list[bytes] = []
    said: list[bytes] = []
    left_out: Sequence[bytes] = ()
    for fields in (head.fields, head.defaults):
        for field in fields:
            name, line = _remembered.get(field) or _line(field)
            if name in left_out:
                continue
            said.append(name)
            if name == b"content-length":
                if status in _WITHOUT_LENGTH:
                    continue
                length = _only_length(field[1], length)
            elif name in _JUDGED:
                options |= _options(name, field[1], status)
                if name == b"connection":
                    continue
                _check_value(line)
            lines.append(line)
        left_out = said  # what the handler has said is not said by default
    if status == _RESET_CONTENT:
        length = b"0"
        lines.append(b"content-length: 0\r\n")
    if options:
        _check_options(options, status)
        if b"upgrade" in options:
            lines.append(b"connection: upgrade\r\n")
    return Judged(b"".join(lines), length, b"close" in options)


def field_lines(fields: Sequence[Field]) -> bytes:
    """The field lines of an interim response.

    Raises:
        ResponseError: one of them is malformed.
    """
    lines = [b"%b: %b\r\n" % (_lowered(name), value) for name, value in fields]
    for line in lines:
        _check_value(line)
    return b"".join(lines)


def _line(field: Field) -> tuple[bytes, bytes]:
    """A field's name as it is sent (RFC 9110 §5.1), and its line with its end. It is good, if it is not yet judged.

    Raises:
        ResponseError: it is malformed.
    """
    name = _lowered(field[0])
    line = b"%b: %b\r\n" % (name, field[1])
    if name not in _JUDGED:
        _check_value(line)
    if name in _REMEMBERED:
        _remembered.remember(field, (name, line), line)
    return name, line


def _check_value(line: bytes) -> None:
    """See that a line whose name is good has a value that is good (RFC 9110 §5.5)."""
    if not _LINE.fullmatch(line):
        raise ResponseError(
            f"the response has a field that HTTP cannot carry: {line[:-2]!r}; its value has a control character, or "
            "white space at an end (RFC 9110 §5.5)"
        )


@functools.lru_cache(1024)
def _lowered(name: bytes) -> bytes:
    """A field's name as it is sent. There are not many, so each is looked at once."""
    if not _NAME.fullmatch(name):
        raise ResponseError(f"{name!r} is no name of a response header (RFC 9110 §5.1)")
    return name.lower()


def _only_length(value: bytes, before: bytes | None) -> bytes:
    """The length that a response announces, if it announces one."""
    if before is not None or not _LENGTH.fullmatch(value):
        raise ResponseError(
            f"the response's Content-Length is {value[:20]!r}, not one number of bytes; leave it out, and the server "
            "sets it where it knows the length"
        )
    return value


def _options(name: bytes, value: bytes, status: int) -> AbstractSet[bytes]:
    """The options in a Connection field (RFC 9110 §7.6.1), or the one that Upgrade in a 426 needs.

    Raises:
        ResponseError: the field is not the handler's to set.
    """
    if name == b"connection":
        return {option.strip(b" \t").lower() for option in value.split(b",")} - {b""}
    if name != b"upgrade":
        raise ResponseError(f"the response has {name.decode()}; {SERVERS_OWN[name]}")
    if status != _UPGRADE_REQUIRED:
        raise ResponseError(
            "the response has upgrade; leave it out, as only a 426 says to which protocol a client must change "
            "(RFC 9110 §15.5.22), and only the server changes it"
        )
    return {b"upgrade"}


def _check_options(options: AbstractSet[bytes], status: int) -> None:
    """See that connection options are the handler's to set."""
    if wrong := options - ({b"close", b"upgrade"} if status == _UPGRADE_REQUIRED else {b"close"}):
        raise ResponseError(
            f"the response has the connection option {min(wrong).decode('latin-1')!a}; a handler may only say close, "
            "the rest is between the server and its client (RFC 9110 §7.6.1)"
        )

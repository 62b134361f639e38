"""The head of a response: what a handler may say in it, what becomes of it, and how it is written.

A field that tells the client how to read the response, or what becomes of the connection, is the server's to set: it
knows what the client understands and what it sends itself. A handler that sets one is told so where it writes text
(`core.fields`); and, whatever way its fields came, here, before anything is sent. So no response can be read as two.
What it may say of the connection is that it is to be closed.

Fields that contradict the status code are put right where that can mean one thing only: 204 has no Content-Length,
205 has one of zero.

All of it is done in one sweep over the fields, and the lines are looked at once, together.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from trioserve.core.errors import ResponseError, phrase
from trioserve.core.fields import SERVERS_OWN, TOKEN
from trioserve.core.messages import Field, ResponseHead

_NO_CONTENT, _RESET_CONTENT, _UPGRADE_REQUIRED = 204, 205, 426
_WITHOUT_LENGTH = frozenset({_NO_CONTENT, _RESET_CONTENT})
_JUDGED = frozenset({b"connection", b"upgrade", b"content-length", *SERVERS_OWN})

REASONS: Final = {status.value: phrase(status).encode("ascii") for status in HTTPStatus}
STATUS_LINES: Final = {status: b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"")) for status in range(200, 600)}
"""The status lines of final responses (RFC 9112 §4)."""

_NAME = re.compile(TOKEN.encode())
# Field lines with values as they must be (RFC 9110 §5.5). Names are known to be good, so the first colon ends one.
_LINES = re.compile(rb"(?:[^:]++: (?![ \t])[\t\x20-\x7e\x80-\xff]*+\r\n(?<![ \t]\r\n))*+")
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


def judged(head: ResponseHead) -> Judged:
    """The head of a final response as it is sent: names in lower case, and Connection put in order.

    Raises:
        ResponseError: the status code is not that of a final response, or a field is malformed or not the handler's to
            set.
    """
    status = head.status
    if status not in STATUS_LINES:
        raise ResponseError(f"{status} is not the status code of a response; give one from 200 to 599")
    length: bytes | None = None
    options: set[bytes] | None = None
    lines: list[bytes] = []
    for name, value in _with_defaults(head):
        if name in _JUDGED:
            if name == b"content-length":
                if status in _WITHOUT_LENGTH:
                    continue
                _check_length(value, length)
                length = value
            elif name == b"connection":
                options = _options(value) | (options or set())
                continue
            else:
                _check_upgrade(name, status)
                options = {b"upgrade"} | (options or set())
        lines.append(name + b": " + value)
    if status == _RESET_CONTENT:
        length = b"0"
        lines.append(b"content-length: 0")
    if options is None:
        return Judged(_good(lines), length, False)  # noqa: FBT003 - a named tuple's
    _check_options(options, status)
    if b"upgrade" in options:
        lines.append(b"connection: upgrade")
    return Judged(_good(lines), length, b"close" in options)


def _with_defaults(head: ResponseHead) -> list[Field]:
    """The fields with their names in lower case, and behind them the defaults that are missing."""
    fields = [(_lowered(name), value) for name, value in head.fields]
    if head.defaults:
        names = [name for name, _ in fields]
        fields += [field for field in head.defaults if field[0] not in names]
    return fields


def field_lines(fields: Sequence[Field]) -> bytes:
    """The field lines of an interim response.

    Raises:
        ResponseError: one of them is malformed.
    """
    return _good([_lowered(name) + b": " + value for name, value in fields])


@functools.lru_cache(1024)
def _lowered(name: bytes) -> bytes:
    """A field's name as it is sent (RFC 9110 §5.1). There are not many, so each is looked at once."""
    if not _NAME.fullmatch(name):
        raise ResponseError(f"{name!r} is no name of a response header (RFC 9110 §5.1)")
    return name.lower()


def _good(lines: Sequence[bytes]) -> bytes:
    """Lines whose names are good, with their ends, if their values are good too (RFC 9110 §5.5)."""
    joined = b"\r\n".join([*lines, b""])
    # A value with a line break in it would be two good lines.
    if not _LINES.fullmatch(joined) or joined.count(b"\n") != len(lines):
        wrong = next(line for line in lines if b"\n" in line or not _LINES.fullmatch(line + b"\r\n"))
        raise ResponseError(
            f"the response has a field that HTTP cannot carry: {wrong!r}; its value has a control character, or white "
            "space at an end (RFC 9110 §5.5)"
        )
    return joined


def _check_length(value: bytes, before: bytes | None) -> None:
    """See that a response announces one length."""
    if before is not None or not _LENGTH.fullmatch(value):
        raise ResponseError(
            f"the response's Content-Length is {value[:20]!r}, not one number of bytes; leave it out, and the server "
            "sets it where it knows the length"
        )


def _check_upgrade(name: bytes, status: int) -> None:
    """See that a field that is not the handler's to set is Upgrade in a 426."""
    if name != b"upgrade":
        raise ResponseError(f"the response has {name.decode()}; {SERVERS_OWN[name]}")
    if status != _UPGRADE_REQUIRED:
        raise ResponseError(
            "the response has upgrade; leave it out, as only a 426 says to which protocol a client must change "
            "(RFC 9110 §15.5.22), and only the server changes it"
        )


def _options(value: bytes) -> set[bytes]:
    """The options in a Connection field (RFC 9110 §7.6.1)."""
    return {option.strip(b" \t").lower() for option in value.split(b",")} - {b""}


def _check_options(options: set[bytes], status: int) -> None:
    """See that connection options are the handler's to set."""
    if wrong := options - ({b"close", b"upgrade"} if status == _UPGRADE_REQUIRED else {b"close"}):
        raise ResponseError(
            f"the response has the connection option {min(wrong).decode('latin-1')!a}; a handler may only say close, "
            "the rest is between the server and its client (RFC 9110 §7.6.1)"
        )

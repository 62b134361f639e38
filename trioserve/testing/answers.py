"""What a client reads: bytes in, answers out, by a reader that forgives nothing. Pure.

A client's library makes the best of what it gets. This reader refuses whatever a server must not send, and says by
which section; so every test that reads with it tests these rules too, whatever it is about. It shares no code with
the server.

`read_answers` is for who has read to the end of the connection, where each answer has at least a whole head.
`read_answers_before_leaving` is for who has not, or may have met a connection that was cut: what came last may be any
beginning of an answer, but it must be one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Asked(NamedTuple):
    """What an answer depends on besides its own bytes."""

    method: str
    version: str


GET = Asked("GET", "1.1")


class WrongAnswer(AssertionError):
    """The server sent what it must not send; the text names the section."""


@dataclass(frozen=True)
class RawAnswer:
    """A final response with what came before it, as it was on the wire."""

    status: int
    fields: tuple[tuple[str, str], ...]  # names in lower case
    content: bytes  # without chunk framing
    interim: tuple[int, ...] = ()  # status codes of the 1xx before it
    cut: bool = False  # it ended before its end

    def all(self, name: str) -> list[str]:
        """The values of all fields of this name."""
        return [value for key, value in self.fields if key == name.lower()]

    @property
    def closes(self) -> bool:
        """True if it announces the connection's end."""
        return "close" in self.members("connection")

    def members(self, name: str) -> list[str]:
        """The members of a field that is a list, in lower case."""
        return [member.strip().lower() for value in self.all(name) for member in value.split(",")]


_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)")
_VALUE = rb"(?:[\x21-\x7e\x80-\xff]+(?:[\t ]+[\x21-\x7e\x80-\xff]+)*)?"
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(" + _VALUE + rb")[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)\r\n")
_DAY = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_MONTH = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_DATE = re.compile(rf"(?:{_DAY}), \d\d (?:{_MONTH}) \d{{4}} \d\d:\d\d:\d\d GMT")


def read_answers(received: bytes, asked: Sequence[Asked]) -> list[RawAnswer]:
    """All answers in what was received up to the connection's end. `asked` are the requests, as far as known; those
    beyond are GETs. After a 101 follows no further answer.

    Raises:
        TypeError: something in `asked` is no `Asked`.
        WrongAnswer: the server sent what is no answer, or what it must not answer.
    """
    answers, rest = read_answers_before_leaving(received, asked)
    if rest:
        raise WrongAnswer(f"9112 §2.1: no whole head in {rest[:80]!r}")
    return answers


def read_answers_before_leaving(received: bytes, asked: Sequence[Asked]) -> tuple[list[RawAnswer], bytes]:
    """All answers in what was received of a connection that may have been cut anywhere, and what is left behind them:
    the beginning of an answer's head, or interim responses of an answer that has not begun.

    Of the answers only the last may be `cut`; then nothing is left. Otherwise as `read_answers`.

    Raises:
        WrongAnswer: the server sent what is no answer, nor the beginning of one, or what it must not answer.
    """
    answers: list[RawAnswer] = []
    rest = received
    for each in asked:
        if not isinstance(each, Asked):
            raise TypeError(f'asked has {each!r}, which is no Asked; give a method and a version: Asked("GET", "1.1")')
    while rest:
        number = len(answers)
        try:
            answer, behind = _one(rest, asked[number] if number < len(asked) else GET)
        except _HeadIsCut as error:
            _check_beginning_of_head(error.data)
            break
        answers.append(answer)
        rest = behind
        if answer.status == 101:
            return answers, b""
        if rest and (answer.closes or answer.cut):
            raise WrongAnswer(f"9112 §9.6: {rest[:60]!r} came behind an answer that was the last")
    return answers, rest


class _HeadIsCut(Exception):
    """There is no whole head in this."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


def _one(data: bytes, asked: Asked) -> tuple[RawAnswer, bytes]:
    interim: list[int] = []
    while True:
        status, fields, rest = _head(data)
        if status == 101 or status >= 200:
            break
        _check_interim(fields, asked)
        interim.append(status)
        data = rest
    answer = RawAnswer(status, fields, b"", tuple(interim))
    _check_head(answer, asked)
    content, cut, rest = _content(answer, rest, asked)
    if status == 205 and content:
        raise WrongAnswer(f"9110 §15.3.6: a 205 has no content, but this one has {content!r}")
    return RawAnswer(status, fields, content, tuple(interim), cut), rest


def _check_beginning_of_head(data: bytes) -> None:
    *lines, last = data.split(b"\r\n")
    if lines:
        _parsed([line for line in lines if line])
    elif not (b"HTTP/1.1 ".startswith(last[:9]) and re.fullmatch(rb"[^\x00-\x08\x0a-\x0c\x0e-\x1f\x7f]*", last)):
        raise WrongAnswer(f"9112 §4: {last[:80]!r} does not begin a status line")


def _head(data: bytes) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        raise _HeadIsCut(data)
    return *_parsed(head.split(b"\r\n")), rest


def _parsed(lines: Sequence[bytes]) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Status code and fields in the lines of a head."""
    line, *lines = lines
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise WrongAnswer(f"9112 §4: {line[:80]!r} is no status line")
    fields = []
    for line in lines:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            raise WrongAnswer(f"9112 §5: {line[:80]!r} is no field line")
        fields.append((field[1].decode("ascii").lower(), field[2].decode("latin-1")))
    return int(match[1]), tuple(fields)


def _check_interim(fields: tuple[tuple[str, str], ...], asked: Asked) -> None:
    if asked.version == "1.0":
        raise WrongAnswer("9110 §15.2: an interim response went to a client of version 1.0")
    for name, _ in fields:
        if name in {"content-length", "transfer-encoding"}:
            raise WrongAnswer(f"9110 §8.6, 9112 §6.1: an interim response has {name}")


def _check_head(answer: RawAnswer, asked: Asked) -> None:
    _check_framing(answer, asked)
    if asked.method == "CONNECT" and answer.status < 300:
        raise WrongAnswer(f"9110 §9.3.6: {answer.status} opens a tunnel that nobody serves")
    if answer.status == 101:
        if not answer.all("upgrade") or answer.members("connection") != ["upgrade"]:
            raise WrongAnswer("9110 §15.2.2: a 101 does not say to what it switches")
        return
    dates = answer.all("date")
    if len(dates) != 1 or not _DATE.fullmatch(dates[0]):
        raise WrongAnswer(f"9110 §6.6.1, §5.6.7: an answer has Date {dates}")
    if answer.status == 405 and not answer.all("allow"):
        raise WrongAnswer("9110 §15.5.6: a 405 has no Allow")
    if answer.status == 426 and (not answer.all("upgrade") or "upgrade" not in answer.members("connection")):
        raise WrongAnswer("9110 §15.5.22: a 426 has no Upgrade")
    if asked.version == "1.0" and not answer.closes and "keep-alive" not in answer.members("connection"):
        raise WrongAnswer("9112 §9.3: an answer to a client of version 1.0 does not say that the connection ends")


def _check_framing(answer: RawAnswer, asked: Asked) -> None:
    codings, lengths = answer.all("transfer-encoding"), answer.all("content-length")
    if answer.status in {101, 204} and (codings or lengths):
        raise WrongAnswer(f"9110 §8.6, 9112 §6.1: a {answer.status} has {codings or lengths} for its length")
    if codings and lengths:
        raise WrongAnswer("9112 §6.2: an answer has Content-Length beside Transfer-Encoding")
    if codings and (codings != ["chunked"] or asked.version == "1.0"):
        raise WrongAnswer(f"9112 §6.1: Transfer-Encoding {codings} went to a client of version {asked.version}")
    if lengths and (len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0])):
        raise WrongAnswer(f"9112 §6.3: an answer has Content-Length {lengths}")


def _content(answer: RawAnswer, rest: bytes, asked: Asked) -> tuple[bytes, bool, bytes]:
    """The content, whether it was cut, and what follows: RFC 9112 §6.3."""
    if asked.method == "HEAD" or answer.status in {101, 204, 304}:
        return b"", False, rest
    if answer.all("transfer-encoding"):
        return _chunks(rest)
    if lengths := answer.all("content-length"):
        length = int(lengths[0])
        return rest[:length], len(rest) < length, rest[length:]
    if not answer.closes:
        raise WrongAnswer("9112 §9.3: an answer on a connection that goes on does not say how long it is")
    return rest, False, b""


def _chunks(rest: bytes) -> tuple[bytes, bool, bytes]:
    content = b""
    while True:
        line = _CHUNK_LINE.match(rest)
        if line is None:
            if re.fullmatch(rb"[0-9A-Fa-f]*\r?", rest):
                return content, True, b""
            raise WrongAnswer(f"9112 §7.1: {rest[:40]!r} does not begin with a chunk")
        size, rest = int(line[1], 16), rest[line.end() :]
        content += rest[:size]
        if len(rest) < size + 2:
            return content, True, b""
        if rest[size : size + 2] != b"\r\n":
            raise WrongAnswer(f"9112 §7.1: no end of chunk or trailer section at {rest[size:][:40]!r}")
        rest = rest[size + 2 :]
        if size == 0:
            return content, False, rest

"""The gate: the request side of a connection. Bytes in, requests out, by a strict reading of RFC 9112's grammar.

An engine's parser is lenient, each in its own way, and what two parsers on one connection read in two ways is how
requests are smuggled. So there is one: heads, content and trailers are read here and nowhere else, and are the same
with every engine, which is a gate with a machine (`core.engine`). Content of a known length is counted, chunked content
is taken out of its chunks. The machine is told of a request what it acts on when it answers, and no more
(`head_for_machine`): whether it is HEAD or CONNECT, its version, and the fields that say what becomes of the
connection. To the machine no request has content.

Three rules hold for all of it:

* What is refused, and with which status code, is a function of the stream of bytes and not of the pieces in which it
  came: the first byte that no request can have in its place, or that is one too many, decides. A request is refused as
  soon as that can be known (but for long chunk extensions, which may have to end first), and what came before that byte
  has passed. A refusal is for good: the same one is raised again.
* Nothing is held but what nobody has asked for yet, and what cannot pass yet: the part of a head, a trailer section or
  a chunk's first line that is there (`Limits.head`, `Limits.chunk_extensions`), and what stands behind a complete
  request.
* A head, or a chunk, is tried as a whole first, and only looked at line by line if it is not all there or does not fit:
  what is well-formed costs a few microseconds, and what is not gets an exact reason.

Refused are, with 400, what is malformed or could be read in two ways; with 414 a target, and with 431 a field line, a
head, a trailer section or a number of fields beyond the `Limits`; with 413 too many bytes of chunk extensions; with 501
a method longer than any that there is, and a transfer coding other than chunked; with 505 a version other than 1.0 and
1.1, HTTP/2's preface included.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from trioserve.core.errors import RequestError
from trioserve.core.field_section import fields_of
from trioserve.core.framing import FRAMING, content_length, expects_continue
from trioserve.core.grammar import (
    CHUNK_LINE,
    CHUNK_SIZE,
    EXTENSIONS_SO_FAR,
    FIELD_LINE_SO_FAR,
    LF,
    MAX_EMPTY_LINES,
    MAX_SIZE_DIGITS,
    REQUEST_LINE,
    REQUEST_LINE_SO_FAR,
    why_no_chunk_line,
    why_no_field_line,
    why_no_request_line,
)
from trioserve.core.limits import Limits
from trioserve.core.messages import (
    NEED_DATA,
    BodyPart,
    EndOfRequest,
    Field,
    RequestEvent,
    RequestHead,
    RequestLine,
    Waiting,
)
from trioserve.core.target import authority_of, host_of

LOOKED_AT_EARLY: Final = 256
"""Bytes of chunk extensions that are looked at before the line has an end."""

_END_OF_SECTION = b"\r\n\r\n"
_FOR_MACHINE = frozenset({b"connection", b"upgrade"})
_ACTED_ON = FRAMING | _FOR_MACHINE | {b"host", b"expect"}
# What every method is to a machine, which asks no more than how it must answer.
_FOR_MACHINE_IS = {"HEAD": b"HEAD / HTTP/%b\r\nhost: a\r\n", "CONNECT": b"CONNECT a:1 HTTP/%b\r\nhost: a:1\r\n"}
_ANY_OTHER = b"GET / HTTP/%b\r\nhost: a\r\n"
# Of larger heads, and of such as have more fields that are acted on, the terms are not remembered.
_SMALL_HEAD = 2048
_FEW_ACTED_ON = 5
_END_WITHOUT_TRAILERS = EndOfRequest(())
_VERSIONS = (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")


class _Next(Enum):
    """What the next bytes are."""

    HEAD = auto()
    CONTENT = auto()  # of known length
    CHUNK_LINE = auto()
    CHUNK = auto()
    END_OF_CHUNK = auto()
    TRAILERS = auto()
    END = auto()  # none: all of the content has passed, and the end has yet to be told
    NOTHING = auto()  # the request has passed to its end


_HEAD, _CONTENT, _CHUNK_LINE, _CHUNK, _END_OF_CHUNK, _TRAILERS, _END, _NOTHING = _Next


class Gate:
    """The gate of one connection, request after request.

    Attributes:
        method: the current request's method; None until it is known, also where the head is refused later.
        head: the current request's head; None until it has passed.
        head_for_machine: what the machine is told of it, once it has passed. There are not many different ones.
        awaits_continue: True if the client holds its content back until it hears 100 Continue (RFC 9110 §10.1.1).
        trailers: its trailer section, once the request has passed to its end.
    """

    __slots__ = (
        "_at", "_checked", "_empty_lines", "_extension_bytes", "_fields", "_held", "_left", "_limits", "_next",
        "_refusal", "_surely_small", "awaits_continue", "head", "head_for_machine", "method", "trailers",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # In a head of no more bytes, neither the target nor a field line is too long either.
        self._surely_small = min(limits.head, limits.target, limits.field)
        # Bytes that have come; those before `_at` have passed.
        self._held = b""
        self._at = 0
        self._next = _HEAD
        self._empty_lines = 0
        # Of a head or trailer section whose end is not there yet: bytes in whole lines that were found good, and how
        # many of these are field lines.
        self._checked = 0
        self._fields = 0
        # Bytes of the content, or of the chunk, that are still to come.
        self._left = 0
        self._extension_bytes = 0
        # With which status code and words all that comes is refused.
        self._refusal: tuple[int, str] | None = None
        self.method: str | None = None
        self.head: RequestHead | None = None
        self.head_for_machine = b""
        self.awaits_continue = False
        self.trailers: Sequence[Field] = ()

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the peer."""
        self._held = self._held[self._at :] + data if self._held else data
        self._at = 0
        if self._next is _HEAD and self._held.startswith(b"\r"):
            self._skip_empty_lines()

    @property
    def unparsed_bytes(self) -> bytes:
        """The bytes that have come and not passed, but for empty lines before a request."""
        return self._held[self._at :]

    @property
    def has_unparsed_bytes(self) -> bool:
        """True if that is not empty. An empty line before a request begins nothing, nor does the half of one."""
        size = len(self._held) - self._at
        return size > 1 or (size == 1 and not (self._next is _HEAD and self._held.endswith(b"\r")))

    @property
    def request_line(self) -> RequestLine | None:
        """The request line of a head that has not passed, because more of it must come or because it was refused.

        None if there is no such head, its request line is not all there, or the line itself was refused.
        """
        if self._next is not _HEAD or not self._checked:
            return None
        line = REQUEST_LINE.match(self._held, self._at)
        assert line is not None, "what was found good begins with a request line"
        return RequestLine(*(part.decode("ascii") for part in line.groups()))

    @property
    def request_complete(self) -> bool:
        """True if all of the current request has passed, whether its end was told or not."""
        return self._next is _END or self._next is _NOTHING

    def start_next_request(self) -> None:
        """Expect the next head. Only when the current request is complete."""
        assert self.request_complete, "one request passes after another"
        self._next = _HEAD
        self._empty_lines = 0
        self._extension_bytes = 0
        self.method = self.head = None
        self.head_for_machine = b""
        self.trailers = ()
        if self._held:
            self._skip_empty_lines()

    def refuse(self, status: int, detail: str) -> None:
        """Let nothing pass any more."""
        self._refusal = self._refusal or (status, detail)

    def continue_said(self) -> None:
        """The client has been answered: with 100 Continue, or with what makes it needless."""
        self.awaits_continue = False

    def next_event(self) -> RequestEvent | Waiting:
        """The next event of the current request. NEED_DATA if more must come first, or its end was told.

        Raises:
            RequestError: what comes next is no request that we serve. Nothing passes any more.
        """
        if self._refusal is not None:
            raise RequestError(*self._refusal)
        comes = self._next
        try:
            if comes is _HEAD:
                return self._head()
            if comes is _END:
                return self._end()
            if comes is _CONTENT:
                return self._content()
            if comes is _NOTHING:
                return NEED_DATA
            return self._chunked_content()
        except RequestError as error:
            self.refuse(error.status, error.detail)
            raise

    def _pass(self, size: int) -> bytes:
        """Let the next bytes go, as many as are there but no more than so many."""
        start = self._at
        data = self._held[start : start + size]
        self._drop(len(data))
        return data

    def _drop(self, size: int) -> None:
        """Have no more of the next bytes, and keep nothing of them: idle connections are many."""
        self._at += size
        if self._at == len(self._held):
            self._held, self._at = b"", 0

    # The head

    def _skip_empty_lines(self) -> None:
        while not self._checked and self._empty_lines < MAX_EMPTY_LINES and self._held.startswith(b"\r\n", self._at):
            self._drop(2)
            self._empty_lines += 1

    def _head(self) -> RequestHead | Waiting:
        held, start = self._held, self._at
        end = held.find(_END_OF_SECTION, start + self._checked - 2 if self._checked else start)
        line = REQUEST_LINE.match(held, start) if end >= 0 else None
        fields = self._good_fields(line, end + 2) if line is not None else None
        if fields is None:
            fields = self._section()
            if fields is None:
                return NEED_DATA
        assert line is not None, "a head that was found good begins with a request line"
        self._checked = end + 2 - start
        method, target, version = line[0].decode("ascii").split()
        self.method = method
        version = version[5:]  # behind HTTP/
        for_machine = _FOR_MACHINE_IS.get(method, _ANY_OTHER)
        acted_on = tuple([field for field in fields if field[0] in _ACTED_ON])
        is_kept = end - start <= _SMALL_HEAD and len(acted_on) <= _FEW_ACTED_ON
        terms_of = _terms if is_kept else _terms.__wrapped__  # the same function without its memory
        terms = terms_of(for_machine, version, acted_on)
        length = terms.content_length
        self.head = head = RequestHead(
            method, target, version, fields, length, authority_of(method, target, terms.host)
        )
        self.head_for_machine = terms.for_machine
        self.awaits_continue = terms.awaits_continue
        self._pass_section()
        self._left = length or 0
        self._next = _CHUNK_LINE if length is None else _CONTENT if length else _END
        return head

    def _good_fields(self, line: re.Match[bytes], end: int) -> tuple[Field, ...] | None:
        """The fields behind the request line if all is well with both, found out fast; else None."""
        held, limits = self._held, self._limits
        start = self._at
        if end + 2 - start > self._surely_small or line.end(1) - start > limits.method:
            return None
        fields = fields_of(held[line.end() : end])
        return fields if fields is not None and len(fields) <= limits.fields else None

    # A section (the head, or the trailer section) line by line

    def _section(self) -> tuple[Field, ...] | None:
        """The fields of a section that is all there and in which every line is good; None if its end is not there yet.

        Raises:
            RequestError: a line is wrong, or one too many.
        """
        while True:
            begins_head = self._next is _HEAD and not self._checked
            size = self._request_line() if begins_head else self._field_line()
            if not size:
                return None
            if size == len(b"\r\n"):
                section = self._held[self._at : self._at + self._checked]
                fields = fields_of(section.partition(b"\r\n")[2] if self._next is _HEAD else section)
                assert fields is not None, "every line was found good"
                return fields
            self._fields += not begins_head
            self._checked += size

    def _request_line(self) -> int:
        """The size of the request line (RFC 9112 §3), its end included; 0 if that is not there yet."""
        held, start, limits = self._held, self._at, self._limits
        stop = _stop(REQUEST_LINE_SO_FAR, held, start)
        size = stop - start
        method, space, rest = held[start:stop].partition(b" ")
        target, _, version = rest.partition(b" ")
        if len(method) > min(limits.method, limits.head):
            raise RequestError(501, f"the request's method is longer than {limits.method:.0f} bytes")
        if space:
            self.method = method.decode("ascii")
        if len(target) > limits.target and len(method + space) + limits.target <= limits.head:
            raise RequestError(414, f"the request target is longer than {limits.target:.0f} bytes")
        if size > limits.head:
            raise RequestError(414, f"the request line is longer than {limits.head:.0f} bytes")
        if version.endswith(b"\n"):
            if version not in _VERSIONS:
                raise RequestError(505, "this server speaks HTTP/1.1 and HTTP/1.0")
            return size
        if stop < len(held) and held[start:] != b"\r":  # which may be half of an empty line
            raise RequestError(400, why_no_request_line(held[start:stop], held[stop]))
        return 0

    def _field_line(self) -> int:
        """The size of the next field line (RFC 9112 §5) or empty line, its end included; 0 if that is not there yet."""
        held, limits = self._held, self._limits
        start = self._at + self._checked
        room = limits.head - self._checked
        stop = _stop(FIELD_LINE_SO_FAR, held, start)
        size = stop - start
        section, kind = ("head", "header") if self._next is _HEAD else ("trailer section", "trailer")
        if self._fields >= limits.fields and held[start : start + 1] not in {b"", b"\r"}:
            raise RequestError(431, f"the request has more than {limits.fields:.0f} {kind} fields")
        if len(held[start:stop].rstrip(b"\r\n")) > limits.field < room:
            raise RequestError(431, f"a {kind} field of the request is longer than {limits.field:.0f} bytes")
        if size > room:
            raise RequestError(431, f"the request's {section} is larger than {limits.head:.0f} bytes")
        if size and held[stop - 1] == LF:
            return size
        if stop < len(held):
            raise RequestError(400, why_no_field_line(held[start:stop], held[stop]))
        return 0

    def _pass_section(self) -> None:
        """Let go the lines that were found good, and the empty one behind them."""
        self._drop(self._checked + 2)
        self._checked = self._fields = 0

    # Content (RFC 9112 §6 and §7)

    def _content(self) -> BodyPart | Waiting:
        data = self._pass(self._left)
        if not data:
            return NEED_DATA
        self._left -= len(data)
        if not self._left:
            self._next = _END
        return self._part(data)

    def _part(self, data: bytes) -> BodyPart:
        self.awaits_continue = False
        return BodyPart(data)

    def _end(self) -> EndOfRequest:
        self.awaits_continue = False
        self._next = _NOTHING
        return EndOfRequest(self.trailers) if self.trailers else _END_WITHOUT_TRAILERS

    def _chunked_content(self) -> BodyPart | EndOfRequest | Waiting:
        content: list[bytes] = []
        try:
            self._take_content(content)
        except RequestError:
            # What came before the mistake is content all the same; the next call meets the mistake again.
            if not content:
                raise
        if content:
            return self._part(b"".join(content))
        if self._next is _TRAILERS and self._trailers():
            return self._end()
        return NEED_DATA

    def _take_content(self, content: list[bytes]) -> None:
        """Take what is there of chunks, up to the last chunk's line, and put their data into `content`."""
        while True:
            if self._next is _END_OF_CHUNK and not self._end_of_chunk():
                return
            if self._next is _CHUNK_LINE:
                self._take_whole_chunks(content)
                if not self._chunk_line():
                    return
            if self._next is _TRAILERS or not self._held:
                return
            data = self._pass(self._left)
            content.append(data)
            self._left -= len(data)
            if not self._left:
                self._next = _END_OF_CHUNK

    def _take_whole_chunks(self, content: list[bytes]) -> None:
        """Take the chunks that are all there and have no extensions, fast: there may be thousands in one segment."""
        held, at = self._held, self._at
        while (line := CHUNK_LINE.match(held, at)) is not None:
            start = line.end()
            end = start + int(line[1], 16)
            if end == start or not held.startswith(b"\r\n", end):
                break
            content.append(held[start:end])
            at = end + 2
        self._drop(at - self._at)

    def _end_of_chunk(self) -> bool:
        """Take the end of a chunk's data; False if it is not all there yet."""
        held, start = self._held, self._at
        if held.startswith(b"\r\n", start):
            self._drop(2)
            self._next = _CHUNK_LINE
            return True
        if held[start : start + 2] not in {b"", b"\r"}:
            raise RequestError(
                400, "a chunk of the request's content is longer than it says, or has no line break at its end"
            )
        return False

    def _chunk_line(self) -> bool:
        """Take a chunk's first line (§7.1); False if it is not all there yet."""
        held, start, limits = self._held, self._at, self._limits
        digits = _stop(CHUNK_SIZE, held, start)
        if digits - start > MAX_SIZE_DIGITS:
            raise RequestError(400, f"a chunk's size has more than {MAX_SIZE_DIGITS} digits")
        # Of a long line only the beginning is looked at until all of it is there, or too much, lest each byte of it
        # costs a look at all. But that always is: else it would depend on the pieces whether a mistake is refused.
        room = limits.chunk_extensions - self._extension_bytes
        early = digits + LOOKED_AT_EARLY
        is_long_and_open = start < digits and early < len(held) <= digits + room and held.find(b"\n", digits) < 0
        if is_long_and_open and _stop(EXTENSIONS_SO_FAR, held, digits, early) == early:
            return False
        stop = digits if digits == start else _stop(EXTENSIONS_SO_FAR, held, digits)
        extensions = len(held[digits:stop].rstrip(b"\r\n"))
        if extensions > room:
            raise RequestError(
                413, f"the chunk extensions of the request are larger than {limits.chunk_extensions:.0f} bytes"
            )
        if stop == digits or held[stop - 1] != LF:
            if stop < len(held):
                raise RequestError(400, why_no_chunk_line(held[start:stop], held[stop]))
            return False
        self._extension_bytes += extensions
        self._left = int(held[start:digits], 16)
        self._next = _CHUNK if self._left else _TRAILERS
        self._drop(stop - start)
        return True

    def _trailers(self) -> bool:
        """Take the trailer section (§7.1.2); False if it is not all there yet."""
        trailers = self._section()
        if trailers is None:
            return False
        for name, _ in trailers:
            if name in FRAMING:
                raise RequestError(400, f"{name.decode()} cannot be a trailer field (RFC 9110 §6.5.1)")
        self.trailers = trailers
        self._pass_section()
        return True


def _stop(pattern: re.Pattern[bytes], held: bytes, start: int, end: int = sys.maxsize) -> int:
    """Where what fits a grammar ends, if no more than the bytes up to `end` are looked at."""
    match = pattern.match(held, start, end)
    assert match is not None, "the beginning of a grammar may be empty"
    return match.end()


class _Terms(NamedTuple):
    """What follows of a head besides its method and its target.

    Attributes:
        content_length: as in `RequestHead`.
        host: what Host says.
        awaits_continue: as in `Gate`.
        for_machine: what the machine is told.
    """

    content_length: int | None
    host: str | None
    awaits_continue: bool
    for_machine: bytes


@functools.lru_cache(128)  # its bytes are bounded (tests/core/test_kept.py), and no secret is in these fields
def _terms(for_machine: bytes, http_version: str, acted_on: Sequence[Field]) -> _Terms:
    """The terms of a head with these fields of those that are `_ACTED_ON`. What the machine is told begins as given.

    Raises:
        RequestError: they are none, or contradict each other.
    """
    length = content_length(acted_on, http_version)
    lines = [b"%b: %b\r\n" % field for field in acted_on if field[0] in _FOR_MACHINE]
    return _Terms(
        length,
        host_of(http_version, acted_on),
        length != 0 and http_version != "1.0" and expects_continue(acted_on),
        b"".join([for_machine % http_version.encode(), *lines, b"\r\n"]),
    )

"""Reads answers off a stream, strictly: whatever is not exactly RFC 9112's framing is a `WrongAnswer`."""

from __future__ import annotations

import re
from typing import NamedTuple

import trio

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e]*")
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)"
)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_ROOM = 65_536


class WrongAnswer(Exception):
    """An answer that is not the right one, or none at all."""


class Answer(NamedTuple):
    """One final answer. `fields`: names in lower case."""

    status: int
    fields: dict[str, str]
    content: bytes
    interim: tuple[int, ...]  # status codes of the interim answers before it


class Answers:
    """The answers on one connection, in order."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._unread = bytearray()

    async def next(self, method: str = "GET") -> Answer:
        """The next final answer, whole.

        Raises:
            WrongAnswer: it is malformed, or the stream ends before it does.
        """
        interim = []
        while True:
            status, fields = await self.head()
            if status >= 200:
                break
            interim.append(status)
        if "date" not in fields:
            raise WrongAnswer(f"an answer without Date: {status} {fields}")
        return Answer(status, fields, await self._content(method, status, fields), tuple(interim))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status code and fields of the next answer, interim or final."""
        lines = (await self._until(b"\r\n\r\n")).split(b"\r\n")
        status_line = _STATUS_LINE.fullmatch(lines[0])
        if status_line is None:
            raise WrongAnswer(f"this is no status line: {lines[0][:200]!r}")
        fields: dict[str, str] = {}
        for line in lines[1:]:
            match = _FIELD.fullmatch(line)
            if match is None:
                raise WrongAnswer(f"this is no field: {line[:200]!r}")
            name = match[1].decode("ascii").lower()
            if name in fields:
                raise WrongAnswer(f"a field comes twice: {line[:200]!r}")
            fields[name] = match[2].decode("latin-1")
        return int(status_line[1]), fields

    async def _content(self, method: str, status: int, fields: dict[str, str]) -> bytes:
        length, coding = fields.get("content-length"), fields.get("transfer-encoding")
        if length is not None and coding is not None:
            raise WrongAnswer(f"an answer with both Content-Length and Transfer-Encoding: {fields}")
        if method == "HEAD" or status in {204, 304}:
            return b""
        if coding is not None:
            if coding != "chunked":
                raise WrongAnswer(f"an answer with Transfer-Encoding: {coding}")
            return await self._chunks()
        if length is not None:
            return await self._exactly(int(length))
        if fields.get("connection") != "close":
            raise WrongAnswer(f"an answer without framing on a connection that is kept: {status} {fields}")
        return await self._to_the_end()

    async def _chunks(self) -> bytes:
        content = bytearray()
        while True:
            line = await self._until(b"\r\n")
            if _CHUNK_SIZE.fullmatch(line) is None:
                raise WrongAnswer(f"this is no chunk size: {line[:200]!r}")
            size = int(line, 16)
            content += await self._exactly(size)
            if await self._exactly(2) != b"\r\n":
                raise WrongAnswer("a chunk does not end where it says")
            if not size:
                return bytes(content)

    async def end(self) -> None:
        """The stream ends here, and nothing is before its end.

        Raises:
            WrongAnswer: something is.
        """
        while await self._more():
            pass
        if self._unread:
            raise WrongAnswer(f"something follows the last answer: {bytes(self._unread[:200])!r}")

    async def _to_the_end(self) -> bytes:
        while await self._more():
            pass
        return await self._exactly(len(self._unread))

    async def _until(self, marker: bytes) -> bytes:
        start = 0
        while (at := self._unread.find(marker, start)) < 0:
            start = max(0, len(self._unread) - len(marker))
            await self._must_come()
        found = bytes(self._unread[:at])
        del self._unread[: at + len(marker)]
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            await self._must_come()
        found = bytes(self._unread[:size])
        del self._unread[:size]
        return found

    async def _must_come(self) -> None:
        if not await self._more():
            raise WrongAnswer(
                f"the connection ended before the answer did; the last was {bytes(self._unread[-200:])!r}"
            )

    async def _more(self) -> bool:
        try:
            data = await self._stream.receive_some(_ROOM)
        except trio.BrokenResourceError as error:
            raise WrongAnswer(f"the connection broke: {error.__cause__ or error}") from None
        self._unread += data
        return bool(data)

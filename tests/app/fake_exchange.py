"""A fake `Exchange`: one request in memory, and what was answered to it. It keeps the rules of the real one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from trioserve.core.application import LastWords
from trioserve.core.engine import NO_CONTENT
from trioserve.core.errors import ClientGone, ResponseError
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import Content, Field, FileSlice, RequestHead


class FakeExchange:
    """Args:
    parts: the request's content as it arrives; an exception among them is raised when its turn comes.
    """

    max_body = float("inf")
    ended = False
    draining = False
    stopping = False
    refusal = None
    limits = Limits()
    deadlines = Deadlines()

    def __init__(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        fields: Sequence[Field] = (),
        parts: Iterable[bytes | Exception] = (),
        http_version: str = "1.1",
        client: tuple[str, int] | None = ("127.0.0.1", 50_000),
        scheme: str = "http",
        authority: str | None = "test",
    ) -> None:
        self.head = RequestHead(method, target, http_version, fields, None)
        self.client = client
        self.scheme = scheme
        self.authority = authority
        self._parts = list(parts)
        # What happened, in order: "starts", "thread", "head", "part", "end", "switch", "pause", "may go", "left",
        # "vanished".
        self.log: list[str] = []
        self.status: int | None = None
        self.fields: list[Field] = []
        self.parts: list[bytes] = []
        self._complete = False

    @property
    def body(self) -> bytes:
        """The content of the response, which is complete."""
        assert self._complete, "the response has no end"
        return b"".join(self.parts)

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.fields}

    @property
    def completed(self) -> bool:
        return self._complete

    def close_connection(self) -> None:
        self.log.append("last")

    def report_failure(self, error: BaseException) -> None:
        self.log.append(f"failed: {error!r}")

    async def until_draining(self) -> None:
        await trio.sleep_forever()

    def handler_starts(self) -> None:
        self.log.append("starts")

    def handler_returned(self) -> None:
        self.log.append("returned")

    async def run_in_thread(self, function: Callable[[], Any]) -> Any:
        self.log.append("thread")
        self.handler_starts()
        return await trio.to_thread.run_sync(function)

    def content_allowed(self, status: int) -> bool:
        return status not in NO_CONTENT and self.head.method != "HEAD"

    async def receive_part(self) -> bytes:
        if not self._parts:
            return b""
        part = self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    async def respond(self, status: int, fields: Sequence[Field], body: Content) -> None:
        await self.start_response(status, fields)
        if isinstance(body, FileSlice):
            body = os.pread(body.file.fileno(), len(body), body.offset)
        if body and self.content_allowed(status):
            self.parts.append(body)
        await self.end_response()

    async def start_response(self, status: int, fields: Sequence[Field]) -> None:
        if self.status is not None:
            raise ResponseError("a response was begun already")
        self.log.append("head")
        self.status, self.fields = status, list(fields)

    async def send_part(self, data: bytes) -> None:
        if self.status is None or self._complete:
            raise ResponseError("there is no response in progress")
        self.log.append("part")
        await trio.lowlevel.checkpoint()
        assert isinstance(data, bytes)
        if data and self.content_allowed(self.status):
            self.parts.append(data)

    async def end_response(self) -> None:
        if self.status is None or self._complete:
            raise ResponseError("there is no response in progress")
        self.log.append("end")
        self._complete = True

    @property
    def switched(self) -> bool:
        return "switch" in self.log

    async def switch_protocols(self, fields: Sequence[Field], last_words: LastWords) -> None:
        await self.start_response(101, fields)
        self.log[-1] = "switch"
        self.last_words = last_words

    async def receive_bytes(self) -> bytes:
        """The parts of the request, as far as they go; then the client leaves."""
        await trio.lowlevel.checkpoint()
        data = await self.receive_part()
        if not data:
            raise ClientGone("the client has left")
        return data

    def pause_reading(self) -> None:
        self.log.append("pause")

    def client_may_go(self) -> None:
        self.log.append("may go")

    def client_left(self) -> None:
        self.log.append("left")

    def client_vanished(self) -> None:
        self.log.append("vanished")

    async def send_bytes(self, data: bytes) -> None:
        if not self.switched:
            raise ResponseError("switch protocols first")
        await self.send_part(data)

    async def end_switched(self, data: bytes) -> None:
        if not self._complete:
            await self.send_bytes(data)
            await self.end_response()

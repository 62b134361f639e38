"""How inputs are thrown at a server in memory, in virtual time, and what must hold whatever they are.

Of every connection:

* No exception leaves it: nothing is logged as an error.
* It ends: at once when its client half-closes, by a deadline of the server's when its client stays.
* Its exchanges have one record each, numbered without a gap.
* What was sent to it is a row of responses, as an HTTP client reads them, and as one does that forgives nothing: those
  that the records tell of, and behind them nothing.
* Handlers are entered for what the engine accepts, in that order, and never for what it refuses.
* Nothing is served behind a refusal.
* However the bytes are cut, the records are the same.

Plays come one after the other, so what is recorded meanwhile is the play's own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import h11
import trio
from trio.testing import wait_all_tasks_blocked

from trioserve import Abandoned, App, Completed, Config, EngineName, HTTPError, Request
from trioserve.core.engine_h11 import H11Engine
from trioserve.core.errors import RequestError
from trioserve.core.limits import Limits
from trioserve.core.messages import NEED_DATA, RequestHead, ResponseHead
from trioserve.testing import Asked, MemoryServer, WrongAnswer, memory_server, read_answers_before_leaving

LIFETIME = 1000.0
"""Virtual seconds after which every deadline of a connection has passed."""

ROOM = 1 << 20
"""Bytes that the network holds in each direction: nothing that is thrown fills it."""


class Broken(AssertionError):
    """Something that must hold does not."""


class Told(NamedTuple):
    """What a record says. Without a head, method, target and version are those of a request line that was good."""

    kind: str
    status: int
    method: str | None
    target: str | None
    http_version: str | None
    has_head: bool


@dataclass
class Played:
    """What came of one connection."""

    entered: list[tuple[str, str]] = field(default_factory=list)
    records: list[Completed | Abandoned] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    received: bytes = b""

    @property
    def told(self) -> list[Told]:
        """What the records say that does not depend on how the bytes came."""
        return [
            Told(
                type(record).__name__,
                record.status,
                record.method,
                record.target,
                record.http_version,
                record.headers is not None,
            )
            for record in self.records
        ]


class Stage(logging.Handler):
    """A served app that takes down what comes of the connection that is being played."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.server: MemoryServer
        self._played = Played()

    # As an observer and as a log handler

    def completed(self, record: Completed) -> None:
        self._played.records.append(record)

    def abandoned(self, record: Abandoned) -> None:
        self._played.records.append(record)

    def emit(self, record: logging.LogRecord) -> None:
        self._played.errors.append(self.format(record))

    def enter(self, request: Request) -> None:
        """A handler was entered."""
        head = request.exchange.head
        self._played.entered.append((head.method, head.target))

    async def play(self, pieces: Sequence[bytes], *, stay: bool) -> Played:
        """Throw the pieces at a connection of their own; then stay or half-close, and read to its end."""
        played = self._played = Played()
        peer = self.server.connect(window=ROOM, send_buffer=ROOM)
        try:
            for piece in pieces:
                peer.send_nowait(piece)
                await wait_all_tasks_blocked()
        except trio.BrokenResourceError:
            pass  # the server has had enough
        if not stay:
            peer.send_eof_nowait()
        with trio.move_on_after(LIFETIME) as patience:
            played.received = await _read_to_end(peer)
        if patience.cancelled_caught:
            raise Broken(f"the connection has not ended after {LIFETIME} seconds")
        peer.close()
        await wait_all_tasks_blocked()
        return played


async def _read_to_end(peer: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    try:
        while data := await peer.receive_some():
            received += data
    except trio.BrokenResourceError:
        pass
    return bytes(received)


@asynccontextmanager
async def stage(engine: EngineName = EngineName.H11) -> AsyncIterator[Stage]:
    """A stage, while the block runs. In a trio run with an autojump clock."""
    it = Stage()
    config = Config(engine=engine, access_log=False, observers=(it,))
    log = logging.getLogger("trioserve")
    log.addHandler(it)
    try:
        async with memory_server(application(it), config) as it.server:
            yield it
    finally:
        log.removeHandler(it)


def application(stage: Stage) -> App:
    """Handlers that read all of their body, so that what is refused in it is refused however it is cut."""
    app = App()

    @app.route("/", methods=["GET", "POST", "PUT", "DELETE"])
    async def root(request: Request) -> str:
        stage.enter(request)
        await request.body()
        return "root"

    @app.route("/items/{number}", methods=["GET", "POST", "PUT", "DELETE"])
    async def item(request: Request, number: str) -> dict[str, object]:
        stage.enter(request)
        await request.body()
        return {"number": number, "query": list(request.query), "cookies": request.cookies}

    @app.route("/echo", methods=["GET", "POST", "PUT"])
    async def echo(request: Request) -> bytes:
        stage.enter(request)
        return await request.body()

    @app.post("/form")
    async def form(request: Request) -> str:
        stage.enter(request)
        try:
            return str(len(await request.form()))
        except HTTPError:
            while await request.exchange.receive_part():
                pass
            raise

    return app


def accepted(data: bytes) -> tuple[list[tuple[str, str]], int | None]:
    """The heads that the engine accepts, and the status code with which it refuses what follows (None: nothing)."""
    engine, heads = H11Engine(Limits()), []
    left: bytes = data
    try:
        while True:
            event = engine.next_event()
            if event is NEED_DATA:
                if engine.request_complete:
                    engine.respond(ResponseHead(404, [(b"content-length", b"0")]), b"")
                    if not engine.reusable:
                        return heads, None
                    engine.start_next_exchange()
                    continue
                if not left:
                    return heads, None
                engine.receive_data(left)
                left = b""
            elif isinstance(event, RequestHead):
                heads.append((event.method, event.target))
    except RequestError as error:
        return heads, error.status


def judge(data: bytes, played: Played) -> None:
    """See that everything holds that must.

    Raises:
        Broken: something does not.
    """
    if played.errors:
        raise Broken(f"an error was logged: {played.errors[0]}")
    numbers = [record.exchange_number for record in played.records]
    if numbers != list(range(1, len(numbers) + 1)):
        raise Broken(f"exchanges have the numbers {numbers}")
    heads, refusal = accepted(data)
    _judge_entered(played.entered, heads)
    _judge_refusal(played, heads, refusal)
    _judge_responses(data, played)
    _judge_answers(data, played)


def _judge_entered(entered: list[tuple[str, str]], heads: list[tuple[str, str]]) -> None:
    rest = iter(heads)
    if not all(each in rest for each in entered):
        raise Broken(f"handlers were entered for {entered}, and the engine accepts {heads}")


def _judge_refusal(played: Played, heads: list[tuple[str, str]], refusal: int | None) -> None:
    records = played.records
    for record in records[:-1]:
        if record.headers is None:
            raise Broken(f"exchange {record.exchange_number} had no head, and the connection went on")
    if len(records) > len(heads) + 1:
        raise Broken(f"there are {len(records)} records, and the engine accepts {len(heads)} heads")
    if refusal is not None and records and records[-1].headers is None and records[-1].status != refusal:
        raise Broken(f"a refusal with {refusal} was recorded as {records[-1]}")


def _judge_responses(data: bytes, played: Played) -> None:
    rest = played.received
    for record in played.records:
        if isinstance(record, Abandoned) and record.sent_status is None:
            continue
        method = record.method or ("HEAD" if b"HEAD " in data and _is_head_alone(rest) else "GET")
        status, rest = _read_response(rest, method)
        if status != (record.status if isinstance(record, Completed) else record.sent_status):
            raise Broken(f"the client got {status}, and the record says {record}")
    while rest:  # an interim response to one who did not wait for the final one
        status, rest = _read_response(rest + b"HTTP/1.1 204 No Content\r\n\r\n", "GET")
        if status != 204 or rest:
            raise Broken(f"behind the last response the client got {played.received[-200:]!r}")


def _judge_answers(data: bytes, played: Played) -> None:
    """By the reader that forgives nothing: framing, fields, and that nothing follows what is the last."""
    asked = [Asked(record.method or "GET", record.http_version or "1.1") for record in played.records]
    if (
        played.records
        and played.records[-1].method is None
        and b"HEAD " in data
        and played.received[-4:] == b"\r\n\r\n"
    ):
        asked[-1] = Asked("HEAD", "1.1")
    try:
        read_answers_before_leaving(played.received, asked)
    except WrongAnswer as error:
        raise Broken(f"{error}\n  in {played.received[-300:]!r}") from None


def _is_head_alone(data: bytes) -> bool:
    """True if a response has no content, though it may announce some: that of a HEAD whose head was refused."""
    return data.partition(b"\r\n\r\n")[2] == b""


def _read_response(data: bytes, method: str) -> tuple[int | None, bytes]:
    """The status code of the first final response, and what comes behind it."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    parser.receive_data(b"")
    status = None
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.ConnectionClosed):
                raise Broken(f"a response is missing, before {data[:100]!r}")
    except h11.RemoteProtocolError as error:
        raise Broken(f"a client cannot read {data[:200]!r}: {error}") from None
    return status, parser.trailing_data[0]

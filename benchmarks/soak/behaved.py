"""Clients that behave: they ask for all sorts of things, wait, and verify every answer byte for byte."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import trio
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request

from benchmarks.soak import asking
from benchmarks.soak.answers import Answer, Answers, WrongAnswer
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.server import FILE_NUMBER, FILE_SIZE, SMALL_BODY

PATIENCE = 60.0
"""Seconds for a whole connection: at times it waits until the server has a descriptor for it."""

LONGEST_THOUGHT = 0.05
"""Seconds between two requests of a connection, at most."""

NOT_FOUND = b"404 Not Found\nthere is nothing at this address\n"
NOT_ALLOWED = b"405 Method Not Allowed\nDELETE is not allowed here\n"
THE_FILE = asking.content(FILE_NUMBER, FILE_SIZE)

Connect = Callable[[], Awaitable[trio.abc.Stream]]
"""Connects, in the clear or over TLS."""


class Ask(NamedTuple):
    """One request that is ready to be sent, and what its answer must be."""

    number: int
    method: str
    data: bytes
    status: int
    content: bytes
    fields: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Asker:
    """Makes requests, and registers each with the ledger.

    Args:
        chance: where sizes come from.
    """

    ledger: Ledger
    chance: random.Random

    def plain(self) -> Ask:
        return self._get("/plain")

    def thread(self) -> Ask:
        return self._get("/thread")

    def stream(self) -> Ask:
        return self._get("/stream")

    def _get(self, path: str) -> Ask:
        number, size = self.ledger.open(f"GET {path}", 200), self._size()
        return Ask(
            number, "GET", asking.head("GET", asking.target(path, number, size=size)), 200, asking.content(number, size)
        )

    def head(self) -> Ask:
        number, size = self.ledger.open("HEAD /plain", 200), self._size()
        data = asking.head("HEAD", asking.target("/plain", number, size=size))
        return Ask(number, "HEAD", data, 200, b"", {"content-length": str(size)})

    def old(self) -> Ask:
        """HTTP/1.0, whose connection ends with the answer."""
        number, size = self.ledger.open("GET /stream in HTTP/1.0", 200), self._size()
        data = asking.head("GET", asking.target("/stream", number, size=size), version="1.0")
        return Ask(number, "GET", data, 200, asking.content(number, size))

    def echo(self) -> Ask:
        number, body = self.ledger.open("POST /echo", 200), self._body()
        fields = {"x-sha256": hashlib.sha256(body).hexdigest(), "content-length": str(len(body))}
        data = asking.with_length("POST", asking.target("/echo", number), body)
        return Ask(number, "POST", data, 200, body, fields)

    def echo_chunked(self) -> Ask:
        number, body = self.ledger.open("POST /echo, chunked", 200), self._body()
        head = asking.head("POST", asking.target("/echo", number), "Transfer-Encoding: chunked")
        return Ask(number, "POST", head + asking.chunked(body, self.chance), 200, body)

    def through(self) -> Ask:
        number, body = self.ledger.open("POST /through, chunked", 200), self._body()
        head = asking.head("POST", asking.target("/through", number), "Transfer-Encoding: chunked")
        fields = {"transfer-encoding": "chunked"}
        return Ask(number, "POST", head + asking.chunked(body, self.chance), 200, body, fields)

    def file(self) -> Ask:
        number = self.ledger.open("GET /file", 200)
        fields = {"content-length": str(FILE_SIZE), "accept-ranges": "bytes"}
        return Ask(number, "GET", asking.head("GET", asking.target("/file", number)), 200, THE_FILE, fields)

    def range(self) -> Ask:
        number = self.ledger.open("GET /file, a range", 206)
        first = self.chance.randrange(FILE_SIZE)
        last = self.chance.randrange(first, FILE_SIZE)
        data = asking.head("GET", asking.target("/file", number), f"Range: bytes={first}-{last}")
        fields = {"content-range": f"bytes {first}-{last}/{FILE_SIZE}"}
        return Ask(number, "GET", data, 206, THE_FILE[first : last + 1], fields)

    def form(self) -> Ask:
        number, file = self.ledger.open("POST /form", 200), self._body()
        title = f"Title of {number}: äöü"
        boundary = f"boundary{number}"
        body = asking.multipart(boundary, title, "file.bin", file)
        field = f"Content-Type: multipart/form-data; boundary={boundary}"
        answer = {"title": title, "name": "file.bin", "sha256": hashlib.sha256(file).hexdigest()}
        content = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
        return Ask(
            number, "POST", asking.with_length("POST", asking.target("/form", number), body, field), 200, content
        )

    def events(self) -> Ask:
        number, count = self.ledger.open("GET /events", 200), self.chance.randrange(20)
        content = "".join(
            f"id: {position}\nevent: tick\n"
            + "".join(f"data: {line}\n" for line in asking.event_text(number, position).split("\n"))
            + "\n"
            for position in range(count)
        ).encode()
        data = asking.head("GET", asking.target("/events", number, size=count))
        return Ask(number, "GET", data, 200, content, {"content-type": "text/event-stream"})

    def continued(self) -> Ask:
        """It sends its body without waiting for the 100 that it has asked for, as it may."""
        number, body = self.ledger.open("POST /echo, Expect: 100-continue", 200), self._body()
        head = asking.head(
            "POST", asking.target("/echo", number), f"Content-Length: {len(body)}", "Expect: 100-continue"
        )
        return Ask(number, "POST", head + body, 200, body)

    def nowhere(self) -> Ask:
        number = self.ledger.open("GET /nowhere", 404)
        return Ask(number, "GET", asking.head("GET", asking.target("/nowhere", number)), 404, NOT_FOUND)

    def not_allowed(self) -> Ask:
        number = self.ledger.open("DELETE /plain", 405)
        return Ask(number, "DELETE", asking.head("DELETE", asking.target("/plain", number)), 405, NOT_ALLOWED)

    def too_large(self) -> Ask:
        number, body = (
            self.ledger.open("POST /small, too large", 413),
            bytes(SMALL_BODY + self.chance.randrange(1, 50_000)),
        )
        data = asking.with_length("POST", asking.target("/small", number), body)
        return Ask(number, "POST", data, 413, b"")

    def finish(self) -> Ask:
        return self._get("/finish")

    def _size(self) -> int:
        return self.chance.choice((0, 1, 100, 5000, 40_000, 200_000))

    def _body(self) -> bytes:
        return asking.content(self.chance.randrange(1_000_000), self._size())


KEPT = (
    Asker.plain, Asker.plain, Asker.thread, Asker.stream, Asker.head, Asker.echo, Asker.echo_chunked, Asker.through,
    Asker.file, Asker.range, Asker.form, Asker.events, Asker.continued, Asker.nowhere, Asker.not_allowed,
)  # fmt: skip
"""Requests behind whose answers the connection is kept."""

LAST = (Asker.old, Asker.too_large)

PIPELINED = (Asker.plain, Asker.thread, Asker.stream, Asker.head, Asker.range, Asker.events, Asker.nowhere)
"""Requests that may be sent before the answers to those before them."""


def verify(ask: Ask, answer: Answer) -> None:
    """Raises:
    WrongAnswer: it is.
    """
    wrong = []
    if answer.status != ask.status:
        wrong.append(f"status {answer.status} instead of {ask.status}")
    wrong += [f"{n}: {answer.fields.get(n)} instead of {v}" for n, v in ask.fields.items() if answer.fields.get(n) != v]
    if (ask.content or ask.status == 200) and answer.content != ask.content:
        wrong.append(
            f"{len(answer.content)} bytes {answer.content[:60]!r} instead of {len(ask.content)} {ask.content[:60]!r}"
        )
    if any(status != 100 for status in answer.interim):
        wrong.append(f"interim answers {answer.interim}")
    if wrong:
        raise WrongAnswer("; ".join(wrong))


class Behaved:
    """A client that behaves. `one_connection` is one of its connections, with all that is asked on it.

    Args:
        told: called with what was asked, for each answer that was right.
    """

    def __init__(self, connect: Connect, ledger: Ledger, chance: random.Random, told: Callable[[str], None]) -> None:
        self._connect = connect
        self._ledger = ledger
        self._chance = chance
        self._told = told
        self._asker = Asker(ledger, chance)
        self._how = ""
        # What it is about, for complaints.
        self.doing = ""

    async def one_connection(self) -> None:
        """Raises:
        WrongAnswer, OSError, trio.BrokenResourceError, trio.TooSlowError: the server did not do its part.
        """
        with trio.fail_after(PATIENCE):
            self.doing = "connecting"
            stream = await self._connect()
            # What a client of TLS can't do is half-close.
            ways = {self._kept: 10, self._pipelined: 3, self._websocket: 2}
            if isinstance(stream, trio.SocketStream):
                ways[self._half_closing] = 2
            self._how = "" if isinstance(stream, trio.SocketStream) else "TLS: "
            [way] = self._chance.choices(list(ways), list(ways.values()))
            try:
                await way(stream)
            finally:
                await trio.aclose_forcefully(stream)

    async def _kept(self, stream: trio.abc.Stream) -> None:
        answers = Answers(stream)
        for _ in range(self._chance.randrange(8)):
            await self._ask(stream, answers, self._chance.choice(KEPT)(self._asker))
            await trio.sleep(self._chance.uniform(0, LONGEST_THOUGHT))
        if self._chance.random() < 0.5:
            await self._ask(stream, answers, self._chance.choice(LAST)(self._asker))
            await answers.end()

    async def _ask(self, stream: trio.abc.SendStream, answers: Answers, ask: Ask) -> None:
        self._doing(ask)
        async with trio.open_nursery() as nursery:  # a large answer may begin before a large request has ended
            nursery.start_soon(self._send, stream, ask.data)
            await self._take(answers, ask)

    async def _pipelined(self, stream: trio.abc.Stream) -> None:
        answers = Answers(stream)
        asks = [self._chance.choice(PIPELINED)(self._asker) for _ in range(self._chance.randrange(2, 12))]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream, b"".join(ask.data for ask in asks))
            for ask in asks:
                self._doing(ask, "pipelined ")
                await self._take(answers, ask)

    async def _half_closing(self, stream: trio.SocketStream) -> None:
        ask = self._asker.finish()
        self._doing(ask, "half-closing ")
        await stream.send_all(ask.data)
        await stream.send_eof()
        answers = Answers(stream)
        await self._take(answers, ask)
        await answers.end()

    async def _send(self, stream: trio.abc.SendStream, data: bytes) -> None:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            pass  # it may have its answer all the same (413), which is judged where it is taken

    async def _take(self, answers: Answers, ask: Ask) -> None:
        verify(ask, await answers.next(ask.method))
        self._ledger.close(ask.number, answered=True)
        self._told(self.doing)

    async def _websocket(self, stream: trio.abc.Stream) -> None:
        number = self._ledger.open("a WebSocket", 101)
        self.doing = f"{self._how}a WebSocket"
        protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        await stream.send_all(protocol.send(Request(host="soak.example", target=asking.target("/socket", number))))
        events = _events(protocol, stream)
        if not isinstance(await anext(events), AcceptConnection):
            raise WrongAnswer("the handshake was not accepted")
        for _ in range(self._chance.randrange(6)):
            sent = asking.content(number, self._chance.choice((0, 1, 100, 5000, 70_000)))
            await stream.send_all(protocol.send(BytesMessage(sent)))
            if await self._message(events) != sent:
                raise WrongAnswer("a message came back as another one")
        await stream.send_all(protocol.send(CloseConnection(1000)))
        closed = await anext(events)
        if not isinstance(closed, CloseConnection) or closed.code != 1000:
            raise WrongAnswer(f"our Close was answered by {closed!r}")
        await Answers(stream).end()
        self._ledger.close(number, answered=True)
        self._told(self.doing)

    async def _message(self, events: AsyncIterator[wsproto.events.Event]) -> bytes:
        message = b""
        while True:
            event = await anext(events)
            if not isinstance(event, BytesMessage):
                raise WrongAnswer(f"instead of a message came {event!r}")
            message += event.data
            if event.message_finished:
                return message

    def _doing(self, ask: Ask, how: str = "") -> None:
        self.doing = self._how + how + self._ledger.what(ask.number)


async def _events(
    protocol: wsproto.WSConnection, stream: trio.abc.ReceiveStream
) -> AsyncIterator[wsproto.events.Event]:
    while True:
        for event in protocol.events():
            yield event
        data = await stream.receive_some(65_536)
        protocol.receive_data(data or None)

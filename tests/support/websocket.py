"""An app whose every address is one WebSocket, and a client that speaks frames with wsproto."""

from __future__ import annotations

import math
from typing import Any, Self

import trio
from wsproto.connection import CLIENT, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trioserve import CANCEL, App, Request
from trioserve.app.websocket import Handler, serve_websocket
from trioserve.core.application import Endpoint, Exchange, Rules
from trioserve.core.messages import RequestHead

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
"""The sample of RFC 6455 §1.3, in the spelling of browsers."""

ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
"""The answer to it."""


class OneWebSocket(App):
    """Every request goes to `handler`; without keep-alive pings unless asked for."""

    def __init__(
        self, handler: Handler, *, ping: float = math.inf, max_message: float | None = None, **rules: Any
    ) -> None:
        super().__init__()
        self.handler = handler
        self.options = {"ping": ping, "max_message": max_message}
        self.own_rules = Rules(**{"disconnect": CANCEL, "deadline": math.inf, **rules})

    def endpoint(self, _: RequestHead) -> Endpoint:
        return _Endpoint(self)


class _Endpoint:
    name = "/"

    def __init__(self, app: OneWebSocket) -> None:
        self._app = app
        self.rules = app.own_rules

    async def __call__(self, exchange: Exchange) -> None:
        await serve_websocket(Request(exchange, {}), self._app.handler, **self._app.options)


class Frames:
    """The client's side of a session, on a client that sends and receives bytes (of the stage)."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.protocol = Connection(CLIENT)
        self._events: list[Event] = []

    @classmethod
    async def connect(cls, theatre: Any, handshake: bytes = HANDSHAKE, **settings: int) -> Self:
        """A client whose handshake was accepted."""
        client = await theatre.connect(**settings)
        await client.send(handshake)
        await shaken(client)
        return cls(client)

    def encode(self, *events: Event | str | bytes) -> bytes:
        return b"".join(self.protocol.send(_event(event)) for event in events)

    async def send(self, *events: Event | str | bytes) -> None:
        await self.client.send(self.encode(*events))

    def send_nowait(self, *events: Event | str | bytes) -> None:
        data = self.encode(*events)
        assert self.client.send_nowait(data) == len(data)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a Close frame, and nothing after it."""
        await self.send(CloseConnection(code=code, reason=reason))

    async def next(self) -> Event | None:
        """The next frame; None at the end of the stream."""
        while not self._events:
            try:
                data = await self.client.receive()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            if self.protocol.state is not ConnectionState.CLOSED:
                self.protocol.receive_data(data)
                self._events += self.protocol.events()
        return self._events.pop(0)

    async def message(self) -> str | bytes:
        """The next message, put together from its frames."""
        parts = []
        while True:
            event = await self.next()
            assert isinstance(event, TextMessage | BytesMessage), event
            parts.append(event.data)
            if event.message_finished:
                return type(parts[0])().join(parts)

    async def closed(self) -> tuple[int, str | None]:
        """Code and reason of the server's Close frame, which is to come next."""
        event = await self.next()
        assert isinstance(event, CloseConnection), event
        return event.code, event.reason

    async def pong(self) -> bytes:
        event = await self.next()
        assert isinstance(event, Pong), event
        return bytes(event.payload)

    async def pinged(self) -> Ping:
        event = await self.next()
        assert isinstance(event, Ping), event
        return event


def _event(event: Event | str | bytes) -> Event:
    match event:
        case str():
            return TextMessage(data=event)
        case bytes():
            return BytesMessage(data=event)
    return event


async def shaken(client: Any) -> bytes:
    """Read the head of the server's answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await client.receive(1)
        assert data, head
        head += data
    assert head.startswith(b"HTTP/1.1 101 "), head
    return head

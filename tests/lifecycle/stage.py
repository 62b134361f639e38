"""The stage on which lifecycles are played: one server, clients that can leave in every way, and all records.

The same test plays on four stages: connections in memory and real sockets, each with the watch (the kernel's, or what
stands for it in memory) and with the read-ahead fallback; on two more, in memory and on sockets, over TLS; and on two
on which there are layers around the app's handlers, see layers.py, and the other engine. In memory time is virtual. On
every stage, when the play is over, the rules that hold for all of them are checked: see `_check`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self

import h11
import pytest
import trio

from lifecycle.layers import Layers
from tests.support.tls import TlsClient, client_context, server_context
from trioserve import Abandoned, App, Completed, Config, EngineName, HalfClose, HangupNews, Limits, TcpAddress, serve
from trioserve.testing import MemoryPeer, MemoryServer, Peer, Records, VirtualClock, Way, memory_server

GET = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"

PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"

PATIENCE = 20
"""Seconds (real ones, on sockets) after which a test is given up. Nothing waits this long when all is well."""

NO_LIMIT = Limits(body=math.inf)


Play = Callable[..., Awaitable[None]]
"""An async function with a parameter `stage`, and perhaps further ones for pytest to fill."""


def every_stage(play: Play) -> Callable[..., None]:
    """Play on all stages."""
    return _on(play, [*_IN_MEMORY, *_ON_SOCKETS, "memory-layers", "socket-layers"])


def on_sockets(play: Play) -> Callable[..., None]:
    """Play on real sockets only, where threads or the kernel are what the play is about."""
    return _on(play, [*_ON_SOCKETS, "socket-layers"])


def in_memory(play: Play) -> Callable[..., None]:
    """Play in memory only, where virtual time or the transport's inside is what the play is about."""
    return _on(play, [*_IN_MEMORY, "memory-layers"])


def in_clear_memory(play: Play) -> Callable[..., None]:
    """Play in memory and without TLS, where single bytes on the wire are what the play is about."""
    return _on(play, [*_IN_CLEAR_MEMORY, "memory-layers"])


# The same without layers: where what is served is no `App`, or its layers make a difference that is meant.


def every_bare_stage(play: Play) -> Callable[..., None]:
    return _on(play, [*_IN_MEMORY, *_ON_SOCKETS])


def on_bare_sockets(play: Play) -> Callable[..., None]:
    return _on(play, _ON_SOCKETS)


def in_bare_memory(play: Play) -> Callable[..., None]:
    return _on(play, _IN_MEMORY)


def in_bare_clear_memory(play: Play) -> Callable[..., None]:
    return _on(play, _IN_CLEAR_MEMORY)


_IN_CLEAR_MEMORY = ["memory", "memory-read-ahead"]
_IN_MEMORY = [*_IN_CLEAR_MEMORY, "memory-tls"]
_ON_SOCKETS = ["socket", "socket-read-ahead", "socket-tls"]


def _on(play: Play, kinds: list[str]) -> Callable[..., None]:
    def run(kind: str, **arguments: object) -> None:
        stage = Stage(kind)
        clock = VirtualClock() if stage.in_memory else None
        trio.run(_play, functools.partial(play, stage, **arguments), stage, clock=clock)

    # What pytest sees: the play, with "kind" in place of "stage".
    run.__name__, run.__doc__, run.__module__ = play.__name__, play.__doc__, play.__module__
    run.pytestmark = [pytest.mark.parametrize("kind", kinds), *getattr(play, "pytestmark", [])]
    signature = inspect.signature(play)
    run.__signature__ = signature.replace(
        parameters=[p.replace(name="kind") if p.name == "stage" else p for p in signature.parameters.values()]
    )
    return run


async def _play(play: Callable[[], Awaitable[None]], stage: Stage) -> None:
    if stage.in_memory:
        await play()
    else:
        with trio.fail_after(PATIENCE):
            await play()


Connect = Callable[..., MemoryPeer | Awaitable[trio.SocketStream]]

_server_context = functools.cache(server_context)
_client_context = functools.cache(client_context)


class Stage:
    """One kind of connection, to serve an app on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.in_memory = kind.startswith("memory")
        self.reads_ahead = "read-ahead" in kind
        self.has_layers = kind.endswith("layers")
        self.has_tls = "tls" in kind
        # How many more bytes may count as sent than a client can have that hangs up in the middle: over TLS a record
        # counts as a byte until all of it is out.
        self.under_way = {0, 1} if self.has_tls else {0}

    @contextlib.asynccontextmanager
    async def serve(self, app: App, config: Config | None = None) -> AsyncIterator[Theatre]:
        layers = Layers(app) if self.has_layers else None
        observed = Records()
        app.on_abandoned(observed.hook)
        address = TcpAddress("127.0.0.1", 0, tls=_server_context() if self.has_tls else None)
        config = dataclasses.replace(
            config or Config(),
            listen=(address,),
            hangup_news=HangupNews.READ_AHEAD if self.reads_ahead else HangupNews.KERNEL,
            engine=EngineName.H11R if self.has_layers else EngineName.H11,
            access_log=False,
            observers=(observed,) if layers is None else (observed, layers),
        )
        descriptors = _descriptors()
        async with self._theatre(app, config, observed) as theatre:
            yield theatre
            await theatre.close()
        _check(observed, theatre, fin_is_departure=HalfClose.ABORT is (app.rules.half_close or config.half_close))
        if layers is not None:
            layers.check(observed.all)
        if not self.in_memory:
            assert _descriptors() <= descriptors, "descriptors are left open"

    @contextlib.asynccontextmanager
    async def _theatre(self, app: App, config: Config, observed: Records) -> AsyncIterator[Theatre]:
        async with trio.open_nursery() as nursery:
            if self.in_memory:
                curtain = trio.Event()
                server = await nursery.start(functools.partial(_serve_in_memory, app, config, curtain))
                connect = functools.partial(server.connect, address=config.listen[0])
                yield Theatre(observed, self._client(connect), server.drain, nursery)
                curtain.set()
            else:
                drain = trio.Event()
                (address,) = await nursery.start(functools.partial(serve, app, config, drain=drain, hasten=drain))

                async def start_draining() -> None:
                    drain.set()

                yield Theatre(
                    observed, self._client(functools.partial(_connect, address.port)), start_draining, nursery
                )
                drain.set()

    def _client(self, connect: Connect) -> Callable[..., Awaitable[Client]]:
        async def client(**settings: int) -> Client:
            stream = connect(**settings)
            if isinstance(stream, Awaitable):
                stream = await stream
            if not self.has_tls:
                return Client(stream)
            tls = TlsClient(stream, _client_context())
            try:
                await tls.handshake()
            except (ssl.SSLEOFError, trio.BrokenResourceError):
                return Client(stream)  # the server has closed it
            return SecureClient(tls)

        return client


async def _serve_in_memory(
    app: App, config: Config, curtain: trio.Event, *, task_status: trio.TaskStatus[MemoryServer]
) -> None:
    async with memory_server(app, config) as server:
        task_status.started(server)
        await curtain.wait()


def _descriptors() -> set[str]:
    """The sockets that are open in this process."""
    sockets = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            sockets.add(str(descriptor.readlink()))
    return {name for name in sockets if name.startswith("socket:")}


def _check(observed: Records, theatre: Theatre, *, fin_is_departure: bool) -> None:
    """What must be true whatever was played."""
    exchanges = Counter((record.connection_id, record.exchange_number) for record in observed.all)
    assert not [exchange for exchange, count in exchanges.items() if count > 1], "an exchange has two records"
    abandoned = [record for record in observed.all if isinstance(record, Abandoned)]
    assert sorted(map(id, observed.told)) == sorted(map(id, abandoned)), "one hook call per Abandoned"
    for record in abandoned:
        assert record.started_at <= record.noticed_at <= record.unwound_at
        assert record.by == record.cause.by
    for client in theatre.clients:
        client.check_nothing_sent_after_departure(observed.all, fin_is_departure=fin_is_departure)


class Theatre:
    """A running server, its clients, and all that was recorded."""

    def __init__(
        self,
        observed: Records,
        connect: Callable[..., Awaitable[Client]],
        drain: Callable[[], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        self.observed = observed
        self._connect = connect
        self.drain = drain
        self.nursery = nursery
        self.clients: list[Client] = []

    async def connect(self, **settings: int) -> Client:
        """A new client. Settings (send_buffer, window: bytes) are for connections in memory; sockets ignore them."""
        client = await self._connect(**settings)
        self.clients.append(client)
        return client

    async def only_record(self) -> Completed | Abandoned:
        """Wait for the first record, and insist that it is the only one."""
        await self.observed.count(1)
        (record,) = self.observed.all
        return record

    async def abandoned(self) -> Abandoned:
        record = await self.only_record()
        assert isinstance(record, Abandoned), record
        return record

    async def completed(self) -> Completed:
        record = await self.only_record()
        assert isinstance(record, Completed), record
        return record

    async def records(self, number: int) -> list[Completed | Abandoned]:
        """Wait until there are so many records."""
        await self.observed.count(number)
        return self.observed.all

    async def close(self) -> None:
        for client in self.clients:
            client.close()


async def _connect(port: int, **_settings: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


class Client(Peer):
    """A scripted peer that reads whole answers too, and knows what must hold when it has left."""

    def __init__(self, stream: MemoryPeer | trio.SocketStream) -> None:
        super().__init__(stream)
        self._sent_before = self._sent_ever()
        self._h11 = h11.Connection(h11.CLIENT)

    @property
    def sent_by_server(self) -> int:
        """How many bytes the server has sent, after the TLS handshake if there was one; in memory only."""
        return self._sent_ever() - self._sent_before

    def _sent_ever(self) -> int:
        return self._stream.written if isinstance(self._stream, MemoryPeer) else 0

    def send_until_blocked(self) -> None:
        """Send as much as the connection takes while the server does not read."""
        while self.send_nowait(bytes(65536)):
            pass

    async def response(self, method: bytes = b"GET") -> tuple[int, bytes]:
        """The next final response: status code and body. For clients that keep the connection."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        # The request went out as raw bytes; tell h11 about it.
        self._h11.send(h11.Request(method=method, target="/", headers=[("host", "example")]))
        self._h11.send(h11.EndOfMessage())
        status, body = 0, b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self.receive())
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            else:
                assert isinstance(event, h11.InformationalResponse), event

    def check_nothing_sent_after_departure(
        self, records: list[Completed | Abandoned], *, fin_is_departure: bool
    ) -> None:
        """In memory nothing is under way at the moment of departure: once it was heard, nothing was sent any more."""
        if self.left is None or not isinstance(self._stream, MemoryPeer):
            return
        own = [record for record in records if record.client == self.client]
        # An answer that was given in the same moment is no breach of the rule.
        met = any(
            isinstance(record, Completed) and record.started_at + record.duration >= self.left.at for record in own
        )
        # Where a FIN alone is no departure, it is found to be one only by reading on inside a body.
        heard = any(isinstance(record, Abandoned) and record.cause == self.left.way.name for record in own)
        if heard and not met and (self.left.way is not Way.FIN or fin_is_departure):
            assert not self.written_after_departure, "the server wrote after the departure"


class SecureClient(Client):
    """The same over TLS."""

    def __init__(self, tls: TlsClient) -> None:
        super().__init__(tls.below)
        self._tls = tls

    async def send(self, data: bytes, *, pieces: Sequence[int] = ()) -> None:
        for size in pieces or [max(len(data), 1)]:
            piece, data = data[:size], data[size:]
            await self._tls.send_all(piece)
        assert not data, "over TLS each piece is given its size"

    def send_nowait(self, data: bytes) -> int:
        return self._tls.send_nowait(data)

    async def receive(self, most: int = 65536) -> bytes:
        try:
            data = await self._tls.receive_some(most)
        except ssl.SSLEOFError:
            return b""
        self.received += data
        return data

    def half_close(self) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._tls.say_goodbye()
        super().half_close()

    def close(self) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._tls.say_goodbye()
        super().close()


class BusyThread:
    """An app whose handler at /busy keeps a worker thread, from `taken` until `go_on`."""

    def __init__(self) -> None:
        self.app = App()
        self.taken, self.go_on = trio.Event(), trio.Event()

        @self.app.get("/busy")
        def keep() -> str:
            trio.from_thread.run_sync(self.taken.set)
            trio.from_thread.run(self.go_on.wait)
            return "done"


class Visit:
    """What becomes of a handler: `async with visit:` around what it does."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.ended = trio.Event()
        self.cancelled = False
        self.reason: str | None = None

    async def __aenter__(self) -> Self:
        self.started.set()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.cancelled = isinstance(error, trio.Cancelled)
        self.reason = str(error) if error is not None else None
        self.ended.set()

    async def until_cancelled(self) -> None:
        async with self:
            await trio.sleep_forever()

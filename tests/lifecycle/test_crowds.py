"""Crowds, drawn by Hypothesis and played in memory in virtual time: several clients at once, on a server whose limits,
deadlines and policies are drawn too, and which may be drained in the middle of it.

Two oracles, neither of which knows how the server works. Whatever a crowd does, nothing is left behind: no connection,
turn, place or byte of a budget, and there is one record for each exchange. And of a crowd that behaves, each client has
got as many whole answers as there are records that say so.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import ssl
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.support.tls import TlsClient, client_context, server_context
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Completed,
    Config,
    Deadlines,
    DisconnectPolicy,
    DropConnection,
    Grace,
    HalfClose,
    HangupNews,
    HTTPError,
    Limits,
    Request,
    Response,
    TcpAddress,
)
from trioserve.core.records import ClientAddress
from trioserve.testing import (
    Asked,
    MemoryPeer,
    MemoryServer,
    Records,
    memory_server,
    read_answers_before_leaving,
)

PATIENCE = 40.0
"""Virtual seconds after which each client leaves, whatever it waits for."""

LIFETIME = 500.0
"""Virtual seconds after which the last connection must have ended by itself."""

_server_context = functools.cache(server_context)
_client_context = functools.cache(client_context)


def get(target: str, *fields: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: example", *fields]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def post(target: str, size: int, sent: int, *fields: str) -> bytes:
    """A request with a body of `size` bytes, of which so many are sent."""
    lines = [f"POST {target} HTTP/1.1", "Host: example", f"Content-Length: {size}", *fields]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode() + bytes(sent)


def proxy_header(client: str, port: int) -> bytes:
    return f"PROXY TCP4 {client} 192.0.2.9 {port} 443\r\n".encode()


CHUNKED = b"POST /read HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

REQUESTS = {
    "quick": get("/quick"),
    "last": get("/quick", "Connection: close"),
    "slow": get("/slow/0.7"),
    "slower": get("/slow/4"),
    "fail": get("/fail"),
    "big": get("/big"),
    "stream": get("/stream"),
    "too slow": get("/limited"),
    "nowhere": get("/nowhere"),
    "read": post("/read", 5000, 5000),
    "read much": post("/read", 400_000, 400_000),
    "ignore": post("/ignore", 100_000, 100_000),
    "ignore much": post("/ignore", 400_000, 400_000),
    "too much": post("/read", 2_000_000, 400_000),
    "chunked": CHUNKED + b"0\r\n\r\n",
    "asks first": post("/read", 5000, 5000, "Expect: 100-continue"),
    "bad host": get("/quick").replace(b"example", b"e e"),
}
"""Requests of clients that behave, one of which makes mistakes."""

PIECES = {
    **REQUESTS,
    "tidy": get("/tidy"),
    "silent": get("/silent"),
    "three": get("/slow/0.7") + get("/quick") + get("/big"),
    "half a body": post("/read", 100_000, 50_000),
    "half a body, unread": post("/ignore", 300_000, 60_000),
    "no body": post("/ignore", 5, 0),
    "no last chunk": CHUNKED,
    "bad chunk": CHUNKED + b"zz",
    "half a head": get("/quick")[:17],
    "an empty line": b"\r\n",
    "bytes": b"x" * 100,
    "many bytes": b"x" * 10_000,
}


def application(disconnect: DisconnectPolicy) -> App:  # noqa: C901 - a list of handlers, each of a few lines
    app = App(disconnect=disconnect)

    @app.get("/quick")
    async def quick() -> str:
        return "quick"

    @app.get("/slow/{seconds:float}")
    async def slow(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slow"

    @app.get("/limited", deadline=1)
    async def limited() -> None:
        await trio.sleep(1.5)

    @app.get("/tidy")
    async def tidy() -> None:
        try:
            await trio.sleep(3)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.5)

    @app.get("/fail")
    async def fail() -> None:
        raise HTTPError(418)

    @app.get("/silent")
    async def silent() -> None:
        raise DropConnection

    @app.get("/big")
    async def big() -> bytes:
        return bytes(200_000)

    @app.get("/stream")
    async def stream() -> Response:
        async def write_body(send) -> None:
            for _ in range(10):
                with trio.move_on_after(0.3):
                    await send(bytes(10_000))
                await trio.sleep(0.05)

        return Response.stream(write_body)

    @app.post("/read")
    async def read(request: Request) -> str:
        return str(len(await request.body()))

    @app.post("/ignore")
    async def ignore() -> bytes:
        await trio.sleep(0.4)
        return bytes(20_000)

    return app


class SlowRecords(Records):
    """Records whose hook takes its time."""

    async def hook(self, record: Abandoned) -> None:
        await trio.sleep(0.5)
        await super().hook(record)

    def judge(self) -> None:
        numbers = defaultdict(list)
        for record in self.all:
            numbers[record.connection_id].append(record.exchange_number)
            if isinstance(record, Abandoned):
                assert record.started_at <= record.noticed_at <= record.unwound_at
        assert all(sorted(of_one) == [*range(1, len(of_one) + 1)] for of_one in numbers.values()), numbers
        abandoned = [record for record in self.all if isinstance(record, Abandoned)]
        assert sorted(map(id, abandoned)) == sorted(map(id, self.told))


@dataclass
class House:
    """A server, and what becomes of it."""

    tls: bool
    proxy_protocol: bool
    limits: Limits
    deadlines: Deadlines
    half_close: HalfClose
    disconnect: DisconnectPolicy
    hangup_news: HangupNews
    drains_at: float
    drains_slowly: bool

    @property
    def address(self) -> TcpAddress:
        tls = _server_context() if self.tls else None
        return TcpAddress("127.0.0.1", 0, tls=tls, proxy_protocol=self.proxy_protocol)

    @contextlib.asynccontextmanager
    async def open(self, records: SlowRecords) -> Iterator[MemoryServer]:
        """Serve; and see, when the guests have gone, that nothing is left of them."""
        app = application(self.disconnect)
        app.on_abandoned(records.hook)
        config = Config(
            limits=self.limits,
            deadlines=self.deadlines,
            half_close=self.half_close,
            hangup_news=self.hangup_news,
            observers=(records,),
            access_log=False,
        )
        async with memory_server(app, config) as memory:
            server = memory._server
            budgets = server._spools.left, server._receive_buffers.left
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, memory)
                yield memory
                with trio.move_on_after(LIFETIME):
                    while server._living:
                        await server._gone.park()
                assert not server._living
                nursery.cancel_scope.cancel()
            assert (server._spools.left, server._receive_buffers.left) == budgets
            turns = server._context.turns
            assert turns._free == self.limits.exchanges
            assert not turns._waiting
            assert not server._crowd._counts
            assert not server._context.idle._waiting
        records.judge()

    async def _drain(self, server: MemoryServer) -> None:
        await trio.sleep(self.drains_at)
        await (server.drain_slowly() if self.drains_slowly else server.drain())


houses = st.builds(
    House,
    tls=st.booleans(),
    proxy_protocol=st.booleans(),
    limits=st.builds(
        Limits,
        exchanges=st.sampled_from([math.inf, 1, 2]),
        queue=st.sampled_from([1000, 1, 2]),
        requests=st.sampled_from([math.inf, 1, 3]),
        connections_per_client=st.sampled_from([math.inf, 2]),
        spool_total=st.sampled_from([2**28, 200_000]),
    ),
    deadlines=st.builds(
        Deadlines,
        idle=st.sampled_from([75, 1]),
        queue=st.sampled_from([10, 0.5]),
        unwind=st.sampled_from([5, 1]),
        drain_delay=st.sampled_from([0, 2]),
        drain=st.sampled_from([25, 3]),
        linger=st.just(5),
    ),
    half_close=st.sampled_from(HalfClose),
    disconnect=st.sampled_from([CANCEL, FINISH, Grace(2)]),
    hangup_news=st.sampled_from(HangupNews),
    drains_at=st.sampled_from([math.inf, 0.5, 1, 2.5, 5]),
    drains_slowly=st.booleans(),
)


@pytest.fixture(autouse=True)
def nothing_breaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is played, nothing is logged as an error: neither a failure of ours nor one of the handlers, which do
    not fail."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# Crowds that do what they like


@dataclass
class Guest:
    """A client that does anything."""

    comes_at: float
    room: int
    opening: str
    steps: list[tuple[str, str | float]]
    leaves: str

    async def visit(self, house: House, server: MemoryServer, number: int) -> None:
        await trio.sleep(self.comes_at)
        peer = server.connect(address=house.address, send_buffer=self.room, window=self.room)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            with trio.move_on_after(PATIENCE):
                stream = await self._come_in(house, peer, number)
                for what, how in self.steps:
                    await self._step(stream, what, how)
        {"FIN": peer.close, "RESET": peer.reset, "VANISH": peer.vanish}[self.leaves]()

    async def _come_in(self, house: House, peer: MemoryPeer, number: int) -> MemoryPeer | TlsClient:
        if self.opening == "garbage":
            await peer.send_all(b"\xff" * 20)
        if house.proxy_protocol:
            header = proxy_header(f"192.0.2.{number % 3}", 4000)
            await peer.send_all(header[:10] if self.opening == "half" else header)
        if not house.tls:
            return peer
        if self.opening == "in the clear":
            await peer.send_all(get("/quick"))
        stream = TlsClient(peer, _client_context())
        await stream.handshake()
        return stream

    async def _step(self, stream: MemoryPeer | TlsClient, what: str, how: str | float) -> None:
        match what:
            case "send":
                await stream.send_all(PIECES[how])
            case "read":
                with trio.move_on_after(1):
                    await stream.receive_some(how)
            case "wait":
                await trio.sleep(how)
            case "half-close" if isinstance(stream, MemoryPeer):
                await stream.send_eof()
            case "half-close":
                stream.say_goodbye()


guests = st.builds(
    Guest,
    comes_at=st.sampled_from([0, 0, 0.01, 0.7, 2]),
    room=st.sampled_from([65_536, 2000]),
    opening=st.sampled_from(["right"] * 6 + ["half", "garbage", "in the clear"]),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.sampled_from(sorted(PIECES))),
            st.tuples(st.just("send"), st.sampled_from(sorted(PIECES))),
            st.tuples(st.just("read"), st.sampled_from([100, 65_536])),
            st.tuples(st.just("wait"), st.sampled_from([0, 0.001, 0.3, 1, 12, 31])),
            st.tuples(st.just("half-close"), st.none()),
        ),
        max_size=7,
    ),
    leaves=st.sampled_from(["FIN", "RESET", "VANISH"]),
)


@settings(max_examples=3 * settings.default.max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(house=houses, crowd=st.lists(guests, min_size=1, max_size=6))
def test_whatever_a_crowd_does_nothing_is_left_behind(house: House, crowd: list[Guest]) -> None:
    async def play() -> None:
        async with house.open(SlowRecords()) as server, trio.open_nursery() as visits:
            for number, guest in enumerate(crowd):
                visits.start_soon(guest.visit, house, server, number)

    trio.run(play, clock=MockClock(autojump_threshold=0))


# Crowds that behave


@dataclass
class GoodGuest:
    """A client that sends its requests, reads to the end meanwhile, and leaves after that."""

    comes_at: float
    room: int
    requests: list[str]
    pause: float
    reads_after: float

    async def visit(self, house: House, server: MemoryServer, number: int, answers: Counter[ClientAddress]) -> None:
        """Count the whole answers that it gets."""
        await trio.sleep(self.comes_at)
        peer = server.connect(address=house.address, send_buffer=self.room, window=self.room)
        name, received = peer._transport.client, bytearray()
        with contextlib.suppress(trio.BrokenResourceError, ssl.SSLError):
            stream: MemoryPeer | TlsClient = peer
            if house.proxy_protocol:
                name = "192.0.2.1", 4000 + number
                await peer.send_all(proxy_header(*name))
            if house.tls:
                stream = TlsClient(peer, _client_context())
                await stream.handshake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream)
                await self._read(stream, received)
                nursery.cancel_scope.cancel()
        answers[name] = whole_answers(bytes(received), self.requests)
        peer.close()

    async def _read(self, stream: MemoryPeer | TlsClient, received: bytearray) -> None:
        await trio.sleep(self.reads_after)
        with contextlib.suppress(trio.BrokenResourceError, ssl.SSLError):
            while data := await stream.receive_some(10_000):
                received += data

    async def _send(self, stream: MemoryPeer | TlsClient) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            for name in self.requests:
                data = REQUESTS[name]
                for start in range(0, len(data), 30_000):
                    await stream.send_all(data[start : start + 30_000])
                    await trio.sleep(self.pause)


def whole_answers(received: bytes, requests: list[str]) -> int:
    """How many answers came whole. All that came is one answer after the other, the last perhaps cut."""
    asked = [Asked(REQUESTS[name].partition(b" ")[0].decode(), "1.1") for name in requests]
    answers, _ = read_answers_before_leaving(received, asked)
    return sum(not answer.cut for answer in answers)


good_guests = st.builds(
    GoodGuest,
    comes_at=st.sampled_from([0, 0, 0.4, 1, 2.5]),
    room=st.sampled_from([65_536, 4000]),
    requests=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=3),
    pause=st.sampled_from([0, 0.03]),
    reads_after=st.sampled_from([0, 0, 0.5]),
)


@settings(max_examples=3 * settings.default.max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(house=houses, crowd=st.lists(good_guests, min_size=1, max_size=5))
def test_who_behaves_gets_every_answer_that_counts_as_given(house: House, crowd: list[GoodGuest]) -> None:
    records, answers = SlowRecords(), Counter()

    async def play() -> None:
        async with house.open(records) as server, trio.open_nursery() as visits:
            for number, guest in enumerate(crowd):
                visits.start_soon(guest.visit, house, server, number, answers)

    trio.run(play, clock=MockClock(autojump_threshold=0))
    given_to = Counter(record.client for record in records.all if isinstance(record, Completed))
    assert given_to == +answers

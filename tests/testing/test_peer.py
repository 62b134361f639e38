"""The scripted peer, in memory and on real sockets."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.sockets import reset, tcp_pair
from trioserve import App, Cause, Config, Deadlines, Request, Response, TcpAddress, serve
from trioserve.connection.spool import Budget, Spool
from trioserve.testing import Peer, Records, Way, memory_connection, memory_server, run
from trioserve.testing.peer import Left

GET = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"
PATIENCE = 20
"""Seconds, in earnest on sockets, after which a play is given up."""


@dataclass
class House:
    """A server of `App`, its records, and a first client."""

    app: Greeting
    records: Records
    client: Peer
    connect: Callable[..., Awaitable[Peer]]


class Greeting(App):
    """At / "hello", and what was posted; at /slow a handler that waits; at /big more than any buffer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_runs = trio.Event()
        self.pieces: list[bytes] = []

        @self.get("/")
        async def greet() -> str:
            return "hello"

        @self.post("/")
        async def read(request: Request) -> str:
            async for piece in request.stream():
                self.pieces.append(bytes(piece))
            return "read"

        @self.get("/slow")
        async def slow() -> str:
            self.slow_runs.set()
            await trio.sleep(30)
            return "slept"

        @self.get("/big")
        async def big() -> bytes:
            return bytes(30_000_000)


@contextlib.asynccontextmanager
async def in_memory(app: App, config: Config) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
    async with memory_server(app, config) as server:

        async def connect(**settings: int) -> Peer:
            return Peer(server.connect(**settings))

        yield connect


@contextlib.asynccontextmanager
async def on_socket(app: App, config: Config) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
    drain = trio.Event()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve, app, config, drain=drain, hasten=drain))

        async def connect() -> Peer:
            return Peer(await trio.open_tcp_stream("127.0.0.1", address.port))

        yield connect
        drain.set()


def both(play: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Play with a client in memory and with one on a socket."""

    @pytest.mark.parametrize("house", [in_memory, on_socket], ids=lambda house: house.__name__)
    @wraps(play)
    def plays(house: Callable[..., Any], **arguments: Any) -> None:
        async def main() -> None:
            with trio.fail_after(PATIENCE):
                await play(house, **arguments)

        run(main)

    parameters = inspect.signature(play).parameters
    plays.__signature__ = inspect.signature(play).replace(parameters=list(parameters.values()))
    return plays


@contextlib.asynccontextmanager
async def open_house(house: Callable[..., Any], **config: Any) -> AsyncIterator[House]:
    app, records = Greeting(), Records()
    app.on_abandoned(records.hook)
    settings = Config(listen=(TcpAddress("127.0.0.1", 0),), access_log=False, observers=(records,), **config)
    async with house(app, settings) as connect:
        here = House(app, records, await connect(), connect)
        yield here
        here.client.close()


@both
async def test_it_sends_and_reads_exactly_so_many_bytes(house) -> None:
    async with open_house(house) as here:
        client = here.client
        await client.send(GET)
        assert await client.read(15) == b"HTTP/1.1 200 OK"
        assert client.sent == len(GET)
        assert client.received == b"HTTP/1.1 200 OK"
        while not client.received.endswith(b"hello"):
            await client.receive()
        assert client.ended is None
        assert (await here.records.of(client.client, 1)).target == "/"


@both
async def test_it_reads_to_the_end(house) -> None:
    async with open_house(house) as here:
        await here.client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = await here.client.read_to_end()
        assert answer.endswith(b"hello")
        assert answer == here.client.received
        assert here.client.ended is Way.FIN
        assert await here.client.read(10) == b""


@both
async def test_it_reads_less_only_at_the_end(house) -> None:
    async with open_house(house) as here:
        await here.client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await here.client.read(10_000)).endswith(b"hello")


@both
async def test_each_piece_is_seen_by_itself(house) -> None:
    async with open_house(house) as here:
        await here.client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\n\r\n")
        await here.client.send(b"0123456789", pieces=[1, 3])
        await here.records.count(1)
        assert here.app.pieces == [b"0", b"123", b"4", b"567", b"8", b"9"]


async def test_each_piece_is_seen_by_itself_also_if_nobody_reads_at_that_time() -> None:
    stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))
    await Peer(stream).send(b"0123456789", pieces=[4])
    assert [transport.receive_nowait() for _ in range(4)] == [b"0123", b"4567", b"89", None]


@both
async def test_pieces_of_no_bytes_are_refused(house) -> None:
    async with open_house(house) as here:
        with pytest.raises(ValueError, match=r"pieces=\[3, 0\]: a piece is of one byte at least"):
            await here.client.send(GET, pieces=(3, 0))
        assert here.client.sent == 0


async def until_slow(here: House) -> Peer:
    """Until the handler at /slow runs, for the client."""
    await here.client.send(GET.replace(b"/", b"/slow", 1))
    await here.app.slow_runs.wait()
    return here.client


@both
@pytest.mark.parametrize("way", [Way.FIN, Way.RESET])
async def test_its_leaving_is_a_departure(house, way: Way) -> None:
    async with open_house(house) as here:
        client = await until_slow(here)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.read_to_end)  # is woken, and says no more than that it is over
            await trio.lowlevel.checkpoint()
            client.leave(way)
            left_at = trio.current_time()
        assert client.left is not None
        assert client.left.way is way
        assert client.left.at <= left_at
        assert client.ended is None
        await here.records.count(1)
        (record,) = here.records.told
        assert (record.cause, record.client) == (Cause(way), client.client)
        with pytest.raises(trio.ClosedResourceError):
            await client.send(GET)
        with pytest.raises(trio.ClosedResourceError):
            await client.receive()


@both
async def test_half_closed_it_still_reads(house) -> None:
    async with open_house(house, half_close="finish") as here:
        await here.client.send(GET)
        here.client.leave(Way.HALF_CLOSE)
        assert (await here.client.read_to_end()).endswith(b"hello")
        assert here.client.left is not None
        assert here.client.left.way is Way.HALF_CLOSE
        here.client.leave(Way.FIN)
        assert here.client.left.way is Way.FIN


async def test_in_memory_it_can_vanish() -> None:
    async def main() -> None:
        async with open_house(in_memory, deadlines=Deadlines(vanish=7)) as here:
            client = await until_slow(here)
            client.leave(Way.VANISH)
            await here.records.count(1)
            (record,) = here.records.told
            assert record.cause is Cause.VANISHED
            assert client.left == Left(Way.VANISH, record.noticed_at - 7)

    await trio.to_thread.run_sync(run, main)


@both
async def test_leaving_twice_in_one_way_is_no_mistake(house) -> None:
    async with open_house(house) as here:
        for way in (Way.HALF_CLOSE, Way.HALF_CLOSE, Way.FIN, Way.FIN, Way.RESET, Way.HALF_CLOSE):
            here.client.leave(way)
        assert here.client.left is not None
        assert here.client.left.way is Way.HALF_CLOSE


@both
async def test_it_can_leave_from_an_instrument(house) -> None:
    async with open_house(house) as here:
        client = await until_slow(here)

        class Leaves(trio.abc.Instrument):
            def before_task_step(self, _: trio.lowlevel.Task) -> None:
                trio.lowlevel.remove_instrument(self)
                client.leave(Way.FIN)

        trio.lowlevel.add_instrument(Leaves())
        await here.records.count(1)
        assert [record.cause for record in here.records.told] == [Cause.FIN]


@contextlib.contextmanager
def memory_pair() -> Iterator[tuple[Peer, Callable[[], None]]]:
    stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))
    yield Peer(stream), transport.reset


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[Peer, Callable[[], None]]]:
    with tcp_pair() as (server, client):
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(client.dup()))
        with stream.socket:
            yield Peer(stream), partial(reset, server)


pairs = pytest.mark.parametrize("pair", [memory_pair, socket_pair], ids=["memory", "socket"])
"""Without a server: the peer, and how its other end resets the connection. Nobody reads there."""


@pairs
async def test_where_the_server_resets_it_says_so(pair) -> None:
    with pair() as (client, reset_by_server):
        await client.send(b"hello")
        reset_by_server()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive()
        assert client.ended is Way.RESET
        assert await client.read(1) == b""
        assert await client.read_to_end() == b""
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"hello")
        assert client.sent == 5


@pairs
async def test_what_it_has_sent_is_known_if_the_sending_is_cut(pair) -> None:
    with pair() as (client, _), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(30_000_000))
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
    assert 65_536 < client.sent < 30_000_000


@pairs
async def test_where_there_is_no_room_nothing_is_sent_at_once(pair) -> None:
    with pair() as (client, _):
        while client.send_nowait(bytes(65_536)):
            pass
        assert client.sent > 65_536


async def test_what_only_a_connection_in_memory_can_do_is_refused_on_a_socket() -> None:
    only_in_memory = partial(pytest.raises, ValueError)
    async with open_house(on_socket) as here:
        client = here.client
        with only_in_memory(match="vanishing is possible in memory only"):
            client.leave(Way.VANISH)
        assert client.left is None
        with only_in_memory(match="what the server has written"):
            _ = client.written_after_departure
        with only_in_memory(match="what has come"):
            _ = client.is_readable
        with only_in_memory(match="when the server has closed"):
            await client.until_server_closed()


async def test_no_other_way_to_leave_is_known() -> None:
    async with open_house(in_memory) as here:
        with pytest.raises(ValueError, match="BYE"):
            here.client.leave("BYE")
        assert here.client.left is None


async def test_in_memory_it_knows_whether_something_has_come_and_when_the_server_has_closed() -> None:
    async with open_house(in_memory) as here:
        client = here.client
        assert not client.is_readable
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.until_server_closed()
        assert client.is_readable
        assert len(here.records.all) == 1
        await client.read_to_end()
        assert client.ended is Way.FIN


@pytest.mark.parametrize("writes", [True, False])
def test_what_is_written_after_the_departure_is_counted(writes: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))
        client = Peer(stream)
        transport.send_nowait(b"before")
        client.leave(Way.HALF_CLOSE)
        transport.send_nowait(b"news")  # cannot have been heard yet
        await trio.testing.wait_all_tasks_blocked()
        if writes:
            transport.send_nowait(b"after")
        assert client.written_after_departure == 5 * writes
        assert await client.read(10) == b"beforenews"

    run(main)


async def test_nothing_is_written_to_a_client_that_has_left_a_stream() -> None:
    app = App()

    @app.get("/")
    async def stream() -> Response:
        async def write_body(send) -> None:
            while True:
                await send(b"part")
                await trio.lowlevel.checkpoint()

        return Response.stream(write_body)

    async with memory_server(app, Config(access_log=False)) as server:
        client = Peer(server.connect())
        await client.send(GET)
        await client.read(1000)
        client.leave(Way.RESET)
        await trio.testing.wait_all_tasks_blocked()
        assert client.written_after_departure == 0


async def test_with_a_segment_an_exchange_goes_on_in_short_reads_and_writes() -> None:
    async with open_house(in_memory) as here:
        client = await here.connect(segment=1)
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await client.read_to_end()).endswith(b"hello")


async def test_it_reads_on_where_it_has_stopped() -> None:
    stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))
    client = Peer(stream)
    transport.send_nowait(b"hello")
    assert [await client.read(2), await client.read(2)] == [b"he", b"ll"]
    assert client.received == b"hell"


@pytest.mark.parametrize(("steps", "written"), [(3, 0), (4, 1)])
async def test_what_is_written_until_the_third_step_may_be_written_before_the_news(steps: int, written: int) -> None:
    stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))
    client = Peer(stream)
    token = trio.lowlevel.current_trio_token()

    def write(steps: int) -> None:
        transport.send_nowait(b"x")
        if steps > 1:
            token.run_sync_soon(write, steps - 1, idempotent=True)

    token.run_sync_soon(write, steps, idempotent=True)
    client.leave(Way.HALF_CLOSE)
    while stream.written < steps:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert client.written_after_departure == written

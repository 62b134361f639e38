"""Who is accepted, and what happens where there is no room for more."""

from __future__ import annotations

import errno
import math
import os
import socket
import subprocess
import sys
from functools import partial
from ipaddress import IPv4Address, IPv6Network

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import PATIENCE, Client, Running, happens, start
from tests.support.logs import errors
from tests.support.memory import in_memory
from trioserve import Abandoned, App, Cause, Deadlines, Limits, TcpAddress, UnixAddress
from trioserve.connection.idle import SPARED
from trioserve.core.records import written
from trioserve.server.admission import SAID_EVERY, Crowd, NoRoom, Seldom, accept, group_of

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
HALF, REST = GET[:20], GET[20:]


def app_that_greets() -> App:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    return app


def connect_from(source: str, server: Running) -> Client:
    """A client with this address of the loopback network."""
    # Without a step of the scheduler: the system connects, and the server may reset the connection right after.
    sock = socket.create_connection(("127.0.0.1", server.port), PATIENCE, source_address=(source, 0))
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
    server._clients.append(client)
    return client


# In all


async def test_beyond_the_limit_nobody_is_accepted_until_a_connection_has_ended(nursery, caplog):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=2))
    first, second = await server.ask(HALF), await server.ask(HALF)
    third = await server.ask(GET)
    await wait_all_tasks_blocked()
    assert server.records.all == []
    assert errors(caplog) == ["cannot accept connections: there are 2 (Limits.connections)"]

    await second.send(REST)  # a request is served all the same, and the connection stays
    assert (await second.answer()).body == b"hello"
    await wait_all_tasks_blocked()
    assert len(server.records.all) == 1

    first.close()
    assert (await third.answer()).body == b"hello"
    assert len(errors(caplog)) == 1


async def test_as_many_as_the_limit_says_are_accepted(nursery, caplog):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=5))
    clients = [await server.ask(HALF) for _ in range(5)]
    for client in clients:
        await client.send(REST)
        assert (await client.answer()).body == b"hello"
    assert not errors(caplog)


async def test_the_connection_that_has_been_idle_for_longest_is_closed_for_who_comes(nursery, mock_clock, caplog):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=3))
    first, second, busy = [await server.connect() for _ in range(3)]
    await busy.send(HALF)
    for client in (first, second, first):  # so that the second has been idle for longest
        assert (await client.get()).status == 200
        mock_clock.jump(SPARED)

    late = await server.connect()
    assert (await late.get()).status == 200
    assert await second.is_closed()
    assert (await first.get()).status == 200
    await busy.send(REST)
    assert (await busy.answer()).status == 200
    assert [record.status for record in server.records.all] == [200] * 6
    assert len(errors(caplog)) == 1


async def test_one_that_was_at_work_when_room_was_made_is_closed_in_its_turn_when_it_is_idle(nursery, mock_clock):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=2))
    busy = await server.ask(HALF)
    first = await server.connect()
    assert (await first.get()).status == 200
    for _ in range(3):  # it is passed over, since the others make room
        mock_clock.jump(SPARED)
        late = await server.connect()
        assert (await late.get()).status == 200
        assert await first.is_closed()
        first = late
    await busy.send(REST)
    assert (await busy.answer()).status == 200
    assert (await first.get()).status == 200
    mock_clock.jump(SPARED)
    assert (await (await server.connect()).get()).status == 200
    assert await busy.is_closed()
    assert (await first.get()).status == 200


async def test_one_that_has_been_idle_for_a_moment_only_is_spared(nursery, mock_clock):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=1))
    first = await server.connect()
    assert (await first.get()).status == 200
    mock_clock.jump(SPARED * 0.9)
    late = await server.ask(GET)
    await wait_all_tasks_blocked()
    assert (await first.get()).status == 200, "it is still there"

    mock_clock.jump(SPARED * 1.1)
    assert (await late.answer()).status == 200
    assert await first.is_closed()


async def test_one_that_has_never_said_anything_is_idle_too(nursery, mock_clock):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=1))
    silent = await server.connect()
    await wait_all_tasks_blocked()
    mock_clock.jump(SPARED)
    late = await server.connect()
    assert (await late.get()).status == 200
    assert await silent.is_closed()


async def test_idle_ones_are_closed_one_by_one_for_a_crowd_that_comes(nursery, mock_clock):
    server = await start(nursery, app_that_greets(), limits=Limits(connections=100))
    idle = [await server.connect() for _ in range(100)]
    for client in idle:
        assert (await client.get()).status == 200
    mock_clock.jump(SPARED)
    crowd = [await server.ask(HALF) for _ in range(99)]
    for client in crowd:
        await client.send(REST)
        assert (await client.answer()).status == 200
    # For 99 that came 99 have gone.
    assert (await idle[99].get()).status == 200


async def test_a_handler_that_runs_holds_its_connections_place_until_it_has_ended(nursery):
    app, go_on = App(), trio.Event()

    @app.get("/")
    async def handler() -> str:
        with trio.CancelScope(shield=True):
            await go_on.wait()
        return "hello"

    server = await start(nursery, app, limits=Limits(connections=1))
    first = await server.ask(GET)
    await wait_all_tasks_blocked()
    first.close()
    second = await server.ask(GET)
    await wait_all_tasks_blocked()
    assert server.records.all == []
    go_on.set()
    assert (await second.answer()).status == 200
    assert (await server.records.next(Abandoned)).cause is Cause.FIN


@pytest.mark.parametrize("limits", [Limits(connections=1), Limits(connections_per_client=1)], ids=["all", "client"])
async def test_a_hook_that_takes_its_time_holds_no_place(nursery, limits):
    app, told, go_on = app_that_greets(), trio.Event(), trio.Event()

    @app.get("/for-ever")
    async def handler() -> None:
        await trio.sleep_forever()

    @app.on_abandoned
    async def hook(_event: Abandoned) -> None:
        told.set()
        await go_on.wait()

    server = await start(nursery, app, limits=limits, deadlines=Deadlines(hook=2 * PATIENCE))
    first = await server.ask(b"GET /for-ever HTTP/1.1\r\nHost: test\r\n\r\n")
    await wait_all_tasks_blocked()
    first.close()
    await happens(told.wait())
    second = await server.connect()
    assert (await second.get()).status == 200
    go_on.set()


async def test_a_connection_at_its_opening_counts(nursery):
    server = await start(
        nursery,
        app_that_greets(),
        listen=(TcpAddress("127.0.0.1", 0, proxy_protocol=True),),
        limits=Limits(connections=1),
    )
    first = await server.ask(b"PROXY ")
    second = await server.ask(b"PROXY UNKNOWN\r\n" + GET)
    await wait_all_tasks_blocked()
    assert server.records.all == []
    first.close()
    assert (await second.answer()).status == 200


async def test_a_connection_at_its_opening_is_closed_for_who_comes(nursery, mock_clock):
    server = await start(
        nursery,
        app_that_greets(),
        listen=(TcpAddress("127.0.0.1", 0, proxy_protocol=True),),
        limits=Limits(connections=1),
    )
    first = await server.ask(b"PROXY ")
    await wait_all_tasks_blocked()
    mock_clock.jump(SPARED)
    second = await server.ask(b"PROXY UNKNOWN\r\n" + GET)
    assert (await second.answer()).status == 200
    assert await first.is_closed()


# Descriptors

CRAMPED_SERVER = """
import logging, os, resource, sys
import trio
from trioserve import App, Config, TcpAddress, serve

logging.basicConfig(stream=sys.stdout, format="%(message)s")
app = App()

@app.get("/")
async def hello() -> str:
    return "hello"

@app.get("/all")
async def take_all() -> str:
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        print("all are taken", flush=True)
        await trio.sleep_forever()
    finally:
        for descriptor in taken:
            os.close(descriptor)

async def main() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(serve, app, Config(listen=(TcpAddress("127.0.0.1", 0),)))
        spare = os.open(os.devnull, os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 12, spare + 12))
        print(address.port, flush=True)

trio.run(main)
"""


class Cramped:
    """A server of which the system lets it have few descriptors, and its clients."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._clients: list[Client] = []

    async def start(self) -> None:
        self.port = int(await self.line())

    async def line(self) -> str:
        """What it says next."""
        received = b""
        while not received.endswith(b"\n"):
            part = await happens(self._process.stdout.receive_some(1))
            assert part, f"the server has ended; the last that it said is {received!r}"
            received += part
        return received.decode()

    async def ask(self, data: bytes) -> Client:
        with trio.fail_after(PATIENCE):
            client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self._clients.append(client)
        await client.send(data)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._process.kill()


@pytest.fixture
async def cramped(nursery):
    run = partial(trio.run_process, [sys.executable, "-c", CRAMPED_SERVER], stdout=subprocess.PIPE, check=False)
    server = Cramped(await nursery.start(run))
    try:
        await server.start()
        yield server
    finally:
        server.close()


async def test_a_server_without_any_descriptor_goes_on_when_there_is_one_again(cramped):
    greedy = await cramped.ask(b"GET /all HTTP/1.1\r\nHost: test\r\n\r\n")
    assert await cramped.line() == "all are taken\n"
    late = await cramped.ask(GET)
    assert "cannot accept connections: Too many open files" in await cramped.line()

    greedy.close()

    assert (await late.answer()).status == 200


async def test_idle_connections_give_their_descriptors_to_who_comes(cramped):
    """Takes a second: the time for which they are spared."""
    clients = [await cramped.ask(GET) for _ in range(15)]
    for client in clients:
        assert (await client.answer()).status == 200
    assert "cannot accept connections: Too many open files" in await cramped.line()
    assert any(map(has_been_closed, clients[:-1]))
    assert (await clients[-1].get()).status == 200


def has_been_closed(client: Client) -> bool:
    try:
        return client.socket._sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


class Exhausted:
    """A listener where accepting fails."""

    def __init__(self, number: int) -> None:
        self.number = number

    def accept(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_where_the_system_has_run_out_of_something_there_is_no_room(number):
    with pytest.raises(NoRoom, match=os.strerror(number)):
        accept(Exhausted(number))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH])
def test_where_nobody_waits_any_more_nobody_is_accepted_and_there_is_room(number):
    assert accept(Exhausted(number)) is None


# Per client


async def test_a_client_that_has_as_many_connections_as_it_may_is_reset_and_others_are_not(nursery, caplog):
    server = await start(nursery, app_that_greets(), limits=Limits(connections_per_client=2))
    first, second = [connect_from("127.0.0.1", server) for _ in range(2)]
    for client in (first, second):
        assert (await client.get()).status == 200
    third = connect_from("127.0.0.1", server)
    name = written(third.socket.getsockname())
    assert await third.is_reset()
    for _ in range(3):
        assert await connect_from("127.0.0.1", server).is_reset()
    assert errors(caplog) == [f"reset a connection of {name}: it has 2 (Limits.connections_per_client)"]

    others = [connect_from("127.0.0.2", server) for _ in range(2)]
    for client in others:
        assert (await client.get()).status == 200
    assert await connect_from("127.0.0.2", server).is_reset()

    first.close()
    await wait_all_tasks_blocked()
    assert (await connect_from("127.0.0.1", server).get()).status == 200
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("way", ["FIN", "RST", "garbage", "too slow", "failing", "silent", "half a body"])
async def test_a_place_is_given_back_however_a_connection_ends(nursery, way, caplog):
    app = App()

    @app.post("/")
    async def read(request) -> bytes:
        return await request.body()

    @app.get("/{what}")
    async def handler(what: str) -> str:
        if what == "failing":
            raise ValueError
        return what

    server = await start(
        nursery, app, limits=Limits(connections_per_client=1), deadlines=Deadlines(head=0.05, linger=0.05)
    )
    for _ in range(3):
        client = await server.connect()
        match way:
            case "RST":
                assert (await client.get("/hello")).status == 200
                client.reset()
            case "garbage":
                await client.send(b"\0\r\n\r\n")
                assert (await client.answer()).status == 400
            case "too slow":
                await client.send(HALF)
                assert (await client.answer()).status == 408
            case "silent":
                assert await client.is_closed()
            case "half a body":
                await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")
                await wait_all_tasks_blocked()
            case _:
                assert (await client.get(f"/{way}")).status in {200, 500}
        client.close()
        await wait_all_tasks_blocked()
    assert (await (await server.connect()).get("/hello")).status == 200


async def test_place_and_turn_are_given_back_by_a_handler_that_breaks_its_own_task_too(nursery, caplog):
    app = App()

    @app.get("/mistake")
    async def mistake() -> None:
        await trio.open_nursery().__aenter__()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    server = await start(nursery, app, limits=Limits(connections_per_client=1, connections=1, exchanges=1, queue=1))
    for _ in range(3):
        client = await server.ask(b"GET /mistake HTTP/1.1\r\nHost: test\r\n\r\n")
        await happens(client.receive())
        client.close()
        await wait_all_tasks_blocked()
    assert (await (await server.connect()).get()).body == b"hello"
    assert errors(caplog), "somebody is told"


async def test_the_client_that_a_proxy_speaks_for_is_counted_and_not_the_proxy(nursery):
    listen = (TcpAddress("127.0.0.1", 0, proxy_protocol=True),)
    server = await start(nursery, app_that_greets(), listen=listen, limits=Limits(connections_per_client=1))

    async def come(source: str) -> Client:
        return await server.ask(f"PROXY TCP4 {source} 192.0.2.2 51234 443\r\n".encode() + GET)

    first, second = await come("192.0.2.1"), await come("192.0.2.3")
    assert (await first.answer()).status == 200
    assert (await second.answer()).status == 200
    assert await (await come("192.0.2.1")).is_reset()
    first.close()
    await wait_all_tasks_blocked()
    assert (await (await come("192.0.2.1")).answer()).status == 200


async def test_a_proxy_that_has_not_said_yet_for_whom_it_speaks_counts_for_nobody(nursery):
    listen = (TcpAddress("127.0.0.1", 0, proxy_protocol=True),)
    server = await start(nursery, app_that_greets(), listen=listen, limits=Limits(connections_per_client=1))
    await server.connect()
    await wait_all_tasks_blocked()
    for_itself = await server.ask(b"PROXY TCP4 127.0.0.1 192.0.2.2 51234 443\r\n" + GET)
    assert (await for_itself.answer()).status == 200


async def test_clients_of_a_unix_socket_are_not_counted(nursery, tmp_path):
    server = await start(
        nursery,
        app_that_greets(),
        listen=(UnixAddress(str(tmp_path / "socket")),),
        limits=Limits(connections_per_client=1),
    )
    for _ in range(3):
        assert (await (await server.connect()).get()).status == 200


async def test_by_default_a_client_may_have_as_many_connections_as_there_are(nursery):
    server = await start(nursery, app_that_greets())
    clients = [await server.ask(HALF) for _ in range(200)]
    for client in clients:
        await client.send(REST)
        assert (await client.answer()).status == 200


async def test_the_same_in_memory(autojump_clock):
    async with in_memory(app_that_greets(), limits=Limits(connections_per_client=2)) as served:
        first, second = served.connect(), served.connect()
        for client in (first, second):
            assert (await client.get()).status == 200
        assert await served.connect().is_reset()
        second.reset()
        await wait_all_tasks_blocked()
        assert (await served.connect().get()).status == 200


# Pure parts


@pytest.mark.parametrize(
    ("client", "group"),
    [
        (("192.0.2.1", 1), IPv4Address("192.0.2.1")),
        (("::ffff:192.0.2.1", 1), IPv4Address("192.0.2.1")),
        (("2001:db8:1:2:3::4", 1), IPv6Network("2001:db8:1:2::/64")),
        (("2001:db8:1:2:ffff:ffff:ffff:ffff", 9), IPv6Network("2001:db8:1:2::/64")),
        (("2001:db8:1:3::", 1), IPv6Network("2001:db8:1:3::/64")),
        (("fe80::1%eth0", 1), IPv6Network("fe80::/64")),
        (("::1", 1), IPv6Network("::/64")),
        (("unknown", 0), None),
        (None, None),
    ],
)
def test_clients_are_counted_by_address_and_by_network_where_each_has_one(client, group):
    assert group_of(client) == group


def test_a_crowd_has_room_for_as_many_of_each_as_the_limit_says_and_forgets_who_has_gone():
    crowd, one, other = Crowd(2), ("192.0.2.1", 1), ("192.0.2.2", 2)
    groups = []
    for _ in range(2):
        assert crowd.has_room_for(one)
        groups.append(crowd.came(one))
    assert not crowd.has_room_for(one)
    assert crowd.has_room_for(other)
    for group in groups:
        crowd.left(group)
    assert crowd.has_room_for(one)
    assert not crowd._counts


def test_where_there_is_no_limit_nobody_is_counted():
    crowd, client = Crowd(math.inf), ("192.0.2.1", 1)
    assert crowd.has_room_for(client)
    assert crowd.came(client) is None
    crowd.left(None)
    assert not crowd._counts


async def test_what_there_is_cause_for_all_the_time_is_said_once_a_minute_with_how_often(mock_clock, caplog):
    seldom = Seldom()
    for _ in range(3):
        seldom.warn("too many: %s", "a")
    mock_clock.jump(SAID_EVERY - 0.1)
    seldom.warn("too many: %s", "b")
    assert errors(caplog) == ["too many: a"]
    mock_clock.jump(0.1)
    seldom.warn("too many: %s", "c")
    assert errors(caplog)[1:] == ["too many: c (and 3 times since that was said)"]
    mock_clock.jump(SAID_EVERY)
    seldom.warn("too many: %s", "d")
    assert errors(caplog)[2:] == ["too many: d"]

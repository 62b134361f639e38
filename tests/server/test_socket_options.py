"""The options of an accepted socket: small writes go out at once, and silence is noticed in time."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import sys

import pytest

from tests.support import PATIENCE, connect, start, tcp_pair
from tests.support.program import trioserve
from trioserve import App, Config, Deadlines, OpenSocket, Request, TcpAddress
from trioserve.server.listeners import close_listener, open_listeners, set_options, tcp_options
from trioserve.server.workers import Supervisor

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="these options are Linux's")


def option(sock: socket.socket, name: str) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


def options(sock: socket.socket) -> list[int]:
    """All that the server sets."""
    return [sock.getsockopt(level, name) for level, name, _ in tcp_options(Deadlines())]


def expected(deadlines: Deadlines) -> list[int]:
    """What they are then, as the system tells them."""
    with tcp_pair() as (sock, _):
        set_options(sock, tcp_options(deadlines))
        return options(sock)


def test_small_writes_go_out_at_once():
    with tcp_pair() as (server, _):
        set_options(server, tcp_options(Deadlines()))
        assert option(server, "TCP_NODELAY") == 1


def test_keepalive_is_on():
    with tcp_pair() as (server, _):
        set_options(server, tcp_options(Deadlines()))
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@linux_only
def test_a_client_that_does_not_read_does_not_fill_the_systems_memory():
    """By itself, the system would take some megabytes for it."""
    with tcp_pair() as (server, _):
        set_options(server, tcp_options(Deadlines()))
        server.settimeout(0)
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < 2_000_000:
                taken += server.send(bytes(65_536))

    assert taken < 1_000_000


@linux_only
@pytest.mark.parametrize("vanish", [3, 3.5, 4, 5, 7, 10, 30, 31.7, 600, 86_400, 10_000_000])
def test_a_silent_peer_is_given_up_within_the_deadline(vanish):
    """Keepalive's own count does not matter with TCP_USER_TIMEOUT: the first probe that is due after it has passed
    gives the peer up (tcp(7))."""
    with tcp_pair() as (server, _):
        set_options(server, tcp_options(Deadlines(vanish=vanish)))
        idle, interval = option(server, "TCP_KEEPIDLE"), option(server, "TCP_KEEPINTVL")
        user_timeout = option(server, "TCP_USER_TIMEOUT") / 1000

    assert 0 < user_timeout < vanish
    probes = [idle + count * interval for count in range(1, 100)]
    given_up_at = next(moment for moment in probes if moment >= user_timeout)
    assert given_up_at <= vanish


@linux_only
def test_a_peer_that_goes_silent_for_half_the_deadline_is_not_even_asked():
    with tcp_pair() as (server, _):
        set_options(server, tcp_options(Deadlines(vanish=30)))
        assert option(server, "TCP_KEEPIDLE") == 15


def test_without_a_deadline_silence_is_left_to_the_system():
    with tcp_pair() as (server, _):
        before = server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        set_options(server, tcp_options(Deadlines(vanish=math.inf)))
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == before


# Who has them

VANISH = Deadlines(vanish=7)


def app_that_tells_them() -> App:
    app = App()

    @app.get("/")
    async def handler(request: Request) -> list[int]:
        return options(request.exchange._connection.transport._sock)

    return app


async def test_the_server_sets_them_on_every_connection_that_it_accepts(nursery):
    server = await start(nursery, app_that_tells_them(), deadlines=VANISH)

    for _ in range(2):
        client = await server.connect()
        assert json.loads((await client.get()).body) == expected(VANISH)


async def test_who_has_connected_to_an_open_socket_before_the_server_began_has_them_too(nursery):
    listener = socket.create_server(("127.0.0.1", 0))
    early = await connect(TcpAddress(*listener.getsockname()))

    server = await start(nursery, app_that_tells_them(), listen=(OpenSocket(listener.detach()),), deadlines=VANISH)

    for client in (early, await server.connect()):
        assert json.loads((await client.get()).body) == expected(VANISH)
        client.close()


@linux_only
async def test_a_listener_of_ours_hands_them_down_from_the_start_and_to_a_worker():
    (ours,) = await open_listeners([TcpAddress("127.0.0.1", 0)], 100, VANISH)
    inherited = OpenSocket(ours.socket.dup().detach())
    (same,) = await open_listeners([inherited], 100, VANISH)
    (other,) = await open_listeners([OpenSocket(ours.socket.dup().detach())], 100, Deadlines(vanish=8))
    try:
        assert ours.options == same.options == ()
        assert other.options == tcp_options(Deadlines(vanish=8))
        assert accepted_options(ours.socket) == expected(VANISH)
    finally:
        for listener in (ours, same, other):
            close_listener(listener)


def accepted_options(listener: socket.socket) -> list[int]:
    """Those of a socket that is accepted as it is."""
    listener.settimeout(PATIENCE)
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        return options(accepted)


@linux_only
async def test_who_connects_before_the_first_worker_has_started_has_them_too():
    found: list[list[int]] = []

    def look(_what_has_become_of_a_worker: str) -> None:
        ((listener, _),) = supervisor._listeners
        found.append(accepted_options(listener.socket))

    supervisor = Supervisor(
        1,
        Config(listen=(TcpAddress("127.0.0.1", 0),), deadlines=VANISH),
        ["/nowhere/python"],
        tell=lambda _news, _addresses: None,
        say=look,
    )

    await supervisor.run()

    assert found == [expected(VANISH)]


SHOP = """
from trioserve import App, Deadlines
from trioserve.server.listeners import tcp_options

app = App()

@app.get("/")
async def handler(request):
    sock = request.exchange._connection.transport._sock
    return [sock.getsockopt(level, name) for level, name, _ in tcp_options(Deadlines())]
"""

ON_DEMAND = """
import os, select, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
assert listener.fileno() == 3
print("port:", listener.getsockname()[1], flush=True)
select.select([listener], [], [])
listener.set_inheritable(True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-X", "dev", "-W", "error", "-m", "trioserve", *sys.argv[1:]])
"""
"""What systemd does when it starts a service for the first client of its socket."""


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
async def test_the_client_for_whom_systemd_starts_the_service_has_them_too(tmp_path, workers):
    (tmp_path / "shop.py").write_text(SHOP)
    arguments, through = ("run", "shop:app", *workers), (sys.executable, "-c", ON_DEMAND)
    async with trioserve(*arguments, cwd=tmp_path, through=through) as program:
        port = int((await program.line("port: ")).removeprefix("port: "))
        early = await connect(TcpAddress("127.0.0.1", port))
        assert json.loads((await early.get()).body) == expected(Deadlines())
        early.close()
        assert await program.end(signal.SIGTERM) == 0


async def test_a_workers_clients_have_them(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    async with trioserve("run", "shop:app", "--port", "0", "--workers", "1", cwd=tmp_path) as program:
        client = await connect(TcpAddress("127.0.0.1", await program.port()))
        assert json.loads((await client.get()).body) == expected(Deadlines())
        client.close()
        assert await program.end(signal.SIGTERM) == 0


async def test_a_very_long_deadline_does_not_keep_clients_out(nursery):
    app = App()

    @app.get("/")
    async def handler() -> str:
        return "hello"

    server = await start(nursery, app, deadlines=Deadlines(vanish=10_000_000))
    client = await server.connect()

    assert (await client.get()).body == b"hello"

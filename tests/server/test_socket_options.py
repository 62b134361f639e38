"""The options of an accepted socket: small writes go out at once, and silence is noticed in time."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import sys

import pytest

from tests.support import start, tcp_pair
from trioserve import App, Deadlines, Request
from trioserve.server.listeners import set_options

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="these options are Linux's")


def option(sock: socket.socket, name: str) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


def options(sock: socket.socket) -> list[int]:
    """All that the server sets."""
    linux = ("TCP_NOTSENT_LOWAT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT")
    names = ("TCP_NODELAY", *linux) if sys.platform == "linux" else ("TCP_NODELAY",)
    return [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *(option(sock, name) for name in names)]


def test_small_writes_go_out_at_once():
    with tcp_pair() as (server, _):
        set_options(server, Deadlines())
        assert option(server, "TCP_NODELAY") == 1


def test_keepalive_is_on():
    with tcp_pair() as (server, _):
        set_options(server, Deadlines())
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@linux_only
def test_a_client_that_does_not_read_does_not_fill_the_systems_memory():
    """By itself, the system would take some megabytes for it."""
    with tcp_pair() as (server, _):
        set_options(server, Deadlines())
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
        set_options(server, Deadlines(vanish=vanish))
        idle, interval = option(server, "TCP_KEEPIDLE"), option(server, "TCP_KEEPINTVL")
        user_timeout = option(server, "TCP_USER_TIMEOUT") / 1000

    assert 0 < user_timeout < vanish
    probes = [idle + count * interval for count in range(1, 100)]
    given_up_at = next(moment for moment in probes if moment >= user_timeout)
    assert given_up_at <= vanish


@linux_only
def test_a_peer_that_goes_silent_for_half_the_deadline_is_not_even_asked():
    with tcp_pair() as (server, _):
        set_options(server, Deadlines(vanish=30))
        assert option(server, "TCP_KEEPIDLE") == 15


def test_without_a_deadline_silence_is_left_to_the_system():
    with tcp_pair() as (server, _):
        before = server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        set_options(server, Deadlines(vanish=math.inf))
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == before


async def test_the_server_sets_them_on_every_connection_that_it_accepts(nursery):
    app, deadlines = App(), Deadlines(vanish=7)
    with tcp_pair() as (sock, _):
        set_options(sock, deadlines)
        expected = options(sock)

    @app.get("/")
    async def handler(request: Request) -> list[int]:
        return options(request.exchange._connection.transport._sock)

    server = await start(nursery, app, deadlines=deadlines)

    for _ in range(2):
        client = await server.connect()
        assert json.loads((await client.get()).body) == expected


async def test_a_very_long_deadline_does_not_keep_clients_out(nursery):
    app = App()

    @app.get("/")
    async def handler() -> str:
        return "hello"

    server = await start(nursery, app, deadlines=Deadlines(vanish=10_000_000))
    client = await server.connect()

    assert (await client.get()).body == b"hello"

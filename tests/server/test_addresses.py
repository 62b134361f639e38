"""Where a server listens: TCP and Unix sockets, what it hands back, and what is refused at the start."""

# ruff: noqa: ASYNC240 - looking at a file does not block anybody here

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from tests.support import connect, happens, start
from trioserve import (
    App,
    Completed,
    Config,
    ConfigError,
    Deadlines,
    OpenSocket,
    Request,
    TcpAddress,
    UnixAddress,
    serve,
)
from trioserve.server.config import Address
from trioserve.server.listeners import open_listeners


def ipv6_is_missing() -> str:
    """Why there is no IPv6 on loopback; empty if there is."""
    if not socket.has_ipv6:
        return "this Python has no IPv6"
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError as error:
            return f"cannot bind ::1: {error.strerror}"
    return ""


needs_ipv6 = pytest.mark.skipif(bool(ipv6_is_missing()), reason=ipv6_is_missing() or "there is IPv6")


def app_that_names_its_client() -> App:
    app = App()

    @app.get("/")
    async def handler(request: Request) -> dict[str, object]:
        return {"client": request.client}

    return app


@pytest.fixture
def path(tmp_path_factory) -> str:
    """A path for a Unix socket, shorter than the 108 bytes that the system allows."""
    directory = tmp_path_factory.mktemp("s")
    assert len(str(directory)) < 90
    return str(directory / "socket")


async def answers(address: Address) -> bool:
    client = await connect(address)
    try:
        return (await client.get()).status == 200
    finally:
        client.close()


async def test_port_0_takes_a_free_port_and_tells_which(nursery):
    server = await start(nursery, app_that_names_its_client(), listen=(TcpAddress("127.0.0.1", 0),))

    [address] = server.addresses

    assert address.port != 0
    assert await answers(address)


async def test_the_addresses_are_handed_back_in_the_order_in_which_they_were_given(nursery, path):
    listen = (UnixAddress(path), TcpAddress("127.0.0.1", 0), TcpAddress("127.0.0.1", 0))

    server = await start(nursery, app_that_names_its_client(), listen=listen)

    first, second, third = server.addresses
    assert first == UnixAddress(path)
    assert second.port != third.port
    for address in server.addresses:
        assert await answers(address)


async def test_an_address_is_written_as_a_url(nursery):
    server = await start(nursery, app_that_names_its_client())

    async with httpx.AsyncClient() as client:
        response = await client.get(str(server.addresses[0]))

    assert response.status_code == 200


async def test_a_connection_is_accepted_as_soon_as_the_addresses_are_known(nursery):
    [address] = await nursery.start(serve, app_that_names_its_client(), Config(listen=(TcpAddress("127.0.0.1", 0),)))

    assert await answers(address)


@needs_ipv6
async def test_ipv6_is_listened_on(nursery):
    server = await start(nursery, app_that_names_its_client(), listen=(TcpAddress("::1", 0),))

    [address] = server.addresses
    client = await server.connect()

    assert str(address) == f"http://[::1]:{address.port}"
    assert (await client.get()).status == 200
    assert (await server.records.next(Completed)).client == client.socket.getsockname()[:2]


@needs_ipv6
async def test_the_wildcard_of_ipv6_leaves_the_port_of_ipv4_free(nursery):
    server = await start(nursery, app_that_names_its_client(), listen=(TcpAddress("::", 0),))

    other = await start(nursery, app_that_names_its_client(), listen=(TcpAddress("127.0.0.1", server.port),))

    assert other.port == server.port


@needs_ipv6
async def test_a_client_by_ipv4_has_that_address_also_where_one_socket_takes_both(nursery):
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    server = await start(nursery, app_that_names_its_client(), listen=(OpenSocket(listener.detach()),))

    client = await connect(TcpAddress("127.0.0.1", server.port))
    assert (await client.get()).status == 200

    assert (await server.records.next(Completed)).client == client.socket.getsockname()
    client.close()


async def test_the_wildcard_listens_on_loopback_too(nursery):
    server = await start(nursery, app_that_names_its_client(), listen=(TcpAddress("0.0.0.0", 0),))

    assert await answers(TcpAddress("127.0.0.1", server.port))


async def test_a_server_can_take_the_port_of_one_that_has_just_ended(nursery):
    first = await start(nursery, app_that_names_its_client())
    client = await first.connect()
    await client.get()
    first.scope.cancel()
    await happens(first.ended.wait())

    second = await start(nursery, app_that_names_its_client(), listen=(TcpAddress("127.0.0.1", first.port),))

    assert await answers(second.addresses[0])


async def test_a_port_in_use_is_a_config_error_that_says_what_to_do(nursery):
    server = await start(nursery, app_that_names_its_client())
    taken = server.addresses[0]

    with pytest.raises(ConfigError, match=r"in use.*choose another") as error:
        await serve(app_that_names_its_client(), Config(listen=(taken,)))

    assert str(taken) in str(error.value)


async def test_an_address_that_cannot_be_listened_on_leaves_none_of_the_others_open(nursery, path):
    server = await start(nursery, app_that_names_its_client())
    before = descriptors()

    with pytest.raises(ConfigError):
        await open_listeners((TcpAddress("127.0.0.1", 0), UnixAddress(path), server.addresses[0]), 100, Deadlines())

    assert descriptors() == before
    assert not Path(path).exists()


def descriptors() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd").iterdir():
        try:
            if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                found.add(entry.name)
        except OSError as error:  # the listing's own descriptor is closed by now
            assert error.errno == errno.EBADF  # noqa: PT017
    return found


@pytest.mark.parametrize("host", ["host.invalid", "256.256.256.256", "192.0.2.1"])
async def test_a_host_that_is_not_here_is_a_config_error(host):
    with pytest.raises(ConfigError, match=host):
        await serve(app_that_names_its_client(), Config(listen=(TcpAddress(host, 0),)))


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
async def test_a_host_that_is_no_name_is_a_config_error(host):
    with pytest.raises(ConfigError, match=host):
        await serve(app_that_names_its_client(), Config(listen=(TcpAddress(host, 0),)))


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_is_none_is_a_config_error(port):
    with pytest.raises(ConfigError, match=str(port)):
        TcpAddress("127.0.0.1", port)


def test_no_address_at_all_is_a_config_error():
    with pytest.raises(ConfigError, match="empty"):
        Config(listen=())


async def test_a_client_of_a_unix_socket_has_no_address(nursery, path):
    server = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))
    client = await server.connect()

    assert (await client.get()).body == b'{"client":null}'
    assert (await server.records.next(Completed)).client is None


async def test_the_path_of_a_unix_socket_is_removed_when_the_server_drains(nursery, path):
    server = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))
    assert Path(path).is_socket()

    server.drain.set()
    await happens(server.ended.wait())

    assert not Path(path).exists()


async def test_the_path_of_a_unix_socket_is_removed_when_the_server_is_cancelled(nursery, path):
    server = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))

    server.scope.cancel()
    await happens(server.ended.wait())

    assert not Path(path).exists()


async def test_a_socket_that_a_killed_server_left_behind_is_replaced(nursery, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    assert Path(path).is_socket()

    server = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))

    assert await answers(server.addresses[0])


async def test_the_socket_of_a_living_server_is_refused_and_left_alone(nursery, path):
    server = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))

    with pytest.raises(ConfigError, match="another process listens on it"):
        await serve(app_that_names_its_client(), Config(listen=(UnixAddress(path),)))

    assert await answers(server.addresses[0])


async def test_the_socket_of_a_living_server_that_accepts_nobody_is_refused_without_waiting(path):
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        living.bind(path)
        living.listen(0)
        waiting.connect(path)

        with pytest.raises(ConfigError, match="another process listens on it"):
            await serve(app_that_names_its_client(), Config(listen=(UnixAddress(path),)))

        assert Path(path).is_socket()


async def test_a_file_that_is_no_socket_is_refused_and_left_alone(path):
    Path(path).write_text("precious")

    with pytest.raises(ConfigError, match="no socket"):
        await serve(app_that_names_its_client(), Config(listen=(UnixAddress(path),)))

    assert Path(path).read_text() == "precious"


async def test_a_unix_socket_in_a_directory_that_does_not_exist_is_a_config_error(path):
    with pytest.raises(ConfigError, match="nowhere"):
        await serve(app_that_names_its_client(), Config(listen=(UnixAddress(path + "/nowhere/socket"),)))


async def test_a_path_that_is_too_long_for_a_unix_socket_is_a_config_error(path):
    with pytest.raises(ConfigError, match="too long"):
        await serve(app_that_names_its_client(), Config(listen=(UnixAddress(path + "a" * 200),)))


async def test_while_a_server_is_drained_no_new_connection_is_accepted(nursery):
    entered, leave = trio.Event(), trio.Event()
    app = App()

    @app.get("/")
    async def handler() -> str:
        entered.set()
        await leave.wait()
        return "late"

    server = await start(nursery, app)
    client = await server.ask(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    await happens(entered.wait())
    server.drain.set()
    await trio.testing.wait_all_tasks_blocked()

    with pytest.raises(ConnectionRefusedError):
        await server.connect()

    leave.set()
    assert (await client.answer()).body == b"late"


async def test_a_server_that_ends_leaves_the_socket_of_its_successor_alone(nursery, path):
    old = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))
    Path(path).unlink()
    new = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path),))

    old.drain.set()
    await happens(old.ended.wait())
    assert Path(path).is_socket()
    assert await answers(new.addresses[0])


@pytest.mark.parametrize("path", ["", "\0abstract"])
def test_a_path_that_is_none_is_refused_when_the_address_is_made(path):
    with pytest.raises(ConfigError, match="no path"):
        UnixAddress(path)

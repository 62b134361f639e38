"""What systemd hands on and is told: as values, and with a process that is started as systemd starts one."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from tests.support import connect, happens, start
from tests.support.logs import errors
from tests.support.program import trioserve
from tests.support.tls import secure, server_context
from trioserve import App, Config, ConfigError, OpenSocket, TcpAddress, UnixAddress, serve
from trioserve.server.systemd import Notifier, take_descriptors


def hello() -> App:
    app = App()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    return app


# The sockets


@pytest.mark.parametrize(
    ("variables", "descriptors"),
    [
        ({}, ()),
        ({"LISTEN_PID": "77", "LISTEN_FDS": "1"}, (3,)),
        ({"LISTEN_PID": "77", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "http:admin:http"}, (3, 4, 5)),
        ({"LISTEN_PID": "77", "LISTEN_FDS": "0"}, ()),
        ({"LISTEN_PID": "78", "LISTEN_FDS": "1"}, ()),  # for our parent, who has not taken it out
        ({"LISTEN_FDS": "1"}, ()),
    ],
)
def test_the_descriptors_are_those_for_this_process_and_are_taken_out_of_the_environment(variables, descriptors):
    variables = variables | {"HOME": "/root"}

    assert take_descriptors(variables, 77) == descriptors

    assert variables == {"HOME": "/root"}


@pytest.mark.parametrize("count", ["", "-1", "one", "1.0", "²"])
def test_a_garbled_number_of_sockets_is_a_config_error(count):
    with pytest.raises(ConfigError, match="LISTEN_FDS is"):
        take_descriptors({"LISTEN_PID": "77", "LISTEN_FDS": count}, 77)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_open_socket_is_served_and_told_by_its_address(nursery, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    port = listener.getsockname()[1]

    server = await start(nursery, hello(), listen=(OpenSocket(listener.detach()),))

    assert server.addresses == (TcpAddress(host, port),)
    assert (await (await server.connect()).get()).body == b"hello"
    server.drain.set()
    await happens(server.ended.wait())
    with pytest.raises(ConnectionRefusedError):
        await server.connect()


async def test_the_path_of_an_open_unix_socket_is_left_to_its_maker(nursery, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    server = await start(nursery, hello(), listen=(OpenSocket(listener.detach()),))

    assert server.addresses == (UnixAddress(str(tmp_path / "s")),)
    assert (await (await server.connect()).get()).body == b"hello"
    server.drain.set()
    await happens(server.ended.wait())
    assert (tmp_path / "s").exists()


async def test_an_open_socket_may_be_served_over_tls(nursery):
    listener = socket.create_server(("127.0.0.1", 0))

    server = await start(nursery, hello(), listen=(OpenSocket(listener.detach(), tls=server_context()),))

    assert server.url.startswith("https://")
    assert (await (await secure(server)).get()).body == b"hello"


async def test_an_open_unix_socket_is_served_in_the_clear(nursery, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    server = await start(nursery, hello(), listen=(OpenSocket(listener.detach(), tls=server_context()),))

    assert server.addresses == (UnixAddress(str(tmp_path / "s")),)
    assert (await (await server.connect()).get()).body == b"hello"


def not_listening() -> socket.socket:
    return socket.socket()


def datagrams() -> socket.socket:
    return socket.socket(type=socket.SOCK_DGRAM)


@pytest.mark.parametrize("make", [not_listening, datagrams])
async def test_a_socket_that_does_not_listen_is_a_config_error_and_stays_open(make):
    with make() as sock:
        with pytest.raises(ConfigError, match=f"descriptor {sock.fileno()}: .*no stream socket"):
            await serve(hello(), Config(listen=(OpenSocket(sock.fileno()),)))
        assert os.fstat(sock.fileno())


async def test_a_descriptor_that_is_not_open_is_a_config_error():
    with pytest.raises(ConfigError, match=r"cannot listen on descriptor 999999: Bad file descriptor"):
        await serve(hello(), Config(listen=(OpenSocket(999_999),)))


def test_a_descriptor_is_no_negative_number():
    with pytest.raises(ConfigError, match="-1 is no descriptor"):
        OpenSocket(-1)


# What is told


class Manager:
    """The socket on which systemd listens, and what it was told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(0)

    def told(self) -> str:
        """The next datagram, which has come."""
        return self._socket.recv(4096).decode()

    def heard_all(self) -> bool:
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = f"@trioserve-{os.getpid()}-{os.urandom(8).hex()}"
    manager = Manager(name if request.param == "abstract" else str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_systemd_is_told_how_far_the_service_is(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()

    assert manager.told() == "READY=1"
    reloading, since = manager.told().split("\n")
    assert reloading == "RELOADING=1"
    assert since.removeprefix("MONOTONIC_USEC=").isdigit()
    assert manager.told() == "STOPPING=1"
    assert manager.heard_all()


def test_without_systemd_nobody_is_told(caplog):
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": ""}).ready()
    assert not errors(caplog)


def test_a_systemd_that_cannot_be_told_is_a_warning(caplog, tmp_path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready()
    assert errors(caplog) == ["cannot tell systemd READY=1: No such file or directory"]


# All together


ACTIVATE = """
import os, socket, sys
listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
listeners[1].bind(sys.argv[1])
listeners[1].listen()
assert [listener.fileno() for listener in listeners] == [3, 4]
for listener in listeners:
    listener.set_inheritable(True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:admin"}
os.execv(sys.executable, [sys.executable, "-X", "dev", "-W", "error", "-m", "trioserve", *sys.argv[2:]])
"""
"""What systemd does when it starts a service for its sockets."""


def activated(path: str) -> tuple[str, ...]:
    return sys.executable, "-c", ACTIVATE, path


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop.py").write_text(
        "import os\n"
        "from trioserve import App\n"
        "app = App()\n"
        "@app.get('/')\n"
        "async def variables():\n"
        "    return [name for name in os.environ if name.startswith('LISTEN_')]\n"
    )
    return tmp_path


async def test_run_serves_the_sockets_of_systemd_and_tells_when_it_is_ready(shop):
    manager, path = Manager(str(shop / "notify")), str(shop / "s")
    try:
        async with trioserve(
            "run", "shop:app", cwd=shop, through=activated(path), NOTIFY_SOCKET=manager.address
        ) as program:
            line = await program.line("trioserve: serving")
            assert f", unix:{path} (" in line
            for address in (TcpAddress("127.0.0.1", await program.port()), UnixAddress(path)):
                client = await connect(address)
                assert (await client.get()).body == b"[]"
                client.close()
            assert manager.told() == "READY=1"
            assert await program.end(signal.SIGTERM) == 0
        assert manager.told() == "STOPPING=1"
        assert manager.heard_all()
        assert (shop / "s").exists()
    finally:
        manager.close()


async def test_run_serves_what_else_is_asked_for_beside_the_sockets_of_systemd(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop, through=activated(str(shop / "s"))) as program:
        line = await program.line("trioserve: serving")
        assert line.count("http://127.0.0.1:") == 2
        assert await program.end(signal.SIGTERM) == 0

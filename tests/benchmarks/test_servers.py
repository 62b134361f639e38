"""Servers of the suite on real sockets: those that need no other package."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.suite.checking import complaint
from benchmarks.suite.peers import BY_KEY
from benchmarks.suite.servers import Servers, StartError, free_port
from benchmarks.suite.workloads import WORKLOADS, Manner, workload_named

CORE = 0


@pytest.fixture
def servers(tmp_path):
    running = Servers(CORE, tmp_path)
    yield running
    running.stop_all_but(set())


@pytest.mark.parametrize("key", ["trioserve", "floor", "bare-h11"])
def test_our_own_servers_answer_every_workload_rightly(servers, key):
    for workload in WORKLOADS:
        command = BY_KEY[key].command(workload)
        if command is not None and workload.manner is Manner.PLAIN:
            servers.start(command)
            servers[command].ready()
            assert complaint(workload, servers[command].port) is None, workload.name


def test_a_server_is_shared_by_workloads_that_start_it_alike(servers):
    command = BY_KEY["floor"].command(workload_named("plaintext"))
    assert servers.start(command)
    assert not servers.start(command)


def test_a_server_that_has_ended_is_started_anew(servers):
    command = ("{python}", "-c", "")
    servers.start(command)
    with pytest.raises(StartError):
        servers[command].ready()
    assert servers.start(command)


def test_a_server_that_ends_at_once_is_told_with_its_error(servers):
    command = ("{python}", "-c", "raise ValueError('no port for me')")
    servers.start(command)
    with pytest.raises(StartError, match="it ended with code 1: ValueError: no port for me"):
        servers[command].ready()


@pytest.mark.parametrize("then", ["socket.create_server(('127.0.0.1', 0)).accept()", ""], ids=["alive", "ended before"])
def test_a_server_is_stopped_with_all_that_it_has_started(servers, then):
    child = "import socket; socket.create_server(('127.0.0.1', 0)).accept()"
    parent = (
        "import socket, subprocess, sys\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "connection, _ = listener.accept()\n"  # the one that asks whether it is ready
        "connection, _ = listener.accept()\n"
        "connection.sendall(b'%d\\n' % child.pid)\n"
        f"{then}\n"
    )
    command = ("{python}", "-c", parent, "{port}")
    servers.start(command)
    server = servers[command]
    server.ready()
    with socket.create_connection(("127.0.0.1", server.port)) as asking, asking.makefile() as answer:
        below = int(answer.readline())
    servers.stop(command)
    assert not server.alive
    # A child that was killed is waited for by whoever has adopted it, and may be a zombie until then.
    assert state_of(below) in {None, "Z", "X"}


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


class Wrong(BaseHTTPRequestHandler):
    """Answers as the class's attributes say."""

    protocol_version = "HTTP/1.1"
    status, content, fields = 200, b"Hello, world!", ()

    def do_GET(self):
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.content)))
        for name, value in self.fields:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@contextmanager
def serving(**attributes):
    with HTTPServer(("127.0.0.1", 0), type("Handler", (Wrong,), attributes)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("workload", "attributes", "what"),
    [
        ("plaintext", {}, None),
        ("plaintext", {"status": 404}, "it answers 404"),
        ("plaintext", {"content": b"Hello"}, "it answers b'Hello' (5 bytes)"),
        ("plaintext", {"fields": [("Connection", "close")]}, "it closes the connection"),
        ("close", {}, "it keeps a connection that is to be closed"),
        ("json", {"content": b"{}"}, "it answers b'{}' (2 bytes)"),
        ("json", {"content": b"{"}, "it answers b'{' (1 bytes)"),
    ],
)
def test_a_wrong_answer_is_complained_of(workload, attributes, what):
    with serving(**attributes) as port:
        assert complaint(workload_named(workload), port) == what


def test_a_server_that_is_not_there_is_complained_of():
    assert "it does not answer" in complaint(workload_named("plaintext"), free_port())


def test_a_server_that_forgets_pipelined_requests_is_complained_of():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for requests in (2, 1):  # one after another on the first connection, all at once on the second
                connection, _ = listener.accept()
                with connection:
                    for _ in range(requests):
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        told = complaint(workload_named("pipelined"), listener.getsockname()[1])
        thread.join()
    assert told == "it answers 1 of 16 requests that come at once"

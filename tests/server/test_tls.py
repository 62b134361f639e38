"""TLS on real sockets: the clients that there are, handshakes that fail, and departures."""

from __future__ import annotations

import logging
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import trio
import websockets.sync.client

from tests.support import PATIENCE, Running, happens, start
from tests.support.tls import SecureClient, TlsClient, authority, client_context, secure, server_context
from trioserve import (
    Abandoned,
    App,
    Cause,
    Completed,
    Deadlines,
    HangupNews,
    Phase,
    Request,
    Response,
    TcpAddress,
    WebSocket,
    WebSocketClosed,
)

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

BIG = bytes(range(256)) * 80_000
"""20 MB: more than all buffers between a server and its client hold."""

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def address(**tickets: int) -> TcpAddress:
    return TcpAddress("127.0.0.1", 0, tls=server_context(**tickets))


class Site(App):
    """An app with a bit of everything; `waiting` when a request to /wait is being handled."""

    def __init__(self) -> None:  # noqa: C901 - a list of handlers, each of a few lines
        super().__init__()
        self.waiting = trio.Event()

        @self.get("/")
        async def hello(request: Request) -> str:
            return f"hello over {request.scheme}"

        @self.post("/echo")
        async def echo(request: Request) -> bytes:
            return await request.body()

        @self.post("/size", max_body=10**9)
        async def size(request: Request) -> str:
            total = 0
            async for part in request.stream():
                total += len(part)
            return str(total)

        @self.get("/wait")
        async def wait() -> None:
            self.waiting.set()
            await trio.sleep_forever()

        @self.post("/unread", max_body=10**9)
        async def unread() -> None:
            self.waiting.set()
            await trio.sleep_forever()

        @self.get("/big")
        async def big() -> bytes:
            return BIG

        @self.get("/stream")
        async def stream() -> Response:
            async def write_body(send) -> None:
                for first in range(0, len(BIG), 100_000):
                    await send(BIG[first : first + 100_000])

            return Response.stream(write_body)

        @self.websocket("/chat")
        async def chat(socket: WebSocket) -> None:
            await socket.accept()
            try:
                while True:
                    await socket.send(await socket.receive())
            except WebSocketClosed:
                pass


@pytest.fixture
async def server(nursery: trio.Nursery) -> Running:
    return await start(nursery, Site(), listen=(address(),))


@pytest.fixture(scope="session")
def authority_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority().cert_pem.write_to_path(path)
    return path


# Clients


async def test_httpx_is_served_and_its_connection_kept(server):
    async with httpx.AsyncClient(verify=client_context()) as client:
        first, second = await client.get(server.url), await client.post(f"{server.url}/echo", content=b"abc")

    assert (first.text, first.http_version) == ("hello over https", "HTTP/1.1")
    assert second.content == b"abc"
    ids = {record.connection_id for record in [await server.records.next(Completed) for _ in range(2)]}
    assert len(ids) == 1
    assert server.url.startswith("https://")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_curl_is_served(server, authority_file, version):
    options = ["--cacert", str(authority_file), f"--tlsv{version}", "--tls-max", version, "--http2"]

    curl = await trio.run_process(["curl", "-sS", "-v", *options, server.url], capture_stdout=True, capture_stderr=True)

    assert curl.stdout == b"hello over https"
    assert f"TLSv{version}".encode() in curl.stderr
    assert b"ALPN: server accepted http/1.1" in curl.stderr


async def openssl(server: Running, authority_file: Path, commands: list[bytes], *options: str) -> bytes:
    """What `openssl s_client` prints, given these lines, each once the one before has had its effect."""
    process = await trio.lowlevel.open_process(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", str(authority_file), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed = b""
    with trio.fail_after(PATIENCE):
        async with process.stdin, process.stdout:
            printed = await until(process.stdout, b"---\n", printed)
            for command in commands:
                await process.stdin.send_all(command)
                printed = await until(process.stdout, COMMANDS.get(command, b"hello over https"), printed)
            await process.stdin.aclose()
            async for data in process.stdout:
                printed += data
        await process.wait()
    return printed


COMMANDS = {b"K\n": b"KEYUPDATE\n", b"k\n": b"KEYUPDATE\n", b"R\n": b"RENEGOTIATING\n"}


async def until(stream: trio.abc.ReceiveStream, text: bytes, printed: bytes) -> bytes:
    seen = len(printed)
    while text not in printed[seen:]:
        data = await stream.receive_some()
        if not data:
            break
        printed += data
    return printed


async def test_a_client_may_update_its_keys_and_ours(server, authority_file):
    request = b"GET / HTTP/1.1\nHost: test\n\n"

    printed = await openssl(
        server, authority_file, [request, b"K\n", request, b"k\n", b"K\n", request], "-crlf", "-tls1_3"
    )

    assert printed.count(b"hello over https") == 3


async def test_a_client_that_wants_a_new_handshake_on_the_same_connection_gets_none(server, authority_file):
    request = b"GET / HTTP/1.1\nHost: test\n\n"

    printed = await openssl(server, authority_file, [request, b"R\n"], "-crlf", "-tls1_2")

    assert b"no renegotiation" in printed
    assert await is_served(server)


async def test_a_blocking_client_of_pythons_own_is_served(server):
    def talk() -> bytes:
        import socket

        with (
            socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock,
            client_context().wrap_socket(sock, server_hostname="localhost") as stream,
        ):
            stream.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = b""
            while data := stream.recv(65_536):  # raises at a FIN without close_notify
                answer += data
            return answer

    assert (await trio.to_thread.run_sync(talk)).endswith(b"hello over https")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_offers_other_protocols_only_is_served_by_http_1_1(server, version):
    context = client_context(version)
    context.set_alpn_protocols(["h2"])

    client = await secure(server, context)

    assert client.stream.tls.selected_alpn_protocol() is None
    assert (await client.get()).body == b"hello over https"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_is_resumed(nursery, version):
    server = await start(nursery, Site(), listen=(address(tickets=2),))
    context = client_context(version)
    first = await secure(server, context)
    await first.get()

    client = await server.connect()
    again = TlsClient(client.stream, context, session=first.stream.tls.session)
    await again.handshake()

    assert again.tls.session_reused
    assert (await SecureClient(again).get()).body == b"hello over https"


async def test_a_context_of_the_users_own_may_ask_for_a_certificate(nursery, authority_file):
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority_file)
    server = await start(nursery, Site(), listen=(TcpAddress("127.0.0.1", 0, tls=context),))
    known = client_context(ssl.TLSVersion.TLSv1_2)
    authority().issue_cert("me@example").configure_cert(known)

    assert (await (await secure(server, known)).get()).status == 200
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure|certificate"):
        await secure(server, client_context(ssl.TLSVersion.TLSv1_2))
    stranger = await secure(server)  # by TLS 1.3 a client is done before its server has seen the certificate
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        await stranger.get()


@pytest.mark.parametrize("news", [HangupNews.KERNEL, HangupNews.READ_AHEAD, HangupNews.NONE])
@pytest.mark.parametrize("version", VERSIONS)
async def test_large_contents_pass_both_ways(nursery, version, news):
    server = await start(nursery, Site(), listen=(address(),), hangup_news=news)
    client = await secure(server, client_context(version))

    async with trio.open_nursery() as sending:
        sending.start_soon(
            client.send, b"POST /size HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(BIG), BIG)
        )
        assert (await client.answer()).body == b"%d" % len(BIG)
    assert (await client.get("/big")).body == BIG
    assert (await client.get("/stream")).body == BIG


async def test_a_file_is_sent(nursery, tmp_path):
    app = App()
    (tmp_path / "file").write_bytes(BIG)

    @app.get("/")
    async def file() -> Response:
        return Response.file(tmp_path / "file")

    server = await start(nursery, app, listen=(address(),))
    client = await secure(server)

    assert (await client.get()).body == BIG
    assert (await client.get("/", "Range: bytes=5000000-5000009")).body == BIG[5_000_000:5_000_010]


async def test_a_websocket_is_served(server):
    def talk() -> list[str | bytes]:
        url = f"wss://localhost:{server.port}/chat"
        with websockets.sync.client.connect(url, ssl=client_context(), open_timeout=PATIENCE) as socket:
            socket.send("hello")
            socket.send(b"x" * 100_000)
            return [socket.recv(PATIENCE), socket.recv(PATIENCE)]

    assert await trio.to_thread.run_sync(talk) == ["hello", b"x" * 100_000]


# Handshakes that fail


async def is_served(server: Running) -> bool:
    return (await (await secure(server)).get()).status == 200


class Opened:
    """The lines that failed openings cost, as they come."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._news = trio.lowlevel.ParkingLot()

    def note(self, record: logging.LogRecord) -> None:
        if "at its opening" in record.getMessage():
            assert record.levelno == logging.DEBUG
            self.lines.append(record.getMessage())
            self._news.unpark_all()

    async def next(self) -> str:
        with trio.fail_after(PATIENCE):
            while not self.lines:
                await self._news.park()
        return self.lines.pop(0)


@pytest.fixture
def opened(caplog):
    caplog.set_level(logging.DEBUG, "trioserve.error")
    opened, handler = Opened(), logging.Handler(logging.DEBUG)
    handler.emit = opened.note
    logging.getLogger("trioserve.error").addHandler(handler)
    yield opened
    logging.getLogger("trioserve.error").removeHandler(handler)
    assert not opened.lines, "each costs one line"
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG and record.exc_info]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80" * 100, "wrong version number"),
        (b"\x16\x03\x01" + b"\xff" * 1000, "packet length too long"),
        (b"\x16\x03\x01\x00\x05hello", "unexpected message"),
        (b"\0" * 100_000, "wrong version number"),
        (b"get / HTTP/1.1\r\n\r\n", "wrong version number"),
    ],
)
async def test_garbage_costs_one_line_and_nothing_else(server, opened, data, why):
    client = await server.ask(data)

    line = await opened.next()

    assert why in line
    assert line.startswith("closed a connection from 127.0.0.1:")
    assert client.socket.getsockname()[1]
    assert await is_served(server)
    await server.records.next(Completed)
    assert not server.records.unread


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("data", [b"", b"\x16\x03", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_client_that_leaves_in_the_handshake_costs_one_line(server, opened, how, data):
    client = await server.ask(data) if data else await server.connect()

    getattr(client, how)()

    assert "the client left" in await opened.next()
    assert await is_served(server)


async def test_a_client_of_an_old_version_is_refused(server, opened):
    context = client_context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await secure(server, context)

    assert "unsupported protocol" in await opened.next()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_does_not_trust_the_server_costs_one_line(server, opened, caplog, version):
    stranger = ssl.create_default_context()
    stranger.minimum_version = stranger.maximum_version = version
    client = await server.connect()
    tls = TlsClient(client.stream, stranger)
    with pytest.raises(ssl.SSLCertVerificationError):
        await tls.handshake()
    tls.flush_nowait()

    assert "unknown ca" in await opened.next()


async def test_a_client_that_stalls_in_the_handshake_is_closed_in_time(nursery, opened):
    server = await start(nursery, Site(), listen=(address(),), deadlines=Deadlines(handshake=0.05))
    client = await server.ask(b"\x16\x03\x01")

    assert "took too long" in await opened.next()
    assert await client.is_closed()


@pytest.mark.parametrize("order", ["drain", "stop"])
async def test_a_stalled_handshake_does_not_hold_up_the_end(nursery, opened, order):
    server = await start(nursery, Site(), listen=(address(),), deadlines=Deadlines(drain_delay=0))
    client = await server.ask(b"\x16\x03\x01")
    await trio.testing.wait_all_tasks_blocked()

    (server.drain.set if order == "drain" else server.scope.cancel)()
    await happens(server.ended.wait())

    assert "the server stops" in await opened.next()
    assert await client.is_closed()


# Plain HTTP at a port that speaks TLS


@pytest.mark.parametrize("split", [0, 1, 10])
async def test_plain_http_is_told_that_tls_is_spoken(server, opened, split):
    client = await server.connect()
    if split:
        await client.send(GET[:split])
    await client.send(GET[split:])

    answer = await client.answer()

    assert (answer.status, answer.closes) == (400, True)
    assert answer.body == b"this port speaks TLS; use https\n"
    assert answer.get("date")
    assert await client.is_closed()
    client.close()
    assert "speaks plain HTTP to a port that speaks TLS" in await opened.next()
    assert await is_served(server)


async def test_plain_http_is_told_so_also_behind_a_large_body(server, opened):
    client = await server.connect()
    await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))

    assert (await client.answer()).status == 400
    client.close()
    await opened.next()


async def test_tls_at_a_port_in_the_clear_is_refused(nursery):
    server = await start(nursery, Site())

    with pytest.raises(ssl.SSLError):
        await secure(server)


# Departures


@pytest.mark.parametrize(
    ("version", "news"),
    [*((version, HangupNews.KERNEL) for version in VERSIONS), (VERSIONS[-1], HangupNews.READ_AHEAD)],
)
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("close_notify", Cause.FIN),
        ("close_notify and FIN", Cause.FIN),
        ("FIN", Cause.FIN),
        ("RST", Cause.RESET),
        ("broken record", Cause.TLS_ERROR),
        ("plain bytes", Cause.TLS_ERROR),
    ],
)
@pytest.mark.parametrize(
    "asks",
    [
        pytest.param(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n", id="a handler waits"),
        pytest.param(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n" + 3 * GET, id="requests lie behind"),
        pytest.param(
            b"POST /unread HTTP/1.1\r\nHost: test\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000), id="a body unread"
        ),
        pytest.param(
            b"POST /unread HTTP/1.1\r\nHost: test\r\nContent-Length: 20000\r\n\r\n" + bytes(10_000), id="half a body"
        ),
    ],
)
async def test_a_departure_is_noticed_while_a_handler_runs(nursery, version, news, how, cause, asks):
    app = Site()
    server = await start(nursery, app, listen=(address(),), hangup_news=news)
    client = await secure(server, client_context(version))
    await client.send(asks)
    await happens(app.waiting.wait())

    leave(client, how)

    record = await server.records.next(Abandoned)
    assert record.cause is cause
    assert record.by == "client"
    assert record.status == (400 if record.phase is Phase.BODY else 499)


def leave(client: SecureClient, how: str) -> None:
    raw = client.socket._sock
    match how:
        case "close_notify":
            client.say_goodbye()
        case "close_notify and FIN":
            client.say_goodbye()
            raw.shutdown(1)
        case "FIN":
            raw.shutdown(1)
        case "RST":
            client.reset()
        case "broken record":
            client.stream.tls.write(b"x")
            data = bytearray(client.stream.outgoing.read())
            data[-1] ^= 1
            raw.send(data)
        case "plain bytes":
            raw.send(GET)


@pytest.mark.parametrize(("how", "cause"), [("FIN", Cause.FIN), ("close_notify", Cause.FIN), ("RST", Cause.RESET)])
@pytest.mark.parametrize("target", ["/big", "/stream"])
async def test_a_departure_is_noticed_while_a_send_is_blocked(server, target, how, cause):
    client = await secure(server)
    await client.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await client.receive()
    await trio.testing.wait_all_tasks_blocked()

    leave(client, how)

    record = await server.records.next(Abandoned)
    assert (record.cause, record.phase, record.sent_status) == (cause, Phase.RESPONSE_BODY, 200)
    assert 0 < record.response_body_bytes < len(BIG)


async def test_a_close_notify_behind_a_body_that_nobody_reads_is_noticed(nursery):
    """More than is read ahead at first: a quarter of a second later it is read on."""
    app = Site()
    server = await start(nursery, app, listen=(address(),))
    client = await secure(server)
    await client.send(b"POST /unread HTTP/1.1\r\nHost: test\r\nContent-Length: 2000000\r\n\r\n" + bytes(2_000_000))
    client.say_goodbye()

    assert (await server.records.next(Abandoned)).cause is Cause.FIN


@pytest.mark.parametrize("half_close", ["finish", "probe"])
@pytest.mark.parametrize("how", ["close_notify", "close_notify and FIN"])
async def test_a_client_that_half_closes_gets_its_answer_where_that_is_allowed(nursery, how, half_close):
    server = await start(nursery, Site(), listen=(address(),), half_close=half_close)
    client = await secure(server)
    await client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc")
    leave(client, how)

    assert (await client.answer()).body == b"abc"
    assert await client.is_closed()  # by a close_notify of ours
    assert (await server.records.next(Completed)).status == 200


async def test_an_idle_client_that_leaves_costs_nothing(server, caplog):
    caplog.set_level(logging.INFO, "trioserve.error")
    for how in ("close_notify", "FIN", "RST"):
        client = await secure(server)
        await client.get()
        await server.records.next(Completed)
        leave(client, how)
        if how == "close_notify":
            assert await client.is_closed()
    server.drain.set()
    await happens(server.ended.wait())

    assert not server.records.unread
    assert not caplog.records


async def test_a_drain_says_goodbye_to_idle_clients(server):
    client = await secure(server)
    await client.get()

    server.drain.set()

    assert await client.is_closed()


async def test_a_request_that_is_there_when_the_server_drains_is_answered_and_a_farewell_is_none(server):
    asks, leaves = await secure(server), await secure(server)
    await asks.get()
    await leaves.get()
    await asks.send(GET)
    leaves.say_goodbye()

    server.drain.set()
    answer = await asks.answer()

    assert answer.status == 200
    assert await asks.is_closed()
    await happens(server.ended.wait())

"""The PROXY protocol at an address that asks for it: who the client is then, and what becomes of everybody else."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import socket

import pytest
import trio
import trio.testing

from tests.support import PATIENCE, Client, Running, happens, start
from tests.support.tls import client_context, server_context
from trioserve import App, Completed, Deadlines, HangupNews, Request, TcpAddress, UnixAddress
from trioserve.connection.spool import Budget, Spool
from trioserve.core.errors import ERROR_LOGGER
from trioserve.server.opening import Opening
from trioserve.testing import memory_connection

V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24"
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + b"\xc8\x22\x01\xbb"
)
NAMED = {V1: ["192.0.2.1", 51_234], V2: ["2001:db8::1", 51_234]}
EACH_VERSION = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
EACH_NEWS = pytest.mark.parametrize("news", [HangupNews.KERNEL, HangupNews.READ_AHEAD])
HERE = TcpAddress("127.0.0.1", 0, proxy_protocol=True)


def app_that_names_its_client() -> App:
    app = App()

    @app.post("/")
    @app.get("/")
    async def handler(request: Request) -> dict[str, object]:
        return {"client": request.client, "body": (await request.body()).decode()}

    return app


@pytest.fixture
async def server(nursery) -> Running:
    return await start(nursery, app_that_names_its_client(), listen=(HERE,))


@pytest.fixture
def debug_lines(caplog):
    """What is logged at an opening that comes to nothing."""
    caplog.set_level(logging.DEBUG, ERROR_LOGGER)
    return lambda: [record.getMessage() for record in caplog.records if record.name == ERROR_LOGGER]


@EACH_NEWS
@EACH_VERSION
async def test_the_client_is_whom_the_header_names(nursery, header, news):
    server = await start(nursery, app_that_names_its_client(), listen=(HERE,), hangup_news=news)
    client = await server.ask(header + GET)

    assert await named(client) == NAMED[header]
    record = await server.records.next(Completed)
    assert list(record.client) == NAMED[header]


async def named(client) -> object:
    answer = await client.answer()
    assert answer.status == 200
    return json.loads(answer.body)["client"]


async def test_it_is_the_client_of_every_exchange_on_the_connection(server):
    client = await server.ask(V1 + GET + GET)

    assert await named(client) == NAMED[V1]
    assert await named(client) == NAMED[V1]
    assert (await client.get()).status == 200


@EACH_VERSION
async def test_a_header_may_come_byte_by_byte(server, header):
    client = await server.connect()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header + GET:
        await client.send(bytes([byte]))

    assert await named(client) == NAMED[header]


async def test_a_body_behind_the_header_arrives_whole(server):
    client = await server.ask(V2)
    body = b"x" * 300_000

    answer = await client.post(body)

    assert json.loads(answer.body)["body"] == body.decode()


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"])
async def test_a_proxy_that_speaks_for_itself_is_the_client(server, header):
    client = await server.ask(header + GET)

    assert await named(client) == list(client.socket.getsockname())


async def test_at_a_unix_socket_too_the_client_is_whom_the_header_names(nursery, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("s") / "socket")
    server = await start(nursery, app_that_names_its_client(), listen=(UnixAddress(path, proxy_protocol=True),))

    assert await named(await server.ask(V1 + GET)) == NAMED[V1]
    assert await named(await server.ask(b"PROXY UNKNOWN\r\n" + GET)) is None


async def curl(*arguments: str) -> tuple[int, str]:
    """Its exit code, and what it printed."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(["curl", "-s", "--noproxy", "*", *arguments], capture_stdout=True, check=False)
    return done.returncode, done.stdout.decode()


async def test_curl_sends_one(server):
    code, printed = await curl("--haproxy-protocol", "-w", " %{local_port}", server.url)

    body, _, port = printed.rpartition(" ")
    assert (code, json.loads(body)["client"]) == (0, ["127.0.0.1", int(port)])


async def test_curl_without_a_header_gets_no_answer(server):
    code, printed = await curl(server.url)

    assert code in {52, 56}  # an empty reply, or a reset
    assert printed == ""
    assert server.records.all == []


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (GET, "no PROXY protocol header comes first"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 51234\r\n" + GET, "malformed"),
        (b"PROXY TCP4 192.0.2.999 192.0.2.2 51234 443\r\n" + GET, "malformed address"),
        (b"PROXY ".ljust(200, b"x"), "longer than 107 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "longer than 4096 bytes"),
    ],
)
async def test_what_is_no_header_is_closed_without_an_answer_for_one_line_of_debug(server, debug_lines, sent, why):
    client = await server.ask(sent)

    assert await is_over(client)
    [line] = debug_lines()
    assert why in line
    assert str(client.socket.getsockname()[1]) in line
    assert server.records.all == []
    # And everybody else is served.
    assert await named(await server.ask(V1 + GET)) == NAMED[V1]


async def is_over(client) -> bool:
    """True if the server has closed, in whatever way, and said nothing."""
    try:
        return await client.receive() == b""
    except trio.BrokenResourceError:
        return True


async def test_a_client_that_leaves_within_the_header_is_closed_for_one_line_of_debug(server, debug_lines):
    client = await server.ask(V1[:20])
    await client.stream.send_eof()

    assert await client.is_closed()
    assert ["left before" in line for line in debug_lines()] == [True]


async def test_a_client_that_stalls_within_the_header_is_closed_at_the_deadline(nursery, debug_lines):
    server = await start(
        nursery, app_that_names_its_client(), listen=(HERE,), deadlines=Deadlines(handshake=0.1, head=60)
    )
    client = await server.ask(V1[:20])

    assert await client.is_closed()
    assert ["took too long" in line for line in debug_lines()] == [True]


async def test_where_no_header_is_asked_for_one_is_a_malformed_request(nursery):
    server = await start(nursery, app_that_names_its_client())
    client = await server.ask(V1 + GET)

    answer = await client.answer()

    assert (answer.status, answer.closes) == (400, True)


async def test_a_server_that_drains_does_not_wait_for_headers(nursery, server):
    client = await server.ask(V1[:20])
    await trio.testing.wait_all_tasks_blocked()

    server.drain.set()

    await happens(server.ended.wait())
    assert await is_over(client)


# TLS behind it: the proxy passes on what it cannot read


HERE_WITH_TLS = functools.partial(TcpAddress, "127.0.0.1", 0, proxy_protocol=True)


class Together(trio.abc.Stream):
    """A stream on which `first` goes out with what is sent first, in one segment."""

    def __init__(self, first: bytes, stream: trio.SocketStream) -> None:
        self._first, self._stream = first, stream

    async def send_all(self, data: bytes) -> None:
        first, self._first = self._first, b""
        await self._stream.send_all(first + data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@EACH_NEWS
@EACH_VERSION
@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "in two"])
async def test_a_tls_handshake_may_follow_the_header(nursery, header, news, together):
    listen = (HERE_WITH_TLS(tls=server_context()),)
    server = await start(nursery, app_that_names_its_client(), listen=listen, hangup_news=news)
    plain = await server.connect()
    if not together:
        await plain.send(header)
    stream = Together(header if together else b"", plain.stream)
    client = Client(trio.SSLStream(stream, client_context(), server_hostname="127.0.0.1"))

    await client.send(GET)

    assert await named(client) == NAMED[header]


async def test_a_tls_handshake_without_a_header_before_it_is_closed(nursery, debug_lines):
    listen = (HERE_WITH_TLS(tls=server_context()),)
    server = await start(nursery, app_that_names_its_client(), listen=listen)
    client = await server.connect()
    tls = trio.SSLStream(client.stream, client_context(), server_hostname="127.0.0.1")

    with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
        await tls.do_handshake()

    assert ["no PROXY protocol header comes first" in line for line in debug_lines()] == [True]


async def test_what_is_wrong_with_tls_behind_a_header_names_the_client(nursery, debug_lines):
    listen = (HERE_WITH_TLS(tls=server_context()),)
    server = await start(nursery, app_that_names_its_client(), listen=listen)
    client = await server.ask(V1 + b"\x16\x03\x01\x00\x05nonsense")

    await closed(client)

    [line] = debug_lines()
    assert "192.0.2.1" in line


async def closed(client) -> None:
    """Read whatever comes until the server has closed, in whatever way."""
    with contextlib.suppress(trio.BrokenResourceError):
        await client.read_to_end()


# In memory, where every order can be arranged.


@pytest.mark.parametrize(
    ("orders", "why"),
    [
        (("stop",), "the server stops"),
        (("end_if_idle",), "its place is needed, or the server stops"),
        (("end_if_idle", "stop"), "its place is needed, or the server stops"),
    ],
    ids=str,
)
async def test_of_an_opening_that_is_ended_it_is_said_why(debug_lines, orders, why):
    peer, subject = opening()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.run)
        await trio.testing.wait_all_tasks_blocked()
        for order in orders:
            getattr(subject, order)()
    assert [line.rpartition(": ")[2] for line in debug_lines()] == [why]
    peer.close()


async def test_an_opening_that_is_cancelled_from_outside_leaves_nothing_open():
    peer, subject = opening()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        assert await peer.receive_some() == b""
    peer.close()


def opening(deadline: float = 10):
    peer, transport = memory_connection(Spool(65_536, Budget(65_536)))
    return peer, Opening(transport, HERE, deadline, lambda: b"now")


@EACH_VERSION
async def test_however_a_header_is_split_it_is_read_and_what_is_behind_it_is_left(header):
    data = header + GET
    for size in range(1, len(data)):
        peer, subject = opening()
        peer.send_nowait(data[:size])

        async def send_the_rest(peer=peer, rest=data[size:]) -> None:
            await trio.testing.wait_all_tasks_blocked()
            peer.send_nowait(rest)

        async with trio.open_nursery() as sending:
            sending.start_soon(send_the_rest)
            transport = await subject.run()

        assert list(transport.client) == NAMED[header]
        received = b""
        while data_left := transport.receive_nowait():
            received += data_left
        assert received == GET
        transport.close()


async def test_a_header_that_is_dripped_is_cut_in_total(autojump_clock):
    peer, subject = opening(deadline=10)

    async def drip() -> None:
        for byte in V1:
            peer.send_nowait(bytes([byte]))
            await trio.sleep(1.5)

    async with trio.open_nursery() as dripping:
        dripping.start_soon(drip)
        assert await subject.run() is None
        dripping.cancel_scope.cancel()

    assert trio.current_time() == pytest.approx(10)
    assert await peer.receive_some() == b""


async def test_a_peer_that_resets_within_the_header_is_closed(debug_lines):
    peer, subject = opening()
    peer.send_nowait(V1[:5])
    peer.reset()

    assert await subject.run() is None
    assert ["the client left: RESET" in line for line in debug_lines()] == [True]

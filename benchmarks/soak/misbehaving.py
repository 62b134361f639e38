"""Clients that misbehave: they leave, stall, reset, drip, do not read, send garbage, half-close, say nothing.

What each has begun is registered with the ledger, as far as its client can know. How long the server holds such a
connection is judged by looking at the server (see `__main__`), and not here, since at times it waits to be accepted.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio
import wsproto
from wsproto.events import Request

from benchmarks.leaving import Leaving, leave
from benchmarks.soak import asking
from benchmarks.soak.behaved import KEPT, Asker
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.server import HOST_NAME

HOST = "127.0.0.2"
"""An address of their own, so that their connections can be told from the others'."""

PATIENCE = 40.0
"""Seconds after which one gives up whatever it does: longer than the server may hold it."""

ESTABLISHED = 1
"""The first byte of TCP_INFO while the server has not reset the connection: who does not read hears nothing of it."""

LONGEST_STAY = 0.05
"""Seconds, at most, before one leaves that leaves."""

DRIP = (0.05, 0.3)
"""Seconds between two drips, from and to."""

CROWD = 2.5
"""Seconds that one of a crowd holds its connection, silently, unless it is cut before."""


class Ports(NamedTuple):
    """Where the server is to be found, and a client's TLS for it."""

    clear: int
    tls: int
    context: ssl.SSLContext


class Misbehaving:
    """A client that misbehaves. `one_connection` is one of its connections.

    Args:
        told: called with what it did.
    """

    def __init__(self, ports: Ports, ledger: Ledger, chance: random.Random, told: Callable[[str], None]) -> None:
        self._ports = ports
        self._ledger = ledger
        self._chance = chance
        self._told = told
        self._asker = Asker(ledger, chance)
        self._ways = (
            *[self._leaves_anywhere] * 3,
            self._stalls,
            self._drips,
            self._does_not_read,
            self._pushes_an_endless_body,
            self._reads_by_drips,
            self._leaves_inside_an_answer,
            self._sends_garbage,
            *[self._sends_a_mutated_request] * 2,
            self._half_closes,
            self._pipelines_and_leaves,
            self._says_nothing,
            self._expects_and_sends_nothing,
            self._breaks_a_websocket,
        )
        self._over_tls = (
            self._breaks_a_handshake,
            self._leaves_inside_tls,
            self._sends_a_broken_record,
        )

    async def one_connection(self) -> None:
        how = self._chance.choice((*self._ways, *self._over_tls))
        with trio.move_on_after(PATIENCE):
            sock = await self._connect(self._ports.tls if how in self._over_tls else self._ports.clear)
            try:
                await how(sock)
            except (OSError, trio.BrokenResourceError):
                pass  # the server has had enough of it
            finally:
                self._leave(sock, self._chance.choice((Leaving.CLOSE, Leaving.RESET)))
        self._told(how.__name__.strip("_").replace("_", " "))

    async def silence(self) -> None:
        """One of a crowd that connects and says nothing."""
        with trio.move_on_after(CROWD):
            sock = await self._connect(self._chance.choice((self._ports.clear, self._ports.tls)))
            try:
                await self._wait_for_the_end(sock)
            except OSError:
                pass
            finally:
                self._leave(sock, Leaving.CLOSE)

    async def _connect(self, port: int) -> trio.socket.SocketType:
        sock = trio.socket.socket()
        try:
            await sock.bind((HOST, 0))
            await sock.connect(("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _leave(self, sock: trio.socket.SocketType, how: Leaving) -> None:
        if sock.fileno() != -1:
            trio.lowlevel.notify_closing(sock)
            leave(socket.socket(fileno=sock.detach()), how)

    # What they ask

    def _some_request(self) -> tuple[int, bytes]:
        """A request that would be well, if it were let be; its number, and its bytes."""
        if self._chance.random() < 0.3:
            number = self._ledger.open("a request of a misbehaving client")
            path = self._chance.choice(("/sleep", "/flood", "/ignore"))
            body = asking.content(number, self._chance.choice((10, 100_000, 400_000)))
            if path == "/flood":
                return number, asking.head("GET", asking.target(path, number))
            return number, asking.with_length("POST", asking.target(path, number), body)
        ask = self._chance.choice(KEPT)(self._asker)
        self._ledger.expect_nothing(ask.number)
        return ask.number, ask.data

    def _register(self, number: int, data: bytes, sent: int) -> None:
        """So much of the request was sent. If its head is not whole, its name was never read."""
        self._ledger.close(number, answered=False)
        if sent < data.index(b"\r\n\r\n") + 4:
            self._ledger.nameless_possible += 1

    # How they misbehave

    async def _leaves_anywhere(self, sock: trio.socket.SocketType) -> None:
        number, data = self._some_request()
        cut = self._chance.choice((len(data), self._chance.randrange(len(data)), self._chance.randrange(300)))
        self._register(number, data, cut)
        await self._send(sock, data[:cut])
        await trio.sleep(self._chance.uniform(0, LONGEST_STAY))

    async def _stalls(self, sock: trio.socket.SocketType) -> None:
        number, data = self._some_request()
        cut = self._chance.choice((self._chance.randrange(len(data)), self._chance.randrange(300)))
        self._register(number, data, cut)
        await self._send(sock, data[:cut])
        await self._wait_for_the_end(sock)

    async def _drips(self, sock: trio.socket.SocketType) -> None:
        number, data = self._some_request()
        at_once = self._chance.choice((1, self._chance.randrange(100), self._chance.randrange(len(data))))
        self._register(number, data, at_once)  # it never gets further by as much as makes a difference, or is answered
        await self._send(sock, data[:at_once])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drip, sock, data[at_once:])
            with contextlib.suppress(OSError):
                await self._wait_for_the_end(sock)
            nursery.cancel_scope.cancel()

    async def _drip(self, sock: trio.socket.SocketType, data: bytes) -> None:
        try:
            for byte in data:
                await sock.send(bytes([byte]))
                await trio.sleep(self._chance.uniform(*DRIP))
        except OSError:
            pass

    async def _does_not_read(self, sock: trio.socket.SocketType) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await self._flood(sock)
        while self._is_established(sock):  # noqa: ASYNC110 - it is the server that ends it
            await trio.sleep(0.2)

    def _is_established(self, sock: trio.socket.SocketType) -> bool:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED

    async def _pushes_an_endless_body(self, sock: trio.socket.SocketType) -> None:
        number = self._ledger.open("POST /sleep with an endless body")
        data = asking.head("POST", asking.target("/sleep", number), "Transfer-Encoding: chunked")
        self._register(number, data, len(data))
        await self._send(sock, data)
        while True:
            await self._send(sock, b"10000\r\n" + bytes(65_536) + b"\r\n")

    async def _reads_by_drips(self, sock: trio.socket.SocketType) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await self._flood(sock)
        while await sock.recv(5):  # noqa: ASYNC110 - it is the server that ends it
            await trio.sleep(self._chance.uniform(*DRIP))

    async def _leaves_inside_an_answer(self, sock: trio.socket.SocketType) -> None:
        await self._flood(sock)
        for _ in range(self._chance.randrange(50)):
            await sock.recv(10_000)

    async def _flood(self, sock: trio.socket.SocketType) -> None:
        number = self._ledger.open("GET /flood")
        self._ledger.close(number, answered=False)
        await self._send(sock, asking.head("GET", asking.target("/flood", number)))

    async def _sends_garbage(self, sock: trio.socket.SocketType) -> None:
        self._ledger.nameless_possible += 1
        data = self._chance.randbytes(self._chance.randrange(1, 3000))
        await self._send(
            sock, self._chance.choice((data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"))
        )
        if await self._wait_for_the_end(sock):
            self._ledger.nameless_answered += 1

    async def _sends_a_mutated_request(self, sock: trio.socket.SocketType) -> None:
        number, data = self._some_request()
        self._ledger.close(number, answered=False)
        self._ledger.nameless_possible += 3  # without a right name, then the rest of its body, which is no request
        await self._send(sock, mutated(data[:20_000], self._chance))
        await self._wait_for_the_end(sock)

    async def _half_closes(self, sock: trio.socket.SocketType) -> None:
        number, data = self._some_request()
        cut = self._chance.choice((len(data), len(data), self._chance.randrange(len(data))))
        self._register(number, data, cut)
        await self._send(sock, data[:cut])
        sock.shutdown(socket.SHUT_WR)
        await self._wait_for_the_end(sock)

    async def _pipelines_and_leaves(self, sock: trio.socket.SocketType) -> None:
        requests = [self._some_request() for _ in range(self._chance.randrange(2, 20))]
        for number, data in requests:
            self._register(number, data, len(data))
        await self._send(sock, b"".join(data for _, data in requests))
        await trio.sleep(self._chance.uniform(0, LONGEST_STAY))

    async def _says_nothing(self, sock: trio.socket.SocketType) -> None:
        await self._wait_for_the_end(sock)

    async def _expects_and_sends_nothing(self, sock: trio.socket.SocketType) -> None:
        number = self._ledger.open("POST /echo, Expect: 100-continue, and no body")
        data = asking.head("POST", asking.target("/echo", number), "Content-Length: 100", "Expect: 100-continue")
        self._register(number, data, len(data))
        await self._send(sock, data)
        await self._wait_for_the_end(sock)

    async def _breaks_a_websocket(self, sock: trio.socket.SocketType) -> None:
        number = self._ledger.open("a WebSocket that is broken")
        self._ledger.close(number, answered=False)
        protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        await self._send(sock, protocol.send(Request(host="soak.example", target=asking.target("/socket", number))))
        await sock.recv(65_536)
        garbage = self._chance.choice((b"", b"\x81", b"\x82\xff\x7f", self._chance.randbytes(200)))
        if garbage:
            await self._send(sock, garbage)
        await trio.sleep(self._chance.uniform(0, LONGEST_STAY))

    # How they misbehave over TLS

    async def _breaks_a_handshake(self, sock: trio.socket.SocketType) -> None:
        hello = self._client_hello()
        number, data = self._some_request()  # in the clear, where TLS is spoken
        self._ledger.close(number, answered=False)
        first = self._chance.choice((hello[: self._chance.randrange(len(hello))], mutated(hello, self._chance), data))
        await self._send(sock, first)
        if self._chance.random() < 0.5:
            await self._wait_for_the_end(sock)

    def _client_hello(self) -> bytes:
        outgoing = ssl.MemoryBIO()
        client = self._ports.context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST_NAME)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return outgoing.read()

    async def _leaves_inside_tls(self, sock: trio.socket.SocketType) -> None:
        stream = await self._shaken_hands(sock)
        number, data = self._some_request()
        cut = self._chance.choice((len(data), self._chance.randrange(len(data)), self._chance.randrange(300)))
        self._register(number, data, cut)
        await stream.send_all(data[:cut])
        await trio.sleep(self._chance.uniform(0, LONGEST_STAY))

    async def _sends_a_broken_record(self, sock: trio.socket.SocketType) -> None:
        stream = await self._shaken_hands(sock)
        number, data = self._some_request()
        cut = self._chance.choice((len(data), self._chance.randrange(len(data))))
        self._register(number, data, cut)
        await stream.send_all(data[:cut])
        await self._send(sock, self._chance.randbytes(100))
        await self._wait_for_the_end(sock)

    async def _shaken_hands(self, sock: trio.socket.SocketType) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(trio.SocketStream(sock), self._ports.context, server_hostname=HOST_NAME)
        await stream.do_handshake()
        return stream

    # How they go about it

    async def _send(self, sock: trio.socket.SocketType, data: bytes) -> None:
        """Send, whole or in pieces, and take in what comes meanwhile as far as there is a need to."""
        if self._chance.random() < 0.3:
            middle = self._chance.randrange(len(data) + 1)
            pieces: Sequence[bytes] = (data[:middle], data[middle:])
        else:
            pieces = (data,)
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = left[await sock.send(left) :]
            await trio.lowlevel.checkpoint()

    async def _wait_for_the_end(self, sock: trio.socket.SocketType) -> bool:
        """Take in what comes until the server closes; says whether anything came."""
        came = False
        while await sock.recv(65_536):
            came = True
        return came


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to three small changes, most of them in the head."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(min(len(changed), chance.choice((300, len(changed)))))
        size = chance.randrange(1, 20)
        match chance.randrange(5):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                changed[at:at] = chance.choice((b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\r\n\r\n", b"\xff"))
            case 4:
                changed[at:at] = chance.randbytes(size)
        if not changed:
            return b"\r\n"
    return bytes(changed)

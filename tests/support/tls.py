"""TLS for tests: an authority and a server's certificate, and a client that can do without a step of the scheduler."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path
from typing import Any

import trio
import trustme

from tests.support.client import Client
from tests.support.server import Running
from tests.support.sockets import PATIENCE, reset
from trioserve import tls_context

RECORD = 16_384


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def certificate() -> trustme.LeafCert:
    return authority().issue_cert("localhost", "127.0.0.1", "test")


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """The files of a server's certificate and of its key."""
    chain, key = directory / "certificate.pem", directory / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in certificate().cert_chain_pems))
    certificate().private_key_pem.write_to_path(key)
    return chain, key


def server_context(*, tickets: int = 0) -> ssl.SSLContext:
    """As `tls_context` makes it. Without session tickets: a client that leaves before it has read them sends a RST."""
    with certificate().private_key_and_cert_chain_pem.tempfile() as path:
        context = tls_context(path)
    context.num_tickets = tickets
    return context


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Of a client that trusts the authority; of one that speaks this version only."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class TlsClient:
    """The client's end of TLS over a trio stream, which may be a socket's or one in memory."""

    def __init__(self, below: Any, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None) -> None:
        self.below = below
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="test", session=session)
        self._unsent = b""
        self._plain = bytearray()
        self.ended = False

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._feed(await self.below.receive_some(65_536))
            else:
                await self._flush()
                return

    def _feed(self, data: bytes) -> None:
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def _flush(self) -> None:
        self._unsent += self.outgoing.read()
        data, self._unsent = self._unsent, b""
        await self.below.send_all(data)

    async def send_all(self, data: bytes | memoryview) -> None:
        self._write(data)
        await self._flush()

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self.tls.write(left[:RECORD]) :]

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what there is room for; of that the end may stay here."""
        if self.flush_nowait():
            return 0
        self._write(data[:RECORD])
        self.flush_nowait()
        return len(data[:RECORD])

    def flush_nowait(self) -> int:
        """Send what is encrypted; returns how many bytes find no room."""
        self._unsent += self.outgoing.read()
        while self._unsent:
            try:
                sent = self._send_below(self._unsent)
            except BlockingIOError:
                break
            if not sent:
                break
            self._unsent = self._unsent[sent:]
        return len(self._unsent)

    def _send_below(self, data: bytes) -> int:
        if isinstance(self.below, trio.SocketStream):
            return self.below.socket._sock.send(data)  # the stdlib socket below trio's: no checkpoints
        return self.below.send_nowait(data)

    async def receive_some(self, most: int = 65_536) -> bytes:
        """Some bytes; b"" at the server's close_notify.

        Raises:
            ssl.SSLEOFError: at a FIN without one.
        """
        while not self._plain and not self.ended:
            self._decrypt()
            if not self._plain and not self.ended:
                self._feed(await self.below.receive_some(65_536))
        data = bytes(self._plain[:most])
        del self._plain[:most]
        return data

    def _decrypt(self) -> None:
        """All that has come: OpenSSL says no goodbye with data unread."""
        try:
            while data := self.tls.read(RECORD):
                self._plain += data
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # our own is out already
            self.ended = True

    def say_goodbye(self) -> None:
        """Send close_notify, if there is room."""
        self._decrypt()
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # the server's has not come
        self.flush_nowait()

    async def aclose(self) -> None:
        await self.below.aclose()


async def secure(server: Running, context: ssl.SSLContext | None = None) -> SecureClient:
    """A new client of the server's first address, after the handshake."""
    client = await server.connect()
    tls = TlsClient(client.stream, context or client_context())
    with trio.fail_after(PATIENCE):
        await tls.handshake()
    return SecureClient(tls)


class SecureClient(Client):
    """One connection to a server, over TLS."""

    stream: TlsClient

    @property
    def socket(self) -> trio.socket.SocketType:
        return self.stream.below.socket

    def say_goodbye(self) -> None:
        """Send close_notify, and no FIN."""
        self.stream.say_goodbye()

    def reset(self) -> None:
        reset(self.socket)

    def close(self) -> None:
        self.socket.close()

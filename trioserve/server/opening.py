"""Opening: what comes between the accept of a connection and its first request, at an address that asks for it.

In this order: the header of the PROXY protocol, if a proxy has to say whom it speaks for; the TLS handshake. All of it
under one deadline, `Deadlines.handshake`, in one task, which ends with it. An address that asks for neither has no
opening, and its connections pay nothing for it.

A connection at its opening counts among the living. When the server drains it is one that is without its first request,
as all that were accepted just now; when the server stops it is closed at once. One that comes to nothing (garbage, a
client that leaves or is too slow) is closed and costs one line of the log at level DEBUG. It has no record, as there is
no exchange. A client that speaks plain HTTP where TLS is spoken is told so, in plain HTTP: people do that, and other
servers tell them too.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import NoReturn

import trio

from trioserve.connection.tls import HandshakeError, TlsTransport
from trioserve.connection.transport import HungUp, Transport
from trioserve.core.errors import ERROR_LOGGER
from trioserve.core.lifecycle import Cause
from trioserve.core.proxy_protocol import ProxyHeaderError, parse_proxy_header
from trioserve.core.records import ClientAddress, written
from trioserve.server.config import Address, TcpAddress

_log = logging.getLogger(ERROR_LOGGER)


class OpeningError(Exception):
    """The peer has said something wrong; the message says what."""


def needs_opening(address: Address) -> bool:
    """True if the connections of an address cannot be served right away."""
    return address.proxy_protocol or tls_of(address) is not None


def tls_of(address: Address) -> ssl.SSLContext | None:
    """The TLS of an address; None if it is in the clear."""
    return address.tls if isinstance(address, TcpAddress) else None


class Opening:
    """The opening of one connection.

    Args:
        transport: as it was accepted.
        address: where it was accepted.
        deadline: seconds, from now on.
        date: gives the Date field's value.
    """

    def __init__(self, transport: Transport, address: Address, deadline: float, date: Callable[[], bytes]) -> None:
        self._transport = transport
        self._address = address
        self._date = date
        self._began_at = trio.current_time()
        self._scope = trio.CancelScope(deadline=self._began_at + deadline)
        self._why_ended: str | None = None

    async def run(self) -> Transport | None:
        """The transport of the connection to be served; None if it came to nothing, and is closed."""
        try:
            with self._scope:
                await self._open()
        except OpeningError as error:
            why = str(error)
        except HungUp as error:
            why = f"the client left: {error.cause}"
        except BaseException:
            self._transport.close()
            raise
        else:
            if not self._scope.cancel_called:
                return self._transport
            why = self._why_ended or "the opening took too long"
        self._transport.close()
        _log.debug("closed a connection from %s at its opening: %s", written(self._transport.client), why)
        return None

    async def _open(self) -> None:
        """Leaves in `_transport` what is to be served, or to be closed.

        Raises:
            OpeningError, HungUp: it came to nothing.
        """
        if self._address.proxy_protocol:
            client = await read_proxy_header(self._transport)
            if client is not None:
                self._transport.client = client
        tls = tls_of(self._address)
        if tls is not None:
            await self._speak_tls(tls)

    async def _speak_tls(self, context: ssl.SSLContext) -> None:
        plain = self._transport
        first = await _next_bytes(plain)
        if not first:
            raise HungUp(Cause.FIN)
        if first[:1].isupper():
            await self._refuse_plain_http()
        plain.put_back(first)
        self._transport = transport = TlsTransport(plain, context)
        try:
            await transport.handshake()
        except HandshakeError as error:
            raise OpeningError(str(error)) from None

    async def _refuse_plain_http(self) -> NoReturn:
        """Say so, and read on until the client has taken it: if bytes lay unread, the close could destroy it."""
        self._transport.send_nowait(tls_is_spoken_here(self._date()))
        self._transport.send_eof()
        with contextlib.suppress(HungUp):
            while await _next_bytes(self._transport):
                pass
        raise OpeningError("it speaks plain HTTP to a port that speaks TLS")

    def drain(self) -> None:
        """Go on until `end_if_idle`: a request is to follow."""

    @property
    def idle_since(self) -> float | None:
        """When it began; None if it has ended."""
        return None if self._scope.cancel_called else self._began_at

    def end_if_idle(self) -> None:
        """End it: its place is needed, or the server stops."""
        self._end("its place is needed, or the server stops")

    def stop(self) -> None:
        """End it."""
        self._end("the server stops")

    def _end(self, why: str) -> None:
        self._why_ended = self._why_ended or why
        self._scope.cancel(reason=why)


def tls_is_spoken_here(date: bytes) -> bytes:
    """The answer, in the clear, to a client that begins with a capital letter, as all methods of HTTP do.

    No TLS record does: its first byte is its type, from 20 to 24 (RFC 8446 §5.1).
    """
    content = b"this port speaks TLS; use https\n"
    return (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"date: %b\r\n"
        b"content-type: text/plain; charset=utf-8\r\n"
        b"content-length: %d\r\n"
        b"connection: close\r\n\r\n%b"
    ) % (date, len(content), content)


async def _next_bytes(transport: Transport) -> bytes:
    """What comes next; b"" at the peer's FIN.

    Raises:
        HungUp: the peer is gone.
    """
    while (data := transport.receive_nowait()) is None:
        await transport.wait_readable()
    return data


async def read_proxy_header(transport: Transport) -> ClientAddress | None:
    """Read a PROXY protocol header, and not a byte more: what comes with it is put back.

    Returns:
        The client that the proxy speaks for; None if it speaks for itself.

    Raises:
        OpeningError: it is none.
        HungUp: the peer is gone.
    """
    received = b""
    while True:
        data = await _next_bytes(transport)
        if not data:
            raise OpeningError("the client left before its PROXY protocol header was whole")
        received += data
        try:
            header = parse_proxy_header(received)
        except ProxyHeaderError as error:
            raise OpeningError(str(error)) from None
        if header is not None:
            if rest := received[header.size :]:
                transport.put_back(rest)
            return header.client

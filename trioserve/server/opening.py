"""Opening: what comes between the accept of a connection and its first request, at an address that asks for it.

In this order: the header of the PROXY protocol, if a proxy has to say whom it speaks for; the TLS handshake. All of it
under one deadline, `Deadlines.handshake`, in one task, which ends with it. An address that asks for neither has no
opening, and its connections pay nothing for it.

A connection at its opening counts among the living. When the server drains it is one that is without its first request,
as all that were accepted just now; when the server stops it is closed at once. One that comes to nothing (garbage, a
client that leaves or is too slow) is closed and costs one line of the log at level DEBUG. It has no record, as there is
no exchange.
"""

from __future__ import annotations

import logging

import trio

from trioserve.connection.transport import HungUp, Transport
from trioserve.core.proxy_protocol import ProxyHeaderError, parse_proxy_header
from trioserve.core.records import ClientAddress
from trioserve.observe.reporter import ERROR_LOGGER
from trioserve.server.config import Address

_log = logging.getLogger(ERROR_LOGGER)


class OpeningError(Exception):
    """The peer has said something wrong; the message says what."""


def needs_opening(address: Address) -> bool:
    """True if the connections of an address cannot be served right away."""
    return address.proxy_protocol


class Opening:
    """The opening of one connection.

    Args:
        transport: as it was accepted.
        address: where it was accepted.
        deadline: seconds, from now on.
    """

    def __init__(self, transport: Transport, address: Address, deadline: float) -> None:
        self._transport = transport
        self._address = address
        self._scope = trio.CancelScope(deadline=trio.current_time() + deadline)
        self._stopped = False

    async def run(self) -> Transport | None:
        """The transport of the connection to be served; None if it came to nothing, and is closed."""
        why = "the opening took too long"
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
            if self._stopped:
                why = "the server stops"
        self._transport.close()
        _log.debug("closed a connection from %s at its opening: %s", self._transport.client or "a Unix socket", why)
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

    def drain(self) -> None:
        """Go on until `end_if_idle`: a request is to follow."""

    def end_if_idle(self) -> None:
        """End it."""
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._stopped = True
        self._scope.cancel(reason="the server stops")


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
        data = transport.receive_nowait()
        if data is None:
            await transport.wait_readable()
            continue
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

"""Admission: who is accepted, and what is done where there is no room for more.

Beyond `Limits.connections`, and when descriptors run short (descriptors.py), nobody is accepted until a connection has
ended: who comes meanwhile waits in the listener's backlog, which costs us nothing. So that this ends, the connection is
closed that has been idle for longest: it is the one that its client will miss least. One that was idle for less than a
second is spared, since its client may be about to send. One at its opening counts as idle since it was accepted, or
clients that never end their handshakes could hold all places. A request is never given up for room. So when a server
stops, those who wait are accepted beyond `Limits.connections` too, or the close of the listener would reset them.

Beyond `Limits.connections_per_client` a connection is reset at once: whoever takes more than its share shall not fill
the backlog for the others. It costs a line of the log once in a while. Nothing is said in HTTP, since for that we would
have to wait for a request.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections import Counter
from ipaddress import IPv6Address, IPv6Network

import trio

from trioserve.core.addresses import IpAddress, parse_ip
from trioserve.core.errors import ERROR_LOGGER
from trioserve.core.records import ClientAddress

_log = logging.getLogger(ERROR_LOGGER)

LOOK_AGAIN = 0.1
"""Seconds after which it is looked again whether there is room: some may have come in other ways than by the end of a
connection, and others may have become idle."""

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class NoRoom(Exception):
    """Nobody can be accepted now. The message says why."""


def accept(listener: socket.socket) -> tuple[socket.socket, object] | None:
    """The next connection from the backlog and its peer's address; None if there is none.

    Raises:
        NoRoom: the system is out of descriptors or memory. The connection stays in the backlog.
    """
    try:
        return listener.accept()
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise NoRoom(error.strerror) from None
        return None  # nobody waits; or it is the misfortune of one client (ECONNABORTED, say)


Group = IpAddress | IPv6Network
"""Clients who count as one."""


def group_of(client: ClientAddress | None) -> Group | None:
    """Who a client is when connections are counted: its IPv4 address, or the /64 network of its IPv6 address, since
    one customer of a provider has that at least. None for a client without an address.
    """
    if client is None:
        return None
    try:
        address = parse_ip(client[0].partition("%")[0])
    except ValueError:
        return None  # what a proxy has said, and is no address
    return IPv6Network((address, 64), strict=False) if isinstance(address, IPv6Address) else address


class Crowd:
    """How many living connections each client has.

    Args:
        limit: how many it may have; math.inf, and nothing is counted.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._counts: Counter[Group] = Counter()

    def has_room_for(self, client: ClientAddress | None) -> bool:
        if self._limit == math.inf:
            return True
        group = group_of(client)
        return group is None or self._counts[group] < self._limit

    def came(self, client: ClientAddress | None) -> Group | None:
        """Count a connection; returns what `left` must be told at its end."""
        if self._limit == math.inf:
            return None
        group = group_of(client)
        if group is not None:
            self._counts[group] += 1
        return group

    def left(self, group: Group | None) -> None:
        if group is None:
            return
        self._counts[group] -= 1
        if not self._counts[group]:
            del self._counts[group]


SAID_EVERY = 60.0
"""Seconds between two lines of the log about the same."""


class Seldom:
    """A warning for which there may be cause with every connection. Said at once, then once in SAID_EVERY seconds."""

    def __init__(self) -> None:
        self._unsaid = 0
        self._said_at = -math.inf

    def warn(self, message: str, *arguments: object) -> None:
        now = trio.current_time()
        if now < self._said_at + SAID_EVERY:
            self._unsaid += 1
            return
        if self._unsaid:
            message, arguments = message + " (and %d times since that was said)", (*arguments, self._unsaid)
        _log.warning(message, *arguments)
        self._said_at, self._unsaid = now, 0

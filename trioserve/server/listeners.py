"""Listening sockets: opened before anything is served, so that a port in use is an error at the start."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from trioserve.core.errors import ConfigError
from trioserve.core.limits import Deadlines, Limits
from trioserve.server.config import Address, OpenSocket, TcpAddress, UnixAddress

Option = tuple[int, int, int]
"""Of a socket: its level, its name, its value."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening, non-blocking socket, and the address that it is bound to, with the port that the system chose.

    `options` are to be set on each socket that is accepted, as it does not have them from its listener.
    """

    socket: socket.socket
    address: Address
    options: tuple[Option, ...]


def backlog_of(limits: Limits) -> int:
    """`Limits.backlog` as the system takes it, which has no infinity; it cuts it further to a bound of its own."""
    return int(min(limits.backlog, 65_535))


async def open_listeners(addresses: Sequence[Address], backlog: int, deadlines: Deadlines) -> list[Listener]:
    """Listeners for all addresses; a host name with several addresses gives several.

    Raises:
        ConfigError: an address cannot be listened on. None of the sockets is left open then.
    """
    options = tcp_options(deadlines)
    with contextlib.ExitStack() as undo:
        listeners = []
        for address in addresses:
            for sock in await _open(address, backlog, options):
                listener = Listener(sock, bound(address, sock), _not_inherited(sock, options))
                undo.callback(close_listener, listener)
                listeners.append(listener)
        undo.pop_all()
        return listeners


async def _open(address: Address, backlog: int, options: Sequence[Option]) -> list[socket.socket]:
    try:
        match address:
            case TcpAddress():
                return await _open_tcp(address.host, address.port, backlog, options)
            case UnixAddress():
                return [_open_unix(address.path, backlog)]
            case OpenSocket():
                return [_take_over(address)]
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that the DNS cannot have
        raise ConfigError(f"cannot listen on {address}: {_why(error)}") from error


async def _open_tcp(host: str, port: int, backlog: int, options: Sequence[Option]) -> list[socket.socket]:
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, sockaddr in dict.fromkeys(found):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Each address for itself: "::" does not take the port of "0.0.0.0" as well.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if OPTIONS_ARE_INHERITED:
                set_options(listener, options)
            listener.bind(sockaddr)
            _listen(listener, backlog)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


class _UnixListener(socket.socket):
    """Knows which file it has made, so that it does not remove one that another server has put in its place."""

    made: os.stat_result

    def remove_file(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), self.made):
                path.unlink()


def _open_unix(path: str, backlog: int) -> _UnixListener:
    _remove_stale(path)
    listener = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.made = Path(path).stat()
        _listen(listener, backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _take_over(address: OpenSocket) -> socket.socket:
    listener = socket.socket(fileno=address.descriptor)
    if not _listens(listener):
        listener.detach()  # it is not ours
        raise OSError(errno.EINVAL, "this is no stream socket of the internet or Unix that listens")
    listener.set_inheritable(False)
    listener.settimeout(0)
    return listener


def _listens(sock: socket.socket) -> bool:
    family = sock.family in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
    return family and sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _listen(listener: socket.socket, backlog: int) -> None:
    listener.listen(backlog)
    listener.settimeout(0)


def _remove_stale(path: str) -> None:
    """Remove a socket that a server which was killed has left behind; a living server's socket is left alone.

    Raises:
        OSError: the path is something else, or somebody listens on it.
    """
    if not Path(path).exists():
        return
    if not Path(path).is_socket():
        raise FileExistsError(errno.EEXIST, "there is a file of this name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Not blocking: a server that accepts nobody would keep us waiting, and is as alive as one that does.
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass
        raise FileExistsError(errno.EEXIST, "another process listens on it; stop it or choose another path")


def close_listener(listener: Listener) -> None:
    """Stop listening; a Unix socket's path is removed. Idempotent."""
    if listener.socket.fileno() != -1:
        leave_listener(listener)
        remove_file(listener)


def leave_listener(listener: Listener) -> None:
    """Close the socket in this process; others that have it still listen. Idempotent."""
    if listener.socket.fileno() != -1:
        trio.lowlevel.notify_closing(listener.socket)
        listener.socket.close()


def remove_file(listener: Listener) -> None:
    """Remove the path of a Unix socket that we have made. Only once: another server may make a file there."""
    sock, address = listener.socket, listener.address
    if isinstance(sock, _UnixListener) and isinstance(address, UnixAddress):
        sock.remove_file(Path(address.path))


def bound(address: Address, sock: socket.socket) -> Address:
    """The address as its socket is bound: a name is a number then, and port 0 the port that the system chose."""
    match address:
        case UnixAddress():
            return address
        case TcpAddress():
            host, port, *_ = sock.getsockname()
            return dataclasses.replace(address, host=host, port=port)
        case OpenSocket() if sock.family == socket.AF_UNIX:
            # Without TLS, as every Unix socket: whoever is at its other end is on this machine.
            return UnixAddress(_path(sock), proxy_protocol=address.proxy_protocol)
        case OpenSocket():
            host, port, *_ = sock.getsockname()
            return TcpAddress(host, port, tls=address.tls, proxy_protocol=address.proxy_protocol)


def _path(sock: socket.socket) -> str:
    """Where a Unix socket is; of an abstract one, its name as it is usually written, with @ for the NUL."""
    name = sock.getsockname()
    return "@" + name[1:].decode(errors="replace") if isinstance(name, bytes) else name or "(unnamed)"


OPTIONS_ARE_INHERITED: bool = sys.platform == "linux"
"""True where a socket has the options that its listener had when the client's handshake was complete, which is before
it is accepted. So they are set on a listener before it listens, and never later: whoever waits in its backlog by then
would have none. At each accept they would be six calls of the system, which make it dearer by a tenth."""


def _not_inherited(listener: socket.socket, options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Those that must be set on each socket that is accepted: all, where somebody else has made the listener listen, as
    with systemd.

    A worker's listeners have them from its supervisor, who opened them. That is seen by their values, since nobody else
    would set them all, and to these.
    """
    if listener.family == socket.AF_UNIX:
        return ()
    if OPTIONS_ARE_INHERITED and all(listener.getsockopt(level, name) == value for level, name, value in options):
        return ()
    return options


def set_options(sock: socket.socket, options: Iterable[Option]) -> None:
    """Set them, on an accepted socket or on one that is going to listen."""
    for option in options:
        sock.setsockopt(*option)


def tcp_options(deadlines: Deadlines) -> tuple[Option, ...]:
    """Those of an accepted TCP socket: no delay for small writes, little in the system for a client that does not read,
    and silence noticed within `Deadlines.vanish`.

    Keepalive finds a silent peer only while nothing is unacknowledged, TCP_USER_TIMEOUT only while something is, or
    once keepalive has sent a probe. Together they end a connection within the time: the first probe goes out after
    half of it, further ones each sixth, and after five sixths without a sign of life the kernel gives up. It looks at
    that only when it sends a probe, and counts those in whole seconds; so the last look must come before the end.
    """
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if sys.platform == "linux":
        options.append((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT))
    if deadlines.vanish == math.inf:
        return tuple(options)
    options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    if sys.platform == "linux":
        vanish = deadlines.vanish
        interval = max(1, int(vanish / 6))
        patience = min(vanish * 5 / 6, vanish - interval - 0.2)
        options += [
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(int(vanish / 2), _LONGEST_KEEPALIVE)),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(interval, _LONGEST_KEEPALIVE)),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(patience * 1000), 2**31 - 1)),
        ]
    return tuple(options)


MOST_UNSENT = 262_144
"""Bytes that the system takes from us beyond what it has sent, a part more or less. Without it, it takes as much as its
buffers may ever grow to, 4 MiB, also for a client that reads nothing: with a thousand of them the memory of all TCP is
used up. What is on its way to the client is not bounded by this, so that long lines are filled. As much as one send of
a file hands over; with half of it, a fast client of a megabyte costs a sixth more, in waits for room."""

_LONGEST_KEEPALIVE = 32_767
"""Seconds, the kernel's own limit (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL); beyond it the option is refused."""


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; stop whoever uses it or choose another (port 0 takes any that is free)"
    return error.strerror or str(error)

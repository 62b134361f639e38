"""Transport: bytes in and out of one peer, and the news that the peer hung up.

`Transport` is the interface; `SocketTransport` carries it on a raw non-blocking socket, `ReadAhead` (readahead.py)
gives hangup news to a transport that has none of its own, and trioserve.testing has one in memory.

Rules:

* One task reads and one task sends, at most, at any time; trio itself enforces it (`BusyResourceError`).
* Nothing here waits but the two `wait_` methods, and neither has a deadline of its own: the reader and the sender
  have timers, and `interrupt` ends both waits, even inside a user's shield.
* Foreign errors are translated here and nowhere else: whatever the system says about a peer that is gone becomes
  `HungUp(cause)`.
* `absorb` takes in bytes that nobody has asked for, so that a FIN behind them can arrive. Who may do that, and when,
  is the connection's business; `Spool` holds the bytes, in order, until they are received.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

import trio

from trioserve.connection.hangup import HangupWatch
from trioserve.connection.spool import RECEIVE_SIZE, Budget, Spool
from trioserve.core.errors import ResponseError
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import FileSlice
from trioserve.core.records import ClientAddress
from trioserve.core.target import Scheme


class HungUp(Exception):
    """The transport is dead; `cause` says how."""

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        super().__init__(cause)


class Interrupted(Exception):
    """`Transport.interrupt` was called while a task waited."""


def end_as_received(end: Cause | None) -> bytes | None:
    """What `receive_nowait` says of a stream that has ended so, when no bytes are left; None: it has not ended.

    Raises:
        HungUp: it was no regular end.
    """
    if end is None:
        return None
    if end is Cause.FIN:
        return b""
    raise HungUp(end)


OnHangup = Callable[[Cause], None]
OnBytes = Callable[[], None]
Run = bytes | memoryview | FileSlice
"""Bytes to be sent."""

_R = TypeVar("_R", Run, bytes | memoryview)


def take_off(runs: list[_R], taken: int) -> bool:
    """Take off `runs` the bytes that `send_nowait` has taken, without a copy of what is left; says whether it may take
    more at once: it has stopped between two runs.
    """
    runs_before = len(runs)
    while runs and taken >= len(runs[0]):
        taken -= len(runs.pop(0))
    if taken:
        runs[0] = memoryview(runs[0])[taken:] if isinstance(runs[0], bytes) else runs[0][taken:]
    return not taken and len(runs) < runs_before


class Transport(Protocol):
    """Bytes in and out of one peer, and the news that the peer hung up."""

    client: ClientAddress | None
    """Who the peer is; None on a Unix socket. A proxy's word may take its place before the transport is served."""

    @property
    def scheme(self) -> Scheme:
        """The scheme of what is asked for over this transport: "https" if it is encrypted."""
        ...

    def receive_nowait(self) -> bytes | None:
        """Bytes that have arrived; b"" at the peer's FIN; None if there is nothing yet.

        Raises:
            HungUp: the peer is gone.
        """
        ...

    def put_back(self, data: bytes) -> None:
        """What was just received comes again at the next `receive_nowait`. Only before `watch`."""
        ...

    def has_bytes(self) -> bool:
        """True if `receive_nowait` would give bytes. False at the peer's FIN, and if it is gone."""
        ...

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` has something to say. Always a checkpoint.

        Raises:
            Interrupted: `interrupt` was called.
        """
        ...

    def send_nowait(self, data: Run, *behind: Run) -> int:
        """Hand over as much of `data` as there is room for; returns how many bytes (0: no room). Of a file (not empty)
        it may be less.

        `behind` is what is sent next: if all of `data` was taken, as much of that as there is room for may have been
        taken with it, and counts too.

        Raises:
            HungUp: the peer is gone.
            ResponseError: the file cannot be read, or ends before the slice does.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until `send_nowait` has room. Always a checkpoint.

        Raises:
            Interrupted: `interrupt` was called.
        """
        ...

    def watch(self, on_hangup: OnHangup) -> None:
        """From now on call `on_hangup` when the peer hangs up: for its FIN, and again for a reset after it.

        The callback comes from another task, between two steps of the scheduler, or from `look`.
        """
        ...

    def look(self) -> None:
        """Hear at once what the watch has to say already."""
        ...

    def watch_unread(self, on_bytes: OnBytes) -> None:
        """Call `on_bytes` now if bytes lie unread, and again whenever more arrive; until `unwatch_unread`."""
        ...

    def unwatch_unread(self) -> None:
        """Stop calling `on_bytes`."""
        ...

    def absorb(self) -> None:
        """Take in what lies unread, as far as the budget allows, and keep it for `receive_nowait`.

        Raises:
            HungUp: the peer is gone.
        """
        ...

    def unacked_bytes(self) -> int | None:
        """Bytes sent that the peer's system has not acknowledged; None where that cannot be known."""
        ...

    def taken_bytes(self) -> int:
        """How many of the bytes ever sent the peer's system has acknowledged; where that cannot be known, how many were
        sent. Over TLS, of the encrypted ones.
        """
        ...

    def interrupt(self) -> None:
        """End every wait on this transport with `Interrupted`. Also after `close`, when there are none."""
        ...

    def send_eof(self) -> None:
        """Send our FIN after what was sent; receiving goes on."""
        ...

    def close(self) -> None:
        """Close. What was sent is still delivered, if the peer wants it. Idempotent."""
        ...

    def reset(self) -> None:
        """Close so that the peer sees the connection broken (RST), never a regular end. Idempotent."""
        ...


RAISED_RECEIVE_BUFFER = 4_194_304
"""SO_RCVBUF for a connection whose client pushes while nobody reads: a client's whole send buffer fits (Linux's
default maximum is 4 MiB), so its FIN arrives without our reading on."""

_BYTES_A_ROUND = 16 * RECEIVE_SIZE
"""How much one `absorb` reads at the most, so that one client's flood does not hold up the others."""


class SocketTransport:
    """`Transport` on a raw non-blocking stream socket, watched by the kernel through a `HangupWatch`.

    Without a watch (`watch=None`) it works the same, but says nothing about a hangup by itself.
    """

    scheme: Literal["http"] = "http"

    __slots__ = (
        "_on_bytes",
        "_on_hangup",
        "_receive_buffer_claim",
        "_receive_buffers",
        "_sent_bytes",
        "_sock",
        "_spool",
        "_waits",
        "_watch",
        "client",
    )

    def __init__(
        self,
        sock: socket.socket,
        client: ClientAddress | None,
        *,
        watch: HangupWatch | None,
        spool: Spool,
        receive_buffers: Budget,
    ) -> None:
        sock.settimeout(0)
        self._sock = sock
        self.client = client
        self._watch = watch
        self._spool = spool
        self._receive_buffers = receive_buffers
        self._on_hangup: OnHangup | None = None
        self._on_bytes: OnBytes | None = None
        # What `absorb` has claimed of the budget for a raised receive buffer; 0 while it is the system's default.
        self._receive_buffer_claim = 0
        # All bytes ever handed over.
        self._sent_bytes = 0
        # How many tasks wait on the socket: trio is told of its end for them alone, which costs as much as a send.
        self._waits = 0

    def receive_nowait(self) -> bytes | None:
        if self._spool.size:
            return self._spool.take()
        return self._receive_from_system()

    def _receive_from_system(self) -> bytes | None:
        try:
            return self._sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise HungUp(cause_of(error.errno)) from None

    def put_back(self, data: bytes) -> None:
        self._spool.put_back(data)

    def has_bytes(self) -> bool:
        if self._spool.size:
            return True
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def wait_readable(self) -> None:
        if self._spool.size:
            await trio.lowlevel.checkpoint()
            return
        self._waits += 1
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            raise Interrupted from None
        finally:
            self._waits -= 1

    def send_nowait(self, data: Run, *behind: Run) -> int:
        if isinstance(data, FileSlice):
            return self._send_file(data)
        try:
            if not behind:
                sent = self._sock.send(data)
            elif isinstance(behind[0], FileSlice):
                sent = self._sock.send(data, _MORE_FOLLOWS)
            else:
                sent = self._sock.sendmsg((data, *behind))  # type: ignore[arg-type]  # a file is followed by framing only
        except BlockingIOError:
            return 0
        except OSError as error:
            raise HungUp(cause_of(error.errno)) from None
        self._sent_bytes += sent
        return sent

    def _send_file(self, part: FileSlice) -> int:
        descriptor, offset = descriptor_of(part), part.offset
        try:
            sent = _sendfile(self._sock.fileno(), descriptor, offset, min(len(part), _FILE_A_ROUND))
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _PEER_GONE:
                raise HungUp(cause_of(error.errno)) from None
            # The system has no sendfile, or not for this file system; or the file is broken, which reading will tell.
            return self.send_nowait(read_slice(part, RECEIVE_SIZE))
        if not sent:
            raise _ended_early(part)
        self._sent_bytes += sent
        return sent

    async def wait_writable(self) -> None:
        self._waits += 1
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except trio.ClosedResourceError:
            raise Interrupted from None
        finally:
            self._waits -= 1

    def watch(self, on_hangup: OnHangup) -> None:
        if self._watch is not None:
            self._watch.add(self._sock.fileno(), self)
        self._on_hangup = on_hangup

    def look(self) -> None:
        if self._watch is not None:
            self._watch.look()

    def hung_up(self) -> None:
        """The watch says so. The socket tells how, once: asking takes the pending error off it."""
        if self._on_hangup is None:
            return
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._on_hangup(cause_of(error) if error else Cause.FIN)
        if self._sock.family == socket.AF_UNIX:
            self._tell_full_close()

    def _tell_full_close(self) -> None:
        """On a Unix socket a close can be told from a half-close: nothing can be sent, not even no bytes at all."""
        try:
            self.send_nowait(b"")
        except HungUp as error:
            if self._on_hangup is not None:
                self._on_hangup(error.cause)

    def bytes_arrived(self) -> None:
        """The watch says so."""
        if self._on_bytes is not None:
            self._on_bytes()

    def watch_unread(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        if self._watch is not None:
            self._watch.hear_bytes(self._sock.fileno())

    def unwatch_unread(self) -> None:
        if self._on_bytes is not None:
            self._on_bytes = None
            if self._watch is not None:
                self._watch.hear_hangups_only(self._sock.fileno())

    def absorb(self) -> None:
        # First a larger receive buffer, and one read to reopen the window: for most clients that is enough, and
        # their bytes stay in the kernel. Only when that fills up too do we read on.
        if not self._receive_buffer_claim and self._receive_buffers.take(RAISED_RECEIVE_BUFFER):
            self._receive_buffer_claim = RAISED_RECEIVE_BUFFER
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RAISED_RECEIVE_BUFFER)
            self._absorb_once()
            return
        taken = 0
        while taken < _BYTES_A_ROUND and self._window_is_closing():
            size = self._absorb_once()
            if not size:
                break
            taken += size

    def _absorb_once(self) -> int:
        if not self._spool.has_room():
            return 0
        data = self._receive_from_system()
        if not data:
            # Nothing, or the FIN itself: it stays in the socket and will be met again.
            return 0
        self._spool.put(data)
        return len(data)

    def _window_is_closing(self) -> bool:
        """True if the unread bytes fill so much of the receive buffer that the peer may be unable to send its FIN."""
        buffer = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return self.unread_bytes() * 8 >= buffer

    def unread_bytes(self) -> int:
        """Bytes that lie in the receive buffer."""
        return _ioctl_int(self._sock, _FIONREAD) or 0

    def unacked_bytes(self) -> int | None:
        return _ioctl_int(self._sock, _SIOCOUTQ)

    def taken_bytes(self) -> int:
        return self._sent_bytes - (self.unacked_bytes() or 0)

    def interrupt(self) -> None:
        if self._waits and self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)

    def send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone already: there is nobody to tell

    def close(self) -> None:
        if self._sock.fileno() == -1:
            return
        self.interrupt()
        if self._watch is not None and self._on_hangup is not None:
            self._watch.remove(self._sock.fileno())
        self._on_hangup = self._on_bytes = None
        self._spool.clear()
        self._receive_buffers.give_back(self._receive_buffer_claim)
        self._receive_buffer_claim = 0
        self._sock.close()

    def reset(self) -> None:
        if self._sock.fileno() == -1:
            return
        if self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.close()


_FILE_A_ROUND = 262_144
"""How much of a file one send hands over at the most. The system may have to read it from the disk, and all other
connections wait for that; between two sends they have their turn."""


def descriptor_of(part: FileSlice) -> int:
    """The descriptor of a slice's file.

    Raises:
        ResponseError: the file was closed.
    """
    try:
        return part.file.fileno()
    except ValueError:
        raise ResponseError("the file was closed before all of it was sent; keep it open until then") from None


def read_slice(part: FileSlice, limit: int) -> bytes:
    """Up to `limit` bytes from the beginning of a slice, for a transport that cannot have the system send them.

    Raises:
        ResponseError: the file was closed, cannot be read, or ends before the slice does.
    """
    descriptor = descriptor_of(part)
    try:
        data = os.pread(descriptor, min(len(part), limit), part.offset)
    except OSError as error:
        raise ResponseError(f"the file cannot be read at byte {part.offset}: {error.strerror}") from error
    if not data:
        raise _ended_early(part)
    return data


def _ended_early(part: FileSlice) -> ResponseError:
    return ResponseError(
        f"the file has become shorter while it was sent: it ends before byte {part.offset}, and {len(part)} more were "
        "announced; replace a file by renaming a new one over it"
    )


def _no_sendfile(_out: int, _in: int, _offset: int, _count: int) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


_sendfile = getattr(os, "sendfile", _no_sendfile)

_MORE_FOLLOWS = getattr(socket, "MSG_MORE", 0)
"""Have the system fill its segment with what is sent next, the beginning of a file, if that comes at once."""

_SILENCE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
_PEER_GONE = _SILENCE | {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN}
"""What sendfile says of the peer; all else may be the file's fault."""
_LINGER_ZERO = struct.pack("ii", 1, 0)


def cause_of(error: int | None) -> Cause:
    """What a socket error number says about the peer."""
    return Cause.VANISHED if error in _SILENCE else Cause.RESET


if sys.platform == "linux":
    import fcntl
    import termios

    # The socket ioctls SIOCINQ and SIOCOUTQ (tcp(7)) have the numbers of these terminal ones.
    _FIONREAD, _SIOCOUTQ = termios.FIONREAD, termios.TIOCOUTQ

    def _ioctl_int(sock: socket.socket, request: int) -> int | None:
        return int.from_bytes(fcntl.ioctl(sock, request, b"\0" * 4), sys.byteorder)

else:
    _FIONREAD, _SIOCOUTQ = 0, 0

    def _ioctl_int(_sock: socket.socket, _request: int) -> int | None:
        return None

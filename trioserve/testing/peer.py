"""The scripted peer: a client on raw bytes, which sends, stalls, reads and leaves as it is told to.

It speaks over a connection in memory (`MemoryServer.connect`) or over a real socket (`trio.SocketStream`), so that the
same script can be played on both. What it is not: it knows nothing of HTTP, and is not told what a request is.

Leaving is synchronous: it happens in this very moment, between two steps of the scheduler or in the midst of one, and
whoever is inside `send` or `read` at that time is woken.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import trio

from trioserve.core.records import ClientAddress
from trioserve.testing.leaving import Way
from trioserve.testing.transport import MemoryPeer

STEPS_OF_NEWS = 3
"""Steps of the scheduler after which the news of a departure has been heard in memory: the watch hears it between two
steps; the read-ahead task is woken then, and reads in the next."""


class Left(NamedTuple):
    """How and when a client left: the way, and seconds of the trio clock."""

    way: Way
    at: float


class Peer:
    """A client on raw bytes. In memory: `Peer(server.connect())`; on a socket: `Peer(await trio.open_tcp_stream(...))`.

    A client can leave more than once: half-close, and reset later. After FIN, RESET and VANISH it does nothing more:
    it is too late to read what had arrived.
    """

    def __init__(self, stream: MemoryPeer | trio.SocketStream) -> None:
        self._stream = stream
        # The address that the server sees.
        self.client: ClientAddress = _address(stream)
        # The id that the server's records give its connection. In memory, without TLS or the PROXY protocol; else None.
        self.connection_id = stream.connection_id if isinstance(stream, MemoryPeer) else None
        # All that was ever received.
        self.received = bytearray()
        # How many bytes were handed to the connection.
        self.sent = 0
        # How `leave` was called last; None if it was not.
        self.left: Left | None = None
        # How the server has ended the connection, FIN or RESET; None until that was received.
        self.ended: Way | None = None
        # What the server had written when it had heard of the departure; None before.
        self._written_when_heard: int | None = None

    async def send(self, data: bytes | bytearray | memoryview, *, pieces: Sequence[int] = ()) -> None:
        """Send all of `data`; blocks while the server takes nothing.

        Args:
            data: raw bytes.
            pieces: sizes in bytes of the pieces in which it is sent, over and over: `pieces=[1]` sends it byte by byte.
                The server sees each by itself: in memory for certain, on a socket if it reads at once.

        Raises:
            trio.BrokenResourceError: the server reset the connection.
            trio.ClosedResourceError: this client has left.
            ValueError: a piece of no bytes.

        When it is cancelled, `sent` says how far it came.
        """
        for piece in _cut(data, pieces):
            await self._send_piece(piece)
            if pieces:
                if isinstance(self._stream, MemoryPeer):
                    self._stream.end_segment()
                # In the first step the server is woken, in the second it has read.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()

    async def _send_piece(self, piece: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        while piece:
            piece = piece[self.send_nowait(piece) :]
            if piece:
                await self._stream.wait_send_all_might_not_block()

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send what there is room for, in this very moment; returns how many bytes.

        Raises:
            trio.BrokenResourceError: the server reset the connection.
            trio.ClosedResourceError: this client has left.
        """
        if isinstance(self._stream, MemoryPeer):
            taken = self._stream.send_nowait(memoryview(data))
        else:
            taken = _send(_raw(self._stream), data)
        self.sent += taken
        return taken

    async def receive(self, most: int = 65_536) -> bytes:
        """Some bytes; b"" at the server's FIN.

        Raises:
            trio.BrokenResourceError: the server reset the connection.
            trio.ClosedResourceError: this client has left.
        """
        try:
            data = bytes(await self._stream.receive_some(most))
        except trio.BrokenResourceError:
            self.ended = Way.RESET
            raise
        if not data:
            self.ended = Way.FIN
        self.received += data
        return data

    async def read(self, count: int) -> bytes:
        """Exactly so many bytes; fewer only if the connection ends before, by whomever: see `ended` and `left`."""
        begin = len(self.received)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while (missing := begin + count - len(self.received)) > 0 and await self.receive(missing):
                pass
        return bytes(self.received[begin:])

    async def read_to_end(self) -> bytes:
        """All that comes until the connection ends, by whomever: see `ended` and `left`."""
        begin = len(self.received)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self.receive():
                pass
        return bytes(self.received[begin:])

    # Leaving

    def leave(self, way: Way) -> None:
        """Leave, in this very moment. From anywhere: a task, a callback, an instrument.

        Raises:
            ValueError: no way is called so; or it is VANISH on a socket: see `vanish`.
        """
        way = Way(way)
        match way:
            case Way.FIN:
                self.close()
            case Way.RESET:
                self.reset()
            case Way.VANISH:
                self.vanish()
            case Way.HALF_CLOSE:
                self.half_close()
        self.left = Left(way, trio.current_time())
        if isinstance(self._stream, MemoryPeer):
            self._hear(self._stream, STEPS_OF_NEWS)

    def _hear(self, stream: MemoryPeer, steps: int) -> None:
        """Note what was written, so many steps of the scheduler later; in each the server, asked first, is first."""
        self._written_when_heard = stream.written
        if steps:
            trio.lowlevel.current_trio_token().run_sync_soon(self._hear, stream, steps - 1, idempotent=True)

    @property
    def written_after_departure(self) -> int:
        """How many bytes the server has written after it could have heard that this client has left; in memory.

        0 as long as it has not left. A half-closed client may well be written to, and one that has vanished too, until
        the system gives it up. Of a FIN behind bytes that the server has no room for it cannot have heard.

        Raises:
            ValueError: on a socket, where bytes are under way.
        """
        stream = self._in_memory("knowing what the server has written")
        return 0 if self._written_when_heard is None else stream.written - self._written_when_heard

    @property
    def is_readable(self) -> bool:
        """True if something has come that was not received: bytes, or the connection's end. In memory.

        Raises:
            ValueError: on a socket.
        """
        return self._in_memory("knowing what has come").is_readable

    async def until_server_closed(self) -> None:
        """Wait until the server has closed its end. Of an exchange that ends with that, the observers know then. In
        memory.

        Raises:
            ValueError: on a socket.
        """
        await self._in_memory("knowing when the server has closed").until_server_closed()

    def _in_memory(self, what: str) -> MemoryPeer:
        if isinstance(self._stream, MemoryPeer):
            return self._stream
        raise ValueError(f"{what} is possible in memory only, with Peer(server.connect()), and not on a socket")

    def close(self) -> None:
        """Close the connection: a FIN, or a RST if received bytes lie unread. Not counted as leaving."""
        if isinstance(self._stream, MemoryPeer):
            self._stream.close()
        else:
            self._stream.socket.close()

    def reset(self) -> None:
        """Close the connection with a RST. Not counted as leaving."""
        if isinstance(self._stream, MemoryPeer):
            self._stream.reset()
        elif self._stream.socket.fileno() != -1:
            _raw(self._stream).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.socket.close()

    def vanish(self) -> None:
        """Be silent from now on. Not counted as leaving.

        Raises:
            ValueError: on a socket, whose system answers as long as it lives.
        """
        self._in_memory("vanishing").vanish()

    def half_close(self) -> None:
        """Send a FIN and go on receiving. Not counted as leaving."""
        if isinstance(self._stream, MemoryPeer):
            self._stream.send_eof_nowait()
        else:
            with contextlib.suppress(OSError):  # it is closed, or the server has reset it
                _raw(self._stream).shutdown(socket.SHUT_WR)


def _address(stream: MemoryPeer | trio.SocketStream) -> ClientAddress:
    if isinstance(stream, MemoryPeer):
        return stream.client
    host, port, *_ = stream.socket.getsockname()
    return host, port


def _cut(data: bytes | bytearray | memoryview, pieces: Sequence[int]) -> Iterator[memoryview]:
    if any(size < 1 for size in pieces):
        raise ValueError(f"pieces={list(pieces)}: a piece is of one byte at least")
    rest = memoryview(data)
    sizes = itertools.cycle(pieces or [max(len(rest), 1)])
    while rest:
        size = next(sizes)
        yield rest[:size]
        rest = rest[size:]


def _raw(stream: trio.SocketStream) -> socket.socket:
    """The system's socket below trio's, whose methods are no checkpoints."""
    raw: socket.socket = stream.socket._sock  # type: ignore[attr-defined]  # noqa: SLF001
    return raw


def _send(sock: socket.socket, data: bytes | bytearray | memoryview) -> int:
    if sock.fileno() == -1:
        raise trio.ClosedResourceError("this client has left")
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise trio.BrokenResourceError(f"the connection is broken: {error.strerror}") from error

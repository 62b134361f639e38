"""TlsTransport: TLS around another transport.

OpenSSL does the work, on bytes in memory: what arrives below is decrypted into what is received here, and what is sent
here is encrypted into what is sent below.

Rules:

* Bytes are decrypted as soon as they are received from below, all of them, so that nothing is left in OpenSSL but the
  beginning of a record. They go in and come out a record's length at a time, because OpenSSL's buffers grow as needed
  and never shrink: an idle connection keeps two, each as large as the longest record that it saw.
* What is encrypted must go out before anything else does. So records that find no room below are kept here, a few at
  the most, and count together as one byte sent: the sender offers the others again, until their records are out and
  they count too. Thus a response has been handed over when the last of it has, and has begun when there is no way back.
* The client's `close_notify` is its FIN, with or without TCP's. A FIN without a `close_notify` is a FIN too: HTTP's
  messages say where they end, so one that is cut is known to be (RFC 9112 §9.8). A record that is broken, or a fatal
  alert, is a TLS_ERROR.
* Our own `close_notify` goes before our FIN (RFC 8446 §6.1), but nothing is written to a client that has hung up.

The kernel's watch hears FIN and RST as on any socket, but a `close_notify` can only be read: so what is served over TLS
is read ahead while nobody waits for it. See `WatchedReadAhead`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from typing import Literal

import trio

from trioserve.connection.spool import RECEIVE_SIZE
from trioserve.connection.transport import (
    HungUp,
    OnBytes,
    OnHangup,
    Run,
    Transport,
    end_as_received,
    read_slice,
    take_off,
)
from trioserve.core.errors import ERROR_LOGGER, ResponseError
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import FileSlice
from trioserve.core.records import ClientAddress, written

_log = logging.getLogger(ERROR_LOGGER)

RECORD = 16_384
"""Bytes of plaintext that a record holds at the most (RFC 8446 §5.1)."""

_RECORDS_A_ROUND = 16
"""How many records one send makes at the most, so that one client's download does not hold up the others: as many bytes
as of a file in the clear."""

_RECORDS_AT_ONCE = 4
"""How many records are made before they are handed over together, in one system call; so many wait for room at most."""

_MOST_CONTROL = 65_536
"""Bytes that we keep of answers to a client's own records, beyond which it is not served."""


class HandshakeError(Exception):
    """The TLS handshake has failed; the message says why."""


class TlsTransport:
    """`Transport` around another one. `handshake` comes before all else.

    Args:
        transport: what carries it; from now on nobody else uses it.
        context: for a server, with a certificate.
    """

    scheme: Literal["https"] = "https"

    def __init__(self, transport: Transport, context: ssl.SSLContext) -> None:
        self._transport = transport
        self.client: ClientAddress | None = transport.client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # Decrypted and not received yet; and how the stream ended behind that, if it has.
        self._plain = b""
        self._end: Cause | None = None
        # The records that are not handed over yet, and how many bytes of content each has; and how many of the bytes
        # that are offered next have been in a record, and have not been counted as sent.
        self._sealed: list[bytes | memoryview] = []
        self._contents: list[int] = []
        self._uncounted = 0
        # The client has hung up, and nothing was sent since, as it is to one that waits for its answer.
        self._client_gone = False
        # Our close_notify was given.
        self._said_goodbye = False
        self._on_hangup: OnHangup | None = None

    async def handshake(self) -> None:
        """Shake hands, without a deadline. At its end session tickets are sent, if the context has any.

        Cancelled, it leaves a transport that can only be closed.

        Raises:
            HandshakeError: it failed. The client was told, if there is anything to tell.
            HungUp: the client is gone.
            Interrupted: `interrupt` was called.
        """
        while not self._shake_hands():
            await self._flush()
            await self._transport.wait_readable()
            data = self._transport.receive_nowait()
            if data == b"":
                raise HungUp(Cause.FIN)
            if data:
                self._incoming.write(data[:RECORD])
            if data and data[RECORD:]:
                self._transport.put_back(data[RECORD:])
        await self._flush()
        # The client's request may have come together with its last word of the handshake.
        self._plain = self._decrypted()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._send_control()
            raise HandshakeError(f"the TLS handshake failed: {_why(error)}") from None
        return True

    async def _flush(self) -> None:
        self._seal_control()
        self._push()
        while self._sealed:
            await self._transport.wait_writable()
            self._push()

    # Bytes in

    def receive_nowait(self) -> bytes | None:
        if not self._plain and self._end is None:
            self._receive()
        if self._plain:
            data, self._plain = self._plain[:RECEIVE_SIZE], self._plain[RECEIVE_SIZE:]
            return data
        return end_as_received(self._end)

    def _receive(self) -> None:
        data = self._transport.receive_nowait()
        if data:
            self._plain = self._feed(data)
            self._send_control()
            if self._end is not None:
                self._tell()
        elif data is not None:
            self._end = Cause.FIN
            self._client_gone = True

    def _feed(self, data: bytes) -> bytes:
        """Decrypt received bytes; what the client sends behind the end of its stream is ignored."""
        if len(data) <= RECORD:
            self._incoming.write(data)
            return self._decrypted()
        return b"".join(self._feed_in_records(data))

    def _feed_in_records(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), RECORD):
            if self._end is None:
                self._incoming.write(data[start : start + RECORD])
                yield self._decrypted()

    def _decrypted(self) -> bytes:
        """What the records that OpenSSL has say; the end of the stream, if they say that, is noted."""
        records = []
        try:
            while self._incoming.pending or self._tls.pending():
                record = self._tls.read(RECORD)
                if not record:  # close_notify
                    self._end = Cause.FIN
                    break
                records.append(record)
        except ssl.SSLWantReadError:
            pass  # it is the beginning of one, or was none with content
        except ssl.SSLZeroReturnError:  # close_notify, behind our own
            self._end = Cause.FIN
        except ssl.SSLError as error:
            self._broke(_why(error))
        return b"".join(records)

    def _broke(self, why: str) -> None:
        _log.debug("TLS with %s broke: %s", written(self.client), why)
        self._end = Cause.TLS_ERROR

    def _send_control(self) -> None:
        """Send what OpenSSL has to say by itself: an alert, an answer to the client's update of its keys.

        What finds no room goes before whatever is sent next. A client that demands such answers on and on, and takes
        none, would have us keep them all.
        """
        if not self._outgoing.pending:
            return
        self._seal_control()
        try:
            self._push()
        except HungUp:
            return  # told by what is received or sent next
        if (
            sum(len(record) for record, content in zip(self._sealed, self._contents, strict=True) if not content)
            > _MOST_CONTROL
        ):
            self._broke("the client does not take what its own records ask for")

    def _seal_control(self) -> None:
        """Take up what OpenSSL has to say by itself: records without content of ours."""
        said = self._outgoing.read()
        if self._contents and not self._contents[-1]:
            self._sealed[-1] = b"".join((self._sealed[-1], said))
        elif said:
            self._sealed.append(said)
            self._contents.append(0)

    def put_back(self, data: bytes) -> None:
        self._plain = data + self._plain

    def has_bytes(self) -> bool:
        # What lies below may hold none for us: who must know it precisely reads ahead.
        return bool(self._plain) or (self._end is None and self._transport.has_bytes())

    async def wait_readable(self) -> None:
        if self._plain or self._end is not None:
            await trio.lowlevel.checkpoint()
        else:
            await self._transport.wait_readable()

    # Bytes out

    def send_nowait(self, data: Run, *behind: Run) -> int:
        if not data:
            return self._transport.send_nowait(b"")
        self._client_gone = False
        self._push()
        runs = (data, *behind)
        offered, records = sum(map(len, runs)), 0
        try:
            while not self._sealed and self._uncounted < offered and records < _RECORDS_A_ROUND:
                while self._uncounted < offered and len(self._sealed) < _RECORDS_AT_ONCE:
                    self._seal(_content(runs, self._uncounted))
                    records += 1
                self._push()
        except ResponseError:
            # What was sent before counts; the next send will tell.
            self._push()
            if not self._uncounted:
                raise
        return self._count()

    def _seal(self, content: bytes | memoryview) -> None:
        """Encrypt it into one record."""
        try:
            self._tls.write(content)
        except ssl.SSLError as error:
            self._broke(_why(error))
            raise HungUp(Cause.TLS_ERROR) from None
        self._sealed.append(self._outgoing.read())
        self._contents.append(len(content))
        self._uncounted += len(content)

    def _push(self) -> None:
        """Hand over what is encrypted. What finds no room stays in `_sealed`.

        Raises:
            HungUp: the client is gone.
        """
        sealed = self._sealed
        while sealed:
            more = take_off(sealed, self._transport.send_nowait(*sealed))
            del self._contents[: len(self._contents) - len(sealed)]
            if not more:
                return

    def _count(self) -> int:
        """How many bytes count as sent now that did not before: of what is not out yet, one, if that is not all."""
        left = sum(self._contents)
        uncounted = max(left - 1, min(left, 1))
        counted = self._uncounted - uncounted
        self._uncounted = uncounted
        return counted

    async def wait_writable(self) -> None:
        await self._transport.wait_writable()

    def unacked_bytes(self) -> int | None:
        below = self._transport.unacked_bytes()
        return None if below is None else below + sum(map(len, self._sealed))

    def taken_bytes(self) -> int:
        return self._transport.taken_bytes()

    # News of the client

    def watch(self, on_hangup: OnHangup) -> None:
        self._on_hangup = on_hangup
        self._transport.watch(self._hung_up)
        self._tell()

    def _tell(self) -> None:
        """What the watch cannot hear is told where it is read."""
        if self._end is not None and self._on_hangup is not None:
            self._on_hangup(self._end)

    def _hung_up(self, cause: Cause) -> None:
        self._client_gone = True
        if self._on_hangup is not None:
            self._on_hangup(cause)

    def look(self) -> None:
        self._transport.look()

    def watch_unread(self, on_bytes: OnBytes) -> None:
        self._transport.watch_unread(on_bytes)

    def unwatch_unread(self) -> None:
        self._transport.unwatch_unread()

    def absorb(self) -> None:
        self._transport.absorb()

    # The end

    def interrupt(self) -> None:
        self._transport.interrupt()

    def send_eof(self) -> None:
        self._say_goodbye()
        self._transport.send_eof()

    def close(self) -> None:
        self._say_goodbye()
        self._on_hangup = None
        self._transport.close()

    def reset(self) -> None:
        self._said_goodbye = True
        self._on_hangup = None
        self._transport.reset()

    def _say_goodbye(self) -> None:
        """Send our close_notify, once, if the client may hear it and nothing has to go before it."""
        if self._said_goodbye or self._client_gone or self._end is Cause.TLS_ERROR:
            return
        self._said_goodbye = True
        try:
            self._push()
            if not self._sealed:
                self._tls.unwrap()
        except HungUp:
            return
        except ssl.SSLError:
            pass  # it waits for the client's, which we do not; or the handshake has not come to its end
        self._send_control()


def _content(runs: tuple[Run, ...], start: int) -> bytes | memoryview:
    """What a record holds of `runs` from byte `start` on: as much as there is room for, or as can be had of a file.

    Raises:
        ResponseError: the file in which it begins cannot be read, or ends before the slice does.
    """
    pieces: list[bytes | memoryview] = []
    room = RECORD
    for run in runs:
        if start >= len(run):
            start -= len(run)
            continue
        wanted = min(len(run) - start, room)
        try:
            piece = read_slice(run[start:], wanted) if isinstance(run, FileSlice) else memoryview(run)[start:][:wanted]
        except ResponseError:
            if not pieces:
                raise
            break
        pieces.append(piece)
        room -= len(piece)
        if len(piece) < wanted or not room:
            break
        start = 0
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _why(error: ssl.SSLError) -> str:
    """What OpenSSL says, in plain words."""
    return error.reason.replace("_", " ").lower() if error.reason else str(error)

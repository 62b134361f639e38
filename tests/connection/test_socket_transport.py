"""SocketTransport on real sockets: bytes in and out, the news of a hangup, and bytes that are taken in unasked."""

from __future__ import annotations

import errno
import io
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.support import Ear, happens, reset, something_arrives, tcp_pair
from trioserve.connection import transport as transport_module
from trioserve.connection.hangup import HangupWatch, current_hangup_watch
from trioserve.connection.spool import RECEIVE_SIZE, Budget, Spool
from trioserve.connection.transport import RAISED_RECEIVE_BUFFER, HungUp, Interrupted, SocketTransport, cause_of
from trioserve.core.errors import ResponseError
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import FileSlice

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the hangup watch and these ioctls are Linux's")


@contextmanager
def connected(
    *,
    watch: HangupWatch | None = None,
    spool: float = math.inf,
    spools: Budget | None = None,
    receive_buffers: Budget | None = None,
    receive_buffer: int | None = None,
) -> Iterator[tuple[SocketTransport, socket.socket]]:
    """A transport and its client's socket. `receive_buffer` is the system's, small for a window that closes early."""
    with tcp_pair(receive_buffer=receive_buffer) as (server, client):
        transport = SocketTransport(
            server,
            client.getsockname(),
            watch=watch,
            spool=Spool(spool, spools or Budget(math.inf)),
            receive_buffers=receive_buffers or Budget(math.inf),
        )
        try:
            yield transport, client
        finally:
            transport.close()


def push(sock: socket.socket, limit: float = math.inf) -> int:
    """Send until there is no more room, or `limit` bytes; returns how many."""
    sent = 0
    while sent < limit:
        try:
            sent += sock.send(bytes(int(min(RECEIVE_SIZE, limit - sent))))
        except BlockingIOError:
            break
    return sent


# Bytes in


async def test_what_has_arrived_is_received_and_none_if_there_is_nothing_yet():
    with connected() as (transport, client):
        assert transport.receive_nowait() is None
        client.send(b"hello")
        await happens_to(transport.wait_readable)

        assert transport.receive_nowait() == b"hello"
        assert transport.receive_nowait() is None


async def test_what_is_put_back_comes_again_before_what_arrives_later():
    with connected() as (transport, client):
        client.send(b"header and request")
        await happens_to(transport.wait_readable)
        data = transport.receive_nowait()

        transport.put_back(data.removeprefix(b"header and "))
        client.send(b", and more")

        await happens_to(transport.wait_readable)
        assert transport.receive_nowait() == b"request"
        await happens_to(transport.wait_readable)
        assert transport.receive_nowait() == b", and more"


async def happens_to(wait: Callable) -> None:
    with trio.fail_after(5):
        await wait()


async def test_bytes_are_there_until_they_are_received_and_a_fin_is_none():
    with connected() as (transport, client):
        assert not transport.has_bytes()
        client.send(b"hello")
        client.close()
        await happens_to(transport.wait_readable)

        assert transport.has_bytes()
        assert transport.receive_nowait() == b"hello"
        await happens_to(transport.wait_readable)
        assert not transport.has_bytes()


async def test_bytes_that_were_absorbed_are_there_and_none_of_a_client_that_is_gone():
    with connected() as (transport, client):
        client.send(b"hello")
        await happens_to(transport.wait_readable)
        transport.absorb()
        assert transport.has_bytes()
        transport.receive_nowait()
        reset(client)
        await happens_to(transport.wait_readable)
        assert not transport.has_bytes()
        transport.close()
        assert not transport.has_bytes()


async def test_at_a_fin_an_empty_string_is_received_for_ever():
    with connected() as (transport, client):
        client.send(b"last")
        client.close()
        await happens_to(transport.wait_readable)

        assert transport.receive_nowait() == b"last"
        await happens_to(transport.wait_readable)
        assert transport.receive_nowait() == b""
        assert transport.receive_nowait() == b""


async def test_a_reset_is_received_as_hung_up():
    with connected() as (transport, client):
        reset(client)
        await happens_to(transport.wait_readable)

        with pytest.raises(HungUp) as hung_up:
            transport.receive_nowait()
        assert hung_up.value.cause is Cause.RESET


async def test_waiting_is_always_a_checkpoint():
    with connected() as (transport, client):
        client.send(bytes(10))
        await something_arrives(transport._sock)
        with assert_checkpoints():
            await transport.wait_readable()
        with assert_checkpoints():
            await transport.wait_writable()
        transport.absorb()
        with assert_checkpoints():
            await transport.wait_readable()


# Bytes out


async def test_what_there_is_room_for_is_sent_and_no_room_is_no_error():
    with connected() as (transport, client):
        assert transport.send_nowait(b"hello") == 5
        await something_arrives(client)
        assert client.recv(100) == b"hello"

        while transport.send_nowait(bytes(RECEIVE_SIZE)):
            pass
        assert transport.send_nowait(memoryview(b"more")) == 0


async def test_what_comes_behind_is_sent_together_as_far_as_there_is_room():
    with connected() as (transport, client):
        assert transport.send_nowait(b"head", b"content", b"tail") == 15
        assert await read(client, 15) == b"headcontenttail"

        content = os.urandom(10_000_000)
        taken = transport.send_nowait(b"head", memoryview(content), b"tail")
        assert 4 < taken < 10_000_000
        assert await read(client, taken) == (b"head" + content)[:taken]
        while transport.send_nowait(bytes(RECEIVE_SIZE)):
            pass
        assert transport.send_nowait(b"head", content, b"tail") == 0


@pytest.mark.usefixtures("way")
async def test_what_comes_before_a_file_is_sent_before_it(nursery, file):
    with connected() as (transport, client):
        part = FileSlice(file, 0, len(CONTENT))
        assert transport.send_nowait(b"head", part, b"tail") == 4
        nursery.start_soon(send_file, transport, part)
        assert await read(client, 4 + len(CONTENT)) == b"head" + CONTENT


async def test_waiting_for_room_ends_when_the_client_reads():
    with connected() as (transport, client):
        while transport.send_nowait(bytes(RECEIVE_SIZE)):
            pass

        async def read() -> None:
            while True:
                await trio.lowlevel.wait_readable(client)
                client.recv(RECEIVE_SIZE)

        async with trio.open_nursery() as reading:
            reading.start_soon(read)
            await happens_to(transport.wait_writable)
            reading.cancel_scope.cancel()

        assert transport.send_nowait(b"more") == 4


async def test_a_send_to_a_client_that_was_reset_is_hung_up():
    with connected() as (transport, client):
        reset(client)
        await something_arrives(transport._sock)

        for _ in range(2):  # the system tells the first time ECONNRESET, and then EPIPE
            with pytest.raises(HungUp) as hung_up:
                transport.send_nowait(b"hello")
            assert hung_up.value.cause is Cause.RESET


async def test_after_our_fin_the_client_reads_to_the_end_and_we_can_still_receive():
    with connected() as (transport, client):
        transport.send_nowait(b"last")
        transport.send_eof()
        await something_arrives(client)

        assert client.recv(100) == b"last"
        assert client.recv(100) == b""
        client.send(b"thanks")
        await happens_to(transport.wait_readable)
        assert transport.receive_nowait() == b"thanks"


async def test_a_fin_to_a_client_that_has_gone_is_no_error():
    with connected() as (transport, client):
        reset(client)
        await something_arrives(transport._sock)

        transport.send_eof()


@linux_only
async def test_unacked_bytes_are_those_that_the_client_has_not_taken():
    with connected() as (transport, client):
        assert transport.unacked_bytes() == 0
        sent = 0
        while size := transport.send_nowait(bytes(RECEIVE_SIZE)):
            sent += size

        assert 0 < transport.unacked_bytes() <= sent
        assert transport.taken_bytes() == sent - transport.unacked_bytes()
        await drain(client, sent)
        assert transport.unacked_bytes() == 0


async def drain(sock: socket.socket, size: int) -> None:
    """Read so many bytes."""
    with trio.fail_after(5):
        while size:
            await trio.lowlevel.wait_readable(sock)
            size -= len(sock.recv(RECEIVE_SIZE))


# Files

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb", buffering=0) as file:
        yield file


def sends_nothing(*_: int) -> int:
    raise OSError(errno.EINVAL, "not for this file system")


@pytest.fixture(params=["sendfile", "refused", "missing"])
def way(request, monkeypatch):
    """By the system's sendfile, where it refuses, and where there is none."""
    match request.param:
        case "refused":
            monkeypatch.setattr(transport_module, "_sendfile", sends_nothing)
        case "missing":
            monkeypatch.setattr(transport_module, "_sendfile", transport_module._no_sendfile)


async def send_file(transport: SocketTransport, part: FileSlice) -> None:
    while part:
        part = part[transport.send_nowait(part) :]
        if part:
            await happens_to(transport.wait_writable)


async def read(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        await something_arrives(sock)
        received += sock.recv(size - len(received))
    return received


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("offset", "length"), [(0, len(CONTENT)), (1000, 500_000), (len(CONTENT) - 1, 1)])
async def test_a_slice_of_a_file_is_sent(nursery, file, offset, length):
    with connected() as (transport, client):
        nursery.start_soon(send_file, transport, FileSlice(file, offset, length))
        assert await read(client, length) == CONTENT[offset : offset + length]
    assert file.tell() == 0


@pytest.mark.usefixtures("way")
async def test_a_slice_of_a_file_is_sent_on_a_unix_socket(nursery, file):
    server, client = socket.socketpair()
    with client:
        client.settimeout(0)
        transport = SocketTransport(
            server, None, watch=None, spool=Spool(0, Budget(math.inf)), receive_buffers=Budget(math.inf)
        )
        nursery.start_soon(send_file, transport, FileSlice(file, 0, len(CONTENT)))
        assert await read(client, len(CONTENT)) == CONTENT
        transport.close()


@pytest.mark.usefixtures("way")
async def test_one_send_of_a_file_is_bounded_and_no_room_is_no_error(file):
    with connected() as (transport, _):
        assert 0 < transport.send_nowait(FileSlice(file, 0, len(CONTENT))) <= 262_144
        while transport.send_nowait(FileSlice(file, 0, len(CONTENT))):
            pass
        while transport.send_nowait(bytes(1)):
            pass
        assert transport.send_nowait(FileSlice(file, 0, 1)) == 0


@pytest.mark.usefixtures("way")
async def test_a_file_that_ends_before_its_slice_is_a_response_error(file, tmp_path):
    with connected() as (transport, _):
        assert transport.send_nowait(FileSlice(file, 0, 1000)) == 1000
        (tmp_path / "file").write_bytes(bytes(999))
        with pytest.raises(ResponseError, match=r"shorter .* ends before byte 1000, and 5 more were announced"):
            transport.send_nowait(FileSlice(file, 1000, 5))


@pytest.mark.usefixtures("way")
async def test_a_file_that_was_closed_is_a_response_error_and_its_number_is_not_used_again(file):
    with connected() as (transport, _):
        file.close()
        with pytest.raises(ResponseError, match="closed before all of it was sent"):
            transport.send_nowait(FileSlice(file, 0, 10))


async def test_a_file_that_cannot_be_read_is_a_response_error():
    read_end, write_end = os.pipe()
    os.close(write_end)
    with connected() as (transport, _), io.FileIO(read_end) as pipe:
        part = FileSlice(pipe, 0, 10)
        with pytest.raises(ResponseError, match="cannot be read at byte 0: Illegal seek"):
            transport.send_nowait(part)


@pytest.mark.usefixtures("way")
async def test_a_file_to_a_client_that_was_reset_is_hung_up(file):
    with connected() as (transport, client):
        reset(client)
        await something_arrives(transport._sock)

        for _ in range(2):
            with pytest.raises(HungUp) as hung_up:
                transport.send_nowait(FileSlice(file, 0, 10))
            assert hung_up.value.cause is Cause.RESET


@pytest.mark.parametrize(
    ("number", "cause"),
    [(errno.ETIMEDOUT, Cause.VANISHED), (errno.ECONNRESET, Cause.RESET), (errno.EPIPE, Cause.RESET)],
)
async def test_what_sending_a_file_tells_of_the_client_is_not_lost(file, monkeypatch, number, cause):
    # The system tells it once: a second attempt would hear of a broken pipe only.
    def fails(*_: int) -> int:
        raise OSError(number, "")

    monkeypatch.setattr(transport_module, "_sendfile", fails)
    with connected() as (transport, _):
        with pytest.raises(HungUp) as hung_up:
            transport.send_nowait(FileSlice(file, 0, 10))
        assert hung_up.value.cause is cause


# Interruption


@pytest.mark.parametrize("shielded", [False, True])
async def test_an_interruption_ends_both_waits_even_inside_a_shield(nursery, shielded):
    ended: list[str] = []

    async def wait(name: str, wait: Callable) -> None:
        with trio.CancelScope(shield=shielded):
            try:
                await wait()
            except Interrupted:
                ended.append(name)

    with connected() as (transport, _):
        while transport.send_nowait(bytes(RECEIVE_SIZE)):
            pass
        nursery.start_soon(wait, "reading", transport.wait_readable)
        nursery.start_soon(wait, "writing", transport.wait_writable)
        await wait_all_tasks_blocked()

        transport.interrupt()
        await wait_all_tasks_blocked()

        assert sorted(ended) == ["reading", "writing"]


async def test_an_interruption_is_no_end_of_the_transport():
    with connected() as (transport, client):
        transport.interrupt()
        client.send(b"hello")
        await happens_to(transport.wait_readable)

        assert transport.receive_nowait() == b"hello"


# The news of a hangup


@linux_only
async def test_a_fin_is_told_as_fin():
    ear = Ear()
    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        client.send(b"unread")
        client.close()

        assert await ear.hears(Cause.FIN)
        assert transport.receive_nowait() == b"unread"
        assert transport.receive_nowait() == b""


@linux_only
async def test_a_reset_is_told_as_reset():
    ear = Ear()
    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        client.send(b"unread")
        reset(client)

        assert await ear.hears(Cause.RESET)


@linux_only
async def test_a_reset_after_a_fin_is_told_too():
    ear = Ear()
    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        client.shutdown(socket.SHUT_WR)
        assert await ear.hears(Cause.FIN)
        reset(client)

        assert await ear.hears(Cause.FIN, Cause.RESET)


@linux_only
async def test_a_close_with_our_bytes_unread_is_told_as_a_reset_in_the_end():
    ear = Ear()
    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        transport.send_nowait(b"not read")
        await something_arrives(client)
        client.close()

        assert await ear.hears(Cause.RESET)


@linux_only
async def test_look_tells_at_once_what_is_known_already():
    ear = Ear()
    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        client.close()
        # Everything that has happened is in the kernel's object, which nobody but `look` has asked.
        while not ear.heard:
            transport.look()

        assert ear.heard == [Cause.FIN]


@linux_only
async def test_without_a_watch_nothing_is_told():
    ear = Ear()
    with connected() as (transport, client):
        transport.watch(ear)
        client.close()
        await happens_to(transport.wait_readable)
        transport.look()

        assert ear.heard == []
        assert transport.receive_nowait() == b""


@linux_only
async def test_after_the_close_nothing_is_told():
    ear = Ear()
    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        transport.close()
        client.close()
        transport.look()
        await wait_all_tasks_blocked()

        assert ear.heard == []


# Unread bytes


@linux_only
async def test_unread_bytes_are_told_now_and_when_more_arrive():
    told: list[int] = []
    news = trio.Event()

    def tell() -> None:
        told.append(transport.unread_bytes())
        if told[-1] == 5:
            news.set()

    with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(Ear())
        client.send(b"123")
        await something_arrives(transport._sock)
        transport.watch_unread(tell)
        await wait_all_tasks_blocked()
        client.send(b"45")
        await happens(news.wait())
        transport.unwatch_unread()
        client.send(b"6")
        await wait_all_tasks_blocked()

        assert told == [3, 5]
        assert transport.receive_nowait() == b"123456"


@linux_only
async def test_absorbing_raises_the_receive_buffer_and_takes_one_receive_in():
    budget = Budget(RAISED_RECEIVE_BUFFER)
    with connected(receive_buffers=budget, receive_buffer=65_536) as (transport, client):
        push(client)
        before = transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        unread = transport.unread_bytes()

        transport.absorb()

        assert transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > before
        assert budget.left == 0
        assert 0 < transport._spool.size <= min(RECEIVE_SIZE, unread)


@linux_only
async def test_what_was_absorbed_is_received_first_and_nothing_is_lost():
    with connected(receive_buffer=65_536) as (transport, client):
        sent = b"".join(bytes([number]) * 10_000 for number in range(200))
        offered = memoryview(sent)
        received = b""
        while len(received) < len(sent):
            try:
                offered = offered[client.send(offered) :] if offered else offered
            except BlockingIOError:
                transport.absorb()
            data = transport.receive_nowait()
            received += data or b""

        assert received == sent


@linux_only
async def test_a_fin_behind_a_closed_window_arrives_when_bytes_are_absorbed():
    """The one thing that the kernel cannot tell by itself."""
    ear = Ear()
    with connected(watch=current_hangup_watch(), receive_buffer=65_536) as (transport, client):
        transport.watch(ear)
        push(client, 2_000_000)
        client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert ear.heard == []

        transport.watch_unread(transport.absorb)

        assert await ear.hears(Cause.FIN)


@linux_only
async def test_a_client_that_pushes_more_than_any_buffer_is_read_until_its_fin():
    ear = Ear()
    size = 40_000_000
    with connected(watch=current_hangup_watch(), receive_buffer=65_536) as (transport, client):
        transport.watch(ear)
        transport.watch_unread(transport.absorb)
        await push_all(client, size)
        client.shutdown(socket.SHUT_WR)

        assert await ear.hears(Cause.FIN)
        assert 0 < transport._spool.size <= size


async def push_all(sock: socket.socket, size: int) -> None:
    with trio.fail_after(10):
        while size:
            await trio.lowlevel.wait_writable(sock)
            size -= push(sock, size)


@linux_only
async def test_the_spools_limit_bounds_what_is_absorbed():
    limit = 3 * RECEIVE_SIZE
    with connected(receive_buffers=Budget(0), spool=limit, receive_buffer=65_536) as (transport, client):
        while push(client):
            transport.absorb()

        assert limit - RECEIVE_SIZE < transport._spool.size <= limit
        assert transport.unread_bytes() > 0


@linux_only
async def test_the_servers_budget_bounds_what_all_connections_absorb_together():
    total = 3 * RECEIVE_SIZE
    spools = Budget(total)
    with (
        connected(receive_buffers=Budget(0), spools=spools, receive_buffer=65_536) as (one, first),
        connected(receive_buffers=Budget(0), spools=spools, receive_buffer=65_536) as (other, second),
    ):
        while push(first) + push(second):
            one.absorb()
            other.absorb()

        assert 0 < one._spool.size + other._spool.size <= total
        one.close()
        other.absorb()
        assert other._spool.size <= total
    assert spools.left == total


@linux_only
async def test_only_as_many_receive_buffers_are_raised_as_the_budget_allows():
    budget = Budget(RAISED_RECEIVE_BUFFER + RAISED_RECEIVE_BUFFER - 1)
    with connected(receive_buffers=budget) as (one, _), connected(receive_buffers=budget) as (other, _):
        default = other._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        one.absorb()
        other.absorb()

        assert other._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == default
        one.close()
        other.absorb()
        assert other._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > default
    assert budget.left == RAISED_RECEIVE_BUFFER + RAISED_RECEIVE_BUFFER - 1


@linux_only
async def test_a_raised_receive_buffer_is_not_read_on_while_the_window_is_open():
    with connected() as (transport, client):
        client.send(b"a few bytes")
        await something_arrives(transport._sock)
        transport.absorb()
        client.send(b"and some more")
        await something_arrives(transport._sock)

        transport.absorb()

        assert transport.unread_bytes() == len(b"and some more")


async def test_absorbing_nothing_or_a_fin_leaves_it_to_be_met_again():
    with connected() as (transport, client):
        transport.absorb()
        assert transport.receive_nowait() is None
        client.close()
        await happens_to(transport.wait_readable)
        transport.absorb()
        transport.absorb()

        assert transport.receive_nowait() == b""


async def test_absorbing_from_a_client_that_was_reset_is_hung_up():
    with connected() as (transport, client):
        reset(client)
        await something_arrives(transport._sock)

        with pytest.raises(HungUp) as hung_up:
            transport.absorb()
        assert hung_up.value.cause is Cause.RESET


# The end


async def test_a_close_delivers_what_was_sent_and_ends_with_a_fin():
    with connected() as (transport, client):
        transport.send_nowait(b"last")
        transport.close()
        transport.close()
        await something_arrives(client)

        assert client.recv(100) == b"last"
        assert client.recv(100) == b""


async def test_a_reset_is_seen_as_broken():
    with connected() as (transport, client):
        transport.reset()
        transport.reset()
        await something_arrives(client)

        with pytest.raises(ConnectionResetError):
            client.recv(100)


async def test_a_close_ends_waits_with_an_interruption(nursery):
    ended = trio.Event()

    async def wait(transport: SocketTransport) -> None:
        with pytest.raises(Interrupted):
            await transport.wait_readable()
        ended.set()

    with connected() as (transport, _):
        nursery.start_soon(wait, transport)
        await wait_all_tasks_blocked()
        transport.close()

        await happens(ended.wait())


async def test_a_unix_socket_can_be_watched_absorbed_and_reset():
    ear = Ear()
    server, client = socket.socketpair()
    watch = current_hangup_watch() if sys.platform == "linux" else None
    with client:
        transport = SocketTransport(
            server, None, watch=watch, spool=Spool(math.inf, Budget(math.inf)), receive_buffers=Budget(math.inf)
        )
        transport.watch(ear)
        client.send(b"hello")
        await happens_to(transport.wait_readable)
        transport.absorb()
        assert transport.receive_nowait() == b"hello"
        client.shutdown(socket.SHUT_WR)
        await happens_to(transport.wait_readable)
        assert transport.receive_nowait() == b""

        transport.reset()

        assert client.recv(100) == b""
    assert transport.client is None


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ETIMEDOUT, Cause.VANISHED),
        (errno.EHOSTUNREACH, Cause.VANISHED),
        (errno.ENETUNREACH, Cause.VANISHED),
        (errno.ENETDOWN, Cause.VANISHED),
        (errno.ECONNRESET, Cause.RESET),
        (errno.EPIPE, Cause.RESET),
        (errno.ECONNABORTED, Cause.RESET),
        (None, Cause.RESET),
    ],
)
def test_an_error_of_silence_means_vanished_and_any_other_a_reset(number, cause):
    assert cause_of(number) is cause

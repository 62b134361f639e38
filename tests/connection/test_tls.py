"""TlsTransport over a transport in memory: what becomes of bytes, of room, and of farewells."""

from __future__ import annotations

import contextlib
import functools
import math
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.support import Ear
from tests.support.tls import TlsClient, client_context, server_context
from trioserve.connection.spool import RECEIVE_SIZE, Budget, Spool
from trioserve.connection.tls import RECORD, HandshakeError, TlsTransport
from trioserve.connection.transport import HungUp, Interrupted
from trioserve.core.errors import ResponseError
from trioserve.core.lifecycle import Cause
from trioserve.core.messages import FileSlice
from trioserve.testing import MemoryPeer, MemoryTransport, memory_connection

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
OVERHEAD = 22
"""Bytes by which a record of TLS 1.3 is longer than its content: header, type, and tag."""

_server_context = functools.cache(server_context)
_client_context = functools.cache(client_context)


@pytest.fixture(autouse=True)
def _in_virtual_time(autojump_clock) -> None:
    """Where `connected` waits for nothing, it ends at once."""


def pair(**sizes: int) -> tuple[MemoryPeer, MemoryTransport]:
    return memory_connection(Spool(math.inf, Budget(math.inf)), **sizes)


@contextlib.asynccontextmanager
async def connected(
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **sizes: int
) -> AsyncIterator[tuple[TlsTransport, TlsClient]]:
    """A transport and its client, after the handshake."""
    peer, below = pair(**sizes)
    transport, client = TlsTransport(below, _server_context()), TlsClient(peer, _client_context(version))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        await transport.handshake()
    try:
        with trio.fail_after(1):
            yield transport, client
    finally:
        transport.close()
        peer.close()


def received(transport: TlsTransport) -> bytes | None:
    """All that is there to be received."""
    data = transport.receive_nowait()
    while data and (more := transport.receive_nowait()):
        data += more
    return data


def sent(transport: TlsTransport) -> int:
    return transport._transport.sent_bytes


async def raw_bytes(client: TlsClient, size: int) -> bytes:
    """So many bytes as they are on the wire."""
    data = b""
    while len(data) < size:
        data += await client.below.receive_some(size - len(data))
    return data


def records_in(data: bytes) -> list[int]:
    """The lengths of the records that these bytes are."""
    lengths = []
    while data:
        length = int.from_bytes(data[3:5])
        lengths.append(length)
        data = data[5 + length :]
    return lengths


# Bytes in


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_the_client_sends_is_received_in_order(version):
    async with connected(version) as (transport, client):
        assert transport.receive_nowait() is None
        await client.send_all(b"GET / ")
        await client.send_all(b"HTTP/1.1")

        assert received(transport) == b"GET / HTTP/1.1"
        assert transport.receive_nowait() is None
        assert transport.scheme == "https"


@pytest.mark.parametrize("version", VERSIONS)
async def test_nothing_is_received_of_a_record_before_all_of_it_is_there(version):
    async with connected(version) as (transport, client):
        client.tls.write(b"hello")
        data = client.outgoing.read()

        for byte in data[:-1]:
            await client.below.send_all(bytes([byte]))
            await transport.wait_readable()
            assert transport.receive_nowait() is None
        await client.below.send_all(data[-1:])

        assert transport.receive_nowait() == b"hello"


async def test_no_more_is_received_at_once_than_of_any_transport_and_the_rest_is_there_at_once():
    async with connected(window=200_000) as (transport, client):
        data = bytes(range(256)) * 256 + b"end"
        for start in range(0, len(data), 64):
            client.tls.write(data[start : start + 64])
        wire = client.outgoing.read()
        await client.below.send_all(wire[:16_000])
        first = transport.receive_nowait()
        await client.below.send_all(wire[16_000:])

        pieces = [first]
        while sum(map(len, pieces)) < len(data):
            await transport.wait_readable()
            pieces.append(transport.receive_nowait() or b"")

        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= RECEIVE_SIZE


async def test_what_is_put_back_comes_again_before_what_arrives_later():
    async with connected() as (transport, client):
        await client.send_all(b"ab")
        transport.put_back(transport.receive_nowait())
        await client.send_all(b"cd")

        with assert_checkpoints():
            await transport.wait_readable()
        assert transport.has_bytes()
        assert transport.receive_nowait() == b"ab"
        assert received(transport) == b"cd"


async def test_a_request_that_comes_with_the_last_of_the_handshake_is_received():
    peer, below = pair()
    transport, client = TlsTransport(below, _server_context()), TlsClient(peer, _client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        await peer.send_all(client.outgoing.read())
        client.incoming.write(await peer.receive_some())
        client.tls.do_handshake()
        client.tls.write(b"early" * 10_000)
        await peer.send_all(client.outgoing.read())

    await transport.wait_readable()
    assert received(transport) == b"early" * 10_000
    transport.close()


async def test_an_interruption_ends_a_wait():
    async with connected() as (transport, _), trio.open_nursery() as nursery:

        async def wait() -> None:
            with trio.CancelScope(shield=True), pytest.raises(Interrupted):
                await transport.wait_readable()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        transport.interrupt()


# How it ends


async def test_a_close_notify_is_the_clients_fin_behind_what_it_sent_before():
    async with connected() as (transport, client):
        await client.send_all(b"last")
        client.say_goodbye()

        assert transport.receive_nowait() == b"last"
        with assert_checkpoints():
            await transport.wait_readable()
        assert [transport.receive_nowait(), transport.receive_nowait()] == [b"", b""]
        assert not transport.has_bytes()


async def test_a_fin_without_a_close_notify_is_a_fin():
    async with connected() as (transport, client):
        await client.send_all(b"last")
        client.below.send_eof_nowait()

        assert transport.receive_nowait() == b"last"
        assert transport.receive_nowait() == b""


async def test_a_broken_record_is_a_tls_error_behind_what_was_whole_before_it():
    async with connected() as (transport, client):
        await client.send_all(b"whole")
        client.tls.write(b"broken")
        data = bytearray(client.outgoing.read())
        data[-1] ^= 1
        await client.below.send_all(data)
        await client.below.send_all(b"and more")

        assert transport.receive_nowait() == b"whole"
        for _ in range(2):
            with pytest.raises(HungUp) as ended:
                transport.receive_nowait()
            assert ended.value.cause is Cause.TLS_ERROR
        with pytest.raises(HungUp):
            transport.send_nowait(b"answer")
        transport.close()
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            await client.receive_some()  # our alert


async def test_garbage_behind_the_handshake_is_a_tls_error():
    async with connected() as (transport, client):
        await client.below.send_all(b"GET / HTTP/1.1\r\n\r\n")

        with pytest.raises(HungUp) as ended:
            transport.receive_nowait()
        assert ended.value.cause is Cause.TLS_ERROR


async def test_what_comes_behind_a_close_notify_is_ignored():
    async with connected() as (transport, client):
        client.say_goodbye()
        await client.below.send_all(b"anything")

        assert transport.receive_nowait() == b""
        await client.below.send_all(b"and more")
        assert not transport.has_bytes()
        assert transport.receive_nowait() == b""


async def test_the_watch_below_is_heard():
    async with connected() as (transport, client):
        ear = Ear()
        transport.watch(ear)
        client.below.reset()

        assert await ear.hears(Cause.RESET)


# Bytes out


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_sent_is_one_record_as_long_as_one_holds_it(version):
    async with connected(version) as (transport, client):
        before = sent(transport)
        assert transport.send_nowait(bytes(RECORD)) == RECORD
        assert transport.send_nowait(b"x") == 1

        wire = await raw_bytes(client, sent(transport) - before)
        assert len(records_in(wire)) == 2
        client._feed(wire)
        assert await client.receive_some(10**6) == bytes(RECORD) + b"x"


async def test_a_long_piece_is_sent_in_full_records_and_so_many_at_the_most():
    async with connected(window=10**6, send_buffer=10**6) as (transport, client):
        before = sent(transport)
        assert transport.send_nowait(memoryview(bytes(600_000))) == 16 * RECORD

        assert sent(transport) - before == 16 * (RECORD + OVERHEAD)
        assert len(await raw_bytes(client, sent(transport) - before)) == sent(transport) - before


async def test_a_record_without_room_counts_as_one_byte_until_all_of_it_is_out():
    async with connected(window=2000, send_buffer=2000) as (transport, client):
        data = bytes(range(256)) * 256
        before = sent(transport)

        assert transport.send_nowait(data) == 1
        assert sent(transport) - before == 4000
        assert transport.unacked_bytes() == 4 * (RECORD + OVERHEAD) - 2000
        assert transport.taken_bytes() == before + 2000
        assert transport.send_nowait(data[1:]) == 0

        async def send_the_rest() -> None:
            taken = 1
            while taken < len(data):
                await transport.wait_writable()
                taken += transport.send_nowait(data[taken:])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_the_rest)
            got = b""
            while len(got) < len(data):
                got += await client.receive_some()
        assert got == data


async def test_a_record_that_is_out_counts_whole_though_one_made_with_it_is_not():
    async with connected(window=RECORD, send_buffer=1000) as (transport, client):
        data = bytes(range(256)) * 256
        assert transport.send_nowait(data) == RECORD + 1
        got = await client.receive_some()
        assert got == data[:RECORD]

        assert transport.send_nowait(data[RECORD + 1 :]) == RECORD
        while len(got) < 2 * RECORD:
            got += await client.receive_some()
        assert got == data[: 2 * RECORD]


async def test_what_is_sent_behind_short_framing_is_sealed_with_it():
    async with connected(window=10**6, send_buffer=10**6) as (transport, client):
        before, content = sent(transport), bytes(RECORD)
        assert transport.send_nowait(b"4000\r\n", content, b"\r\n") == RECORD + 8

        wire = await raw_bytes(client, sent(transport) - before)
        assert records_in(wire) == [RECORD + OVERHEAD - 5, 8 + OVERHEAD - 5]
        client._feed(wire)
        assert await client.receive_some(10**6) == b"4000\r\n" + content + b"\r\n"


async def test_framing_before_a_file_that_cannot_be_read_is_sent_and_the_next_send_tells(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    async with connected() as (transport, client):
        with path.open("rb") as file:
            part = FileSlice(file, 0, 100)
            assert transport.send_nowait(b"64\r\n", part, b"\r\n") == 4
            assert await client.receive_some() == b"64\r\n"
            with pytest.raises(ResponseError, match="shorter"):
                transport.send_nowait(part, b"\r\n")


@pytest.mark.parametrize("size", [1, 2])
async def test_even_the_shortest_piece_is_sent_once(size):
    async with connected(window=10, send_buffer=10) as (transport, client):
        data = b"ab"[:size]
        assert transport.send_nowait(data) == size - 1
        client._feed(await client.below.receive_some())
        client._feed(await client.below.receive_some())

        assert transport.send_nowait(data[size - 1 :]) == 1
        transport.close()
        assert await client.receive_some() == data


async def test_sending_nothing_tells_of_a_reset_and_sends_nothing():
    async with connected() as (transport, client):
        before = sent(transport)
        assert transport.send_nowait(b"") == 0
        assert sent(transport) == before
        client.below.reset()
        with pytest.raises(HungUp) as ended:
            transport.send_nowait(b"")
        assert ended.value.cause is Cause.RESET


async def test_a_file_is_sent_in_records(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 400)
    async with connected(window=10**6) as (transport, client):
        with path.open("rb") as file:
            part, taken = FileSlice(file, 100, 100_000), 0
            while taken < len(part):
                taken += transport.send_nowait(part[taken:])

        got = b""
        while len(got) < 100_000:
            got += await client.receive_some()
        assert got == path.read_bytes()[100:100_100]


async def test_a_file_that_has_become_shorter_is_told_behind_what_it_had(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(20_000))
    async with connected(window=10**6) as (transport, _):
        with path.open("rb") as file:
            part = FileSlice(file, 0, 30_000)
            assert transport.send_nowait(part) == 20_000
            with pytest.raises(ResponseError, match="shorter"):
                transport.send_nowait(part[20_000:])


# Farewells


async def test_a_close_says_goodbye():
    async with connected() as (transport, client):
        transport.send_nowait(b"answer")
        transport.close()
        transport.close()

        assert await client.receive_some() == b"answer"
        assert await client.receive_some() == b""
        assert client.ended


async def test_a_client_that_says_goodbye_is_answered():
    async with connected() as (transport, client):
        client.say_goodbye()
        assert transport.receive_nowait() == b""
        transport.close()

        assert await client.receive_some() == b""
        assert client.ended


@pytest.mark.parametrize("heard_by", ["a read", "the watch"])
async def test_nothing_is_written_to_a_client_that_has_hung_up(heard_by):
    async with connected() as (transport, client):
        before, ear = sent(transport), Ear()
        transport.watch(ear)
        client.below.send_eof_nowait()
        if heard_by == "a read":
            assert transport.receive_nowait() == b""
        else:
            assert await ear.hears(Cause.FIN)
        transport.close()

        assert sent(transport) == before


async def test_a_client_that_has_hung_up_and_is_answered_all_the_same_hears_our_goodbye():
    async with connected() as (transport, client):
        client.below.send_eof_nowait()
        assert transport.receive_nowait() == b""
        transport.send_nowait(b"answer")
        transport.close()

        assert await client.receive_some() == b"answer"
        assert await client.receive_some() == b""


async def test_a_reset_says_nothing():
    async with connected() as (transport, client):
        before = sent(transport)
        transport.reset()

        assert sent(transport) == before
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_a_response_that_is_cut_in_a_record_is_followed_by_nothing():
    async with connected(window=100, send_buffer=100) as (transport, client):
        transport.send_nowait(bytes(1000))
        transport.close()

        with pytest.raises(ssl.SSLEOFError):
            await client.receive_some()


async def test_after_our_fin_receiving_goes_on():
    async with connected() as (transport, client):
        transport.send_nowait(b"answer")
        transport.send_eof()
        await client.send_all(b"the rest")

        assert transport.receive_nowait() == b"the rest"
        assert await client.receive_some() == b"answer"
        assert await client.receive_some() == b""
        client.say_goodbye()
        assert transport.receive_nowait() == b""


# The handshake


async def test_a_handshake_over_a_connection_with_little_room_comes_to_its_end():
    async with connected(window=10, send_buffer=10) as (transport, client):
        assert client.tls.version() == transport._tls.version() == "TLSv1.3"


async def test_a_client_that_does_not_trust_us_is_a_failed_handshake():
    peer, below = pair()
    stranger = ssl.create_default_context()
    stranger.maximum_version = ssl.TLSVersion.TLSv1_2
    transport, client = TlsTransport(below, _server_context()), TlsClient(peer, stranger)

    async def shake() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.handshake()
        client.flush_nowait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake)
        with pytest.raises(HandshakeError, match="unknown ca"):
            await transport.handshake()
    transport.close()


async def test_a_client_that_leaves_in_the_handshake_is_gone():
    peer, below = pair()
    transport = TlsTransport(below, _server_context())
    async with trio.open_nursery() as nursery:

        async def shake() -> None:
            with pytest.raises(HungUp) as ended:
                await transport.handshake()
            assert ended.value.cause is Cause.FIN

        nursery.start_soon(shake)
        await peer.send_all(b"\x16\x03\x01")
        peer.close()
    transport.close()


async def test_answers_to_records_that_nobody_takes_are_kept_up_to_a_bound():
    async with connected(window=10, send_buffer=10) as (transport, _):
        transport._outgoing.write(bytes(60_000))
        transport._send_control()
        assert transport.receive_nowait() is None
        transport._outgoing.write(bytes(10_000))
        transport._send_control()
        with pytest.raises(HungUp) as ended:
            transport.receive_nowait()
        assert ended.value.cause is Cause.TLS_ERROR


@pytest.mark.parametrize("tickets", [0, 2])
async def test_session_tickets_are_sent_at_the_handshakes_end(tickets):
    peer, below = pair()
    transport, client = TlsTransport(below, server_context(tickets=tickets)), TlsClient(peer, _client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        await transport.handshake()
    transport.send_nowait(b"x")

    assert await client.receive_some() == b"x"
    assert client.tls.session.has_ticket == bool(tickets)
    transport.close()
    peer.close()


# Whatever comes


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=2000), max_size=5),
    damage=st.none() | st.tuples(st.integers(0, 20_000), st.integers(1, 255)),
    cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_whatever_happens_to_the_clients_bytes_what_is_received_is_a_beginning_of_what_it_said(pieces, damage, cuts):
    async def play() -> None:
        async with connected(window=10**6) as (transport, client):
            for piece in pieces:
                client.tls.write(piece)
            wire = bytearray(client.outgoing.read())
            damaged = damage is not None and damage[0] < len(wire)
            if damaged:
                wire[damage[0]] ^= damage[1]
            got, ended, turn = b"", False, 0
            while wire and not ended:
                size = cuts[turn % len(cuts)]
                turn += 1
                await client.below.send_all(wire[:size])
                del wire[:size]
                try:
                    got += received(transport) or b""
                except HungUp:
                    ended = transport._end is Cause.TLS_ERROR
            said = b"".join(pieces)
            assert said.startswith(got) if damaged else got == said
            assert not ended or damaged

    trio.run(play, clock=MockClock(autojump_threshold=0))


@given(
    damage=st.lists(st.tuples(st.integers(0, 600), st.integers(1, 255)), min_size=1, max_size=3),
    cut=st.integers(1, 600),
)
def test_a_handshake_that_is_damaged_fails_or_waits_and_nothing_else(damage, cut):
    async def play() -> None:
        peer, below = pair()
        transport, client = TlsTransport(below, _server_context()), TlsClient(peer, _client_context())
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        hello = bytearray(client.outgoing.read())
        for place, change in damage:
            hello[place % len(hello)] ^= change
        await peer.send_all(hello[:cut])
        await peer.send_all(hello[cut:])
        peer.send_eof_nowait()
        with pytest.raises((HandshakeError, HungUp)):
            await transport.handshake()
        transport.close()

    trio.run(play, clock=MockClock(autojump_threshold=0))

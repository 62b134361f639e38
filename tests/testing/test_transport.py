"""The connection in memory: what it adds to TCP's semantics, which tests/lifecycle holds against real sockets."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Coroutine
from typing import Any

import outcome
import pytest
import trio
from trio.testing import assert_no_checkpoints

from trioserve.connection.spool import Budget, Spool
from trioserve.connection.transport import Interrupted
from trioserve.core.messages import FileSlice
from trioserve.testing import memory_connection


def connection(**settings: int) -> tuple:
    return memory_connection(Spool(math.inf, Budget(math.inf)), **settings)


async def test_a_receive_takes_all_that_has_arrived() -> None:
    peer, transport = connection()
    await peer.send_all(b"one")
    await peer.send_all(b"two")
    assert transport.receive_nowait() == b"onetwo"


async def test_with_a_segment_each_receive_and_send_is_short_on_either_side() -> None:
    peer, transport = connection(segment=4)
    assert peer.send_nowait(b"0123456789") == 4
    await peer.send_all(b"456789")
    assert [transport.receive_nowait() for _ in range(4)] == [b"0123", b"4567", b"89", None]
    assert transport.send_nowait(b"abcdefghi") == 4
    assert transport.send_nowait(b"efghi") == 4
    assert await peer.receive_some() == b"abcd"
    assert await peer.receive_some(3) == b"efg"
    assert await peer.receive_some() == b"h"


async def test_with_a_segment_a_file_is_sent_in_short_writes() -> None:
    peer, transport = connection(segment=4)
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        assert transport.send_nowait(FileSlice(file, 0, 10)) == 4
    assert await peer.receive_some() == b"0123"


async def test_a_segment_bounds_what_is_absorbed_too() -> None:
    peer, transport = connection(segment=4)
    await peer.send_all(b"0123456789")
    transport.absorb()
    assert [transport.receive_nowait() for _ in range(4)] == [b"0123", b"4567", b"89", None]


async def test_where_the_client_ends_a_segment_a_receive_ends() -> None:
    peer, transport = connection()
    for piece in (b"one", b"two"):
        await peer.send_all(piece)
        peer.end_segment()
    peer.end_segment()  # an empty one is none
    await peer.send_all(b"three")
    assert [transport.receive_nowait() for _ in range(4)] == [b"one", b"two", b"three", None]
    peer.end_segment()
    await peer.send_all(b"four")
    assert transport.receive_nowait() == b"four"


async def test_the_end_of_a_segment_holds_behind_a_window_that_is_full() -> None:
    peer, transport = connection(window=2, send_buffer=8)
    assert peer.send_nowait(b"one") == 3
    peer.end_segment()
    assert peer.send_nowait(b"two") == 3
    received = []
    while data := transport.receive_nowait():
        received.append(data)
    assert received == [b"on", b"e", b"tw", b"o"]


@pytest.mark.parametrize("segment", [0, -1])
def test_a_segment_of_no_bytes_is_refused(segment: int) -> None:
    with pytest.raises(ValueError, match=f"segment={segment}: a receive or send is of one byte at least"):
        connection(segment=segment)


async def test_what_the_server_writes_is_counted_also_if_it_does_not_arrive() -> None:
    peer, transport = connection(window=2)
    transport.send_nowait(b"12345")
    with assert_no_checkpoints():
        assert peer.written == 5


async def test_after_its_fin_a_client_cannot_send() -> None:
    peer, transport = connection()
    await peer.send_eof()
    with pytest.raises(trio.ClosedResourceError, match="after the FIN"):
        await peer.send_all(b"more")
    assert transport.receive_nowait() == b""


def begun(wait: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    """A wait in its first step, before it is parked."""
    wait.send(None)
    return wait


async def test_an_interruption_that_comes_while_a_wait_begins_is_not_lost() -> None:
    _, transport = connection()
    reads = begun(transport.wait_readable())
    transport.interrupt()
    with pytest.raises(Interrupted):
        reads.send(outcome.Value(None))


async def test_a_wait_that_is_over_is_not_interrupted() -> None:
    _, transport = connection()
    writes = begun(transport.wait_writable())
    transport.interrupt()
    with pytest.raises(StopIteration):
        writes.send(outcome.Value(None))


async def test_a_wait_ends_with_an_interruption_when_this_end_closes() -> None:
    _, transport = connection()
    writes = begun(transport.wait_writable())
    transport.close()
    with pytest.raises(Interrupted):
        writes.send(outcome.Value(None))


def test_a_connection_counts_as_encrypted_if_it_is_said_to() -> None:
    assert [connection(scheme=scheme)[1].scheme for scheme in ("http", "https")] == ["http", "https"]
    assert connection()[1].scheme == "http"
    with pytest.raises(ValueError, match=r"scheme='wss': it must be"):
        connection(scheme="wss")

"""The connection in memory: what it adds to TCP's semantics, which tests/lifecycle holds against real sockets."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Coroutine
from typing import Any

import outcome
import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from trioserve.connection.spool import Budget, Spool
from trioserve.connection.transport import HungUp, Interrupted
from trioserve.core.lifecycle import Cause
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


# What TCP does, and a test would hardly miss


async def test_a_fin_stays_behind_what_there_is_no_room_for() -> None:
    peer, transport = connection(window=2)
    assert peer.send_nowait(b"hello") == 5
    peer.send_eof_nowait()
    received = [transport.receive_nowait() for _ in range(4)]
    assert received == [b"he", b"ll", b"o", b""]


async def test_a_fin_behind_what_there_is_no_room_for_is_no_news() -> None:
    peer, transport = connection(window=2)
    news: list[Cause] = []
    transport.watch(news.append)
    peer.send_nowait(b"hello")
    peer.send_eof_nowait()
    await wait_all_tasks_blocked()
    transport.look()
    assert news == []
    while transport.receive_nowait():
        pass
    transport.look()
    assert news == [Cause.FIN]


async def test_a_reset_takes_what_is_on_its_way_with_it() -> None:
    peer, transport = connection(window=2)
    peer.send_nowait(b"hello")
    peer.reset()
    assert transport.receive_nowait() == b"he"
    with pytest.raises(HungUp) as hung_up:
        transport.receive_nowait()
    assert hung_up.value.cause is Cause.RESET


async def test_a_reset_takes_a_fin_that_is_on_its_way_with_it() -> None:
    peer, transport = connection(window=2)
    peer.send_nowait(b"hello")
    peer.send_eof_nowait()
    peer.reset()
    assert transport.receive_nowait() == b"he"
    with pytest.raises(HungUp):
        transport.receive_nowait()


async def test_a_reset_of_the_server_takes_what_is_on_its_way_with_it() -> None:
    peer, transport = connection(window=2)
    transport.send_nowait(b"hello")
    assert transport.unacked_bytes() == 3
    transport.reset()
    assert transport.unacked_bytes() == 0
    assert await peer.receive_some() == b"he"
    with pytest.raises(trio.BrokenResourceError):
        await peer.receive_some()


async def test_what_the_server_has_sent_to_a_client_that_resets_is_not_on_its_way_any_more() -> None:
    peer, transport = connection(window=2)
    transport.send_nowait(b"hello")
    peer.reset()
    assert transport.unacked_bytes() == 0
    with pytest.raises(HungUp):
        transport.send_nowait(b"x")


async def test_of_a_client_that_has_vanished_only_the_senders_buffer_has_room() -> None:
    peer, transport = connection(window=4, send_buffer=8)
    peer.vanish()
    assert transport.send_nowait(bytes(20)) == 8
    assert transport.send_nowait(bytes(20)) == 0
    assert transport.unacked_bytes() == 8
    assert peer.send_nowait(bytes(20)) == 8


async def test_nothing_arrives_once_a_client_has_vanished() -> None:
    peer, transport = connection(window=2)
    peer.send_nowait(b"hello")
    transport.send_nowait(b"hello")
    peer.vanish()
    assert [transport.receive_nowait() for _ in range(2)] == [b"he", None]
    assert await peer.receive_some() == b"he"
    peer.send_eof_nowait()
    transport.send_eof()
    assert transport.receive_nowait() is None
    assert not peer.is_readable


async def test_a_client_that_has_vanished_gives_no_reset() -> None:
    peer, transport = connection()
    news: list[Cause] = []
    transport.watch(news.append)
    peer.vanish()
    peer.reset()
    assert transport.send_nowait(b"x") == 1  # and that provokes none
    await wait_all_tasks_blocked()
    transport.look()
    assert news == []
    assert transport.receive_nowait() is None


async def test_a_client_that_has_vanished_takes_no_reset() -> None:
    peer, transport = connection()
    peer.vanish()
    transport.reset()
    assert not peer.is_readable
    assert peer.send_nowait(b"x") == 1


async def test_who_has_closed_is_told_nothing_any_more() -> None:
    peer, transport = connection()
    news: list[object] = []
    transport.watch(news.append)
    transport.watch_unread(lambda: news.append("bytes"))
    await wait_all_tasks_blocked()
    transport.close()
    peer.send_nowait(b"more")
    peer.send_eof_nowait()
    transport.look()
    await wait_all_tasks_blocked()
    assert news == []


async def test_who_has_closed_keeps_nothing_that_was_taken_in() -> None:
    budget = Budget(math.inf)
    peer, transport = memory_connection(Spool(math.inf, budget))
    peer.send_nowait(b"taken in")
    transport.absorb()
    assert transport.has_bytes()
    transport.close()
    assert not transport.has_bytes()


async def test_each_news_is_told_once() -> None:
    peer, transport = connection()
    news: list[Cause] = []
    transport.watch(news.append)
    peer.send_eof_nowait()
    for _ in range(2):
        transport.look()
        await wait_all_tasks_blocked()
    assert news == [Cause.FIN]
    peer.reset()
    for _ in range(2):
        transport.look()
        await wait_all_tasks_blocked()
    assert news == [Cause.FIN, Cause.RESET]


async def test_news_comes_between_two_steps_and_who_looks_hears_it_before() -> None:
    peer, transport = connection()
    news: list[Cause] = []
    transport.watch(news.append)
    await wait_all_tasks_blocked()
    peer.reset()
    assert news == []
    transport.look()
    assert news == [Cause.RESET]


async def test_a_reset_that_a_send_provokes_comes_a_moment_later() -> None:
    peer, transport = connection()
    news: list[Cause] = []
    transport.watch(news.append)
    peer.close()
    assert transport.send_nowait(b"one") == 3
    assert transport.send_nowait(b"two") == 3
    assert news == []
    await wait_all_tasks_blocked()
    assert news[-1] is Cause.RESET
    with pytest.raises(HungUp):
        transport.send_nowait(b"three")


async def test_a_client_that_half_closed_provokes_no_reset() -> None:
    peer, transport = connection()
    peer.send_eof_nowait()
    assert transport.send_nowait(b"one") == 3
    await wait_all_tasks_blocked()
    assert transport.send_nowait(b"two") == 3
    assert await peer.receive_some() == b"onetwo"


async def test_who_closes_with_bytes_unread_resets() -> None:
    peer, transport = connection()
    transport.send_nowait(b"unread")
    peer.close()
    with pytest.raises(HungUp):
        transport.receive_nowait()
    peer, transport = connection()
    peer.send_nowait(b"unread")
    transport.close()
    with pytest.raises(trio.BrokenResourceError):
        await peer.receive_some()

"""ReadAhead over a real socket: the contract of the hangup watch, kept by reading before anybody asks."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.support import Ear, happens, reset, something_arrives, tcp_pair
from trioserve.connection.hangup import HangupWatch, current_hangup_watch
from trioserve.connection.readahead import LOOK_AT_LEAST_EVERY, READ_AHEAD, ReadAhead, WatchedReadAhead
from trioserve.connection.spool import RECEIVE_SIZE, Budget, Spool
from trioserve.connection.transport import HungUp, Interrupted, SocketTransport
from trioserve.core.lifecycle import Cause
from trioserve.testing.transport import memory_connection


@asynccontextmanager
async def connected(
    *,
    spool: float = math.inf,
    spools: Budget | None = None,
    allowance: int = 0,
    receive_buffer: int | None = None,
    watch: HangupWatch | None = None,
) -> AsyncIterator[tuple[ReadAhead, socket.socket]]:
    """A transport whose pump runs, beside the watch if there is one, and its client's socket."""
    with tcp_pair(receive_buffer=receive_buffer) as (server, client):
        below = SocketTransport(
            server,
            client.getsockname(),
            watch=watch,
            spool=Spool(math.inf, Budget(math.inf)),
            receive_buffers=Budget(math.inf),
        )
        kind = ReadAhead if watch is None else WatchedReadAhead
        transport = kind(below, Spool(spool, spools or Budget(math.inf), allowance))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.pump)
            try:
                yield transport, client
            finally:
                transport.close()  # which ends the pump, and so the nursery


async def happens_to(wait: Callable) -> None:
    with trio.fail_after(5):
        await wait()


async def receive(transport: ReadAhead, size: float = math.inf) -> bytes:
    """So many bytes, or what comes before the FIN."""
    received = b""
    with trio.fail_after(10):
        while len(received) < size:
            await transport.wait_readable()
            data = transport.receive_nowait()
            if data == b"":
                break
            received += data or b""
    return received


async def push(sock: socket.socket, size: int) -> None:
    with trio.fail_after(10):
        left = memoryview(bytes(range(256)) * (size // 256 + 1))[:size]
        while left:
            await trio.lowlevel.wait_writable(sock)
            left = left[sock.send(left) :]


async def fill(sock: socket.socket) -> int:
    """Send until neither the client's system nor the pump takes more; returns how many bytes."""
    sent = 0
    while True:
        try:
            sent += sock.send(bytes(RECEIVE_SIZE))
        except BlockingIOError:
            before = sent
            await wait_all_tasks_blocked()
            try:
                sent += sock.send(bytes(RECEIVE_SIZE))
            except BlockingIOError:
                pass
            if sent == before:
                return sent


async def test_bytes_are_received_in_order_and_none_if_there_is_nothing_yet():
    async with connected() as (transport, client):
        assert transport.receive_nowait() is None
        await push(client, 1_000_000)
        client.close()

        assert await receive(transport) == (bytes(range(256)) * 4_000)[:1_000_000]


async def push_and_close(sock: socket.socket, size: int) -> None:
    await push(sock, size)
    sock.close()


async def test_bytes_are_there_whether_the_pump_has_had_its_turn_or_not():
    async with connected() as (transport, client):
        assert not transport.has_bytes()
        client.send(b"hello")
        while not transport._transport.has_bytes():
            pass  # they are on their way through the kernel; the pump does not run meanwhile
        assert transport.has_bytes()
        await wait_all_tasks_blocked(0.01)

        assert transport.has_bytes()
        assert await receive(transport, 5) == b"hello"
        assert not transport.has_bytes()
        client.close()
        await happens_to(transport.wait_readable)
        assert not transport.has_bytes()


async def test_what_is_put_back_comes_again_before_what_arrives_later():
    async with connected() as (transport, client):
        client.send(b"ab")
        data = await receive(transport, 2)

        transport.put_back(data)
        client.send(b"cd")

        assert await receive(transport, 4) == b"abcd"


async def test_nothing_is_lost_of_what_is_larger_than_the_reach(nursery):
    size = 5_000_000
    async with connected(receive_buffer=65_536) as (transport, client):
        nursery.start_soon(push_and_close, client, size)

        assert await receive(transport) == (bytes(range(256)) * (size // 256 + 1))[:size]


async def test_a_fin_is_told_and_met_in_its_place():
    ear = Ear()
    async with connected() as (transport, client):
        transport.watch(ear)
        client.send(b"unread")
        client.close()

        assert await ear.hears(Cause.FIN)
        assert transport.receive_nowait() == b"unread"
        assert transport.receive_nowait() == b""
        assert transport.receive_nowait() == b""


async def test_a_reset_is_told_and_met_behind_what_came_before_it():
    ear = Ear()
    async with connected() as (transport, client):
        transport.watch(ear)
        client.send(b"unread")
        await happens_to(transport.wait_readable)
        reset(client)

        assert await ear.hears(Cause.RESET)
        assert transport.receive_nowait() == b"unread"
        with pytest.raises(HungUp) as hung_up:
            transport.receive_nowait()
        assert hung_up.value.cause is Cause.RESET


async def test_a_reset_after_a_fin_is_told_too():
    ear = Ear()
    async with connected() as (transport, client):
        transport.watch(ear)
        client.shutdown(socket.SHUT_WR)
        assert await ear.hears(Cause.FIN)
        reset(client)

        assert await ear.hears(Cause.FIN, Cause.RESET)


async def test_after_a_fin_a_client_that_waits_for_its_answer_is_left_in_peace():
    ear = Ear()
    async with connected() as (transport, client):
        transport.watch(ear)
        client.shutdown(socket.SHUT_WR)
        assert await ear.hears(Cause.FIN)

        assert transport.send_nowait(b"answer") == 6
        await something_arrives(client)
        assert client.recv(100) == b"answer"
        assert ear.heard == [Cause.FIN]


async def test_a_hangup_that_came_before_the_watch_is_told():
    ear = Ear()
    async with connected() as (transport, client):
        client.close()
        await happens_to(transport.wait_readable)

        transport.watch(ear)

        assert ear.heard == [Cause.FIN]


async def test_look_tells_at_once_what_the_pump_has_not_had_its_turn_for():
    ear = Ear()
    async with connected() as (transport, client):
        transport.watch(ear)
        client.send(b"unread")
        client.close()
        while not ear.heard:  # no checkpoint: the pump cannot run
            transport.look()

        assert ear.heard == [Cause.FIN]
        assert transport.receive_nowait() == b"unread"


async def test_after_the_close_nothing_is_told():
    ear = Ear()
    async with connected() as (transport, client):
        transport.watch(ear)
        transport.close()
        client.close()
        transport.look()
        await wait_all_tasks_blocked()

        assert ear.heard == []


async def test_no_more_is_read_ahead_than_the_reach():
    async with connected(receive_buffer=65_536) as (transport, client):
        await fill(client)

        assert READ_AHEAD <= transport._spool.size < READ_AHEAD + RECEIVE_SIZE


async def test_a_fin_beyond_the_reach_is_told_once_bytes_are_absorbed():
    ear = Ear()
    async with connected(receive_buffer=65_536) as (transport, client):
        transport.watch(ear)
        await fill(client)
        client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert ear.heard == []

        transport.watch_unread(transport.absorb)

        assert await ear.hears(Cause.FIN)


async def test_the_spools_limit_bounds_what_is_absorbed():
    limit = 5 * RECEIVE_SIZE
    async with connected(spool=limit, receive_buffer=65_536) as (transport, client):
        transport.absorb()
        await fill(client)

        assert limit - RECEIVE_SIZE < transport._spool.size <= limit


async def test_the_servers_budget_bounds_what_all_connections_read_ahead_together():
    total = 3 * RECEIVE_SIZE
    spools = Budget(total)
    async with (
        connected(spools=spools, receive_buffer=65_536) as (one, first),
        connected(spools=spools, receive_buffer=65_536) as (other, second),
    ):
        one.absorb()
        other.absorb()
        await fill(first)
        await fill(second)

        assert total - 2 * RECEIVE_SIZE < one._spool.size + other._spool.size <= total
        assert spools.left >= 0
    assert spools.left == total


async def test_a_connection_is_served_also_while_others_have_used_up_the_budget():
    spools = Budget(2 * RECEIVE_SIZE)
    async with (
        connected(spools=spools, allowance=READ_AHEAD, receive_buffer=65_536) as (one, first),
        connected(spools=spools, allowance=READ_AHEAD) as (other, second),
    ):
        one.absorb()
        await fill(first)
        assert spools.left < RECEIVE_SIZE
        for _ in range(3):
            second.send(b"GET /")
            assert await receive(other, 5) == b"GET /"


async def test_a_pump_that_found_no_budget_goes_on_when_there_is_some_again():
    spools = Budget(2 * RECEIVE_SIZE)
    async with connected(spools=spools, allowance=READ_AHEAD) as (other, second):
        async with connected(spools=spools, allowance=READ_AHEAD, receive_buffer=65_536) as (one, first):
            one.absorb()
            await fill(first)
            second.send(b"GET /")
            assert await receive(other, 5) == b"GET /"
            await wait_all_tasks_blocked()
        second.send(b"GET /")
        assert await receive(other, 5) == b"GET /"


async def test_once_nobody_minds_unread_bytes_the_reach_is_short_again():
    async with connected(receive_buffer=65_536) as (transport, client):
        transport.absorb()
        transport.unwatch_unread()
        await fill(client)

        assert transport._spool.size < READ_AHEAD + RECEIVE_SIZE


async def test_a_spool_that_is_emptied_is_filled_again():
    async with connected(receive_buffer=65_536) as (transport, client):
        sent = await fill(client)

        assert len(await receive(transport, sent)) == sent
        client.send(b"more")
        assert await receive(transport, 4) == b"more"


async def test_what_has_arrived_is_received_also_before_the_pump_has_had_its_turn():
    async with connected() as (transport, client):
        client.send(b"hello")

        assert transport.receive_nowait() == b"hello"
        assert transport.receive_nowait() is None


async def test_waiting_is_always_a_checkpoint():
    async with connected() as (transport, client):
        client.send(b"hello")
        await happens_to(transport.wait_readable)
        with assert_checkpoints():
            await transport.wait_readable()
        transport.receive_nowait()
        client.close()
        await happens_to(transport.wait_readable)
        with assert_checkpoints():
            await transport.wait_readable()


@pytest.mark.parametrize("shielded", [False, True])
async def test_an_interruption_ends_both_waits_even_inside_a_shield_and_not_the_pump(nursery, shielded):
    ended: list[str] = []

    async def wait(name: str, wait: Callable) -> None:
        with trio.CancelScope(shield=shielded):
            try:
                await wait()
            except Interrupted:
                ended.append(name)

    async with connected() as (transport, client):
        while transport.send_nowait(bytes(RECEIVE_SIZE)):
            pass
        nursery.start_soon(wait, "reading", transport.wait_readable)
        nursery.start_soon(wait, "writing", transport.wait_writable)
        await wait_all_tasks_blocked()

        transport.interrupt()
        await wait_all_tasks_blocked()

        assert sorted(ended) == ["reading", "writing"]
        client.send(b"hello")
        assert await receive(transport, 5) == b"hello"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_the_end_ends_the_pump_and_gives_back_what_was_taken(nursery, how):
    budget = Budget(10 * RECEIVE_SIZE)
    ended = trio.Event()

    async def pump(transport: ReadAhead) -> None:
        await transport.pump()
        ended.set()

    with tcp_pair() as (server, client):
        below = SocketTransport(
            server, None, watch=None, spool=Spool(math.inf, Budget(math.inf)), receive_buffers=Budget(math.inf)
        )
        transport = ReadAhead(below, Spool(math.inf, budget))
        nursery.start_soon(pump, transport)
        client.send(b"unread")
        await happens_to(transport.wait_readable)
        assert budget.left < 10 * RECEIVE_SIZE

        getattr(transport, how)()
        getattr(transport, how)()

        await happens(ended.wait())
        assert budget.left == 10 * RECEIVE_SIZE
        await something_arrives(client)
        if how == "close":
            assert client.recv(100) == b""
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(100)


async def test_the_pump_ends_by_itself_when_there_is_nothing_more_to_hear(nursery):
    with tcp_pair() as (server, client):
        below = SocketTransport(
            server, None, watch=None, spool=Spool(math.inf, Budget(math.inf)), receive_buffers=Budget(math.inf)
        )
        transport = ReadAhead(below, Spool(math.inf, Budget(math.inf)))
        reset(client)

        await happens_to(transport.pump)

        transport.close()


# Beside a watch

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the hangup watch is Linux's")


@linux_only
async def test_beside_a_watch_a_fin_beyond_the_reach_is_told_and_met_in_its_place():
    size, ear = READ_AHEAD + 30_000, Ear()
    async with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        await push(client, size)
        client.close()

        assert await ear.hears(Cause.FIN)
        assert len(await receive(transport)) == size
        assert transport.receive_nowait() == b""


@linux_only
async def test_beside_a_watch_a_reset_behind_a_fin_is_told_though_the_pump_looks_for_none():
    ear = Ear()
    async with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        client.shutdown(socket.SHUT_WR)
        await happens_to(transport.wait_readable)
        await wait_all_tasks_blocked(0.01)
        assert set(ear.heard) == {Cause.FIN}
        ear.heard.clear()
        reset(client)

        assert await ear.hears(Cause.RESET)


@linux_only
async def test_beside_a_watch_what_came_before_a_reset_is_kept():
    ear = Ear()
    async with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(ear)
        client.send(b"unread")
        reset(client)  # before the pump has had its turn

        assert await ear.hears(Cause.RESET)
        assert transport.receive_nowait() == b"unread"
        with pytest.raises(HungUp) as hung_up:
            transport.receive_nowait()
        assert hung_up.value.cause is Cause.RESET


@linux_only
async def test_beside_a_watch_a_pump_that_found_no_budget_goes_on_when_there_is_some_again():
    budget, read = Budget(0), trio.Event()
    async with connected(watch=current_hangup_watch(), spools=budget) as (transport, client):
        transport.watch(Ear())
        transport.watch_unread(read.set)
        client.send(b"hello")
        await wait_all_tasks_blocked(0.01)
        assert not read.is_set()
        budget.give_back(RECEIVE_SIZE)

        await happens(read.wait())
        assert budget.left == RECEIVE_SIZE - 5
        assert transport.receive_nowait() == b"hello"


@linux_only
async def test_beside_a_watch_who_asks_for_bytes_gets_them_whatever_is_left_of_the_budget():
    async with connected(watch=current_hangup_watch(), spools=Budget(0)) as (transport, client):
        transport.watch(Ear())
        for size in (5, 2 * RECEIVE_SIZE):
            await push(client, size)
            assert len(await receive(transport, size)) == size


@linux_only
async def test_beside_a_watch_bytes_lie_below_while_a_task_waits_for_them_and_are_read_at_once_while_none_does():
    read = []
    async with connected(watch=current_hangup_watch()) as (transport, client):
        transport.watch(Ear())
        transport.watch_unread(lambda: read.append(transport._spool.size))
        client.send(b"asked for")
        assert await receive(transport, 9) == b"asked for"
        assert read == []

        client.send(b"not asked for")
        await wait_all_tasks_blocked(0.01)
        assert read == [13]
        assert transport.receive_nowait() == b"not asked for"


class CountedSpool(Spool):
    """Counts how often it is asked whether there is room."""

    __slots__ = ("asked",)

    def __init__(self, budget: Budget) -> None:
        super().__init__(math.inf, budget)
        self.asked = 0

    def has_room(self) -> bool:
        self.asked += 1
        return super().has_room()


async def test_beside_a_watch_a_pump_that_finds_no_budget_looks_ever_less_often_but_once_a_second(
    nursery, autojump_clock
):
    budget, read = Budget(0), trio.Event()
    spool = CountedSpool(budget)
    peer, below = memory_connection(Spool(math.inf, Budget(math.inf)))
    transport = WatchedReadAhead(below, spool)
    transport.watch(Ear())
    transport.watch_unread(read.set)
    nursery.start_soon(transport.pump)
    await peer.send_all(b"hello")
    await trio.sleep(100)
    assert 90 < spool.asked < 120

    budget.give_back(RECEIVE_SIZE)
    given_at = trio.current_time()
    await read.wait()
    assert trio.current_time() - given_at <= LOOK_AT_LEAST_EVERY
    assert transport.receive_nowait() == b"hello"
    transport.close()


async def test_beside_a_watch_who_waits_is_woken_by_a_look_and_a_sender_is_not(nursery, autojump_clock):
    peer, below = memory_connection(Spool(math.inf, Budget(math.inf)), send_buffer=1, window=1)
    transport = WatchedReadAhead(below, Spool(math.inf, Budget(math.inf)))
    transport.watch(Ear())
    while transport.send_nowait(b"x"):
        pass
    readable, writable = trio.Event(), trio.Event()

    async def note(wait: Callable, event: trio.Event) -> None:
        await wait()
        event.set()

    nursery.start_soon(note, transport.wait_readable, readable)
    nursery.start_soon(note, transport.wait_writable, writable)
    await wait_all_tasks_blocked()
    await peer.send_all(b"h")
    assert transport.has_bytes()  # before who waits has had its turn

    await readable.wait()
    assert transport.receive_nowait() == b"h"
    transport.close()


async def test_beside_a_watch_one_who_was_interrupted_leaves_the_bytes_to_the_next(nursery, autojump_clock):
    peer, below = memory_connection(Spool(math.inf, Budget(math.inf)))
    transport = WatchedReadAhead(below, Spool(math.inf, Budget(math.inf)))
    transport.watch(Ear())

    async def interrupted() -> None:
        with pytest.raises(Interrupted):
            await transport.wait_readable()

    nursery.start_soon(interrupted)
    await wait_all_tasks_blocked()
    nursery.start_soon(peer.send_all, b"hello")
    transport.interrupt()
    with trio.fail_after(5):
        await transport.wait_readable()
    assert transport.receive_nowait() == b"hello"
    transport.close()

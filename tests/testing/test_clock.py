"""The clock of the kit: it jumps where nothing but time is waited for, and only there."""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioserve import App
from trioserve.connection.hangup import current_hangup_watch
from trioserve.testing import VirtualClock, memory_server, run

HOUR = 3600.0


def virtually(test: Callable[..., Awaitable[None]]) -> Callable[[], None]:
    """Run an async test under a virtual clock."""

    def runs() -> None:
        run(test)

    runs.__name__ = test.__name__
    return runs


@virtually
async def test_waiting_for_time_alone_takes_none() -> None:
    await trio.sleep(HOUR)
    assert trio.current_time() == HOUR


@virtually
async def test_after_a_jump_the_time_is_the_deadline_to_the_last_bit() -> None:
    moments = [0.1 * number for number in range(1, 50)]
    for moment in moments:
        await trio.sleep_until(moment)
        assert trio.current_time() == moment


@virtually
async def test_what_comes_first_happens_first() -> None:
    order = []

    async def note(after: float) -> None:
        await trio.sleep(after)
        order.append((after, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for after in (3.0, 1.0, HOUR, 2.0):
            nursery.start_soon(note, after)
    assert order == [(after, after) for after in (1.0, 2.0, 3.0, HOUR)]


@virtually
async def test_no_jump_is_made_while_any_task_can_run() -> None:
    with trio.move_on_after(HOUR):
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == 0


@virtually
async def test_what_was_asked_for_by_run_sync_soon_comes_before_a_jump() -> None:
    happened = []
    token = trio.lowlevel.current_trio_token()

    def chain(left: int) -> None:
        happened.append(trio.current_time())
        if left:
            token.run_sync_soon(chain, left - 1)

    token.run_sync_soon(chain, 20)
    await trio.sleep(1)
    assert happened == [0] * 21


@virtually
async def test_a_thread_takes_its_real_time() -> None:
    done = threading.Event()
    with trio.fail_after(HOUR):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, done.wait)
            await trio.sleep(0.02)  # in earnest, beside a thread
            assert not done.is_set()
            done.set()
    assert 0.02 <= trio.current_time() < HOUR


def in_earnest() -> Callable[[], None]:
    """What takes a thread 0.01 s, from when the clock goes: that is a moment after the thread has begun."""
    clock = trio.lowlevel.current_clock()
    begin = clock.current_time()

    def work() -> None:
        given_up = time.monotonic() + 10
        while clock.current_time() == begin and time.monotonic() < given_up:
            time.sleep(0.001)
        time.sleep(0.01)

    return work


@virtually
async def test_a_thread_is_cut_by_no_deadline_that_is_far_away() -> None:
    with trio.move_on_after(HOUR) as scope:
        await trio.to_thread.run_sync(in_earnest())
    assert not scope.cancelled_caught
    assert 0.01 <= trio.current_time() < HOUR


@virtually
async def test_in_front_of_a_thread_that_hangs_deadlines_pass_in_real_time() -> None:
    let_go = threading.Event()
    with trio.move_on_after(0.01) as scope:
        await trio.to_thread.run_sync(partial(let_go.wait, HOUR), abandon_on_cancel=True)
    let_go.set()
    assert scope.cancelled_caught
    assert trio.current_time() >= 0.01


@virtually
async def test_a_thread_that_waits_for_the_task_is_not_waited_for() -> None:
    def work() -> None:
        trio.from_thread.run(trio.sleep, HOUR)

    await trio.to_thread.run_sync(work)
    assert trio.current_time() >= HOUR


@virtually
async def test_a_thread_beside_one_that_waits_for_the_task_is_waited_for() -> None:
    let_go = threading.Event()

    def inner() -> None:
        let_go.wait(HOUR)

    async def nested() -> None:
        await trio.to_thread.run_sync(inner)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, partial(trio.from_thread.run, nested))
        with trio.move_on_after(0.01):
            await trio.sleep(HOUR)
        assert trio.current_time() < HOUR
        let_go.set()


@virtually
async def test_a_descriptor_takes_its_real_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        thread = threading.Timer(0.01, partial(theirs.send, b"x"))
        thread.start()
        with trio.fail_after(HOUR):
            await trio.lowlevel.wait_readable(ours)
        thread.join()
    assert 0.005 <= trio.current_time() < HOUR


class Hidden:
    """An awaitable whose frames trio cannot see, as some libraries have them."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[object, object, None]:
        return self._wait().__await__()


@virtually
async def test_a_thread_takes_its_real_time_also_in_frames_that_cannot_be_seen() -> None:
    with trio.fail_after(HOUR):
        await Hidden(partial(trio.to_thread.run_sync, in_earnest()))
    assert 0.01 <= trio.current_time() < HOUR


@virtually
async def test_a_thread_takes_its_real_time_in_an_async_generator() -> None:
    async def rows() -> AsyncIterator[None]:
        yield await trio.to_thread.run_sync(in_earnest())

    with trio.fail_after(HOUR):
        async with aclosing(rows()) as generator:
            await anext(generator)
        async with aclosing(rows()) as generator:
            await anext(generator, None)
    assert 0.02 <= trio.current_time() < HOUR


@virtually
async def test_a_descriptor_takes_its_real_time_also_in_frames_that_cannot_be_seen() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with trio.move_on_after(0.01) as scope:
            await Hidden(partial(trio.lowlevel.wait_readable, ours))
        assert scope.cancelled_caught
    assert trio.current_time() >= 0.01


@virtually
async def test_when_the_descriptor_waits_have_ended_time_jumps_again() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        await trio.lowlevel.wait_readable(ours)
        await trio.lowlevel.wait_writable(ours)
        await trio.sleep(HOUR)
    assert trio.current_time() >= HOUR


@virtually
async def test_a_child_process_takes_its_real_time() -> None:
    with trio.fail_after(HOUR):
        await trio.run_process([sys.executable, "-c", "import time; time.sleep(0.01)"])
    assert 0.01 <= trio.current_time() < HOUR


@virtually
async def test_time_stands_again_when_nothing_outside_is_waited_for() -> None:
    await trio.to_thread.run_sync(time.sleep, 0.001)
    await trio.sleep(0.001)
    stands_at = trio.current_time()
    time.sleep(0.001)  # noqa: ASYNC251 - real time goes on
    assert trio.current_time() == stands_at
    await trio.sleep(HOUR)
    assert trio.current_time() == stands_at + HOUR


@virtually
async def test_in_front_of_a_thread_nothing_polls() -> None:
    looks = 0

    class Looks(trio.abc.Instrument):
        def before_io_wait(self, _: float) -> None:
            nonlocal looks
            looks += 1

    trio.lowlevel.add_instrument(Looks())
    with trio.fail_after(HOUR):
        await trio.to_thread.run_sync(time.sleep, 0.05)
    assert looks < 20


@pytest.mark.parametrize("cushion", [0, 0.002])
def test_who_waits_until_all_tasks_are_blocked_goes_first(cushion: float) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for moment in (1, 2):
                nursery.start_soon(trio.sleep, moment)
                await wait_all_tasks_blocked(cushion)
                assert trio.current_time() == moment - 1
                await trio.sleep_until(moment)

    run(main)


@virtually
async def test_time_stands_while_a_task_waits_until_all_are_blocked() -> None:
    await trio.to_thread.run_sync(time.sleep, 0.001)
    await wait_all_tasks_blocked()
    stands_at = trio.current_time()
    await wait_all_tasks_blocked(0.002)
    assert trio.current_time() == stands_at


@virtually
async def test_the_clock_can_be_set_forward() -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock)
    with trio.move_on_after(HOUR) as scope:
        clock.jump(HOUR)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        raise AssertionError("the deadline has passed")
    assert scope.cancelled_caught
    with pytest.raises(ValueError, match="time cannot go back by 1 seconds"):
        clock.jump(-1)


async def _sleep_for_a_while() -> float:
    await trio.to_thread.run_sync(time.sleep, 0.001)
    await trio.sleep(HOUR)
    return trio.current_time()


def test_a_clock_can_be_used_again_and_begins_at_zero() -> None:
    clock = VirtualClock()
    for _ in range(3):

        async def main() -> None:
            assert trio.current_time() == 0
            await _sleep_for_a_while()

        trio.run(main, clock=clock)


def test_a_clock_can_be_used_again_after_a_run_that_ended_beside_a_thread() -> None:
    clock, let_go = VirtualClock(), threading.Event()

    async def main() -> None:
        assert trio.current_time() == 0
        with trio.move_on_after(0.001):
            await trio.to_thread.run_sync(partial(let_go.wait, HOUR), abandon_on_cancel=True)

    trio.run(main, clock=clock)
    trio.run(main, clock=clock)
    let_go.set()


def test_a_run_within_a_thread_of_another_has_a_time_of_its_own() -> None:
    async def main() -> None:
        assert await trio.to_thread.run_sync(run, _sleep_for_a_while) >= HOUR
        assert trio.current_time() < HOUR

    run(main)


def test_run_gives_keywords_and_the_result() -> None:
    async def add(one: int, *, other: int) -> int:
        await trio.sleep(HOUR)
        return one + other

    assert run(add, 1, other=2) == 3


@pytest.fixture
def virtual_clock() -> VirtualClock:
    return VirtualClock()


async def test_the_clock_serves_as_a_fixture_of_pytest_trio(virtual_clock: VirtualClock) -> None:
    assert trio.lowlevel.current_clock() is virtual_clock
    await trio.sleep(HOUR)
    assert virtual_clock.current_time() == HOUR


@virtually
async def test_a_server_in_memory_has_virtual_time() -> None:
    app = App()

    @app.get("/")
    async def slow() -> str:
        await trio.sleep(30)
        return "slept"

    async with memory_server(app) as server:
        client = server.connect()
        await client.send_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert trio.current_time() == 30


@virtually
async def test_the_hangup_watch_is_not_waited_for() -> None:
    current_hangup_watch()
    await trio.sleep(HOUR)
    assert trio.current_time() == HOUR


def test_without_any_deadline_time_stands() -> None:
    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        event = trio.Event()
        timer = threading.Timer(0.01, lambda: token.run_sync_soon(event.set))
        timer.start()
        await event.wait()
        timer.join()
        assert trio.current_time() == 0
        assert trio.current_effective_deadline() == math.inf

    run(main)

"""Timers: due exactly when last set, almost free to set, and nobody's mistake stops the others'."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.logs import errors, tracebacks
from trioserve.connection.timers import _SMALL, Timers, current_timers


@pytest.fixture
async def timers(nursery) -> Timers:
    timers = Timers()
    nursery.start_soon(timers.run)
    return timers


class Calls:
    """A callback that notes when it was called."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(trio.current_time())


async def pass_time(clock: MockClock, seconds: float) -> None:
    """Let time pass in steps of a second, and everybody have their turn after each."""
    for _ in range(int(seconds)):
        clock.jump(1)
        await wait_all_tasks_blocked()


async def test_a_timer_is_due_once_at_the_time_that_was_set(mock_clock, timers):
    calls = Calls()
    timers.timer(calls).set(3)

    await pass_time(mock_clock, 10)

    assert calls.at == [3]


async def test_a_timer_that_was_never_set_is_never_due(mock_clock, timers):
    calls = Calls()
    timers.timer(calls)

    await pass_time(mock_clock, 10)

    assert calls.at == []


async def test_a_timer_set_to_later_is_due_then_and_not_before(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    timer.set(3)
    timer.set(5)

    await pass_time(mock_clock, 10)

    assert calls.at == [5]


async def test_a_timer_set_to_earlier_is_due_then_and_not_again(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    timer.set(5)
    timer.set(3)

    await pass_time(mock_clock, 10)

    assert calls.at == [3]


async def test_a_timer_set_to_the_past_is_due_at_once(mock_clock, timers):
    await pass_time(mock_clock, 5)
    calls = Calls()
    timers.timer(calls).set(2)

    await wait_all_tasks_blocked()

    assert calls.at == [5]


async def test_a_timer_can_be_put_off_while_it_runs(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    for _ in range(10):
        timer.set(trio.current_time() + 3)
        await pass_time(mock_clock, 2)
    assert calls.at == []

    await pass_time(mock_clock, 5)

    assert calls.at == [21]


async def test_a_stopped_timer_is_not_due(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    timer.set(3)
    timer.stop()

    await pass_time(mock_clock, 10)

    assert calls.at == []


async def test_a_stopped_timer_can_be_set_again(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    timer.set(3)
    timer.stop()
    timer.set(4)

    await pass_time(mock_clock, 10)

    assert calls.at == [4]


async def test_a_timer_that_was_due_can_be_set_again_also_by_its_callback(mock_clock, timers):
    calls = Calls()

    def again() -> None:
        calls()
        if len(calls.at) < 3:
            timer.set(trio.current_time() + 2)

    timer = timers.timer(again)
    timer.set(1)

    await pass_time(mock_clock, 10)

    assert calls.at == [1, 3, 5]


async def test_timers_are_due_in_the_order_of_their_times(mock_clock, timers):
    order: list[str] = []
    for when, name in ((3, "late"), (1, "early"), (2, "between")):
        timers.timer(lambda name=name: order.append(name)).set(when)

    mock_clock.jump(10)
    await wait_all_tasks_blocked()

    assert order == ["early", "between", "late"]


async def test_a_callback_may_stop_another_timer_that_is_due_at_the_same_time(mock_clock, timers):
    calls = Calls()
    other = timers.timer(calls)
    timers.timer(other.stop).set(2)
    other.set(3)

    mock_clock.jump(10)
    await wait_all_tasks_blocked()

    assert calls.at == []


async def test_a_discarded_timer_is_not_due(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    timer.set(3)
    timer.discard()
    timer.discard()

    await pass_time(mock_clock, 10)

    assert calls.at == []


async def test_a_discarded_timer_lets_go_of_whoever_it_would_have_called(timers):
    class Owner:
        def __init__(self) -> None:
            self.timer = timers.timer(self.too_late)

        def too_late(self) -> None: ...

    owner = Owner()
    gone = weakref.ref(owner)
    owner.timer.set(1_000)
    owner.timer.discard()
    del owner
    gc.collect()

    assert gone() is None


async def test_the_heap_does_not_grow_with_the_timers_that_were_discarded(mock_clock, timers):
    calls = Calls()
    staying = [timers.timer(calls) for _ in range(10)]
    for number, timer in enumerate(staying):
        timer.set(5_000 + number)
    for _ in range(20 * _SMALL):
        timer = timers.timer(calls)
        timer.set(4_000)
        timer.discard()

    assert len(timers._heap) < 3 * _SMALL

    mock_clock.jump(6_000)
    await wait_all_tasks_blocked()
    assert len(calls.at) == len(staying)


async def test_a_stopped_timer_can_be_set_again_also_when_discarded_ones_were_cleaned_away(mock_clock, timers):
    calls = Calls()
    stopped = timers.timer(calls)
    stopped.set(4_000)
    stopped.stop()
    for _ in range(3 * _SMALL):
        timer = timers.timer(Calls())
        timer.set(5_000)
        timer.discard()

    stopped.set(4_500)
    mock_clock.jump(4_500)
    await wait_all_tasks_blocked()
    assert calls.at == [4_500]


async def test_setting_a_timer_again_and_again_does_not_grow_the_heap(timers):
    timer = timers.timer(Calls())
    for number in range(1_000):
        timer.set(1_000 + number)
        timer.stop()

    assert len(timers._heap) == 1


async def test_setting_a_timer_earlier_and_later_by_turns_does_not_grow_the_heap(mock_clock, timers):
    calls = Calls()
    timer = timers.timer(calls)
    for _ in range(50):
        timer.set(trio.current_time() + 9)
        timer.set(trio.current_time() + 1)
        await pass_time(mock_clock, 1)
        timer.set(trio.current_time() + 9)
        await pass_time(mock_clock, 1)

    assert len(calls.at) == 50
    assert len(timers._heap) < 10


async def test_a_callback_that_raises_is_logged_and_the_others_are_called(mock_clock, timers, caplog):
    def fail() -> None:
        raise ValueError("a mistake")

    calls = Calls()
    timers.timer(fail).set(2)
    timers.timer(calls).set(2)
    timers.timer(calls).set(3)

    await pass_time(mock_clock, 5)

    assert calls.at == [2, 3]
    assert [str(error) for error in tracebacks(caplog)] == ["a mistake"]
    assert len(errors(caplog)) == 1


async def test_a_timer_set_while_the_task_sleeps_for_long_wakes_it_in_time(mock_clock, timers):
    late, soon = Calls(), Calls()
    timers.timer(late).set(1_000)
    await wait_all_tasks_blocked()
    timers.timer(soon).set(2)

    await pass_time(mock_clock, 5)

    assert (soon.at, late.at) == ([2], [])


async def test_the_timers_of_a_run_are_one_and_outlive_the_task_that_asked_for_them_first(mock_clock):
    calls = Calls()
    asked: list[Timers] = []

    async def ask() -> None:
        asked.append(current_timers())
        await trio.sleep_forever()

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        await wait_all_tasks_blocked()
        asking.cancel_scope.cancel()
    current_timers().timer(calls).set(2)
    await pass_time(mock_clock, 5)

    assert asked == [current_timers()]
    assert calls.at == [2]


class Model:
    """Five timers beside what they should do, kept as one number for each."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.due: list[tuple[float, int]] = []
        self.should_be_due: list[tuple[float, int]] = []
        self._made = [self.timers.timer(partial(self._called, number)) for number in range(5)]
        self._when: dict[int, float] = {}

    def _called(self, number: int) -> None:
        self.due.append((trio.current_time(), number))

    def set(self, number: int, seconds: int) -> None:
        when = trio.current_time() + seconds
        self._made[number].set(when)
        self._when[number] = when

    def stop(self, number: int, _seconds: int) -> None:
        self._made[number].stop()
        self._when.pop(number, None)

    def discard(self, number: int, _seconds: int) -> None:
        """Replace the timer by a new one."""
        self._made[number].discard()
        self._made[number] = self.timers.timer(partial(self._called, number))
        self._when.pop(number, None)

    async def a_second_passes(self, clock: MockClock) -> None:
        await wait_all_tasks_blocked()
        now = trio.current_time()
        for number in [number for number, when in self._when.items() if when <= now]:
            self.should_be_due.append((now, number))
            del self._when[number]
        clock.jump(1)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["set", "set", "stop", "discard"]), st.integers(0, 4), st.integers(-2, 8)),
            st.tuples(st.just("wait"), st.just(0), st.integers(1, 6)),
        ),
        max_size=40,
    )
)
def test_whatever_is_done_to_timers_each_is_due_exactly_when_it_was_last_set(steps):
    async def main() -> None:
        model = Model()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(model.timers.run)
            for step, number, seconds in [*steps, ("wait", 0, 20)]:
                if step == "wait":
                    for _ in range(seconds):
                        await model.a_second_passes(clock)
                else:
                    getattr(model, step)(number, seconds)
            nursery.cancel_scope.cancel()
        assert sorted(model.due) == sorted(model.should_be_due)

    clock = MockClock()
    trio.run(main, clock=clock)


class Patient(Calls):
    """One that waits for a delay."""

    def delay_passed(self) -> None:
        self()


async def test_a_delay_is_over_for_each_at_its_own_time(mock_clock, timers):
    first, second, again = Patient(), Patient(), Patient()
    delay = timers.delay(3)
    delay.begin(again)
    delay.begin(first)
    await pass_time(mock_clock, 1)
    delay.begin(second)
    await pass_time(mock_clock, 1)
    delay.begin(again)

    await pass_time(mock_clock, 10)

    assert (first.at, second.at, again.at) == ([3], [4], [5])


async def test_a_delay_that_is_ended_is_never_over_and_holds_nobody(mock_clock, timers):
    ended, other = Patient(), Patient()
    delay = timers.delay(3)
    delay.begin(ended)
    await pass_time(mock_clock, 1)
    delay.begin(other)
    delay.end(ended)
    delay.end(ended)
    alive, calls = weakref.ref(ended), ended.at
    del ended

    await pass_time(mock_clock, 10)
    gc.collect()

    assert (calls, other.at, alive()) == ([], [4], None)


async def test_who_fails_at_the_end_of_a_delay_disturbs_no_other(mock_clock, timers, caplog):
    class Failing(Patient):
        def delay_passed(self) -> None:
            raise LookupError("a mistake")

    failing, other = Failing(), Patient()
    timers.delay(3).begin(failing)
    timers.delay(3).begin(other)

    await pass_time(mock_clock, 10)

    assert other.at == [3]
    assert errors(caplog) == ["trioserve: internal error in a timer; please report it"]


async def test_who_begins_anew_when_a_delay_is_over_is_told_again(mock_clock, timers):
    class Again(Patient):
        def delay_passed(self) -> None:
            self()
            timers.delay(3).begin(self)

    again = Again()
    timers.delay(3).begin(again)

    await pass_time(mock_clock, 7)

    assert again.at == [3, 6]

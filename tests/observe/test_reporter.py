"""The reporter: observers, hooks and the error log. Whatever a user's function does, it reaches nobody else."""

from __future__ import annotations

import functools
import logging
import math
import threading

import pytest
import trio
from trio.testing import MockClock

from tests.support.sample_records import abandoned, completed
from trioserve.core.errors import ERROR_LOGGER, RequestError
from trioserve.core.messages import RequestHead, RequestLine
from trioserve.observe.access_log import ACCESS_LOGGER, AccessLog
from trioserve.observe.reporter import Reporter

DEADLINE = 5.0
"""Virtual seconds. Where a test has a real thread, it has no clock that jumps and no deadline."""


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list = []

    def completed(self, record):
        self.told.append(record)

    def abandoned(self, record):
        self.told.append(record)


class Raiser:
    """An observer that raises, whatever it is told."""

    def completed(self, _record):
        raise ZeroDivisionError("completed")

    def abandoned(self, _record):
        raise ZeroDivisionError("abandoned")


def reporter(*hooks, observers=(), deadline=math.inf) -> Reporter:
    return Reporter(observers, hooks, deadline)


@pytest.fixture
def errors(caplog):
    """The entries of the error log so far."""
    caplog.set_level(logging.DEBUG)
    return lambda: [entry for entry in caplog.records if entry.name == ERROR_LOGGER]


@pytest.fixture
def clock():
    """Time that jumps ahead when everybody waits."""
    return MockClock(autojump_threshold=0)


# Observers


async def test_every_observer_is_told_of_every_record(errors):
    observers = [Recorder(), Recorder()]
    reports = reporter(observers=observers)
    records = [completed(), abandoned(), completed(status=404)]
    reports.completed(records[0])
    await reports.abandoned(records[1])
    reports.completed(records[2])
    for observer in observers:
        assert [id(record) for record in observer.told] == [id(record) for record in records]
    assert not errors()


async def test_an_observer_that_raises_is_logged_each_time_and_disturbs_nobody(errors):
    others = [Recorder(), Recorder()]
    reports = reporter(observers=[others[0], Raiser(), others[1]])
    reports.completed(completed())
    await reports.abandoned(abandoned())
    assert [len(other.told) for other in others] == [2, 2]
    assert [entry.levelname for entry in errors()] == ["ERROR", "ERROR"]
    for entry in errors():
        assert f"observer {__name__}.Raiser raised at GET /reports/" in entry.getMessage()
        assert entry.exc_info[0] is ZeroDivisionError


async def test_a_hook_is_told_although_an_observer_raises():
    told = []
    await reporter(told.append, observers=[Raiser()]).abandoned(abandoned())
    assert len(told) == 1


def test_an_observer_that_exits_is_logged_and_the_others_are_told(errors):
    class Exiting:
        def completed(self, _record):
            raise SystemExit(3)

    other = Recorder()
    reporter(observers=[Exiting(), other]).completed(completed())
    assert len(other.told) == 1
    [entry] = errors()
    assert entry.exc_info[0] is SystemExit


def test_completed_exchanges_are_wanted_only_by_observers():
    assert reporter(observers=[Recorder()]).wants_completed
    assert not reporter(print).wants_completed


def test_an_access_log_that_nobody_hears_wants_no_completed_exchanges(caplog):
    log = AccessLog()
    caplog.set_level(logging.WARNING, ACCESS_LOGGER)
    assert not Reporter((), (), math.inf, log).wants_completed
    assert Reporter((Recorder(),), (), math.inf, log).wants_completed
    caplog.set_level(logging.INFO, ACCESS_LOGGER)  # at any time
    assert Reporter((), (), math.inf, log).wants_completed


def test_the_access_log_is_told_before_the_observers(caplog):
    caplog.set_level(logging.INFO, ACCESS_LOGGER)
    lines: list[int] = []

    class Counter(Recorder):
        def completed(self, _record):
            lines.append(len(caplog.records))

    Reporter((Counter(),), (), math.inf, AccessLog()).completed(completed())
    assert lines == [1]


# Hooks


async def test_hooks_are_not_told_of_completed_exchanges():
    told = []
    reporter(told.append).completed(completed())
    assert told == []


async def test_every_hook_is_told_of_an_abandoned_exchange_once(errors):
    told = []

    async def hook(record):
        told.append(("async", record))

    def plain_hook(record):
        told.append(("plain", record))

    class Object:
        async def __call__(self, record):
            told.append(("object", record))

    record = abandoned()
    await reporter(hook, plain_hook, Object(), functools.partial(hook)).abandoned(record)
    assert sorted(kind for kind, _ in told) == ["async", "async", "object", "plain"]
    assert all(event is record for _, event in told)
    assert not errors()


async def test_the_report_is_over_when_the_hooks_are(clock):
    async def slow(_record):
        await trio.sleep(DEADLINE / 2)

    await reporter(slow).abandoned(abandoned())
    assert trio.current_time() == DEADLINE / 2


async def test_a_plain_hook_runs_in_a_worker_thread():
    threads = []
    await reporter(lambda _record: threads.append(threading.current_thread())).abandoned(abandoned())
    [thread] = threads
    assert thread is not threading.main_thread()


class Odd(BaseException):
    """Neither an Exception nor one of those that belong to the interpreter."""


@pytest.mark.parametrize("error", [ZeroDivisionError("boom"), SystemExit(3), Odd("boom")], ids=repr)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_hook_that_raises_is_logged_once_with_its_traceback(error, kind, errors):
    def plain_hook(_record):
        raise error

    async def async_hook(record):
        plain_hook(record)

    told = []
    await reporter(async_hook if kind == "async" else plain_hook, told.append).abandoned(abandoned())
    assert len(told) == 1
    [entry] = errors()
    assert f"{kind}_hook raised" in entry.getMessage()
    assert "/reports/2026" in entry.getMessage(), "the record is not lost"
    assert entry.levelname == "ERROR"
    kind_of_error, raised, traceback = entry.exc_info
    assert kind_of_error is type(error)
    assert raised is error
    while traceback.tb_next:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code is plain_hook.__code__


async def test_a_hanging_hook_is_stopped_at_its_deadline_and_logged_once(clock, errors):
    stopped = []

    async def hanging_hook(_record):
        try:
            await trio.sleep_forever()
        finally:
            stopped.append(trio.current_time())

    await reporter(hanging_hook, deadline=DEADLINE).abandoned(abandoned())
    assert stopped == [DEADLINE]
    assert trio.current_time() == DEADLINE
    [entry] = errors()
    assert "hanging_hook did not end within 5 s (Deadlines.hook)" in entry.getMessage()
    assert "/reports/2026" in entry.getMessage()
    assert entry.exc_info is None


async def test_a_hook_that_hangs_in_tasks_of_its_own_is_stopped_and_logged_once(clock, errors):
    async def hanging_hook(_record):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    await reporter(hanging_hook, deadline=DEADLINE).abandoned(abandoned())
    assert trio.current_time() == DEADLINE
    [entry] = errors()
    assert "hanging_hook did not end within 5 s (Deadlines.hook)" in entry.getMessage()


async def test_a_hook_may_fail_in_a_task_of_its_own_while_it_is_stopped(clock, errors):
    async def fail_when_stopped():
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def hook(_record):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_stopped)
            nursery.start_soon(trio.sleep_forever)

    await reporter(hook, deadline=DEADLINE).abandoned(abandoned())
    assert trio.current_time() == DEADLINE
    [group] = [entry.exc_info[1] for entry in errors() if entry.exc_info]
    assert [type(error) for error in group.exceptions] == [ZeroDivisionError]


async def test_a_hook_may_exit_in_a_task_of_its_own(errors):
    async def leave():
        raise SystemExit(3)

    async def hook(_record):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)

    told = []
    await reporter(hook, told.append).abandoned(abandoned())
    assert len(told) == 1
    [entry] = errors()
    assert "hook raised" in entry.getMessage()


async def test_a_hook_that_ends_in_time_is_not_called_late(clock, errors):
    async def punctual(_record):
        await trio.sleep(DEADLINE - 0.001)

    await reporter(punctual, deadline=DEADLINE).abandoned(abandoned())
    assert not errors()


async def test_a_plain_hook_that_hangs_is_left_behind_at_the_deadline(errors):
    # In real time: virtual time does not wait for threads to start.
    release, let_go = threading.Event(), threading.Event()

    def hanging_hook(_record):
        release.wait()
        let_go.set()

    try:
        await reporter(hanging_hook, deadline=0.5).abandoned(abandoned())
        assert not let_go.is_set()
        [entry] = errors()
        assert "hanging_hook did not end within 0.5 s" in entry.getMessage()
    finally:
        release.set()
    assert await trio.to_thread.run_sync(let_go.wait, 10)


async def test_each_of_several_hooks_has_the_whole_deadline(clock, errors):
    ended = []

    def sleeper(seconds):
        async def hook(_record):
            await trio.sleep(seconds)
            ended.append(seconds)

        return hook

    hooks = [sleeper(4.9), sleeper(4.8), sleeper(100), sleeper(4.7)]
    await reporter(*hooks, deadline=DEADLINE).abandoned(abandoned())
    assert sorted(ended) == [4.7, 4.8, 4.9]
    assert trio.current_time() == DEADLINE
    assert len(errors()) == 1


async def test_a_hook_that_raises_does_not_stop_the_others(clock, errors):
    ended = []

    async def raising(_record):
        raise ZeroDivisionError

    async def slow(_record):
        await trio.sleep(1)
        ended.append("slow")

    await reporter(raising, slow).abandoned(abandoned())
    assert ended == ["slow"]
    assert len(errors()) == 1


async def test_hooks_run_to_their_end_although_the_caller_is_being_cancelled(clock, errors):
    ended = []

    async def hook(_record):
        await trio.sleep(1)
        ended.append(trio.current_time())

    with trio.CancelScope() as scope:
        scope.cancel()
        await reporter(hook, deadline=DEADLINE).abandoned(abandoned())
    assert ended == [1]
    assert not errors()


async def test_plain_hooks_run_to_their_end_although_the_caller_is_being_cancelled(errors):
    told = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await reporter(told.append).abandoned(abandoned())
    assert len(told) == 1
    assert not errors()


async def test_the_deadline_holds_although_the_caller_is_being_cancelled(clock, errors):
    async def hanging_hook(_record):
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await reporter(hanging_hook, deadline=DEADLINE).abandoned(abandoned())
    assert trio.current_time() == DEADLINE
    assert len(errors()) == 1


async def test_without_hooks_a_report_does_not_wait():
    with trio.CancelScope() as scope:
        scope.cancel()
        await reporter(observers=[Recorder()]).abandoned(abandoned())
    assert not scope.cancelled_caught


# The error log

HEAD = RequestHead("GET", "/reports/2026?x", "1.1", [], 0)


@pytest.mark.parametrize(
    ("line", "what"),
    [(None, "a request"), (RequestLine("GET", "/a{b", "1.1"), "GET /a{b"), (HEAD, "GET /reports/2026?x")],
)
def test_a_request_that_is_refused_is_a_line_for_those_who_look_for_it(errors, line, what):
    reporter().request_refused(("192.0.2.1", 5000), line, RequestError(400, "this is wrong"))
    [entry] = errors()
    assert entry.levelname == "DEBUG"
    assert entry.getMessage() == f"refused {what} from 192.0.2.1:5000 with 400: this is wrong"


@pytest.mark.parametrize(
    ("head", "route", "what"),
    [
        (HEAD, "/reports/{year}", "GET /reports/{year}"),
        (HEAD, None, "GET /reports/2026?x"),
        (None, None, "an unreadable request"),
    ],
)
def test_a_handler_that_failed_is_logged_with_its_request_and_traceback(head, route, what, errors):
    error = ZeroDivisionError()
    reporter().handler_failed(head, route, error)
    [entry] = errors()
    assert entry.getMessage() == f"handler of {what} raised ZeroDivisionError: "
    assert entry.levelname == "ERROR"
    assert entry.exc_info[1] is error


def test_a_handler_that_takes_long_to_unwind_is_a_warning_with_its_stack(errors):
    reporter().unwind_overdue(HEAD, "/x", 5.0, "  File x, line 1\n")
    [entry] = errors()
    assert entry.getMessage() == (
        "handler of GET /x was cancelled 5 s ago (Deadlines.unwind) and has not ended; it is waiting here:\n"
        "  File x, line 1\n"
    )
    assert entry.levelname == "WARNING"


def test_what_goes_wrong_in_a_status_policy_or_in_trioserve_is_logged_with_its_traceback(errors):
    first, second = ZeroDivisionError(), ValueError()
    reporter().status_policy_failed(first)
    reporter().internal_error(second)
    assert [entry.exc_info[1] for entry in errors()] == [first, second]
    assert "abandoned_status" in errors()[0].getMessage()
    assert "report it" in errors()[1].getMessage()

"""Each rule: a handler that breaks it is found, and so is a server that does."""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import logging
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from trioserve import App, Cause, Config, Outcome, Phase, Response, Send
from trioserve.core.errors import ERROR_LOGGER
from trioserve.testing import Checkpoint, LeftAMess, ResponseBytes, Way, leave_at_every_point, run, wire_of
from trioserve.testing.plan import PlannedLeave
from trioserve.testing.play import Played, Setting, play
from trioserve.testing.rules import RULES, Found, broken_rules


def mess(handler: Callable[..., Any], **settings: Any) -> LeftAMess:
    """What is found when this handler is left."""
    app = App()
    app.get("/")(handler)
    with pytest.raises(LeftAMess) as caught:
        run(leave_at_every_point, app, "/", **settings)
    return caught.value


def names(error: LeftAMess) -> set[str]:
    return {breach.rule.name for breach in error.breaches}


def source(found: Found) -> str:
    assert found.place is not None
    return linecache.getline(found.place.file, found.place.line).strip()


# The handler


async def fails() -> str:
    await trio.sleep(1)
    raise LookupError("no such thing")


async def never_ends() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def cuts_its_clean_up_short() -> None:
    try:
        await trio.sleep(1)
    finally:
        await trio.sleep(2)


async def cuts_short_in_except() -> None:
    try:
        await trio.sleep(1)
    except BaseException:
        await trio.sleep(2)
        raise


async def cuts_short_in_aexit() -> None:
    @contextlib.asynccontextmanager
    async def held() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep(2)

    async with held():
        await trio.sleep(1)


async def swallows() -> None:
    with contextlib.suppress(trio.Cancelled):
        await trio.sleep(1)
    await trio.sleep(2)


async def swallows_for_ever() -> None:
    for _ in range(10):
        await trio.sleep(1)
    while True:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep(1)
            return


async def swallows_in_a_task() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swallows)


async def swallows_and_answers() -> str:
    try:
        await trio.sleep(1)
    except BaseException:
        pass
    return "x"


async def swallows_in_a_task_that_ends() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swallows_and_answers)


async def turns() -> None:
    try:
        await trio.sleep(1)
    except BaseException:
        raise ValueError("it did not work") from None


async def turns_in_a_task() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 1)
        nursery.start_soon(turns)


@pytest.mark.parametrize(
    ("handler", "rule", "line"),
    [
        (fails, "fails", 'raise LookupError("no such thing")'),
        (never_ends, "never ends", "await trio.sleep_forever()"),
        (cuts_its_clean_up_short, "cut short", "await trio.sleep(2)"),
        (cuts_short_in_except, "cut short", "await trio.sleep(2)"),
        (cuts_short_in_aexit, "cut short", "await trio.sleep(2)"),
        (swallows, "swallowed", "await trio.sleep(2)"),
        (swallows_for_ever, "swallowed", "await trio.sleep(1)"),
        (swallows_in_a_task, "swallowed", "await trio.sleep(2)"),
        (swallows_and_answers, "swallowed", "await trio.sleep(1)"),
        (swallows_in_a_task_that_ends, "swallowed", "await trio.sleep(1)"),
        (turns, "turned", 'raise ValueError("it did not work") from None'),
        (turns_in_a_task, "turned", 'raise ValueError("it did not work") from None'),
    ],
)
def test_a_handler_that_breaks_a_rule_is_found_with_its_line(
    handler: Callable[..., Awaitable[None]], rule: str, line: str
) -> None:
    error = mess(handler)
    assert names(error) == {rule}
    assert {source(breach.found) for breach in error.breaches} == {line}
    assert line in str(error)


def test_a_handler_that_does_not_end_while_its_client_stays_is_told_from_one_whose_client_has_left() -> None:
    async def goes_on() -> Response:
        async def write_body(send: Send) -> None:
            while True:
                await send(b"tick")
                await trio.sleep(100)

        return Response.stream(write_body)

    error = mess(goes_on)
    assert names(error) == {"never ends"}
    assert "breaks a rule even when its client stays" in str(error)
    assert "3600 s (of virtual time) after the request, and its client was still there" in str(error)
    assert "If it is a stream without an end, say how many seconds the client stays: stay=10" in str(error)

    async def never_ends_when_left() -> None:
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

    error = mess(never_ends_when_left)
    assert names(error) == {"never ends"}
    assert "3600 s (of virtual time) after its client had left" in str(error)
    assert "stay=" not in str(error)


def test_a_stream_without_an_end_that_leaves_a_mess_is_found() -> None:
    free = 3

    async def takes() -> Response:
        async def write_body(send: Send) -> None:
            nonlocal free
            free -= 1
            while True:
                await send(b"tick")
                await trio.sleep(1)

        return Response.stream(write_body)

    error = mess(takes, snapshot=lambda: free, stay=5)
    assert names(error) == {"snapshot"}
    assert "snapshot=<lambda>" not in str(error)
    assert "stay=5" in str(error)
    assert "checkpoint 1 of" in str(error)


def test_a_stream_that_cleans_up_carelessly_when_its_client_leaves_is_told_of_a_departure() -> None:
    async def streams() -> Response:
        async def write_body(send: Send) -> None:
            try:
                while True:
                    await send(b"tick")
                    await trio.sleep(1)
            finally:
                await trio.sleep(2)

        return Response.stream(write_body)

    error = mess(streams, stay=5)
    assert names(error) == {"cut short"}
    assert "is not safe to abandon" in str(error)


def test_what_a_play_cuts_itself_when_it_ends_a_handler_is_not_held_against_that() -> None:
    kept = [1]

    async def never_ends_in_its_shield() -> None:
        kept.clear()
        try:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            kept.append(1)

    error = mess(never_ends_in_its_shield, snapshot=lambda: kept)
    assert names(error) == {"never ends"}

    async def never_ends_when_left() -> None:
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            kept.clear()
            try:
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
            except BaseException:
                await trio.sleep(1)
                raise ValueError from None
            raise

    kept[:] = [1]
    error = mess(never_ends_when_left, snapshot=lambda: kept)
    assert names(error) == {"never ends"}


def test_a_handler_that_fails_before_its_client_left_is_told_in_one_line_behind_what_brought_that_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = [1, 2, 3]

    async def takes() -> str:
        connection = pool.pop()
        await trio.sleep(1)
        pool.append(connection)
        return "done"

    error = mess(takes, snapshot=lambda: len(pool))
    assert {(breach.rule.name, breach.found.early) for breach in error.breaches} == {
        ("snapshot", False),
        ("fails", True),
    }
    plays = sum(breach.found.early for breach in error.breaches)
    (line,) = [line for line in str(error).splitlines() if "IndexError" in line]
    assert line == (
        f"  fails: in {plays} plays the handler had failed before its client left, with IndexError: pop from empty "
        "list; perhaps because earlier plays left something behind: around= sets each play up anew"
    )
    assert "rule    snapshot" in str(error)
    assert not caplog.records


def test_the_error_log_of_a_play_is_told_where_it_explains_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    error = mess(fails)
    assert "Logged in this play:\n  handler of GET / raised LookupError: no such thing" in str(error)
    assert not caplog.records
    assert "Logged" not in str(mess(cuts_its_clean_up_short))
    logging.getLogger(ERROR_LOGGER).error("this comes behind the plays")
    assert [record.getMessage() for record in caplog.records] == ["this comes behind the plays"]


def test_a_handler_that_waits_for_what_earlier_plays_took_is_told_so() -> None:
    slots = trio.Semaphore(1)

    async def takes() -> str:
        await slots.acquire()
        await trio.sleep(1)
        slots.release()
        return "done"

    error = mess(takes, snapshot=lambda: slots.value)
    assert names(error) == {"snapshot", "never ends"}
    assert "rule    snapshot" in str(error)
    assert "its client was still there" in str(error)
    assert "perhaps because earlier plays left something behind" in str(error)


def test_what_an_allowed_rule_forbids_is_let_pass() -> None:
    app = App()
    app.get("/")(cuts_its_clean_up_short)
    assert run(leave_at_every_point, app, "/", allow=("cut short",)).total > 30


def test_a_snapshot_that_differs_is_found() -> None:
    free = 3

    async def takes() -> str:
        nonlocal free
        free -= 1
        await trio.sleep(1)
        free += 1
        return "done"

    error = mess(takes, snapshot=lambda: {"free": free})
    assert names(error) == {"snapshot"}
    assert "before the request: {'free': 3}" in str(error)
    assert "after its client left: {'free': 2}" in str(error)
    assert "await trio.sleep(1)" in str(error)


def test_a_snapshot_is_what_there_was_also_if_it_is_a_thing_that_lives_on() -> None:
    taken: list[int] = []

    async def takes() -> None:
        taken.append(1)
        await trio.sleep(1)
        taken.clear()

    assert names(mess(takes, snapshot=lambda: taken)) == {"snapshot"}


def test_a_snapshot_may_differ_when_the_handler_came_to_its_end() -> None:
    rows: list[int] = []

    async def inserts() -> bytes:
        await trio.sleep(1)
        rows.append(1)
        return bytes(100_000)

    app = App()
    app.get("/")(inserts)
    run(leave_at_every_point, app, "/", snapshot=lambda: rows)
    assert rows


async def test_an_async_snapshot_and_what_is_around_the_plays_work_in_a_run_of_ones_own(autojump_clock) -> None:
    rows: list[int] = []

    @contextlib.asynccontextmanager
    async def afresh() -> AsyncIterator[None]:
        await trio.sleep(1)
        rows.clear()
        yield
        rows.append(2)

    async def count() -> int:
        await trio.sleep(1)
        return len(rows)

    app = App()

    @app.get("/")
    async def inserts() -> None:
        rows.append(1)
        await trio.sleep(1)

    with pytest.raises(LeftAMess, match="before the request: 0"):
        await leave_at_every_point(app, "/", snapshot=count, around=afresh)
    assert rows[-1] == 2


def test_a_task_that_is_left_is_found() -> None:
    async def main() -> None:
        async with trio.open_nursery() as elsewhere:

            async def starts() -> str:
                elsewhere.start_soon(trio.sleep_forever)
                await trio.sleep(1)
                elsewhere.cancel_scope.cancel()
                return "done"

            app = App()
            app.get("/")(starts)
            try:
                with pytest.raises(LeftAMess, match=r"left over: .*sleep_forever") as caught:
                    await leave_at_every_point(app, "/")
                assert names(caught.value) == {"left over"}
            finally:
                elsewhere.cancel_scope.cancel()

    run(main)


async def test_what_is_left_open_is_found(autojump_clock, tmp_path) -> None:
    kept = []

    async def opens() -> None:
        file = (tmp_path / "slip").open("w")
        kept.append(file)
        await trio.sleep(1)
        file.close()

    app = App()
    app.get("/")(opens)
    try:
        with pytest.raises(LeftAMess, match=r"left over: left open: .*/slip") as caught:
            await leave_at_every_point(app, "/", at=Checkpoint(1), how=Way.FIN)
    finally:
        for file in kept:
            file.close()
    assert names(caught.value) == {"left over"}


def test_a_child_process_that_is_left_is_found() -> None:
    processes: list[subprocess.Popen[bytes]] = []

    async def starts() -> None:
        process = subprocess.Popen(["/bin/sleep", "100"])  # noqa: ASYNC220 - carelessly
        processes.append(process)
        await trio.sleep(1)
        process.kill()
        process.wait()

    app = App()
    app.get("/")(starts)
    try:
        with pytest.raises(LeftAMess, match=r"a child process is left: .*sleep 100"):
            run(leave_at_every_point, app, "/", at=Checkpoint(1), how=Way.FIN)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_thread_that_is_left_is_found() -> None:
    go_on = threading.Event()
    stays = [True, True]

    async def computes() -> None:
        if stays:
            stays.pop()
            go_on.set()
        await trio.to_thread.run_sync(go_on.wait, abandon_on_cancel=True)
        go_on.clear()

    app = App()
    app.get("/")(computes)
    try:
        with pytest.raises(LeftAMess, match=r"a thread is still at work: .*wait"):
            run(leave_at_every_point, app, "/", at=Checkpoint(2), how=Way.FIN)
    finally:
        go_on.set()


def test_what_a_pool_keeps_open_while_the_app_runs_is_nothing_that_is_left() -> None:
    app = App()
    pool: list[socket.socket] = []

    @app.lifespan
    async def hold() -> AsyncIterator[None]:
        yield
        while pool:
            pool.pop().close()

    @app.get("/")
    async def handle() -> None:
        connection = pool.pop() if pool else socket.socket()
        try:
            await trio.sleep(1)
        finally:
            pool.append(connection)

    assert run(leave_at_every_point, app, "/").total > 30


def test_what_is_left_even_if_the_client_stays_is_found() -> None:
    kept: list[socket.socket] = []

    async def opens() -> None:
        kept.append(socket.socket())

    try:
        error = mess(opens)
    finally:
        for each in kept:
            each.close()
    assert names(error) == {"left over"}
    assert "even when its client stays" in str(error)


# The server


async def _right() -> Response:
    async def write_body(send: Send) -> None:
        await send(b"part")
        await trio.sleep(1)
        await send(bytes(1000))

    await trio.sleep(1)
    return Response.stream(write_body)


@pytest.fixture(scope="module")
def plays() -> dict[PlannedLeave | None, Played]:
    """One request to a right handler, whose client stays, and leaves."""
    app = App()
    app.get("/")(_right)
    setting = Setting(app, wire_of("/"), Config())

    async def main() -> dict[PlannedLeave | None, Played]:
        stayed = await play(setting)
        found: dict[PlannedLeave | None, Played] = {None: stayed}
        for leave in (LEFT, HALF_CLOSED, WHILE_BLOCKED):
            found[leave] = await play(setting, leave, stayed)
        return found

    return run(main)


LEFT = PlannedLeave(Checkpoint(1), Way.FIN)
HALF_CLOSED = PlannedLeave(Checkpoint(3), Way.HALF_CLOSE)
WHILE_BLOCKED = PlannedLeave(ResponseBytes(300), Way.RESET)


def broken(played: Played) -> dict[str, str]:
    return {rule.name: found.what for rule, found in broken_rules(played)}


def test_a_right_server_breaks_no_rule(plays: dict[PlannedLeave | None, Played]) -> None:
    for played in plays.values():
        assert not broken(played)
    assert [type(played.records[0]).__name__ for played in plays.values()] == ["Completed", *["Abandoned"] * 3]


def record(played: Played, **changes: Any) -> dict[str, Any]:
    changed = dataclasses.replace(played.records[0], **changes)
    return {"records": [changed], "told": [changed] if played.told else []}


@pytest.mark.parametrize(
    ("leave", "doctored", "rule", "what"),
    [
        (LEFT, lambda _: {"records": [], "told": []}, "one record", "0 records"),
        (LEFT, lambda played: {"records": played.records * 2, "told": played.told * 2}, "one record", "2 records"),
        (LEFT, lambda played: record(played, phase=Phase.HEAD, status=400), "legal record", "HEAD, FIN"),
        (LEFT, lambda played: record(played, cause=Cause.VANISHED), "legal record", "HANDLER, VANISHED"),
        (LEFT, lambda played: record(played, exchange_number=2), "true record", "exchange_number=2"),
        (LEFT, lambda played: record(played, target="/other"), "true record", "target='/other'"),
        (LEFT, lambda played: record(played, request_body_bytes=1), "true record", "more than were sent"),
        (LEFT, lambda played: record(played, by="server"), "true record", "by='server'"),
        (LEFT, lambda played: record(played, unwound_at=-1.0), "true record", "not in this order"),
        (LEFT, lambda played: record(played, exception=ValueError()), "true record", "exception=ValueError()"),
        (LEFT, lambda played: record(played, outcome=Outcome.FAILED), "true record", "outcome='failed'"),
        (WHILE_BLOCKED, lambda played: record(played, sent_status=None), "true record", "200 was received"),
        (LEFT, lambda played: {"left_at": played.left_at - 0.5}, "noticed", "that was noticed at"),
        (LEFT, lambda played: record(played, status=200), "status", "is 200, and the policy's"),
        (LEFT, lambda _: {"told": []}, "hook", "called 0 times for 1"),
        (LEFT, lambda played: {"told": played.told * 2}, "hook", "called 2 times for 1"),
        (LEFT, lambda _: {"told_early": True}, "hook", "while the handler still ran"),
        (None, lambda _: {"kept": False}, "connection", "was closed against"),
        (LEFT, lambda _: {"written_after_departure": 7}, "silent", "7 bytes were written"),
        (HALF_CLOSED, lambda _: {"written_after_departure": 7}, "silent", "7 bytes were written"),
        (WHILE_BLOCKED, lambda _: {"written_after_departure": 7}, "silent", "7 bytes were written"),
        (None, lambda _: {"received": b"HTTP/1.1 200 OK\r\n\r"}, "framing", "not whole"),
        (None, lambda played: {"received": played.received[:-1]}, "framing", "not whole"),
        (LEFT, lambda _: {"received": b"200 OK"}, "framing", "malformed"),
        (
            HALF_CLOSED,
            lambda played: {"received": played.received.replace(b"4\r\npart", b"4x\r\npart")},
            "framing",
            "9112",
        ),
    ],
)
def test_a_server_that_breaks_a_rule_is_found(
    plays: dict[PlannedLeave | None, Played], leave: PlannedLeave | None, doctored: Any, rule: str, what: str
) -> None:
    found = broken(dataclasses.replace(plays[leave], **doctored(plays[leave])))
    assert rule in found
    assert what in found[rule]


def test_a_departure_where_there_was_none_is_found(plays: dict[PlannedLeave | None, Played]) -> None:
    left = plays[LEFT]
    found = broken(dataclasses.replace(plays[None], records=left.records, told=left.told, kept=False))
    assert list(found) == ["legal record", "true record"]  # a whole answer was received


def test_a_cancellation_that_is_late_is_found(plays: dict[PlannedLeave | None, Played]) -> None:
    played = plays[LEFT]
    passed, played.watch.passed = played.watch.passed, played.watch.waits * 10
    try:
        assert broken(played) == {"not stopped": "the handler passed 10 checkpoints before its cancellation came"}
    finally:
        played.watch.passed = passed


def test_a_connection_that_is_kept_against_its_answer_is_found() -> None:
    app = App()
    app.get("/")(_right)
    wire = wire_of(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    played = run(play, Setting(app, wire, Config()))
    assert not played.kept
    assert not broken(played)
    assert "was kept open" in broken(dataclasses.replace(played, kept=True))["connection"]


def test_names_of_rules_are_told_apart() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


async def never_pauses(send: Send) -> None:
    while True:
        await send(b"part")


def test_a_stream_without_an_end_and_without_a_pause_ends_the_play_all_the_same() -> None:
    async def handler() -> Response:
        return Response.stream(never_pauses)

    error = mess(handler)
    assert names(error) == {"never ends"}
    assert "20000 checkpoints after the request" in str(error)


async def never_waits_for_anything() -> None:
    while True:
        await trio.lowlevel.checkpoint()


def test_a_loop_of_checkpoints_ends_the_play_all_the_same() -> None:
    assert names(mess(never_waits_for_anything)) == {"never ends"}

"""What the cancellation met in a handler: told exactly, and for whatever handlers are made of."""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading
from collections.abc import AsyncIterator

import pytest
import trio
import trio.lowlevel

from trioserve import FINISH, App, ClientGone, Request, Response, WebSocket
from trioserve.testing import Residue, Way, run, served


async def left(app, at, fields=b""):
    """The watch after a request whose client left when the handler had reached its wait `at`."""
    async with served(app) as it:
        peer = it.connect()

        def reached(wait):
            if wait.number == at:
                it.watch.departed()
                peer.leave(Way.FIN)

        it.watch.on_checkpoint = reached
        await peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n")
        await it.records.count(1)
    return it.watch


def told(watch):
    """The cuts as text: what was so, and the source of the line."""
    return [f"{_how(cut)}: {linecache.getline(cut.place.file, cut.place.line).strip()}" for cut in watch.cuts]


def _how(cut):
    if cut.went_on:
        return "went on"
    return " ".join(["first"] * cut.first + ([f"in {cut.cleanup.kind}"] if cut.cleanup else []))


def ending(watch):
    (found,) = [each for each in watch.endings if each.endpoint]
    return found


@pytest.fixture
def app():
    return App()


def until_cancelled():
    """For a worker thread: works until it is cancelled, and ends as if it were not."""
    with contextlib.suppress(trio.Cancelled):
        while True:
            trio.from_thread.check_cancelled()


# Where it waits when the client leaves


async def test_a_checkpoint_that_is_cancelled_is_one_wait_and_one_cut(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    watch = await left(app, 1)
    # The news comes a step later, or two.
    assert told(watch) in (["first: await trio.lowlevel.checkpoint()"], ["first: await trio.sleep(0)"])
    assert watch.cuts[0].number == len(watch.waits)
    assert watch.passed == watch.waits[1:]


async def test_a_sleep_is_cut(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        await trio.sleep(1)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(1)"]
    assert (watch.cuts[0].number, watch.cuts[0].at) == (1, 0)
    end = ending(watch)
    assert isinstance(end.error, trio.Cancelled)
    assert end.cut is watch.cuts[0]
    assert (end.swallowed, end.turned, end.forced) == (False, False, False)


async def test_an_await_of_the_handlers_own_function_is_told_with_the_way_there(app, autojump_clock):
    async def inner():
        await trio.Event().wait()

    @app.get("/")
    async def handler() -> None:
        await inner()

    watch = await left(app, 1)
    assert [place.function for place in watch.cuts[0].trail] == ["handler", "inner"]
    assert watch.cuts[0].place == watch.waits[0].place == watch.cuts[0].trail[-1]


async def test_a_memory_channel_is_cut(app, autojump_clock):
    send, receive = trio.open_memory_channel(0)

    @app.get("/")
    async def handler() -> None:
        await receive.receive()

    assert told(await left(app, 1)) == ["first: await receive.receive()"]
    send.close()
    receive.close()


async def test_of_a_nursery_the_tasks_are_cut_first_and_then_it(app, autojump_clock):
    async def child(seconds):
        await trio.sleep(seconds)

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, 5)
            nursery.start_soon(child, 6)
        await trio.sleep(7)

    watch = await left(app, 3)
    assert told(watch) == ["first: await trio.sleep(seconds)"] * 2 + [
        "first: async with trio.open_nursery() as nursery:"
    ]
    assert [each.endpoint for each in watch.endings] == [False, False, True]


async def test_what_a_handler_does_behind_a_nursery_that_was_cut_is_clean_up_or_going_on(app, autojump_clock):
    async def child():
        await trio.sleep(1)

    @app.get("/")
    async def handler() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
        except BaseException:
            await trio.sleep(2)
            raise

    watch = await left(app, 2)
    assert told(watch)[1:] == ["first: async with trio.open_nursery() as nursery:", "in except: await trio.sleep(2)"]


async def test_a_nursery_whose_tasks_end_by_themselves_in_time_is_not_cut(app, autojump_clock):
    async def child():
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        await trio.sleep(2)

    assert told(await left(app, 2)) == ["first: await trio.sleep(2)"]


async def test_a_task_started_to_clean_up_is_cut_in_the_clean_up(app, autojump_clock):
    async def goodbye():
        await trio.sleep(1)

    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(2)
        finally:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(goodbye)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(1)"]
    assert watch.cuts[1].cleanup.place.function == "handler"


async def test_a_task_started_by_one_that_swallowed_its_cancellation_is_going_on(app, autojump_clock):
    async def more():
        await trio.sleep(1)

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            try:
                await trio.sleep(2)
            except trio.Cancelled:
                pass
            nursery.start_soon(more)

    assert told(await left(app, 1)) == ["first: await trio.sleep(2)", "went on: await trio.sleep(1)"]


async def test_a_task_that_somebody_else_has_is_not_cut(app, autojump_clock):
    async def other(task_status=trio.TASK_STATUS_IGNORED):
        task_status.started()
        await trio.sleep(1)

    async with trio.open_nursery() as elsewhere:

        @app.get("/")
        async def handler() -> None:
            elsewhere.start_soon(other)
            await elsewhere.start(other)
            await trio.sleep(2)

        watch = await left(app, 2)
    assert told(watch) == ["first: await trio.sleep(2)"]


# Threads and processes. These need the time of the world outside.


def test_a_thread_that_is_waited_out_is_not_cut_but_what_comes_behind_it(app):
    @app.get("/")
    async def handler() -> None:
        await trio.to_thread.run_sync(until_cancelled)
        await trio.sleep(2)

    # First it takes a place, then it waits for the thread.
    watch = run(left, app, 2)
    assert told(watch) == ["first: await trio.sleep(2)"]
    assert [linecache.getline(wait.place.file, wait.place.line).strip() for wait in watch.waits] == [
        "await trio.to_thread.run_sync(until_cancelled)",
        "await trio.to_thread.run_sync(until_cancelled)",
        "await trio.sleep(2)",
    ]


def test_a_thread_that_asks_is_cut(app):
    def work():
        while True:
            trio.from_thread.check_cancelled()

    @app.get("/")
    async def handler() -> None:
        await trio.to_thread.run_sync(work)

    assert told(run(left, app, 2)) == ["first: await trio.to_thread.run_sync(work)"]


def test_a_thread_that_is_abandoned_is_cut(app):
    go_on = threading.Event()

    @app.get("/")
    async def handler() -> None:
        try:
            await trio.to_thread.run_sync(go_on.wait, abandon_on_cancel=True)
        finally:
            go_on.set()
            await trio.to_thread.run_sync(int)

    watch = run(left, app, 2)
    assert told(watch) == [
        "first: await trio.to_thread.run_sync(go_on.wait, abandon_on_cancel=True)",
        "in finally: await trio.to_thread.run_sync(int)",
    ]


def test_a_plain_handler_waits_once_for_its_thread_and_its_place_is_the_function(app):
    @app.get("/")
    def handler() -> None:
        while True:
            trio.from_thread.check_cancelled()

    watch = run(left, app, 1)
    assert told(watch) == ['first: @app.get("/")']
    assert watch.cuts[0].place.function == "handler"
    assert [wait.place.function for wait in watch.waits] == ["handler"]


def test_what_a_thread_has_done_in_trio_is_the_handlers(app):
    async def inside():
        await trio.sleep(1)

    @app.get("/")
    def handler() -> None:
        trio.from_thread.run(inside)

    watch = run(left, app, 2)
    assert [wait.place.function for wait in watch.waits] == ["handler", "inside", "handler"]
    assert told(watch) == ["first: await trio.sleep(1)"]


def test_a_plain_handler_that_ends_as_if_it_were_not_cancelled_is_cut_by_its_answer(app):
    app.get("/")(until_cancelled)
    watch = run(left, app, 1)
    assert [(cut.first, cut.number, cut.trail) for cut in watch.cuts] == [(True, None, ())]
    assert not ending(watch).swallowed


def test_a_process_is_cut_and_what_kills_it_is_not(app):
    asleep = [sys.executable, "-c", "import time; time.sleep(60)"]

    @app.get("/")
    async def handler() -> None:
        await trio.run_process(asleep)

    async def left_when_it_runs():
        async with served(app) as it:
            peer = it.connect()
            await peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            while not Residue.now().children:
                await trio.lowlevel.checkpoint()
            peer.leave(Way.FIN)
            await it.records.count(1)
        return it.watch

    watch = run(left_when_it_runs)
    assert told(watch) == ["first: await trio.run_process(asleep)"]
    assert not ending(watch).turned
    assert not Residue.now().children


# Scopes of the handler's own


async def test_a_scope_of_the_handlers_own_is_no_cut(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        with trio.move_on_after(1):
            await trio.sleep(2)
        with trio.move_on_after(1) as scope:
            scope.cancel()
            await trio.sleep(3)
        await trio.sleep(4)

    assert told(await left(app, 3)) == ["first: await trio.sleep(4)"]


async def test_a_scope_of_the_handlers_own_around_it_changes_nothing(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        with trio.fail_after(5):
            await trio.sleep(2)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)"]
    assert not ending(watch).turned


async def test_a_clean_up_in_a_shield_is_not_cut(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(2)
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(1)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)"]
    assert (ending(watch).at, ending(watch).swallowed) == (1, False)


async def test_a_clean_up_in_a_shield_that_is_over_is_not_cut_by_the_departure(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(2)
        finally:
            with trio.move_on_after(5, shield=True):
                try:
                    await trio.sleep(10)
                finally:
                    await trio.sleep(11)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)"]
    assert ending(watch).at == 5


async def test_what_comes_behind_a_shield_is_cut(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(2)
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(10)
            await trio.sleep(1)

    assert told(await left(app, 1)) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(1)"]


async def test_a_wait_that_is_shielded_when_the_client_leaves_is_not_cut(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
            await trio.sleep(2)
        await trio.sleep(3)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(3)"]
    assert (watch.cuts[0].number, watch.cuts[0].at) == (3, 3)


async def test_a_scope_that_was_there_before_and_is_shielded_then_is_a_shield(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        with trio.CancelScope() as scope:
            try:
                await trio.sleep(2)
            finally:
                scope.shield = True
                scope.deadline = trio.current_time() + 1
                await trio.sleep(3)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)"]


# Cleaning up


async def test_an_await_in_a_finally_is_cut_short(app, autojump_clock):
    async def release():
        await trio.sleep(1)

    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(2)
        finally:
            await release()

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(1)"]
    (cut,) = watch.cuts[1:]
    assert linecache.getline(__file__, cut.cleanup.place.line).strip() == "await release()"
    assert str(cut.cleanup) == f"a `finally` ({__file__}:{cut.cleanup.place.line}, in handler)"


async def test_an_await_in_an_except_is_cut_short(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(2)
        except BaseException:
            await trio.sleep(1)
            raise

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)", "in except: await trio.sleep(1)"]
    assert not ending(watch).swallowed


async def test_of_clean_ups_in_each_other_the_innermost_is_told(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(1)
        finally:
            try:
                raise ValueError
            except ValueError:
                await trio.sleep(2)

    assert told(await left(app, 1))[1:] == ["in except: await trio.sleep(2)"]


async def test_waits_of_the_unwinding_are_not_passed_between_departure_and_cancellation(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    watch = await left(app, 1)
    assert len(watch.waits) == 2
    assert watch.passed == []


async def test_every_await_that_is_cut_short_is_told(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            try:
                await trio.sleep(1)
            finally:
                await trio.sleep(2)
        finally:
            await trio.sleep(3)

    assert told(await left(app, 1)) == [
        "first: await trio.sleep(1)",
        "in finally: await trio.sleep(2)",
        "in finally: await trio.sleep(3)",
    ]


async def test_a_finally_that_the_departure_finds_on_the_usual_way_is_cut_first(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await trio.sleep(1)
        finally:
            await trio.sleep(2)

    assert told(await left(app, 2)) == ["first in finally: await trio.sleep(2)"]


class Carefree:
    async def __aenter__(self):
        await trio.lowlevel.checkpoint()

    async def __aexit__(self, *_):
        await trio.sleep(3)


async def test_an_await_in_an_aexit_is_cut_short(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        async with Carefree():
            await trio.sleep(2)

    watch = await left(app, 2)
    assert told(watch) == ["first: await trio.sleep(2)", "in __aexit__: await trio.sleep(3)"]
    assert [place.function for place in watch.cuts[1].trail] == ["handler", "__aexit__"]


@contextlib.asynccontextmanager
async def lent():
    try:
        yield
    finally:
        await trio.sleep(3)


async def test_a_finally_in_a_context_manager_made_of_a_generator_is_cut_short(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        async with lent():
            await trio.sleep(2)

    assert told(await left(app, 1)) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(3)"]


async def test_what_an_exit_stack_leaves_is_cleaned_up(app, autojump_clock):
    async def give_back():
        await trio.sleep(3)

    @app.get("/")
    async def handler() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(give_back)
            await trio.sleep(2)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)", "in __aexit__: await trio.sleep(3)"]
    assert watch.cuts[1].cleanup.place.function == "handler"


class Resource(trio.abc.AsyncResource):
    closed = False

    async def aclose(self):
        try:
            await trio.sleep(1)
        finally:
            self.closed = True


async def test_a_resource_that_closes_all_the_same_is_not_cut_short(app, autojump_clock):
    resource = Resource()

    @app.get("/")
    async def handler() -> None:
        async with resource:
            try:
                await trio.sleep(2)
            finally:
                await trio.aclose_forcefully(resource)

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)"]
    assert resource.closed


async def test_such_a_resource_that_the_departure_finds_closing_is_cut_first_and_harmlessly(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        try:
            await Resource().aclose()
        finally:
            await Resource().aclose()

    watch = await left(app, 2)
    assert told(watch) == ["first: await trio.sleep(1)"]
    assert watch.cuts[0].place.function == "aclose"


async def test_a_dependency_that_is_left_is_cleaned_up(app, autojump_clock):
    class Row: ...

    @app.dependency
    async def row() -> AsyncIterator[Row]:
        try:
            yield Row()
        finally:
            await trio.sleep(3)

    @app.get("/")
    async def handler(row: Row) -> None:
        await trio.sleep(2)

    assert told(await left(app, 1)) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(3)"]


async def test_middleware_that_cleans_up_is_cut_short(app, autojump_clock):
    @app.middleware
    async def around(request: Request, call_next):
        try:
            return await call_next(request)
        finally:
            await trio.sleep(3)

    @app.get("/")
    async def handler() -> None:
        await trio.sleep(2)

    assert told(await left(app, 1)) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(3)"]


# Streams


async def test_the_writer_of_a_stream_is_watched(app, autojump_clock):
    async def write(send):
        try:
            while True:
                await send(b"part")
                await trio.sleep(2)
        finally:
            await trio.sleep(3)

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write)

    watch = await left(app, 2)
    assert told(watch) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(3)"]
    assert [wait.place.function for wait in watch.waits][:2] == ["write", "write"]


async def test_an_async_generator_waits_in_its_yields(app, autojump_clock):
    @app.get("/")
    async def handler() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"part"
        except BaseException:
            await trio.sleep(3)
            raise

    watch = await left(app, 5)
    assert told(watch) == ['first: yield b"part"', "in except: await trio.sleep(3)"]
    assert {wait.place.function for wait in watch.waits} == {"handler"}


async def test_a_generator_of_the_handlers_is_on_the_way(app, autojump_clock):
    async def numbers():
        try:
            yield 1
            await trio.sleep(2)
        finally:
            await trio.sleep(3)

    @app.get("/")
    async def handler() -> None:
        async with contextlib.aclosing(numbers()) as all_numbers:
            async for _ in all_numbers:
                pass

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(3)"]
    assert [place.function for place in watch.cuts[0].trail] == ["handler", "numbers"]


async def test_the_handler_of_a_websocket_is_watched(app, autojump_clock):
    @app.websocket("/")
    async def talk(socket: WebSocket) -> None:
        try:
            await socket.receive()
        finally:
            await trio.sleep(3)

    watch = await left(
        app,
        1,
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
    assert told(watch)[-2:] == ["first: await socket.receive()", "in finally: await trio.sleep(3)"]


async def test_events_are_watched_as_other_streams(app, autojump_clock):
    async def numbers():
        try:
            yield "1"
            await trio.sleep(2)
        finally:
            await trio.sleep(3)

    @app.get("/")
    async def handler() -> Response:
        return Response.events(numbers())

    watch = await left(app, 2)
    assert told(watch) == ["first: await trio.sleep(2)", "in finally: await trio.sleep(3)"]
    assert linecache.getline(__file__, watch.waits[0].place.line).strip() == 'yield "1"'


# Swallowing


async def test_a_handler_that_swallows_its_cancellation_and_goes_on_is_told(app, autojump_clock):
    @app.get("/")
    async def handler() -> str:
        try:
            await trio.sleep(1)
        except BaseException:
            pass
        await trio.sleep(2)
        return "done"

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(1)", "went on: await trio.sleep(2)"]
    assert not ending(watch).swallowed


async def test_a_handler_that_swallows_its_cancellation_and_returns_has_swallowed_it(app, autojump_clock):
    @app.get("/")
    async def handler() -> str:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            return "never mind"

    watch = await left(app, 1)
    assert told(watch) == ["first: await trio.sleep(1)"]
    assert ending(watch).swallowed


async def test_a_task_that_swallows_its_cancellation_has_swallowed_it(app, autojump_clock):
    async def child():
        with contextlib.suppress(BaseException):
            await trio.sleep(1)

    @app.get("/")
    async def handler() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        await trio.sleep(2)

    watch = await left(app, 2)
    assert told(watch) == ["first: await trio.sleep(1)", "first: await trio.sleep(2)"]
    assert [(each.endpoint, each.swallowed) for each in watch.endings] == [(False, True), (True, False)]


async def test_a_cancellation_turned_into_something_else_is_told(app, autojump_clock):
    @app.get("/")
    async def handler() -> str:
        try:
            await trio.sleep(1)
        except BaseException as error:
            raise ValueError("something else") from error

    end = ending(await left(app, 1))
    assert (end.turned, end.swallowed, type(end.error)) == (True, False, ValueError)


async def test_a_failure_beside_the_cancellation_is_none_instead_of_it(app, autojump_clock):
    async def child():
        await trio.sleep(1)

    async def failing():
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        raise ValueError

    @app.get("/")
    async def handler() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(failing)

    watch = await left(app, 3)
    assert not any(each.turned for each in watch.endings)


async def test_what_a_send_in_a_shield_raises_is_as_good_as_the_cancellation(app, autojump_clock):
    async def write(send):
        try:
            await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await send(b"goodbye")

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write)

    end = ending(await left(app, 1))
    assert isinstance(end.error, ClientGone)
    assert (end.turned, end.swallowed) == (False, False)


async def test_a_handler_that_goes_on_and_on_is_ended(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        while True:
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep(1)

    watch = await left(app, 1)
    assert (ending(watch).forced, ending(watch).swallowed) == (True, True)
    assert told(watch)[:2] == ["first: await trio.sleep(1)", "went on: await trio.sleep(1)"]


async def test_a_handler_that_goes_on_and_on_in_a_shield_is_ended(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        with trio.CancelScope(shield=True):
            while True:  # noqa: ASYNC110  # it is to be bad
                await trio.sleep(1)

    assert ending(await left(app, 1)).forced


async def test_a_handler_that_nothing_can_end_is_not_resumed_any_more(app, autojump_clock):
    @app.get("/")
    async def handler() -> None:
        while True:
            with contextlib.suppress(BaseException):
                await trio.sleep(1)

    watch = await left(app, 1)
    assert ending(watch).forced


async def test_a_task_that_nothing_can_end_is_not_resumed_any_more(app, autojump_clock):
    async def child():
        while True:
            with contextlib.suppress(BaseException), trio.move_on_after(3):
                await trio.sleep(1)

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    watch = await left(app, 2)
    assert [(each.endpoint, each.forced) for each in watch.endings] == [(False, True), (True, False)]


# Policies


async def test_a_handler_that_may_finish_is_not_cut_and_its_waits_are_counted(autojump_clock):
    app = App(disconnect=FINISH)

    @app.get("/")
    async def handler() -> None:
        await trio.sleep(1)
        await trio.sleep(2)
        await trio.sleep(3)

    watch = await left(app, 1)
    assert watch.cuts == []
    assert [wait.number for wait in watch.passed] == [2, 3]
    assert (ending(watch).error, ending(watch).at, ending(watch).cut) == (None, 6, None)

"""The watch sees where a handler waits, and changes nothing."""

from __future__ import annotations

import contextvars
import inspect
import json
import traceback
import types

import pytest
import sniffio
import trio

import trioserve.demo
from trioserve import App, Request
from trioserve.connection.stack import stack_of
from trioserve.testing import Watch, memory_server
from trioserve.testing.driving import followed
from trioserve.testing.places import Whose, whose


def line_of(function, text):
    """The line of `function` in which `text` stands."""
    lines, first = inspect.getsourcelines(function)
    (at,) = [number for number, line in enumerate(lines) if text in line]
    return first + at


async def played(app, target="/", *, watch=None):
    """The watch after a whole request."""
    watch = watch or Watch()
    async with memory_server(watch.application(app)) as server:
        peer = server.connect()
        await peer.send_all(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % target.encode())
        await peer.receive_some(65536)
        peer.close()
    return watch


async def test_each_checkpoint_of_the_handler_is_a_wait_at_its_line(autojump_clock):
    app = App()

    @app.get("/")
    async def report() -> str:
        await trio.sleep(1)
        await trio.lowlevel.checkpoint()
        return "done"

    watch = await played(app)
    assert [(wait.number, wait.place.line, wait.place.function, wait.at) for wait in watch.waits] == [
        (1, line_of(report, "sleep"), "report", 0),
        (2, line_of(report, "checkpoint"), "report", 1),
    ]
    assert str(watch.waits[0].place) == f"{__file__}:{line_of(report, 'sleep')}, in report"


async def test_what_plays_is_told_of_a_wait_before_trio_goes_on():
    app, order, event = App(), [], trio.Event()

    @app.get("/")
    async def handler() -> None:
        await event.wait()

    def reached(wait):
        order.append(event.statistics().tasks_waiting)
        event.set()

    watch = Watch()
    watch.on_checkpoint = reached
    await played(app, watch=watch)
    assert order == [1]


async def test_tasks_of_the_handler_are_watched_and_those_of_others_are_not(autojump_clock):
    app = App()

    async def child():
        await trio.sleep(1)

    async def started(task_status):
        await trio.sleep(2)
        task_status.started()
        await trio.sleep(3)

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await nursery.start(started)
            await elsewhere.start(started)
            elsewhere.start_soon(child)

    async with trio.open_nursery() as elsewhere:
        watch = await played(app)
    assert {(wait.place.function, wait.task.rpartition(".")[2]) for wait in watch.waits} == {
        ("handler", "the handler"),
        ("child", "child"),
        ("started", "started"),
    }
    assert [wait.at for wait in watch.waits if wait.place.function == "started"] == [0, 2]


# What is watched behaves as if it were not


async def seen(app, watch=None):
    """What a client is answered by `app`, watched or not."""
    served_app = app if watch is None else watch.application(app)
    async with memory_server(served_app) as server:
        peer = server.connect()
        await peer.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = await peer.receive_some(65536)
        peer.close()
    return answer.partition(b"\r\n\r\n")[2]


variable = contextvars.ContextVar("variable", default="nothing")


async def told_by_a_task():
    """What a task knows of where it is."""
    await trio.lowlevel.checkpoint()
    task = trio.lowlevel.current_task()
    return [
        variable.get(),
        sniffio.current_async_library(),
        task.name.rpartition(".")[2],
        task.coro.cr_code.co_name,
        inspect.getcoroutinestate(task.coro),
        trio.lowlevel.currently_ki_protected(),
        [frame.f_code.co_name for frame, _ in task.iter_await_frames()][:1],
    ]


async def child(told):
    variable.set(variable.get() + " and the child's")
    told.append(await told_by_a_task())


async def test_context_variables_tasks_and_interrupts_are_as_without_it():
    app = App()

    @app.get("/")
    async def handler() -> list:
        variable.set("the handler's")
        told = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, told)
        told += [variable.get(), await told_by_a_task()]
        return told

    without = json.loads(await seen(app))
    assert json.loads(await seen(app, Watch())) == without
    assert without[0][:2] == ["the handler's and the child's", "trio"]
    assert without[1] == "the handler's"


@pytest.mark.parametrize("protected", [True, False])
async def test_an_interrupt_is_held_back_or_not_as_around_it(protected):
    class Silent:
        def resumed(self, _coroutine, sent):
            return sent

        def reached(self, coroutine, trap): ...

        def ended(self, error): ...

    async def what_holds():
        await trio.lowlevel.checkpoint()
        return trio.lowlevel.currently_ki_protected()

    mark = trio.lowlevel.enable_ki_protection if protected else trio.lowlevel.disable_ki_protection

    @mark
    async def around():
        return await followed(what_holds(), Silent())

    assert await around() is protected


async def test_the_stack_of_a_task_that_waits_is_whole():
    app, told = App(), []

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)

    async def waits():
        await trio.lowlevel.checkpoint()

    def reached(wait):
        token.run_sync_soon(lambda: told.append(stack_of(task)))

    token = trio.lowlevel.current_trio_token()
    watch = Watch()

    @app.middleware
    async def note(request, call_next):
        nonlocal task
        task = trio.lowlevel.current_task()
        watch.on_checkpoint = reached
        return await call_next(request)

    task = None
    await seen(app, watch)
    assert "in note" in told[0]
    assert "in handler" in told[0]
    assert "in waits" in told[0]


class Failure(Exception):
    pass


async def fails():
    await trio.lowlevel.checkpoint()
    raise Failure


async def test_a_traceback_leads_to_the_line_and_our_frames_in_it_are_hidden(caplog):
    app, watch = App(), Watch()

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)

    assert await seen(app, watch) == await seen(app)
    (ending, _) = watch.endings
    frames = [frame for frame, _ in traceback.walk_tb(ending.error.__traceback__)]
    assert frames[-1].f_code is fails.__code__
    ours = [frame for frame in frames if "/trioserve/testing/" in frame.f_code.co_filename]
    assert ours
    assert all("__tracebackhide__" in frame.f_locals for frame in ours)


async def test_an_error_is_the_same_and_not_a_copy():
    failure = Failure("this one")
    app, watch = App(), Watch()

    @app.get("/")
    async def handler() -> None:
        raise failure

    @app.error_handler(Failure)
    async def answer(request: Request, error: Failure) -> str:
        return str(error is failure)

    assert await seen(app, watch) == b"True"
    assert [each.error for each in watch.endings] == [None]


async def test_a_trap_of_another_framework_fails_in_the_handler_as_without_it():
    @types.coroutine
    def foreign():
        yield "a future of another framework"

    app, watch = App(), Watch()

    @app.get("/")
    async def handler() -> str:
        await waits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
        return " ".join(told)

    async def waits():
        try:
            await foreign()
        except TypeError as error:
            told.append(str(error))

    told = []
    without = await seen(app)
    assert without.count(b"unrecognized yield message") == 2
    told.clear()
    assert await seen(app, watch) == without


async def test_a_watch_is_over_with_its_server():
    app, watch = App(), Watch()

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_not)

    async def fails_not():
        await trio.lowlevel.checkpoint()

    await seen(app, watch)
    assert watch._followers == {}
    waits = len(watch.waits)
    await seen(app)
    assert len(watch.waits) == waits == 2


async def test_two_exchanges_are_numbered_each_by_itself(autojump_clock):
    app, watch = App(), Watch()

    @app.get("/")
    async def handler() -> None:
        await trio.sleep(1)
        await trio.sleep(2)

    async with memory_server(watch.application(app)) as server:
        peers = [server.connect() for _ in range(2)]
        for peer in peers:
            await peer.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        for peer in peers:
            await peer.receive_some(65536)
            peer.close()
    assert [wait.number for wait in watch.waits] == [1, 1, 2, 2]
    assert len({wait.exchange.client for wait in watch.waits}) == 2


async def test_places_are_of_the_users_own_code_and_of_the_demo_too():
    assert whose(__file__) is Whose.USER
    assert whose(trio.__file__) is Whose.TRIO
    assert whose(trioserve.__file__) is Whose.TRIOSERVE
    assert whose(trioserve.demo.__file__) is Whose.USER
    assert whose(pytest.__file__) is Whose.PACKAGE
    assert whose(json.__file__) is Whose.STANDARD_LIBRARY

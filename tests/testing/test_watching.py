"""The watch sees where a handler waits, and changes nothing."""

from __future__ import annotations

import inspect

import trio

from trioserve import App
from trioserve.testing import Watch, memory_server


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

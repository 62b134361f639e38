"""What the cancellation met in a handler: told exactly, and for whatever handlers are made of."""

from __future__ import annotations

import linecache

import pytest
import trio
import trio.lowlevel

from trioserve import App, Config
from trioserve.testing import Records, Watch, memory_server


async def left(app, at, *, body=b"", target="/"):
    """The watch after a request whose client left when the handler had reached its wait `at`."""
    watch, records = Watch(), Records()
    app.on_abandoned(records.hook)

    def reached(wait):
        if wait.number == at:
            peer.close()
            watch.departed()

    watch.on_checkpoint = reached
    config = Config(observers=(records,), access_log=False)
    async with memory_server(watch.application(app), config) as server:
        peer = server.connect()
        head = b"GET %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (target.encode(), len(body))
        await peer.send_all(head + body)
        await records.count(1)
    return watch


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

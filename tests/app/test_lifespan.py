"""Lifespans: open before the first connection, closed after the last exchange and all background work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NewType

import pytest
import trio
import trio.testing

from tests.support.memory import in_memory, text_of
from tests.support.server import happens, start
from trioserve import (
    Abandoned,
    App,
    Cause,
    Completed,
    Config,
    ConfigError,
    Deadlines,
    Outcome,
    Request,
    TcpAddress,
    serve,
)
from trioserve.failures import sole

Log = list[str]
Pool, Cache = NewType("Pool", str), NewType("Cache", str)

ANYWHERE = Config(listen=(TcpAddress("127.0.0.1", 0),), access_log=False)


@pytest.fixture
def log() -> Log:
    return []


@asynccontextmanager
async def noted(log: Log, name: str) -> AsyncIterator[None]:
    log.append(f"+{name}")
    try:
        yield
    finally:
        log.append(f"-{name}")


# The value


async def test_the_value_reaches_handlers_dependencies_and_further_lifespans():
    app = App()

    @app.lifespan
    async def pool(the_app: App) -> AsyncIterator[Pool]:
        assert the_app is app
        yield Pool("pool")

    @app.lifespan
    async def cache(pool: Pool) -> AsyncIterator[Cache]:
        yield Cache(f"cache of {pool}")

    @app.dependency(provides=bytes)
    async def both(pool: Pool, cache: Cache, request: Request) -> AsyncIterator[bytes]:
        yield f"{pool}, {cache}, {request.path}".encode()

    @app.get("/handler")
    async def handler(cache: Cache, pool: Pool) -> str:
        return f"{pool}, {cache}"

    app.get("/plain")(handler_in_thread)

    @app.get("/dependency")
    async def indirect(both: bytes) -> bytes:
        return both

    async with in_memory(app) as served:
        assert (await served.get("/handler")).body == b"pool, cache of pool"
        assert (await served.get("/plain")).body == b"cache of pool"
        assert (await served.get("/dependency")).body == b"pool, cache of pool, /dependency"


def handler_in_thread(cache: Cache) -> str:
    return cache


async def test_it_is_entered_once_whoever_takes_it(log: Log):
    app = App()

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        async with noted(log, "pool"):
            yield Pool("")

    @app.get("/")
    async def handler(pool: Pool) -> None: ...

    async with in_memory(app) as served:
        for _ in range(3):
            assert (await served.get()).status == 204
        assert log == ["+pool"]
    assert log == ["+pool", "-pool"]


async def test_one_without_a_value_is_entered_too_and_a_class_is_one(log: Log):
    app = App()

    @app.lifespan
    async def nothing() -> AsyncIterator[None]:
        async with noted(log, "nothing"):
            yield

    @app.lifespan
    class Store:
        def __init__(self, app: App) -> None:
            self.app = app

        async def __aenter__(self) -> Any:
            log.append("+store")
            return self

        async def __aexit__(self, *_: object) -> None:
            log.append("-store")

    @app.get("/")
    async def handler(store: Store) -> str:
        return str(store.app is app)

    assert await text_of(app) == "200 True"
    assert log == ["+nothing", "+store", "-store", "-nothing"]


async def test_a_value_may_be_none_or_false():
    app = App()

    @app.lifespan
    async def empty() -> AsyncIterator[Pool]:
        yield Pool("")

    @app.get("/")
    async def handler(pool: Pool) -> str:
        return repr(pool)

    assert await text_of(app) == "200 ''"


# Order and time


async def test_they_are_entered_in_order_and_left_in_the_opposite_one(log: Log):
    app = App()
    for name in "abc":

        @app.lifespan
        async def each(name: str = name) -> AsyncIterator[None]:
            async with noted(log, name):
                yield

    async with in_memory(app):
        assert log == ["+a", "+b", "+c"]
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_no_connection_is_served_before_they_are_open_and_none_runs_when_they_close(nursery, log: Log):
    app, opening, opened, leave = App(), trio.Event(), trio.Event(), trio.Event()

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        opening.set()
        await opened.wait()
        async with noted(log, "pool"):
            yield Pool("")

    @app.get("/")
    async def handler(pool: Pool) -> None:
        async with noted(log, "handler"):
            await leave.wait()

    addresses: list[Any] = []

    async def starting() -> None:
        addresses.append(await start(nursery, app))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(starting)
        await happens(opening.wait())
        await trio.testing.wait_all_tasks_blocked()
        assert not addresses, "the server says that it serves when it does"
        opened.set()
    (server,) = addresses
    client = await server.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    while "+handler" not in log:
        await trio.testing.wait_all_tasks_blocked(0.01)
    server.drain.set()
    await trio.testing.wait_all_tasks_blocked()
    leave.set()
    assert (await client.answer()).status == 204
    await happens(server.ended.wait())
    assert log == ["+pool", "+handler", "-handler", "-pool"]


async def test_a_handler_that_cleans_up_can_use_the_value_though_the_server_is_cancelled(nursery, log: Log):
    app, started = App(), trio.Event()

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        async with noted(log, "pool"):
            yield Pool("")

    @app.dependency
    async def connection(pool: Pool) -> AsyncIterator[Cache]:
        try:
            yield Cache("")
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                log.append("given back")

    @app.get("/")
    async def handler(connection: Cache) -> None:
        started.set()
        await trio.sleep_forever()

    server = await start(nursery, app)
    client = await server.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await happens(started.wait())
    server.scope.cancel()
    assert (await client.answer()).status == 503
    await happens(server.ended.wait())
    assert log == ["+pool", "given back", "-pool"]


async def test_when_the_server_is_cancelled_they_are_left_with_the_cancellation(nursery, log: Log):
    app = App()

    @app.lifespan
    async def pool() -> AsyncIterator[None]:
        yield
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            log.append("cancelled while it is left")
            raise

    server = await start(nursery, app)
    server.scope.cancel()
    await happens(server.ended.wait())
    assert log == ["cancelled while it is left"]


async def test_a_drain_gives_them_the_time_that_they_need(nursery, log: Log):
    app = App()

    @app.lifespan
    async def pool() -> AsyncIterator[None]:
        yield
        await trio.testing.wait_all_tasks_blocked()
        log.append("flushed")

    server = await start(nursery, app)
    server.drain.set()
    await happens(server.ended.wait())
    assert log == ["flushed"]


# Failures


async def test_one_that_fails_at_the_start_ends_serve_with_its_error_and_closes_what_is_open(log: Log):
    app, error = App(), ConnectionRefusedError("no database")
    addresses: list[int] = []

    @app.lifespan
    async def first() -> AsyncIterator[None]:
        async with noted(log, "first"):
            yield

    @app.lifespan
    async def second() -> AsyncIterator[None]:
        raise error
        yield

    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            addresses += await nursery.start(serve, app, ANYWHERE)
    assert sole(caught.value) is error
    assert log == ["+first", "-first"]
    assert not addresses


async def test_background_work_ends_before_what_it_uses_is_closed_when_a_later_one_fails_at_the_start(log: Log):
    app, error, working = App(), ConnectionRefusedError("no cache"), trio.Event()

    async def work() -> None:
        async with noted(log, "work"):
            working.set()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()

    @app.lifespan
    async def first(app: App) -> AsyncIterator[None]:
        async with noted(log, "first"):
            app.start_soon(work)
            yield

    @app.lifespan
    async def second() -> AsyncIterator[None]:
        await working.wait()
        raise error
        yield

    with pytest.raises(ConnectionRefusedError) as caught:
        await serve(app, ANYWHERE)
    assert caught.value is error
    assert log == ["+first", "+work", "-work", "-first"]


async def test_serve_raises_just_the_error_of_a_lifespan():
    app, error = App(), ConnectionRefusedError("no database")

    @app.lifespan
    async def pool() -> AsyncIterator[None]:
        raise error
        yield

    with pytest.raises(ConnectionRefusedError) as caught:
        await serve(app, ANYWHERE)
    assert caught.value is error


async def test_after_a_failed_start_the_port_is_free(nursery):
    failing, app = App(), App()

    @failing.lifespan
    async def pool() -> AsyncIterator[None]:
        raise ValueError("no start")
        yield

    server = await start(nursery, app)
    server.drain.set()
    await happens(server.ended.wait())
    again = (TcpAddress("127.0.0.1", server.port),)
    with pytest.raises(ValueError, match="no start"):
        await serve(failing, Config(listen=again))
    await start(nursery, app, listen=again)


async def test_one_that_fails_at_the_end_ends_serve_with_its_error_and_the_others_are_closed(log: Log):
    app, error, drain = App(), ValueError("cannot flush"), trio.Event()

    @app.lifespan
    async def first() -> AsyncIterator[None]:
        async with noted(log, "first"):
            yield

    @app.lifespan
    async def second() -> AsyncIterator[None]:
        yield
        raise error

    drain.set()
    with pytest.raises(ValueError, match="cannot flush"):
        await serve(app, ANYWHERE, drain=drain, hasten=drain)
    assert log == ["+first", "-first"]


async def test_one_whose_own_task_fails_stops_the_server_with_that_error(log: Log):
    app, error, fail, started = App(), ValueError("lost the database"), trio.Event(), trio.Event()

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        async def heartbeat() -> None:
            await fail.wait()
            raise error

        async with noted(log, "pool"), trio.open_nursery() as nursery:
            nursery.start_soon(heartbeat)
            yield Pool("")

    @app.get("/")
    async def handler(pool: Pool) -> None:
        async with noted(log, "handler"):
            started.set()
            await trio.sleep_forever()

    async def background() -> None:
        async with noted(log, "background"):
            await trio.sleep_forever()

    @app.lifespan
    async def work(app: App) -> AsyncIterator[None]:
        app.start_soon(background)
        yield

    records: list[Any] = []

    async def asking() -> None:
        async with in_memory(app) as served:
            client = served.connect()
            records.append(served.records)
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await started.wait()
            fail.set()
            await trio.sleep_forever()

    with pytest.raises(ValueError, match="lost the database") as caught:
        await asking()
    assert caught.value is error
    assert log == ["+pool", "+background", "+handler", "-handler", "-background", "-pool"]
    (record,) = records[0].all
    assert record.cause is Cause.DRAIN if isinstance(record, Abandoned) else record.status == 503


async def test_one_that_does_not_yield_ends_serve(log: Log):
    app = App()

    @app.lifespan
    async def pool() -> AsyncIterator[None]:
        if log:
            yield

    with pytest.raises(RuntimeError, match="yield"):
        await serve(app, ANYWHERE)


async def test_cancelled_while_it_starts_it_is_left_and_nothing_runs(log: Log):
    app = App()

    @app.lifespan
    async def first() -> AsyncIterator[None]:
        async with noted(log, "first"):
            yield

    @app.lifespan
    async def second() -> AsyncIterator[None]:
        async with noted(log, "second"):
            starting.set()
            await trio.sleep_forever()
            yield

    starting = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, app, ANYWHERE)
        await starting.wait()
        nursery.cancel_scope.cancel()
    assert log == ["+first", "+second", "-second", "-first"]
    async with in_memory(App()):
        pass


# Several times


async def test_an_app_that_is_being_served_cannot_be_served_once_more():
    app = App()
    app.get("/")(lambda: "still there")
    async with in_memory(app) as served:
        with pytest.raises(ConfigError, match="served already"):
            await serve(app, ANYWHERE)
        assert (await served.get()).body == b"still there"


@pytest.mark.parametrize("ending", ["well", "badly"])
async def test_an_app_can_be_served_again(log: Log, ending: str):
    app = App()

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        async with noted(log, "pool"):
            yield Pool(str(len(log)))

    @app.get("/")
    async def handler(pool: Pool) -> str:
        return pool

    if ending == "well":
        assert await text_of(app) == "200 1"
    else:
        with pytest.raises(ValueError, match="badly"):
            async with in_memory(app):
                raise ValueError("badly")
    assert await text_of(app) == "200 3"
    assert log == ["+pool", "-pool"] * 2


async def test_what_needs_the_app_served_is_refused_where_it_is_not():
    app = App()
    for use in (app.current, lambda: app.start_soon(print)):
        with pytest.raises(RuntimeError, match="not being served"):
            use()


async def test_records_of_what_was_stopped_come_before_they_are_left(autojump_clock, log: Log):
    app, started = App(), trio.Event()

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        async with noted(log, "pool"):
            yield Pool("")

    @app.on_abandoned
    async def tell(event: Abandoned) -> None:
        await trio.sleep(1)
        log.append(f"hook {event.cause}")

    @app.get("/")
    async def handler() -> None:
        started.set()
        await trio.sleep_forever()

    async with in_memory(app, deadlines=Deadlines(drain=1)) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
    assert log == ["+pool", f"hook {Cause.FIN}", "-pool"]
    assert served.records.all[0].outcome is Outcome.CANCELLED
    assert not isinstance(served.records.all[0], Completed)

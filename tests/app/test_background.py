"""Background work: it outlives its exchange, its failures are its own, and it is drained when the server stops."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NewType

import pytest
import trio
import trio.testing

from tests.support.logs import errors, tracebacks
from tests.support.memory import in_memory
from tests.support.server import happens, start
from trioserve import (
    FINISH,
    Abandoned,
    App,
    ClientGone,
    Completed,
    Deadlines,
    DropConnection,
    HTTPError,
    Next,
    Request,
    Response,
    WebSocketClosed,
)

Transaction = NewType("Transaction", str)
Log = list[Any]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def log() -> Log:
    return []


# app.start_soon


async def test_it_outlives_its_exchange(autojump_clock, log: Log):
    app = App()

    async def work(*args: int) -> None:
        await trio.sleep(5)
        log.append(args)

    @app.get("/")
    async def handler() -> str:
        app.start_soon(work, 1, 2)
        return "started"

    async with in_memory(app) as served:
        client = served.connect()
        assert (await client.get()).body == b"started"
        client.close()
        assert log == []
        await trio.sleep(6)
        assert log == [(1, 2)]


async def test_it_outlives_a_client_that_leaves_and_a_handler_that_fails(autojump_clock, log: Log, caplog):
    app = App()

    async def work(name: str) -> None:
        await trio.sleep(5)
        log.append(name)

    @app.get("/{name}")
    async def handler(name: str) -> None:
        app.start_soon(work, name)
        if name == "fails":
            raise ValueError
        await trio.sleep_forever()

    async with in_memory(app) as served:
        assert (await served.get("/fails")).status == 500
        client = served.connect()
        await client.send(b"GET /left HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        client.close()
        await served.records.next(Completed)
        await served.records.next(Abandoned)
        await trio.sleep(6)
    assert sorted(log) == ["fails", "left"]


async def test_a_plain_function_runs_in_a_worker_thread(log: Log):
    app = App()

    def work(name: str) -> None:
        log.append((name, threading.current_thread() is threading.main_thread()))

    @app.get("/")
    async def handler() -> None:
        app.start_soon(work, "name")
        app.start_soon(partial(work, "partial"))

    async with in_memory(app) as served:
        await served.get()
    assert sorted(log) == [("name", False), ("partial", False)]


async def test_an_object_with_an_async_call_and_a_method_are_async(log: Log):
    class Worker:
        async def __call__(self, value: int) -> None:
            log.append((value, threading.current_thread() is threading.main_thread()))

        async def method(self, value: int) -> None:
            await self(value)

    app = App()

    @app.get("/")
    async def handler() -> None:
        app.start_soon(Worker(), 1)
        app.start_soon(Worker().method, 2)
        app.start_soon(partial(Worker(), 3))

    async with in_memory(app) as served:
        await served.get()
    assert sorted(log) == [(1, True), (2, True), (3, True)]


async def test_a_plain_handler_may_start_it_from_its_thread(log: Log):
    app = App()

    async def work(name: str) -> None:
        log.append((name, threading.current_thread() is threading.main_thread()))

    @app.get("/")
    def handler(request: Request) -> None:
        app.start_soon(work, "now")
        request.after_response(work, "later")

    async with in_memory(app) as served:
        assert (await served.get()).status == 204
    assert log == [("now", True), ("later", True)]


async def test_what_was_refused_does_not_hold_up_the_drain():
    app = App()

    def outside() -> None:
        with pytest.raises(RuntimeError):
            app.start_soon(failing)

    async with in_memory(app):
        thread = threading.Thread(target=outside)
        thread.start()
        await trio.to_thread.run_sync(thread.join)


async def failing() -> None:
    raise ValueError("in the background")


def failing_plainly() -> None:
    raise ValueError("in the background")


async def exiting() -> None:
    raise SystemExit(3)


async def failing_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing)
        nursery.start_soon(trio.sleep_forever)


async def leaving_a_nursery_open() -> None:
    await trio.open_nursery().__aenter__()


def returning_a_coroutine() -> Any:
    return failing()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (failing, "failing raised ValueError: in the background"),
        (failing_plainly, "failing_plainly raised ValueError: in the background"),
        (exiting, "exiting raised SystemExit: 3"),
        (failing_in_a_nursery, "failing_in_a_nursery raised ValueError: in the background"),
        (leaving_a_nursery_open, "leaving_a_nursery_open raised "),
        (returning_a_coroutine, "returning_a_coroutine raised TypeError: Trio expected a sync function"),
        (partial(failing), "failing raised ValueError: in the background"),
    ],
)
async def test_what_it_raises_is_logged_once_by_name_and_disturbs_nobody(function, said, caplog):
    app, others_done = App(), trio.Event()

    async def other() -> None:
        await trio.testing.wait_all_tasks_blocked()
        others_done.set()

    @app.get("/")
    async def handler() -> str:
        app.start_soon(other)
        app.start_soon(function)
        return "started"

    async with in_memory(app) as served:
        client = served.connect()
        assert (await client.get()).body == b"started"
        await others_done.wait()
        assert (await client.get()).body == b"started"
    assert len(errors(caplog)) == len(tracebacks(caplog)) == 2
    for message in errors(caplog):
        assert message.startswith("background work test_background.")
        assert said in message


@pytest.mark.parametrize(
    "error",
    [
        ClientGone("left"),
        WebSocketClosed(1006, ""),
        ExceptionGroup("several tasks", [ClientGone("left"), ExceptionGroup("more", [WebSocketClosed(1000, "bye")])]),
    ],
    ids=["client", "session", "group"],
)
async def test_that_there_is_nobody_any_more_is_no_failure(error: Exception, caplog):
    app, raised = App(), trio.Event()

    async def push() -> None:
        raised.set()
        raise error

    async with in_memory(app):
        app.start_soon(push)
        await raised.wait()
    assert not errors(caplog)


async def test_a_failure_beside_a_departure_is_logged(caplog):
    app = App()
    group = ExceptionGroup("several tasks", [ClientGone("left"), ValueError("a mistake")])

    async def push() -> None:
        raise group

    async with in_memory(app):
        app.start_soon(push)
    (logged,) = tracebacks(caplog)
    assert isinstance(logged, ExceptionGroup)
    assert logged.exceptions == group.exceptions


async def test_it_may_start_more(autojump_clock, log: Log):
    app = App()

    async def again(count: int) -> None:
        await trio.sleep(1)
        log.append(count)
        if count:
            app.start_soon(again, count - 1)

    @app.get("/")
    async def handler() -> None:
        app.start_soon(again, 2)

    async with in_memory(app) as served:
        await served.get()
    assert log == [2, 1, 0], "a drain waits for all of them"


@pytest.mark.parametrize("function", [None, "work", failing()], ids=["none", "text", "coroutine"])
async def test_what_cannot_be_called_is_refused_where_it_is_started(function, caplog):
    app = App()
    async with in_memory(app):
        with pytest.raises(TypeError, match="start_soon"):
            app.start_soon(function)
    if function is not None and not isinstance(function, str):
        function.close()


# request.after_response


async def test_work_for_after_the_response_runs_when_it_is_out_and_in_order(log: Log):
    app = App()

    async def work(name: str) -> None:
        log.append(name)

    @app.get("/")
    async def handler(request: Request) -> AsyncIterator[str]:
        request.after_response(work, "first")
        yield "one"
        log.append("written")
        request.after_response(log.append, "second")

    async with in_memory(app) as served:
        assert (await served.get()).body == b"one"
        await served.records.next(Completed)
    assert log[0] == "written"
    assert sorted(log[1:]) == ["first", "second"]


def app_with_work(log: Log, **policies: Any) -> App:
    """Each way in which a handler can end, with work for after the response."""
    app = App(**policies)

    @app.middleware
    async def register(request: Request, call_next: Next) -> Response:
        request.after_response(log.append, request.path)
        return await call_next(request)

    @app.get("/answers")
    async def answers() -> str:
        return "answer"

    @app.get("/refuses")
    async def refuses() -> None:
        raise HTTPError(409)

    @app.get("/fails")
    async def fails() -> None:
        raise ValueError

    @app.get("/drops")
    async def drops() -> None:
        raise DropConnection

    @app.get("/cut")
    async def cut() -> AsyncIterator[str]:
        yield "one"
        raise ValueError

    @app.get("/waits")
    async def waits() -> str:
        await trio.sleep(1)
        return "waited"

    return app


@pytest.mark.parametrize("target", ["/answers", "/refuses", "/nothing", "/waits"])
async def test_what_middleware_has_registered_runs_after_whatever_was_answered(autojump_clock, log: Log, target: str):
    async with in_memory(app_with_work(log)) as served:
        await served.get(target)
    assert log == [target]


@pytest.mark.parametrize("target", ["/fails", "/drops", "/cut"])
@pytest.mark.parametrize("debug", [True, False])
async def test_it_does_not_run_where_the_handler_failed_whoever_answers_that(
    autojump_clock, log: Log, target: str, caplog, *, debug: bool
):
    app = app_with_work(log, debug=debug)
    app.error_handler(500)(lambda request, error: "sorry")  # noqa: ARG005
    async with in_memory(app) as served:
        client = served.connect()
        await client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        await client.read_to_end()
    assert log == []


@pytest.mark.parametrize("error", [HTTPError(409), KeyError("known"), ValueError("unknown")], ids=repr)
@pytest.mark.parametrize("raises", ["handler", "dependency", "middleware"])
async def test_what_one_has_registered_that_raised_does_not_run_whoever_answers(log: Log, error, raises, caplog):
    app = App()
    app.error_handler(KeyError)(lambda request, error: "known")  # noqa: ARG005

    @app.middleware
    async def around(request: Request, call_next: Next) -> Response:
        if raises != "middleware":
            return await call_next(request)
        request.after_response(log.append, "middleware")
        await call_next(request)
        raise error

    @app.dependency
    async def transaction(request: Request) -> AsyncIterator[Transaction]:
        request.after_response(log.append, "dependency")
        yield Transaction("")
        if raises == "dependency":
            raise error

    @app.get("/")
    async def handler(request: Request, transaction: Transaction) -> str:
        request.after_response(log.append, "handler")
        if raises == "handler":
            raise error
        return "done"

    async with in_memory(app) as served:
        await served.get()
    assert log == []


async def test_an_error_handler_may_register_work_itself(log: Log):
    app = App()

    @app.error_handler(KeyError)
    async def answer(request: Request, error: KeyError) -> str:
        request.after_response(log.append, "answered")
        return "sorry"

    @app.get("/")
    async def handler(request: Request) -> None:
        request.after_response(log.append, "handler")
        raise KeyError

    async with in_memory(app) as served:
        await served.get()
    assert log == ["answered"]


@pytest.mark.parametrize("policies", [{}, {"disconnect": FINISH}, {"deadline": 0.5}], ids=["cancel", "finish", "late"])
async def test_it_does_not_run_where_the_response_did_not_get_out(autojump_clock, log: Log, policies: Any):
    async with in_memory(app_with_work(log, **policies)) as served:
        client = served.connect()
        await client.send(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        if "deadline" in policies:
            assert (await client.answer()).status == 503
        else:
            client.close()
            await served.records.next(Abandoned)
    assert log == []


async def test_it_runs_though_the_client_leaves_as_soon_as_it_has_its_response(autojump_clock, log: Log):
    app, waiting = App(), trio.Event()
    Slow = NewType("Slow", str)

    @app.dependency
    async def slow() -> AsyncIterator[Slow]:
        yield Slow("")
        waiting.set()
        await trio.sleep(1)

    @app.get("/")
    async def handler(request: Request, slow: Slow) -> AsyncIterator[str]:
        request.after_response(log.append, "done")
        yield "streamed"

    async with in_memory(app) as served:
        client = served.connect()
        assert (await client.get()).body == b"streamed"
        await waiting.wait()
        client.close()
    assert log == ["done"]


async def test_what_it_raises_is_logged(caplog):
    app = App()

    @app.get("/")
    async def handler(request: Request) -> str:
        request.after_response(failing)
        return "x"

    async with in_memory(app) as served:
        assert (await served.get()).status == 200
    assert [str(error) for error in tracebacks(caplog)] == ["in the background"]


# From elsewhere


async def test_it_can_be_started_from_a_lifespan_and_from_a_hook(autojump_clock, log: Log):
    app = App()

    async def work(name: str) -> None:
        await trio.sleep(1)
        log.append(name)

    @app.lifespan
    async def starts(app: App) -> AsyncIterator[None]:
        app.start_soon(work, "lifespan")
        yield
        with pytest.raises(RuntimeError, match=r"cannot start .*work: the server has stopped"):
            app.start_soon(work, "too late")

    @app.on_abandoned
    async def tell(event: Abandoned) -> None:
        app.start_soon(work, "hook")

    @app.get("/")
    async def handler() -> None:
        await trio.sleep_forever()

    async with in_memory(app, deadlines=Deadlines(drain=1)) as served:
        client = served.connect()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        client.close()
    assert sorted(log) == ["hook", "lifespan"]


async def test_it_is_refused_where_the_app_is_not_served(log: Log):
    app = App()
    with pytest.raises(RuntimeError, match="not being served"):
        app.start_soon(log.append, 1)
    async with in_memory(app):
        app.start_soon(log.append, 2)
    with pytest.raises(RuntimeError, match="not being served"):
        app.start_soon(log.append, 3)
    assert log == [2]


# The drain


def app_that_works(log: Log, seconds: float) -> App:
    app = App()
    Pool = NewType("Pool", str)

    @app.lifespan
    async def pool() -> AsyncIterator[Pool]:
        yield Pool("")
        log.append("pool is closed")

    async def work() -> None:
        try:
            await trio.sleep(seconds)
            log.append("done")
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)
                log.append("unwound")
            raise

    @app.get("/")
    async def handler() -> None:
        app.start_soon(work)

    return app


@pytest.mark.parametrize(
    ("seconds", "happened"),
    [(3, ["done", "pool is closed"]), (5, ["unwound", "pool is closed"])],
)
async def test_it_is_waited_for_until_its_deadline_then_cancelled_and_its_unwinding_is_not_cut(
    autojump_clock, log: Log, seconds: float, happened: Log, caplog
):
    async with in_memory(app_that_works(log, seconds), deadlines=Deadlines(background=4)) as served:
        await served.get()
    assert log == happened
    assert not errors(caplog), "a cancellation is no failure"


async def test_the_deadline_begins_with_the_end_of_the_last_exchange(autojump_clock, log: Log):
    app = app_that_works(log, 8)

    @app.get("/slow")
    async def slow() -> None:
        await trio.sleep(5)

    async with in_memory(app, deadlines=Deadlines(background=4)) as served:
        await served.get()
        client = served.connect()
        await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await served.server.drain()
    assert log == ["done", "pool is closed"]


async def test_what_is_started_while_it_unwinds_is_refused_and_the_server_stops(autojump_clock, log: Log):
    app = App()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            try:
                app.start_soon(work)
            except RuntimeError as error:
                log.append(str(error))

    @app.get("/")
    async def handler() -> None:
        app.start_soon(work)

    with trio.fail_after(60):
        async with in_memory(app, deadlines=Deadlines(background=4)) as served:
            await served.get()
    assert len(log) == 1
    assert "the server has stopped" in log[0]


async def test_a_server_that_is_cancelled_cancels_it_at_once_inside_the_lifespans(nursery, log: Log):
    app, started = App(), trio.Event()

    @app.lifespan
    async def pool() -> AsyncIterator[None]:
        try:
            yield
        finally:
            log.append("pool is closed")

    async def work() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                log.append("unwound")

    @app.get("/")
    async def handler() -> None:
        app.start_soon(work)

    server = await start(nursery, app, deadlines=Deadlines(background=1000))
    client = await server.connect()
    assert (await client.get()).status == 204
    await happens(started.wait())
    server.scope.cancel()
    await happens(server.ended.wait())
    assert log == ["unwound", "pool is closed"]


async def test_a_plain_function_learns_that_it_is_to_stop(nursery, log: Log):
    app, started = App(), threading.Event()

    def work() -> None:
        started.set()
        while True:
            try:
                trio.from_thread.check_cancelled()
            except BaseException:
                log.append("told")
                raise

    @app.get("/")
    async def handler() -> None:
        app.start_soon(work)

    server = await start(nursery, app, deadlines=Deadlines(background=0.1))
    client = await server.connect()
    assert (await client.get()).status == 204
    await trio.to_thread.run_sync(started.wait)
    server.drain.set()
    await happens(server.ended.wait())
    assert log == ["told"]


async def test_its_context_variables_are_those_of_where_it_was_started(log: Log):
    user: ContextVar[str] = ContextVar("user", default="nobody")
    app = App()

    async def work() -> None:
        log.append(user.get())

    @app.get("/{name}")
    async def handler(request: Request, name: str) -> None:
        user.set(name)
        app.start_soon(work)

    async with in_memory(app) as served:
        client = served.connect()
        await client.get("/me")
        await client.get("/you")
    assert log == ["me", "you"]

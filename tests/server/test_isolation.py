"""What goes wrong in one connection, hook or observer reaches nobody else."""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading

import pytest
import trio

from tests.support import happens, start, tcp_pair
from tests.support.logs import errors, logged, tracebacks
from trioserve import Abandoned, App, Cause, Completed, Deadlines, DropConnection, Phase, Response, UnixAddress
from trioserve.connection.hangup import HangupWatch
from trioserve.connection.spool import Budget, Spool
from trioserve.connection.transport import SocketTransport
from trioserve.observe.reporter import HOOK_THREADS

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SLEEP = b"GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n"


class Sleeping(App):
    """An app with a handler that sleeps until its client leaves; `entered` when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = trio.Event()

        @self.get("/")
        async def hello() -> str:
            return "hello"

        @self.get("/sleep")
        async def sleep() -> None:
            self.entered.set()
            await trio.sleep_forever()

    async def is_left_by_a_client(self, server) -> None:
        """A client asks for the handler that sleeps, and goes."""
        self.entered = trio.Event()
        client = await server.ask(SLEEP)
        await happens(self.entered.wait())
        client.close()


class BrokenApplication(App):
    """An application that breaks its contract: its `endpoint` raises for one target."""

    def endpoint(self, head):
        if head.target == "/broken":
            raise ValueError("broken application")
        return super().endpoint(head)


async def test_an_application_that_breaks_its_contract_ends_its_connection_and_no_other(nursery, caplog):
    app = BrokenApplication()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    server = await start(nursery, app)
    other = await server.connect()
    await other.get()
    await server.records.next(Completed)

    answer = await (await server.connect()).get("/broken")

    assert (answer.status, answer.closes) == (500, True)
    assert (await other.get()).body == b"hello"
    assert [str(error) for error in tracebacks(caplog)] == ["broken application"]
    assert [(await server.records.next(Completed)).status for _ in range(2)] == [500, 200]


class NamelessEndpoint:
    """An endpoint that breaks its contract in the worst place: where a connection that has ended makes its record."""

    def __init__(self, endpoint) -> None:
        self._endpoint = endpoint
        self.rules = endpoint.rules

    @property
    def name(self) -> str:
        raise ValueError("nameless endpoint")

    async def __call__(self, exchange) -> None:
        await self._endpoint(exchange)


async def test_an_endpoint_that_breaks_its_contract_at_the_end_of_its_connection_touches_no_other(nursery, caplog):
    class Nameless(Sleeping):
        def endpoint(self, head):
            endpoint = super().endpoint(head)
            return NamelessEndpoint(endpoint) if head.target == "/sleep" else endpoint

    app = Nameless()
    server = await start(nursery, app)
    staying = await server.connect()
    with logged("trioserve.error") as mistake:
        await app.is_left_by_a_client(server)
        await happens(mistake.wait())

    assert (await staying.get()).body == b"hello"
    assert [str(error) for error in tracebacks(caplog)] == ["nameless endpoint"]
    staying.close()
    server.drain.set()
    await happens(server.ended.wait())


async def test_a_connection_that_is_reset_touches_no_other(nursery, caplog):
    app = Sleeping()
    server = await start(nursery, app)
    staying = await server.connect()
    await staying.get()
    await server.records.next(Completed)

    for _ in range(10):
        app.entered = trio.Event()
        leaving = await server.ask(SLEEP)
        await happens(app.entered.wait())
        leaving.reset()
        assert (await server.records.next(Abandoned)).cause is Cause.RESET

    assert (await staying.get()).body == b"hello"
    assert not errors(caplog)


async def test_a_handler_that_asks_for_silence_is_444_and_says_nothing(nursery, caplog):
    app = App()

    @app.get("/")
    async def handler() -> None:
        raise DropConnection

    server = await start(nursery, app)
    client = await server.ask(GET)

    assert await client.is_closed()
    record = await server.records.next(Abandoned)
    assert (record.status, record.phase, record.cause) == (444, Phase.HANDLER, Cause.DROPPED)
    assert (record.by, record.sent_status, record.logged_status) == ("server", None, 444)
    assert not errors(caplog)


async def test_tasks_of_one_handler_that_all_ask_for_silence_get_it(nursery, caplog):
    app = App()

    async def drop() -> None:
        raise DropConnection

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as tasks:
            for _ in range(2):
                tasks.start_soon(drop)

    server = await start(nursery, app)
    client = await server.ask(GET)

    assert await client.is_closed()
    assert (await server.records.next(Abandoned)).status == 444
    assert not errors(caplog)


async def test_a_stream_that_asks_for_silence_is_cut(nursery, caplog):
    app = App()

    async def write_body(send) -> None:
        await send("part")
        raise DropConnection

    @app.get("/")
    async def handler() -> Response:
        return Response.stream(write_body)

    server = await start(nursery, app)
    await server.ask(GET)

    record = await server.records.next(Abandoned)
    assert (record.status, record.phase, record.cause) == (444, Phase.RESPONSE_BODY, Cause.DROPPED)
    assert (record.sent_status, record.logged_status) == (200, 200)
    assert not errors(caplog)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_every_hook_is_told_of_every_abandoned_exchange(nursery, plain):
    app = Sleeping()
    told: list[tuple[str, Abandoned]] = []

    for name in ("first", "second"):
        if plain:
            app.on_abandoned(lambda record, name=name: told.append((name, record)))
        else:

            async def hook(record, name=name) -> None:
                told.append((name, record))

            app.on_abandoned(hook)

    server = await start(nursery, app)
    await app.is_left_by_a_client(server)
    record = await server.records.next(Abandoned)
    server.drain.set()
    await happens(server.ended.wait())

    assert sorted(told, key=lambda pair: pair[0]) == [("first", record), ("second", record)]


class Odd(BaseException):
    """Neither an Exception nor one of those that belong to the interpreter."""


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, Odd])
async def test_a_hook_that_raises_is_logged_once_and_disturbs_nobody(nursery, caplog, plain, kind):
    app = Sleeping()
    told: list[Abandoned] = []

    if plain:

        @app.on_abandoned
        def broken(record) -> None:
            raise kind
    else:

        @app.on_abandoned
        async def broken(record) -> None:
            raise kind

    app.on_abandoned(told.append)
    server = await start(nursery, app)
    staying = await server.connect()
    await app.is_left_by_a_client(server)
    record = await server.records.next(Abandoned)

    assert (await staying.get()).body == b"hello"
    staying.close()
    server.drain.set()
    await happens(server.ended.wait())
    assert [type(error) for error in tracebacks(caplog)] == [kind]
    assert told == [record]
    [message] = errors(caplog)
    assert broken.__qualname__ in message


async def test_a_hook_that_raises_several_errors_at_once_is_logged_once(nursery, caplog):
    app = Sleeping()

    @app.on_abandoned
    async def broken(record) -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(fail)
            inner.start_soon(fail)

    async def fail() -> None:
        raise ValueError

    server = await start(nursery, app)
    await app.is_left_by_a_client(server)
    await server.records.next(Abandoned)
    server.drain.set()
    await happens(server.ended.wait())

    assert [type(error) for error in tracebacks(caplog)] == [ExceptionGroup]


@pytest.mark.parametrize("how", ["in its own task", "in a nursery of its own", "in a thread"])
async def test_a_hook_that_hangs_is_stopped_and_logged_and_disturbs_nobody(nursery, caplog, how):
    app = Sleeping()
    told: list[Abandoned] = []
    unblock = threading.Event()

    async def hangs(record) -> None:
        await trio.sleep_forever()

    async def hangs_in_a_nursery(record) -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            inner.start_soon(trio.sleep_forever)

    def blocks(record) -> None:
        unblock.wait()

    hook = {"in its own task": hangs, "in a nursery of its own": hangs_in_a_nursery, "in a thread": blocks}[how]
    app.on_abandoned(hook)
    app.on_abandoned(told.append)
    server = await start(nursery, app, deadlines=Deadlines(hook=0.1))
    staying = await server.connect()
    await app.is_left_by_a_client(server)
    record = await server.records.next(Abandoned)

    assert (await staying.get()).body == b"hello"
    staying.close()
    server.drain.set()
    try:
        await happens(server.ended.wait())
    finally:
        unblock.set()
    [message] = errors(caplog)
    assert hook.__qualname__ in message
    assert "Deadlines.hook" in message
    assert told == [record]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
async def test_an_observer_that_raises_is_logged_and_the_others_are_told(nursery, caplog, kind):
    class Broken:
        def completed(self, _record) -> None:
            raise kind("completed")

        def abandoned(self, _record) -> None:
            raise kind("abandoned")

    app = Sleeping()
    told: list[Abandoned] = []
    app.on_abandoned(told.append)
    server = await start(nursery, app, observers=(Broken(),))
    client = await server.connect()

    assert (await client.get()).body == b"hello"
    assert (await client.get()).body == b"hello"
    await app.is_left_by_a_client(server)
    for outcome in (Completed, Completed, Abandoned):
        await server.records.next(outcome)
    client.close()
    server.drain.set()
    await happens(server.ended.wait())

    assert [str(error) for error in tracebacks(caplog)] == ["completed", "completed", "abandoned"]
    assert len(told) == 1


async def test_a_server_whose_handlers_clean_up_badly_ends_by_its_cancellation_and_nothing_else(nursery, caplog):
    app = App()
    entered = trio.Event()

    async def clean_up_badly() -> None:
        try:
            entered.set()
            await trio.sleep_forever()
        finally:
            raise ValueError("clean-up failed")

    @app.get("/")
    async def handler() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(clean_up_badly)
            inner.start_soon(trio.sleep_forever)

    server = await start(nursery, app)
    client = await server.ask(GET)
    await happens(entered.wait())

    server.scope.cancel()

    assert (await client.answer()).status == 503
    await happens(server.ended.wait())
    assert server.scope.cancelled_caught
    assert not errors(caplog)


async def test_under_finish_a_client_of_a_unix_socket_that_closes_altogether_has_left(nursery, tmp_path):
    app = Sleeping()
    server = await start(nursery, app, listen=(UnixAddress(str(tmp_path / "socket")),), half_close="finish")

    await app.is_left_by_a_client(server)

    assert (await server.records.next(Abandoned)).cause is Cause.RESET


class Deaf:
    """A listener that does nothing."""

    def hung_up(self) -> None: ...

    def bytes_arrived(self) -> None: ...


async def test_a_connection_that_the_system_refuses_to_watch_can_be_closed_and_takes_nobodys_watch_away():
    watch, other = HangupWatch(), Deaf()
    unbounded = Budget(math.inf)
    with contextlib.closing(watch._epoll), tcp_pair() as (server, _client):
        descriptor = server.fileno()
        watch.add(descriptor, other)
        transport = SocketTransport(
            server, None, watch=watch, spool=Spool(math.inf, unbounded), receive_buffers=unbounded
        )
        with pytest.raises(FileExistsError):  # or OSError, where there are more watches than it allows
            transport.watch(pytest.fail)
        assert watch._listeners == {descriptor: other}

        transport.close()

        assert watch._listeners == {descriptor: other}


# What a handler leaves behind


async def test_what_a_handler_leaves_in_context_variables_is_not_the_next_requests(nursery):
    app, user = App(), contextvars.ContextVar("user", default="nobody")

    @app.get("/login")
    async def login() -> str:
        user.set("alice")
        await trio.lowlevel.checkpoint()
        return user.get()

    @app.get("/who")
    async def who() -> str:
        return user.get()

    server = await start(nursery, app)
    client = await server.connect()
    assert (await client.get("/login")).body == b"alice"
    assert (await client.get("/who")).body == b"nobody"


async def test_context_variables_set_before_the_server_was_started_are_seen_by_handlers(nursery):
    app, tenant = App(), contextvars.ContextVar("tenant", default="none")
    tenant.set("ours")

    @app.get("/")
    async def which() -> str:
        return tenant.get()

    server = await start(nursery, app)
    client = await server.connect()
    assert [(await client.get()).body for _ in range(2)] == [b"ours", b"ours"]


async def _left_open_nursery() -> None:
    await trio.open_nursery().__aenter__()


async def _raised_generator_exit() -> None:
    raise GeneratorExit


@pytest.mark.parametrize("mistake", [_left_open_nursery, _raised_generator_exit])
async def test_a_handler_that_breaks_its_own_task_breaks_nobody_elses(nursery, caplog, mistake):
    app = App()

    @app.get("/mistake")
    async def handler() -> str:
        await mistake()
        return "done"

    @app.get("/")
    async def hello() -> str:
        return "hello"

    server = await start(nursery, app)
    staying, erring = await server.connect(), await server.ask(b"GET /mistake HTTP/1.1\r\nHost: test\r\n\r\n")
    await happens(erring.receive())
    erring.close()
    assert (await staying.get()).body == b"hello"
    assert (await (await server.connect()).get()).body == b"hello"
    assert errors(caplog), "somebody is told"


async def test_what_runs_in_a_nursery_that_a_handler_has_left_open_is_cancelled_with_its_connection(nursery, caplog):
    app, runs, cancelled = App(), trio.Event(), trio.Event()

    async def left_running() -> None:
        runs.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    @app.get("/")
    async def handler() -> str:
        left_open = await trio.open_nursery().__aenter__()
        left_open.start_soon(left_running)
        await runs.wait()
        return "done"

    server = await start(nursery, app)
    staying, erring = await server.connect(), await server.connect()
    assert (await erring.get()).body == b"done"
    erring.close()

    await happens(cancelled.wait())

    assert (await staying.get()).body == b"done"
    assert errors(caplog), "somebody is told"


async def test_a_plain_hook_that_hangs_takes_no_threads_of_another(nursery, caplog):
    app, told = Sleeping(), trio.Event()
    unblock = threading.Event()
    calls: list[Abandoned] = []

    @app.on_abandoned
    def hangs(_record: Abandoned) -> None:
        unblock.wait()

    @app.on_abandoned
    def counts(record: Abandoned) -> None:
        calls.append(record)
        if len(calls) == HOOK_THREADS + 5:
            trio.from_thread.run_sync(told.set)

    server = await start(nursery, app, deadlines=Deadlines(hook=1))
    try:
        for _ in range(HOOK_THREADS + 5):
            await app.is_left_by_a_client(server)
        await happens(told.wait())
        while len(errors(caplog)) < HOOK_THREADS + 5:
            await trio.lowlevel.checkpoint()
    finally:
        unblock.set()
    ended = errors(caplog)
    assert sum("did not end" in line for line in ended) == HOOK_THREADS
    assert sum("was not called" in line for line in ended) == 5


async def test_what_belongs_into_no_log_is_not_logged_with_a_failing_hook(nursery, caplog):
    app = Sleeping()

    @app.on_abandoned
    async def fails(_record: Abandoned) -> None:
        raise ValueError("on purpose")

    server = await start(nursery, app)
    with logged("trioserve.error") as failure:
        app.entered = trio.Event()
        client = await server.ask(SLEEP.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer secret\r\n\r\n"))
        await happens(app.entered.wait())
        client.close()
        await happens(failure.wait())
    assert "secret" not in caplog.text


async def test_a_plain_function_around_an_async_hook_is_awaited(nursery):
    app, told = Sleeping(), trio.Event()

    async def tell(_record: Abandoned) -> None:
        told.set()

    app.on_abandoned(lambda record: tell(record))  # noqa: PLW0108 - that is the case
    server = await start(nursery, app)
    await app.is_left_by_a_client(server)
    await happens(told.wait())


async def test_a_keyboard_interrupt_ends_the_server_and_it_is_said_which_handler_it_struck(caplog):
    app = App()

    @app.get("/reports")
    async def reports() -> None:
        raise KeyboardInterrupt

    async def serve_until_interrupted() -> None:
        async with trio.open_nursery() as nursery:
            server = await start(nursery, app)
            bystander = await server.connect()
            await server.ask(GET.replace(b"/", b"/reports", 1))
            await bystander.is_closed()

    with pytest.raises(BaseExceptionGroup) as ended:
        await serve_until_interrupted()

    assert ended.group_contains(KeyboardInterrupt)
    [message] = errors(caplog)
    assert message.startswith("handler of GET /reports raised KeyboardInterrupt")

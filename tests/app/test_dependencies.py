"""Dependencies: entered for each exchange in the order in which they are needed, left in the opposite one, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, NewType, Self

import pytest
import trio

from tests.support.logs import errors, tracebacks
from tests.support.memory import in_memory, text_of
from trioserve import FINISH, Abandoned, App, Cause, Completed, Deadlines, Grace, HTTPError, Outcome, Request, Response

Log = list[str]
A, B, C, Other = (NewType(name, str) for name in ("A", "B", "C", "Other"))

MISSING = HTTPError(404, "no such thing")


@asynccontextmanager
async def noted(log: Log, name: str) -> AsyncIterator[None]:
    """Note the entry, the end, and what was raised."""
    log.append(f"+{name}")
    try:
        yield
    except BaseException as error:
        log.append(f"!{name} {type(error).__name__}")
        raise
    finally:
        log.append(f"-{name}")


def provide(app: App, log: Log, key: Any, *needs: Any) -> None:
    """Register a dependency that provides `key`, needs others, and notes what happens to it."""

    async def provider(**arguments: str) -> AsyncIterator[Any]:
        async with noted(log, key.__name__):
            yield key.__name__ + "".join(sorted(arguments.values()))

    class Provider:
        def __call__(self, first: Any = None, second: Any = None) -> AbstractAsyncContextManager[Any]:
            return asynccontextmanager(provider)(**{n: v for n, v in [("a", first), ("b", second)] if v is not None})

    Provider.__call__.__annotations__ = dict(zip(("first", "second"), needs, strict=False))
    app.dependency(provides=key)(Provider())


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
def app(log: Log) -> App:
    """An app in which C needs B and A, and B needs A."""
    app = App()
    provide(app, log, A)
    provide(app, log, B, A)
    provide(app, log, C, B, A)
    return app


# Order


async def test_each_is_entered_once_after_what_it_needs_and_left_before_it(app: App, log: Log):
    @app.get("/")
    async def handler(c: C, b: B, a: A) -> str:
        log.append("handler")
        return f"{c} {b} {a}"

    assert await text_of(app) == "200 CABA BA A"
    assert log == ["+A", "+B", "+C", "handler", "-C", "-B", "-A"]


async def test_what_is_needed_first_is_entered_first(app: App, log: Log):
    provide(app, log, Other)

    @app.get("/")
    async def handler(first: Other, second: A) -> None: ...

    assert await text_of(app) == "204 "
    assert log == ["+Other", "+A", "-A", "-Other"]


async def test_what_nobody_needs_is_not_entered(app: App, log: Log):
    @app.get("/")
    async def handler(request: Request) -> None: ...

    assert await text_of(app) == "204 "
    assert log == []


async def test_each_exchange_has_its_own():
    app = App()

    @app.dependency
    class Counter:
        async def __aenter__(self) -> Self:
            self.count = 0
            return self

        async def __aexit__(self, *_: object) -> None: ...

    @app.get("/")
    async def handler(counter: Counter) -> str:
        counter.count += 1
        return str(counter.count)

    async with in_memory(app) as served:
        client = served.connect()
        assert (await client.get()).body == b"1"
        assert (await client.get()).body == b"1"


async def test_a_dependency_takes_the_request_with_its_path_parameters_and_its_body():
    app = App()

    @app.dependency(provides=Annotated[bytes, "signed"])
    async def signed(request: Request) -> AsyncIterator[bytes]:
        yield request.path_params["name"].encode() + await request.body()

    @app.post("/{name}")
    async def handler(name: str, body: Annotated[bytes, "signed"], request: Request) -> bytes:
        return body + await request.body()

    async with in_memory(app) as served:
        assert (await served.post(b"content", "/me")).body == b"mecontentcontent"


async def test_a_plain_handler_takes_them_too_and_they_run_in_the_task_of_the_exchange(app: App, log: Log):
    @app.get("/")
    def handler(c: C) -> str:
        trio.from_thread.check_cancelled()
        log.append("handler")
        return c

    assert await text_of(app) == "200 CABA"
    assert log == ["+A", "+B", "+C", "handler", "-C", "-B", "-A"]


# When they are left


async def test_they_are_left_before_a_whole_response_is_sent(log: Log):
    app, client_has_it = App(), trio.Event()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        yield A("")
        log.append(str(client_has_it.is_set()))

    @app.get("/")
    async def handler(a: A) -> None: ...

    async with in_memory(app) as served:
        await served.get()
        client_has_it.set()
    assert log == ["False"]


async def test_the_response_can_be_changed_until_then(log: Log):
    app = App()
    response = Response("draft")

    @app.dependency
    async def a() -> AsyncIterator[A]:
        yield A("")
        response.headers["etag"] = '"final"'

    @app.get("/")
    async def handler(a: A) -> Response:
        return response

    async with in_memory(app) as served:
        assert (await served.get()).get("etag") == '"final"'


STREAMS: dict[str, Callable[[Log], Any]] = {}


def stream(function: Callable[[Log], Any]) -> Callable[[Log], Any]:
    STREAMS[function.__name__] = function
    return function


@stream
def pushed(log: Log) -> Response:
    async def write(send: Any) -> None:
        async with noted(log, "stream"):
            await send("one")
            await trio.lowlevel.checkpoint()
            await send("two")

    return Response.stream(write)


@stream
def generated(log: Log) -> Any:
    async def generate() -> AsyncIterator[str]:
        async with noted(log, "stream"):
            yield "one"
            await trio.lowlevel.checkpoint()
            yield "two"

    return generate()


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
async def test_for_a_stream_they_are_left_when_it_is_written(app: App, log: Log, make: Any):
    @app.get("/")
    async def handler(b: B) -> Any:
        log.append("handler")
        return make(log)

    assert await text_of(app) == "200 onetwo"
    assert log == ["+A", "+B", "handler", "+stream", "-stream", "-B", "-A"]


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
async def test_of_a_stream_that_nobody_may_see_they_are_left_too(app: App, log: Log, make: Any):
    @app.get("/")
    async def handler(b: B) -> Any:
        return make(log)

    async with in_memory(app) as served:
        assert (await served.get(method="HEAD")).status == 200
        await served.records.next(Completed)
    assert log == ["+A", "+B", "-B", "-A"]


async def test_a_generator_handler_is_a_stream_whose_dependencies_are_open(app: App, log: Log):
    @app.get("/")
    async def handler(c: C) -> AsyncIterator[str]:
        log.append("begun")
        yield c

    assert await text_of(app) == "200 CABA"
    assert log == ["+A", "+B", "+C", "begun", "-C", "-B", "-A"]


async def test_of_a_stream_that_middleware_replaces_they_are_left_all_the_same(app: App, log: Log):
    @app.middleware
    async def replace(request: Request, call_next: Any) -> Response:
        await call_next(request)
        return Response("replaced")

    @app.get("/")
    async def handler(b: B) -> AsyncIterator[str]:
        yield "never"

    assert await text_of(app) == "200 replaced"
    assert log == ["+A", "+B", "-B", "-A"]


# What they are told


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPError(409), 409), (ValueError("wrong"), 500), (SystemExit(3), 500)], ids=repr
)
async def test_they_are_left_with_what_the_handler_raised(app: App, log: Log, error: BaseException, status: int):
    @app.get("/")
    async def handler(b: B) -> None:
        raise error

    async with in_memory(app) as served:
        assert (await served.get()).status == status
    name = type(error).__name__
    assert log == ["+A", "+B", f"!B {name}", "-B", f"!A {name}", "-A"]


async def test_a_plain_handler_s_exception_reaches_them_too(app: App, log: Log):
    @app.get("/")
    def handler(a: A) -> None:
        raise HTTPError(409)

    assert (await text_of(app)).startswith("409 ")
    assert log == ["+A", "!A HTTPError", "-A"]


async def test_what_is_no_response_is_told_to_them_as_well(app: App, log: Log, caplog):
    @app.get("/")
    async def handler(a: A) -> object:
        return object()

    assert (await text_of(app)).startswith("500 ")
    assert log == ["+A", "!A ResponseError", "-A"]


async def test_they_are_left_with_what_a_stream_raised(app: App, log: Log, caplog):
    @app.get("/")
    async def handler(a: A) -> Response:
        async def write(send: Any) -> None:
            await send("one")
            raise ValueError("in the middle")

        return Response.stream(write)

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.read_to_end()).endswith(b"one\r\n"), "cut"
        record = await served.records.next(Abandoned)
    assert record.cause is Cause.HANDLER_FAILED
    assert log == ["+A", "!A ValueError", "-A"]


# What they raise themselves


async def test_one_that_cannot_be_committed_is_a_500_and_is_logged(caplog):
    app, error = App(), RuntimeError("serialization failure")

    @app.dependency
    async def a() -> AsyncIterator[A]:
        yield A("")
        raise error

    @app.get("/")
    async def handler(a: A) -> str:
        return "all is well"

    text = await text_of(app)
    assert text.startswith("500 ")
    assert "all is well" not in text
    assert tracebacks(caplog) == [error]


async def test_one_that_cannot_be_committed_may_say_what_is_answered():
    app = App()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        yield A("")
        raise HTTPError(409, "somebody was faster")

    @app.get("/")
    async def handler(a: A) -> str:
        return "all is well"

    assert await text_of(app) == "409 409 Conflict\nsomebody was faster\n"


async def test_one_that_fails_behind_a_stream_that_was_written_is_logged_and_the_stream_is_cut(caplog):
    app, error = App(), RuntimeError("too late")

    @app.dependency
    async def a() -> AsyncIterator[A]:
        yield A("")
        raise error

    @app.get("/")
    async def handler(a: A) -> AsyncIterator[str]:
        yield "written"

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
        record = await served.records.next(Abandoned)
        assert (record.cause, record.sent_status, record.response_body_bytes) == (Cause.HANDLER_FAILED, 200, 7)
        assert (await client.receive()).endswith(b"written\r\n"), "there is no last chunk"
    assert tracebacks(caplog) == [error]
    assert not served.records.unread


async def test_one_that_raises_at_its_entry_is_answered_and_the_handler_not_called(app: App, log: Log):
    @app.dependency(provides=str)
    async def user(b: B) -> AsyncIterator[str]:
        log.append("user")
        raise HTTPError(401, "who are you?", headers={"www-authenticate": "Basic"})
        yield ""

    @app.get("/")
    async def handler(user: str, c: C) -> None:
        pytest.fail("the handler was called")

    async with in_memory(app) as served:
        answer = await served.get()
    assert (answer.status, answer.get("www-authenticate")) == (401, "Basic")
    assert log == ["+A", "+B", "user", "!B HTTPError", "-B", "!A HTTPError", "-A"]


async def test_an_error_handler_answers_what_a_dependency_raises():
    app = App()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        raise LookupError("nobody")
        yield A("")

    @app.error_handler(LookupError)
    async def nobody(request: Request, error: LookupError) -> Response:
        return Response(str(error), status=401)

    @app.get("/")
    async def handler(a: A) -> None: ...

    assert await text_of(app) == "401 nobody"


async def test_one_that_turns_an_exception_into_another_decides_the_answer():
    app = App()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        try:
            yield A("")
        except KeyError as error:
            raise HTTPError(404, f"no {error}") from error

    @app.get("/")
    async def handler(a: A) -> None:
        raise KeyError("thing")

    assert await text_of(app) == "404 404 Not Found\nno 'thing'\n"


async def test_one_that_swallows_the_exception_is_a_500_that_names_the_handler(caplog):
    app = App()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        try:
            yield A("")
        except ValueError:
            pass

    @app.get("/")
    async def silenced(a: A) -> None:
        raise ValueError

    assert (await text_of(app)).startswith("500 ")
    (error,) = tracebacks(caplog)
    assert "swallowed the exception" in str(error)
    assert "silenced" in str(error)
    assert f"the dependency {__name__}." in str(error)
    assert f".a ({__file__}:" in str(error)


@pytest.mark.parametrize("yields", [0, 2])
async def test_one_that_yields_not_once_is_a_500(yields: int, caplog):
    app = App()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        for _ in range(yields):
            yield A("")

    @app.get("/")
    async def handler(a: A) -> None: ...

    assert (await text_of(app)).startswith("500 ")
    (error,) = tracebacks(caplog)
    assert "yield" in str(error) or "stop" in str(error)
    (note,) = error.__notes__
    assert note.startswith("raised where the dependency ")
    assert f".a ({__file__}:" in note


async def test_a_nursery_around_the_yield_works(log: Log):
    app = App()

    @app.dependency
    async def nursery() -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as made:
            yield made

    @app.get("/")
    async def handler(nursery: trio.Nursery) -> str:
        nursery.start_soon(note)
        return "sent"

    async def note() -> None:
        await trio.lowlevel.checkpoint()
        log.append("task")

    assert await text_of(app) == "200 sent"
    assert log == ["task"]


async def test_a_failure_in_a_nursery_around_the_yield_is_answered_like_the_handlers():
    app = App()

    @app.dependency
    async def nursery() -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as made:
            yield made

    @app.get("/")
    async def handler(nursery: trio.Nursery) -> None:
        nursery.start_soon(fail)
        await trio.sleep_forever()

    async def fail() -> None:
        raise HTTPError(418, "in a task")

    assert await text_of(app) == "418 418 I'm a Teapot\nin a task\n"


# Cancelled


def app_that_waits(log: Log, started: trio.Event, **policies: Any) -> App:
    app = App(**policies)
    provide(app, log, A)

    @app.dependency
    async def transaction(a: A) -> AsyncIterator[B]:
        async with noted(log, "B"):
            try:
                yield B("")
            except BaseException:
                with trio.move_on_after(1, shield=True):
                    await trio.sleep(0.5)
                    log.append("rolled back")
                raise
            else:
                log.append("committed")

    @app.get("/")
    async def handler(b: B) -> str:
        started.set()
        await trio.sleep(5)
        log.append("done")
        return "done"

    return app


CANCELLED = ["+A", "+B", "rolled back", "!B Cancelled", "-B", "!A Cancelled", "-A"]
DONE = ["+A", "+B", "done", "committed", "-B", "-A"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_departure_rolls_back_and_a_shield_is_honoured(log: Log, autojump_clock, how: str, caplog):
    started = trio.Event()
    async with in_memory(app_that_waits(log, started)) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        getattr(client, how)()
        record = await served.records.next(Abandoned)
    assert log == CANCELLED
    assert (record.status, record.outcome, record.unwind_time) == (499, Outcome.CANCELLED, 0.5)
    assert not errors(caplog)


async def test_a_deadline_rolls_back_and_is_answered_503(log: Log, autojump_clock):
    async with in_memory(app_that_waits(log, trio.Event(), deadline=2)) as served:
        assert (await served.get()).status == 503
    assert log == CANCELLED


async def test_a_drain_rolls_back_and_is_answered_503(log: Log, autojump_clock):
    started = trio.Event()
    async with in_memory(app_that_waits(log, started), deadlines=Deadlines(drain=1)) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        await served.server.drain()
        assert (await client.answer()).status == 503
    assert log == CANCELLED


@pytest.mark.parametrize(
    ("policy", "happened", "outcome"),
    [(FINISH, DONE, Outcome.FINISHED), (Grace(20), DONE, Outcome.FINISHED), (Grace(1), CANCELLED, Outcome.CANCELLED)],
    ids=str,
)
async def test_under_finish_it_commits_and_under_grace_if_there_is_time(
    log: Log, autojump_clock, policy: Any, happened: Log, outcome: Outcome
):
    started = trio.Event()
    async with in_memory(app_that_waits(log, started, disconnect=policy)) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        assert (await served.records.next(Abandoned)).outcome is outcome
    assert log == happened


async def test_one_that_swallows_the_cancellation_hides_nothing(log: Log, autojump_clock, caplog):
    app, started = App(), trio.Event()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        try:
            yield A("")
        except trio.Cancelled:
            log.append("swallowed")

    @app.get("/")
    async def handler(a: A) -> None:
        started.set()
        await trio.sleep_forever()

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        record = await served.records.next(Abandoned)
    assert log == ["swallowed"]
    assert (record.status, record.outcome, record.exception) == (499, Outcome.CANCELLED, None)
    assert not errors(caplog)


async def test_a_departure_while_they_are_entered_leaves_those_that_are(log: Log, autojump_clock):
    app, started = App(), trio.Event()
    provide(app, log, A)

    @app.dependency
    async def b(a: A) -> AsyncIterator[B]:
        started.set()
        await trio.sleep_forever()
        yield B("")

    @app.get("/")
    async def handler(b: B) -> None:
        pytest.fail("the handler was called")

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        record = await served.records.next(Abandoned)
    assert log == ["+A", "!A Cancelled", "-A"]
    assert record.outcome is Outcome.CANCELLED


async def test_a_departure_while_they_commit_is_a_departure(log: Log, autojump_clock):
    app, started = App(), trio.Event()

    @app.dependency
    async def a() -> AsyncIterator[A]:
        yield A("")
        started.set()
        async with noted(log, "commit"):
            await trio.sleep_forever()

    @app.get("/")
    async def handler(a: A) -> None: ...

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        assert (await served.records.next(Abandoned)).status == 499
    assert log == ["+commit", "!commit Cancelled", "-commit"]


async def test_a_departure_in_a_stream_leaves_the_stream_first(log: Log, autojump_clock):
    app, started = App(), trio.Event()
    provide(app, log, A)

    @app.get("/")
    async def handler(a: A) -> AsyncIterator[str]:
        async with noted(log, "stream"):
            yield "one"
            started.set()
            await trio.sleep_forever()

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        record = await served.records.next(Abandoned)
    assert log == ["+A", "+stream", "!stream Cancelled", "-stream", "!A Cancelled", "-A"]
    assert record.sent_status == 200


async def test_a_client_that_has_left_before_the_handler_starts_costs_no_dependency(log: Log, autojump_clock):
    app, first = App(), trio.Event()
    provide(app, log, A)

    @app.get("/wait")
    async def wait() -> None:
        first.set()
        await trio.sleep_forever()

    @app.get("/")
    async def handler(a: A) -> None: ...

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await first.wait()
        client.close()
        await served.records.next(Abandoned)
    assert log == []

"""Middleware: plain async functions around handlers. What they see, in which order, and what they may do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.logs import errors, tracebacks
from tests.support.memory import in_memory, text_of
from trioserve import (
    Abandoned,
    App,
    ClientGone,
    ConfigError,
    DropConnection,
    HTTPError,
    Next,
    Outcome,
    Phase,
    Request,
    Response,
    Router,
)

Log = list[Any]


def noting(log: Log, name: str) -> Any:
    """Middleware that notes when it is entered, and what comes back."""

    async def middleware(request: Request, call_next: Next) -> Response:
        log.append(f"+{name}")
        try:
            response = await call_next(request)
        except BaseException as error:
            log.append(f"!{name} {type(error).__name__}")
            raise
        log.append(f"-{name} {response.status}")
        return response

    return middleware


@pytest.fixture
def log() -> Log:
    return []


# Order


async def test_that_of_the_app_is_outside_then_that_of_each_router_as_it_was_registered(log: Log):
    app = App(middleware=[noting(log, "app1")])
    app.middleware(noting(log, "app2"))
    outer, inner = Router(middleware=[noting(log, "outer")]), Router()

    @inner.get("/x")
    async def handler() -> str:
        log.append("handler")
        return ""

    inner.middleware(noting(log, "inner1"))
    inner.middleware(noting(log, "inner2"))
    outer.include(inner, prefix="/inner")
    outer.get("/own")(handler)
    app.include(outer, prefix="/outer")
    app.get("/own")(handler)
    app.middleware(noting(log, "app3"))

    assert await text_of(app, "/outer/inner/x") == "200 "
    names = ["app1", "app2", "app3", "outer", "inner1", "inner2"]
    assert log == [*(f"+{name}" for name in names), "handler", *(f"-{name} 200" for name in reversed(names))]

    log.clear()
    await text_of(app, "/outer/own")
    assert log[:5] == ["+app1", "+app2", "+app3", "+outer", "handler"]

    log.clear()
    await text_of(app, "/own")
    assert log[:4] == ["+app1", "+app2", "+app3", "handler"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/nothing", 404),
        ("POST", "/api/x", 405),
        ("OPTIONS", "/api/x", 204),
        ("OPTIONS", "*", 204),
        ("BREW", "/api/x", 501),
    ],
)
async def test_where_there_is_no_route_that_of_the_app_alone_runs(log: Log, method: str, target: str, status: int):
    app = App(middleware=[noting(log, "app")])
    router = Router(middleware=[noting(log, "router")])

    @router.get("/x")
    async def handler() -> None: ...

    app.include(router, prefix="/api")
    async with in_memory(app) as served:
        assert (await served.get(target, method=method)).status == status
    assert log == ["+app", f"-app {status}"]


async def test_it_runs_around_dependencies(log: Log):
    app = App(middleware=[noting(log, "app")])

    @app.dependency
    async def it() -> AsyncIterator[int]:
        log.append("+it")
        yield 1
        log.append("-it")

    @app.get("/")
    async def handler(it: int) -> str:
        return str(it)

    await text_of(app)
    assert log == ["+app", "+it", "-it", "-app 200"]


@pytest.mark.parametrize(
    "function",
    [lambda request, call_next: None, App, None, "middleware", print],  # noqa: ARG005
    ids=["lambda", "class", "None", "text", "builtin"],
)
def test_what_is_no_async_function_is_refused(function):
    with pytest.raises(ConfigError, match="must be async def"):
        App().middleware(function)
    with pytest.raises(ConfigError, match="must be async def"):
        Router(middleware=[function])


async def test_an_object_with_an_async_call_and_a_method_are_middleware():
    class Counting:
        def __init__(self) -> None:
            self.count = 0

        async def __call__(self, request: Request, call_next: Next) -> Response:
            self.count += 1
            return await call_next(request)

        async def method(self, request: Request, call_next: Next) -> Response:
            return await self(request, call_next)

    app, counting = App(), Counting()
    app.middleware(counting)
    app.middleware(counting.method)
    app.get("/")(lambda: "x")
    assert await text_of(app) == "200 x"
    assert counting.count == 2


# What it may do


async def test_it_sees_the_response_and_may_change_it():
    app = App()

    @app.middleware
    async def stamp(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = f"{response.status} {response.body.decode()[:3]}"
        response.status = 202
        return response

    app.get("/")(lambda: "made")
    async with in_memory(app) as served:
        answer = await served.get()
        assert (answer.status, answer.body, answer.get("x-stamp")) == (202, b"made", "200 mad")
        assert (await served.get("/x")).get("x-stamp").startswith("404 404")


@pytest.mark.parametrize("how", ["handler", "error handler", "middleware"])
async def test_what_it_sets_for_one_client_is_sent_to_no_other_though_the_response_is_kept(how: str):
    app, kept, sessions = App(), Response("kept"), iter(["1", "2"])

    @app.middleware
    async def begin_session(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.set_cookie("session", next(sessions))
        return response

    @app.middleware
    async def answer_by_itself(request: Request, call_next: Next) -> Response:
        return kept if how == "middleware" else await call_next(request)

    @app.get("/")
    async def handler() -> Response:
        if how == "handler":
            return kept
        raise KeyError

    @app.error_handler(KeyError)
    async def answer(request: Request, error: KeyError) -> Response:
        return kept

    async with in_memory(app) as served:
        for session in ("1", "2"):
            (cookie,) = (await served.get("/")).all("set-cookie")
            assert cookie.startswith(f"session={session};")


@pytest.mark.parametrize("sent", [True, False])
async def test_a_stream_of_an_inner_one_is_closed_whether_it_is_sent_or_not(log: Log, *, sent: bool):
    app = App()

    @app.middleware
    async def outer(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        return response if sent else Response("another")

    @app.middleware
    async def inner(request: Request, call_next: Next) -> Response:
        async def numbers() -> AsyncIterator[str]:
            try:
                yield "1"
                yield "2"
            finally:
                log.append("closed")

        begun = numbers()
        await anext(begun)
        return Response.stream(begun)

    async with in_memory(app) as served:
        assert (await served.get("/")).body == (b"2" if sent else b"another")
        assert log == ["closed"]


async def test_it_may_change_the_headers_of_a_stream():
    app = App()

    @app.middleware
    async def stamp(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = str(response.streamed)
        return response

    @app.get("/")
    async def handler() -> AsyncIterator[str]:
        yield "streamed"

    async with in_memory(app) as served:
        answer = await served.get()
        assert (answer.body, answer.get("x-stamp")) == (b"streamed", "True")


async def test_it_hands_the_handler_what_it_found_out():
    app = App()

    @app.middleware
    async def authenticate(request: Request, call_next: Next) -> Response:
        request.state.user = request.headers.get("user")
        return await call_next(request)

    @app.get("/")
    async def handler(request: Request) -> str:
        return request.state.user

    assert await text_of(app, "/", "User: me") == "200 me"


async def test_it_may_answer_by_itself_and_then_nothing_inside_runs(log: Log):
    app = App(middleware=[noting(log, "outer")])

    @app.middleware
    async def closed(request: Request, call_next: Next) -> Response:
        return Response("closed", status=503)

    app.middleware(noting(log, "inner"))

    @app.dependency
    async def it() -> AsyncIterator[int]:
        log.append("it")
        yield 1

    @app.get("/")
    async def handler(it: int) -> None:
        log.append("handler")

    assert await text_of(app) == "503 closed"
    assert log == ["+outer", "-outer 503"]


async def test_it_may_refuse_with_an_http_error_which_those_outside_see_as_an_exception(log: Log):
    app = App(middleware=[noting(log, "outer")])

    @app.middleware
    async def refuse(request: Request, call_next: Next) -> Response:
        raise HTTPError(401, headers={"www-authenticate": "Basic"})

    app.get("/")(lambda: "x")
    async with in_memory(app) as served:
        answer = await served.get()
        assert (answer.status, answer.get("www-authenticate")) == (401, "Basic")
    assert log == ["+outer", "!outer HTTPError"]


async def test_what_it_raises_is_answered_by_error_handlers():
    app = App()

    @app.middleware
    async def refuse(request: Request, call_next: Next) -> Response:
        raise KeyError("x")

    @app.error_handler(KeyError)
    async def missing(request: Request, error: KeyError) -> str:
        return "answered"

    assert await text_of(app, "/nothing") == "200 answered"


async def test_it_may_go_on_again(log: Log):
    """A retry: the body is kept for the second time, and dependencies are entered and left each time."""
    app = App()

    @app.middleware
    async def retry(request: Request, call_next: Next) -> Response:
        try:
            return await call_next(request)
        except OSError:
            return await call_next(request)

    @app.dependency
    async def it() -> AsyncIterator[int]:
        log.append("+it")
        try:
            yield 1
        finally:
            log.append("-it")

    @app.post("/")
    async def handler(request: Request, it: int) -> bytes:
        body = await request.body()
        if log.count("+it") < 2:
            raise OSError
        return body

    async with in_memory(app) as served:
        assert (await served.post(b"content")).body == b"content"
    assert log == ["+it", "-it", "+it", "-it"]


async def test_where_it_goes_on_again_a_stream_that_was_not_sent_is_closed(log: Log):
    app = App()

    @app.middleware
    async def twice(request: Request, call_next: Next) -> Response:
        await call_next(request)
        return await call_next(request)

    @app.dependency
    async def it() -> AsyncIterator[int]:
        log.append("+it")
        yield 1
        log.append("-it")

    @app.get("/")
    async def handler(it: int) -> AsyncIterator[str]:
        yield "x"

    assert await text_of(app) == "200 x"
    assert log == ["+it", "+it", "-it", "-it"]


async def test_a_body_that_was_streamed_cannot_be_read_again_and_that_is_said(caplog):
    app = App()

    @app.middleware
    async def twice(request: Request, call_next: Next) -> Response:
        await call_next(request)
        return await call_next(request)

    @app.post("/")
    async def handler(request: Request) -> str:
        return "".join([str(len(part)) async for part in request.stream()])

    async with in_memory(app) as served:
        assert (await served.post(b"content")).status == 500
    (error,) = tracebacks(caplog)
    assert "read already" in str(error)


async def test_it_may_read_the_body_before_the_handler_does():
    app = App()

    @app.middleware
    async def verify(request: Request, call_next: Next) -> Response:
        assert await request.body() == b"content"
        return await call_next(request)

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.body()

    async with in_memory(app) as served:
        assert (await served.post(b"content")).body == b"content"


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, 200], ids=repr)
async def test_what_it_returns_that_is_no_response_is_an_error_that_names_it(value, caplog):
    app = App()

    @app.middleware
    async def forgetful(request: Request, call_next: Next) -> Any:
        await call_next(request)
        return value

    app.get("/")(lambda: "x")
    assert (await text_of(app)).startswith("500 ")
    (error,) = tracebacks(caplog)
    assert f"forgetful returned {type(value).__name__}, which is no Response" in str(error)


# What it sees of errors


async def test_it_sees_the_answer_to_an_expected_error_and_the_exception_itself_of_an_unexpected_one(log: Log, caplog):
    app = App(middleware=[noting(log, "app")])

    @app.get("/{kind}")
    async def handler(kind: str) -> None:
        raise {"http": HTTPError(409), "key": KeyError(), "other": ValueError(), "drop": DropConnection()}[kind]

    @app.error_handler(KeyError)
    async def missing(request: Request, error: KeyError) -> Response:
        return Response(status=404)

    async with in_memory(app) as served:
        assert (await served.get("/http")).status == 409
        assert (await served.get("/key")).status == 404
        assert (await served.get("/other")).status == 500
        assert [entry for entry in log if entry[0] != "+"] == ["-app 409", "-app 404", "!app ValueError"]
        client = served.connect()
        await client.send(b"GET /drop HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.read_to_end() == b""
    assert log[-1] == "!app DropConnection"


async def test_it_may_answer_an_unexpected_error_and_then_nothing_is_logged(caplog):
    app = App()

    @app.middleware
    async def rescue(request: Request, call_next: Next) -> Response:
        try:
            return await call_next(request)
        except ValueError:
            return Response("rescued")

    @app.get("/")
    async def handler() -> None:
        raise ValueError

    assert await text_of(app) == "200 rescued"
    assert not errors(caplog)


async def test_its_own_failure_is_a_500_with_a_traceback_and_the_answer_inside_is_not_sent(caplog):
    app, error = App(), ValueError("in middleware")

    @app.middleware
    async def failing(request: Request, call_next: Next) -> Response:
        await call_next(request)
        raise error

    app.get("/")(lambda: "all is well")
    text = await text_of(app)
    assert text.startswith("500 ")
    assert "all is well" not in text
    assert tracebacks(caplog) == [error]


async def test_a_time_limit_around_the_handler_works(autojump_clock, log: Log):
    app = App()

    @app.middleware
    async def limit(request: Request, call_next: Next) -> Response:
        with trio.move_on_after(5):
            return await call_next(request)
        return Response("too slow", status=504)

    @app.dependency
    async def it() -> AsyncIterator[int]:
        try:
            yield 1
        except trio.Cancelled:
            log.append("cancelled")
            raise

    @app.get("/{seconds:int}")
    async def handler(seconds: int, it: int) -> str:
        await trio.sleep(seconds)
        return "done"

    async with in_memory(app) as served:
        client = served.connect()
        assert (await client.get("/4")).body == b"done"
        answer = await client.get("/6")
        assert (answer.status, answer.body) == (504, b"too slow")
        assert (await client.get("/1")).body == b"done", "the connection is as good as ever"
    assert log == ["cancelled"]


async def test_a_nursery_around_the_handler_works():
    app = App()

    @app.middleware
    async def beside(request: Request, call_next: Next) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            response = await call_next(request)
            nursery.cancel_scope.cancel()
        return response

    @app.get("/")
    async def handler() -> None:
        raise HTTPError(418)

    assert (await text_of(app)).startswith("418 ")


async def test_an_unexpected_error_comes_out_of_its_nursery_as_itself(caplog):
    app, error = App(), ValueError()

    @app.middleware
    async def beside(request: Request, call_next: Next) -> Response:
        async with trio.open_nursery():
            return await call_next(request)

    @app.get("/")
    async def handler() -> None:
        raise error

    assert (await text_of(app)).startswith("500 ")
    assert tracebacks(caplog) == [error]


async def test_a_nursery_that_is_left_open_breaks_this_connection_alone(autojump_clock, caplog):
    app = App()

    @app.middleware
    async def careless(request: Request, call_next: Next) -> Response:
        if request.path == "/bad":
            await trio.open_nursery().__aenter__()
        return await call_next(request)

    app.get("/good")(lambda: "good")
    app.get("/bad")(lambda: "bad")
    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.read_to_end()
        assert (await served.get("/good")).body == b"good"
    assert errors(caplog)


# Departures


async def test_it_counts_as_started_work(autojump_clock):
    app, started = App(), trio.Event()

    @app.middleware
    async def slow(request: Request, call_next: Next) -> Response:
        started.set()
        await trio.sleep_forever()
        return await call_next(request)

    @app.get("/")
    async def handler() -> None: ...

    for target in ("/", "/nothing"):
        async with in_memory(app) as served:
            client = served.connect()
            await client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await started.wait()
            await trio.testing.wait_all_tasks_blocked()
            client.close()
            record = await served.records.next(Abandoned)
            assert (record.phase, record.outcome) == (Phase.HANDLER, Outcome.CANCELLED)
            assert record.route == ("/" if target == "/" else None)


async def test_it_may_catch_client_gone_in_a_shield_and_hides_nothing(autojump_clock, log: Log, caplog):
    app, started = App(), trio.Event()

    @app.middleware
    async def catching(request: Request, call_next: Next) -> Response:
        try:
            return await call_next(request)
        except ClientGone as error:
            log.append(str(error))
            return Response("nobody reads this")

    @app.post("/")
    async def handler(request: Request) -> None:
        with trio.CancelScope(shield=True):
            started.set()
            await request.body()

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        await started.wait()
        await trio.testing.wait_all_tasks_blocked()
        client.close()
        record = await served.records.next(Abandoned)
    assert (record.status, record.phase, record.sent_status) == (400, Phase.BODY, None)
    assert len(log) == 1
    assert not errors(caplog)

"""Answers to what handlers raise: which error handler is asked, what is logged, debug mode, and problem details."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from fake_exchange import FakeExchange

from tests.support.logs import errors, tracebacks
from tests.support.memory import in_memory, text_of
from trioserve import (
    FINISH,
    Abandoned,
    App,
    ClientGone,
    Completed,
    ConfigError,
    Deadlines,
    DropConnection,
    Grace,
    HTTPError,
    Limits,
    Outcome,
    Request,
    RequestError,
    Response,
    ResponseError,
)
from trioserve.app.errors import ErrorHandlers, plain_answer


def app_that_raises(error: BaseException, **options: Any) -> App:
    app = App(**options)

    @app.get("/")
    async def handler() -> None:
        raise error

    return app


async def answer_to(app: App, *fields: str, method: str = "GET") -> Any:
    async with in_memory(app) as served:
        return await served.get("/", *fields, method=method)


# Which one answers


class Missing(HTTPError):
    def __init__(self) -> None:
        super().__init__(404, "missing")


class Late(TimeoutError): ...


@pytest.mark.parametrize(
    ("error", "registered", "expected"),
    [
        (KeyError(), [KeyError], KeyError),
        (KeyError(), [KeyError, LookupError], KeyError),
        (KeyError(), [LookupError, KeyError], KeyError),
        (KeyError(), [LookupError, Exception], LookupError),
        (KeyError(), [IndexError], None),
        (KeyError(), [Exception], None),  # that is for what nobody expected
        (KeyError(), [500], None),
        (Late(), [OSError, TimeoutError], TimeoutError),
        (HTTPError(404), [], "plain"),
        (HTTPError(404), [404], 404),
        (HTTPError(404), [410], "plain"),
        (HTTPError(404), [Exception], "plain"),
        (HTTPError(404), [HTTPError], HTTPError),
        (HTTPError(404), [HTTPError, 404], 404),
        (HTTPError(500), [500], 500),
        (Missing(), [404], 404),
        (Missing(), [HTTPError, 404], 404),
        (Missing(), [HTTPError, 404, Missing], Missing),
        (RequestError(413), [413], 413),
        (RequestError(413), [HTTPError], HTTPError),
        (RequestError(413), [RequestError, 413], RequestError),
        (ClientGone(), [ClientGone], None),
        (DropConnection(), [DropConnection, Exception], None),
        (SystemExit(), [Exception], None),
    ],
    ids=repr,
)
def test_the_most_specific_one_answers(error, registered, expected):
    handlers = ErrorHandlers(debug=False)
    made = {}
    for key in registered:
        handlers.add(key, lambda request, error: None)  # noqa: ARG005
        made[key] = {**handlers._by_class, **handlers._by_status}[key]
    assert handlers.expected(error) is (plain_answer if expected == "plain" else made.get(expected))


@pytest.mark.parametrize(
    ("registered", "expected"), [([], None), ([500], 500), ([Exception], Exception), ([Exception, 500], Exception)]
)
def test_what_nobody_expects_is_for_exception_and_then_for_500(registered, expected):
    handlers = ErrorHandlers(debug=False)
    for key in registered:
        handlers.add(key, lambda request, error: None)  # noqa: ARG005
    assert handlers.unexpected(KeyError()) is {**handlers._by_class, **handlers._by_status}.get(expected)
    assert handlers.unexpected(DropConnection()) is handlers.unexpected(ClientGone()) is None


@pytest.mark.parametrize("key", [200, 399, 600, True, "404", BaseException, KeyboardInterrupt, int, None, KeyError()])
def test_what_is_neither_a_class_of_exceptions_nor_an_error_status_is_refused(key):
    with pytest.raises(ConfigError, match="error_handler"):
        App().error_handler(key)(lambda request, error: None)  # noqa: ARG005


@pytest.mark.parametrize("key", [404, KeyError])
def test_a_second_one_for_the_same_is_refused(key):
    app = App()
    app.error_handler(key)(lambda request, error: None)  # noqa: ARG005
    with pytest.raises(ConfigError, match="twice"):
        app.error_handler(key)(lambda request, error: None)  # noqa: ARG005


# How it answers


async def test_one_for_a_class_answers_and_nothing_is_logged(caplog):
    app = app_that_raises(KeyError("thing"))

    @app.error_handler(LookupError)
    async def lookup(request: Request, error: LookupError) -> dict[str, str]:
        return {"path": request.path, "error": str(error)}

    answer = await answer_to(app)
    assert (answer.status, answer.body) == (200, b'{"path":"/","error":"\'thing\'"}')
    assert not errors(caplog)


async def test_a_plain_one_runs_in_a_thread():
    app = app_that_raises(KeyError("thing"))

    @app.error_handler(LookupError)
    def lookup(request: Request, error: LookupError) -> str:
        trio.from_thread.check_cancelled()
        return "plain"

    assert await text_of(app) == "200 plain"


async def test_one_for_a_status_answers_what_the_routing_refuses():
    app = App()

    @app.get("/")
    async def handler() -> None: ...

    @app.error_handler(404)
    async def missing(request: Request, error: HTTPError) -> Response:
        return Response(f"no {request.path}: {error.detail}", status=404)

    @app.error_handler(405)
    async def not_allowed(request: Request, error: HTTPError) -> Response:
        return Response("not so", status=405, headers=error.headers)

    assert await text_of(app, "/x") == "404 no /x: there is nothing at this address"
    async with in_memory(app) as served:
        answer = await served.post(b"")
        assert (answer.status, answer.body, answer.get("allow")) == (405, b"not so", "GET, HEAD, OPTIONS")


async def test_one_for_413_answers_a_body_that_grows_too_large_and_the_connection_is_closed():
    app, started = App(), trio.Event()

    @app.post("/", max_body=10)
    async def handler(request: Request) -> bytes:
        started.set()
        return await request.body()

    @app.error_handler(413)
    async def too_large(request: Request, error: HTTPError) -> Response:
        return Response(f"only so much: {error.detail}", status=413)

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await started.wait()
        await client.send(b"6\r\n012345\r\n6\r\n012345\r\n")
        answer = await client.answer()
    assert (answer.status, answer.body) == (413, b"only so much: the request body is larger than 10 bytes")
    assert answer.closes


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n01234567890", 413),
        (CHUNKED + b"b\r\n01234567890\r\n0\r\n\r\n", 413),
        (CHUNKED + b"nonsense\r\n", 400),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
async def test_what_is_refused_before_the_handler_starts_goes_through_middleware_and_error_handlers(
    request_bytes, status, *, plain
):
    app = App(max_body=10)

    @app.middleware
    async def stamp(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = str(response.status)
        return response

    def never() -> None:
        pytest.fail("the handler was called")

    async def never_async() -> None:
        pytest.fail("the handler was called")

    app.post("/")(never if plain else never_async)

    @app.error_handler(status)
    async def own(request: Request, error: HTTPError) -> Response:
        return Response("own", status=error.status)

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(request_bytes)
        answer = await client.answer("POST")
        assert (answer.status, answer.body, answer.get("x-stamp")) == (status, b"own", str(status))
        assert answer.closes
        assert not answer.interim
        assert (await served.records.next(Completed)).status == status


async def test_middleware_that_reads_a_body_that_is_refused_is_told_so():
    app = App(max_body=10)

    @app.middleware
    async def reads(request: Request, call_next: Any) -> Response:
        with pytest.raises(RequestError):
            await request.body()
        return await call_next(request)

    @app.post("/")
    async def never() -> None:
        pytest.fail("the handler was called")

    async with in_memory(app) as served:
        assert (await served.post(b"01234567890")).status == 413


async def test_a_request_error_closes_the_connection_whoever_answers_it():
    app = app_that_raises(RequestError(400, "garbled"))
    assert (await answer_to(app)).closes

    app.error_handler(400)(lambda request, error: Response("own", status=400))  # noqa: ARG005
    answer = await answer_to(app)
    assert (answer.body, answer.closes) == (b"own", True)

    assert not (await answer_to(app_that_raises(HTTPError(400)))).closes


async def test_the_headers_of_an_error_go_with_its_answer():
    error = HTTPError(401, "who are you?", headers={"WWW-Authenticate": 'Basic realm="x"'})
    answer = await answer_to(app_that_raises(error))
    assert answer.get("www-authenticate") == 'Basic realm="x"'
    assert answer.body == b"401 Unauthorized\nwho are you?\n"


@pytest.mark.parametrize(
    "headers",
    [{"a b": "c"}, {"a": "line\r\nbreak"}, {"a": "☃"}, {"a": 5}, {"": ""}],
    ids=str,
)
async def test_a_header_of_an_error_that_http_cannot_carry_is_refused_where_it_is_written(headers):
    with pytest.raises(ResponseError, match="header"):
        HTTPError(401, headers=headers)


async def test_a_stream_may_answer():
    app = app_that_raises(KeyError())

    @app.error_handler(KeyError)
    async def streamed(request: Request, error: KeyError):
        async def write(send):
            await send("streamed")

        return Response.stream(write, status=404)

    @app.error_handler(500)
    async def generated(request: Request, error: Exception):
        yield "never"

    assert await text_of(app) == "404 streamed"


async def test_a_generator_may_answer_and_is_closed():
    app, closed = app_that_raises(KeyError()), []

    @app.error_handler(KeyError)
    async def generated(request: Request, error: KeyError):
        try:
            yield "one"
        finally:
            closed.append(True)

    assert await text_of(app) == "200 one"
    assert closed


# What it raises itself


async def test_one_may_make_an_http_error_of_what_it_is_given():
    app = app_that_raises(KeyError("thing"))

    @app.error_handler(KeyError)
    async def lookup(request: Request, error: KeyError) -> None:
        raise HTTPError(404, f"no {error}") from error

    assert await text_of(app) == "404 404 Not Found\nno 'thing'\n"

    @app.error_handler(404)
    async def missing(request: Request, error: HTTPError) -> Response:
        return Response(f"own: {error.detail}", status=404)

    assert await text_of(app) == "404 own: no 'thing'"

    @app.middleware
    async def through(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        assert response.status == 404
        return response

    assert await text_of(app) == "404 own: no 'thing'"


async def test_one_that_raises_what_it_answers_is_not_asked_again():
    app = app_that_raises(HTTPError(404))

    @app.error_handler(404)
    async def missing(request: Request, error: HTTPError) -> None:
        raise HTTPError(404, "again")

    assert await text_of(app) == "404 404 Not Found\nagain\n"


async def test_two_that_raise_what_the_other_answers_are_asked_once_each(caplog):
    app = app_that_raises(HTTPError(404))
    asked = []

    @app.error_handler(404)
    async def missing(request: Request, error: HTTPError) -> None:
        asked.append(404)
        raise HTTPError(410)

    @app.error_handler(410)
    async def gone(request: Request, error: HTTPError) -> None:
        asked.append(410)
        raise HTTPError(404, "after all")

    assert await text_of(app) == "404 404 Not Found\nafter all\n"
    assert asked == [404, 410]


@pytest.mark.parametrize("key", [KeyError, 500])
async def test_one_that_fails_is_a_500_and_both_are_in_the_log(caplog, key):
    first, second = KeyError("first"), ValueError("second")
    app = app_that_raises(first)

    @app.error_handler(key)
    async def failing(request: Request, error: Exception) -> None:
        raise second

    assert await text_of(app) == "500 500 Internal Server Error\nthe server failed to answer this request\n"
    assert second in tracebacks(caplog)
    assert second.__context__ is first


async def test_what_one_answers_that_is_no_response_is_a_500_that_names_it(caplog):
    app = app_that_raises(KeyError())

    @app.error_handler(KeyError)
    async def confused(request: Request, error: KeyError) -> object:
        return object()

    assert (await text_of(app)).startswith("500 ")
    (error,) = tracebacks(caplog)
    assert "confused" in str(error)


# What nobody expected


@pytest.mark.parametrize("key", [Exception, 500])
async def test_what_nobody_expected_is_logged_with_its_traceback_and_answered(caplog, key):
    error = ValueError("secret")
    app = app_that_raises(error)

    @app.error_handler(key)
    async def sorry(request: Request, error: Exception) -> Response:
        return Response("sorry", status=500)

    assert await text_of(app) == "500 sorry"
    assert tracebacks(caplog) == [error]
    assert caplog.records[0].getMessage() == "handler of GET / raised ValueError: secret"


async def test_one_for_500_may_answer_with_another_status():
    app = app_that_raises(ConnectionRefusedError())

    @app.error_handler(500)
    async def unavailable(request: Request, error: Exception) -> None:
        raise HTTPError(503, "come back", headers={"retry-after": "5"})

    answer = await answer_to(app)
    assert (answer.status, answer.get("retry-after")) == (503, "5")
    assert answer.body == b"503 Service Unavailable\ncome back\n"


async def test_production_never_shows_what_was_raised(caplog):
    for accept in ("text/html", "application/json", "*/*"):
        answer = await answer_to(app_that_raises(ValueError("secret")), f"Accept: {accept}")
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"ValueError" not in answer.body
        assert b"Traceback" not in answer.body


async def test_errors_in_a_group_of_one_are_answered_as_themselves():
    assert (
        await answer_to(app_that_raises(ExceptionGroup("g", [ExceptionGroup("h", [HTTPError(418)])])))
    ).status == 418


async def test_errors_in_a_group_of_several_are_unexpected(caplog):
    group = ExceptionGroup("g", [HTTPError(418), KeyError()])
    app = app_that_raises(group)
    app.error_handler(KeyError)(lambda request, error: "asked")  # noqa: ARG005
    assert (await answer_to(app)).status == 500
    assert tracebacks(caplog) == [group]


async def test_one_for_a_group_answers_groups():
    app = app_that_raises(ExceptionGroup("g", [HTTPError(418), KeyError()]))
    app.error_handler(ExceptionGroup)(lambda request, error: f"{len(error.exceptions)}")  # noqa: ARG005
    assert await text_of(app) == "200 2"


async def test_silence_is_asked_for_and_not_answered():
    app = app_that_raises(DropConnection())
    app.error_handler(Exception)(lambda request, error: "an answer")  # noqa: ARG005
    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.read_to_end() == b""
        assert (await served.records.next(Abandoned)).status == 444


# Debug mode


NASTY = ValueError("<script>alert(1)</script> \udcff")


async def test_debug_mode_shows_a_browser_the_traceback_and_escapes_it(caplog):
    app = app_that_raises(NASTY, debug=True)
    answer = await answer_to(app, "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
    assert (answer.status, answer.get("content-type")) == (500, "text/html; charset=utf-8")
    page = answer.body.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\udcff" in page
    assert "<script>" not in page
    assert "raise error" in page, "the line that raised"
    assert __file__ in page
    assert tracebacks(caplog) == [NASTY]


async def test_debug_mode_escapes_the_target():
    async with in_memory(app := App(debug=True)) as served:

        async def fail(request: Request, call_next: Any) -> Response:
            raise ValueError

        app.rules  # noqa: B018
        app._middleware.append(fail)
        answer = await served.get("/<b>?'&", "Accept: text/html")
    assert answer.status in {400, 500}
    assert b"<b>" not in answer.body


async def test_debug_mode_shows_others_the_traceback_as_text(caplog):
    for field in ("Accept: */*", "Accept: application/json", "X: y"):
        answer = await answer_to(app_that_raises(NASTY, debug=True), field)
        assert (answer.status, answer.get("content-type")) == (500, "text/plain; charset=utf-8")
        assert b"ValueError: <script>alert(1)</script> \\udcff" in answer.body
        assert b"Traceback (most recent call last)" in answer.body


async def test_debug_mode_leaves_expected_errors_alone(caplog):
    app = app_that_raises(HTTPError(404, "missing"), debug=True)
    assert await text_of(app) == "404 404 Not Found\nmissing\n"
    app = app_that_raises(KeyError("thing"), debug=True)
    app.error_handler(KeyError)(lambda request, error: "expected")  # noqa: ARG005
    assert await text_of(app) == "200 expected"
    assert not errors(caplog)


async def test_debug_mode_shows_the_traceback_though_there_is_an_error_handler_for_500():
    app = app_that_raises(KeyError("thing"), debug=True)
    app.error_handler(500)(lambda request, error: "sorry")  # noqa: ARG005
    assert "Traceback" in await text_of(app)


async def test_debug_mode_shows_what_an_error_handler_raised():
    app = app_that_raises(KeyError("first"), debug=True)

    @app.error_handler(KeyError)
    async def failing(request: Request, error: Exception) -> None:
        raise ValueError("second")

    text = await text_of(app)
    assert "KeyError: 'first'" in text
    assert "ValueError: second" in text


# Problem details


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        ("application/problem+json", True),
        ("application/json", True),
        ("Application/JSON; q=0.9", True),
        ("text/html, application/json;q=0.5", True),
        ("application/json;q=0", False),
        ("application/json ; q = 0.000", False),
        ("application/json;q=0.001", True),
        ("*/*", False),
        ("application/*", False),
        ("text/html", False),
        ("", False),
    ],
)
async def test_rfc9457_errors_are_problem_details_for_who_names_json(accept, problem):
    answer = await answer_to(app_that_raises(HTTPError(404, 'no "é"')), f"Accept: {accept}")
    if problem:
        assert answer.get("content-type") == "application/problem+json"
        assert json.loads(answer.body) == {"title": "Not Found", "status": 404, "detail": 'no "é"'}
    else:
        assert answer.get("content-type") == "text/plain; charset=utf-8"
        assert answer.body.decode() == '404 Not Found\nno "é"\n'


def problem(status: int) -> Any:
    return lambda answer: (
        (answer.status, json.loads(answer.body)["status"], answer.get("content-type"))
        == (status, status, "application/problem+json")
    )


async def test_rfc9457_what_the_connection_answers_is_problem_details_too(autojump_clock, caplog):
    app = App(deadline=5)

    @app.post("/")
    async def handler(request: Request) -> None:
        await request.body()
        await trio.sleep_forever()

    @app.get("/fails")
    async def fails() -> None:
        raise ValueError

    accept = "Accept: application/json"
    async with in_memory(app, limits=Limits(body=10), deadlines=Deadlines(body_stall=1)) as served:
        assert problem(413)(await served.post(b"x" * 11, "/", accept))
        assert problem(503)(await served.post(b"x", "/", accept))
        assert problem(500)(await served.get("/fails", accept))
        client = served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nContent-Length: 5\r\n\r\n")
        assert problem(408)(await client.answer())


# While it is being stopped


@pytest.mark.parametrize("key", [ValueError, Exception, 500, HTTPError])
@pytest.mark.parametrize("how", ["departure", "deadline"])
async def test_what_a_handler_raises_while_it_is_stopped_goes_to_the_record_and_not_to_an_error_handler(
    autojump_clock, caplog, key, how
):
    app, started = App(deadline=5), trio.Event()
    error = HTTPError(418) if key is HTTPError else ValueError("while unwinding")

    @app.get("/")
    async def handler() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            raise error

    @app.error_handler(key)
    async def never(request: Request, error: Exception) -> None:
        pytest.fail("the error handler was called")

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        if how == "departure":
            client.close()
            record = await served.records.next(Abandoned)
            assert record.status == 499
            if error.__class__ is ValueError:
                assert (record.outcome, record.exception) == (Outcome.FAILED, error)
        else:
            assert (await client.answer()).status == 503
            assert (await served.records.next(Completed)).status == 503
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("options", [{"disconnect": FINISH}, {"disconnect": Grace(60)}, {"debug": True}], ids=str)
@pytest.mark.parametrize("key", [KeyError, Exception, 500])
async def test_under_finish_what_a_handler_raises_without_a_client_is_for_no_error_handler(
    autojump_clock, caplog, key, options
):
    app, started = App(**{"disconnect": FINISH, **options}), trio.Event()
    error = KeyError("at its end")

    @app.get("/")
    async def handler() -> None:
        started.set()
        await trio.sleep(1)
        raise error

    @app.error_handler(key)
    async def never(request: Request, error: Exception) -> None:
        pytest.fail("the error handler was called")

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        record = await served.records.next(Abandoned)
        assert (record.status, record.outcome, record.exception) == (499, Outcome.FAILED, error)
    assert not errors(caplog)


async def test_under_finish_an_http_error_is_how_a_handler_ends_and_no_failure(autojump_clock, caplog):
    app, started = App(disconnect=FINISH), trio.Event()

    @app.get("/")
    async def handler() -> None:
        started.set()
        await trio.sleep(1)
        raise HTTPError(404)

    @app.error_handler(404)
    async def never(request: Request, error: HTTPError) -> None:
        pytest.fail("the error handler was called")

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        client.close()
        assert (await served.records.next(Abandoned)).outcome is Outcome.FINISHED
    assert not errors(caplog)


async def test_under_finish_the_departure_met_by_one_task_of_several_is_for_no_error_handler(autojump_clock, caplog):
    app, started = App(disconnect=FINISH), trio.Event()

    @app.post("/")
    async def handler(request: Request) -> None:
        async def read() -> None:
            started.set()
            await request.body()

        async def work() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("it was cancelled")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(work)

    @app.error_handler(Exception)
    async def never(request: Request, error: Exception) -> None:
        pytest.fail("the error handler was called")

    async with in_memory(app) as served:
        client = served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await started.wait()
        client.close()
        record = await served.records.next(Abandoned)
        assert record.outcome is Outcome.FAILED
        assert isinstance(record.exception, ExceptionGroup)
        assert {type(part) for part in record.exception.exceptions} == {ClientGone, ValueError}
    assert not errors(caplog)


async def test_an_endpoint_alone_answers_too():
    exchange = FakeExchange(target="/nothing", fields=[(b"accept", b"application/json")])
    await App().endpoint(exchange.head)(exchange)
    assert (exchange.status, exchange.headers["content-type"]) == (404, "application/problem+json")

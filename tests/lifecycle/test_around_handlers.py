"""Departures through what an app has around its handlers: middleware, routers, dependencies, error handlers.

They are ordinary code inside the exchange's scope. Whatever they catch, the departure stays one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from lifecycle.stage import GET, Stage, Theatre, Visit, every_stage
from trioserve import (
    FINISH,
    App,
    Cause,
    HTTPError,
    Next,
    Outcome,
    Phase,
    Request,
    Response,
    Router,
)

Around = Callable[[Request, Next], Awaitable[Response]]

LEAVING = pytest.mark.parametrize("how", ["FIN", "RESET"])


async def lets_pass(request: Request, call_next: Next) -> Response:
    return await call_next(request)


async def swallows(request: Request, call_next: Next) -> Response:
    try:
        return await call_next(request)
    except BaseException:
        return Response("as if nothing had happened")


async def answers_instead(request: Request, call_next: Next) -> Response:
    try:
        return await call_next(request)
    except trio.Cancelled as error:
        raise HTTPError(504, "too slow") from error


async def tries_again(request: Request, call_next: Next) -> Response:
    while True:
        try:
            return await call_next(request)
        except BaseException:
            await trio.lowlevel.checkpoint()


async def has_a_limit(request: Request, call_next: Next) -> Response:
    with trio.move_on_after(10):
        return await call_next(request)
    return Response("too slow")


async def has_a_nursery(request: Request, call_next: Next) -> Response:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        response = await call_next(request)
        nursery.cancel_scope.cancel()
    return response


async def shields_a_farewell(request: Request, call_next: Next) -> Response:
    try:
        return await call_next(request)
    finally:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()


AROUND = [lets_pass, swallows, answers_instead, tries_again, has_a_limit, has_a_nursery, shields_a_farewell]
EACH = pytest.mark.parametrize("around", AROUND, ids=[function.__name__ for function in AROUND])


async def leaves(theatre: Theatre, visit: Visit, how: str, request: bytes = GET) -> None:
    client = await theatre.connect()
    await client.send(request)
    await visit.started.wait()
    client.leave(how)


@every_stage
@EACH
@LEAVING
async def test_no_middleware_hides_a_departure(stage: Stage, around: Around, how: str) -> None:
    app, visit = App(), Visit()
    router = Router(middleware=[around])
    app.middleware(around)

    @router.get("/")
    async def handler() -> str:
        await visit.until_cancelled()
        return "never"

    app.include(router)
    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, how)
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.status, record.phase, record.cause) == (499, Phase.HANDLER, Cause(how))
        assert record.sent_status is None
        assert record.route == "/"


@every_stage
@EACH
async def test_middleware_that_waits_itself_is_cancelled(stage: Stage, around: Around) -> None:
    app, visit = App(middleware=[around]), Visit()

    @app.middleware
    async def waits(request: Request, call_next: Next) -> Response:
        await visit.until_cancelled()
        return await call_next(request)

    @app.get("/")
    async def handler() -> None:
        pytest.fail("the handler was called")

    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, "FIN")
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.status, record.phase) == (499, Phase.HANDLER)


@every_stage
@EACH
async def test_a_stream_inside_middleware_is_cut_by_a_departure(stage: Stage, around: Around) -> None:
    app, visit = App(middleware=[around]), Visit()

    @app.get("/")
    async def handler() -> AsyncIterator[bytes]:
        yield b"first"
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, "RESET")
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.status, record.phase, record.sent_status) == (499, Phase.RESPONSE_BODY, 200)


@every_stage
@LEAVING
async def test_dependencies_are_left_with_the_cancellation_and_their_shields_honoured(stage: Stage, how: str) -> None:
    app, visit, happened = App(), Visit(), []

    @app.dependency(provides=str)
    async def transaction() -> AsyncIterator[str]:
        try:
            yield "transaction"
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                happened.append("rolled back")
            raise
        else:
            happened.append("committed")

    @app.get("/")
    async def handler(transaction: str) -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, how)
        record = await theatre.abandoned()
        assert happened == ["rolled back"]
        assert (record.status, record.outcome) == (499, Outcome.CANCELLED)


@every_stage
async def test_under_finish_dependencies_are_left_as_if_the_client_were_there(stage: Stage) -> None:
    app, visit, go_on, happened = App(), Visit(), trio.Event(), []

    @app.dependency(provides=str)
    async def transaction() -> AsyncIterator[str]:
        yield "transaction"
        await trio.lowlevel.checkpoint()
        happened.append("committed")

    router = Router(disconnect=FINISH, middleware=[lets_pass])

    @router.get("/")
    async def handler(transaction: str) -> None:
        async with visit:
            await go_on.wait()

    app.include(router)
    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, "FIN")
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        record = await theatre.abandoned()
        assert happened == ["committed"]
        assert record.outcome is Outcome.FINISHED


@every_stage
@LEAVING
async def test_an_error_handler_that_waits_is_cancelled(stage: Stage, how: str) -> None:
    app, visit = App(), Visit()

    @app.get("/")
    async def handler() -> None:
        raise KeyError

    @app.error_handler(KeyError)
    async def missing(request: Request, error: KeyError) -> None:
        await visit.until_cancelled()

    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, how)
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.status, record.phase, record.cause) == (499, Phase.HANDLER, Cause(how))


@every_stage
async def test_a_body_that_middleware_reads_ends_with_a_departure(stage: Stage) -> None:
    app, visit = App(), Visit()

    @app.middleware
    async def reads(request: Request, call_next: Next) -> Response:
        async with visit:
            await request.body()
        return await call_next(request)

    @app.post("/")
    async def handler() -> None:
        pytest.fail("the handler was called")

    async with stage.serve(app) as theatre:
        await leaves(theatre, visit, "FIN", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.status, record.phase) == (400, Phase.BODY)

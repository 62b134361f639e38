"""What a dependency clears up, and when a departure, a drain or a deadline meets it: before the response, behind it, in
the middle of it, and where the handler runs in a thread.

Behind a response that got out whole nobody stops it: the record has said that all went well.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import GET, Stage, every_stage, in_memory, on_sockets
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    Config,
    Deadlines,
    Grace,
    Outcome,
    Phase,
    Request,
    Response,
    Send,
)
from trioserve.app.response import Release, nothing_to_release
from trioserve.core.application import Exchange

WAYS = pytest.mark.parametrize("how", ["FIN", "RESET"])
POLICIES = pytest.mark.parametrize("policy", [CANCEL, FINISH, Grace(1)], ids=["CANCEL", "FINISH", "Grace"])


class Ends(list[str]):
    """How a transaction ended."""


@dataclass
class Transaction:
    """Commits if its handler did well, which takes until `may_commit` is set; else rolls back."""

    app: App
    commits: trio.Event = field(default_factory=trio.Event)
    may_commit: trio.Event = field(default_factory=trio.Event)
    told_later: trio.Event = field(default_factory=trio.Event)
    ends: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app.dependency(self._transaction)

    async def _transaction(self) -> AsyncIterator[Transaction]:
        try:
            yield self
            self.commits.set()
            await self.may_commit.wait()
            self.ends.append("committed")
        except BaseException:
            self.ends.append("rolled back")
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            raise

    async def tell_later(self) -> None:
        self.told_later.set()

    def streamed(self) -> None:
        """Give the app a handler that answers with a short stream, and commits before the stream's end."""

        @self.app.get("/")
        async def handler(transaction: Transaction, request: Request) -> Response:
            async def write_body(send: Send) -> None:
                await send(b"done")

            request.after_response(transaction.tell_later)
            return Response.stream(write_body)

    def behind(self) -> None:
        """Give the app a handler that commits behind its response, as an endpoint may that is no trioserve handler."""

        @self.app.get("/")
        async def handler(request: Request) -> Response:
            request.after_response(self.tell_later)
            return CommitsBehind(self)


class CommitsBehind(Response):
    def __init__(self, transaction: Transaction) -> None:
        super().__init__(b"done")
        self.transaction = transaction

    async def send_to(self, exchange: Exchange, release: Release = nothing_to_release) -> None:
        await super().send_to(exchange, release)
        async with contextlib.asynccontextmanager(self.transaction._transaction)():
            pass


async def news_is_heard(stage: Stage) -> None:
    """Until the server has heard what happened just now: on sockets that takes the kernel a moment."""
    await wait_all_tasks_blocked(0.0 if stage.in_memory else 0.01)


# Behind the response


@every_stage
@WAYS
@POLICIES
async def test_a_client_that_goes_with_its_whole_answer_stops_no_commit(stage: Stage, how: str, policy: object) -> None:
    app = App(disconnect=policy)
    transaction = Transaction(app)
    transaction.behind()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await transaction.commits.wait()
        client.leave(how)
        await news_is_heard(stage)
        transaction.may_commit.set()
        assert (await theatre.completed()).status == 200
        await transaction.told_later.wait()
    assert transaction.ends == ["committed"]


@every_stage
async def test_a_client_that_goes_during_the_commit_gets_no_second_request_begun(stage: Stage) -> None:
    app, begun = App(), []
    transaction = Transaction(app)
    transaction.behind()

    @app.get("/second")
    async def second() -> None:
        begun.append(True)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET + GET.replace(b" / ", b" /second "))
        await transaction.commits.wait()
        client.leave("RESET")
        await news_is_heard(stage)
        transaction.may_commit.set()
        await theatre.completed()
    assert transaction.ends == ["committed"]
    assert not begun


@every_stage
async def test_a_drain_waits_for_a_commit_and_then_closes(stage: Stage) -> None:
    app = App()
    transaction = Transaction(app)
    transaction.behind()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.response() == (200, b"done")
        await transaction.commits.wait()
        theatre.nursery.start_soon(theatre.drain)
        await news_is_heard(stage)
        assert transaction.ends == []
        transaction.may_commit.set()
        assert await client.receive() == b""
        await theatre.completed()
    assert transaction.ends == ["committed"]


@every_stage
async def test_a_drains_deadline_ends_a_commit_that_hangs(stage: Stage) -> None:
    app = App()
    transaction = Transaction(app)
    transaction.behind()
    async with stage.serve(app, Config(deadlines=Deadlines(drain=0.05))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.response() == (200, b"done")
        await transaction.commits.wait()
        theatre.nursery.start_soon(theatre.drain)
        assert await client.receive() == b""
        await theatre.completed()
    assert transaction.ends == ["rolled back"]


# Before its last byte


@every_stage
@WAYS
@POLICIES
async def test_a_client_that_leaves_during_a_commit_before_a_streams_end_has_it_its_policys_way(
    stage: Stage, how: str, policy: object
) -> None:
    app = App(disconnect=policy)
    transaction = Transaction(app)
    transaction.streamed()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await transaction.commits.wait()
        received = b""
        while not received.endswith(b"done\r\n"):  # who leaves with bytes unread leaves by a RST
            received += await client.receive()
        client.leave(how)
        await news_is_heard(stage)
        transaction.may_commit.set()
        record = await theatre.abandoned()
        outcome, end = (Outcome.CANCELLED, "rolled back") if policy is CANCEL else (Outcome.FINISHED, "committed")
        assert (record.status, record.phase, record.cause) == (499, Phase.RESPONSE_BODY, Cause(how))
        assert (record.outcome, transaction.ends) == (outcome, [end])
    assert not transaction.told_later.is_set()


@every_stage
async def test_a_drain_waits_for_a_commit_before_a_streams_end(stage: Stage) -> None:
    app = App()
    transaction = Transaction(app)
    transaction.streamed()
    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await transaction.commits.wait()
        theatre.nursery.start_soon(theatre.drain)
        await news_is_heard(stage)
        assert transaction.ends == []
        transaction.may_commit.set()
        assert await client.response() == (200, b"done")
        await theatre.completed()
        await transaction.told_later.wait()
    assert transaction.ends == ["committed"]


@every_stage
async def test_a_commit_before_a_streams_end_that_fails_cuts_the_stream(stage: Stage, caplog) -> None:
    app = App()

    @app.dependency
    async def transaction() -> AsyncIterator[Ends]:
        yield Ends()
        raise ValueError("the commit failed")

    @app.get("/")
    async def handler(transaction: Ends) -> AsyncIterator[bytes]:
        yield b"done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        received = await client.read_to_end()
        record = await theatre.abandoned()
    assert received.endswith(b"done\r\n"), "there is no last chunk"
    assert (record.cause, record.phase, record.outcome) == (
        Cause.HANDLER_FAILED,
        Phase.RESPONSE_BODY,
        Outcome.FAILED,
    )
    assert "the commit failed" in caplog.text


# In the middle


@every_stage
@WAYS
async def test_a_client_that_leaves_in_the_middle_of_a_stream_has_it_rolled_back_after_the_stream(
    stage: Stage, how: str
) -> None:
    app, waits = App(), trio.Event()
    transaction = Transaction(app)

    @app.get("/")
    async def handler(transaction: Transaction, request: Request) -> AsyncIterator[bytes]:
        request.after_response(transaction.tell_later)
        try:
            yield b"first"
            waits.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            transaction.ends.append("closed")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await waits.wait()
        client.leave(how)
        record = await theatre.abandoned()
        assert (record.phase, record.outcome) == (Phase.RESPONSE_BODY, Outcome.CANCELLED)
        assert transaction.ends == ["closed", "rolled back"]
    assert not transaction.told_later.is_set()


@in_memory
async def test_a_deadline_that_meets_a_commit_is_answered_503_and_rolled_back_once(stage: Stage) -> None:
    app = App()
    transaction = Transaction(app)

    @app.get("/", deadline=5)
    async def handler(transaction: Transaction) -> str:
        return "done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 503 ")
        assert (await theatre.completed()).status == 503
    assert transaction.ends == ["rolled back"]


# In a thread


@on_sockets
@WAYS
async def test_what_a_plain_handler_needs_is_left_when_its_thread_has_ended(stage: Stage, how: str) -> None:
    app, started = App(), trio.Event()
    transaction = Transaction(app)

    @app.get("/")
    def handler(transaction: Transaction) -> None:
        trio.from_thread.run_sync(started.set)
        try:
            while True:
                trio.from_thread.check_cancelled()
        finally:
            transaction.ends.append("thread ended")

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave(how)
        record = await theatre.abandoned()
        assert (record.cause, record.outcome) == (Cause(how), Outcome.CANCELLED)
        assert transaction.ends == ["thread ended", "rolled back"]


def commits_at_once(app: App) -> Ends:
    """Give `app` a transaction that is left without a checkpoint, as by `with connection`."""
    ends = Ends()

    @app.dependency
    async def transaction() -> AsyncIterator[Ends]:
        try:
            yield ends
        except BaseException:
            ends.append("rolled back")
            raise
        ends.append("committed")

    return ends


@on_sockets
@WAYS
async def test_what_a_thread_did_that_goes_on_without_its_client_is_rolled_back_all_the_same(
    stage: Stage, how: str
) -> None:
    app, started = App(), trio.Event()
    ends = commits_at_once(app)

    @app.get("/")
    def handler(ends: Ends) -> str:
        trio.from_thread.run_sync(started.set)
        with contextlib.suppress(trio.Cancelled):
            while True:
                trio.from_thread.check_cancelled()
        return "done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave(how)
        record = await theatre.abandoned()
        assert (record.cause, record.outcome) == (Cause(how), Outcome.CANCELLED)
        assert ends == ["rolled back"]


@every_stage
async def test_what_a_handler_did_that_ends_without_meeting_its_cancellation_is_rolled_back(stage: Stage) -> None:
    app, started = App(), trio.Event()
    ends = commits_at_once(app)

    @app.get("/")
    async def handler(request: Request, ends: Ends) -> str:
        started.set()
        with trio.CancelScope(shield=True):
            while not request.exchange.ended:
                await trio.lowlevel.checkpoint()
        return "done"

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await started.wait()
        client.leave("FIN")
        assert (await theatre.abandoned()).outcome is Outcome.CANCELLED
        assert ends == ["rolled back"]


# Told to several tasks at once


@in_memory
async def test_a_departure_that_several_tasks_meet_goes_to_no_error_handler(stage: Stage) -> None:
    app, answered = App(disconnect=FINISH), []

    @app.error_handler(ExceptionGroup)
    async def answer(request: Request, error: ExceptionGroup) -> str:
        answered.append(error)
        return "never"

    async def read_once_it_is_over(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await request.exchange.receive_part()

    @app.post("/")
    async def handler(request: Request) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_once_it_is_over, request)
            nursery.start_soon(request.body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 9\r\n\r\nhalf")
        await wait_all_tasks_blocked()
        client.leave("FIN")
        record = await theatre.abandoned()
        assert isinstance(record, Abandoned)
        assert (record.phase, record.cause, record.outcome) == (Phase.BODY, Cause.FIN, Outcome.FAILED)
    assert answered == []

"""What becomes of the source of a stream, or of events, when its client leaves: in every situation it has cleaned up by
itself before the hook is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lifecycle.stage import GET, Stage, every_bare_stage, every_stage, in_memory
from trioserve import (
    FINISH,
    Abandoned,
    App,
    Cause,
    ClientGone,
    Completed,
    Config,
    Deadlines,
    Event,
    Outcome,
    Phase,
    Response,
    SendEvent,
)

HEAD = b"HEAD / HTTP/1.1\r\nHost: example\r\n\r\n"


class Source:
    """Generators, and what became of them."""

    def __init__(self) -> None:
        self.waits = trio.Event()
        self.seen: list[str] = []

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        try:
            yield
        except trio.Cancelled:
            self.seen.append("cancelled")
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.seen.append("finally")

    async def one_and_wait(self) -> AsyncIterator[bytes]:
        async with self.watched():
            yield b"one"
            self.waits.set()
            await trio.sleep_forever()

    async def none_and_wait(self) -> AsyncIterator[bytes]:
        async with self.watched():
            self.waits.set()
            await trio.sleep_forever()
            yield b"never"

    async def flood(self) -> AsyncIterator[bytes]:
        async with self.watched():
            while True:
                self.waits.set()
                yield bytes(1 << 20)


@every_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
@pytest.mark.parametrize("what", ["one_and_wait", "none_and_wait", "flood"])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_generator_has_cleaned_up_before_the_hook_is_told(
    stage: Stage, how: str, what: str, *, wrapped: bool
) -> None:
    app, source = App(), Source()
    seen_by_hook: list[str] = []

    @app.get("/")
    async def stream() -> object:
        parts = getattr(source, what)()
        return Response.stream(parts) if wrapped else parts

    @app.on_abandoned
    async def hook(_record: object) -> None:
        seen_by_hook.extend(source.seen)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.receive()
        await source.waits.wait()
        if stage.in_memory:
            await wait_all_tasks_blocked()  # a send that has just found room is no answer to the departure
        client.leave(how)
        record = await theatre.abandoned()
    assert (record.status, record.phase, record.by) == (499, Phase.RESPONSE_BODY, "client")
    assert (record.sent_status, record.outcome) == (200, Outcome.CANCELLED)
    assert source.seen == seen_by_hook == ["cancelled", "finally"]


@every_stage
async def test_a_generator_that_head_asked_for_is_not_begun_and_leaves_nothing(stage: Stage) -> None:
    app, source = App(), Source()
    generators: list[AsyncIterator[bytes]] = []

    @app.get("/")
    async def stream() -> Response:
        generators.append(source.one_and_wait())
        return Response.stream(generators[0])

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(HEAD)
        assert (await client.response(b"HEAD")) == (200, b"")
        assert isinstance(await theatre.completed(), Completed)
    assert await anext(generators[0], None) is None
    assert source.seen == []


@every_stage
async def test_a_generator_that_is_handed_to_a_second_exchange_is_refused_and_the_first_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    app, source = App(), Source()
    kept = Response.stream(source.one_and_wait())

    @app.get("/")
    async def stream() -> Response:
        return kept

    async with stage.serve(app) as theatre:
        first, second = await theatre.connect(), await theatre.connect()
        await first.send(GET)
        await source.waits.wait()
        await second.send(GET)
        assert (await second.response())[0] == 500
        await theatre.records(1)
        assert source.seen == []
        first.leave("RESET")
        record = (await theatre.records(2))[1]
        assert isinstance(record, Abandoned)
        assert (record.cause, record.outcome) == (Cause.RESET, Outcome.CANCELLED)
        assert source.seen == ["cancelled", "finally"]
    assert "this stream was sent before; make a new Response for each request" in caplog.text


# Events: beside the source there is a task that pings


class Feed(Source):
    """Sources of events, as functions and as generators."""

    async def write_one_and_wait(self, send: SendEvent) -> None:
        async with self.watched():
            await send("one")
            self.waits.set()
            await trio.sleep_forever()

    async def write_none_and_wait(self, _send: SendEvent) -> None:
        async with self.watched():
            self.waits.set()
            await trio.sleep_forever()

    async def write_a_flood(self, send: SendEvent) -> None:
        async with self.watched():
            while True:
                self.waits.set()
                await send("x" * (1 << 20))

    async def write_a_flood_from_tasks(self, send: SendEvent) -> None:
        async with trio.open_nursery() as nursery, self.watched():
            for _ in range(20):
                nursery.start_soon(send, "x" * (1 << 20))
            self.waits.set()
            await trio.sleep_forever()

    async def one_and_wait_between(self) -> AsyncIterator[Event]:
        async with self.watched():
            yield Event("one")
            self.waits.set()
            await trio.sleep_forever()

    async def wait_for_the_first(self) -> AsyncIterator[Event]:
        async with self.watched():
            self.waits.set()
            await trio.sleep_forever()
            yield Event("never")

    async def a_flood(self) -> AsyncIterator[str]:
        async with self.watched():
            while True:
                self.waits.set()
                yield "x" * (1 << 20)


@every_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
@pytest.mark.parametrize("ping", [0.001, 15])
@pytest.mark.parametrize(
    "what",
    [
        "write_one_and_wait",
        "write_none_and_wait",
        "write_a_flood",
        "write_a_flood_from_tasks",
        "one_and_wait_between",
        "wait_for_the_first",
        "a_flood",
    ],
)
async def test_a_source_of_events_has_cleaned_up_before_the_hook_is_told(
    stage: Stage, how: str, ping: float, what: str
) -> None:
    app, feed = App(), Feed()
    seen_by_hook: list[str] = []

    @app.get("/")
    async def events() -> Response:
        source = getattr(feed, what)
        return Response.events(source if what.startswith("write") else source(), ping=ping)

    @app.on_abandoned
    async def hook(_record: object) -> None:
        seen_by_hook.extend(feed.seen)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.receive()
        await feed.waits.wait()
        if stage.in_memory:
            await wait_all_tasks_blocked()  # a send that has just found room is no answer to the departure
        client.leave(how)
        record = await theatre.abandoned()
    assert (record.status, record.phase, record.by) == (499, Phase.RESPONSE_BODY, "client")
    assert (record.sent_status, record.outcome) == (200, Outcome.CANCELLED)
    assert feed.seen == seen_by_hook == ["cancelled", "finally"]


@in_memory
async def test_a_client_that_reads_no_pings_is_too_slow_after_the_stalls_deadline(stage: Stage) -> None:
    app, feed = App(), Feed()

    @app.get("/")
    async def events() -> Response:
        return Response.events(feed.write_none_and_wait, ping=1)

    async with stage.serve(app, Config(deadlines=Deadlines(send_stall=30))) as theatre:
        client = await theatre.connect(window=200, send_buffer=100)
        await client.send(GET)
        record = await theatre.abandoned()
        await client.read_to_end()
    assert (record.status, record.phase, record.cause) == (499, Phase.RESPONSE_BODY, Cause.WRITE_TIMEOUT)
    assert record.outcome is Outcome.CANCELLED
    assert feed.seen == ["cancelled", "finally"]


@in_memory
async def test_a_client_that_leaves_while_a_ping_waits_for_room_is_noticed(stage: Stage) -> None:
    app, feed = App(), Feed()

    @app.get("/")
    async def events() -> Response:
        return Response.events(feed.write_none_and_wait, ping=1)

    async with stage.serve(app) as theatre:
        client = await theatre.connect(window=200, send_buffer=100)
        await client.send(GET)
        await trio.sleep(20.5)  # by now no ping has room any more
        client.leave("RESET")
        record = await theatre.abandoned()
    assert (record.status, record.phase, record.cause) == (499, Phase.RESPONSE_BODY, Cause.RESET)
    assert record.unwound_at == record.noticed_at == record.started_at + 20.5
    assert feed.seen == ["cancelled", "finally"]


@every_stage
async def test_a_source_of_events_in_its_shield_is_told_that_the_client_is_gone(stage: Stage) -> None:
    app, waits, seen = App(), trio.Event(), []

    @app.get("/")
    async def events() -> Response:
        async def write(send: SendEvent) -> None:
            try:
                waits.set()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    try:
                        await send("last words")
                    except ClientGone:
                        seen.append("gone")

        return Response.events(write, ping=0.001)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.receive()
        await waits.wait()
        client.leave("FIN")
        assert (await theatre.abandoned()).outcome is Outcome.CANCELLED
    assert seen == ["gone"]


@every_stage
@pytest.mark.parametrize("ping", [0.001, 15])
async def test_under_finish_a_source_of_events_comes_to_its_end(stage: Stage, ping: float) -> None:
    app, waits, go_on = App(disconnect=FINISH), trio.Event(), trio.Event()

    @app.get("/")
    async def events() -> Response:
        async def source() -> AsyncIterator[str]:
            waits.set()
            await go_on.wait()
            for _ in range(3):
                yield "x"

        return Response.events(source(), ping=ping)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.receive()
        await waits.wait()
        client.leave("RESET")
        if stage.in_memory:
            await trio.sleep(1)  # pings fall due
        go_on.set()
        record = await theatre.abandoned()
    assert (record.phase, record.outcome) == (Phase.RESPONSE_BODY, Outcome.FINISHED)


# Middleware that leaves a scope of its own before the generator's would be interleaved with it: a bare stage.
@every_bare_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
@pytest.mark.parametrize("ping", [0.001, 15])
async def test_a_source_of_events_that_was_begun_before_has_cleaned_up_too(
    stage: Stage, how: str, ping: float, caplog: pytest.LogCaptureFixture
) -> None:
    app, feed = App(), Feed()

    async def tokens() -> AsyncIterator[str]:
        async with feed.watched(), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield "first"
            yield "second"
            feed.waits.set()
            await trio.sleep_forever()

    @app.get("/")
    async def events() -> Response:
        source = tokens()
        await anext(source)
        return Response.events(source, ping=ping)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await client.receive()
        await feed.waits.wait()
        if stage.in_memory:
            await wait_all_tasks_blocked()
        client.leave(how)
        record = await theatre.abandoned()
        assert (record.outcome, record.exception) == (Outcome.CANCELLED, None)
        assert len(feed.seen) == 1
    assert not caplog.records


@every_stage
async def test_a_drain_that_cannot_wait_ends_a_stream_of_events(stage: Stage) -> None:
    app, feed = App(), Feed()

    @app.get("/")
    async def events() -> Response:
        return Response.events(feed.one_and_wait_between())

    async with stage.serve(app, Config(deadlines=Deadlines(drain=0.05))) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await feed.waits.wait()
        theatre.nursery.start_soon(theatre.drain)
        record = await theatre.abandoned()
        await client.read_to_end()
    assert (record.status, record.phase, record.cause) == (503, Phase.RESPONSE_BODY, Cause.DRAIN)
    assert feed.seen == ["cancelled", "finally"]


@every_stage
async def test_a_connection_serves_on_after_a_stream_of_events(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def events() -> Response:
        async def source() -> AsyncIterator[str]:
            yield "x"

        return Response.events(source())

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        for _ in range(3):
            await client.send(GET)
            assert await client.response() == (200, b"data: x\n\n")
        assert [type(record) for record in await theatre.records(3)] == [Completed] * 3


@every_stage
async def test_each_part_is_a_checkpoint_also_where_there_is_room(stage: Stage) -> None:
    app = App()

    @app.get("/")
    async def handler() -> Response:
        async def write_body(send) -> None:
            for _ in range(3):
                with trio.testing.assert_checkpoints():
                    await send(b"x")

        return Response.stream(write_body)

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        assert await client.response() == (200, b"xxx")
        await theatre.completed()

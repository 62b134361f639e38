"""What becomes of the source of a stream when its client leaves: in every situation it has cleaned up by itself before
the hook is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio

from lifecycle.stage import GET, Stage, every_stage
from trioserve import App, Completed, Outcome, Phase, Response

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

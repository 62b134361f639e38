"""Early ends in the middle of a file: the work stops, the bytes that left are counted, and the file is closed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from lifecycle.stage import GET, Client, Stage, every_stage, on_sockets
from tests.support import open_files
from trioserve import FINISH, Abandoned, App, Cause, Config, Deadlines, Outcome, Phase, Response
from trioserve.app import files
from trioserve.core.application import Exchange
from trioserve.core.messages import FileSlice

SIZE = 50_000_000
"""Larger than any buffer."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.touch()
    os.truncate(path, SIZE)
    return path


def app_with(path: Path, **options: object) -> App:
    app = App(**options)

    @app.get("/")
    async def large() -> Response:
        return Response.file(path)

    return app


async def begin(client: Client, request: bytes = GET) -> bytes:
    """Ask, and wait until the server waits because nobody reads; returns what has come of the content till then."""
    await client.send(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += await client.receive()
    await trio.testing.wait_all_tasks_blocked()
    return received.partition(b"\r\n\r\n")[2]


async def read_on(client: Client, received: bytes, size: int) -> bytes:
    """What was received and what comes, up to so many bytes."""
    content = bytearray(received)
    while len(content) < size:
        content += await client.receive()
    return bytes(content)


def expect(record: Abandoned, cause: str, path: Path) -> None:
    assert (record.phase, record.cause, record.status) == (Phase.RESPONSE_BODY, Cause(cause), 499)
    assert (record.sent_status, record.logged_status, record.exception) == (200, 200, None)
    assert record.response_body_expected == SIZE
    assert 0 < record.response_body_bytes < SIZE
    assert not open_files(path)


@every_stage
async def test_a_reset_in_the_middle_of_a_file_stops_it(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        received = await begin(client)
        assert len(open_files(path)) == 1
        client.leave("RESET")
        record = await theatre.abandoned()
        expect(record, "RESET", path)
        # The handler had given its whole response.
        assert record.outcome is Outcome.FINISHED
        assert record.response_body_bytes >= len(received)


@every_stage
async def test_a_client_that_closes_in_the_middle_of_a_file_stops_it(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        await begin(client)
        client.close()
        record = await theatre.abandoned()
        assert record.cause in {Cause.FIN, Cause.RESET}
        expect(record, record.cause, path)


@every_stage
async def test_a_fin_in_the_middle_of_a_file_stops_it_and_every_byte_that_left_is_counted(
    stage: Stage, path: Path
) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        received = await begin(client)
        client.half_close()
        record = await theatre.abandoned()
        expect(record, "FIN", path)
        received += await client.read_to_end()
        assert record.response_body_bytes - len(received) in stage.under_way


@every_stage
async def test_a_client_that_finishes_a_part_of_a_file_and_goes_on_is_counted_from_zero(
    stage: Stage, path: Path
) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nRange: bytes=5-9\r\n\r\n"))
        assert await client.response() == (206, bytes(5))
        assert not open_files(path)
        received = await begin(client)
        client.half_close()
        first, record = await theatre.records(2)
        assert (first.status, first.response_body_bytes) == (206, 5)
        assert isinstance(record, Abandoned)
        expect(record, "FIN", path)
        received += await client.read_to_end()
        assert record.response_body_bytes - len(received) in stage.under_way


@every_stage
async def test_a_client_that_leaves_an_app_that_finishes_is_sent_no_more_of_the_file(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path, disconnect=FINISH)) as theatre:
        client = await theatre.connect()
        await begin(client)
        client.leave("RESET")
        record = await theatre.abandoned()
        expect(record, "RESET", path)
        assert record.outcome is Outcome.FINISHED


@every_stage
async def test_a_client_that_reads_nothing_of_a_file_is_too_slow(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path), Config(deadlines=Deadlines(send_stall=0.3))) as theatre:
        client = await theatre.connect()
        await begin(client)
        expect(await theatre.abandoned(), "WRITE_TIMEOUT", path)


@every_stage
async def test_a_file_is_given_up_when_the_drain_has_lasted_too_long(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path), Config(deadlines=Deadlines(drain=0.1))) as theatre:
        client = await theatre.connect()
        await begin(client)
        await theatre.drain()
        record = await theatre.abandoned()
        assert (record.cause, record.status, record.phase) == (Cause.DRAIN, 503, Phase.RESPONSE_BODY)
        assert not open_files(path)


@on_sockets
async def test_a_file_that_is_opened_while_its_client_leaves_is_closed(stage: Stage, path: Path, monkeypatch) -> None:
    opening = trio.Event()

    def open_when_cancelled(name: str, flags: int) -> int:
        trio.from_thread.run_sync(opening.set)
        with contextlib.suppress(trio.Cancelled):
            while True:
                trio.from_thread.check_cancelled()
        return os.open(name, flags)

    monkeypatch.setattr(files, "_open_at_once", open_when_cancelled)
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        await client.send(GET)
        await opening.wait()
        client.leave("FIN")
        record = await theatre.abandoned()
        assert (record.phase, record.status, record.response_body_bytes) == (Phase.HANDLER, 499, 0)
        assert not open_files(path)


# Files that change


@every_stage
async def test_a_file_that_becomes_shorter_is_cut_and_nothing_spins(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        received = await begin(client)
        os.truncate(path, 1000)
        received += await client.read_to_end()
        record = await theatre.abandoned()
        assert (record.cause, record.status, record.outcome) == (Cause.HANDLER_FAILED, 500, Outcome.FAILED)
        assert "shorter" in str(record.exception)
        assert len(received) == record.response_body_bytes < SIZE
        assert not open_files(path)


@every_stage
async def test_a_file_that_becomes_longer_is_sent_as_long_as_it_was(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        received = await begin(client)
        os.truncate(path, SIZE + 1000)
        received = await read_on(client, received, SIZE)
        record = await theatre.completed()
        assert len(received) == record.response_body_bytes == SIZE
        assert not open_files(path)


@every_stage
async def test_a_file_that_is_replaced_is_sent_as_it_was(stage: Stage, path: Path) -> None:
    async with stage.serve(app_with(path)) as theatre:
        client = await theatre.connect()
        received = await begin(client)
        (path.parent / "new").write_bytes(b"new")
        (path.parent / "new").rename(path)
        received = await read_on(client, received, SIZE)
        assert received == bytes(SIZE)
        assert (await theatre.completed()).response_body_bytes == SIZE


# Files among other parts


class Pieces(Response):
    """A response that is made of files and bytes, chunked unless it says how long it is."""

    def __init__(self, *pieces: bytes | FileSlice, **options: object) -> None:
        super().__init__(**options)
        self.pieces = pieces

    async def send_to(self, exchange: Exchange, _release: object = None) -> None:
        await exchange.start_response(self.status, self.headers.raw)
        for piece in self.pieces:
            await exchange.send_part(piece)
        await exchange.end_response()


@every_stage
@pytest.mark.parametrize("framing", ["chunked", "fixed"])
async def test_files_and_bytes_are_sent_in_order_in_either_framing(stage: Stage, tmp_path: Path, framing: str) -> None:
    content = bytes(range(256)) * 2000
    (tmp_path / "file").write_bytes(content)
    expected = b"first" + content + b"middle" + content[1000:1003] + b"last"
    headers = {"content-length": str(len(expected))} if framing == "fixed" else {}
    app = App()
    with (tmp_path / "file").open("rb", buffering=0) as file:

        @app.get("/")
        async def pieces() -> Response:
            whole, part = FileSlice(file, 0, len(content)), FileSlice(file, 1000, 3)
            return Pieces(b"first", whole, b"middle", part, whole[len(whole) :], b"last", headers=headers)

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            for _ in range(2):
                await client.send(GET)
                assert await client.response() == (200, expected)
            first, second = await theatre.records(2)
            assert first.response_body_bytes == second.response_body_bytes == len(expected)


@every_stage
async def test_framing_is_not_counted_when_a_client_leaves_in_the_middle_of_a_chunk_that_is_a_file(
    stage: Stage, path: Path
) -> None:
    app = App()
    with path.open("rb", buffering=0) as file:

        @app.get("/")
        async def chunked() -> Response:
            return Pieces(FileSlice(file, 0, SIZE))

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            received = await begin(client)
            client.half_close()
            record = await theatre.abandoned()
            received += await client.read_to_end()
            content = received.removeprefix(b"%x\r\n" % SIZE)
            assert record.response_body_bytes - len(content) in stage.under_way
            assert record.response_body_bytes < SIZE


@every_stage
async def test_a_file_that_a_handler_cancels_is_completed_by_the_next_part(stage: Stage, path: Path) -> None:
    class Impatient(Pieces):
        async def send_to(self, exchange: Exchange, _release: object = None) -> None:
            await exchange.start_response(200, [])
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(exchange.send_part, self.pieces[0])
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            blocked.set()
            await exchange.send_part(b"last")
            await exchange.end_response()

    app, blocked = App(), trio.Event()
    with path.open("rb", buffering=0) as file:

        @app.get("/")
        async def impatient() -> Response:
            return Impatient(FileSlice(file, 0, SIZE))

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            await client.send(GET)
            await blocked.wait()
            end = b"\r\n4\r\nlast\r\n0\r\n\r\n"
            received = await read_on(client, b"", SIZE)
            while not received.endswith(end):
                received += await client.receive()
            head, _, content = received.partition(b"%x\r\n" % SIZE)
            assert head.endswith(b"\r\n\r\n")
            assert content == bytes(SIZE) + end
            assert (await theatre.completed()).response_body_bytes == SIZE + 4


@every_stage
async def test_a_broken_file_cannot_be_followed_by_anything(stage: Stage, path: Path) -> None:
    class Stubborn(Pieces):
        async def send_to(self, exchange: Exchange, _release: object = None) -> None:
            await exchange.start_response(200, [(b"content-length", b"%d" % SIZE)])
            for piece in self.pieces:
                try:
                    await exchange.send_part(piece)
                except Exception as error:
                    told.append(str(error))
            await exchange.end_response()

    app, told = App(), []
    with path.open("rb", buffering=0) as file:

        @app.get("/")
        async def stubborn() -> Response:
            os.truncate(path, 3)
            return Stubborn(FileSlice(file, 0, SIZE - 1), b"1")

        async with stage.serve(app) as theatre:
            client = await theatre.connect()
            await client.send(GET)
            received = await client.read_to_end()
            assert received.partition(b"\r\n\r\n")[2] == bytes(3)
            record = await theatre.abandoned()
            assert (record.cause, record.response_body_bytes) == (Cause.HANDLER_FAILED, 3)
            assert len(told) == 2
            assert "shorter" in told[0]
            assert told[0] == told[1] == str(record.exception)


@every_stage
async def test_a_file_that_was_closed_too_early_is_cut_and_no_other_is_sent_in_its_place(
    stage: Stage, path: Path
) -> None:
    app, opened = App(), []

    @app.get("/")
    async def careless() -> Response:
        opened.append(path.open("rb", buffering=0))
        return Pieces(FileSlice(opened[0], 0, SIZE), headers={"content-length": str(SIZE)})

    async with stage.serve(app) as theatre:
        client = await theatre.connect()
        await begin(client)
        opened[0].close()
        with (path.parent / "secret").open("xb+", buffering=0) as secret:  # which gets the same number
            os.truncate(secret.fileno(), SIZE)
            await client.read_to_end()
            record = await theatre.abandoned()
        assert record.cause is Cause.HANDLER_FAILED
        assert "closed before all of it was sent" in str(record.exception)

"""Departures around a form with a file that goes to disk: nothing of it stays, whatever the client and the disk do."""

from __future__ import annotations

import io
import tempfile
import threading
from pathlib import Path

import pytest
import trio

from lifecycle.stage import Stage, Visit, every_stage
from trioserve import (
    FINISH,
    Abandoned,
    App,
    Cause,
    ClientGone,
    Config,
    Deadlines,
    Form,
    Limits,
    Outcome,
    Phase,
    Request,
)

WAYS = pytest.mark.parametrize("how", ["FIN", "RESET"])

CONTENT = bytes(range(256)) * 2000
"""More than goes to disk at a time."""

BODY = (
    b'--boundary\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + CONTENT + b"\r\n--boundary--\r\n"
)
HEAD = (
    b"POST / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n"
    b"Content-Type: multipart/form-data; boundary=boundary\r\n\r\n"
) % len(BODY)

# In virtual time a write to disk, which takes real time, lasts as long as the next deadline is away.
CONFIG = Config(limits=Limits(form_memory=1000), deadlines=Deadlines(unwind=1e9, body_stall=1e9, idle=1e9))


MAKE = tempfile.TemporaryFile


class Disk:
    """The disk, where temporary files are made: tells when one is made or written, and can make either wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = trio.Event()
        self.written = trio.Event()
        self.has_room = threading.Event()
        self.has_room.set()
        self.is_free = threading.Event()
        self.is_free.set()
        self.writers = 0  # that are in a write
        self._token = trio.lowlevel.current_trio_token()

    def make(self, **settings) -> io.RawIOBase:
        file = MAKE(dir=self.folder, **settings)
        self._token.run_sync_soon(self.made.set)
        self.has_room.wait()
        return _Watched(file, self)

    def write(self, file: io.RawIOBase, data: bytes) -> int:
        self.writers += 1
        self._token.run_sync_soon(self.written.set)
        self.is_free.wait()
        try:
            return file.write(data)
        finally:
            self.writers -= 1

    def check_nothing_is_left(self) -> None:
        assert self.written.is_set(), "nothing was written"
        assert self.writers == 0
        assert list(self.folder.iterdir()) == []
        open_files = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        assert [name for name in open_files if name.startswith(str(self.folder))] == []


class _Watched:
    def __init__(self, file: io.RawIOBase, disk: Disk) -> None:
        self._file = file
        self._disk = disk

    def write(self, data: bytes) -> int:
        return self._disk.write(self._file, data)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def disk_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    disk = Disk(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", disk.make)
    return disk


def expect(record: Abandoned, phase: Phase, cause: str, status: int, outcome: Outcome) -> None:
    assert (record.phase, record.cause, record.status, record.outcome) == (phase, Cause(cause), status, outcome)


@every_stage
@WAYS
async def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_no_file(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app, visit, disk = App(), Visit(), disk_of(monkeypatch, tmp_path)

    @app.post("/")
    async def take(request: Request) -> None:
        async with visit:
            await request.form()

    async with stage.serve(app, CONFIG) as theatre:
        client = await theatre.connect()
        await client.send(HEAD + BODY[:400_000])
        await disk.written.wait()
        client.leave(how)
        expect(await theatre.abandoned(), Phase.BODY, how, 400, Outcome.CANCELLED)
        assert visit.cancelled
        disk.check_nothing_is_left()


@every_stage
@WAYS
async def test_a_write_to_disk_is_waited_for_when_the_client_leaves_and_leaves_no_file(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app, visit, beside, disk = App(), Visit(), Visit(), disk_of(monkeypatch, tmp_path)

    @app.post("/")
    async def take(request: Request) -> None:
        async with visit, trio.open_nursery() as nursery:
            nursery.start_soon(beside.until_cancelled)
            await request.form()

    async with stage.serve(app, CONFIG) as theatre:
        disk.is_free.clear()
        client = await theatre.connect()
        await client.send(HEAD + BODY[:400_000])
        await disk.written.wait()
        client.leave(how)
        await beside.ended.wait()
        assert disk.writers == 1
        assert not visit.ended.is_set()
        disk.is_free.set()
        record = await theatre.abandoned()
        assert record.cause == Cause(how)
        assert record.outcome == Outcome.CANCELLED
        assert visit.ended.is_set()
        disk.check_nothing_is_left()


@every_stage
@WAYS
async def test_a_client_that_leaves_while_its_upload_is_worked_on_leaves_no_file(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app, visit, disk = App(), Visit(), disk_of(monkeypatch, tmp_path)
    kept: list[Form] = []

    @app.post("/")
    async def take(request: Request) -> None:
        kept.append(await request.form())
        await visit.until_cancelled()

    async with stage.serve(app, CONFIG) as theatre:
        client = await theatre.connect()
        await client.send(HEAD + BODY)
        await visit.started.wait()
        client.leave(how)
        expect(await theatre.abandoned(), Phase.HANDLER, how, 499, Outcome.CANCELLED)
        disk.check_nothing_is_left()
        with pytest.raises(trio.ClosedResourceError):
            await kept[0].file("f").read()


@every_stage
@WAYS
async def test_a_handler_that_is_to_finish_learns_that_the_rest_of_the_form_will_not_come(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app, disk, told = App(), disk_of(monkeypatch, tmp_path), []

    @app.post("/", disconnect=FINISH)
    async def take(request: Request) -> str:
        with pytest.raises(ClientGone):
            await request.form()
        told.append(True)
        return "done without it"

    async with stage.serve(app, CONFIG) as theatre:
        client = await theatre.connect()
        await client.send(HEAD + BODY[:400_000])
        await disk.written.wait()
        client.leave(how)
        expect(await theatre.abandoned(), Phase.BODY, how, 400, Outcome.FINISHED)
        assert told == [True]
        disk.check_nothing_is_left()


@every_stage
@WAYS
async def test_a_handler_that_is_to_finish_can_read_its_files_until_its_end(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app, disk, started, left, read = App(), disk_of(monkeypatch, tmp_path), trio.Event(), trio.Event(), []

    @app.post("/", disconnect=FINISH)
    async def take(request: Request) -> str:
        form = await request.form()
        started.set()
        await left.wait()
        read.append(await form.file("f").read())
        return "done"

    async with stage.serve(app, CONFIG) as theatre:
        client = await theatre.connect()
        await client.send(HEAD + BODY)
        await started.wait()
        client.leave(how)
        left.set()
        record = (await theatre.records(1))[0]
        assert isinstance(record, Abandoned)
        expect(record, Phase.HANDLER, how, 499, Outcome.FINISHED)
        assert read == [CONTENT]
        disk.check_nothing_is_left()


@every_stage
@WAYS
async def test_a_file_that_is_made_for_background_work_while_the_exchange_ends_is_not_left(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app, visit, disk = App(), Visit(), disk_of(monkeypatch, tmp_path)
    disk.has_room.clear()

    @app.post("/")
    async def take(request: Request) -> None:
        app.start_soon(read, request)
        await visit.until_cancelled()

    async def read(request: Request) -> None:
        with pytest.raises((trio.ClosedResourceError, ClientGone)):
            await request.form()

    async with stage.serve(app, CONFIG) as theatre:
        client = await theatre.connect()
        await client.send(HEAD + BODY)
        await disk.made.wait()
        client.leave(how)
        await visit.ended.wait()
        disk.has_room.set()
        assert (await theatre.abandoned()).outcome is Outcome.CANCELLED
        disk.check_nothing_is_left()

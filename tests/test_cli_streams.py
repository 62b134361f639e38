"""The streams that the command writes to, and what becomes of the server where they take nothing any more."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.client import connect
from tests.support.program import LIFETIME, Program, command, trioserve
from trioserve import UnixAddress
from trioserve.cli.output import AT_ONCE, BACKLOG, Output

SHOP = """
import os
from collections.abc import AsyncIterator
from trioserve import App

app = App()

@app.lifespan
async def life() -> AsyncIterator[None]:
    print(f"starts: {os.getpid()}")
    yield
    print(f"ends: {os.getpid()}")

@app.post("/order")
async def order(request):
    print("order: started")
    return await request.body()

@app.get("/hello")
async def hello():
    return "hello"
"""

SOCKET = ("--unix", "s")
WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["single", "workers"])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the application shop:app."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@contextlib.contextmanager
def full() -> Iterator[int]:
    """A descriptor that has no room for a byte."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def without_reader() -> Iterator[int]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


BROKEN = pytest.mark.parametrize("broken", [full, without_reader])


async def order_under_way(program: Program, shop: Path):
    """A client that has sent half of its request, whose handler has begun."""
    await program.line("starts: ")
    client = await connect(UnixAddress(str(shop / "s")))
    await client.send(b"POST /order HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\n\r\ntea")
    await program.line("order: started")
    return client


async def is_answered(client) -> bool:
    """Send the other half."""
    await client.send(b"pot")
    answer = await client.answer()
    client.close()
    return (answer.status, answer.body) == (200, b"teapot")


# stderr


@BROKEN
@WORKERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_whose_stderr_takes_nothing_drains_all_the_same(shop, broken, workers, number):
    with broken() as stderr:
        async with trioserve("run", "shop:app", *SOCKET, *workers, cwd=shop, stderr=stderr) as program:
            client = await order_under_way(program, shop)
            program.process.send_signal(number)
            assert await is_answered(client)
            assert await program.process.wait() == 0


@BROKEN
async def test_workers_are_replaced_also_where_nothing_can_be_said_of_it(shop, broken):
    manager = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager, broken() as stderr:
        await manager.bind(str(shop / "notify"))
        told = {"NOTIFY_SOCKET": str(shop / "notify")}
        async with trioserve("run", "shop:app", *SOCKET, "--workers", "2", cwd=shop, stderr=stderr, **told) as program:
            assert (await manager.recv(4096)).startswith(b"READY=1")  # or its end would be one at the start
            (victim, _) = await program.lines("starts: ", 2)
            os.kill(int(victim.partition(": ")[2]), signal.SIGKILL)
            await program.lines("starts: ", 3)
            program.process.send_signal(signal.SIGHUP)
            await program.lines("ends: ", 2)
            client = await connect(UnixAddress(str(shop / "s")))
            assert (await client.get("/hello")).status == 200
            client.close()
            assert await program.end(signal.SIGTERM) == 0


# stdout

QUIET = """
from trioserve import App

app = App()

@app.get("/hello")
async def hello():
    return "hello"
"""


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    """A directory with the application quiet:app, which prints nothing."""
    (tmp_path / "quiet.py").write_text(QUIET)
    return tmp_path


@contextlib.contextmanager
def frozen() -> Iterator[int]:
    """A pipe that has no room for a byte, and whose reader does not read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n")
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


async def ask(directory: Path, count: int) -> None:
    client = await connect(UnixAddress(str(directory / "s")))
    for _ in range(count):
        assert (await client.get("/hello")).status == 200
    client.close()


@WORKERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_access_log_that_nobody_reads_stops_neither_requests_nor_the_end(quiet, workers, number):
    with frozen() as stdout:
        async with trioserve("run", "quiet:app", *SOCKET, *workers, cwd=quiet, stdout=stdout) as program:
            await program.line("trioserve: serving")
            await ask(quiet, 3)
            assert await program.end(number) == 0
    assert "trioserve: 3 lines of the access log could not be written" in program.stderr


@WORKERS
async def test_a_server_ends_also_where_nobody_reads_what_it_says(quiet, workers):
    manager = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager, frozen() as both:
        await manager.bind(str(quiet / "notify"))
        told = {"NOTIFY_SOCKET": str(quiet / "notify")}
        async with trioserve(
            "run", "quiet:app", *SOCKET, *workers, cwd=quiet, stdout=both, stderr=both, **told
        ) as program:
            assert (await manager.recv(4096)).startswith(b"READY=1")
            await ask(quiet, 3)
            assert await program.end(signal.SIGTERM) == 0


@BROKEN
async def test_an_access_log_that_cannot_be_written_is_told_once(quiet, broken):
    with broken() as stdout:
        async with trioserve("run", "quiet:app", *SOCKET, cwd=quiet, stdout=stdout) as program:
            await program.line("trioserve: serving")
            await ask(quiet, 3)
            assert await program.end(signal.SIGTERM) == 0
    why = "No space left on device" if broken is full else "Broken pipe"
    serving, *told = program.stderr
    assert serving.startswith("trioserve: serving")
    assert sorted(told) == sorted(
        [
            f"trioserve: the access log cannot be written: {why}; lines are left out",
            "trioserve: draining; signal again to stop at once",
            "trioserve: 3 lines of the access log could not be written",
        ]
    )


async def test_a_server_without_a_stdout_serves(quiet):
    closed = ("sh", "-c", 'exec "$@" >&-', "sh", *command("run", "quiet:app", *SOCKET))
    async with trioserve(cwd=quiet, through=closed) as program:
        await program.line("trioserve: serving")
        await ask(quiet, 3)
        assert await program.end(signal.SIGTERM) == 0
    assert len(program.stderr) == 2


# The output by itself


def test_lines_are_written_in_the_order_in_which_they_came():
    reader, writer = os.pipe()
    output = Output("it", writer, pytest.fail)
    for number in range(1000):
        output.write(f"{number}\n")
    with os.fdopen(reader) as lines:
        read = [int(next(lines)) for _ in range(1000)]
        output.close()
        os.close(writer)
    assert read == list(range(1000))


def test_lines_beyond_the_backlog_are_left_out_and_told_with_their_number_when_it_is_over():
    reader, writer = os.pipe()
    told: list[str] = []
    over = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            over.set()

    output = Output("it", writer, tell)
    line = "x" * (BACKLOG // 4 - 1) + "\n"
    for _ in range(4 + 3):
        output.write(line)
    assert told == ["nobody reads it; lines are left out"]
    with os.fdopen(reader) as lines:
        assert [next(lines) for _ in range(4)] == [line] * 4
        assert over.wait(LIFETIME)
        output.write("last\n")
        assert next(lines) == "last\n"
        output.close()
        os.close(writer)
        assert lines.read() == ""
    assert told == ["nobody reads it; lines are left out", "3 lines of it could not be written"]


def test_the_end_does_not_wait_for_who_never_reads():
    told: list[str] = []
    with frozen() as writer:
        output = Output("it", writer, told.append)
        output.write("one\n")
        output.close(patience=0)
        assert told == ["1 line of it could not be written"]


def test_lines_that_wait_for_others_are_written_together_and_at_once_when_it_is_said():
    reader, writer = os.pipe()
    output = Output("it", writer, pytest.fail, pause=LIFETIME)
    output.write("one\n")
    output.write("two\n")
    output.hasten()
    assert os.read(reader, 100) == b"one\ntwo\n"
    output.write("three\n")
    output.hasten()
    assert os.read(reader, 100) == b"three\n"
    output.close()
    os.close(reader)
    os.close(writer)


def test_lines_that_wait_for_others_are_written_at_the_end():
    reader, writer = os.pipe()
    output = Output("it", writer, pytest.fail, pause=LIFETIME)
    output.write("one\n")
    output.close()
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert lines.read() == "one\n"


def test_what_is_written_together_are_whole_lines_of_which_a_pipe_takes_all_or_nothing():
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a packet is a write
    with reader, writer:
        output = Output("it", writer.fileno(), pytest.fail, pause=LIFETIME)
        lines = [f"{number} {'é' * (number % 100)}\n" for number in range(200)] + ["x" * AT_ONCE + "\n", "last\n"]
        for line in lines:
            output.write(line)
        output.close()
        writer.shutdown(socket.SHUT_WR)
        packets = list(iter(lambda: reader.recv(10 * AT_ONCE), b""))
    assert b"".join(packets).decode() == "".join(lines)
    assert 3 < len(packets) < 20
    assert all(packet.endswith(b"\n") and (len(packet) <= AT_ONCE or packet.count(b"\n") == 1) for packet in packets)


def test_of_lines_that_are_written_together_only_those_are_lost_that_are_not_out(tmp_path):
    told: list[str] = []
    begin = 1 << 30  # far off, so that the limit is for this file alone
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.seek(begin)
        resource.setrlimit(resource.RLIMIT_FSIZE, (begin + len("one\ntw"), before[1]))
        try:
            output = Output("it", file.fileno(), told.append, pause=LIFETIME)
            for line in ("one\n", "two\n", "three\n"):
                output.write(line)
            output.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told == ["it cannot be written: File too large; lines are left out", "2 lines of it could not be written"]

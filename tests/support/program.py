"""The command line as a process: with arguments, an environment, and two output streams.

Every process runs with all warnings as errors, so that whatever it leaves open or deprecated is seen in its output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from trioserve.server.signals import TOGETHER

LIFETIME = 30
"""Seconds after which a process that says nothing more has hung. None lives so long unless its test fails."""


class Program:
    """A running `trioserve`, with the lines that it has printed so far."""

    def __init__(self, process: trio.Process, streams: int) -> None:
        self.process = process
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._printed = trio.lowlevel.ParkingLot()
        self._streams = streams

    async def collect(self, stream: trio.abc.ReceiveStream, lines: list[str]) -> None:
        text = ""
        async for data in stream:
            text += data.decode()
            *complete, text = text.split("\n")
            lines += complete
            self._printed.unpark_all()
        assert text == "", "the last line is complete"
        self._streams -= 1
        self._printed.unpark_all()

    async def line(self, start: str) -> str:
        """The first line that begins like this, as soon as it is printed."""
        (line,) = await self.lines(start, 1)
        return line

    async def lines(self, start: str, count: int) -> list[str]:
        """The first `count` lines that begin like this, as soon as they are printed."""
        while True:
            found = [line for line in self.stdout + self.stderr if line.startswith(start)]
            if len(found) >= count:
                return found[:count]
            assert self._streams, f"it has ended without printing {start!r}: {self.stdout} {self.stderr}"
            await self._printed.park()

    async def address(self) -> str:
        """The first address that it serves."""
        return re.search(r" on (https?://[^, ]+)", await self.line("trioserve: serving"))[1]

    async def port(self) -> int:
        return int((await self.address()).rpartition(":")[2])

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", await self.port())

    async def end(self, number: int) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return await self.process.wait()

    async def insist(self, number: int) -> None:
        """Send a signal some time after another, so that it is no echo of that one."""
        await trio.sleep(TOGETHER)
        self.process.send_signal(number)


NO_DELAY = {"TRIOSERVE_DEADLINE_DRAIN_DELAY": "0"}
"""Nobody is to be told that a test's server stops."""


def environment(**variables: str) -> dict[str, str]:
    """Ours, without settings that somebody may have made for a server of their own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TRIOSERVE_")}
    return ours | NO_DELAY | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-m", "trioserve", *arguments]


@asynccontextmanager
async def trioserve(
    *arguments: str,
    cwd: Path,
    through: tuple[str, ...] = (),
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **variables: str,
) -> AsyncIterator[Program]:
    """`trioserve` with these arguments and environment variables; killed at the end if it still runs.

    `through` is a command that becomes `trioserve` with the arguments behind its own. A stream that is given as a
    descriptor is the caller's, and none of its lines are collected.
    """
    with trio.fail_after(LIFETIME):
        process = await trio.lowlevel.open_process(
            [*through, *arguments] if through else command(*arguments),
            cwd=cwd,
            env=environment(**variables),
            stdout=stdout,
            stderr=stderr,
        )
        ours = [(process.stdout, "stdout"), (process.stderr, "stderr")]
        ours = [(stream, name) for stream, name in ours if stream is not None]
        program = Program(process, streams=len(ours))
        async with AsyncExitStack() as stack:
            for stream, _ in ours:
                await stack.enter_async_context(stream)
            try:
                async with trio.open_nursery() as nursery:
                    for stream, name in ours:
                        nursery.start_soon(program.collect, stream, getattr(program, name))
                    try:
                        yield program
                    finally:
                        if process.returncode is None:
                            process.kill()
            finally:
                with trio.CancelScope(shield=True):
                    await process.wait()


def finished(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`trioserve` with these arguments and environment variables, when it has ended."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=LIFETIME,
        check=False,
    )

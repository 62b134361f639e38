"""A server with workers in a process of its own, which is told to restart them while clients ask."""

from __future__ import annotations

import itertools
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.rolling.app import ENDED
from benchmarks.rolling.clients import KINDS, Ledger

ROOT = Path(__file__).parents[2]
"""Where the workers find what they serve."""

WORKERS = 2

BETWEEN = 10
"""Answers that each kind of client gets between two restarts, at least."""


@dataclass(frozen=True, slots=True)
class Rolling:
    """What is done.

    Args:
        clients: of each kind.
        delay: the drain's, in seconds.
        patience: seconds for all of it.
    """

    restarts: int
    clients: int
    delay: float
    patience: float
    seed: int = 1

    async def run(self) -> Ledger:
        """Restart under load, and stop; what the clients have seen.

        Raises:
            RuntimeError: the server did not do as it was told.
            trio.TooSlowError: it took too long.
        """
        with trio.fail_after(self.patience):
            process = await trio.lowlevel.open_process(
                self._command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                said, workers = Said(process.stderr), Said(process.stdout)
                serving = re.search(r" on http://127\.0\.0\.1:(\d+) ", await said.line("trioserve: serving"))
                assert serving is not None, "it says where it serves"
                ledger = Ledger(int(serving[1]))
                await self._restart_under_load(process, said, workers, ledger)
                process.terminate()
                if await process.wait() != 0:
                    raise RuntimeError(f"the server ended with exit code {process.returncode}")
            finally:
                if process.returncode is None:
                    process.kill()
                with trio.CancelScope(shield=True):
                    await process.stdout.aclose()
                    await process.stderr.aclose()
                    await process.wait()
        return ledger

    def _command(self) -> list[str]:
        options = [f"--workers={WORKERS}", "--port=0", "--no-access-log", f"--deadline-drain-delay={self.delay:g}"]
        return [sys.executable, "-m", "trioserve", "run", "benchmarks.rolling.app:app", *options]

    async def _restart_under_load(self, process: trio.Process, said: Said, workers: Said, ledger: Ledger) -> None:
        chance = random.Random(self.seed)
        async with trio.open_nursery() as clients:
            for kind, _ in itertools.product(KINDS, range(self.clients)):
                behave, ask = KINDS[kind]
                clients.start_soon(behave, ledger, kind, ask, random.Random(chance.random()))
            await ledger.more(BETWEEN)
            for number in range(self.restarts):
                process.send_signal(signal.SIGHUP)
                await said.line("trioserve: all workers were restarted")
                await ledger.more(BETWEEN)
                print(
                    f"restart {number + 1}: {ledger.answered.total():,} answered by {len(ledger.workers)} workers, "
                    f"{ledger.lost.total():,} lost",
                    file=sys.stderr,
                    flush=True,
                )
            for _ in range(WORKERS * self.restarts):
                await workers.line(ENDED)  # the end of the delay is when most could be lost
            await ledger.more(BETWEEN)
            ledger.over = True


class Said:
    """What a process prints."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._text = ""

    async def line(self, start: str) -> str:
        """The next line that begins like this. All lines before it are dropped.

        Raises:
            RuntimeError: it says something unexpected, or ends.
        """
        while True:
            while "\n" in self._text:
                line, _, self._text = self._text.partition("\n")
                if line.startswith(start):
                    return line
                if not line.startswith("trioserve: restarting"):
                    raise RuntimeError(f"the server says: {line}")
            data = await self._stream.receive_some()
            if not data:
                raise RuntimeError(f"the server ended before it said {start!r}")
            self._text += data.decode()

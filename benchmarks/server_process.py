"""A server in a process of its own: started, asked for its port, stopped by its process id.

The server says its port as the first line on its stdout (`announce`); what it writes there afterwards is the
measurement's business. Its stderr is ours. It dies with us, also when we are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

START_PATIENCE = 20.0
"""Seconds for a server to say its port: importing everything on a busy machine."""

STOP_PATIENCE = 5.0
"""Seconds for a server to end after SIGTERM, before SIGKILL."""

PIPE_SIZE = 1_048_576
"""Bytes that a server can say before it must wait for us: a crowd of 500 tells some 200 KB at once."""

STATISTICS = "/statistics"
"""Where a server that counts says, as JSON, what it has counted."""

_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Living:
    """What lives in a server while all is quiet. What has served must leave no more of it."""

    tasks: int
    descriptors: int
    threads: int
    objects: int  # of trioserve's classes

    def has_no_more_than(self, other: Living) -> bool:
        """True if there is no more of anything."""
        return (
            self.tasks <= other.tasks
            and self.descriptors <= other.descriptors
            and self.threads <= other.threads
            and self.objects <= other.objects
        )


class ServerProcess:
    """`python -m MODULE ARGUMENTS`, alive between `__enter__` and `__exit__`.

    Args:
        core: the one core on which it may run; None: any.
        python: the interpreter that runs it.
        command: what is run instead, if it is no module of Python.

    Raises:
        RuntimeError: it ended, or said nothing, before it had a port.
    """

    def __init__(
        self,
        module: str = "",
        *arguments: str,
        core: int | None = None,
        python: str = sys.executable,
        command: Sequence[str] = (),
    ) -> None:
        pinned = ["taskset", "-c", str(core)] if core is not None else []
        self._command = [*pinned, *(command or (python, "-m", module, *arguments))]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        fcntl.fcntl(self.output, _F_SETPIPE_SZ, PIPE_SIZE)
        try:
            self.announced: dict[str, Any] = json.loads(self._first_line())
            self.port: int = self.announced["port"]
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @contextlib.contextmanager
    def statistics(self) -> Iterator[Any]:
        """What the server says at STATISTICS, on a connection of its own, which lives as long as the block: so what the
        block counts of the server has that connection in it, always.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", STATISTICS)
            yield json.load(connection.getresponse())
        finally:
            connection.close()

    def _first_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.output], [], [], START_PATIENCE)
            byte = os.read(self.output, 1) if ready else b""
            if not byte:
                raise RuntimeError(f"the server did not start: {' '.join(self._command)}")
            line += byte
        return line

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def announce(port: int, **more: object) -> None:
    """For the server: say the port (and more), and from now on die with the process that started us."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    say({"port": port, **more})


def say(what: dict[str, object]) -> None:
    """For the server: one line of JSON to the process that started us."""
    os.write(sys.stdout.fileno(), json.dumps(what).encode() + b"\n")

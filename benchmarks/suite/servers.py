"""Servers of all kinds in processes of their own: started on a port that was free, and killed by their process ids.

Each is pinned to a core, with all processes that it starts. It writes to a file, of which a line is quoted if it does
not start. It dies with us, whatever kills us; Ctrl-C reaches only us, so that we can end it in order. They are
killed without being asked: nothing is lost, and some would take their time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process_facts import descendants, session_members, tree_cpu_seconds
from benchmarks.suite.peers import HERE, NGINX, Command

PATIENCE = 20.0
"""Seconds for a server to accept a connection."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class StartError(Exception):
    """A server did not start; the message says what it wrote."""


class Server:
    """A process that is to serve. `ready` must be awaited before it is asked, and `stop` called in the end."""

    def __init__(self, command: Sequence[str], port: int, core: int, log: Path) -> None:
        self.port = port
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - we have no threads
            )

    def ready(self) -> None:
        """Wait until it accepts.

        Raises:
            StartError: it ended, or did not accept in time.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StartError(f"it ended with code {self._process.returncode}: {self._last_words()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise StartError(f"it accepted no connection within {PATIENCE:g} s: {self._last_words()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        return tree_cpu_seconds(self._process.pid)

    def stop(self) -> None:
        """Kill it, and all that it has started, and wait for their end; the parent first, for some replace a child."""
        children = {*descendants(self._process.pid), *session_members(self._process.pid)}
        self._process.kill()
        self._process.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                _kill(pid)

    def _last_words(self) -> str:
        """The last line that speaks of an error, if one does; Node.js ends with its version."""
        lines = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return next((line for line in reversed(lines) if "Error" in line), lines[-1])


def _kill(pid: int) -> None:
    """Kill a process that is not our child, and wait for its end."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], PATIENCE)
    finally:
        os.close(handle)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Servers:
    """All servers of a run. One lives until `stop_all_but`; workloads that start it alike share it."""

    def __init__(self, core: int, scratch: Path) -> None:
        self._core = core
        self._scratch = scratch
        self._running: dict[Command, Server] = {}
        self._go: Path | None = None

    def start(self, command: Command) -> bool:
        """Start it if it does not run, without waiting for it; whether it did not run.

        Raises:
            StartError: what it needs could not be made.
        """
        if command in self._running:
            if self._running[command].alive:
                return False
            self.stop(command)
        port = free_port()
        log = self._scratch / f"{port}.log"
        self._running[command] = Server(self._filled_in(command, port), port, self._core, log)
        return True

    def __getitem__(self, command: Command) -> Server:
        return self._running[command]

    def stop(self, command: Command) -> None:
        self._running.pop(command).stop()

    def stop_all_but(self, wanted: set[Command]) -> None:
        for command in [command for command in self._running if command not in wanted]:
            self.stop(command)

    def _filled_in(self, command: Command, port: int) -> list[str]:
        if command[0] == NGINX:
            return self._nginx(*command[1:], port=port)
        if any("{scratch}/certificate.pem" in word for word in command):
            make_certificate(self._scratch)
        words = {"{port}": str(port), "{scratch}": str(self._scratch), "{python}": sys.executable}
        if "{go}" in command:
            words["{go}"] = str(self._built_in_go())
        return [_replaced(word, words) for word in command]

    def _nginx(self, workers: str, listen: str, *, port: int) -> list[str]:
        make_certificate(self._scratch)
        words = {"WORKERS": workers, "SCRATCH": str(self._scratch), "PORT": str(port), "LISTEN": listen}
        path = self._scratch / f"nginx-{port}.conf"
        path.write_text(_replaced((HERE / "nginx.conf").read_text(), words))
        return ["nginx", "-c", str(path), "-p", str(self._scratch), "-e", "stderr"]

    def _built_in_go(self) -> Path:
        if self._go is None:
            program = self._scratch / "peer-in-go"
            said = subprocess.run(
                ["go", "build", "-o", str(program), "."], cwd=HERE / "go", capture_output=True, text=True, check=False
            )
            if said.returncode != 0:
                raise StartError(f"go build failed: {said.stderr.strip()}")
            self._go = program
        return self._go


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


def free_port() -> int:
    """One that nobody has in this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def make_certificate(scratch: Path) -> None:
    """certificate.pem and key.pem, once; for nobody to trust.

    Raises:
        StartError: there is no openssl.
    """
    if (scratch / "key.pem").exists():
        return
    if shutil.which("openssl") is None:
        raise StartError("openssl is not installed, and a certificate is needed; on Debian: apt-get install openssl")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(scratch / "key.pem")]
    certificate = ["-out", str(scratch / "certificate.pem"), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", "-x509", *key, *certificate], check=True, capture_output=True)

"""The servers that are compared, and how each is started."""

from __future__ import annotations

import functools
import http.client
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.options import Options, Progress
from benchmarks.results import Row
from benchmarks.server_process import ServerProcess

SERVERS = "benchmarks.abandonment.servers"


@dataclass(frozen=True, slots=True)
class Peer:
    """One server.

    Args:
        key: as in --peer.
        needs: modules that must be installed.
        is_quick: the quick mode has it, too.
    """

    key: str
    name: str
    module: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    is_quick: bool = False

    @property
    def ours(self) -> bool:
        return self.module == "trioserve_app"

    @property
    def is_another_engine(self) -> bool:
        """True for trioserve with an engine that is not the default."""
        return self.ours and bool(self.arguments)

    def missing(self) -> str | None:
        """What must be installed before it can be started; None: nothing."""
        if self.module == GO:
            return None if shutil.which("go") else "go"
        return next((module for module in self.needs if importlib.util.find_spec(module) is None), None)

    def start(self, core: int | None) -> PeerProcess:
        """Its process, to be entered."""
        if self.module == GO:
            return PeerProcess(command=[built_in_go()], core=core)
        return PeerProcess(f"{SERVERS}.{self.module}", *self.arguments, core=core)


class PeerProcess(ServerProcess):
    """A server that is killed in the end: one that still works for clients who have left would wait for that."""

    def _stop(self) -> None:
        self._process.kill()
        super()._stop()


GO = "go"

PEERS = (
    Peer("trioserve", "trioserve", "trioserve_app", is_quick=True),
    Peer("trioserve-h11r", "trioserve, h11r", "trioserve_app", ("h11r",), needs=("h11r",)),
    Peer(
        "uvicorn-starlette",
        "uvicorn, Starlette",
        "asgi_app",
        ("uvicorn",),
        needs=("uvicorn", "starlette", "httptools", "uvloop"),
        is_quick=True,
    ),
    Peer(
        "granian-starlette",
        "granian (embedded), Starlette",
        "asgi_app",
        ("granian",),
        needs=("granian", "starlette", "uvloop"),
    ),
    Peer(
        "aiohttp",
        "aiohttp, handler_cancellation",
        "aiohttp_app",
        needs=("aiohttp",),
        is_quick=True,
    ),
    Peer("hypercorn-quart", "hypercorn, Quart-Trio", "quart_app", needs=("hypercorn", "quart_trio")),
    Peer("go", "Go net/http", GO),
)


def chosen(options: Options, *, engines: bool) -> list[Peer]:
    """Those to be measured; `engines`: with our other engines, too. The quick mode has few, if none were asked for."""
    return [
        peer
        for peer in PEERS
        if options.wants(peer.key)
        and (peer.is_quick or not options.quick or options.peers is not None)
        and (engines or not peer.is_another_engine)
    ]


def row_of_each(
    peers: Sequence[Peer], measure: Callable[[Peer], Row], progress: Progress, estimated: float
) -> tuple[tuple[Row, ...], str]:
    """A row for each server, and a sentence about those that could not be measured, with the reason."""
    rows, left_out = [], []
    for peer in peers:
        missing = peer.missing()
        try:
            if missing:
                raise LookupError(f"{missing} is not installed")
            rows.append(measure(peer))
        except (OSError, ValueError, LookupError, RuntimeError, http.client.HTTPException) as error:
            if peer.ours and not peer.is_another_engine:
                raise
            left_out.append(f"{peer.name} ({error})")
        progress.step(peer.name, estimated)
    return tuple(rows), f" Left out: {'; '.join(left_out)}." if left_out else ""


@functools.cache
def built_in_go() -> str:
    """The program of `servers/go`, built once for this process."""
    directory = tempfile.TemporaryDirectory(prefix="trioserve-bench-")
    _kept.append(directory)
    program = str(Path(directory.name) / "abandonment")
    source = Path(__file__).parent / "servers" / "go" / "main.go"
    subprocess.run(["go", "build", "-o", program, str(source)], check=True)
    return program


_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when this process ends."""

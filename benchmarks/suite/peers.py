"""Who is asked: the servers, how each is started, and what must be there for it.

A command has {port}, {scratch} and {python} in it, which are filled in when it is started; two workloads with the same
command share one process. Servers are started as their documentation says for production, logs of requests off, one
process that serves unless the workload wants two.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.workloads import Manner, Workload

HERE = Path(__file__).parent.parent / "peers"
APPS = "benchmarks.peers"
DOCUMENT = str(HERE / "document.json")
CERTIFICATE = "{scratch}/certificate.pem"
KEY = "{scratch}/key.pem"

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server.

    Args:
        key: as in --peer.
        command: how it is started for a workload; None: it cannot serve that one.
        modules, programs: what must be installed.
        ours: highlighted.
    """

    key: str
    title: str
    command: Callable[[Workload], Command | None]
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    ours: bool = False

    def missing(self) -> str | None:
        """Why it cannot be started here; None: it can."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; `make bench` installs it into .bench"
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{program} is not installed"
        return None


H11R = "trioserve-h11r"


def python(module: str, *arguments: str) -> Command:
    return ("{python}", "-m", module, *arguments)


def floor(workload: Workload) -> Command | None:
    if workload.floor is None:
        return None
    return python(f"{APPS}.bare_trio", workload.floor.value, "--port", "{port}")


def bare_h11(workload: Workload) -> Command | None:
    if workload.target != "/" or workload.closes or workload.pipelined > 1 or workload.manner is not Manner.PLAIN:
        return None
    return python(f"{APPS}.bare_h11", "--port", "{port}")


def trioserve(*options: str, log: str = "--no-access-log") -> Callable[[Workload], Command | None]:
    def command(workload: Workload) -> Command:
        manner = {
            Manner.PLAIN: (),
            Manner.TLS: ("--tls-certificate", CERTIFICATE, "--tls-key", KEY),
            Manner.TWO_WORKERS: ("--workers", "2"),
        }[workload.manner]
        return python("trioserve", "run", f"{APPS}.trioserve_app:app", "--port", "{port}", log, *options, *manner)

    return command


def uvicorn(app: str, *options: str) -> Callable[[Workload], Command | None]:
    def command(workload: Workload) -> Command:
        manner = {
            Manner.PLAIN: (),
            Manner.TLS: ("--ssl-certfile", CERTIFICATE, "--ssl-keyfile", KEY),
            Manner.TWO_WORKERS: ("--workers", "2"),
        }[workload.manner]
        quiet = ("--no-access-log", "--log-level", "warning")
        return python("uvicorn", f"{APPS}.{app}:app", "--port", "{port}", *quiet, *options, *manner)

    return command


FAST = ("--http", "httptools", "--loop", "uvloop")
SLOW = ("--http", "h11", "--loop", "asyncio")


def on_trio(server: str, app: str) -> Callable[[Workload], Command | None]:
    """hypercorn, and its fork anycorn: their options are the same."""

    def command(workload: Workload) -> Command:
        manner = {
            Manner.PLAIN: ("--workers", "1"),
            Manner.TLS: ("--workers", "1", "--certfile", CERTIFICATE, "--keyfile", KEY),
            Manner.TWO_WORKERS: ("--workers", "2"),
        }[workload.manner]
        bind = ("--worker-class", "trio", "--bind", "127.0.0.1:{port}", "--backlog", "2048")
        return python(server, f"{APPS}.{app}:app", *bind, *manner)

    return command


def granian(app: str) -> Callable[[Workload], Command | None]:
    def command(workload: Workload) -> Command:
        manner = {
            Manner.PLAIN: ("--workers", "1"),
            Manner.TLS: ("--workers", "1", "--ssl-certificate", CERTIFICATE, "--ssl-keyfile", KEY),
            Manner.TWO_WORKERS: ("--workers", "2"),
        }[workload.manner]
        quiet = ("--no-access-log", "--log-level", "warning")
        serving = ("--interface", "asgi", "--loop", "uvloop", "--port", "{port}")
        return python("granian", *serving, *quiet, *manner, f"{APPS}.{app}:app")

    return command


def aiohttp(workload: Workload) -> Command | None:
    match workload.manner:
        case Manner.PLAIN:
            return python(f"{APPS}.aiohttp_app", "--port", "{port}")
        case Manner.TLS:
            return python(f"{APPS}.aiohttp_app", "--port", "{port}", "--tls", CERTIFICATE, KEY)
        case Manner.TWO_WORKERS:
            return None  # it leaves that to gunicorn


def go(workload: Workload) -> Command | None:
    tls = ("-certificate", CERTIFICATE, "-key", KEY) if workload.manner is Manner.TLS else ()
    if workload.manner is Manner.TWO_WORKERS:
        return None  # it has threads instead
    return ("{go}", "-port", "{port}", "-document", DOCUMENT, *tls)


def node(workload: Workload) -> Command | None:
    manner = {
        Manner.PLAIN: (),
        Manner.TLS: ("--certificate", CERTIFICATE, "--key", KEY),
        Manner.TWO_WORKERS: ("--workers", "2"),
    }[workload.manner]
    return ("node", str(HERE / "node_app.mjs"), "--port", "{port}", "--document", DOCUMENT, *manner)


def nginx(workload: Workload) -> Command | None:
    """It has one fixed answer, and does not read a body."""
    if workload.target != "/":
        return None
    workers = "2" if workload.manner is Manner.TWO_WORKERS else "1"
    listen = "ssl" if workload.manner is Manner.TLS else ""
    return (NGINX, workers, listen)


NGINX = "{nginx}"
"""A command that begins so needs a configuration file first."""

PEERS = (
    Peer("floor", "bare trio, no HTTP: the floor", floor),
    Peer("bare-h11", "bare trio + h11, no framework", bare_h11),
    Peer("trioserve", "trioserve", trioserve(), ours=True),
    Peer(H11R, "trioserve, engine h11r", trioserve("--engine", "h11r"), ("h11r",), ours=True),
    Peer("trioserve-unwatched", "trioserve, no news of hangups", trioserve("--hangup-news", "none"), ours=True),
    Peer("trioserve-read-ahead", "trioserve, portable read-ahead", trioserve("--hangup-news", "read-ahead"), ours=True),
    Peer("trioserve-logged", "trioserve, with access log", trioserve(log="--access-log"), ours=True),
    Peer(
        "uvicorn",
        "uvicorn (httptools, uvloop), no framework",
        uvicorn("asgi_app", *FAST),
        ("uvicorn", "httptools", "uvloop"),
    ),
    Peer(
        "uvicorn-starlette",
        "uvicorn (httptools, uvloop), Starlette",
        uvicorn("starlette_app", *FAST),
        ("uvicorn", "httptools", "uvloop", "starlette"),
    ),
    Peer(
        "uvicorn-fastapi",
        "uvicorn (httptools, uvloop), FastAPI",
        uvicorn("fastapi_app", *FAST),
        ("uvicorn", "httptools", "uvloop", "fastapi"),
    ),
    Peer("uvicorn-h11", "uvicorn (h11, asyncio), no framework", uvicorn("asgi_app", *SLOW), ("uvicorn",)),
    Peer("granian", "granian (uvloop), no framework", granian("asgi_app"), ("granian", "uvloop")),
    Peer(
        "granian-starlette", "granian (uvloop), Starlette", granian("starlette_app"), ("granian", "uvloop", "starlette")
    ),
    Peer("aiohttp", "aiohttp (uvloop, handler_cancellation)", aiohttp, ("aiohttp", "uvloop")),
    Peer("hypercorn", "hypercorn on trio, no framework", on_trio("hypercorn", "asgi_app"), ("hypercorn",)),
    Peer(
        "hypercorn-quart",
        "hypercorn on trio, Quart-Trio",
        on_trio("hypercorn", "quart_app"),
        ("hypercorn", "quart_trio"),
    ),
    Peer("anycorn", "anycorn on trio, no framework", on_trio("anycorn", "asgi_app"), ("anycorn",)),
    Peer("go", "Go, net/http", go, programs=("go",)),
    Peer("node", "Node.js, http", node, programs=("node",)),
    Peer("nginx", "nginx, a fixed answer", nginx, programs=("nginx",)),
)
"""In the order of the tables."""

BY_KEY = {peer.key: peer for peer in PEERS}


def title_of(key: str) -> str:
    """For a table; the name itself if it is no server of the suite."""
    return BY_KEY[key].title if key in BY_KEY else key


def servers_of(workload: Workload, wanted: tuple[str, ...] | None) -> tuple[Peer, ...]:
    """Those that are measured: the ones that are wanted and can serve it, or else those that it names itself."""
    chosen = workload.peers if wanted is None else wanted
    return tuple(peer for peer in PEERS if peer.key in chosen and peer.command(workload) is not None)

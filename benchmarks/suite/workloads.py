"""What is asked: requests, by how many connections, and what a right answer is.

Every workload names the servers that are measured with it when none are asked for: all of them for plaintext, and for
the others those that tell something, so that a run has an end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from benchmarks.peers.content import DOCUMENT, ECHO, HELLO, LARGE, UPLOAD


class Manner(Enum):
    """How a server is started."""

    PLAIN = "plain"
    TLS = "TLS"
    TWO_WORKERS = "two workers"


class Floor(Enum):
    """What the floor does for a workload: an argument of `benchmarks.peers.bare_trio`."""

    PLAIN = "plain"
    JSON = "json"
    PARAMETERS = "parameters"
    ECHO = "echo"
    CLOSE = "close"
    LARGE = "large"
    PIPELINED = "pipelined"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request, and the load that asks it.

    Args:
        right: whether the content of an answer is the right one.
        pipelined: so many requests are sent at once on a connection.
        weight: 2 where promises are so tight that it is measured for twice as long as the others.
        turns: so many rounds, each of a second, in place of one: for servers that differ by next to nothing.
        settle: seconds of load that are taken off, because in them connections are made and not only used.
        floor: what the floor does for it; None: there is none worth the name.
        rivals: keys of the servers beside the regulars.
        regulars: keys of those that nearly every workload has: the floor, and our own two.
    """

    name: str
    title: str
    text: str
    right: Callable[[bytes], bool]
    rivals: tuple[str, ...]
    method: str = "GET"
    target: str = "/"
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    connections: int = 32
    pipelined: int = 1
    manner: Manner = Manner.PLAIN
    weight: int = 1
    turns: int = 1
    settle: int = 0
    floor: Floor | None = None
    regulars: tuple[str, ...] = ("floor", "trioserve", "trioserve-h11r")

    @property
    def closes(self) -> bool:
        """Whether a connection is used for one request only."""
        return ("Connection", "close") in self.fields

    @property
    def peers(self) -> tuple[str, ...]:
        return (*self.regulars, *self.rivals)


def says(text: str) -> Callable[[bytes], bool]:
    return lambda content: content == text.encode()


def is_document(content: bytes) -> bool:
    try:
        return bool(json.loads(content) == DOCUMENT)
    except ValueError:
        return False


BROWSER = (
    ("Connection", "keep-alive"),
    ("sec-ch-ua", '"Chromium";v="130", "Not?A_Brand";v="99"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    ),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Referer", "http://shop.example/list?color=green&page=2"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Cookie", "session=Zm9yIGEgYnJvd3NlciBvZiBhIHVzdWFsIHNpemU; theme=dark; seen=1,2,3,5,8,13; consent=necessary"),
)
"""What a browser sends with a click on a link: 740 bytes with the request line and Host."""

EVERYBODY = (
    "bare-h11",
    "trioserve-unwatched",
    "trioserve-read-ahead",
    "trioserve-logged",
    "uvicorn",
    "uvicorn-starlette",
    "uvicorn-fastapi",
    "uvicorn-h11",
    "granian",
    "granian-starlette",
    "aiohttp",
    "hypercorn",
    "hypercorn-quart",
    "anycorn",
    "go",
    "node",
    "nginx",
)

WORKLOADS = (
    Workload(
        "plaintext",
        "Plaintext",
        "`Hello, world!` for a small request, on 32 connections that are kept.",
        says(HELLO),
        EVERYBODY,
        weight=2,
        floor=Floor.PLAIN,
    ),
    Workload(
        "watch",
        "With and without the hangup watch",
        "Plaintext again, by these two in turn and in many short rounds, since what they differ by is small.",
        says(HELLO),
        ("trioserve", "trioserve-unwatched"),
        turns=4,
        regulars=(),
    ),
    Workload(
        "json",
        "JSON, 1 KB",
        "A document, encoded anew for each request.",
        is_document,
        ("uvicorn", "granian-starlette", "aiohttp", "go"),
        target="/json",
        floor=Floor.JSON,
    ),
    Workload(
        "parameters",
        "Path parameter and query",
        "`/items/4711?color=green&page=3`: the number is taken out of the path, and both out of the query.",
        says("4711 green 3"),
        ("uvicorn-starlette", "aiohttp"),
        target="/items/4711?color=green&page=3",
        floor=Floor.PARAMETERS,
    ),
    Workload(
        "browser",
        "A browser's head",
        "Plaintext again, but the request has the fields that a browser sends, 740 bytes with the request line.",
        says(HELLO),
        ("uvicorn-h11", "uvicorn", "aiohttp"),
        fields=BROWSER,
        floor=Floor.PLAIN,
    ),
    Workload(
        "echo",
        "Echo, 10 KB",
        "10 KB are sent and come back.",
        lambda content: content == ECHO,
        ("uvicorn-h11", "uvicorn", "aiohttp"),
        method="POST",
        target="/echo",
        body=ECHO,
        floor=Floor.ECHO,
    ),
    Workload(
        "large",
        "1 MB in one piece",
        "A response of 1 MB that the handler has as a whole.",
        lambda content: content == LARGE,
        ("uvicorn", "granian", "aiohttp", "go"),
        target="/large",
        floor=Floor.LARGE,
    ),
    Workload(
        "stream",
        "1 MB in sixteen pieces",
        "The same, streamed: the handler hands over 64 KB at a time, without a length.",
        lambda content: content == LARGE,
        ("uvicorn", "aiohttp", "go"),
        target="/stream",
        floor=Floor.LARGE,
    ),
    Workload(
        "upload",
        "10 MiB up",
        "The handler takes a body of 10 MiB in parts, and counts its bytes.",
        says(str(len(UPLOAD))),
        ("uvicorn", "aiohttp", "go"),
        method="POST",
        target="/upload",
        body=UPLOAD,
        floor=Floor.UPLOAD,
    ),
    Workload(
        "pipelined",
        "Pipelined",
        "Plaintext, but each client sends sixteen requests at once.",
        says(HELLO),
        ("uvicorn-h11", "uvicorn", "aiohttp"),
        pipelined=16,
        floor=Floor.PIPELINED,
    ),
    Workload(
        "close",
        "A connection for each request",
        "Plaintext, but the client asks for the connection to be closed, and makes another one.",
        says(HELLO),
        ("uvicorn-h11", "uvicorn", "aiohttp", "go", "nginx"),
        fields=(("Connection", "close"),),
        floor=Floor.CLOSE,
    ),
    Workload(
        "256",
        "256 connections",
        "Plaintext on 256 connections that are kept.",
        says(HELLO),
        ("uvicorn", "aiohttp"),
        connections=256,
        floor=Floor.PLAIN,
    ),
    Workload(
        "2000",
        "2,000 connections",
        "Plaintext on 2,000 connections that are kept. What it costs to make them is taken off.",
        says(HELLO),
        ("uvicorn", "aiohttp"),
        connections=2000,
        settle=1,
        floor=Floor.PLAIN,
    ),
    Workload(
        "tls",
        "TLS",
        "Plaintext over TLS, on 32 connections that are kept.",
        says(HELLO),
        ("uvicorn", "aiohttp", "go"),
        manner=Manner.TLS,
    ),
    Workload(
        "workers",
        "Two workers",
        "Plaintext from two processes that share a port, pinned like one: what counts is what they cost together.",
        says(HELLO),
        ("uvicorn", "granian", "nginx"),
        manner=Manner.TWO_WORKERS,
    ),
)

QUICK_WORKLOADS = ("plaintext", "json", "close")
QUICK_PEERS = ("floor", "bare-h11", "trioserve", "trioserve-h11r", "uvicorn", "uvicorn-starlette", "aiohttp")
"""What `--quick` measures, if nothing else is asked for."""


def workload_named(name: str) -> Workload | None:
    return next((workload for workload in WORKLOADS if workload.name == name), None)

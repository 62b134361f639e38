"""Hold many connections that do nothing, and look at the server's memory."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, field

from benchmarks import process_facts
from benchmarks.answers import hello
from benchmarks.server_process import ServerProcess

WARM_UP = 500
"""Connections opened, asked and closed before the first look: what is imported and cached late is there then."""

SETTLE = 1.0
"""Seconds between the last request and a look at the memory, and the time for closed connections to be gone."""

PATIENCE = 10.0
"""Seconds for any answer, and for all descriptors to be closed."""


@dataclass(slots=True)
class Contender:
    """One server, and what was seen of it. Memory is in kilobytes, times are in seconds."""

    name: str
    module: str = ""
    argument: str = ""
    kilobytes_allowed: float | None = None  # for each connection; None: another's server, of which nothing is promised
    held: int = 0
    before: int = 0
    with_all: int = 0
    after: int = 0
    second_time: int = 0  # with all, when they have come again
    descriptors_left: int = 0
    delays: list[float] = field(default_factory=list)
    trouble: str = ""

    @property
    def ours(self) -> bool:
        return self.kilobytes_allowed is not None

    @property
    def kilobytes_each(self) -> float:
        return (self.with_all - self.before) / self.held if self.held else float("nan")


def measure(contender: Contender, server: ServerProcess, connections: int) -> None:
    warm_up(server)
    time.sleep(SETTLE)
    contender.before = process_facts.resident_kilobytes(server.pid)
    descriptors = process_facts.file_descriptors(server.pid)
    try:
        contender.with_all = hold(contender, server, connections)
        wait_until_closed(server, descriptors)
        contender.after = process_facts.resident_kilobytes(server.pid)
        if contender.ours:
            contender.second_time = hold(contender, server, connections)
    except (OSError, ValueError) as error:
        contender.trouble = f"{type(error).__name__}: {error}"
    wait_until_closed(server, descriptors)
    contender.descriptors_left = process_facts.file_descriptors(server.pid) - descriptors


def warm_up(server: ServerProcess) -> None:
    for _ in range(WARM_UP):
        with connection(server.port) as sock:
            hello(sock)


def hold(contender: Contender, server: ServerProcess, connections: int, settle: float = SETTLE) -> int:
    """Open so many connections, ask on each of them twice, and close them; returns the memory with all of them."""
    with contextlib.ExitStack() as stack:
        held: list[socket.socket] = []
        for _ in range(connections):
            sock = stack.enter_context(connection(server.port))
            hello(sock)
            held.append(sock)
            contender.held = max(contender.held, len(held))
        delays = []
        for sock in held:
            begun = time.monotonic()
            hello(sock)
            delays.append(time.monotonic() - begun)
        contender.delays = contender.delays or delays
        time.sleep(settle)
        return process_facts.resident_kilobytes(server.pid)


def connection(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def wait_until_closed(server: ServerProcess, descriptors: int) -> None:
    until = time.monotonic() + PATIENCE
    while process_facts.file_descriptors(server.pid) > descriptors and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(SETTLE)

"""Asks the servers, on blocking sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.answers import request

HOST = "127.0.0.1"
PATIENCE = 10.0
"""Seconds for anything that must come."""

LOOKS_EVERY = 0.05
"""Seconds between two looks at a server's notes: seldom, for each of them is work for it."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What became of the requests, by their names (see `servers.backend`). Times are time.monotonic()."""

    started: int
    cancelled: dict[int, float]
    recorded: dict[int, float]
    slices: dict[int, list[float]]


def notes_of(port: int) -> Notes:
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/notes")
        told: dict[str, Any] = json.load(connection.getresponse())
    finally:
        connection.close()
    by_name = {key: {int(name): value for name, value in told[key].items()} for key in told if key != "started"}
    return Notes(told["started"], **by_name)


def notes_once(port: int, enough: Callable[[Notes], bool], patience: float) -> Notes:
    """The notes, as soon as they are enough, or when patience is at its end."""
    until = time.monotonic() + patience
    while True:
        time.sleep(LOOKS_EVERY)
        notes = notes_of(port)
        if enough(notes) or time.monotonic() > until:
            return notes


def begin(port: int, path: str) -> socket.socket:
    """A connection on which that was just asked for."""
    sock = socket.create_connection((HOST, port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request(path=path))
    return sock

"""One client on a blocking socket, and what the server tells of its clients."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from benchmarks.leaving import Leaving, leave

HOST = "127.0.0.1"
CHUNK = 65_536
SOCKET_PATIENCE = 5.0
"""Seconds for the server to answer what it must answer at once."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the server told: see `server`. `at` is time.monotonic()."""

    what: str
    at: float
    facts: dict[str, Any]


class Events:
    """All that a server has told, by the client's port."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._unparsed = b""
        self._heard: defaultdict[int, list[Event]] = defaultdict(list)

    def of(self, port: int) -> list[Event]:
        return self._heard[port]

    def find(self, port: int, what: str) -> Event | None:
        return next((event for event in self._heard[port] if event.what == what), None)

    def forget(self, port: int) -> None:
        """A new client has this port."""
        self._heard.pop(port, None)

    def wait_for(self, port: int, what: str, until: float) -> Event | None:
        """The first such event, or None if there is none by `until` (time.monotonic())."""
        while (event := self.find(port, what)) is None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.hear(left)
        return event

    def hear(self, patience: float = 0) -> None:
        """Take in what the server has told; wait for it up to `patience` seconds."""
        if not select.select([self._pipe], [], [], patience)[0]:
            return
        data = os.read(self._pipe, 1_048_576)
        if not data:
            raise RuntimeError("the server has ended")
        *lines, self._unparsed = (self._unparsed + data).split(b"\n")
        for line in lines:
            facts = json.loads(line)
            event = Event(facts.pop("what"), facts.pop("at"), facts)
            self._heard[facts.pop("port")].append(event)


class Client:
    """One client. `port` is its own."""

    def __init__(self, server_port: int, events: Events) -> None:
        self.sock = socket.create_connection((HOST, server_port), timeout=SOCKET_PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self.sock.getsockname()[1]
        self._events = events
        events.forget(self.port)
        # When it left (time.monotonic()); taken before the system is asked, so that no delay is hidden.
        self.left_at = 0.0
        self._load = b""  # what it keeps sending, again and again ...
        self._load_left = 0  # ... until so many bytes are sent ...
        self._rate = float("inf")  # ... at so many bytes a second
        self._loaded_at = 0.0
        self.pushed = 0

    def get(self, path: str) -> None:
        self.send(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())

    def post(self, path: str, framing: str, body: bytes = b"") -> None:
        self.send(b"POST %s HTTP/1.1\r\nhost: x\r\n%s\r\n\r\n" % (path.encode(), framing.encode()) + body)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive_until(self, marker: bytes) -> bytes:
        """Read up to `marker`.

        Raises:
            EOFError, TimeoutError: it does not come.
        """
        received = b""
        while marker not in received:
            data = self.sock.recv(CHUNK)
            if not data:
                raise EOFError(f"the server closed; it had sent {received!r}")
            received += data
        return received

    def drain(self) -> None:
        """Read what has arrived; from now on the socket does not wait."""
        self.sock.settimeout(0)
        try:
            while self.sock.recv(CHUNK):
                pass
        except BlockingIOError:
            pass

    def keep_sending(self, data: bytes, size: int, rate: float = float("inf")) -> None:
        """From now on push `size` bytes, made of `data` repeated, as fast as the server takes them but for `rate`.

        From now on the socket does not wait.
        """
        self.sock.settimeout(0)
        self._load, self._load_left, self._rate = data, size, rate
        self._loaded_at, self.pushed = time.monotonic(), 0

    def push(self) -> bool:
        """Send what there is room for; says whether there was anything to do."""
        allowed = (time.monotonic() - self._loaded_at) * self._rate
        some = min(self._load_left, len(self._load) - self.pushed % max(1, len(self._load)))
        if some <= 0 or self.pushed > allowed:
            return False
        start = self.pushed % len(self._load)
        try:
            sent = self.sock.send(memoryview(self._load)[start : start + some])
        except BlockingIOError:
            return False
        self.pushed += sent
        self._load_left -= sent
        return True

    def handler_has_started(self) -> None:
        """Wait until the server has said so, pushing meanwhile.

        Raises:
            TimeoutError: it does not start.
        """
        until = time.monotonic() + SOCKET_PATIENCE
        while self._events.find(self.port, "started") is None:
            if time.monotonic() > until:
                raise TimeoutError("the handler did not start")
            self._events.hear(0 if self.push() else 0.001)

    def leave(self, how: Leaving) -> None:
        self.left_at = time.monotonic()
        leave(self.sock, how)

    def away(self) -> None:
        """Be gone in any case, with nothing left behind in the kernel."""
        if self.sock.fileno() != -1:
            leave(self.sock, Leaving.RESET)

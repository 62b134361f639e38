"""Output: a stream that takes lines from whoever must not wait for it.

A pipe that nobody reads, a terminal that is held (Ctrl-S), a disk that hangs: a write to it may take for ever, and in
the event loop that would be the end of all requests, and of hearing signals. So a thread of its own writes, in the
order in which the lines came, and whoever has a line leaves it in a queue. The queue is bounded; lines beyond it, and
those that the stream refuses, are left out, counted, and told of: once when it begins, and with their number when it
is over. The end waits a bounded time for the rest.

The thread writes to the descriptor and never to Python's stream object: at the end the interpreter takes that one's
lock, which a thread that hangs in a write would hold.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

BACKLOG = 1 << 20
"""Characters that wait to be written. Some ten thousand lines: a second of full load, for which a disk or a reader may
well pause; and little beside what a process takes anyhow."""

PATIENCE = 1.0
"""Seconds that the end waits for the lines which still wait. A reader that lives takes them all in far less."""


class Output:
    """A stream, and the thread that writes to it.

    Args:
        name: what is written, for people.
        descriptor: where.
        tell: told, from whatever thread, that lines are left out, and how many they were.
    """

    def __init__(self, name: str, descriptor: int, tell: Callable[[str], None]) -> None:
        self._name = name
        self._descriptor = descriptor
        self._tell = tell
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        # For the counts: lines and their characters that wait, the one being written included; lines left out.
        self._lock = threading.Lock()
        self._lines = self._characters = self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name=f"trioserve {name}", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Have a line written, with its line feed at the end. Never waits."""
        with self._lock:
            room = self._characters + len(line) <= BACKLOG
            if room:
                self._lines += 1
                self._characters += len(line)
                self._queue.put(line)
        if not room:
            self._lose(f"nobody reads {self._name}; lines are left out")

    def close(self, patience: float = PATIENCE) -> None:
        """Wait for what is still to be written, but not longer than `patience` seconds; tell what was not."""
        self._queue.put(None)
        self._thread.join(patience)
        if lost := self._lost + self._lines:
            self._tell_loss(lost)

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                write_whole(self._descriptor, line.encode(errors="backslashreplace"))
            except OSError as error:
                self._lose(f"{self._name} cannot be written: {error.strerror}; lines are left out")
                self._done(line)
            else:
                self._done(line)
                self._tell_loss(self._loss_that_is_over())

    def _done(self, line: str) -> None:
        with self._lock:
            self._lines -= 1
            self._characters -= len(line)

    def _loss_that_is_over(self) -> int:
        """How many lines were left out, once all has been written that waited. Not before: a slow reader would make
        for a line of complaint for each line of the log.
        """
        with self._lock:
            if self._lines:
                return 0
            lost, self._lost = self._lost, 0
            return lost

    def _lose(self, why: str) -> None:
        with self._lock:
            self._lost += 1
            first = self._lost == 1
        if first:
            self._tell(why)

    def _tell_loss(self, lost: int) -> None:
        if lost:
            what = "1 line" if lost == 1 else f"{lost} lines"
            self._tell(f"{what} of {self._name} could not be written")


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all of it, however often it takes.

    Raises:
        OSError: it cannot be written.
    """
    while data:
        data = data[os.write(descriptor, data) :]

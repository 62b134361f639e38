"""Output: a stream that takes lines from whoever must not wait for it.

A pipe that nobody reads, a terminal that is held (Ctrl-S), a disk that hangs: a write to it may take for ever, and in
the event loop that would be the end of all requests, and of hearing signals. So a thread of its own writes, in the
order in which the lines came, and whoever has a line leaves it in a queue. The queue is bounded; lines beyond it, and
those that the stream refuses, are left out, counted, and told of: once when it begins, and with their number when it
is over. The end waits a bounded time for the rest.

To wake a thread costs more than a line does, and each time the two contend for the interpreter. So a busy output has a
pause: its first line waits that long for others, and they are written together. But never more in one write than a pipe
takes at once: so lines of several workers that share one do not mix, and what was written is known to the line.

The thread writes to the descriptor and never to Python's stream object: at the end the interpreter takes that one's
lock, which a thread that hangs in a write would hold.
"""

from __future__ import annotations

import os
import select
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from itertools import accumulate

BACKLOG = 1 << 20
"""Bytes that wait to be written. Some ten thousand lines: a second of full load, for which a disk or a reader may
well pause; and little beside what a process takes anyhow."""

PATIENCE = 1.0
"""Seconds that the end waits for the lines which still wait. A reader that lives takes them all in far less."""

AT_ONCE = select.PIPE_BUF
"""Bytes of one write, if it is of several lines: of so many a pipe takes all or nothing."""


class Output:
    """A stream, and the thread that writes to it.

    Args:
        name: what is written, for people.
        descriptor: where.
        tell: told, from whatever thread, that lines are left out, and how many they were.
        pause: seconds that a line may wait for others.
    """

    def __init__(self, name: str, descriptor: int, tell: Callable[[str], None], pause: float = 0) -> None:
        self._name = name
        self._descriptor = descriptor
        self._tell = tell
        self._pause = pause
        # What waits to be written, but for what is being written.
        self._queue: deque[bytes] = deque()
        # Guards the counts: lines and their bytes that wait, those being written included; lines left out.
        self._lock = threading.Lock()
        self._lines = self._bytes = self._lost = 0
        # Lines wait, or the end has come; and: they are to wait no longer.
        self._something = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name=f"trioserve {name}", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Have a line written, with its line feed at the end. Never waits."""
        data = line.encode(errors="backslashreplace")
        with self._lock:
            room = self._bytes + len(data) <= BACKLOG
            if room:
                self._queue.append(data)
                self._bytes += len(data)
                self._lines += 1
            first = self._lines == 1
        if not room:
            self._lose(f"nobody reads {self._name}; lines are left out")
        elif first:  # the others come while it waits or is written, and the thread looks for them itself
            self._something.set()

    def hasten(self) -> None:
        """Have what waits for others written now: something comes elsewhere that belongs behind it."""
        if self._lines:
            self._hurry.set()

    def close(self, patience: float = PATIENCE) -> None:
        """Wait for what is still to be written, but not longer than `patience` seconds; tell what was not."""
        self._closed = True
        self._hurry.set()
        self._something.set()
        self._thread.join(patience)
        if lost := self._lost + self._lines:
            self._tell_loss(lost)

    def _write_all(self) -> None:
        while not (self._closed and not self._queue):
            self._something.wait()
            self._something.clear()
            if self._pause and not self._closed:
                self._hurry.wait(self._pause)
                self._hurry.clear()
            due = len(self._queue)  # no more: those that come meanwhile wait for others in their turn
            while due > 0:
                lines = self._next_lines()
                due -= len(lines)
                self._write_some(lines)
            with self._lock:
                if self._lines or self._closed:
                    self._something.set()

    def _next_lines(self) -> list[bytes]:
        """As many lines as go into one write, at least one."""
        lines = [self._queue.popleft()]
        size = len(lines[0])
        while self._queue and (size := size + len(self._queue[0])) <= AT_ONCE:
            lines.append(self._queue.popleft())
        return lines

    def _write_some(self, lines: list[bytes]) -> None:
        data, sent = b"".join(lines), 0
        try:
            while sent < len(data):
                sent += os.write(self._descriptor, data[sent:])
        except OSError as error:
            out = bisect_right(list(accumulate(map(len, lines))), sent)
            self._lose(f"{self._name} cannot be written: {error.strerror}; lines are left out", len(lines) - out)
            self._done(lines)
        else:
            self._done(lines)
            self._tell_loss(self._loss_that_is_over())

    def _done(self, lines: list[bytes]) -> None:
        with self._lock:
            self._lines -= len(lines)
            self._bytes -= sum(map(len, lines))

    def _loss_that_is_over(self) -> int:
        """How many lines were left out, once all has been written that waited. Not before: a slow reader would make
        for a line of complaint for each line of the log.
        """
        with self._lock:
            if self._lines:
                return 0
            lost, self._lost = self._lost, 0
            return lost

    def _lose(self, why: str, lines: int = 1) -> None:
        with self._lock:
            first = self._lost == 0
            self._lost += lines
        if first:
            self._tell(why)

    def _tell_loss(self, lost: int) -> None:
        if lost:
            what = "1 line" if lost == 1 else f"{lost} lines"
            self._tell(f"{what} of {self._name} could not be written")

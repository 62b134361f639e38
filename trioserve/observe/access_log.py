"""The access log: one line an exchange, abandoned ones included, through stdlib logging.

Logger "trioserve.access", level INFO, the record itself as the log record's attribute `exchange` for structured
handlers. The lines:

    127.0.0.1:53124 "GET /reports/2025 HTTP/1.1" 200 14B 0.4ms
    127.0.0.1:53126 "GET /reports/2026 HTTP/1.1" 499 0B 300.2ms abandoned HANDLER FIN cancelled unwind=0.1ms
    127.0.0.1:53128 "GET /export HTTP/1.1" 200 65536B 911.0ms abandoned RESPONSE_BODY RESET cancelled unwind=0.1ms

that is: client (whom a trusted proxy names, if there is one, and then mostly without a port), request line (also of a
head that was refused or never all there, if the line itself was good; else "-"), status code (what was sent if anything
was, else what never arrived), content bytes sent, duration; then, for an abandoned exchange, phase, cause, what became
of the handler, and how long it unwound.

A line is logged in the event loop, so a handler of yours that waits, for a pipe that nobody reads say, holds up all
requests. `trioserve run` has a thread that waits instead; with `serve`, logging is yours, and where its stream may be
held, `logging.handlers.QueueHandler` and `QueueListener` do the same.

A log record costs several times what the line in it costs. So the handler of `trioserve run`, a `LineHandler`, is given
the line itself, as long as it alone hears the logger and nobody has changed it, so nobody can tell the difference.
Whatever else is set up, at whatever time, gets its log records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from trioserve.core.records import Abandoned, Completed, Record, written

ACCESS_LOGGER = "trioserve.access"


class AccessLog:
    """An observer that writes a line for each record."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS_LOGGER)

    @property
    def is_heard(self) -> bool:
        """False if the logger's level leaves the access log out."""
        return self._logger.isEnabledFor(logging.INFO)

    def completed(self, record: Completed) -> None:
        if self.is_heard:
            self._write(record, line_of(record, record.status))

    def abandoned(self, record: Abandoned) -> None:
        if self.is_heard:
            how = (
                f" abandoned {record.phase} {record.cause} {record.outcome} unwind={_milliseconds(record.unwind_time)}"
            )
            self._write(record, line_of(record, record.logged_status) + how)

    def _write(self, record: Record, line: str) -> None:
        logger = self._logger
        handler = logger.handlers[0] if logger.handlers else None
        if isinstance(handler, LineHandler) and handler.takes_all_of(logger):
            handler.write(line)
            return
        # As `logger.info` does, but for its search for the caller, who is always this.
        logger.handle(
            logger.makeRecord(
                logger.name, logging.INFO, __file__, 0, "%s", (line,), None, "_write", {"exchange": record}
            )
        )


class WritingHandler(logging.Handler):
    """Hands each log record on as text, with a line feed behind it.

    Args:
        write: is given each; it must not wait.
    """

    def __init__(self, write: Callable[[str], None], form: str) -> None:
        super().__init__()
        self._write = write
        self.formatter = logging.Formatter(form)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            self._write(f"{text}\n")


class LineHandler(WritingHandler):
    """Hands each line on, with the time before it and a line feed behind it: "2025-03-09 12:00:00,123 line".

    Args:
        write: is given each; it must not wait.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(write, "%(asctime)s %(message)s")
        self._own = self.formatter
        # The last second, and how it is written.
        self._second = (0, _second(0))

    def takes_all_of(self, logger: logging.Logger) -> bool:
        """True if nobody else hears what is logged there, and nobody has changed this handler."""
        return (
            len(logger.handlers) == 1
            and not logger.propagate
            and self.formatter is self._own
            and self.level <= logging.INFO
            and not (logger.filters or self.filters)
        )

    def write(self, line: str) -> None:
        """Hand on a line that was logged now."""
        self._write(f"{self.stamp(time.time())} {line}\n")

    def stamp(self, now: float) -> str:
        """A time as `logging.Formatter` writes it."""
        seconds = int(now)
        known, text = self._second
        if seconds != known:
            text = _second(seconds)
            self._second = (seconds, text)
        return f"{text},{int((now - seconds) * 1000):03d}"


def _second(seconds: int) -> str:
    return time.strftime(logging.Formatter.default_time_format, time.localtime(seconds))


def line_of(record: Record, status: int) -> str:
    """What both kinds of record have in common."""
    request = "-"
    if record.method is not None:
        # A request line has no control character, also where the rest of its head is refused; but a quote would end it
        # early for whoever parses this.
        target = (record.target or "").replace('"', "%22")
        request = f"{record.method} {target} HTTP/{record.http_version}"
    size = record.response_body_bytes
    return f'{written(record.client)} "{request}" {status} {size}B {_milliseconds(record.duration)}'


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}ms"

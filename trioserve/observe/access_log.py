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
"""

from __future__ import annotations

import logging

from trioserve.core.records import Abandoned, Completed, Record, written

ACCESS_LOGGER = "trioserve.access"


class AccessLog:
    """An observer that writes a line for each record."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS_LOGGER)

    def completed(self, record: Completed) -> None:
        self._write(record, line_of(record, record.status))

    def abandoned(self, record: Abandoned) -> None:
        how = f" abandoned {record.phase} {record.cause} {record.outcome} unwind={_milliseconds(record.unwind_time)}"
        self._write(record, line_of(record, record.logged_status) + how)

    def _write(self, record: Record, line: str) -> None:
        self._logger.info("%s", line, extra={"exchange": record})


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

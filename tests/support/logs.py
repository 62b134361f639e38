"""What a server has logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that were worse than information."""
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    """The exceptions that were logged with a traceback."""
    return [record.exc_info[1] for record in caplog.records if record.exc_info]


@contextmanager
def logged(logger: str) -> Iterator[trio.Event]:
    """An event that is set when this logger logs something worse than information."""
    event = trio.Event()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda _record: event.set()  # type: ignore[method-assign]
    logging.getLogger(logger).addHandler(handler)
    try:
        yield event
    finally:
        logging.getLogger(logger).removeHandler(handler)

"""What a server has logged."""

from __future__ import annotations

import logging

import pytest


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that were worse than information."""
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    """The exceptions that were logged with a traceback."""
    return [record.exc_info[1] for record in caplog.records if record.exc_info]

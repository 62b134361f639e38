"""What is said to whoever has started us, and where the logs go."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import sys
from typing import Any

import click

from trioserve.core.errors import ERROR_LOGGER
from trioserve.observe.access_log import ACCESS_LOGGER

DRAINING = "draining; signal again to stop at once"
STOPPING = "stopping"
WAITING = "stopping; waiting for handlers that clean up"
NO_WORKERS = "SIGHUP replaces workers, and there are none; start with --workers for that"


def say(text: str) -> None:
    """One line for whoever has started us, if they are still there."""
    with contextlib.suppress(OSError, ValueError):  # a hung up terminal, a full disk, a closed stream end no server
        click.echo(f"trioserve: {text}", err=True)


def terminal_has_hung_up() -> bool:
    """True if we were started from a terminal, and that is gone."""
    poll = select.poll()
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):  # it may be closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                poll.register(descriptor, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def log_to_console() -> None:
    """Access log to stdout, everything else to stderr, unless the application has set up logging itself."""
    if logging.getLogger().handlers:
        return
    root = logging.getLogger("trioserve")
    if not root.handlers:
        root.addHandler(_handler(sys.stderr, "%(asctime)s %(levelname)s %(name)s: %(message)s"))
    access = logging.getLogger(ACCESS_LOGGER)
    if not access.handlers:
        access.addHandler(_handler(sys.stdout, "%(asctime)s %(message)s"))
        access.setLevel(logging.INFO)
        access.propagate = False


def log_from(level: str) -> None:
    """Log what is at least as grave as `level` ("debug", say), whoever has set up logging. Not of the access log."""
    logging.getLogger(ERROR_LOGGER).setLevel(level.upper())


def _handler(stream: Any, form: str) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(form))
    return handler

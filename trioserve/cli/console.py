"""What is said to whoever has started us, and where the logs go."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from trioserve.observe.access_log import ACCESS_LOGGER

DRAINING = "draining; signal again to stop at once"
STOPPING = "stopping"
WAITING = "stopping; waiting for handlers that clean up"


def say(text: str) -> None:
    """One line for whoever has started us."""
    click.echo(f"trioserve: {text}", err=True)


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


def _handler(stream: Any, form: str) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(form))
    return handler

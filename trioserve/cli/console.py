"""What is said to whoever has started us, and where the logs go."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator

import click

from trioserve.cli.output import Output
from trioserve.core.errors import ERROR_LOGGER
from trioserve.observe.access_log import ACCESS_LOGGER, LineHandler, WritingHandler

DRAINING = "draining; signal again to stop at once"
STOPPING = "stopping"
WAITING = "stopping; waiting for handlers that clean up"
NO_WORKERS = "SIGHUP replaces workers, and there are none; start with --workers for that"

PAUSE = 0.02
"""Seconds that a line of the access log may wait for others. Who looks on does not see it, and a thread that is woken
fifty times in a second costs nothing beside the requests."""

_stderr: Output | None = None
"""Where lines for people go while a server runs."""


def say(text: str) -> None:
    """One line for whoever has started us, if they are still there."""
    line = f"trioserve: {text}"
    if _stderr is not None:
        _stderr.write(f"{line}\n")
        return
    with contextlib.suppress(OSError, ValueError):  # a hung up terminal, a full disk, a closed stream end no server
        click.echo(line, err=True)


def terminal_has_hung_up() -> bool:
    """True if we were started from a terminal, and that is gone."""
    poll = select.poll()
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):  # it may be closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                poll.register(descriptor, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


@contextlib.contextmanager
def console() -> Iterator[None]:
    """While a server runs: the access log to stdout and everything else to stderr, and nothing that waits for them.

    If the application has set up logging itself, that stays as it is.
    """
    global _stderr  # noqa: PLW0603 - there is one in a process
    with contextlib.ExitStack() as stack:
        if sys.stderr is not None:
            _stderr = Output("stderr", sys.stderr.fileno(), say)
            stack.callback(_leave_stderr, _stderr)
        if not logging.getLogger().handlers:
            stack.enter_context(_log_to_console())
        yield


def _leave_stderr(output: Output) -> None:
    global _stderr  # noqa: PLW0603
    output.close()
    _stderr = None


@contextlib.contextmanager
def _log_to_console() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        lines: Output | None = None
        access = logging.getLogger(ACCESS_LOGGER)
        if not access.handlers:
            access.setLevel(logging.INFO)
            access.propagate = False
            if sys.stdout is not None:  # as it is if it was closed from the start
                lines = Output("the access log", sys.stdout.fileno(), say, PAUSE)
                stack.callback(lines.close)
                stack.enter_context(_handled(access, LineHandler(lines.write)))
        root = logging.getLogger("trioserve")
        if not root.handlers and _stderr is not None:
            form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
            stack.enter_context(_handled(root, WritingHandler(_writing(_stderr, behind=lines), form)))
        yield


def log_from(level: str) -> None:
    """Log what is at least as grave as `level` ("debug", say), whoever has set up logging. Not of the access log."""
    logging.getLogger(ERROR_LOGGER).setLevel(level.upper())


@contextlib.contextmanager
def _handled(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _writing(output: Output, behind: Output | None) -> Callable[[str], None]:
    """What writes to `output`, behind what waits in `behind`."""

    def write(text: str) -> None:
        if behind is not None:
            behind.hasten()
        output.write(text)

    return write

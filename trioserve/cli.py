"""The command line: `trioserve run MODULE:ATTR`.

Every option can also be given by an environment variable TRIOSERVE_... of the same name. The options for limits and
deadlines are made from the fields of `Limits` and `Deadlines`, so there is one place where they are listed.

A user's mistake is one line on stderr and exit code 2, never a traceback.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import math
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from trioserve.core.application import Application
from trioserve.core.errors import ConfigError
from trioserve.core.lifecycle import HalfClose
from trioserve.core.limits import Deadlines, Limits
from trioserve.observe.access_log import ACCESS_LOGGER
from trioserve.server.config import Address, Config, HangupNews, TcpAddress, UnixAddress, default_hangup_news
from trioserve.server.server import serve

F = TypeVar("F", bound=Callable[..., Any])

DEFAULTS = Config()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trioserve")
def main() -> None:
    """An HTTP/1.1 server that stops the work when the client goes away, and says so."""


def option(name: str, **settings: Any) -> Callable[[F], F]:
    """A click option that is also an environment variable."""
    variable = "TRIOSERVE_" + name.partition("/")[0].strip("-").upper().replace("-", "_")
    return click.option(name, envvar=variable, show_envvar=True, **settings)


def number_options(cls: type[Limits | Deadlines], prefix: str, unit: str) -> Callable[[F], F]:
    """An option for each field of a dataclass of numbers; "inf" is a number too."""

    def add(command: F) -> F:
        for field in reversed(dataclasses.fields(cls)):
            default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            command = option(
                f"--{prefix}-{field.name.replace('_', '-')}",
                type=float if cls is Deadlines else whole_number,
                metavar=unit,
                help=f"{cls.__name__}.{field.name}  [default: {default}]",
            )(command)
        return command

    return add


def whole_number(text: str) -> float:
    """A whole number, or "inf" for no limit."""
    return math.inf if text == "inf" else int(text)


@main.command()
@click.argument("app", metavar="MODULE:ATTR")
@option("--host", multiple=True, help="Address or name to listen on; may be given again.  [default: 127.0.0.1]")
@option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any free port.")
@option(
    "--unix", multiple=True, metavar="PATH", help="Unix socket to listen on, instead of TCP unless --host is given."
)
@option("--half-close", type=click.Choice(list(HalfClose)), default=HalfClose.ABORT, show_default=True)
@option("--hangup-news", type=click.Choice(list(HangupNews)), default=default_hangup_news(), show_default=True)
@option("--access-log/--no-access-log", default=True, show_default=True, help="One line an exchange, on stdout.")
@number_options(Deadlines, "deadline", "SECONDS")
@number_options(Limits, "limit", "NUMBER")
def run(  # noqa: PLR0917 - click passes options by name
    app: str,
    host: tuple[str, ...],
    port: int,
    unix: tuple[str, ...],
    half_close: str,
    hangup_news: str,
    *,
    access_log: bool,
    **numbers: float | None,
) -> None:
    """Serve the application MODULE:ATTR, looked for in the current directory too.

    SIGINT (Ctrl-C) and SIGTERM drain the server: exchanges under way may end until --deadline-drain. A second one
    cancels them at once.
    """
    try:
        config = Config(
            listen=addresses(host, port, unix),
            limits=Limits(**chosen(numbers, "limit_")),
            deadlines=Deadlines(**chosen(numbers, "deadline_")),
            half_close=HalfClose(half_close),
            hangup_news=HangupNews(hangup_news),
            access_log=access_log,
        )
        application = load(app)
        log_to_console()
        trio.run(serve_until_signal, application, config, app)
    except ConfigError as error:
        give_up(str(error))
    except BaseExceptionGroup as group:
        # The server runs in a nursery; a port in use comes out of it like this.
        mistakes, others = group.split(ConfigError)
        if others is not None or mistakes is None:
            raise
        give_up(str(first_of(mistakes)))


def give_up(message: str) -> None:
    """One line on stderr, exit code 2."""
    click.echo(f"trioserve: {message}", err=True)
    raise SystemExit(2)


def first_of(group: BaseExceptionGroup[ConfigError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def addresses(hosts: tuple[str, ...], port: int, unix: tuple[str, ...]) -> tuple[Address, ...]:
    """What to listen on: the given hosts and sockets, or the default host if neither is given."""
    if not hosts and not unix:
        hosts = ("127.0.0.1",)
    return (*(TcpAddress(host, port) for host in hosts), *(UnixAddress(path) for path in unix))


def chosen(numbers: dict[str, float | None], prefix: str) -> dict[str, float]:
    """The fields that were given, without their prefix."""
    return {
        name.removeprefix(prefix): value
        for name, value in numbers.items()
        if name.startswith(prefix) and value is not None
    }


def load(spec: str) -> Application:
    """The application that MODULE:ATTR names.

    Raises:
        ConfigError: there is none; says why in one line.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(f"{spec!r} is not MODULE:ATTR; for an `app = App()` in main.py it is main:app")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                f"there is no module {module_name!r} in {Path.cwd()} or among the installed ones"
            ) from None
        raise ConfigError(f"cannot import {module_name!r}: {described(error)}") from error
    except Exception as error:
        raise ConfigError(f"cannot import {module_name!r}: {described(error)}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    if not (hasattr(found, "endpoint") and hasattr(found, "hooks") and hasattr(found, "rules")):
        raise ConfigError(f"{spec} is {type(found).__name__}, which is no application; it should be a trioserve.App")
    return found  # type: ignore[no-any-return]


def described(error: Exception) -> str:
    """An exception in one line, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({place.filename}, line {place.lineno})"


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


async def serve_until_signal(application: Application, config: Config, name: str) -> None:
    """Serve until the first signal, then drain; cancel at the second."""
    drain = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(
                lambda task_status: serve(application, config, drain=drain, task_status=task_status)
            )
            click.echo(f"trioserve: serving {name} on {', '.join(map(str, bound))} (Ctrl-C to stop)", err=True)
            nursery.start_soon(_drain_on_signal, signals, drain, nursery)


async def _drain_on_signal(signals: Any, drain: trio.Event, nursery: trio.Nursery) -> None:
    await signals.__anext__()
    click.echo("trioserve: draining; signal again to stop at once", err=True)
    drain.set()
    await signals.__anext__()
    nursery.cancel_scope.cancel(reason="second signal")

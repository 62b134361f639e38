"""The command line: `trioserve run MODULE:ATTR`, `trioserve routes MODULE:ATTR` and `trioserve demo`.

Every option can also be given by an environment variable TRIOSERVE_... of the same name. The options for limits and
deadlines are made from the fields of `Limits` and `Deadlines`, so a new field is an option by itself, and their
defaults are written there alone.

A user's mistake is one line on stderr and exit code 2, never a traceback and never a page of help.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import logging
import math
import os
import re
import signal
import sys
import sysconfig
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import trio
from click.core import ParameterSource

from trioserve.app.annotations import place_of
from trioserve.app.application import App
from trioserve.app.router import UPGRADE, Policies, Registration
from trioserve.core.application import Application
from trioserve.core.callables import name_of
from trioserve.core.errors import ConfigError
from trioserve.core.forwarded import ForwardedFields
from trioserve.core.lifecycle import CANCEL, HalfClose
from trioserve.core.limits import MAY_BE_ZERO, Deadlines, Limits
from trioserve.core.status import StatusChange
from trioserve.failures import sole
from trioserve.observe.access_log import ACCESS_LOGGER
from trioserve.server.certificates import tls_context
from trioserve.server.config import (
    Address,
    Config,
    HangupNews,
    OpenSocket,
    TcpAddress,
    UnixAddress,
    default_hangup_news,
)
from trioserve.server.fleet import News, Order
from trioserve.server.server import serve
from trioserve.server.systemd import Notifier, take_descriptors
from trioserve.server.workers import Inheritance, Link, Supervisor, same_command

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

DEMO_DRAIN = 1.0
"""Seconds. The feed of an open page never ends by itself, and Ctrl-C should not wait for it."""

INTERRUPTED = 130
"""Exit code after a Ctrl-C that struck before anything was served: 128 + SIGINT, as shells have it."""


class Commands(click.Group):
    """A group of commands that says a user's mistake in one line."""

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run the command that the arguments name, and exit."""
        try:
            code = super().main(*args, **{**settings, "standalone_mode": False})
        except click.ClickException as error:
            give_up(mistake(error))
        except ConfigError as error:
            give_up(str(error))
        except click.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(code)


def mistake(error: click.ClickException) -> str:
    """What was wrong; of an option's value, where it came from: the option as it is written, or the variable."""
    param = getattr(error, "param", None)
    if not isinstance(error, click.BadParameter) or not isinstance(param, click.Option) or error.ctx is None:
        return error.format_message()
    from_variable = error.ctx.get_parameter_source(str(param.name)) is ParameterSource.ENVIRONMENT
    return f"invalid value for {param.envvar if from_variable else param.opts[0]}: {error.message}"


def give_up(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    say(" ".join(message.split()))
    sys.exit(2)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trioserve", message="trioserve %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """An HTTP/1.1 server that stops the work when the client goes away, and says so."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What is printed is seen at once, also through a pipe: a hook's `print` belongs beside the access log.
        sys.stdout.reconfigure(line_buffering=True)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# Options


def option(name: str, **settings: Any) -> Callable[[F], F]:
    """A click option that is also an environment variable."""
    variable = "TRIOSERVE_" + name.partition("/")[0].strip("-").upper().replace("-", "_")
    return click.option(name, envvar=variable, show_envvar=True, **settings)


host_option = option(
    "--host", multiple=True, help=f"Address or name to listen on; may be given again.  [default: {DEFAULT_HOST}]"
)
port_option = option(
    "--port", type=click.IntRange(0, 65535), help=f"TCP port; 0 takes any free one.  [default: {DEFAULT_PORT}]"
)


def seconds(text: str) -> float:
    """A positive number of seconds, or "inf" for ever."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return _positive(number, f"{text!r} is not a positive number of seconds, or inf")


def seconds_or_none(text: str) -> float:
    """0 or a positive number of seconds, or "inf" for ever."""
    return 0.0 if text in {"0", "0.0"} else seconds(text)


def number(text: str) -> float:
    """A positive whole number, or "inf" for no limit."""
    try:
        number = math.inf if text == "inf" else int(text)
    except ValueError:
        number = math.nan
    return _positive(number, f"{text!r} is not a positive whole number, or inf")


def _positive(number: float, otherwise: str) -> float:
    if not number > 0:
        raise click.BadParameter(otherwise)
    return number


def number_options(cls: type[Limits | Deadlines], prefix: str, kind: Callable[[str], float]) -> Callable[[F], F]:
    """An option for each field of a dataclass of numbers."""

    def add(command: F) -> F:
        for field in reversed(dataclasses.fields(cls)):
            default = f"{field.default:g}" if isinstance(field.default, float) else field.default
            command = option(
                f"--{prefix}-{field.name.replace('_', '-')}",
                type=seconds_or_none if field.name in MAY_BE_ZERO else kind,
                metavar=kind.__name__.upper(),
                help=f"{as_options(field.metadata['what'])}  [default: {default}]",
            )(command)
        return command

    return add


def as_options(text: str) -> str:
    """What is said of a limit or a deadline, with the others named as options: --limit-head for `Limits.head`."""
    return re.sub(
        r"`(Limit|Deadline)s\.(\w+)`",
        lambda match: f"--{match[1].lower()}-{match[2].replace('_', '-')}",
        text,
    )


def chosen(numbers: dict[str, float | None], prefix: str) -> dict[str, float]:
    """The fields that were given, without their prefix."""
    return {
        name.removeprefix(prefix): value
        for name, value in numbers.items()
        if name.startswith(prefix) and value is not None
    }


def addresses(
    hosts: tuple[str, ...], port: int | None, unix: tuple[str, ...], descriptors: tuple[int, ...] = ()
) -> tuple[Address, ...]:
    """What to listen on: sockets that are open, Unix sockets, and TCP if a host or port is given or there is nothing
    else.
    """
    if not hosts and (port is not None or not (unix or descriptors)):
        hosts = (DEFAULT_HOST,)
    if port is None:
        port = DEFAULT_PORT
    return (
        *(OpenSocket(descriptor) for descriptor in descriptors),
        *(TcpAddress(host, port) for host in hosts),
        *(UnixAddress(path) for path in unix),
    )


def with_tls(certificate: Path | None, key: Path | None, listen: tuple[Address, ...]) -> tuple[Address, ...]:
    """The same addresses, with TLS at all that are no paths of Unix sockets, if there is a certificate.

    Raises:
        ConfigError: there is nothing to speak it at, or the files are wrong.
    """
    if certificate is None:
        if key is not None:
            raise ConfigError("--tls-key without --tls-certificate; give both")
        return listen
    if all(isinstance(address, UnixAddress) for address in listen):
        raise ConfigError("--tls-certificate, but Unix sockets are served in the clear; give a --host or --port too")
    tls = tls_context(certificate, key)
    return tuple(
        address if isinstance(address, UnixAddress) else dataclasses.replace(address, tls=tls) for address in listen
    )


# Commands


@main.command()
@click.argument("app", metavar="MODULE:ATTR")
@host_option
@port_option
@option(
    "--unix",
    multiple=True,
    metavar="PATH",
    help="Unix socket to listen on; then TCP only if --host or --port is given.",
)
@option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that serve, with another one that looks after them.  [default: none but this one]",
)
@option(
    "--half-close",
    type=click.Choice([word.value for word in HalfClose]),
    default=HalfClose.ABORT.value,
    show_default=True,
    help="What a client's FIN after its request means.",
)
@option(
    "--hangup-news",
    type=click.Choice([word.value for word in HangupNews]),
    default=default_hangup_news().value,
    show_default=True,
    help="Where news of a hangup comes from.",
)
@option(
    "--proxy-protocol/--no-proxy-protocol",
    default=False,
    show_default=True,
    help="Every connection begins with a PROXY protocol header, version 1 or 2; all others are closed.",
)
@option(
    "--trusted-proxy",
    multiple=True,
    metavar="NETWORK",
    help='Address or network that is believed who the client is, or "unix" for Unix sockets; may be given again.',
)
@option(
    "--forwarded-fields",
    type=click.Choice([word.value for word in ForwardedFields]),
    default=ForwardedFields.EITHER.value,
    show_default=True,
    help="Where a trusted proxy says it. With either, a request that has both kinds is refused.",
)
@option(
    "--tls-certificate",
    type=click.Path(path_type=Path),
    help="PEM file with the certificate, and the intermediate ones behind it; then TLS, but at Unix sockets.",
)
@option(
    "--tls-key",
    type=click.Path(path_type=Path),
    help="PEM file with the certificate's key.  [default: the certificate's file]",
)
@option("--access-log/--no-access-log", default=True, show_default=True, help="One line an exchange, on stdout.")
@number_options(Deadlines, "deadline", seconds)
@number_options(Limits, "limit", number)
def run(  # noqa: PLR0917 - click passes options by name
    app: str,
    host: tuple[str, ...],
    port: int | None,
    unix: tuple[str, ...],
    workers: int | None,
    half_close: str,
    hangup_news: str,
    trusted_proxy: tuple[str, ...],
    forwarded_fields: str,
    tls_certificate: Path | None,
    tls_key: Path | None,
    *,
    proxy_protocol: bool,
    access_log: bool,
    **numbers: float | None,
) -> None:
    """Serve the application MODULE:ATTR, looked for in the current directory too.

    Started by systemd it serves the sockets that systemd has opened (a .socket unit; then TCP only if --host or --port
    is given), and tells when it is ready (Type=notify).

    SIGINT (Ctrl-C) and SIGTERM drain the server: exchanges under way may end until --deadline-drain. After SIGTERM it
    goes on accepting for the drain's delay, so that balancers can hear of it. A second signal cancels all at once.

    With --workers, SIGHUP replaces the workers, one after another, and no request is lost; the new ones take up new
    code and new certificates. One that dies is replaced. Limits hold for each worker.
    """
    inheritance = Inheritance.taken_from(os.environ)
    descriptors = take_descriptors(os.environ, os.getpid()) if inheritance is None else inheritance.activated
    config = Config(
        listen=with_tls(
            tls_certificate,
            tls_key,
            tuple(
                dataclasses.replace(address, proxy_protocol=proxy_protocol)
                for address in addresses(host, port, unix, descriptors)
            ),
        ),
        limits=Limits(**chosen(numbers, "limit_")),
        deadlines=Deadlines(**chosen(numbers, "deadline_")),
        half_close=HalfClose(half_close),
        hangup_news=HangupNews(hangup_news),
        trusted_proxies=trusted_proxy,
        forwarded_fields=ForwardedFields(forwarded_fields),
        access_log=access_log,
    )
    if inheritance is not None:
        run_worker(app, config, inheritance)
    elif workers is not None:
        run_supervisor(workers, config, app)
    else:
        run_server(load(app), config, app)


def tree(directory: str) -> Any:
    """The files under a directory, for the demo to search."""
    # Only now: whoever runs an application of their own has no use for ours.
    from trioserve.demo.search import Tree, TreeError

    try:
        return Tree.under(Path(directory))
    except TreeError as error:
        raise click.BadParameter(str(error)) from None


@main.command()
@option(
    "--path",
    type=tree,
    default=lambda: sysconfig.get_paths()["stdlib"],
    metavar="DIR",
    help="Directory whose files are searched.  [default: the standard library of this Python]",
)
@host_option
@port_option
def demo(path: Any, host: tuple[str, ...], port: int | None) -> None:
    """Serve a page that searches as you type and shows what the server hears when a search is abandoned.

    Whoever reaches the address can read the files that are searched.
    """
    from trioserve.demo.app import make_app
    from trioserve.demo.to_leave import what_to_try

    config = Config(listen=addresses(host, port, ()), deadlines=Deadlines(drain=DEMO_DRAIN))
    run_server(make_app(path), config, "the demo", lambda bound: click.echo(what_to_try(str(bound[0]))))


@main.command()
@click.argument("app", metavar="MODULE:ATTR")
def routes(app: str) -> None:
    """Print the routes of the application MODULE:ATTR, in the order of registration.

    Of each: its methods (GET serves HEAD too), its path, its handler and where that is, and the policies that differ
    from the defaults, whether they were said for the route, its router or the application.
    """
    application = load(app)
    if not isinstance(application, App):
        raise ConfigError(
            f"{app} has no routes to print: it is no trioserve.App but of type {type(application).__name__}"
        )
    for line in aligned([columns(route.registration) for route in application.routes]):
        click.echo(line)
    if not application.routes:
        say(f"{app} has no routes")


def columns(registration: Registration) -> tuple[str, ...]:
    """What is printed of one route."""
    methods = ",".join("WEBSOCKET" if method == UPGRADE else method for method in registration.methods)
    place = place_of(registration.handler).replace(f"({Path.cwd()}{os.sep}", "(")
    return methods, registration.path, place, " ".join(policies_of(registration.policies))


def policies_of(policies: Policies) -> Iterator[str]:
    """The policies that differ from the defaults, as they are written in code."""
    if policies.disconnect not in {None, CANCEL}:
        yield f"disconnect={policies.disconnect!r}"
    if policies.half_close is not None:
        yield f"half_close={policies.half_close}"
    for change in policies.abandoned_status:  # the outermost first, each laid over the one before
        yield f"abandoned_status={described_change(change)}"
    if policies.deadline is not None:
        yield f"deadline={policies.deadline:g}"
    if policies.max_body is not None:
        yield f"max_body={policies.max_body}"


def described_change(change: StatusChange) -> str:
    """A change of the status policy in a few words."""
    if isinstance(change, Mapping):
        return "{" + ", ".join(f"{phase} {cause}: {status}" for (phase, cause), status in change.items()) + "}"
    return name_of(change) if callable(change) else str(change)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# Finding the application


def load(spec: str) -> Application:
    """The application that MODULE:ATTR names.

    Raises:
        ConfigError: there is none; says why in one line.
    """
    module_name, _, attribute = spec.partition(":")
    names = [*module_name.split("."), *attribute.split(".")]
    if not all(name.isidentifier() for name in names) or module_name.endswith(".py"):
        raise ConfigError(f"{spec!r} is not MODULE:ATTR; for an `app = App()` in main.py it is main:app")
    found = import_module(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    if not (hasattr(found, "endpoint") and hasattr(found, "hooks") and hasattr(found, "rules")):
        raise ConfigError(f"{spec} is no application but of type {type(found).__name__}; it should be a trioserve.App")
    return found  # type: ignore[no-any-return]


def import_module(name: str) -> Any:
    """The module `name`, looked for in the current directory first.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"there is no module {name!r} in {here} or among the installed ones") from error
        raise ConfigError(f"cannot import {name!r}: {described(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot import {name!r}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code where it came up."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if _is_users(frame.filename)), frames[-1])
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _is_users(filename: str) -> bool:
    """False for a file of the standard library, of an installed package, or of trioserve."""
    paths = sysconfig.get_paths()
    others = (paths["stdlib"], paths["purelib"], paths["platlib"], str(Path(__file__).parent))
    return not filename.startswith((*others, "<frozen"))


# Serving it


def run_server(
    application: Application,
    config: Config,
    name: str,
    greet: Callable[[tuple[Address, ...]], None] = lambda _bound: None,
) -> None:
    """Serve until a signal comes. `greet` is called with the bound addresses.

    If it cannot start, it is said why, and the exit code is 1.

    Raises:
        ConfigError: an address cannot be listened on.
    """
    log_to_console()
    _run(serve_until_signal, application, config, name, greet)


def run_worker(app: str, config: Config, inheritance: Inheritance) -> None:
    """Serve the application MODULE:ATTR until the supervisor says otherwise; as `run_server` in all else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A line is one write, also with PYTHONUNBUFFERED: so the lines of several workers do not mix.
            stream.reconfigure(line_buffering=True, write_through=False)
    application = load(app)
    log_to_console()
    config = dataclasses.replace(config, listen=inheritance.addresses(config.listen))
    _run(serve_as_worker, application, config, inheritance)


def run_supervisor(size: int, config: Config, name: str) -> NoReturn:
    """Serve by worker processes until a signal comes, and exit.

    Raises:
        ConfigError: an address cannot be listened on.
    """
    log_to_console()
    notifier = Notifier(os.environ)

    def tell(news: News, bound: tuple[Address, ...]) -> None:
        match news:
            case News.COMPLETE:
                workers = "a worker" if size == 1 else f"{size} workers"
                say(f"serving {name} on {', '.join(map(str, bound))} with {workers} (Ctrl-C to stop)")
                notifier.ready()
            case News.RESTARTING:
                say("restarting the workers, one after another")
                notifier.reloading()
            case News.RESTARTED:
                say("all workers were restarted")
                notifier.ready()
            case News.RESTART_FAILED:
                say("the restart was given up; the old workers go on")
                notifier.ready()
            case News.STOPPING:
                say(DRAINING)
                notifier.stopping()
            case News.HURRYING:
                say(STOPPING)
            case News.WAITING:
                say(WAITING)

    sys.exit(_run(Supervisor(size, config, same_command(), tell=tell, say=say).run))


DRAINING = "draining; signal again to stop at once"
STOPPING = "stopping"
WAITING = "stopping; waiting for handlers that clean up"


def say(text: str) -> None:
    """One line for whoever has started us."""
    click.echo(f"trioserve: {text}", err=True)


def _run(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    try:
        return trio.run(function, *args)
    except BaseExceptionGroup as group:
        # The server runs in a nursery; a port in use comes out of it like this.
        if isinstance(failed := sole(group), StartError):
            failed.tell()
            sys.exit(1)
        mistakes, others = group.split(ConfigError)
        if mistakes is None or others is not None:
            raise
        raise first_of(mistakes) from None


class StartError(Exception):
    """The application, mostly a lifespan of it, raised an error before anything was served."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = sole(error)

    def tell(self) -> None:
        """Print the error with its traceback from the user's code on, and in the last line what failed."""
        trace = self.error.__traceback__
        while trace is not None and not _is_users(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        what = next(iter(getattr(self.error, "__notes__", ())), "the application failed at the start")
        self.error.__notes__ = []  # it is said below
        traceback.print_exception(self.error.with_traceback(trace or self.error.__traceback__))
        text = " ".join(f"{what}: {type(self.error).__name__}: {self.error}".split())
        say(text)


def first_of(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    """The first of the errors in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ConfigError), "the group was made by split(ConfigError)"
    return error


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


class Serving:
    """A server that runs, and is told how to end."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._drain, self._hasten = trio.Event(), trio.Event()
        self._started = False

    async def start(self, application: Application, config: Config) -> tuple[Address, ...]:
        """Start it in the nursery; returns the bound addresses.

        Raises:
            StartError: the application failed.
            ConfigError: an address cannot be listened on.
        """
        run = functools.partial(serve, application, config, drain=self._drain, hasten=self._hasten)
        try:
            bound: tuple[Address, ...] = await self._nursery.start(run)
        except Exception as error:
            if isinstance(sole(error), ConfigError):
                raise
            raise StartError(error) from None
        self._started = True
        return bound

    @property
    def drains(self) -> bool:
        """True from the first order on."""
        return self._drain.is_set()

    @property
    def stops(self) -> bool:
        """True from STOP on."""
        return self._nursery.cancel_scope.cancel_called

    def obey(self, order: Order) -> None:
        """Begin to end. A weaker order than one before has no effect; where nothing is served yet, each means STOP."""
        match order if self._started else Order.STOP:
            case Order.DRAIN:
                self._drain.set()
            case Order.HASTEN:
                self._hasten.set()
                self._drain.set()
            case Order.STOP:
                self._nursery.cancel_scope.cancel(reason="told to stop at once")


async def serve_until_signal(
    application: Application, config: Config, name: str, greet: Callable[[tuple[Address, ...]], None]
) -> None:
    """Serve until the first signal, then drain; cancel at the second."""
    notifier = Notifier(os.environ)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                serving = Serving(nursery)
                outer.start_soon(_obey_signals, signals, serving, notifier)
                bound = await serving.start(application, config)
                say(f"serving {name} on {', '.join(map(str, bound))} (Ctrl-C to stop)")
                notifier.ready()
                greet(bound)
            # The signals are listened to until all has unwound; one that nobody took would strike when we let go.
            outer.cancel_scope.cancel(reason="the server has stopped")


async def _obey_signals(signals: AsyncIterator[int], serving: Serving, notifier: Notifier) -> None:
    """The first signal drains, the second cancels, and after that only handlers that clean up are waited for."""
    async for number in signals:
        if serving.stops:
            say(WAITING)
            continue
        # Who presses Ctrl-C sits and waits; no balancer is to be told.
        first = Order.HASTEN if number == signal.SIGINT else Order.DRAIN
        serving.obey(Order.STOP if serving.drains else first)
        notifier.stopping()
        say(STOPPING if serving.stops else DRAINING)


async def serve_as_worker(application: Application, config: Config, inheritance: Inheritance) -> None:
    """Serve until the supervisor says otherwise, or is gone; a signal drains, however often it comes."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with Link(inheritance.link) as link, trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                serving = Serving(nursery)
                outer.start_soon(_obey_supervisor, link, serving)
                outer.start_soon(_drain_at_signals, signals, serving)
                await serving.start(application, config)
                await link.say_ready()
            outer.cancel_scope.cancel(reason="the server has stopped")


async def _obey_supervisor(link: Link, serving: Serving) -> None:
    async for order in link.orders():
        serving.obey(order)


async def _drain_at_signals(signals: AsyncIterator[int], serving: Serving) -> None:
    async for _ in signals:
        serving.obey(Order.DRAIN)

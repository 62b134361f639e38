"""The commands: `trioserve run MODULE:ATTR`, `trioserve routes MODULE:ATTR` and `trioserve demo`.

A user's mistake is one line on stderr and exit code 2, never a traceback and never a page of help.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from trioserve.app.application import App
from trioserve.cli.console import log_from, say
from trioserve.cli.finding import load
from trioserve.cli.listing import aligned, columns
from trioserve.cli.options import (
    addresses,
    chosen,
    host_option,
    number,
    number_options,
    option,
    port_option,
    seconds,
    with_tls,
    word_option,
)
from trioserve.cli.serving import run_server, run_supervisor, run_worker
from trioserve.core.engine import EngineName
from trioserve.core.errors import ConfigError
from trioserve.core.forwarded import ForwardedFields
from trioserve.core.lifecycle import HalfClose
from trioserve.core.limits import Deadlines, Limits
from trioserve.server.config import Config, HangupNews, default_hangup_news
from trioserve.server.systemd import take_descriptors
from trioserve.server.workers import Inheritance

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
        # A line is one write, also with PYTHONUNBUFFERED: so it does not mix with those of the access log's thread.
        sys.stdout.reconfigure(line_buffering=True, write_through=False)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


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
@word_option("--half-close", HalfClose.ABORT, "What a client's FIN after its request means.")
@word_option("--hangup-news", default_hangup_news(), "Where news of a hangup comes from.")
@word_option("--engine", EngineName.H11, "What speaks HTTP/1.1; h11r is faster with streams, and an extra of its own.")
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
@word_option(
    "--forwarded-fields",
    ForwardedFields.EITHER,
    "Where a trusted proxy says it. With either, a request that has both kinds is refused.",
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
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    help="From which level on the server's log is written, on stderr; debug tells whom it refused, and why.  "
    "[default: warning]",
)
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
    engine: str,
    trusted_proxy: tuple[str, ...],
    forwarded_fields: str,
    tls_certificate: Path | None,
    tls_key: Path | None,
    log_level: str | None,
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
    code and new certificates. One that dies is replaced. Limits hold for each worker. Without --workers, SIGHUP changes
    nothing, unless it comes since the terminal was closed; then it drains like Ctrl-C.
    """
    if log_level is not None:
        log_from(log_level)
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
        engine=EngineName.of(engine),
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

"""Options, and what is made of their values.

Every option can also be given by an environment variable TRIOSERVE_... of the same name. The options for limits and
deadlines are made from the fields of `Limits` and `Deadlines`, so a new field is an option by itself, and their
defaults are written there alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import click

from trioserve.core.errors import ConfigError
from trioserve.core.limits import MAY_BE_ZERO, Deadlines, Limits
from trioserve.server.certificates import tls_context
from trioserve.server.config import Address, OpenSocket, TcpAddress, UnixAddress

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000


def option(name: str, **settings: Any) -> Callable[[F], F]:
    """A click option that is also an environment variable."""
    variable = "TRIOSERVE_" + name.partition("/")[0].strip("-").upper().replace("-", "_")
    return click.option(name, envvar=variable, show_envvar=True, **settings)


def word_option(name: str, default: StrEnum, help: str) -> Callable[[F], F]:
    """An option whose value is one of the words of an enum."""
    words = click.Choice([word.value for word in type(default)])
    return option(name, type=words, default=default.value, show_default=True, help=help)


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

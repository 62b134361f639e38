"""Config: everything that a server can be told, frozen and validated."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import StrEnum

from trioserve.connection.hangup import kernel_watch_available
from trioserve.core.engine import EngineName
from trioserve.core.errors import ConfigError
from trioserve.core.forwarded import ForwardedFields, TrustedProxies
from trioserve.core.lifecycle import HalfClose
from trioserve.core.limits import Deadlines, Limits
from trioserve.observe.observer import Observer


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address to listen on, or one that is listened on. Port 0 asks the system for a free port.

    Args:
        tls: speak TLS, and nothing else; see `tls_context`. Any `ssl.SSLContext` for servers will do.
        proxy_protocol: every connection must begin with a PROXY protocol header, version 1 or 2; without it none may.
            Whoever reaches the address can say in it what they like: see to it that only the proxy does.

    Raises:
        ConfigError: the port is not from 0 to 65535, or `tls` is no context for servers.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, kw_only=True)
    proxy_protocol: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not from 0 to 65535")
        _check_tls(self.tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}"


def _check_tls(tls: ssl.SSLContext | None) -> None:
    what = None
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        what = f"{tls!r}, no ssl.SSLContext"
    elif tls is not None and tls.protocol is ssl.PROTOCOL_TLS_CLIENT:
        what = "an ssl.SSLContext for clients"
    if what is not None:
        raise ConfigError(f"tls is {what}; make one with tls_context(certificate, key)")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket to listen on, in the clear. It is made at the start and removed at the end.

    Args:
        proxy_protocol: every connection must begin with a PROXY protocol header, version 1 or 2; without it none may.
            Whoever reaches the address can say in it what they like: see to it that only the proxy does.

    Raises:
        ConfigError: the path is empty or has a NUL in it; abstract sockets are not supported.
    """

    path: str
    proxy_protocol: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise ConfigError(f"{self.path!r} is no path for a Unix socket; abstract sockets are not supported")

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A socket that listens already, by its descriptor: opened by systemd, say, or by whoever started this process.

    It is the server's from now on, and closed by it. The path of a Unix socket is left to whoever has made it.

    Args:
        tls: as for `TcpAddress`; a Unix socket is served in the clear all the same.
        proxy_protocol: as for `TcpAddress`.

    Raises:
        ConfigError: the descriptor is negative, or `tls` is no context for servers.
    """

    descriptor: int
    tls: ssl.SSLContext | None = field(default=None, kw_only=True)
    proxy_protocol: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.descriptor < 0:
            raise ConfigError(f"{self.descriptor} is no descriptor")
        _check_tls(self.tls)

    @classmethod
    def like(cls, address: Address, descriptor: int) -> OpenSocket:
        """What was opened for an address, with all that the address asks for."""
        tls = None if isinstance(address, UnixAddress) else address.tls
        return cls(descriptor, tls=tls, proxy_protocol=address.proxy_protocol)

    def __str__(self) -> str:
        return f"descriptor {self.descriptor}"


Address = TcpAddress | UnixAddress | OpenSocket


class HangupNews(StrEnum):
    """Where news of a hangup comes from while nobody reads."""

    KERNEL = "kernel"  # the hangup watch: Linux only, costs nothing
    READ_AHEAD = "read-ahead"  # a task per connection that reads into a bounded spool: everywhere
    NONE = "none"  # from nowhere: a departure is noticed when the server reads or sends. For measuring the others


def default_hangup_news() -> HangupNews:
    """KERNEL where there is such a thing, else READ_AHEAD."""
    return HangupNews.KERNEL if kernel_watch_available() else HangupNews.READ_AHEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a server can be told.

    Raises:
        ConfigError: a value is wrong; the message says which and what would be right.
    """

    # The usual port for development, on this machine only: opening it to others is a decision.
    listen: tuple[Address, ...] = (TcpAddress("127.0.0.1", 8000),)
    limits: Limits = field(default_factory=Limits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    # What nginx, Go and hyper take a FIN for.
    half_close: HalfClose = HalfClose.ABORT
    hangup_news: HangupNews = field(default_factory=default_hangup_news)
    # What speaks HTTP/1.1. The engines behave the same; the other one is faster where responses are streams, and needs
    # what the extra `fast` installs.
    engine: EngineName = EngineName.H11
    # Peers that are believed when they say for whom they pass on a request: addresses and networks ("10.0.0.0/8"), and
    # "unix" for whoever connects to a Unix socket. Nobody, since whoever reaches the port can write such fields. What
    # is believed, and how far: core/forwarded.py.
    trusted_proxies: tuple[str, ...] = ()
    # Where they say it. Proxies differ, and as long as the client writes none itself, one can see which kind it is.
    forwarded_fields: ForwardedFields = ForwardedFields.EITHER
    # Whether there is an access log: one line an exchange on the logger "trioserve.access".
    access_log: bool = True
    # Further consumers of records.
    observers: tuple[Observer, ...] = ()

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError("Config.listen is empty; give at least one TcpAddress, UnixAddress or OpenSocket")
        # Words are accepted for the enums, as they come from a command line.
        object.__setattr__(self, "half_close", HalfClose.of(self.half_close))
        object.__setattr__(self, "engine", EngineName.of(self.engine))
        try:
            object.__setattr__(self, "hangup_news", HangupNews(self.hangup_news))
        except ValueError:
            raise ConfigError(f"hangup_news={self.hangup_news!r}; use one of {', '.join(HangupNews)}") from None
        try:
            object.__setattr__(self, "forwarded_fields", ForwardedFields(self.forwarded_fields))
        except ValueError:
            raise ConfigError(
                f"forwarded_fields={self.forwarded_fields!r}; use one of {', '.join(ForwardedFields)}"
            ) from None
        if isinstance(self.trusted_proxies, str):
            raise ConfigError(f"trusted_proxies={self.trusted_proxies!r}; give a tuple of such texts")
        TrustedProxies(self.trusted_proxies)  # refuses what is none
        if self.hangup_news is HangupNews.KERNEL and not kernel_watch_available():
            raise ConfigError('hangup_news="kernel" needs Linux; use "read-ahead" here')

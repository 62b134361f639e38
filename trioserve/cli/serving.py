"""Serving an application until signals end it: in this process, or as one of several workers, or as their supervisor.

The first signal drains, the second cancels. SIGHUP is for workers; where there are none it is not obeyed, unless it
says that the terminal has gone. What fails before anything was served is said, with the user's own part of
its traceback, and the exit code is 1.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import trio

from trioserve.cli.console import (
    DRAINING,
    NO_WORKERS,
    STOPPING,
    WAITING,
    console,
    say,
    terminal_has_hung_up,
)
from trioserve.cli.finding import is_users, load
from trioserve.core.application import Application
from trioserve.core.errors import ConfigError
from trioserve.failures import sole
from trioserve.server.config import Address, Config
from trioserve.server.fleet import News, Order
from trioserve.server.server import serve
from trioserve.server.signals import without_echoes
from trioserve.server.systemd import Notifier
from trioserve.server.workers import Inheritance, Link, Supervisor, same_command

T = TypeVar("T")


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
    _run(serve_until_signal, application, config, name, greet)


def run_worker(app: str, config: Config, inheritance: Inheritance) -> None:
    """Serve the application MODULE:ATTR until the supervisor says otherwise; as `run_server` in all else."""
    if isinstance(sys.stderr, io.TextIOWrapper):
        # As stdout already is: a line is one write, also with PYTHONUNBUFFERED, so the lines of workers do not mix.
        sys.stderr.reconfigure(line_buffering=True, write_through=False)
    application = load(app)
    config = dataclasses.replace(config, listen=inheritance.addresses(config.listen))
    _run(serve_as_worker, application, config, inheritance)


def run_supervisor(size: int, config: Config, name: str) -> NoReturn:
    """Serve by worker processes until a signal comes, and exit.

    Raises:
        ConfigError: an address cannot be listened on.
    """
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


def _run(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    try:
        with console():
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
        while trace is not None and not is_users(trace.tb_frame.f_code.co_filename):
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


class Serving:
    """A server that runs, and is told how to end."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._replace, self._drain, self._hasten = trio.Event(), trio.Event(), trio.Event()
        self._started = False

    async def start(self, application: Application, config: Config) -> tuple[Address, ...]:
        """Start it in the nursery; returns the bound addresses.

        Raises:
            StartError: the application failed.
            ConfigError: an address cannot be listened on.
        """
        run = functools.partial(
            serve, application, config, replace=self._replace, drain=self._drain, hasten=self._hasten
        )
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
        """True from DRAIN or HASTEN on."""
        return self._drain.is_set()

    @property
    def stops(self) -> bool:
        """True from STOP on."""
        return self._nursery.cancel_scope.cancel_called

    def obey(self, order: Order) -> None:
        """Begin to end. A weaker order than one before has no effect; where nothing is served yet, each means STOP."""
        match order if self._started else Order.STOP:
            case Order.REPLACE:
                self._replace.set()
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
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
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
    async for number in without_echoes(signals):
        if number == signal.SIGHUP:
            if terminal_has_hung_up():  # which the kernel says, and the shell again: that is no second signal
                serving.obey(Order.HASTEN)
            else:
                say(NO_WORKERS)
            continue
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

"""Workers: processes that serve the same sockets, and the supervisor that starts, replaces and ends them.

The supervisor opens the listeners and imports nothing of the user's. A worker is a fresh interpreter that runs the same
command line; it inherits the listeners, and so they all accept from one backlog, which outlives each of them. (With
SO_REUSEPORT each would have a backlog of its own, and whoever waits in it is reset when its worker closes it.) A
variable of the environment tells it that it is a worker; it takes it out, so that its own children are none.

What is decided stands in `fleet`. Between supervisor and worker there is a socket pair, on which the worker says that
it is ready and the supervisor gives its orders, which are levels: saying one twice is saying it once. Its end of file
tells a worker that the supervisor is gone, however that died; then it ends too (HASTEN), since nobody would know of it
any more, and the next supervisor needs the addresses.

Signals are for the supervisor. A worker is in a process group of its own, so a Ctrl-C, which the terminal sends to a
whole group, is heard once, by the supervisor, and the worker is told. A SIGTERM to a worker, by hand or by a service
manager that sends it to everybody, only ever means DRAIN; so it does no harm that the order comes as well.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Self

import trio

from trioserve.connection.timers import current_timers
from trioserve.core.errors import ConfigError
from trioserve.server.config import Address, Config, OpenSocket
from trioserve.server.fleet import FAILED, Action, Announce, End, Fleet, News, Order, Say, Send, Start, Tell
from trioserve.server.listeners import Listener, backlog_of, leave_listener, open_listeners, remove_file
from trioserve.server.signals import without_echoes

VARIABLE = "TRIOSERVE_AS_WORKER"
"""The environment variable that makes a process a worker. Its value is what `Inheritance` is written as."""

_READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker gets from its supervisor: descriptors.

    Args:
        link: the worker's end of the socket pair.
        activated: the sockets of systemd in the supervisor, that are in its `Config.listen`.
        listeners: of each listener the descriptor, and the index of its address in `Config.listen`.
    """

    link: int
    activated: tuple[int, ...]
    listeners: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return json.dumps([self.link, self.activated, self.listeners])

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> Inheritance | None:
        """This process's own; None if it is no worker. It is taken out of the environment.

        Raises:
            ConfigError: it is garbled.
        """
        text = environment.pop(VARIABLE, None)
        if text is None:
            return None
        try:
            link, activated, listeners = json.loads(text)
            inheritance = cls(link, tuple(activated), tuple((descriptor, index) for descriptor, index in listeners))
            for descriptor in inheritance.descriptors:
                os.set_inheritable(descriptor, False)  # noqa: FBT003 - before there can be children
            return inheritance
        except (ValueError, TypeError, OSError):
            raise ConfigError(f"{VARIABLE} is set, and not by a supervisor; unset it") from None

    @property
    def descriptors(self) -> list[int]:
        """All that the process inherits."""
        return [self.link, *(descriptor for descriptor, _ in self.listeners)]

    def addresses(self, listen: Sequence[Address]) -> tuple[Address, ...]:
        """What a worker listens on, whose configuration says `listen`.

        Raises:
            ConfigError: it says something else than the supervisor's.
        """
        if {index for _, index in self.listeners} != set(range(len(listen))):
            raise ConfigError("the addresses to listen on have changed; that needs a restart of the supervisor")
        return tuple(OpenSocket.like(listen[index], descriptor) for descriptor, index in self.listeners)


class Link:
    """A worker's end of the socket pair."""

    def __init__(self, descriptor: int) -> None:
        sock = socket.socket(fileno=descriptor)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def say_ready(self) -> None:
        """Tell the supervisor that this worker serves."""
        with contextlib.suppress(trio.BrokenResourceError):  # it is gone, which `orders` will tell
            await self._stream.send_all(_READY)

    async def orders(self) -> AsyncIterator[Order]:
        """The supervisor's orders, as they come; the last is HASTEN, when there is no supervisor any more: the next one
        needs the addresses.
        """
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in self._stream:
                for word in data.decode().split():
                    yield Order[word]
        yield Order.HASTEN

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.aclose()


class Supervisor:
    """Runs `size` workers that serve what `config` says.

    Args:
        command: starts a worker.
        tell: told the news, with the addresses that are bound.
        say: told what has become of a worker, in words for people.
    """

    def __init__(
        self,
        size: int,
        config: Config,
        command: Sequence[str],
        *,
        tell: Callable[[News, tuple[Address, ...]], None],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._command = command
        self._tell_news = tell
        self._say = say
        self._fleet = Fleet(size, config.deadlines.start)
        self._processes: dict[int, _Process] = {}
        # The listeners, each with the index of its address in Config.listen.
        self._listeners: list[tuple[Listener, int]] = []
        self._code = 0

    async def run(self) -> int:
        """Run until a signal ends it and all workers have ended; returns the exit code.

        SIGTERM and SIGINT drain, the latter without the delay; the second of them ends all at once. SIGHUP is a rolling
        restart.

        Raises:
            ConfigError: an address cannot be listened on.

        Cancellation: the workers find that the supervisor is gone, and drain on their own.
        """
        receiver = trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with receiver as signals, contextlib.ExitStack() as files:
            backlog = backlog_of(self._config.limits)
            for index, address in enumerate(self._config.listen):
                for listener in await open_listeners([address], backlog, self._config.deadlines):
                    files.callback(remove_file, listener)
                    files.callback(leave_listener, listener)
                    self._listeners.append((listener, index))
            async with trio.open_nursery() as self._nursery:
                self._timer = current_timers().timer(lambda: self._do(self._fleet.time_passed))
                try:
                    self._do(self._fleet.begin)
                    await self._obey(signals)
                finally:
                    self._timer.discard()
        return self._code

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in without_echoes(signals):
            if number == signal.SIGHUP:
                self._do(self._fleet.restart)
            else:
                order = Order.HASTEN if number == signal.SIGINT else Order.DRAIN
                self._carry_out(self._fleet.end(order))

    def _do(self, event: Callable[[float], list[Action]]) -> None:
        self._carry_out(event(trio.current_time()))

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Start(number):
                    self._start(number)
                case Tell(number, order):
                    self._processes[number].tell(order)
                case Send(number, which):
                    self._processes[number].send(which)
                case Say(number, text):
                    self._say(f"{self._processes[number]} {text}")
                case Announce(news):
                    self._announce(news)
                case End(code):
                    self._code = code
                    self._nursery.cancel_scope.cancel(reason="all workers have ended")
        self._timer.set(self._fleet.next_at)

    def _announce(self, news: News) -> None:
        if news in {News.STOPPING, News.HURRYING}:
            # The workers have them still, and are the last to accept: what comes when they have stopped is refused, and
            # does not wait for nobody. The paths of Unix sockets go at the very end.
            for listener, _ in self._listeners:
                leave_listener(listener)
        self._tell_news(news, tuple(listener.address for listener, _ in self._listeners))

    def _start(self, number: int) -> None:
        process = self._processes[number] = _Process()
        self._nursery.start_soon(self._hold, number, process)

    def _inherited(self, link: int) -> Inheritance:
        """For a worker with this end of its socket pair."""
        activated = tuple(address.descriptor for address in self._config.listen if isinstance(address, OpenSocket))
        listeners = tuple((listener.socket.fileno(), index) for listener, index in self._listeners)
        return Inheritance(link, activated, listeners)

    async def _hold(self, number: int, process: _Process) -> None:
        """Start a worker's process, and report what becomes of it."""
        try:
            code = await process.run(
                self._command, self._inherited, ready=lambda: self._do(functools.partial(self._fleet.ready, number))
            )
        except OSError as error:
            self._say(f"cannot start a worker: {error.strerror}")
            code = FAILED
        self._do(functools.partial(self._fleet.ended, number, code))
        del self._processes[number]


class _Process:
    """A worker's process, and the supervisor's end of the socket pair. It can be told things before it has begun."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(0)
        self._process: trio.Process | None = None
        self._to_send: list[signal.Signals] = []

    def __str__(self) -> str:
        return f"worker {self._process.pid}" if self._process is not None else "a worker"

    async def run(
        self, command: Sequence[str], inherited: Callable[[int], Inheritance], ready: Callable[[], None]
    ) -> int:
        """Start the process and wait for its end; its exit code, or the number of its signal, negative.

        Raises:
            OSError: it cannot be started.
        """
        async with trio.SocketStream(trio.socket.from_stdlib_socket(self._ours)) as stream:
            with self._theirs:
                if self._to_send:
                    return -self._to_send[0]  # its end was ordered before its beginning
                inheritance = inherited(self._theirs.fileno())
                self._process = await trio.lowlevel.open_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {VARIABLE: str(inheritance)},
                    pass_fds=inheritance.descriptors,
                    process_group=0,
                )
            for number in self._to_send:
                self._process.send_signal(number)  # they came while it was being started
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, stream, ready)
                code = await self._process.wait()
                nursery.cancel_scope.cancel(reason="the worker has ended")
        return code

    @staticmethod
    async def _hear(stream: trio.SocketStream, ready: Callable[[], None]) -> None:
        heard = b""
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                heard += data
                if heard == _READY:
                    ready()

    def tell(self, order: Order) -> None:
        with contextlib.suppress(OSError):  # it has ended, which is known soon
            self._ours.send(f"{order.name}\n".encode())

    def send(self, number: signal.Signals) -> None:
        if self._process is None:
            self._to_send.append(number)
        else:
            self._process.send_signal(number)


def same_command() -> list[str]:
    """The command that started this process, in the same interpreter, with the same options."""
    return [sys.executable, *sys.orig_argv[1:]]

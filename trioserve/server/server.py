"""The server: listeners, the connections' nursery, and how it all stops.

How it stops, in this order (the drain): no more connections are accepted; idle ones are closed; exchanges under way
go on, and their responses say `Connection: close`; at `Deadlines.drain` those that still run are cancelled with cause
DRAIN, and where nothing was sent they are answered 503; then everything unwinds, which is not cut.

Cancelling `serve` skips the waiting: everything is cancelled as DRAIN at once.
"""

from __future__ import annotations

import email.utils
import errno
import itertools
import logging
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from trioserve.connection.connection import Connection
from trioserve.connection.context import Context
from trioserve.connection.hangup import current_hangup_watch
from trioserve.connection.readahead import ReadAhead
from trioserve.connection.spool import Budget, Spool
from trioserve.connection.timers import current_timers
from trioserve.connection.transport import SocketTransport, Transport
from trioserve.core.application import Application
from trioserve.core.engine import H11Engine
from trioserve.observe.access_log import AccessLog
from trioserve.observe.observer import Observer
from trioserve.observe.reporter import ERROR_LOGGER, Reporter
from trioserve.server.config import Address, Config, HangupNews
from trioserve.server.listeners import address_of, close_listener, open_listeners, set_options

_connection_ids = itertools.count(1)

ACCEPT_AT_ONCE = 64
"""Connections accepted in a row before the others have their turn."""

ACCEPT_PAUSE = 0.1
"""Seconds to wait when the system is out of descriptors or memory: long enough for something to be closed."""

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def serve(
    app: Application,
    config: Config | None = None,
    *,
    drain: trio.Event | None = None,
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `drain` is set, or for ever; `await nursery.start(serve, app, config)` gives the addresses.

    Args:
        app: an `App`, or any other `Application`.
        config: what differs from the defaults.
        drain: set it to stop gracefully; `serve` returns when the last exchange has ended.
        task_status: started with the bound addresses, ports filled in, once connections are accepted.

    Raises:
        ConfigError: an address cannot be listened on.

    Cancellation: every exchange under way is cancelled with cause DRAIN and answered 503 where nothing was sent; its
    record is made and its hooks are told, each within `Deadlines.hook`.
    """
    config = config or Config()
    drain = drain if drain is not None else trio.Event()
    listeners = await open_listeners(config.listen, int(min(config.limits.backlog, 65_535)))
    try:
        server = Server(app, config)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(server.accept, listener, connections)
                task_status.started(tuple(map(address_of, listeners)))
                await drain.wait()
                accepting.cancel_scope.cancel(reason="the server drains")
            for listener in listeners:
                close_listener(listener)
            await server.drain()
    finally:
        for listener in listeners:
            close_listener(listener)


class Server:
    """The living connections of one `serve`."""

    def __init__(self, app: Application, config: Config) -> None:
        self._config = config
        self._timers = current_timers()
        observers: tuple[Observer, ...] = (AccessLog(), *config.observers) if config.access_log else config.observers
        limits = config.limits
        self._context = Context(
            application=app,
            new_engine=lambda: H11Engine(limits),
            reporter=Reporter(observers, app.hooks, config.deadlines.hook),
            limits=limits,
            deadlines=config.deadlines,
            half_close=config.half_close,
            threads=trio.CapacityLimiter(limits.threads),
            date=date_field(),
        )
        # Half each, so that raised receive buffers leave room for spools.
        self._receive_buffers = Budget(limits.spool_total / 2)
        self._spools = Budget(limits.spool_total / 2)
        self._watch = current_hangup_watch() if config.hangup_news is HangupNews.KERNEL else None
        self._living: set[Connection] = set()
        self._gone = trio.lowlevel.ParkingLot()

    async def accept(self, listener: socket.socket, connections: trio.Nursery) -> None:
        """Accept connections and start them, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(ACCEPT_AT_ONCE):
                try:
                    sock, peer = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _OUT_OF_RESOURCES:
                        logging.getLogger(ERROR_LOGGER).warning("cannot accept connections: %s", error.strerror)
                        await trio.sleep(ACCEPT_PAUSE)
                    # Anything else (ECONNABORTED, say) is the misfortune of one client: take the next.
                    break
                try:
                    transport = self._transport(sock, peer)
                except OSError:
                    sock.close()  # the client has gone already, and the system says so when options are set
                    continue
                self.start(transport, connections)

    def _transport(self, sock: socket.socket, peer: object) -> Transport:
        client = None
        if sock.family != socket.AF_UNIX:
            assert isinstance(peer, tuple), "the peer of an internet socket is a (host, port, ...) tuple"
            client = (peer[0], peer[1])
            set_options(sock, self._config.deadlines)
        return SocketTransport(
            sock, client, watch=self._watch, spool=self.new_spool(), receive_buffers=self._receive_buffers
        )

    def new_spool(self) -> Spool:
        """A spool under this server's limits."""
        return Spool(self._config.limits.spool, self._spools)

    def start(self, transport: Transport, connections: trio.Nursery) -> None:
        """Serve a transport as a connection, in the given nursery."""
        if self._config.hangup_news is HangupNews.READ_AHEAD:
            transport = ReadAhead(transport, self.new_spool())
            connections.start_soon(self._contained, transport.pump)
        connection = Connection(self._context, transport, self._timers, next(_connection_ids))
        # Living from now on, so that a drain which comes before the task's first step does not miss it.
        self._living.add(connection)
        connections.start_soon(self._serve, connection)

    async def _contained(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part of one connection. A mistake in it, ours or the application's, does not reach the others."""
        try:
            await run()
        except Exception as error:
            self._context.reporter.internal_error(error)

    async def _serve(self, connection: Connection) -> None:
        try:
            await self._contained(connection.serve)
        finally:
            self._living.discard(connection)
            self._gone.unpark_all()

    async def drain(self) -> None:
        """Let the exchanges under way end; cancel them at the deadline. Their unwinding is the nursery's to await."""
        for connection in tuple(self._living):
            connection.drain()
        with trio.move_on_after(self._config.deadlines.drain):
            while self._living:
                await self._gone.park()
        for connection in tuple(self._living):
            connection.stop()


def date_field() -> Callable[[], bytes]:
    """A function that gives the Date field's value (RFC 9110 §5.6.7), made anew once a second at most."""
    made_at, value = 0, b""

    def date() -> bytes:
        nonlocal made_at, value
        now = int(time.time())
        if now != made_at:
            made_at, value = now, email.utils.formatdate(now, usegmt=True).encode("ascii")
        return value

    return date

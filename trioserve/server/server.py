"""The server: listeners, the connections' nursery, and how it all stops.

How it stops, in this order (the drain):

1. From the order on, `Exchange.stopping` is true, so readiness is refused, and so is `draining`; every response says
   `Connection: close`. For `Deadlines.drain_delay` all else goes on, accepting too, until whoever sends us clients
   sends them elsewhere.
2. Whoever waits in a listener's backlog is accepted, beyond `Limits.connections` too, and the listener is closed.
3. Idle connections are closed; not one in which a request lies already, and one that was accepted just now gets
   FIRST_REQUEST seconds to send its own. Exchanges under way go on.
4. At `Deadlines.drain`, counted from the order, those that still run are cancelled with cause DRAIN, and where nothing
   was sent they are answered 503; then everything unwinds, which is not cut.

A server that is only replaced, since others have its listeners too and go on, drains with two differences: it accepts
nobody from the order on, not even whoever waits in the backlog, which is the others' then; and readiness is not refused
(`Exchange.stopping` is false), since whoever asks asks for the service.

No request is lost by that but one that a client sends on an idle connection in the moment in which we close it, which
HTTP/1.1 cannot rule out (RFC 9112 §9.3.1): a client that sends something during the delay hears of the end in time.

Cancelling `serve` skips the waiting: everything is cancelled as DRAIN at once. So does a lifespan that fails while
connections live, since it cancels all that runs inside it. Neither cancellation reaches the connections by itself: they
run in a nursery that is shielded from both, and each is told by `stop`, so that its exchange ends like every other,
through `Departure`, with the right cause at the right moment, and with its transport alive. Before any of them is told,
nothing is accepted any more, so nobody is missed.
"""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import trio

from trioserve.connection.connection import Connection
from trioserve.connection.context import Context
from trioserve.connection.hangup import current_hangup_watch
from trioserve.connection.idle import IdleConnections
from trioserve.connection.readahead import READ_AHEAD, ReadAhead, WatchedReadAhead
from trioserve.connection.spool import Budget, Spool
from trioserve.connection.timers import current_timers
from trioserve.connection.tls import TlsTransport
from trioserve.connection.transport import SocketTransport, Transport
from trioserve.connection.turns import Turns
from trioserve.core.addresses import host_of_peer
from trioserve.core.application import Application
from trioserve.core.forwarded import TrustedProxies
from trioserve.core.records import written
from trioserve.failures import is_failure, sole, ungrouped
from trioserve.observe.access_log import AccessLog
from trioserve.observe.reporter import Reporter
from trioserve.server import admission
from trioserve.server.background import BackgroundWork
from trioserve.server.config import Address, Config, HangupNews
from trioserve.server.descriptors import Reserve
from trioserve.server.listeners import Listener, backlog_of, close_listener, open_listeners, set_options
from trioserve.server.opening import Opening, needs_opening

_connection_ids = itertools.count(1)

ACCEPT_AT_ONCE = 64
"""Connections accepted in a row before the others have their turn."""

FIRST_REQUEST = 1.0
"""Seconds for which a connection may be without its first request when nobody is accepted any more: a client that has
connected sends it within a round trip."""


async def serve(
    app: Application,
    config: Config | None = None,
    *,
    replace: trio.Event | None = None,
    drain: trio.Event | None = None,
    hasten: trio.Event | None = None,
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until it is told to end, or for ever; `await nursery.start(serve, app, config)` gives the addresses.

    Args:
        app: an `App`, or any other `Application`.
        config: what differs from the defaults.
        replace: set it to end gracefully where others have the same sockets (`OpenSocket`) and go on serving: nobody is
            accepted any more, and readiness is not refused, unless `drain` is set too. `serve` returns as after that.
        drain: set it to stop gracefully; `serve` returns when the last exchange has ended.
        hasten: set it too, before or after `replace` or `drain`, where nobody is to be told that the server stops, as
            after a Ctrl-C: `Deadlines.drain_delay` is not waited for then, nor are clients that have just connected.
        task_status: started with the bound addresses, ports filled in, once connections are accepted.

    Raises:
        ConfigError: an address cannot be listened on, or the app is being served already.
        Exception: whatever a lifespan raises: at its start, and then no connection was accepted; at its end; or in
            between, and then the server has stopped as if it had been cancelled. One that fails in between and keeps
            its error to itself stops the server too, and `serve` returns.

    Cancellation: every exchange under way is cancelled with cause DRAIN and answered 503 where nothing was sent; its
    record is made and its hooks are told, each within `Deadlines.hook`.
    """
    config = config or Config()
    replace = replace if replace is not None else trio.Event()
    drain = drain if drain is not None else trio.Event()
    hasten = hasten if hasten is not None else trio.Event()
    server = Server(app, config, replaced=replace, stopping=drain)
    backlog = backlog_of(config.limits)
    listeners = await open_listeners(config.listen, backlog, config.deadlines)
    with contextlib.ExitStack() as listening:
        for listener in listeners:
            listening.callback(close_listener, listener)
        async with server.running():
            with listening.pop_all():
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(server.accept, listener)
                    task_status.started(tuple(listener.address for listener in listeners))
                    await _until_first(replace.wait, drain.wait)
                    moments = server.begin_drain()
                    if drain.is_set():
                        await server.delay_drain(moments, hasten)
                    accepting.cancel_scope.cancel(reason="the server drains")
                if drain.is_set():
                    for listener in listeners:
                        server.accept_last(listener, backlog)
            await server.delay_drain(moments, hasten)
            await server.drain(moments, hasten)


class DrainMoments(NamedTuple):
    """Times of the trio clock: until when others may hear of a drain, and when it cancels what still runs."""

    delayed_until: float
    deadline: float


class Server:
    """The living connections of one `serve`.

    Args:
        replaced: set at the order to end in favour of others.
        stopping: set at the order to stop, which is not given to a server that is only replaced.
    """

    def __init__(self, app: Application, config: Config, *, replaced: trio.Event, stopping: trio.Event) -> None:
        self.stopping = stopping
        self._config = config
        self._timers = current_timers()
        limits, new_engine = config.limits, config.engine.maker()
        access_log = AccessLog() if config.access_log else None
        self._reporter = Reporter(config.observers, app.hooks, config.deadlines.hook, access_log)
        self._context = Context(
            application=app,
            new_engine=lambda: new_engine(limits),
            reporter=self._reporter,
            limits=limits,
            deadlines=config.deadlines,
            half_close=config.half_close,
            threads=trio.CapacityLimiter(limits.threads),
            turns=Turns(limits.exchanges, limits.queue),
            idle=IdleConnections(),
            proxies=(
                TrustedProxies(config.trusted_proxies, config.forwarded_fields) if config.trusted_proxies else None
            ),
            date=date_field(),
            replaced=replaced,
            stopping=stopping,
            drain_begun=trio.Event(),
        )
        # Half each, so that raised receive buffers leave room for spools.
        self._receive_buffers = Budget(limits.spool_total / 2)
        self._spools = Budget(limits.spool_total / 2)
        self._watch = current_hangup_watch() if config.hangup_news is HangupNews.KERNEL else None
        self._reserve = Reserve()
        # Each with whom it counts for in the crowd.
        self._living: dict[Connection | Opening, admission.Group | None] = {}
        self._crowd = admission.Crowd(limits.connections_per_client)
        self._no_room, self._sent_away = admission.Seldom(), admission.Seldom()
        self._gone = trio.lowlevel.ParkingLot()
        # Where connections run, while `running`; what is around the block that starts them; and set when it was left.
        self._connections: trio.Nursery | None = None
        self._starting = trio.CancelScope()
        self._over = trio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connections can be started in the block. However it is left, they have all ended then.

        The block is cancelled if what the application holds fails.
        """
        with ungrouped():
            async with trio.open_nursery() as nursery:
                self._connections = await nursery.start(self._hold_application)
                try:
                    with self._starting:
                        yield
                finally:
                    self._over.set()
                    self.stop()

    # Two shields, one on each side of what the application holds. Neither has a deadline, since an unwind is never cut;
    # all else that a connection awaits has one.

    async def _hold_application(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Hold what the application holds, in it background work, and in that the connections."""
        # The shield against whoever cancels `serve`. It is up while connections live, so that what the application
        # holds is there for handlers that clean up.
        with trio.CancelScope() as held:
            async with trio.open_nursery() as nursery:
                background = BackgroundWork(nursery, self._reporter.background_failed, self._context.threads)
                async with self._context.application.running(background):
                    try:
                        held.shield = True
                        await self._hold_connections(task_status)
                    finally:  # also if something that the application holds has failed, and cancels all within
                        held.shield = False
                        await background.drain(self._config.deadlines.background)

    async def _hold_connections(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Hold the connections until the block of `running` was left and they have ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._block_was_left)  # outside the shield below, to hear what it holds off
            # The shield against what the application holds.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as connections:
                    task_status.started(connections)
                    await self._block_was_left()

    async def _block_was_left(self) -> None:
        """Wait until it was. Cancelled, see to it that it is left, and with that the connections are told to end."""
        try:
            await self._over.wait()
        except trio.Cancelled:
            self._starting.cancel(reason="what the application holds has failed")
            raise

    async def accept(self, listener: Listener) -> None:
        """Accept connections and start them, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            try:
                self._accept_waiting(listener)
            except admission.NoRoom as error:
                self._no_room.warn("cannot accept connections: %s", error)
                await self._make_room()

    def _why_no_room(self, listener: Listener) -> str | None:
        """Why nobody can be accepted now; None if somebody can, as always while there is nobody."""
        if len(self._living) >= self._config.limits.connections:
            return f"there are {len(self._living)} (Limits.connections)"
        return self._why_no_descriptor(listener)

    def _why_no_descriptor(self, listener: Listener) -> str | None:
        if self._living:
            try:
                self._reserve.check(listener.socket.fileno())
            except OSError as error:
                return error.strerror
        return None

    async def _make_room(self) -> None:
        """Close an idle connection if there is one, and wait until any has ended; but not for ever."""
        self._context.idle.close_longest()
        with trio.move_on_after(admission.LOOK_AGAIN):
            await self._gone.park()

    def _accept_waiting(self, listener: Listener) -> None:
        """Accept and start connections that wait in the backlog, as far as there is room. At least one waits.

        Raises:
            NoRoom: there is none even for the first; or the system is out of descriptors or memory.
        """
        if (why := self._why_no_room(listener)) is not None:
            raise admission.NoRoom(why)
        for _ in range(ACCEPT_AT_ONCE):
            if not self._accept_one(listener) or self._why_no_room(listener) is not None:
                return

    def accept_last(self, listener: Listener, at_most: int) -> None:
        """Accept and start those who wait in the backlog of a listener that is about to be closed.

        Beyond `Limits.connections` too: the close resets who still waits, and may have sent a request in good faith.
        There are no more of them than the backlog has room for, and nobody comes after them. Descriptors run short all
        the same, and there is no time to wait for some.
        """
        with contextlib.suppress(admission.NoRoom):
            for _ in range(at_most):
                if self._why_no_descriptor(listener) is not None or not self._accept_one(listener):
                    return

    def _accept_one(self, listener: Listener) -> bool:
        """Accept and start one connection from the backlog; says whether there was one.

        Raises:
            NoRoom: the system is out of descriptors or memory.
        """
        accepted = admission.accept(listener.socket)
        if accepted is None:
            return False
        sock, peer = accepted
        try:
            transport = self._transport(sock, peer, listener)
        except OSError:
            sock.close()  # the client has gone already, and the system says so when options are set
        else:
            self.open(transport, listener.address)
        return True

    def _transport(self, sock: socket.socket, peer: object, listener: Listener) -> Transport:
        client = None
        if isinstance(peer, tuple):  # (host, port, ...), of an internet socket
            client = (host_of_peer(peer[0]), peer[1])
            set_options(sock, listener.options)
        return SocketTransport(
            sock, client, watch=self._watch, spool=self.new_spool(), receive_buffers=self._receive_buffers
        )

    def new_spool(self) -> Spool:
        """A spool under this server's limits."""
        return self._spool(allowance=0)

    def _spool(self, allowance: int) -> Spool:
        return Spool(self._config.limits.spool, self._spools, allowance)

    # Both only while `running`; what comes when that is ending is closed: the others may have been told to end already,
    # and nobody would tell this one.

    def open(self, transport: Transport, address: Address) -> int | None:
        """Serve a transport that was accepted at an address, once it has passed what the address asks for.

        Returns the connection's id, as in its records; None if it is none yet, or will be none.
        """
        if not address.proxy_protocol and self._sends_away(transport):
            return None
        if not needs_opening(address):
            return self.start(transport)
        if self._is_ending:
            transport.close()
            return None
        opening = Opening(transport, address, self._config.deadlines.handshake, self._context.date)
        # A proxy counts for nobody, and whom it speaks for is not known yet.
        self._living[opening] = None if address.proxy_protocol else self._crowd.came(transport.client)
        self._context.idle.add(opening)
        self.connections.start_soon(self._open, opening, address)
        return None

    async def _open(self, opening: Opening, address: Address) -> None:
        async def run() -> None:
            transport = await opening.run()
            if transport is not None and not (address.proxy_protocol and self._sends_away(transport)):
                self.start(transport)  # living as a connection before it ceases to live as an opening

        try:
            await self._contained(run)
        finally:
            self._context.idle.discard(opening)
            self._ended(opening)

    def _sends_away(self, transport: Transport) -> bool:
        """Reset a connection whose client has as many as it may; says whether that was so."""
        if self._crowd.has_room_for(transport.client):
            return False
        transport.reset()
        limit = self._config.limits.connections_per_client
        self._sent_away.warn(
            "reset a connection of %s: it has %d (Limits.connections_per_client)", written(transport.client), limit
        )
        return True

    @property
    def connections(self) -> trio.Nursery:
        """Where connections run, each to its end: until the hooks of its last exchange were called."""
        assert self._connections is not None, "connections run only while the server does"
        return self._connections

    @property
    def _is_ending(self) -> bool:
        return self._over.is_set() or self._starting.cancel_called

    def start(self, transport: Transport) -> int | None:
        """Serve a transport as a connection. Returns its id; None if the server is ending, and it was closed."""
        connections = self.connections
        if self._is_ending:
            transport.close()
            return None
        match self._config.hangup_news:
            case HangupNews.READ_AHEAD:
                transport = self._read_ahead(ReadAhead, transport, connections)
            case HangupNews.KERNEL if isinstance(transport, TlsTransport):
                transport = self._read_ahead(WatchedReadAhead, transport, connections)
        connection = Connection(self._context, transport, self._timers, next(_connection_ids), self._ended)
        # Living from now on, so that a drain which comes before the task's first step does not miss it. One that starts
        # during the drain, behind its opening, ends with its first answer, since all announce the end by then.
        self._living[connection] = self._crowd.came(transport.client)
        connections.start_soon(self._serve, connection)
        return connection.id

    def _read_ahead(self, kind: type[ReadAhead], transport: Transport, connections: trio.Nursery) -> ReadAhead:
        reads_ahead = kind(transport, self._spool(allowance=READ_AHEAD))
        connections.start_soon(self._contained, reads_ahead.pump)
        return reads_ahead

    async def _contained(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part of one connection. A mistake in it, ours or the application's, does not reach the others."""
        try:
            await run()
        except BaseException as error:
            if not is_failure(error):
                raise
            self._context.reporter.internal_error(sole(error))

    async def _serve(self, connection: Connection) -> None:
        try:
            await self._contained(connection.serve)
        finally:
            self._forget_open_nurseries()
            self._ended(connection)  # also if it could not close itself

    def _forget_open_nurseries(self) -> None:
        """Cancel the nurseries that a handler has left open in this task, which ends now, and take them off it.

        For that trio fails the task when it has ended, past every `except` in it, and with it all that runs beside it:
        the other connections. Around each of them a nursery of its own would hold that off too, but costs all of them a
        second task. Neither helps where a handler has broken out of an async generator that holds a nursery in which
        something runs: then trio closes that in another task, which its own rules take for a mistake in trio itself.
        """
        task = trio.lowlevel.current_task()
        left_open = task.child_nurseries
        if left_open:
            for nursery in left_open:
                nursery.cancel_scope.cancel(reason="it was left open, and its connection has ended")
            task._child_nurseries.clear()  # noqa: SLF001
            self._context.reporter.internal_error(RuntimeError("a handler has left a nursery open"))

    def _ended(self, living: Connection | Opening) -> None:
        """Give its place to others. It may be told more than once."""
        if living in self._living:
            self._crowd.left(self._living.pop(living))
            self._gone.unpark_all()

    # The drain, in this order

    def begin_drain(self) -> DrainMoments:
        """An order to end has come. Since then connections end with their next answer; wake who waits for that."""
        self._context.drain_begun.set()
        now, deadlines = trio.current_time(), self._config.deadlines
        return DrainMoments(now + min(deadlines.drain_delay, deadlines.drain), now + deadlines.drain)

    async def delay_drain(self, moments: DrainMoments, hasten: trio.Event) -> None:
        """Give others time to hear of it, if it is not over. Where nobody else accepts, accepting ends after this."""
        with trio.move_on_at(moments.delayed_until):
            await hasten.wait()

    async def drain(self, moments: DrainMoments, hasten: trio.Event) -> None:
        """Let the exchanges under way end; cancel them at the deadline. Their unwinding is the nursery's to await."""
        for living in tuple(self._living):
            living.drain()
        with trio.move_on_at(moments.deadline):
            with trio.move_on_after(FIRST_REQUEST):
                await _until_first(self._all_gone, hasten.wait)
            for living in tuple(self._living):
                living.end_if_idle()
            await self._all_gone()
        self.stop()

    async def _all_gone(self) -> None:
        while self._living:
            await self._gone.park()

    def stop(self) -> None:
        """Cancel every exchange under way, as DRAIN."""
        for living in tuple(self._living):
            living.stop()


async def _until_first(*waits: Callable[[], Awaitable[None]]) -> None:
    """Wait until one of several waits has ended; the others are given up."""
    async with trio.open_nursery() as nursery:

        async def run(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel(reason="what was waited for beside this has come")

        for wait in waits:
            nursery.start_soon(run, wait)


def date_field(clock: Callable[[], float] = time.time) -> Callable[[], bytes]:
    """A function that gives the Date field's value (RFC 9110 §5.6.7), made anew once a second at most.

    `clock` tells the time in seconds since 1970.
    """
    made_at, value = 0, b""

    def date() -> bytes:
        nonlocal made_at, value
        now = int(clock())
        if now != made_at:
            made_at, value = now, email.utils.formatdate(now, usegmt=True).encode("ascii")
        return value

    return date

"""One play: one request, whose client stays, or leaves at one point in one way, and all that is known of it.

The client sends its request in pieces, so that a handler which reads it has to wait for it: the head, and the content
in two halves, each when all tasks rest. It reads what comes at once; but where it is to leave inside a response, the
connection holds so little that the server's send is blocked when it leaves.

What trioserve's error log would say is kept with the play: of hundreds of plays it would hide what is to be seen.

Each play begins with the same random numbers for trio's scheduler, so that it can be played again exactly.

A play waits until its exchange has ended, its hooks were called, and what it started beside itself has ended too. Then
it looks what is left, and only then it lets the server go: what the application holds is there as long as a handler, or
a snapshot, may use it.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import math
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from typing import Any

import trio
import trio.testing

from trioserve.connection.exchange import ServedExchange
from trioserve.connection.spool import RECEIVE_SIZE
from trioserve.core.application import Application, Endpoint, Exchange, Hook, Rules
from trioserve.core.errors import ERROR_LOGGER
from trioserve.core.lifecycle import HalfClose
from trioserve.core.messages import RequestHead
from trioserve.core.records import Abandoned, Completed, Record
from trioserve.failures import consists_of, ungrouped
from trioserve.server.config import Config
from trioserve.testing.facts import Wait
from trioserve.testing.force import end_by_force
from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, ResponseBytes, Way
from trioserve.testing.peer import Peer
from trioserve.testing.places import WRITTEN, whose
from trioserve.testing.plain import expects_continue
from trioserve.testing.plan import PlannedLeave
from trioserve.testing.residue import Residue
from trioserve.testing.rests import what_rests
from trioserve.testing.scheduling import fixed_order
from trioserve.testing.served import Served, served
from trioserve.testing.watching import Watch
from trioserve.testing.wire import Wire
from trioserve.testing.wrapping import WrappedApplication, WrappedEndpoint

Snapshot = Callable[[], Any]
"""Gives a value that can be compared; an async one is awaited."""

Around = Callable[[], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]
"""Makes what is entered around each play."""

PATIENCE = 3600.0
"""Seconds of virtual time that an exchange gets to end while its client stays, and as many again when it has left,
beyond `Deadlines.vanish`; and then what it started beside itself. No handler that is bounded at all takes that long."""

MOST_WAITS = 20_000
"""Checkpoints at which an exchange is taken for one without an end, also if no time passes in it."""

REAL_PATIENCE = 1.0
"""Seconds of real time that threads and children get to be gone behind the exchange that used them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all plays of one test have in common."""

    app: Application
    wire: Wire
    config: Config
    snapshot: Snapshot | None = None
    around: Around | None = None
    stay: float | None = None  # seconds for which a client stays that does not leave before; None: to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """All that is known of one play."""

    wire: Wire
    leave: PlannedLeave | None  # None: the client was to stay
    stayed: Played | None  # the play in which it stayed, if there was one before
    left: bool  # it has left where it was to leave
    left_at: float | None  # seconds of the trio clock; None if it has not
    stay: float | None  # as in the setting
    stay_over: bool  # it was still there, or reading, in the end, and left because the exchange went on and on
    handled: bool  # a handler was found for the request, and called
    rules: Rules  # those of its route
    half_close: HalfClose
    config: Config
    watch: Watch
    received: bytes
    parts: list[int]  # sizes in bytes of what was received at a time
    records: list[Record]
    told: list[Abandoned]
    logged: list[str]  # messages of the error log, with their tracebacks
    told_early: bool  # a hook was called while the endpoint still ran
    in_time: bool  # the exchange had an end
    kept: bool  # a client that stayed could have sent a next request
    ended: Way | None  # how the server ended the connection, as far as the client has seen it
    written_after_departure: int  # bytes
    before: Any  # the snapshots
    after: Any
    rests: list[str]  # what was not there before the request and is there after it, in words
    rests_behind: list[str]  # the same, of before the server started and after it has ended

    @property
    def came_to_its_end(self) -> bool:
        """True if the handler did all that it does.

        So did one that never met its cancellation, which came when it had returned, or during its last call of a worker
        thread: what was done there cannot be undone.
        """
        if any(isinstance(record, Completed) or record.outcome == "finished" for record in self.records):
            return True
        ended = [ending for ending in self.watch.endings if ending.endpoint]
        # One that runs in a worker thread has met it there, if trioserve has in its stead.
        in_thread = ServedExchange.run_in_thread.__name__
        cut = any(whose(cut.place.file) in WRITTEN or cut.place.function == in_thread for cut in self.watch.cuts)
        return bool(ended) and not cut and all(_was_only_cancelled(ending.error) for ending in ended)


def _was_only_cancelled(error: BaseException | None) -> bool:
    return error is None or consists_of(error, trio.Cancelled)


async def play(
    setting: Setting,
    leave: PlannedLeave | None = None,
    stayed: Played | None = None,
    *,
    patience: float = REAL_PATIENCE,
) -> Played:
    """Play once.

    Args:
        leave: where and how the client leaves; None lets it stay.
        stayed: the play in which it stayed, if there was one before.
        patience: seconds of real time that threads and children get to be gone behind their exchange.

    Cancellation: ends the play; the handler unwinds.
    """
    news = _News()
    noted = _Noted(setting.app)
    config = dataclasses.replace(setting.config, observers=(*setting.config.observers, news))
    await trio.testing.wait_all_tasks_blocked()  # so that nothing else takes a part in the order
    with ungrouped(), fixed_order(), news.heard(), _kept_log() as logged:
        async with _entered(setting.around):
            outside = Residue.now()
            async with served(noted, config) as theatre:
                inside, before = Residue.now(), await _value(setting.snapshot)
                if stayed is None:
                    _check_repeats(before, await _value(setting.snapshot))
                peer = theatre.connect(**_room(leave, stayed))
                client = _Client(peer, setting, leave, theatre.watch)
                in_time = await _play_out(client, theatre, news)
                _let_go(theatre)
                usual = stayed.rests if stayed is not None else None
                rests = await what_rests(inside, news.until, usual, virtual=PATIENCE, real=patience)
                after = await _value(setting.snapshot)
            usual = usual_behind(leave, stayed)
            rests_behind = await what_rests(outside, news.until, usual, virtual=PATIENCE, real=patience / 10)
    return Played(
        wire=setting.wire,
        leave=leave,
        stayed=stayed,
        left=client.left,
        left_at=peer.left.at if client.left and peer.left is not None else None,
        stay=setting.stay,
        stay_over=client.stay_over,
        handled=noted.called,
        rules=noted.found,
        half_close=noted.found.half_close or setting.config.half_close,
        config=config,
        watch=theatre.watch,
        received=bytes(peer.received),
        parts=client.parts,
        records=theatre.records.all,
        told=theatre.records.told,
        logged=logged,
        told_early=noted.told_early,
        in_time=in_time,
        kept=client.kept,
        ended=peer.ended,
        written_after_departure=peer.written_after_departure,
        before=before,
        after=after,
        rests=rests,
        rests_behind=rests_behind,
    )


def usual_behind(leave: PlannedLeave | None, stayed: Played | None) -> list[str] | None:
    """What is left, usually, when the server has ended. A client that stays for a second time leaves nothing new."""
    if stayed is None:
        return None
    return stayed.rests_behind if leave is not None else []


async def _play_out(client: _Client, theatre: Served, news: _News) -> bool:
    """Let the client play until the exchange has ended and its connection too. False if that takes too long."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send)
        nursery.start_soon(client.receive)
        with client.patience as patience:
            await _end(client, theatre, news)
        if patience.cancelled_caught and client.is_to_leave_at_last:
            client.leave_at_last()
            with client.patience as patience:
                await _end(client, theatre, news)
        nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        theatre.watch.close()
        await end_by_force(theatre.server)
    return not patience.cancelled_caught


async def _end(client: _Client, theatre: Served, news: _News) -> None:
    connections = theatre.server.connections
    await news.until(lambda: theatre.records.all or not connections.child_tasks)
    if not client.has_left:
        await trio.testing.wait_all_tasks_blocked()
        client.go()
    await news.until(lambda: not connections.child_tasks)
    if client.reads:
        await client.ended.wait()


MOST_RECEIVES = 200
"""How many receives a client needs at the most to get to its point, where the connection is kept small."""


def _room(leave: PlannedLeave | None, stayed: Played | None) -> dict[str, int]:
    """How much the connection may hold, so that the server's send is blocked when the client leaves."""
    if leave is None or stayed is None or not isinstance(leave.at, ResponseBytes):
        return {}
    room = (len(stayed.received) - leave.at.count) // 2
    return {"response_room": room} if room >= max(2, leave.at.count // MOST_RECEIVES) else {}


def _finite(seconds: float) -> float:
    return seconds if seconds < math.inf else 0


class _Client:
    """The client of a play."""

    def __init__(self, peer: Peer, setting: Setting, leave: PlannedLeave | None, watch: Watch) -> None:
        self._peer = peer
        self._wire = setting.wire
        self._leave = leave
        self._at = leave.at if leave is not None else None
        self._watch = watch
        watch.on_checkpoint = self._at_checkpoint
        # How long the play waits for the end. Begun anew with each thing that ought to bring it.
        self._stay = setting.stay
        # A client that is to leave gets to what was met in the last moment when it stayed.
        longer = 1 if leave is None else 2
        self.patience = trio.move_on_after(PATIENCE if setting.stay is None else setting.stay * longer)
        self._patience_when_left = PATIENCE + _finite(setting.config.deadlines.vanish)
        self.left = False
        self.stay_over = False
        self.kept = False
        self.parts: list[int] = []
        self._status_known = trio.Event()
        self.ended = trio.Event()

    async def send(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for piece in self._pieces():
                await trio.testing.wait_all_tasks_blocked()
                taken = self._peer.send_nowait(piece)
                if taken < len(piece):
                    await self._peer.send(piece[taken:])
                if piece is self._wire.head and not await self._may_send_content():
                    return
            if isinstance(self._at, HeadBytes | BodyBytes):
                self.leave()

    def _pieces(self) -> Iterator[bytes]:
        head, body = self._wire.head, self._wire.body
        if isinstance(self._at, HeadBytes):
            yield head[: self._at.count] if self._at.count < len(head) else head
            return
        yield head
        end = self._at.count if isinstance(self._at, BodyBytes) else len(body)
        half = min((len(body) + 1) // 2, end)
        for piece in (body[:half], body[half:end]):
            if piece:
                yield piece

    async def _may_send_content(self) -> bool:
        """A client that expects 100 Continue waits for it (RFC 9110 section 10.1.1)."""
        if not expects_continue(self._wire):
            return True
        await self._status_known.wait()
        return self._peer.received.startswith((b"HTTP/1.1 1", b"HTTP/1.1 2"))

    async def receive(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._peer.receive(self._most()):
                self.parts.append(len(data))
                if len(self._peer.received) >= len(b"HTTP/1.1 100"):
                    self._status_known.set()
                if self._at == ResponseBytes(len(self._peer.received)):
                    self.leave()
        self._status_known.set()
        self.ended.set()

    def _most(self) -> int:
        """How many bytes it may receive now: not beyond its point."""
        left = self._at.count - len(self._peer.received) if isinstance(self._at, ResponseBytes) else 0
        return left if left > 0 else RECEIVE_SIZE

    def _at_checkpoint(self, wait: Wait) -> None:
        if self._at == Checkpoint(wait.number):
            self.leave()
        if wait.number == MOST_WAITS:
            self.patience.cancel()

    def leave(self) -> None:
        """Leave as planned, without a step of the scheduler."""
        if self._leave is not None and not self.has_left and not self.patience.cancel_called:
            self.left = True
            self._go_on_for(self._stay if self._leave.how is Way.HALF_CLOSE else None)
            self._watch.departed()
            self._peer.leave(self._leave.how)

    def leave_at_last(self) -> None:
        """Leave though that was not planned, or not here: it has stayed for as long as it was to stay."""
        self.stay_over = True
        self.patience = trio.move_on_after(self._patience_when_left)
        if self.left:
            self._peer.close()
        else:
            self._watch.departed()
            self._peer.leave(Way.FIN)

    @property
    def is_to_leave_at_last(self) -> bool:
        """True if it is there, or still reads and was not to do so for ever."""
        return not self.left or (self.reads and self._stay is not None)

    def _go_on_for(self, seconds: float | None) -> None:
        self.patience.deadline = trio.current_time() + (self._patience_when_left if seconds is None else seconds)

    @property
    def has_left(self) -> bool:
        return self.left or self.stay_over

    @property
    def reads(self) -> bool:
        """True if it reads to the connection's end."""
        if self.stay_over:
            return False
        return self._leave is None or not self.left or self._leave.how is Way.HALF_CLOSE

    def go(self) -> None:
        """Go in peace: all was said."""
        self.kept = not self.ended.is_set()
        self._go_on_for(None)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._peer.half_close()


class _Noted(WrappedApplication):
    """An application, and what is to be known of its endpoints and hooks."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        # The rules of the route that was found; until then the app's.
        self.found = app.rules
        self.called = False
        self.told_early = False
        self._endpoints_running = 0

    @property
    def hooks(self) -> Sequence[Hook]:
        return (*super().hooks, self._told)

    def endpoint(self, head: RequestHead) -> Endpoint:
        endpoint = super().endpoint(head)
        self.found = endpoint.rules
        return WrappedEndpoint(endpoint, self._call)

    async def _call(self, endpoint: Endpoint, exchange: Exchange) -> None:
        self.called = self.called or endpoint.name is not None
        self._endpoints_running += 1
        try:
            await endpoint(exchange)
        finally:
            self._endpoints_running -= 1

    async def _told(self, _: Abandoned) -> None:
        self.told_early = self.told_early or self._endpoints_running > 0


@contextmanager
def _kept_log() -> Iterator[list[str]]:
    """What is written to the error log inside, which nobody else gets."""
    messages: list[str] = []
    form = logging.Formatter()

    def keep(record: logging.LogRecord) -> bool:
        messages.append(form.format(record))  # and not the exception: with it we would hold all that its frames had
        return False

    log = logging.getLogger(ERROR_LOGGER)
    log.addFilter(keep)
    try:
        yield messages
    finally:
        log.removeFilter(keep)


class _News(trio.abc.Instrument):
    """Lets a play wait for what changes only when a task ends or a record is made."""

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()

    def task_exited(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self._lot.unpark_all()

    def completed(self, _: Completed) -> None:
        self._lot.unpark_all()

    def abandoned(self, _: Abandoned) -> None:
        self._lot.unpark_all()

    @contextmanager
    def heard(self) -> Iterator[None]:
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._lot.park()


def _let_go(theatre: Served) -> None:
    """Hold nothing of what has ended: with an exception we would hold all that its frames had."""
    errors: list[BaseException | None] = [ending.error for ending in theatre.watch.endings]
    errors += [record.exception for record in theatre.records.all if isinstance(record, Abandoned)]
    seen = set()
    while errors:
        error = errors.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        errors += [error.__context__, error.__cause__]
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions


async def _value(snapshot: Snapshot | None) -> Any:
    if snapshot is None:
        return None
    value = snapshot()
    if inspect.isawaitable(value):
        value = await value
    # Of a list that lives on, what is in it now. Of what cannot be copied to something equal, the thing itself.
    with suppress(Exception):
        copied = copy.deepcopy(value)
        if copied == value:
            return copied
    return value


def _check_repeats(value: Any, again: Any) -> None:
    """A snapshot that changes by itself would be found to differ, whatever the handler does."""
    if value != again:
        raise ValueError(
            f"snapshot differs when nothing has happened: it was {value!r:.80}, and looked at again {again!r:.80}. "
            "Leave out what changes by itself (a counter, a time, NaN), and give what compares by its value (==)"
        )


@asynccontextmanager
async def _entered(around: Around | None) -> AsyncIterator[None]:
    manager = around() if around is not None else nullcontext()
    if isinstance(manager, AbstractAsyncContextManager):
        async with manager:
            yield
    else:
        with manager:
            yield

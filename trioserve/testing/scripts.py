"""Scripts: what one client does, as data; and the one player for all of them, in memory and on sockets.

A script is the client's requests, one behind the other on one connection, and its actions: how it sends them, how long
it pauses, and how it leaves. It is short, compared by value, and its repr is code that makes it again. What the server
does with it is for the model to say (see model.py), and what handlers do is described in handlers.py.

Sending is counted in bytes of all requests together, so a script cannot send anything but its requests, and not in
another order; where it leaves in the midst of them, it has sent just a beginning. For what is no request, give a `Wire`
of any bytes.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio
from trio.testing import wait_all_tasks_blocked

from trioserve.core.limits import Deadlines, Limits
from trioserve.core.records import ClientAddress
from trioserve.testing.leaving import Way
from trioserve.testing.wire import Wire


class Coded:
    """Something whose repr is code that makes it again, as short as can be."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _code(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # noqa: FBT001 - how Hypothesis (and IPython) ask
        printer.text(_code(self))


def _code(value: object) -> str:
    """A value of these modules as code that makes it again; what is as by default is left out."""
    match value:
        case enum.Enum():
            return f"{type(value).__name__}.{value.name}"
        case tuple() if not hasattr(value, "_fields"):
            return f"({', '.join(map(_code, value))}{',' if len(value) == 1 else ''})"
        case Mapping():
            return "{" + ", ".join(f"{_code(key)}: {_code(each)}" for key, each in value.items()) + "}"
        case Coded() | Deadlines() | Limits():
            return f"{type(value).__name__}({', '.join(_arguments(value))})"
        case _:
            return repr(value)


def _arguments(value: Any) -> Iterator[str]:
    positional = True
    for each in dataclasses.fields(value):
        given = getattr(value, each.name)
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if given == default:
            positional = False
        else:
            yield _code(given) if positional and not each.kw_only else f"{each.name}={_code(given)}"


# What a client does


@dataclass(frozen=True, slots=True, repr=False)
class Send(Coded):
    """Send the next bytes of the requests."""

    count: int | None = None
    """How many bytes; None for all that is left."""

    pieces: tuple[int, ...] = ()
    """The sizes of the pieces in which they are sent, over and over; each is seen by the server by itself. Without any,
    all is handed over at once, and what comes next may come before the server has seen it."""

    pauses: tuple[float, ...] = ()
    """Seconds after each piece, over and over."""


@dataclass(frozen=True, slots=True, repr=False)
class Pause(Coded):
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class Read(Coded):
    """Wait until so many bytes have been received, since the beginning; or for the connection's end."""

    count: int


@dataclass(frozen=True, slots=True, repr=False)
class Reach(Coded):
    """Wait until the handlers have reached so many of their marks, all together; or the connection's end.

    See `trioserve.testing.handlers.Marks`. With it a client can leave in the midst of a handler on a real socket too,
    where nobody can say how long something takes.
    """

    marks: int


@dataclass(frozen=True, slots=True, repr=False)
class Quiet(Coded):
    """Wait until everybody waits: the server has done what it can with what was sent."""


@dataclass(frozen=True, slots=True, repr=False)
class Stay(Coded):
    """Wait until the server has ended the connection, but not for more than so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class Leave(Coded):
    """Leave. Only after `Way.HALF_CLOSE` can anything follow, but no `Send`."""

    way: Way


Action = Send | Pause | Read | Reach | Quiet | Stay | Leave


@dataclass(frozen=True, slots=True, repr=False)
class Script(Coded):
    """What one client does. At the end of its actions, if it has not left for good, it closes (FIN).

    Raises:
        ValueError: an action follows a departure that leaves nothing to do.
    """

    requests: tuple[Wire, ...]
    actions: tuple[Action, ...] = (Send(),)
    reads: bool = True
    """It takes what comes as it comes. Else only where an action says so, and a response may block."""

    def __post_init__(self) -> None:
        gone: Way | None = None
        for action in self.actions:
            if gone is not None and (gone is not Way.HALF_CLOSE or isinstance(action, Send)):
                raise ValueError(
                    f"{action!r} comes after Leave({gone!r}), where there is nothing more to be done"
                    + ("" if gone is not Way.HALF_CLOSE else " but to read, to wait, and to leave for good")
                )
            if isinstance(action, Leave):
                gone = action.way

    @property
    def stream(self) -> bytes:
        """All that is sent, if all of it is sent."""
        return b"".join(request.head + request.body for request in self.requests)


# How it goes


@dataclass
class Course:
    """How a script went, as its client knows it. Times are seconds of the trio clock."""

    client: ClientAddress
    """As the server sees it, and as its records say."""

    began: float = 0.0
    sent: list[tuple[float, int]] = field(default_factory=list)
    """How many bytes had been sent, at which time: each time a piece was out."""

    blocked: bool = False
    """A send took time: the server did not read. Then when bytes were sent is known less well."""

    received: bytes = b""
    left: list[tuple[float, Way]] = field(default_factory=list)
    """When and how it left: twice, if it has half-closed first."""

    ended: tuple[float, Way] | None = None
    """When and how the server ended the connection, if the client saw that before it left: FIN or RESET."""

    def sent_by(self, time: float) -> int:
        """How many bytes had been sent at that time."""
        return max((size for at, size in self.sent if at <= time), default=0)

    def sent_at(self, size: int) -> float | None:
        """When so many bytes had been sent; None if never."""
        return min((at for at, so_many in self.sent if so_many >= size), default=None)


class RawPeer(Protocol):
    """What the player needs of a client: a `trioserve.testing.Peer` has it."""

    client: ClientAddress

    async def send(self, data: bytes, *, pieces: Sequence[int] = ...) -> None: ...

    async def receive(self, most: int = ...) -> bytes: ...

    def leave(self, way: Way) -> None: ...

    def close(self) -> None: ...


Connect = Callable[[], "RawPeer | Awaitable[RawPeer]"]
"""Makes a new client, as `lambda: Peer(memory.connect())` does."""


async def play_script(
    script: Script,
    connect: Connect,
    *,
    reached: Callable[[int], Awaitable[None]] | None = None,
    cushion: float = 0.0,
) -> Course:
    """Play a script on a connection of its own.

    Args:
        connect: makes the client; it may be async.
        reached: waits until the handlers have reached so many marks: `Marks.reached`. Needed for `Reach`.
        cushion: for how many real seconds everybody must have waited for `Quiet`. In memory 0; on sockets, where bytes
            are under way for a moment, some hundredths, and the server must be in the same trio run.

    What the server does with it afterwards is not waited for: wait for its records (`Records.count`).

    Cancellation: the client closes.

    Raises:
        ValueError: the script says `Reach`, and `reached` is missing.
    """
    if reached is None and any(isinstance(action, Reach) for action in script.actions):
        raise ValueError("a script with Reach must know what handlers reach: play_script(..., reached=marks.reached)")
    peer = connect()
    if isinstance(peer, Awaitable):
        peer = await peer
    player = _Player(script, peer, reached, cushion)
    try:
        return await player.play()
    finally:
        peer.close()


class _Player:
    def __init__(
        self, script: Script, peer: RawPeer, reached: Callable[[int], Awaitable[None]] | None, cushion: float
    ) -> None:
        self._script = script
        self._peer = peer
        self._reached = reached
        self._cushion = cushion
        self._rest = memoryview(script.stream)
        self._received = bytearray()
        self._course = Course(peer.client, began=trio.current_time())
        self._over = trio.Event()
        self._news = trio.lowlevel.ParkingLot()
        self._gone = False

    async def play(self) -> Course:
        async with trio.open_nursery() as nursery:
            if self._script.reads:
                nursery.start_soon(self._read_on)
            for action in self._script.actions:
                await self._act(action)
            if not self._gone:
                self._leave(Way.FIN)
            nursery.cancel_scope.cancel()
        self._course.received = bytes(self._received)
        return self._course

    async def _act(self, action: Action) -> None:
        match action:
            case Send(count, pieces, pauses):
                await self._send(len(self._rest) if count is None else count, pieces, pauses)
            case Pause(seconds):
                await trio.sleep(seconds)
            case Read(count):
                await self._read(count)
            case Reach(marks):
                await self._reach(marks)
            case Quiet():
                await wait_all_tasks_blocked(self._cushion)
            case Stay(seconds):
                with trio.move_on_after(seconds):
                    await self._until_over()
            case Leave(way):
                self._leave(way)

    async def _send(self, count: int, pieces: tuple[int, ...], pauses: tuple[float, ...]) -> None:
        data, self._rest = self._rest[:count], self._rest[count:]
        sizes, seconds = itertools.cycle(pieces or (max(count, 1),)), itertools.cycle(pauses or (0.0,))
        while data:
            piece, data = data[: (size := next(sizes))], data[size:]
            before = trio.current_time()
            try:
                await self._peer.send(bytes(piece), pieces=[size] if pieces else [])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the server has ended the connection: the reader, or nobody, is told how
            self._course.blocked |= trio.current_time() > before
            already = self._course.sent[-1][1] if self._course.sent else 0
            self._course.sent.append((trio.current_time(), already + len(piece)))
            if pause := next(seconds):
                await trio.sleep(pause)

    def _leave(self, way: Way) -> None:
        self._course.left.append((trio.current_time(), way))
        self._gone = way is not Way.HALF_CLOSE
        self._peer.leave(way)

    # What comes

    async def _read_on(self) -> None:
        while await self._receive():
            pass

    async def _read(self, until: int) -> None:
        while len(self._received) < until and not self._over.is_set():
            if self._script.reads:
                await self._news.park()
            else:
                await self._receive(until - len(self._received))

    async def _until_over(self) -> None:
        """The end of the connection can be met by reading only."""
        if self._script.reads:
            await self._over.wait()
        else:
            await trio.sleep_forever()

    async def _reach(self, marks: int) -> None:
        assert self._reached is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_over, nursery)
            await self._reached(marks)
            nursery.cancel_scope.cancel()

    async def _cancel_when_over(self, nursery: trio.Nursery) -> None:
        await self._over.wait()
        nursery.cancel_scope.cancel()

    async def _receive(self, most: int = 65_536) -> bytes:
        """Some bytes; b"" at the end."""
        data, end = b"", Way.FIN
        try:
            data = await self._peer.receive(most)
        except trio.BrokenResourceError:
            end = Way.RESET
        except trio.ClosedResourceError:
            return b""  # it has left
        self._received += data
        if not data:
            self._course.ended = self._course.ended or (trio.current_time(), end)
            self._over.set()
        self._news.unpark_all()
        return data


async def play_scripts(
    visits: Sequence[Visit], connect: Connect, *, reached: Callable[[int], Awaitable[None]] | None = None
) -> list[Course]:
    """Play several scripts at once, each on a connection of its own from its time on."""
    courses: dict[int, Course] = {}

    async def play(number: int, visit: Visit) -> None:
        await trio.sleep(visit.comes_at)
        courses[number] = await play_script(visit.script, connect, reached=reached)

    async with trio.open_nursery() as nursery:
        for number, visit in enumerate(visits):
            nursery.start_soon(play, number, visit)
    return [courses[number] for number in range(len(visits))]


@dataclass(frozen=True, slots=True, repr=False)
class Visit(Coded):
    """One client of several: its script, and when it comes, in seconds from the beginning."""

    script: Script
    comes_at: float = 0.0

"""Playing cases against a server, in memory and on sockets, and comparing what came with what must come.

In memory a case is played in several ways at once, one connection for each: whole, byte by byte, split at random, or
split at each byte. How bytes are divided into segments must make no difference. All these connections go in step: each
sends its next segment, and then the server is let come to rest. So a segment ends where we say, and hundreds of splits
cost little. Time is virtual, so a case may wait for a deadline.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio
import trio.testing

from tests.conformance.application import Served, application
from tests.conformance.corpus import Case, Expected
from trioserve import Abandoned, Completed, Config, EngineName, Limits, TcpAddress, serve
from trioserve.testing import MemoryServer, memory_server
from trioserve.testing.answers import RawAnswer, WrongAnswer, read_answers

NEXT = b"GET /next HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
"""What is asked behind a case whose last answer keeps the connection."""

PATIENCE = 200.0
"""Virtual seconds after which the server has ended every connection: longer than any of its deadlines."""
SOCKET_PATIENCE = 10.0

PROMPT = 0.5
"""Virtual seconds after its last answer within which a connection ends: it waits for nothing."""

ClientAddress = tuple[str, int]

SHORT = 100
"""Bytes up to which a case is split at each of them."""
LONG = 600
"""Bytes from which on a case is not sent byte by byte."""

Segments = tuple[tuple[bytes, ...], ...]
"""The pieces of a case, each divided into segments."""


@dataclass(frozen=True)
class Seen:
    """What a client saw of one connection."""

    received: bytes
    end: str  # how the server ended the connection: "FIN", "RST", or "" if it did not
    served: int  # how many handlers were given a whole request
    completed: int | None = None  # how many exchanges were reported as completed; None where nobody has counted
    waited: float = 0.0  # seconds from the last byte received to the end


def ways(case: Case) -> dict[str, Segments]:
    """How a case is sent, by name: whole, byte by byte unless it is long, and split at random places."""
    found: dict[str, Segments] = {"whole": tuple((piece,) for piece in case.pieces)}
    if sum(map(len, case.pieces)) < LONG:
        found["byte by byte"] = tuple(tuple(bytes([byte]) for byte in piece) for piece in case.pieces)
    draw = random.Random(case.id)  # the same places in each run
    found["split at random"] = tuple(tuple(_random_split(piece, draw)) for piece in case.pieces)
    return found


def every_split(case: Case) -> dict[str, Segments]:
    """All ways to send a short case in two segments; none for others."""
    piece, *more = case.pieces
    if more or len(piece) > SHORT:
        return {}
    return {f"split at {place}": ((piece[:place], piece[place:]),) for place in range(1, len(piece))}


def _random_split(piece: bytes, draw: random.Random) -> Iterator[bytes]:
    places = sorted(draw.sample(range(1, len(piece)), k=min(draw.randint(1, 4), len(piece) - 1))) if piece else []
    for begin, end in zip([0, *places], [*places, len(piece)], strict=True):
        yield piece[begin:end]


def differences(case: Case, seen: Seen) -> list[str]:
    """In what the connection differs from what the case expects; empty if in nothing."""
    try:
        answers = read_answers(seen.received, case.asked)
    except WrongAnswer as error:
        return [str(error)]
    expected = list(case.answers)
    if goes_on(case) and answers and not answers[min(len(answers), len(expected)) - 1].closes:
        expected.append(Expected(frozenset({200}), closes=True, content=b"next"))
    if [answer.status for answer in answers] != _statuses(answers, expected):
        wanted = ["|".join(map(str, sorted(each.statuses))) for each in expected]
        return [f"the answers are {[answer.status for answer in answers]}, and not {wanted}"]
    found = [text for pair in zip(answers, expected, strict=True) for text in _answer_differs(*pair)]
    if seen.end != "FIN" and not any(each.cut for each in expected):
        found.append("the connection was reset" if seen.end else "the connection was not ended")
    by_handlers = sum(answer.status < 400 or answer.status == 500 for answer in answers)
    if seen.served > by_handlers:
        found.append(f"{seen.served} handlers were given a request, and {by_handlers} answered one")
    if answers and answers[-1].status != 101:  # how a WebSocket ends is not HTTP's affair
        found += _end_differs(answers, seen)
    return found


def _end_differs(answers: Sequence[RawAnswer], seen: Seen) -> Iterator[str]:
    if seen.waited > PROMPT:
        yield f"the connection was ended {seen.waited} seconds after the last answer"
    whole = sum(not answer.cut for answer in answers)
    if seen.completed not in {None, whole}:
        yield f"{seen.completed} exchanges were reported as completed, and {whole} answers were whole"


def all_differences(case: Case, seen: Mapping[str, Seen]) -> list[str]:
    """In what a case that was sent in several ways differs from what it expects, and its ways from each other."""
    found = [f"{way}: {text}" for way, each in seen.items() for text in differences(case, each)]
    if not found:
        codes = {
            way: [answer.status for answer in read_answers(each.received, case.asked)] for way, each in seen.items()
        }
        if len(set(map(tuple, codes.values()))) > 1:
            found.append(f"how the bytes come makes a difference: {codes}")
    return found


def goes_on(case: Case) -> bool:
    """True if a further request can follow."""
    if case.leaves or not case.answers:
        return False
    last = case.answers[-1]
    return last.closes is not True and not last.cut and 101 not in last.statuses


def _statuses(answers: Sequence[RawAnswer], expected: Sequence[Expected]) -> list[int]:
    """The status codes that should be there; where there is a choice, those that are."""
    codes = [min(each.statuses) for each in expected]
    for index, (answer, each) in enumerate(zip(answers, expected, strict=False)):
        if answer.status in each.statuses:
            codes[index] = answer.status
    return codes


def _answer_differs(answer: RawAnswer, expected: Expected) -> Iterator[str]:
    if expected.closes is not None and answer.closes != expected.closes and 101 not in expected.statuses:
        yield f"{answer.status} says that the connection {'ends' if answer.closes else 'goes on'}"
    if expected.cut != answer.cut:
        yield f"{answer.status} was {'cut' if answer.cut else 'whole'}"
    if expected.content is not None and answer.content != expected.content:
        yield f"the content is {answer.content!r}, and not {expected.content!r}"
    for name, value in expected.fields.items():
        if answer.all(name) != [value]:
            yield f"{name} is {answer.all(name)}, and not {value!r}"
    for name in expected.without:
        if answer.all(name):
            yield f"there is {name}: {answer.all(name)}"
    if expected.interim is not None and answer.interim != expected.interim:
        yield f"the interim responses are {answer.interim}, and not {expected.interim}"


class Peer(Protocol):
    """The client's end of a connection."""

    async def send_all(self, data: bytes) -> None: ...
    async def send_eof(self) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes: ...


class Player:
    """A client that plays one case in one way, and notes what it gets."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.received = b""
        self.received_at = 0.0
        self.end = ""
        self.ended_at = 0.0
        self.ended = trio.Event()

    async def read(self) -> None:
        """Note everything up to the connection's end."""
        try:
            while data := await self._peer.receive_some(65536):
                self.received += data
                self.received_at = trio.current_time()
            self.end = "FIN"
        except trio.BrokenResourceError:
            self.end = "RST"
        self.ended_at = trio.current_time()
        self.ended.set()

    async def send(self, data: bytes) -> None:
        try:
            await self._peer.send_all(data)
        except trio.BrokenResourceError:
            pass  # what the server has said before that counts; `read` notes how it went

    async def leave(self) -> None:
        try:
            await self._peer.send_eof()
        except trio.BrokenResourceError:
            pass  # as above


class CompletedOf:
    """An observer that counts completed exchanges by client."""

    def __init__(self) -> None:
        self.counts: Counter[ClientAddress | None] = Counter()

    def completed(self, record: Completed) -> None:
        self.counts[record.client] += 1

    def abandoned(self, record: Abandoned) -> None:
        """Others are the tests in `tests/lifecycle` about."""


class MemoryStage:
    """A server in memory."""

    def __init__(self, server: MemoryServer, served: Served, completed: CompletedOf) -> None:
        self._server = server
        self._served = served
        self._completed = completed

    async def play(self, case: Case, ways: Mapping[str, Segments]) -> dict[str, Seen]:
        """What is seen in each of the ways in which the case is sent."""
        segments = list(ways.values())
        peers = [self._server.connect() for _ in ways]
        players = [Player(peer) for peer in peers]
        async with trio.open_nursery() as nursery:
            for player in players:
                nursery.start_soon(player.read)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(len(case.pieces)):
                await _in_step(players, [each[number] for each in segments])
            if goes_on(case):
                await _in_step(players, [(NEXT,)] * len(players))
            if case.leaves:
                for player in players:
                    await player.leave()
            with trio.move_on_after(PATIENCE):
                for player in players:
                    await player.ended.wait()
            nursery.cancel_scope.cancel()
        for peer in peers:
            peer.close()
        return {
            way: self._seen(player, peer._transport.client)
            for way, player, peer in zip(ways, players, peers, strict=True)
        }

    def _seen(self, player: Player, client: ClientAddress) -> Seen:
        return Seen(
            player.received,
            player.end,
            served=self._served.pop(client, 0),
            completed=self._completed.counts[client],
            waited=player.ended_at - player.received_at,
        )


async def _in_step(players: Sequence[Player], segments: Sequence[tuple[bytes, ...]]) -> None:
    for step in range(max(map(len, segments))):
        for player, those in zip(players, segments, strict=True):
            if step < len(those) and those[step]:
                await player.send(those[step])
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def in_memory(case: Case, engine: EngineName) -> AsyncIterator[MemoryStage]:
    """A server in memory with the limits of the case; for virtual time."""
    app, served = application()
    completed = CompletedOf()
    config = Config(limits=Limits(**case.limits), engine=engine, observers=(completed,), access_log=False)
    async with memory_server(app, config) as server:
        yield MemoryStage(server, served, completed)


def first_of_each(kind: Callable[[Case], str], cases: Iterable[Case]) -> list[Case]:
    """Of each kind the first case."""
    first: dict[str, Case] = {}
    for case in cases:
        first.setdefault(kind(case), case)
    return list(first.values())


def on_sockets(cases: Iterable[Case]) -> list[Case]:
    """The share of the cases that is played on sockets too: of each requirement the first with an answer that needs
    no pause and no further word of the client's.
    """
    return first_of_each(
        lambda case: f"{case.section}: {case.rule}",
        (
            case
            for case in cases
            if len(case.pieces) == 1 and case.answers and not any(each.statuses & {101, 408} for each in case.answers)
        ),
    )


async def play_on_socket(case: Case) -> Seen:
    """What is seen on a real connection. How its bytes are divided is the system's affair."""
    app, served = application()
    config = Config(listen=(TcpAddress("127.0.0.1", 0),), limits=Limits(**case.limits), access_log=False)
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(serve, app, config)
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            player = Player(stream)
            with trio.move_on_after(SOCKET_PATIENCE):
                await player.send(case.pieces[0] + (NEXT if goes_on(case) else b""))
                await player.read()
            client = stream.socket.getsockname()
        nursery.cancel_scope.cancel()
    return Seen(player.received, player.end, served.pop(client, 0))

"""Run the situations, each many times, and say what was seen.

Those of which one repetition is brief take turns, so that what disturbs the machine disturbs them alike. The others
come behind them, one after another: they move much, and wait long.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from benchmarks.departures.client import Client, Events
from benchmarks.departures.situations import Settings, Situation, ToldBy
from benchmarks.process_facts import file_descriptors
from benchmarks.server_process import ServerProcess

RECORD_PATIENCE = 2.0
"""Seconds for the record of a departure that was noticed; the clean-up takes 0.02."""

NO_RECORD_PATIENCE = 0.05
"""Seconds in which no record may come where none is due."""

CLOSE_LOOKS_EVERY = 0.0001
"""Seconds between two looks at whether the server has closed a socket: what such a row's figures are exact to."""

TOGETHER = 30
"""Clients at the most in a situation that has all repetitions at once."""


@dataclass(slots=True)
class Row:
    """What was seen of one situation."""

    situation: Situation
    repetitions: int = 0
    seconds: float = 0.0  # that they took
    departures: int = 0
    delays: list[float] = field(default_factory=list)  # seconds; one for each departure that was noticed
    answers: int = 0
    stories: Counter[str] = field(default_factory=Counter)  # what the records tell
    remarks: Counter[str] = field(default_factory=Counter)


class Servers:
    """The server for each of the settings, started when it is first needed."""

    def __init__(self, hangup_news: str) -> None:
        self._hangup_news = hangup_news
        self._running: dict[Settings, tuple[ServerProcess, Events]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for settings in tuple(self._running):
            self.stop(settings)

    def get(self, settings: Settings) -> tuple[ServerProcess, Events]:
        if settings not in self._running:
            process = ServerProcess(
                "benchmarks.departures.server",
                f"--hangup-news={self._hangup_news}",
                f"--send-stall={settings.send_stall}",
                f"--vanish={settings.vanish}",
            )
            process.__enter__()
            self._running[settings] = process, Events(process.output)
        return self._running[settings]

    def stop(self, settings: Settings) -> None:
        process, _ = self._running.pop(settings)
        process.__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Amount:
    """How often a situation is repeated, and for how long."""

    repetitions: int
    least: int  # also if there is no time for them
    seconds: float  # for each situation; one that takes longer has less repetitions

    @property
    def together(self) -> int:
        """Repetitions of a situation that has all of them at once."""
        return min(self.repetitions, TOGETHER)

    def is_done(self, row: Row) -> bool:
        if row.situation.together:
            return row.repetitions > 0
        return row.repetitions >= self.repetitions or (row.repetitions >= self.least and row.seconds >= self.seconds)


def measure(
    situations: Iterable[Situation], servers: Servers, amount: Amount, progress: Callable[[Row], None]
) -> list[Row]:
    """A row for each situation, in their order. `progress` is told of each that is done."""
    rows = [Row(situation) for situation in situations]
    brief = [row for row in rows if row.situation.brief]
    for turns in (brief, *([row] for row in rows if not row.situation.brief)):
        left = turns
        while left:
            for row in left:
                repeat(row, servers, amount)
                if amount.is_done(row):
                    progress(row)
            left = [row for row in left if not amount.is_done(row)]
    return rows


def repeat(row: Row, servers: Servers, amount: Amount) -> None:
    situation = row.situation
    missed = row.departures - len(row.delays)
    server, events = servers.get(situation.settings)
    begun = time.monotonic()
    _Repetition(situation, server, events, row).run(situation.crowd * (amount.together if situation.together else 1))
    if situation.told_by is not ToldBy.NOTHING and row.departures - len(row.delays) > missed:
        # What was not noticed goes on and holds what it holds; the next repetition begins without it.
        servers.stop(situation.settings)
    row.repetitions += 1
    row.seconds += time.monotonic() - begun


class _Repetition:
    """Clients arrive, stay, leave; then wait for what tells of their departure."""

    def __init__(self, situation: Situation, server: ServerProcess, events: Events, row: Row) -> None:
        self._situation = situation
        self._server = server
        self._events = events
        self._row = row
        self._descriptors = 0  # of the server, while all clients are there

    def run(self, crowd: int) -> None:
        clients = [Client(self._server.port, self._events) for _ in range(crowd)]
        try:
            for client in clients:
                self._situation.arrive(client)
            if self._situation.starts:
                for client in clients:
                    client.handler_has_started()
            self._stay(clients)
            self._descriptors = file_descriptors(self._server.pid)
            for client in clients:
                if self._situation.reads:
                    client.drain()
                client.leave(self._situation.leaving)
            for client in clients:
                self._see(client)
        finally:
            for client in clients:
                client.away()

    def _stay(self, clients: list[Client]) -> None:
        until = time.monotonic() + self._situation.stay
        while (now := time.monotonic()) < until:
            pushed = [client.push() for client in clients]
            if not any(pushed):
                self._events.hear(min(0.001, until - now))

    def _see(self, client: Client) -> None:
        self._row.departures += 1
        if self._situation.told_by is ToldBy.NOTHING:
            self._row.answers += self._answered(client)
        noticed_at = self._noticed_at(client)
        if noticed_at is not None:
            self._row.delays.append(noticed_at - client.left_at)
        self._hear_the_story(client, noticed=noticed_at is not None)

    def _noticed_at(self, client: Client) -> float | None:
        until = client.left_at + self._situation.patience
        match self._situation.told_by:
            case ToldBy.CANCELLATION:
                event = self._events.wait_for(client.port, "cancelled", until)
            case ToldBy.RECORD:
                event = self._events.wait_for(client.port, "record", until)
            case ToldBy.NOTHING:
                event = self._events.find(client.port, "cancelled")
            case ToldBy.CLOSE:
                return self._closed_at(until)
        return event.at if event else None

    def _closed_at(self, until: float) -> float | None:
        while (now := time.monotonic()) < until:
            if file_descriptors(self._server.pid) < self._descriptors:
                return now
            # Not without a pause: the server might have been put on our core, and wait for it.
            time.sleep(CLOSE_LOOKS_EVERY)
        return None

    def _answered(self, client: Client) -> bool:
        try:
            return b" 200 " in client.receive_until(b"ok")
        except (OSError, EOFError):
            return False

    def _hear_the_story(self, client: Client, *, noticed: bool) -> None:
        """What the record says, and what the row's own look at the events sees."""
        told_by = self._situation.told_by
        if not noticed and told_by is not ToldBy.NOTHING:
            return
        what = "completed" if told_by is ToldBy.NOTHING else "record"
        patience = NO_RECORD_PATIENCE if told_by is ToldBy.CLOSE else RECORD_PATIENCE
        record = self._events.wait_for(client.port, what, time.monotonic() + patience)
        self._row.stories[record.facts["story"] if record else "no record"] += 1
        if self._situation.remark is not None:
            self._row.remarks[self._situation.remark(self._events.of(client.port))] += 1

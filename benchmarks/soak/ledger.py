"""The ledger: that each exchange has exactly one record, as far as clients can know of exchanges.

* Of a request that was answered, there is one; if its client behaved, it says `Completed`, with the right status.
* Of a request whose handler began, there is one, whatever its client did.
* Of any other there is one or none: what a client sent before it reset the connection, the server may never have read.
* The exchanges of a connection are numbered 1, 2, 3 ..., so that one whose name was never read is missed too.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass

import trio

SHOWN = 50
"""Complaints that are shown word for word on stderr; of the rest only the number is told."""


@dataclass(slots=True)
class Entry:
    """One exchange, until it has its record and its client has done with it."""

    what: str
    status: int | None  # that its record must say; None if its client misbehaves
    client_done: bool = False
    answered: bool = False
    began: bool = False
    recorded: bool = False


class Complaints:
    """What went wrong, and how often."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts.total() <= SHOWN:
            print(f"{kind}: {text}", file=sys.stderr, flush=True)


NO_RECORD = "exchanges without a record"
TOO_MANY = "records too many"
WRONG_RECORD = "wrong records"


class Ledger:
    """All exchanges of one soak."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints
        self._entries: dict[int, Entry] = {}
        self._numbers = itertools.count(1)
        self._issued = 0
        self._last_exchange: dict[int, int] = {}  # by connection
        self.records = 0
        self.abandoned = 0
        self.stories: Counter[str] = Counter()
        # Of requests that never had a name: answered ones need a record, and each misbehaving connection may have one.
        self.nameless_records = 0
        self.nameless_answered = 0
        self.nameless_possible = 0

    def open(self, what: str, status: int | None = None) -> int:
        """The number of a new exchange. `status`: its client behaves, and this is what it is answered."""
        number = self._issued = next(self._numbers)
        self._entries[number] = Entry(what, status)
        return number

    def expect_nothing(self, number: int) -> None:
        """Its client misbehaves, so its record may say anything."""
        self._entries[number].status = None

    def what(self, number: int) -> str:
        """What an open exchange is."""
        return self._entries[number].what

    def close(self, number: int, *, answered: bool) -> None:
        """Its client has done with it."""
        entry = self._entries[number]
        entry.client_done, entry.answered = True, answered
        self._forget_if_settled(number, entry)

    async def listen(self, pipe: int) -> None:
        unparsed = b""
        while True:
            await trio.lowlevel.wait_readable(pipe)
            data = os.read(pipe, 262_144)
            if not data:
                raise RuntimeError("the server has ended")
            *lines, unparsed = (unparsed + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "began" in said:
                    self._began(said["began"])
                else:
                    self._recorded(said["record"], said["connection"], said["exchange"], said["story"])

    def _began(self, number: int) -> None:
        entry = self._entries.get(number)
        if entry is None or entry.began:
            self._complaints.add(TOO_MANY, f"the handler of exchange {number} began twice, or after its record")
        else:
            entry.began = True

    def _recorded(self, number: int | None, connection: int, exchange: int, story: str) -> None:
        self.records += 1
        self.abandoned += not story.endswith("completed")
        self.stories[story] += 1
        last = self._last_exchange.get(connection, 0)
        self._last_exchange[connection] = exchange
        if exchange != last + 1:
            kind = NO_RECORD if exchange > last else TOO_MANY
            self._complaints.add(
                kind, f"connection {connection}: after exchange {last} the record of {exchange}: {story}"
            )
        if number is None:
            self.nameless_records += 1
            return
        entry = self._entries.get(number)
        if entry is None or entry.recorded:
            which = f"a second record of exchange {number}" if number <= self._issued else f"a record of {number}"
            self._complaints.add(TOO_MANY, f"{which}: {story}")
            return
        entry.recorded = True
        if entry.status is not None and story != f"{entry.status} completed":
            self._complaints.add(WRONG_RECORD, f"{entry.what} should be {entry.status} completed and is {story}")
        self._forget_if_settled(number, entry)

    def _forget_if_settled(self, number: int, entry: Entry) -> None:
        if entry.client_done and entry.recorded:
            del self._entries[number]

    def outstanding(self) -> bool:
        """True while an exchange has no record that must have one."""
        return any(entry.began or entry.answered for entry in self._entries.values() if not entry.recorded)

    def audit(self) -> None:
        """When all is quiet: complain of what has no record, and forget what needs none."""
        for entry in self._entries.values():
            if not entry.recorded and (entry.began or entry.answered):
                self._complaints.add(NO_RECORD, entry.what)
        self._entries.clear()
        if self.nameless_records < self.nameless_answered:
            answered = f"{self.nameless_answered} unreadable requests were answered"
            self._complaints.add(NO_RECORD, f"{answered}, and there are {self.nameless_records} records of such")
        if self.nameless_records > self.nameless_possible:
            possible = f"{self.nameless_possible} unreadable requests"
            self._complaints.add(TOO_MANY, f"{self.nameless_records} records of at most {possible}")

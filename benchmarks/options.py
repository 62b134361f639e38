"""What a measurement of the suite is told: how long, how often, on which cores; and how it tells how far it is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Options:
    """For all measurements of a run."""

    rounds: int
    seconds: int  # of load in each round, for each server
    quick: bool  # less of everything: the whole suite takes under two minutes
    server_core: int
    load_core: int
    peers: tuple[str, ...] | None = None  # keys of the servers that were asked for; None: all

    def wants(self, key: str) -> bool:
        """Whether this server is to be measured."""
        return self.peers is None or key in self.peers


def cores() -> tuple[int, int]:
    """The core for servers and the one for the load: the first and the last of those that we may use.

    Raises:
        LookupError: there is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise LookupError("two cores are needed, one for the server and one for the load")
    return usable[0], usable[-1]


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Progress:
    """Lines on stderr, each with the time that is left.

    What is left is what was estimated, corrected by how long the estimated part that is done has really taken.
    """

    estimate: float  # seconds, of everything
    say: Callable[[str], None] = to_stderr
    clock: Callable[[], float] = time.monotonic
    done: float = 0.0  # of the estimate
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def step(self, what: str, estimated: float = 0.0) -> None:
        """Tell of something done, which had been estimated to take so many seconds."""
        self.done += estimated
        self.say(f"[{self.left()} left] {what}")

    def left(self) -> str:
        used = self.clock() - self.started
        # Too little of it is done at first to tell anything of the rest.
        pace = used / self.done if self.done > self.estimate / 20 else 1.0
        seconds = max(0.0, (self.estimate - self.done) * pace)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

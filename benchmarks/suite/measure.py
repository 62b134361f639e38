"""The rounds: in each, every server of a workload is asked in turn, so what disturbs the machine disturbs all alike.
Each round begins with another server, so that none is always asked first, or always long after another.

The servers of a workload live at the same time; only one is asked at a time. What a server has used of the processor
while it was asked, with all its processes, is divided by the requests that the load counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.options import Options, Progress
from benchmarks.results import Figure, Result, Row
from benchmarks.suite.checking import complaint
from benchmarks.suite.peers import Command, Peer, servers_of
from benchmarks.suite.servers import Server, Servers, StartError
from benchmarks.suite.workloads import Workload
from benchmarks.suite.wrk import Answered, LoadError, put_load

_Any = TypeVar("_Any")

CPU = "CPU a request"
RATE = "requests"
"""The columns."""

WARM_UP = 1
"""Seconds of load for each server that has just been started."""

START = 0.5
"""Seconds that are estimated for the start of a server."""

OVERHEAD = 0.1
"""Seconds that are estimated for the start and the end of each load."""


@dataclass(frozen=True, slots=True)
class Task:
    """A workload, and the servers that are measured with it."""

    workload: Workload
    peers: tuple[Peer, ...]

    def seconds(self, options: Options) -> float:
        """An estimate of its rounds, without the start of servers."""
        return len(self.peers) * _rounds(self.workload, options) * _round(self.workload, options)

    def commands(self) -> set[Command]:
        return {_command(peer, self.workload) for peer in self.peers}


def plan(workloads: Iterable[Workload], wanted: tuple[str, ...] | None) -> tuple[Sequence[Task], tuple[str, ...]]:
    """What is to be measured, and a line for each server that cannot be, with the reason.

    Args:
        wanted: keys of servers; None: those that each workload names.
    """
    tasks, left_out = [], {}
    for workload in workloads:
        there = []
        for peer in servers_of(workload, wanted):
            reason = peer.missing()
            if reason is None:
                there.append(peer)
            else:
                left_out[peer.key] = f"{peer.key} is left out: {reason}"
        if there:
            tasks.append(Task(workload, tuple(there)))
    return tasks, tuple(left_out.values())


def seconds(tasks: Sequence[Task], options: Options) -> float:
    """An estimate of how long `measure` will take."""
    started = set().union(*(task.commands() for task in tasks))
    return sum(task.seconds(options) for task in tasks) + len(started) * _start()


@dataclass(slots=True)
class _Measured:
    """One server and one workload, round by round."""

    peer: Peer
    cpu: list[float] = field(default_factory=list)  # microseconds a request
    rate: list[float] = field(default_factory=list)  # requests a second
    errors: int = 0
    timeouts: int = 0

    def row(self) -> Row:
        notes = [(self.errors, "connections broke"), (self.timeouts, "requests timed out")]
        note = ", ".join(f"{count} {what}" for count, what in notes if count)
        figures = {CPU: Figure("us", tuple(self.cpu)), RATE: Figure("1/s", tuple(self.rate))}
        return Row(self.peer.key, figures, note)


class Bench:
    """Measures one task after another; `close` must be called in the end, whatever happens."""

    def __init__(self, options: Options, progress: Progress, scratch: Path) -> None:
        self._options = options
        self._progress = progress
        self._scratch = scratch
        self._servers = Servers(options.server_core, scratch)
        self.left_out: list[str] = []

    def close(self) -> None:
        self._servers.stop_all_but(set())

    def measure(self, tasks: Sequence[Task]) -> Iterable[Result]:
        """One result after another. Servers that no later task needs are stopped."""
        for number, task in enumerate(tasks):
            yield self._measure(task)
            self._servers.stop_all_but(set().union(*(later.commands() for later in tasks[number + 1 :])))

    def _measure(self, task: Task) -> Result:
        workload = task.workload
        measured = [_Measured(peer) for peer in self._usable(task)]
        rounds = _rounds(workload, self._options)
        for round_ in range(rounds):
            for one in in_turn(measured, round_, rounds):
                told = f"{workload.name}, round {round_ + 1}/{rounds}: {one.peer.key}"
                try:
                    self._one_round(one, workload)
                except LoadError as error:
                    self._leave_out(one.peer, workload, str(error))
                    measured.remove(one)
                else:
                    told += f" {one.cpu[-1]:.1f} us a request, {one.rate[-1]:,.0f} requests/s"
                self._progress.step(told, _round(workload, self._options))
        return Result(workload.name, workload.title, tuple(one.row() for one in measured), text=workload.text)

    def _usable(self, task: Task) -> list[Peer]:
        """Those that start and answer rightly; the new ones are warm then."""
        new = []
        broken = set()
        for peer in task.peers:
            try:
                if self._servers.start(_command(peer, task.workload)):
                    new.append(peer)
            except StartError as error:
                self._leave_out(peer, task.workload, str(error))
                broken.add(peer)
        usable = []
        for peer in task.peers:
            if peer in broken:
                continue
            server = self._servers[_command(peer, task.workload)]
            reason = self._not_ready(server, task.workload, warm=peer not in new)
            if reason is None:
                usable.append(peer)
            else:
                self._leave_out(peer, task.workload, reason)
            if peer in new:
                self._progress.step(
                    f"{task.workload.name}: {peer.key} is {'warm' if reason is None else 'left out'}", _start()
                )
        return usable

    def _not_ready(self, server: Server, workload: Workload, *, warm: bool) -> str | None:
        try:
            server.ready()
            reason = complaint(workload, server.port)
            if reason is None and not warm:
                self._put_load(workload, server, WARM_UP)
        except (StartError, LoadError) as error:
            return str(error)
        return reason

    def _one_round(self, one: _Measured, workload: Workload) -> None:
        server = self._servers[_command(one.peer, workload)]
        cpu, answered = self._cost(workload, server, workload.settle + _load_seconds(workload, self._options))
        requests, seconds = answered.requests, answered.seconds
        if workload.settle:
            settling, settled = self._cost(workload, server, workload.settle)
            cpu, requests, seconds = cpu - settling, requests - settled.requests, seconds - settled.seconds
        if requests <= 0 or cpu <= 0 or seconds <= 0:
            raise LoadError("no request was answered")
        one.cpu.append(cpu / requests * 1e6)
        one.rate.append(requests / seconds)
        one.errors += answered.errors
        one.timeouts += answered.timeouts

    def _cost(self, workload: Workload, server: Server, seconds: int) -> tuple[float, Answered]:
        """CPU seconds, and what was answered."""
        before = server.cpu_seconds()
        answered = self._put_load(workload, server, seconds)
        return server.cpu_seconds() - before, answered

    def _put_load(self, workload: Workload, server: Server, seconds: int) -> Answered:
        return put_load(workload, server.port, seconds, self._options.load_core, self._scratch)

    def _leave_out(self, peer: Peer, workload: Workload, reason: str) -> None:
        line = f"{peer.key} is left out of {workload.name}: {reason}"
        self.left_out.append(line)
        self._progress.say(line)


def _command(peer: Peer, workload: Workload) -> Command:
    command = peer.command(workload)
    assert command is not None, (peer.key, workload.name)
    return command


def in_turn(all_of_them: Sequence[_Any], round_: int, rounds: int) -> list[_Any]:
    """The order of a round: that of the list, but from another place on."""
    first = round_ * max(1, len(all_of_them) // rounds) % max(1, len(all_of_them))
    return [*all_of_them[first:], *all_of_them[:first]]


def _rounds(workload: Workload, options: Options) -> int:
    return options.rounds * workload.turns


def _load_seconds(workload: Workload, options: Options) -> int:
    """Of load for each server in each round."""
    if workload.turns > 1:
        return 1
    return max(1, options.seconds * workload.weight // 2)


def _round(workload: Workload, options: Options) -> float:
    """Seconds that are estimated for one round of one server."""
    loads = 2 if workload.settle else 1
    return _load_seconds(workload, options) + loads * (workload.settle + OVERHEAD)


def _start() -> float:
    return START + WARM_UP + OVERHEAD

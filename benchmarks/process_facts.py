"""What the kernel knows of a process, from /proc."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_USER_TIME, _SYSTEM_TIME = 11, 12  # proc_pid_stat(5), counted from the field behind the command's name
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h
_CHILDREN_TIME = 13  # in user mode; that in kernel mode follows


def exact_cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all threads that it has had, by its own clock: in nanoseconds, where /proc has ticks
    of 10 ms.

    Raises:
        OSError: there is no such process, or it has ended.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def cpu_seconds(pid: int) -> float:
    """CPU time that the process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS


class _Process(NamedTuple):
    """A line of the process table. `ended` is the time of its children that have ended and were waited for."""

    parent: int
    session: int
    own: float
    ended: float


def tree_cpu_seconds(pid: int) -> float:
    """CPU time that a process and all its descendants have used, those included that have ended.

    Exact for those that live; those that have ended are told in ticks of 10 ms. A child that ends while we look is
    counted with its parent or by itself, as it was when each was read.
    """
    processes = _process_table()
    tree = [pid, *_below(pid, processes)]
    return sum(_own(member, processes[member]) + processes[member].ended for member in tree)


def _own(pid: int, process: _Process) -> float:
    try:
        return exact_cpu_seconds(pid)
    except OSError:  # it has ended since the table was read
        return process.own


def descendants(pid: int) -> list[int]:
    """The processes that it has started and that live, theirs included; parents before their children."""
    return _below(pid, _process_table())


def session_members(pid: int) -> list[int]:
    """The other processes of the session that it leads: also those whose parents have ended."""
    return [member for member, process in _process_table().items() if process.session == pid and member != pid]


def _below(pid: int, processes: dict[int, _Process]) -> list[int]:
    found = [pid]
    for ancestor in found:
        found += [child for child, process in processes.items() if process.parent == ancestor]
    return found[1:]


def _process_table() -> dict[int, _Process]:
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            fields = text.rpartition(")")[2].split()
            own, ended = (sum(map(int, fields[first : first + 2])) / _TICKS for first in (_USER_TIME, _CHILDREN_TIME))
            table[int(entry.name)] = _Process(int(fields[1]), int(fields[3]), own, ended)
    return table


def file_descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def threads(pid: int) -> int:
    return _status(pid, "Threads")


def resident_kilobytes(pid: int) -> int:
    return _status(pid, "VmRSS")


class Held(NamedTuple):
    """A connection that was accepted: its client's IPv4 address and port. `inode` tells it from later ones."""

    host: str
    port: int
    inode: str


def held_connections(*ports: int) -> set[Held]:
    """The connections to these ports of ours that are in some process's hands.

    One that waits to be accepted, and one that was closed, are not among them, though the system is busy with them.
    """
    held = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        (
            _,
            local,
            remote,
            state,
            *_,
        ) = fields = line.split()
        if state != _LISTENING and int(local.partition(":")[2], 16) in ports and fields[_INODE] != "0":
            address, _, remote_port = remote.partition(":")
            host = ".".join(str(byte) for byte in int(address, 16).to_bytes(4, sys.byteorder))
            held.add(Held(host, int(remote_port, 16), fields[_INODE]))
    return held


def system_tcp_kilobytes() -> int:
    """The memory that the system's TCP uses for what was sent and received, of all processes."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        key, _, facts = line.partition(":")
        if key == "TCP":
            words = facts.split()
            return int(words[words.index("mem") + 1]) * _PAGE // 1024
    raise LookupError("/proc/net/sockstat has no line TCP")


_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTENING = "0A"
_INODE = 9  # in /proc/net/tcp; 0 once no process holds the socket


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise LookupError(f"/proc/{pid}/status has no line {name}")

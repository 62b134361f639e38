"""What the kernel knows of a process, from /proc."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_USER_TIME, _SYSTEM_TIME = 11, 12  # proc_pid_stat(5), counted from the field behind the command's name


def cpu_seconds(pid: int) -> float:
    """CPU time that the process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS


def file_descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def threads(pid: int) -> int:
    return _status(pid, "Threads")


def resident_kilobytes(pid: int) -> int:
    return _status(pid, "VmRSS")


def server_connections(port: int) -> set[tuple[str, int]]:
    """The clients (IPv4 address, port) whose connections to this port of ours are in some process's hands.

    One that the process has closed is not among them, though the system may still be busy with it.
    """
    clients = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        (
            _,
            local,
            remote,
            state,
            *_,
        ) = fields = line.split()
        if state != _LISTENING and int(local.partition(":")[2], 16) == port and fields[_INODE] != "0":
            address, _, remote_port = remote.partition(":")
            host = ".".join(str(byte) for byte in int(address, 16).to_bytes(4, sys.byteorder))
            clients.add((host, int(remote_port, 16)))
    return clients


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

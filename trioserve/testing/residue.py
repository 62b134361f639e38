"""Residue: what is in the process at one moment, so that a test can tell what is left of something.

Four things can outlive a handler: tasks of the trio run, threads, open descriptors, child processes. `Residue.now()`
looks at all of them, and `left(before, after)` says in words what there is after and was not before.

* Tasks: all of this run, trio's own and everybody else's. None where trio does not run.
* Threads that are at work. A worker thread that trio keeps for the next one to need it is idle, and does not count.
  Which are idle, trio keeps to itself; where a later one does so in another way, they are told by their names, which
  a thread that was started just now does not have yet.
* Descriptors, told by their number and what they are, so that one that was closed and opened anew for something else
  is seen. Where the system has no list of them (neither /proc/self/fd nor /dev/fd) none are seen.
* Child processes, the dead ones that nobody has waited for among them. Only where there is /proc.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from trio._core import _thread_cache


@dataclass(frozen=True, slots=True)
class Residue:
    """What is in the process at one moment. Each is told from another by its key, and named by the text."""

    tasks: dict[trio.lowlevel.Task, str] = field(default_factory=dict)
    threads: dict[threading.Thread, str] = field(default_factory=dict)
    descriptors: dict[tuple[int, str], str] = field(default_factory=dict)
    children: dict[int, str] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Residue:
        """What there is now. May be called in a trio run or outside of one; the calling thread does not count."""
        at_work = cls.at_work()
        return cls(
            tasks=cls.running().tasks,
            threads=at_work.threads,
            descriptors={(number, kind): f"{kind} (descriptor {number})" for number, kind in _descriptors()},
            children=at_work.children,
        )

    @classmethod
    def running(cls) -> Residue:
        """Only the tasks, which end in trio's time."""
        return cls(tasks={task: task.name for task in all_tasks()})

    @classmethod
    def at_work(cls) -> Residue:
        """Only the threads and children, which end in real time."""
        idle = _idle_threads()
        return cls(
            threads={thread: thread.name for thread in threading.enumerate() if thread not in idle},
            children={child: f"{child} ({_command(child)})" for child in _children()},
        )


def left(before: Residue, after: Residue) -> list[str]:
    """In words, what there is after and was not before; empty if all is gone."""
    return [
        *_new("a task still runs: {}", before.tasks, after.tasks),
        *_new("a thread is still at work: {}", before.threads, after.threads),
        *_new("left open: {}", before.descriptors, after.descriptors),
        *_new("a child process is left: {}", before.children, after.children),
    ]


def _new(text: str, before: Iterable[object], after: Mapping[Any, str]) -> Iterator[str]:
    known = set(before)
    return (text.format(name) for key, name in after.items() if key not in known)


def all_tasks() -> Iterator[trio.lowlevel.Task]:
    """All tasks of this run, trio's own too, parents before their children; none where trio does not run."""
    root = trio.lowlevel.current_root_task() if trio.lowlevel.in_trio_run() else None
    return tasks_from([root] if root is not None else [])


def tasks_from(tasks: Iterable[trio.lowlevel.Task]) -> Iterator[trio.lowlevel.Task]:
    """These tasks and all below them, parents before their children."""
    rest = list(tasks)
    while rest:
        task = rest.pop()
        yield task
        rest += (child for nursery in task.child_nurseries for child in nursery.child_tasks)


def _idle_threads() -> set[threading.Thread]:
    """The threads that do not count: this one, and those that trio keeps."""
    cache = getattr(_thread_cache, "THREAD_CACHE", None)
    kept = getattr(cache, "_idle_workers", None)
    if kept is not None:
        idle = {worker._thread for worker in list(kept)}  # noqa: SLF001
    else:
        idle = {thread for thread in threading.enumerate() if _IDLE.fullmatch(thread.name)}
    return idle | {threading.current_thread()}


# What trio names a worker thread as long as it has no work; else it is named after that.
_IDLE = re.compile(r"Trio thread \d+")


def _descriptors() -> Iterator[tuple[int, str]]:
    """Each open descriptor, and what it is: a file's path, or a kind with the number by which the system knows it."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208  # a Path for each would be most of the work
                with suppress(OSError):  # the one by which the folder is listed is closed by now
                    yield int(name), _kind(int(name), f"{folder}/{name}")
            return


def _kind(number: int, link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:
        status = os.fstat(number)
        return f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'something')}:[{status.st_ino}]"


_KINDS = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe", stat.S_IFREG: "file", stat.S_IFDIR: "folder"}


def _children() -> Iterator[int]:
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  # as above
            with suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as children:  # noqa: PTH123
                yield from map(int, children.read().split())


def _command(child: int) -> str:
    """What a child process runs."""
    try:
        words = Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "gone by now"
    return b" ".join(words).decode(errors="replace") or "has ended, and nobody has waited for it"

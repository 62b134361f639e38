"""Ending by force what does not end by itself: a handler that has shielded itself for good.

For the end of a play only, when it is known already that a rule is broken: no test is to hang for that.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import MethodType
from typing import Any

import trio

from trioserve.testing.residue import tasks_from
from trioserve.testing.server import MemoryServer


async def end_by_force(server: MemoryServer) -> None:
    """End an exchange that does not end by itself: nothing else ends a handler that has shielded itself for good."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.drain)  # which cancels, whatever the policy
        while server.connections.child_tasks:
            _break_shields(server.connections)
            await trio.sleep(1)


def _break_shields(nursery: trio.Nursery) -> None:
    """Let a cancellation through to all tasks of a nursery, whatever they have shielded."""
    for task in tasks_from(nursery.child_tasks):
        for scope in _scopes_of(task):
            scope.shield = False


def _scopes_of(task: trio.lowlevel.Task) -> Iterator[trio.CancelScope]:
    """The scopes that a task is in. A block holds the bound `__exit__` of what it has entered."""
    things: list[Any] = [task.coro]
    seen = set()
    while things:
        thing = things.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, MethodType):
            owner = thing.__self__
            if isinstance(owner, trio.CancelScope):
                yield owner
            things.append(getattr(owner, "gen", None))
        elif hasattr(thing, "cr_frame") or hasattr(thing, "gi_frame") or hasattr(thing, "ag_frame"):
            things.extend(gc.get_referents(thing))

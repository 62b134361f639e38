"""What a task is doing, as text: for the warning about a handler that does not end."""

from __future__ import annotations

import traceback

import trio


def stack_of(task: trio.lowlevel.Task) -> str:
    """The frames at which `task` and its child tasks wait, innermost last, as in a traceback."""
    lines = [f"task {task.name}:\n"]
    lines += traceback.StackSummary.extract(task.iter_await_frames()).format()
    for nursery in task.child_nurseries:
        lines += [stack_of(child) for child in nursery.child_tasks]
    return "".join(lines)

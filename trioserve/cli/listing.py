"""What `trioserve routes` prints of a route: a row of columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trioserve.app.annotations import place_of
from trioserve.app.router import UPGRADE, Policies, Registration
from trioserve.core.callables import name_of
from trioserve.core.lifecycle import CANCEL
from trioserve.core.status import StatusChange


def columns(registration: Registration) -> tuple[str, ...]:
    """What is printed of one route."""
    methods = ",".join("WEBSOCKET" if method == UPGRADE else method for method in registration.methods)
    place = place_of(registration.handler).replace(f"({Path.cwd()}{os.sep}", "(")
    return methods, registration.path, place, " ".join(policies_of(registration.policies))


def policies_of(policies: Policies) -> Iterator[str]:
    """The policies that differ from the defaults, as they are written in code."""
    if policies.disconnect not in {None, CANCEL}:
        yield f"disconnect={policies.disconnect!r}"
    if policies.half_close is not None:
        yield f"half_close={policies.half_close}"
    for change in policies.abandoned_status:  # the outermost first, each laid over the one before
        yield f"abandoned_status={described_change(change)}"
    if policies.deadline is not None:
        yield f"deadline={policies.deadline:g}"
    if policies.max_body is not None:
        yield f"max_body={policies.max_body}"


def described_change(change: StatusChange) -> str:
    """A change of the status policy in a few words."""
    if isinstance(change, Mapping):
        return "{" + ", ".join(f"{phase} {cause}: {status}" for (phase, cause), status in change.items()) + "}"
    return name_of(change) if callable(change) else str(change)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]

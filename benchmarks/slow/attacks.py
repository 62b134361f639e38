"""The attacks: slowhttptest in its four modes, and how long a connection of each may be held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trioserve import Deadlines, Limits

FOLLOW_UP = 10
"""Bytes that slowhttptest sends at a time, at most, in a field or in the body."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One mode of slowhttptest.

    Args:
        options: slowhttptest's, all but the number of connections, their rate and the duration.
        path: what is asked for.
        longest: seconds for which the server may hold a connection of this attack.
        memory: kilobytes that the server may need for one.
        story: what the records say of each.
        stays: the attacker keeps its connection for as long as the server does.
    """

    name: str
    options: Sequence[str]
    path: str
    longest: float
    memory: float
    story: str
    stays: bool = True


def attacks(deadlines: Deadlines, limits: Limits, hurry: float) -> list[Attack]:
    """The four, with follow-up data so often that no wait for a single byte is ever long."""
    interval = max(1, math.floor(deadlines.body_stall / 3))
    follow_up = f"-x {FOLLOW_UP}"
    return [
        Attack(
            name="slow headers (slowloris)",
            options=["-H", "-i", str(max(1, round(5 / hurry))), *follow_up.split()],
            path="/",
            longest=deadlines.head + deadlines.linger,
            memory=64,
            story="408 completed",
        ),
        Attack(
            name="slow body",
            options=["-B", "-i", str(interval), "-s", "65536", *follow_up.split()],
            path="/upload",
            # Each follow-up has some framing: "&name=value".
            longest=under_way(deadlines.body_stall, (2 * FOLLOW_UP + 2) / interval, limits.body_rate)
            + deadlines.linger,
            memory=64,
            story="408 completed",
        ),
        Attack(
            name="range (Apache killer)",
            options=["-R", "-t", "GET", "-a", "5", "-b", "1000"],
            path="/file",
            longest=deadlines.head + deadlines.idle + deadlines.linger,
            memory=64,
            # Many ranges are none that we know: the whole file, and the attacker does not stay for it.
            story="200 completed",
            stays=False,
        ),
        Attack(
            name="slow read",
            options=["-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024", "-k", "3"],
            path="/large",
            longest=under_way(deadlines.send_stall, 32, limits.send_rate),
            memory=192,
            story="499 RESPONSE_BODY WRITE_TIMEOUT cancelled",
        ),
    ]


def under_way(stall: float, rate: float, least: float) -> float:
    """Seconds after which a client is cut that moves `rate` bytes a second where `least` are asked for, and whose
    silence is suffered for `stall` seconds.
    """
    return stall / (1 - rate / least)

"""`make conformance`: plays the corpus and prints, by section of the RFCs, what is met.

Every case is sent in every way, a short one split at each byte; the test suite does that for a share of them. Exit
status 1 if something is not met, and then what.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence

import trio
import trio.testing

from tests.conformance.corpus import LEVELS, Case, by_section, corpus
from tests.conformance.playing import (
    all_differences,
    differences,
    every_split,
    in_memory,
    on_sockets,
    play_on_socket,
    ways,
)
from trioserve import EngineName

Unmet = Mapping[str, Sequence[str]]
"""What was found, by the id of the case."""

SHOWN = 3
"""How many differences of one case are shown."""


def main() -> int:
    logging.disable()  # handlers that fail are part of the corpus
    cases, titles = corpus().cases, corpus().titles
    on_socket = {case.id for case in on_sockets(cases)}
    unmet: dict[str, list[str]] = {}
    for case in cases:
        found = [
            f"{engine}, {text}"
            for engine in EngineName
            for text in trio.run(_in_memory, case, engine, clock=trio.testing.MockClock(autojump_threshold=0))
        ]
        if case.id in on_socket and not found:
            found = trio.run(_on_socket, case)
        if found:
            unmet[case.id] = found
    _print_table(cases, titles, unmet)
    sent = sum(len(ways(case) | every_split(case)) for case in cases)
    print(f"\n{len(cases)} cases, sent to each engine in {sent} ways in memory; {len(on_socket)} on sockets too.")
    for case in cases:
        if case.id in unmet:
            _print_unmet(case, unmet[case.id])
    return 1 if unmet else 0


async def _in_memory(case: Case, engine: EngineName) -> list[str]:
    async with in_memory(case, engine) as stage:
        return all_differences(case, await stage.play(case, ways(case) | every_split(case)))


async def _on_socket(case: Case) -> list[str]:
    return [f"on a socket: {text}" for text in differences(case, await play_on_socket(case))]


def _print_table(cases: Sequence[Case], titles: Mapping[str, str], unmet: Unmet) -> None:
    rows = [(section, titles[section], level, those) for (section, level), those in by_section(cases)]
    rows += [("all", "", level, [case for case in cases if case.level == level]) for level in LEVELS]
    wide = max(len(title) for title in titles.values())
    print(f"| section      | {'':{wide}} | requirement | cases |  met |")
    print(f"| ------------ | {'-' * wide} | ----------- | ----: | ---: |")
    for section, title, level, those in rows:
        met = sum(case.id not in unmet for case in those)
        print(f"| {section:12} | {title:{wide}} | {level:11} | {len(those):5} | {met:4} |")


def _print_unmet(case: Case, found: Sequence[str]) -> None:
    print(f"\nNot met: {case.id}\n  sent {b''.join(case.pieces)[:300]!r}")
    for text in found[:SHOWN]:
        print(f"  {text}")
    if len(found) > SHOWN:
        print(f"  and so in {len(found) - SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())

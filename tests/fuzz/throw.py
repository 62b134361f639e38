"""Inputs by their number: made, played in every way, judged."""

from __future__ import annotations

import collections
import random
import traceback
from collections.abc import Iterator

from tests.fuzz.inputs import by_the_byte, cut_at_random, mutated, whole
from tests.fuzz.play import Broken, Played, Stage, judge, stage


def ways(rng: random.Random, data: bytes, number: int) -> Iterator[tuple[str, list[bytes]]]:
    """How the data of an input is cut."""
    yield "whole", whole(data)
    yield "cut at random", cut_at_random(rng, data)
    if number % 16 == 0 and len(data) < 2000:
        yield "by the byte", by_the_byte(data)


async def thrown(numbers: range, tally: collections.Counter[str], broken: list[str]) -> None:
    """Throw the inputs of these numbers at one server. Counts go to `tally`, broken rules to `broken`."""
    async with stage() as it:
        for number in numbers:
            try:
                await throw(it, number, tally)
            except Broken as error:
                broken.append(f"input {number}: {error}")
            except Exception:
                broken.append(f"input {number}: {traceback.format_exc()}")


async def throw(stage: Stage, number: int, tally: collections.Counter[str]) -> None:
    """Throw one input.

    Raises:
        Broken: a rule is broken.
    """
    rng = random.Random(number)
    data, stay = mutated(rng), rng.random() < 0.3
    tally["inputs"] += 1
    first: Played | None = None
    for name, pieces in ways(rng, data, number):
        try:
            played = await stage.play(pieces, stay=stay)
            judge(data, played)
            if first is not None:
                compare(data, first, played)
        except Broken as error:
            how = ", ".join(map(str, map(len, pieces))) if name == "cut at random" else name
            raise Broken(f"{error}\n  played {how}, {'staying' if stay else 'half-closing'}\n  {data!r}") from None
        first = first or played
        tally["plays"] += 1
        for told in played.told:
            tally[f"{told.kind} {told.status}{'' if told.has_head else ' (no head)'}"] += 1


def compare(data: bytes, one: Played, other: Played) -> None:
    """Whatever the cuts, the records are the same.

    But for one who asks for `100 Continue` and is answered without its body being read: whether that has come with the
    head decides whether the connection can go on (RFC 9110 §10.1.1).

    Raises:
        Broken: they are not.
    """
    a, b = one.told, other.told
    if b"xpect" in data.lower():
        shortest = min(len(a), len(b))
        a, b = a[:shortest], b[:shortest]
    if a != b:
        raise Broken(f"cut differently, the records are not {a} but {b}")

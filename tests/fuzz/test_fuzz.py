"""The quick part of the fuzzing: some thousand inputs, the same in every run. `make fuzz` throws more."""

from __future__ import annotations

import collections
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.fuzz.inputs import REQUESTS, TOKENS, cut, whole
from tests.fuzz.play import Played, accepted, judge, stage
from tests.fuzz.throw import compare, thrown
from trioserve import EngineName

INPUTS = 1500


def in_virtual_time(run: Callable[..., object], *args: object) -> None:
    trio.run(run, *args, clock=MockClock(autojump_threshold=0))


def test_mutated_requests_end_in_a_defined_way_however_they_are_cut() -> None:
    tally: collections.Counter[str] = collections.Counter()
    broken: list[str] = []
    in_virtual_time(thrown, range(INPUTS), tally, broken)
    assert not broken, "\n".join(broken)
    assert tally["inputs"] == INPUTS
    assert tally["Completed 200"] > INPUTS / 4, "enough is left of the requests for the handlers to be reached"
    assert tally["Completed 400 (no head)"] > INPUTS / 4, "and enough is spoiled"


@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize("request_bytes", REQUESTS, ids=range(len(REQUESTS)))
def test_a_request_cut_at_any_byte_is_the_same_request(request_bytes: bytes, engine: EngineName) -> None:
    async def run() -> None:
        data = request_bytes + REQUESTS[0]
        async with stage(engine) as it:
            first = await it.play([data], stay=False)
            judge(data, first)
            for place in range(1, len(data)):
                played = await it.play(cut(data, [place]), stay=False)
                judge(data, played)
                compare(data, first, played)

    in_virtual_time(run)


def test_an_empty_line_begins_nothing_however_it_is_cut() -> None:
    async def run() -> None:
        async with stage() as it:
            for pieces in ([b"\r\n\r\n"], [b"\r", b"\n\r", b"\n"], [b"\r"]):
                assert (await it.play(pieces, stay=False)).records == []
                assert (await it.play(pieces, stay=True)).records == []

    in_virtual_time(run)


pieces = st.one_of(st.binary(max_size=40), st.sampled_from(TOKENS), st.sampled_from(REQUESTS))


@settings(max_examples=300)
@given(
    parts=st.lists(pieces, min_size=1, max_size=6),
    places=st.lists(st.integers(0, 2000), max_size=4),
    stay=st.booleans(),
    engine=st.sampled_from(EngineName),
)
def test_whatever_bytes_come_the_connection_ends_in_a_defined_way(
    parts: list[bytes],
    places: list[int],
    stay: bool,  # noqa: FBT001
    engine: EngineName,
) -> None:
    data = b"".join(parts)
    played: list[Played] = []

    async def run() -> None:
        async with stage(engine) as it:
            for way in (whole(data), cut(data, places)):
                played.append(await it.play(way, stay=stay))  # noqa: PERF401 - one after the other

    in_virtual_time(run)
    for one in played:
        judge(data, one)
    compare(data, *played)


def test_the_oracle_knows_what_the_engine_accepts_and_what_it_refuses() -> None:
    good = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
    assert accepted(good + good + b"GET / HTTP/3.0\r\n\r\n") == ([("GET", "/a"), ("GET", "/a")], 505)

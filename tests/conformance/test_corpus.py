"""Every case of the corpus is met, however its bytes are divided; a share of them on real sockets too."""

from __future__ import annotations

import pytest
import trio.testing

from tests.conformance.application import Secret
from tests.conformance.corpus import Case, corpus
from tests.conformance.playing import (
    all_differences,
    differences,
    every_split,
    first_of_each,
    in_memory,
    on_sockets,
    play_on_socket,
    ways,
)
from tests.support.logs import tracebacks
from trioserve import EngineName, ResponseError

CASES = corpus().cases
# `make conformance` splits all of them.
SPLIT = first_of_each(lambda case: f"{case.section} {case.level}", filter(every_split, CASES))


def named(cases):
    return [pytest.param(case, id=case.id.replace("§", "")) for case in cases]


@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize("case", named(CASES))
async def test_in_memory(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, case: Case, engine: EngineName
) -> None:
    async with in_memory(case, engine) as stage:
        assert all_differences(case, await stage.play(case, ways(case))) == []

    # Nothing broke but what the handlers of the corpus break.
    assert {type(error) for error in tracebacks(caplog)} <= {ResponseError, Secret}


@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize("case", named(SPLIT))
async def test_split_at_each_byte(autojump_clock: trio.testing.MockClock, case: Case, engine: EngineName) -> None:
    async with in_memory(case, engine) as stage:
        assert all_differences(case, await stage.play(case, every_split(case))) == []


@pytest.mark.parametrize("case", named(on_sockets(CASES)))
async def test_on_sockets(case: Case) -> None:
    assert differences(case, await play_on_socket(case)) == []

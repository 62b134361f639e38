"""docs/running.md: the defaults that the text names, and that systemd and Kubernetes wait until a drain is over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trioserve import Deadlines
from trioserve.cli.commands import INTERRUPTED
from trioserve.server.fleet import FAILED, LONGEST_WAIT

PAGE = (Path(__file__).parents[2] / "docs/running.md").read_text()


def test_the_defaults_that_the_page_tells_are_as_they_are():
    deadlines = Deadlines()
    for said in (
        f"`Deadlines.drain_delay` ({deadlines.drain_delay:.0f} s)",
        f"until `Deadlines.drain` ({deadlines.drain:.0f} s after the order)",
        f"`Deadlines.background` ({deadlines.background:.0f} s)",
        f"`Deadlines.start` ({deadlines.start:.0f} s)",
        f"{deadlines.drain:.0f} s of drain, its delay of {deadlines.drain_delay:.0f} s included",
        f"and {deadlines.background:.0f} s for background work",
        f"then after 1, 2, 4 ... up to {LONGEST_WAIT:.0f} s",
    ):
        assert said in " ".join(PAGE.split()), said


@pytest.mark.parametrize("setting", ["terminationGracePeriodSeconds: ", "TimeoutStopSec="])
def test_a_drain_fits_in_what_is_waited_for(setting):
    [allowed] = re.findall(rf"{setting}(\d+)", PAGE)
    assert Deadlines().drain + Deadlines().background < float(allowed)


def test_the_exit_codes_that_the_page_tells_are_those_of_the_program():
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == [0, FAILED, 2, INTERRUPTED]

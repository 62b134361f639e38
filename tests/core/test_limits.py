"""Limits and Deadlines: what is a value, what is refused and how; what is said of each; the generated page."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from trioserve.core.errors import ConfigError
from trioserve.core.limits import MAY_BE_ZERO, MIN_VANISH, Deadlines, Limits, as_markdown

BOTH = pytest.mark.parametrize("cls", [Limits, Deadlines])
EACH_LIMIT = pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
EACH_DEADLINE = pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Deadlines)])


@EACH_LIMIT
@pytest.mark.parametrize("value", [1, 10**12, math.inf])
def test_a_limit_is_a_positive_whole_number_or_none(name, value):
    assert getattr(Limits(**{name: value}), name) == value


@EACH_LIMIT
@pytest.mark.parametrize("value", [0, -1, -math.inf, math.nan, 1.5, 8192.0, "8192", None, True])
def test_another_limit_is_a_config_error_that_names_it(name, value):
    with pytest.raises(ConfigError, match=rf"Limits\.{name} is .*positive whole number"):
        Limits(**{name: value})


@EACH_DEADLINE
@pytest.mark.parametrize("value", [MIN_VANISH, 60, math.inf])
def test_a_deadline_is_a_positive_number_or_none(name, value):
    assert getattr(Deadlines(**{name: value}), name) == value


@EACH_DEADLINE
@pytest.mark.parametrize("value", [-1, -math.inf, math.nan, "10", None, True, False])
def test_another_deadline_is_a_config_error_that_names_it(name, value):
    with pytest.raises(ConfigError, match=rf"Deadlines\.{name} is .*positive number of seconds"):
        Deadlines(**{name: value})


@EACH_DEADLINE
def test_only_what_may_be_left_out_can_be_zero(name):
    if name in MAY_BE_ZERO:
        assert getattr(Deadlines(**{name: 0}), name) == 0
    else:
        with pytest.raises(ConfigError, match=rf"Deadlines\.{name} is 0; it must be a positive number of seconds"):
            Deadlines(**{name: 0})


def test_the_drains_delay_leaves_time_for_what_is_under_way():
    assert Deadlines().drain_delay < Deadlines().drain / 2


def test_a_deadline_may_be_a_fraction_of_a_second():
    assert Deadlines(head=0.25).head == 0.25


def test_a_peer_is_not_given_up_before_the_kernel_can_have_asked_it():
    assert Deadlines(vanish=MIN_VANISH).vanish == MIN_VANISH
    with pytest.raises(ConfigError, match=rf"vanish is 2\.9; it must be at least {MIN_VANISH}"):
        Deadlines(vanish=2.9)


@BOTH
def test_they_are_frozen(cls):
    value = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.head = 1


@BOTH
def test_every_default_has_a_line_that_says_what_it_is_and_its_reason_beside_it(cls):
    for field in dataclasses.fields(cls):
        for text in (field.metadata["what"], field.metadata["why"]):
            assert text.endswith("."), field.name
            assert "|" not in text, "it stands in a table"


def test_what_is_said_of_one_names_others_that_there_are():
    names = {f"{cls.__name__}.{field.name}" for cls in (Limits, Deadlines) for field in dataclasses.fields(cls)}
    named = set(re.findall(r"`((?:Limits|Deadlines)\.\w+)`", as_markdown()))
    assert named >= {"Limits.body", "Deadlines.body_stall"}
    assert named <= names


def test_the_page_of_limits_is_up_to_date():
    assert (Path(__file__).parents[2] / "docs/limits.md").read_text() == as_markdown()


@pytest.mark.parametrize(
    "row",
    [
        "| target | 8,192 | Bytes in a request target; beyond it 414. |",
        "| body | 1 MiB | Bytes in a request body; beyond it 413. |",
        "| exchanges | none | Exchanges",
        "| idle | 75 s | For the next request",
    ],
)
def test_the_page_of_limits_has_each_in_its_unit(row):
    assert f"\n{row}" in as_markdown()


def test_a_living_peer_may_be_as_slow_to_take_data_as_send_stall_says():
    assert Deadlines().vanish >= Deadlines().send_stall


def test_one_connection_cannot_take_what_is_held_for_all():
    assert Limits().spool < Limits().spool_total

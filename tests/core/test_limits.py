"""Limits and Deadlines: what is a value, what is refused and how, and that each default has its reason beside it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math

import pytest

from trioserve.core import limits as module
from trioserve.core.errors import ConfigError
from trioserve.core.limits import MAY_BE_ZERO, MIN_VANISH, Deadlines, Limits

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
def test_every_default_has_its_reason_beside_it(cls):
    source = inspect.getsource(module)
    lines = source.splitlines()
    [definition] = [node for node in ast.parse(source).body if getattr(node, "name", None) == cls.__name__]
    defaults = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    assert [node.target.id for node in defaults] == [field.name for field in dataclasses.fields(cls)]
    for node in defaults:
        assert lines[node.lineno - 2].lstrip().startswith("#"), f"{node.target.id} has no reason"


def test_a_living_peer_may_be_as_slow_to_take_data_as_send_stall_says():
    assert Deadlines().vanish >= Deadlines().send_stall


def test_one_connection_cannot_take_what_is_held_for_all():
    assert Limits().spool < Limits().spool_total

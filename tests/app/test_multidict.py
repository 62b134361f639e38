"""MultiDict: names with values, in the order in which they came."""

from __future__ import annotations

import pytest

from trioserve import MultiDict

PAIRS = [("b", "1"), ("a", "2"), ("b", ""), ("B", "4")]


def test_a_name_gives_its_first_value():
    values = MultiDict(PAIRS)
    assert values["b"] == values.get("b") == "1"
    assert values["a"] == "2"


def test_all_values_of_a_name_come_in_their_order():
    values = MultiDict(PAIRS)
    assert values.get_all("b") == ["1", ""]
    assert values.get_all("c") == []


def test_names_are_compared_exactly():
    values = MultiDict(PAIRS)
    assert values["B"] == "4"
    assert "A" not in values


def test_a_name_that_is_not_there_is_a_key_error_or_the_default():
    values = MultiDict(PAIRS)
    with pytest.raises(KeyError, match="c"):
        values["c"]
    assert values.get("c") is None
    assert values.get("c", 7) == 7


def test_an_empty_value_is_there():
    values = MultiDict([("a", ""), ("n", None)])
    assert "a" in values
    assert values.get("a", "default") == ""
    assert "n" in values
    assert values["n"] is None
    assert values.get("n", "default") is None


def test_it_is_the_pairs_in_the_order_in_which_they_came():
    values = MultiDict(iter(PAIRS))
    assert list(values) == list(values) == PAIRS
    assert len(values) == 4
    assert not MultiDict()
    assert repr(values) == f"MultiDict({PAIRS!r})"


def test_two_are_equal_if_their_pairs_are_in_the_same_order():
    assert MultiDict(PAIRS) == MultiDict(PAIRS)
    assert hash(MultiDict(PAIRS)) == hash(MultiDict(PAIRS))
    assert MultiDict(PAIRS) != MultiDict(reversed(PAIRS))
    assert MultiDict(PAIRS) != PAIRS

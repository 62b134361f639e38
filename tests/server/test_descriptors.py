"""The reserve of descriptors that accepting leaves for handlers."""

from __future__ import annotations

import math

import pytest

from trioserve.server.descriptors import mark_of


@pytest.mark.parametrize(
    ("limit", "used", "mark"),
    [
        (40, 0, 30),
        (41, 0, 31),
        (44, 4, 34),
        (1024, 0, 768),
        (1028, 0, 772),
        (20_000, 10, 19_744),
        (10, 10, 10),
        (math.inf, 10, math.inf),
    ],
)
def test_the_reserve_is_a_quarter_of_what_is_free_and_not_too_large(limit, used, mark):
    assert mark_of(limit, used) == mark

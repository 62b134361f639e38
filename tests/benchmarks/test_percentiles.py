"""Percentiles by the nearest rank."""

import pytest

from benchmarks.percentiles import percentile


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (4, 50, 2), (5, 50, 3), (99, 99, 99), (100, 99, 99), (200, 99, 198), (200, 100, 200)],
)
def test_a_percentile_is_the_least_value_not_below_so_many(count: int, percent: float, expected: float) -> None:
    assert percentile(range(count, 0, -1), percent) == expected


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_no_values_and_no_percentage_have_no_percentile(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile of"):
        percentile(values, percent)

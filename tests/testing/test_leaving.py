"""The reprs of points and ways are what a user types to play a departure again."""

import pytest

from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, Point, ResponseBytes, Way


@pytest.mark.parametrize("way", list(Way))
def test_a_way_is_shown_as_it_is_typed(way: Way) -> None:
    assert eval(repr(way)) is way
    assert str(way) == way.name


@pytest.mark.parametrize("point", [HeadBytes(0), BodyBytes(3), Checkpoint(1), ResponseBytes(17)])
def test_a_point_is_shown_as_it_is_typed(point: Point) -> None:
    assert eval(repr(point)) == point


@pytest.mark.parametrize(("kind", "number"), [(HeadBytes, -1), (BodyBytes, -1), (Checkpoint, 0), (ResponseBytes, 0)])
def test_a_point_that_cannot_be_is_refused(kind: type[Point], number: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        kind(number)

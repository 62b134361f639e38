"""What counts as wasted work."""

import math

from benchmarks.abandonment.wasted import Load, waste

STAYED, LEFT = 1, 2


def test_all_work_for_a_client_that_stays_is_of_use() -> None:
    assert Load(closes={}, slices={STAYED: [1.0, 2.0, 3.0]}, cpu=1.0).of_use == 3


def test_work_that_began_before_its_client_left_is_of_use_and_later_work_is_not() -> None:
    load = Load(closes={LEFT: 2.0}, slices={STAYED: [1.0, 5.0], LEFT: [1.0, 2.0, 2.1, 3.0]}, cpu=1.0)
    assert (load.begun, load.of_use) == (6, 4)


def test_a_server_that_stops_at_once_wastes_nothing() -> None:
    half_leave = Load(closes={LEFT: 2.5}, slices={STAYED: [1.0, 3.0], LEFT: [2.0]}, cpu=0.3)
    rest_alone = Load(closes={}, slices={STAYED: [1.0, 2.0]}, cpu=0.2)
    seen = waste(half_leave, rest_alone)
    assert seen.by_slices == 1
    assert math.isclose(seen.by_cpu, 1)


def test_a_server_that_works_on_for_all_who_left_before_the_work_does_twice_as_much() -> None:
    half_leave = Load(closes={LEFT: 0.5}, slices={STAYED: [1.0, 3.0], LEFT: [2.0, 4.0]}, cpu=0.4)
    rest_alone = Load(closes={}, slices={STAYED: [1.0, 2.0]}, cpu=0.2)
    seen = waste(half_leave, rest_alone)
    assert seen.by_slices == 2
    assert math.isclose(seen.by_cpu, 2)


def test_cpu_time_beside_the_slices_is_waste_where_it_is_for_those_who_left() -> None:
    half_leave = Load(closes={LEFT: 0.5}, slices={STAYED: [1.0, 3.0]}, cpu=0.25)
    rest_alone = Load(closes={}, slices={STAYED: [1.0, 2.0]}, cpu=0.2)
    seen = waste(half_leave, rest_alone)
    assert seen.by_slices == 1
    assert math.isclose(seen.by_cpu, 1.25)

import os

import pytest

from benchmarks.options import Progress, cores


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_progress_says_how_much_of_the_estimate_is_left():
    said, clock = [], Clock()
    progress = Progress(100, said.append, clock)
    clock.now = 40
    progress.step("half of it", 50)
    assert said == ["[0:40 left] half of it"]  # the first half was faster than estimated, and so the second will be


def test_progress_trusts_its_estimate_until_something_is_done():
    said, clock = [], Clock()
    progress = Progress(100, said.append, clock)
    clock.now = 60
    progress.step("began slowly", 1)
    assert said == ["[1:39 left] began slowly"]


def test_progress_never_has_less_than_nothing_left():
    said = []
    Progress(1, said.append, Clock()).step("more than was estimated", 2)
    assert said == ["[0:00 left] more than was estimated"]


def test_the_server_and_the_load_get_cores_of_their_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 5, 7})
    assert cores() == (2, 7)


def test_one_core_is_not_enough(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(LookupError, match="two cores are needed"):
        cores()

"""The records: what is computed from their facts."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.sample_records import abandoned, completed

ABANDONED = abandoned(started_at=10.0, noticed_at=12.5, unwound_at=13.0)


@pytest.mark.parametrize(
    ("status", "sent_status", "logged"),
    [(499, None, 499), (499, 200, 200), (503, 404, 404), (408, None, 408)],
)
def test_the_logged_status_is_what_was_sent_if_anything_was(status, sent_status, logged):
    assert dataclasses.replace(ABANDONED, status=status, sent_status=sent_status).logged_status == logged


def test_the_duration_is_from_the_first_byte_to_the_unwound_handler():
    assert ABANDONED.duration == 3.0


def test_the_unwind_time_is_from_the_notice_to_the_unwound_handler():
    assert ABANDONED.unwind_time == 0.5


def test_records_are_frozen():
    for record in (ABANDONED, completed()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.status = 200

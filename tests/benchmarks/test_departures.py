"""How often a situation is repeated, and of which nothing is promised."""

import pytest

from benchmarks.abandonment import latency
from benchmarks.departures.measure import Amount, Row
from benchmarks.departures.situations import Situation, get, situations
from benchmarks.leaving import Leaving

AMOUNT = Amount(repetitions=200, least=5, seconds=3.0)


def a_row(*, together: bool = False, **seen: float) -> Row:
    situation = Situation(name="any", arrive=get("/sleep"), leaving=Leaving.CLOSE, together=together)
    return Row(situation, **seen)


@pytest.mark.parametrize(
    ("repetitions", "seconds", "done"),
    [(199, 1.0, False), (200, 1.0, True), (4, 9.0, False), (5, 2.9, False), (5, 3.0, True)],
)
def test_a_situation_is_done_when_it_has_its_repetitions_or_no_time_for_more_than_the_least(
    repetitions: int, seconds: float, *, done: bool
) -> None:
    assert AMOUNT.is_done(a_row(repetitions=repetitions, seconds=seconds)) is done


def test_repetitions_that_come_together_are_done_at_once() -> None:
    assert not AMOUNT.is_done(a_row(together=True))
    assert AMOUNT.is_done(a_row(together=True, repetitions=1))


def test_every_situation_has_a_title_of_its_own() -> None:
    titles = [latency.title(situation) for situation in situations()]
    assert len(set(titles)) == len(titles)


def test_what_is_promised_is_promised_of_the_worst_situation_that_is_not_exempt() -> None:
    quick, slow = a_row(departures=200), a_row(departures=200)
    quick.delays, slow.delays = [0.0001] * 200, [0.0004] * 190 + [0.0030] * 10
    exempt = Row(
        Situation(name="late", arrive=get("/sleep"), leaving=Leaving.CLOSE, exempt="nothing can come"),
        departures=2,
        delays=[0.25],
    )
    unnoticed, p50, p99 = latency.promised([quick, slow, exempt])
    assert (unnoticed.seen, unnoticed.kept) == ("0", True)
    assert (p50.seen, p50.kept) == ("0.4 ms", True)
    assert (p99.seen, p99.kept) == ("3 ms", False)


def test_no_99th_percentile_is_promised_of_a_few_departures() -> None:
    row = a_row(departures=99)
    row.delays = [0.0001] * 98 + [0.0030]
    assert [promise.what[:3] for promise in latency.promised([row])] == ["dep", "p50"]


def test_a_departure_that_nobody_noticed_breaks_a_promise() -> None:
    row = a_row(departures=3)
    row.delays = [0.0001, 0.0001]
    assert not latency.promised([row])[0].kept

"""Departure to cancellation: milliseconds from the client's close to its handler's cancellation, in each situation.

`benchmarks.departures` has the situations and measures them; `python -m benchmarks.departures` prints more of each, and
can hear of hangups by other means. The quick mode has only those situations of which one repetition is brief.
"""

from __future__ import annotations

from benchmarks.departures.measure import Amount, Servers
from benchmarks.departures.measure import Row as Seen
from benchmarks.departures.measure import measure as measure_departures
from benchmarks.departures.situations import Situation, ToldBy, situations
from benchmarks.options import Options, Progress
from benchmarks.percentiles import percentile
from benchmarks.promises import Promise, at_most, exactly
from benchmarks.results import Figure, Result, Row
from trioserve import HangupNews

NAME = "departure"

P50_AT_MOST, P99_AT_MOST = 0.5, 2.0
"""Milliseconds, promised for each situation that is not exempt."""

ENOUGH = 100
"""Departures from which a 99th percentile is something else than the greatest value."""


def chosen(options: Options) -> list[Situation]:
    every = [situation for situation in situations() if situation.told_by is not ToldBy.NOTHING]
    return [situation for situation in every if situation.brief] if options.quick else every


def amount(options: Options) -> Amount:
    if options.quick:
        return Amount(repetitions=30, least=2, seconds=0.15)
    return Amount(repetitions=200, least=5, seconds=1.5)


def _estimate(options: Options) -> float:
    """Of one situation."""
    return 0.2 if options.quick else 1.5


def seconds(options: Options) -> float:
    return _estimate(options) * len(chosen(options)) if options.wants("trioserve") else 0.0


def measure(options: Options, progress: Progress) -> Result:
    def done(row: Seen) -> None:
        progress.step(title(row.situation), _estimate(options))

    # On any core: the clients and the server take turns, and one that is woken on the other's core would wait for it.
    with Servers(HangupNews.KERNEL.value) as servers:
        seen = measure_departures(chosen(options), servers, amount(options), done)
    return Result(
        NAME,
        "From the client's close to the handler's cancellation",
        tuple(as_row(row) for row in seen if row.delays),
        tuple(promised(seen)),
        "One client at a time. Where there is no handler to cancel, to the record or to the server's close. With "
        "fewer than 100 repetitions the 99th percentile is the greatest value."
        + ("" if all(row.delays for row in seen) else f" Not noticed: {'; '.join(never_noticed(seen))}."),
    )


def title(situation: Situation) -> str:
    return f"{situation.name}, {situation.leaving}"


def as_row(row: Seen) -> Row:
    figures = {
        "p50": Figure.once(percentile(row.delays, 50) * 1000, "ms"),
        "p99": Figure.once(percentile(row.delays, 99) * 1000, "ms"),
        "max": Figure.once(max(row.delays) * 1000, "ms"),
        "noticed": Figure.once(100 * len(row.delays) / row.departures, "%"),
    }
    exempt = f"; exempt: {row.situation.exempt}" if row.situation.exempt else ""
    return Row(title(row.situation), figures, f"{row.departures} departures{exempt}")


def never_noticed(seen: list[Seen]) -> list[str]:
    return [f"{title(row.situation)} ({row.situation.exempt})" for row in seen if not row.delays]


def promised(seen: list[Seen]) -> list[Promise]:
    """Of all situations that are not exempt: the worst of them is told."""
    bound = [row for row in seen if not row.situation.exempt]
    often = [row for row in bound if len(row.delays) >= ENOUGH]
    return [
        exactly("departures not noticed", sum(row.departures - len(row.delays) for row in bound), 0),
        *_of_the_worst(bound, 50, "p50 of the worst situation", P50_AT_MOST),
        *_of_the_worst(often, 99, f"p99 of the worst situation with {ENOUGH} departures or more", P99_AT_MOST),
    ]


def _of_the_worst(rows: list[Seen], percent: float, what: str, most: float) -> list[Promise]:
    """Nothing, where no row has a figure."""
    figures = [(percentile(row.delays, percent) * 1000, title(row.situation)) for row in rows if row.delays]
    return [at_most(f"{what}: {name}", round(figure, 2), most, " ms") for figure, name in sorted(figures)[-1:]]

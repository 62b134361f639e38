"""Workers are replaced under load, and no request is lost. `python -m benchmarks.rolling` does it again and again."""

from __future__ import annotations

from benchmarks.rolling.clients import KINDS
from benchmarks.rolling.restarts import WORKERS, Rolling


async def test_a_rolling_restart_of_two_workers_under_load_loses_no_request():
    ledger = await Rolling(restarts=1, clients=2, delay=2, patience=60).run()

    assert not ledger.why
    assert len(ledger.workers) > WORKERS, "those that answer are others than before"
    assert all(ledger.answered[kind] for kind in KINDS)

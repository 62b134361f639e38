"""A plain record of each kind, of which a test changes what it is about."""

from __future__ import annotations

import dataclasses
from typing import Any

from trioserve.core.lifecycle import Cause, Outcome, Phase
from trioserve.core.messages import Headers
from trioserve.core.records import Abandoned, Completed

COMPLETED = Completed(
    status=200,
    method="GET",
    target="/reports/2025",
    route="/reports/{year:int}",
    http_version="1.1",
    headers=Headers([(b"host", b"a")]),
    client=("127.0.0.1", 53124),
    connection_id=1,
    exchange_number=1,
    request_body_bytes=0,
    response_body_bytes=14,
    started_at=100.0,
    duration=0.0004,
)
ABANDONED = Abandoned(
    status=499,
    phase=Phase.HANDLER,
    cause=Cause.FIN,
    by="client",
    sent_status=None,
    outcome=Outcome.CANCELLED,
    method="GET",
    target="/reports/2026",
    route="/reports/{year:int}",
    http_version="1.1",
    headers=Headers([(b"host", b"a")]),
    client=("127.0.0.1", 53126),
    connection_id=2,
    exchange_number=1,
    request_body_bytes=0,
    request_body_expected=0,
    response_body_bytes=0,
    response_body_expected=None,
    unacked_bytes=None,
    started_at=100.0,
    noticed_at=100.3001,
    unwound_at=100.3002,
    exception=None,
)


def completed(**changes: Any) -> Completed:
    return dataclasses.replace(COMPLETED, **changes)


def abandoned(**changes: Any) -> Abandoned:
    return dataclasses.replace(ABANDONED, **changes)

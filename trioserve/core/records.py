"""The two records of an exchange: `Completed` if its response got out, `Abandoned` if not. Exactly one for each.

Frozen: an observer may keep them, hand them to another thread or send them on. All times are seconds of the trio
clock (`trio.current_time()`, monotonic, arbitrary origin); all durations are seconds; all sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from trioserve.core.lifecycle import Cause, Outcome, Phase
from trioserve.core.messages import Headers

ClientAddress = tuple[str, int]


def written(client: ClientAddress | None) -> str:
    """A client as it is written in logs: host:port, the port only if it is known; "-" on a Unix socket."""
    if client is None:
        return "-"
    host, port = client
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host  # a proxy often does not say the port


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The response was handed whole to the transport before any departure was noticed."""

    status: int  # what was sent
    method: str | None  # None if no request line was understood; so are target and http_version
    target: str | None  # as it came; if `headers` is None, it may be none that a URI can have
    route: str | None  # the route's pattern, "/reports/{year:int}"; None if no route was found
    http_version: str | None  # "1.1"
    headers: Headers | None  # None if the head was refused, or never was all there
    client: ClientAddress | None  # (host, port), port 0 if a proxy did not say it; None on a Unix socket
    connection_id: int  # unique in this process
    exchange_number: int  # 1, 2, 3 ... on its connection
    request_body_bytes: int  # content read so far, without chunk framing
    response_body_bytes: int  # content sent, without chunk framing
    started_at: float  # the first bytes of the head were read
    duration: float  # from started_at until the last byte of the response was handed over


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """The response did not get out, or not whole. Made after the handler has unwound and the transport is closed."""

    status: int  # the code that never arrived, by the status policy
    phase: Phase  # how far the exchange had come when its end was noticed
    cause: Cause
    by: str  # "client" or "server": whose side ended it
    sent_status: int | None  # the code that is on the wire already; None if no byte of a response was sent
    outcome: Outcome
    method: str | None  # None if no request line was understood; so are target and http_version
    target: str | None  # as it came; if `headers` is None, it may be none that a URI can have
    route: str | None  # the route's pattern; None if no route was found
    http_version: str | None
    headers: Headers | None  # None if the head was refused, or never was all there
    client: ClientAddress | None  # (host, port), port 0 if a proxy did not say it; None on a Unix socket
    connection_id: int  # unique in this process
    exchange_number: int  # 1, 2, 3 ... on its connection
    request_body_bytes: int  # content read so far, without chunk framing
    request_body_expected: int | None  # its Content-Length; None if chunked or unknown
    response_body_bytes: int  # content handed to the transport, without chunk framing
    response_body_expected: int | None  # the response's Content-Length; None if it has none or never began
    unacked_bytes: int | None  # sent and not acknowledged when the end was noticed; None where the system can't tell
    started_at: float  # the first bytes of the head were read
    noticed_at: float  # the departure (or our own giving up) was noticed
    unwound_at: float  # the handler had ended
    exception: BaseException | None  # what the handler raised while unwinding or before; None for a cancellation

    @property
    def logged_status(self) -> int:
        """What an access log says: `sent_status` if any byte of the response was sent, else `status` (nginx's rule)."""
        return self.status if self.sent_status is None else self.sent_status

    @property
    def duration(self) -> float:
        """From the first bytes of the head until the handler had ended."""
        return self.unwound_at - self.started_at

    @property
    def unwind_time(self) -> float:
        """From the notice until the handler had ended."""
        return self.unwound_at - self.noticed_at


Record = Completed | Abandoned

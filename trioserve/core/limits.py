"""Limits (sizes and counts) and Deadlines (durations): frozen, validated, and each default with its reason.

There is no default for any of these anywhere else. Sizes are bytes, durations are seconds, and `math.inf` means that
there is no limit. A wrong value is refused when the object is made, by name, with what would be right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from trioserve.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of what a connection may bring, and how much the server takes in for it.

    Raises:
        ConfigError: a value is not a positive whole number (or math.inf).
    """

    # A method longer than this is answered 501 (RFC 9112 §3). The longest that is registered has 17 bytes.
    method: float = 32
    # A request target longer than this is answered 414. RFC 9112 §3 asks servers to take at least 8,000 octets.
    target: float = 8192
    # The whole head: request line and fields; beyond it 431. h11's default, within what nginx (32 KiB) and Apache
    # (8 KiB a line) take.
    head: float = 16_384
    # One field line, in a head or a trailer section; beyond it 431. Apache's default, and nginx's.
    field: float = 8192
    # Field lines in one head; beyond it 431. Apache's default; browsers send about 20.
    fields: float = 100
    # Chunk extensions of one request, which say nothing to us; beyond it 413. Node's bound for those of a chunk.
    chunk_extensions: float = 16_384
    # The content of one request; beyond it 413. nginx's default. Raise it for the routes that take uploads.
    body: float = 1_048_576
    # Fields of one form, files among them; beyond it 413. Django's default; a table of 100 rows by 10 columns.
    form_parts: float = 1000
    # Bytes of one form's text; beyond it 413. And so many bytes of its files stay in memory; beyond it they go to disk.
    # As large as `body`: only a route that takes larger uploads ever writes to disk.
    form_memory: float = 1_048_576
    # Bytes a second below which a body that the handler waits for comes too slowly, once the seconds are used up that
    # `body_stall` forgives; math.inf if any byte will do. Kestrel's default: no line in use is as slow.
    body_rate: float = 240
    # The same for a response that the client takes too slowly, with `send_stall`.
    send_rate: float = 240
    # An unread request body is read and thrown away up to this size, to keep the connection; a longer one closes
    # it. Go's default: beyond it a new connection is cheaper than the bytes.
    unread_body: float = 262_144
    # While a handler runs and bytes lie unread, so many of them are taken in for one connection, so that a FIN behind
    # them is seen. What one client can make the server hold. See docs/departure.md.
    spool: float = 67_108_864
    # The same for all connections together; half of it may be raised receive buffers in the kernel.
    spool_total: float = 268_435_456
    # One message of a WebSocket, put together from its frames; beyond it Close 1009. The default of the websockets
    # library, and of `body`. Also how many bytes of messages are read before the handler asks for them.
    websocket_message: float = 1_048_576
    # How many messages of a WebSocket are read before the handler asks for them; then the client is held back. Enough
    # for a burst, few enough that the client soon feels a handler that is slower than itself.
    websocket_queue: float = 16
    # Worker threads for plain `def` handlers. trio's own default: enough for blocking database calls.
    threads: float = 40
    # Exchanges that are handled at once; the others wait in the queue. None by default: how many a server can bear
    # depends on what its handlers do, and thousands that wait for something are nothing to trio. A stream or a
    # WebSocket counts as long as it lasts.
    exchanges: float = math.inf
    # Exchanges that wait for their turn; beyond it 503 with Retry-After. Each holds a connection and a head, some tens
    # of kilobytes. Longer would be of little use: who stands at the end has given up before the turn comes.
    queue: float = 1000
    # Requests on one connection; the last answer announces its end. None by default: nothing of a connection grows with
    # them, and a new one costs its client a round trip or three. Set it where a balancer in front distributes
    # connections and not requests, so that a new server gets its share.
    requests: float = math.inf
    # Living connections; beyond it nobody is accepted, and idle ones are closed for those who come, the longest idle
    # first. Some 30 KB each while idle, half a gigabyte for all. The system's descriptors (ulimit -n) are a limit too,
    # and mostly a lower one.
    connections: float = 16_384
    # The same for one client: an IPv4 address, or a /64 network of IPv6; beyond it a connection is reset at once. None
    # by default: behind a proxy, or a company's gateway, all clients have one address.
    connections_per_client: float = math.inf
    # A listener's backlog: connections that the kernel accepts for us. The kernel cuts it to net.core.somaxconn.
    backlog: float = 2048

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (value == math.inf or (whole and value > 0)):
                raise ConfigError(f"Limits.{field.name} is {value!r}; it must be a positive whole number or math.inf")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the server waits for what, in seconds of the trio clock.

    Raises:
        ConfigError: a value is not a positive number (or math.inf). `drain_delay` may be 0 too.
    """

    # From the accept of a connection until its first request can come: a PROXY protocol header, a TLS handshake. In
    # total, and as long as for a head: three lost packets. A handshake takes two round trips.
    handshake: float = 10.0
    # A request head, from its first byte to its last. In total, not per byte, so that a dripped head is cut. Ten
    # seconds is three lost packets on a bad mobile line. A new connection has as long again for the first byte.
    head: float = 10.0
    # Between two exchanges of a connection. Longer than the 60 s of the usual load balancers, so that it is they who
    # close first and no request meets a closing connection.
    idle: float = 75.0
    # The handler waits for the body and not one byte comes; or bytes come below Limits.body_rate, and it has waited so
    # much longer for them than that rate would have taken. Long enough for a phone in a tunnel.
    body_stall: float = 30.0
    # A send is blocked and the client takes not one byte, or takes them below Limits.send_rate, as above. nginx's
    # send_timeout is 60 s; half of it suffices.
    send_stall: float = 30.0
    # In the queue for a turn, where Limits.exchanges are handled already; beyond it 503 with Retry-After. Half of the
    # patience of the usual client or more: to be told early is better than to wait for an answer nobody hears.
    queue: float = 10.0
    # From the handler's start to the response's end; the time in the queue does not count. None by default: only the
    # author knows; set it per route.
    handler: float = math.inf
    # A cancelled handler that has not ended by then is reported (never cut): clean-up is meant to be short.
    unwind: float = 5.0
    # One call of the on_abandoned hook.
    hook: float = 5.0
    # With --workers: for a worker to be ready, from its process's start to the end of its lifespans' start. As long as
    # systemd waits for a service. One that loads a large model may need more.
    start: float = 90.0
    # From the order to stop, readiness is refused and connections end with their next answer, but accepting goes on for
    # so long, until whoever sends us clients has heard of it. The `sleep 5` that people write into a preStop hook of
    # Kubernetes, which tells its balancers and its pods at the same moment. 0: nobody needs to hear.
    drain_delay: float = 5.0
    # From the order to stop, that delay included, until exchanges still running are cancelled. Below the 30 s after
    # which Kubernetes kills.
    drain: float = 25.0
    # Background work that still runs when the last exchange has ended. With drain below Kubernetes' 30 s.
    background: float = 4.0
    # After an error answer the rest of the request is read and thrown away so long, lest a RST destroy the answer.
    linger: float = 2.0
    # A peer that has gone without FIN or RST is given up by then (TCP keepalive and TCP_USER_TIMEOUT). The kernel also
    # takes a living peer for vanished that takes no data for five sixths of it; so that such a one ends as too slow,
    # and not as vanished, it is a third longer than send_stall. At least 3: the kernel counts keepalive in seconds.
    vanish: float = 40.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and (value > 0 or (value == 0 and field.name in MAY_BE_ZERO))):
                zero = "0 or " if field.name in MAY_BE_ZERO else ""
                raise ConfigError(f"Deadlines.{field.name} is {value!r}; it must be {zero}a positive number of seconds")
        if self.vanish < MIN_VANISH:
            raise ConfigError(f"Deadlines.vanish is {self.vanish!r}; it must be at least {MIN_VANISH} seconds")


MAY_BE_ZERO = frozenset({"drain_delay"})
"""The deadlines that may be left out: what they wait for need not come."""

MIN_VANISH = 3.0
"""The shortest `Deadlines.vanish`: one second of silence, then two keepalive probes a second apart."""

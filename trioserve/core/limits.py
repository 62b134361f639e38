"""Limits (sizes and counts) and Deadlines (durations): frozen, validated, and each default with its reason.

There is no default for any of these anywhere else, and no second text that says what one is: the options of
`trioserve run` and the page docs/limits.md (by `python -m trioserve.core.limits`; a test compares) are made of
what stands here. Sizes are bytes, durations are seconds, and `math.inf` means that there is no limit. A wrong value is
refused when the object is made, by name, with what would be right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from trioserve.core.errors import ConfigError


def default(value: float, what: str, why: str) -> Any:
    """A field with its default.

    Args:
        value: the default.
        what: what it is, and what happens beyond it, in a line. Others are named as `Limits.head`.
        why: why the default is what it is.
    """
    return dataclasses.field(default=value, metadata={"what": what, "why": why})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of what a connection may bring, and how much the server takes in for it.

    What is counted for all connections together is counted in each worker process by itself.

    Raises:
        ConfigError: a value is not a positive whole number (or math.inf).
    """

    method: float = default(
        32,
        "Bytes in a method; beyond it 501.",
        "The longest that is registered has 17. The code is that of RFC 9112 §3.",
    )
    target: float = default(
        8192,
        "Bytes in a request target; beyond it 414.",
        "RFC 9112 §3 asks servers to take at least 8,000.",
    )
    head: float = default(
        16_384,
        "Bytes in a request head, or a trailer section; beyond it 431.",
        "h11's default, within what nginx (32 KiB) and Apache (8 KiB a line) take.",
    )
    field: float = default(
        8192,
        "Bytes in one field line; beyond it 431.",
        "Apache's default, and nginx's.",
    )
    fields: float = default(
        100,
        "Field lines in a request head, or a trailer section; beyond it 431.",
        "Apache's default; browsers send about 20.",
    )
    chunk_extensions: float = default(
        16_384,
        "Bytes of chunk extensions in a request body; beyond it 413.",
        "They say nothing to us. Node's bound for those of a chunk.",
    )
    body: float = default(
        1_048_576,
        "Bytes in a request body; beyond it 413.",
        "nginx's default. Raise it for the routes that take uploads (`max_body=`).",
    )
    form_parts: float = default(
        1000,
        "Fields in one form, files among them; beyond it 413.",
        "Django's default; a table of 100 rows by 10 columns.",
    )
    form_memory: float = default(
        1_048_576,
        "Bytes of a form's text, beyond it 413; and of its files, beyond it on disk.",
        "As large as `Limits.body`: only a route that takes larger uploads ever writes to disk.",
    )
    body_rate: float = default(
        240,
        "Bytes a second below which a body comes too slowly, once `Deadlines.body_stall` is used up; then 408.",
        "Kestrel's default: no line in use is as slow. None if any byte will do.",
    )
    send_rate: float = default(
        240,
        "Bytes a second below which a client takes its response too slowly, once `Deadlines.send_stall` is used up.",
        "As for the body.",
    )
    unread_body: float = default(
        262_144,
        "Bytes of a body left unread that are thrown away to keep the connection; a longer one closes it.",
        "Go's default: beyond it a new connection is cheaper than the bytes.",
    )
    spool: float = default(
        67_108_864,
        "Unread bytes of one client that are held in memory, while a handler runs, to see a FIN behind them.",
        "What one client can make the server hold. See [docs/departure.md](departure.md#the-limits).",
    )
    spool_total: float = default(
        268_435_456,
        "The same for all clients together; half of it may be raised receive buffers in the kernel.",
        "Two clients at their limit, and 32 raised receive buffers: a quarter of a small machine.",
    )
    websocket_message: float = default(
        1_048_576,
        "Bytes in a message of a WebSocket, and of those read before the handler asks for them; beyond it Close 1009.",
        "The default of the websockets library, and of `Limits.body`.",
    )
    websocket_queue: float = default(
        16,
        "Messages of a WebSocket that are read before the handler asks for them; then the client is held back.",
        "Enough for a burst, few enough that the client soon feels a handler that is slower than itself.",
    )
    threads: float = default(
        40,
        "Worker threads for plain def handlers; beyond it they wait.",
        "trio's own default: enough for blocking database calls.",
    )
    exchanges: float = default(
        math.inf,
        "Exchanges that are handled at once, a stream or a WebSocket as long as it lasts; the others are queued.",
        "How many a server can bear depends on what its handlers do, and thousands that wait for something are "
        "nothing to trio.",
    )
    queue: float = default(
        1000,
        "Exchanges that wait for their turn; beyond it 503 with Retry-After.",
        "Each holds a connection and a head, some tens of kilobytes. Longer would be of little use: who stands at the "
        "end has given up before the turn comes.",
    )
    requests: float = default(
        math.inf,
        "Requests on one connection; the last answer announces its end.",
        "Nothing of a connection grows with them, and a new one costs its client a round trip or three. Set it where a "
        "balancer in front distributes connections and not requests, so that a new server gets its share.",
    )
    connections: float = default(
        16_384,
        "Living connections; beyond it nobody is accepted, and the longest idle is closed for who comes.",
        "Some 9 KB each while idle, 40 with TLS: half a gigabyte for all. The system's descriptors (`ulimit -n`) are "
        "a limit too, and mostly a lower one.",
    )
    connections_per_client: float = default(
        math.inf,
        "Living connections of one IPv4 address, or one /64 network of IPv6; beyond it they are reset.",
        "Behind a proxy, or a company's gateway, all clients have one address.",
    )
    backlog: float = default(
        2048,
        "Connections that wait to be accepted.",
        "A burst. The kernel cuts it to net.core.somaxconn.",
    )

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

    handshake: float = default(
        10.0,
        "From the accept of a connection, for its PROXY protocol header and TLS handshake; then it is closed.",
        "In total, and as long as for a head: three lost packets. A handshake takes two round trips.",
    )
    head: float = default(
        10.0,
        "For a request head to arrive, from its first byte to its last; then 408.",
        "In total, not per byte, so that a dripped head is cut. Three lost packets on a bad mobile line. A new "
        "connection has as long again for the first byte.",
    )
    idle: float = default(
        75.0,
        "For the next request on a connection; then it is closed.",
        "Longer than the 60 s of the usual load balancers, so that it is they who close first and no request meets a "
        "closing connection.",
    )
    body_stall: float = default(
        30.0,
        "For a body that the handler waits for and that does not come, or below `Limits.body_rate`; then 408.",
        "Long enough for a phone in a tunnel. A body that comes too slowly is cut when it has been waited for so much "
        "longer than that rate would have taken.",
    )
    send_stall: float = default(
        30.0,
        "For a blocked send that does not move on, or below `Limits.send_rate`; then it is cut.",
        "nginx's send_timeout is 60 s; half of it suffices.",
    )
    queue: float = default(
        10.0,
        "In the queue (`Limits.exchanges`) or waiting for a thread (`Limits.threads`); beyond it 503 with Retry-After.",
        "Half of the patience of the usual client or more: to be told early is better than to wait for an answer "
        "nobody hears.",
    )
    handler: float = default(
        math.inf,
        "From a handler's start to its response's end, the time in the queue not counted; beyond it 503.",
        "Only the author knows; set it per route (`deadline=`).",
    )
    unwind: float = default(
        5.0,
        "After which a cancelled handler that still cleans up is reported; it is never cut.",
        "Clean-up is meant to be short.",
    )
    hook: float = default(
        5.0,
        "For one call of an on_abandoned hook; then it is cancelled.",
        "It tells somebody, and is not to work.",
    )
    start: float = default(
        90.0,
        "With --workers, for a worker to be ready, its lifespans' start included; else it is killed.",
        "As long as systemd waits for a service. One that loads a large model may need more.",
    )
    drain_delay: float = default(
        5.0,
        "After SIGTERM, while readiness is refused and all is served, until no more connections are accepted.",
        "Until whoever sends us clients has heard of it. The `sleep 5` that people write into a preStop hook of "
        "Kubernetes, which tells its balancers and its pods at the same moment. 0: nobody needs to hear.",
    )
    drain: float = default(
        25.0,
        "For exchanges under way when the server stops, that delay included; then they are cancelled, and 503.",
        "Below the 30 s after which Kubernetes kills.",
    )
    background: float = default(
        4.0,
        "For background work, after the last exchange; then it is cancelled.",
        "With `Deadlines.drain` below Kubernetes' 30 s.",
    )
    linger: float = default(
        2.0,
        "For a client to read an error answer, while the rest of its request is thrown away; then the close.",
        "Without it a RST could destroy the answer.",
    )
    vanish: float = default(
        40.0,
        "For a peer that is silent because it has gone, or takes no data; by TCP keepalive and TCP_USER_TIMEOUT.",
        "The kernel also takes a living peer for vanished that takes no data for five sixths of it; so that such a one "
        "ends as too slow, and not as vanished, it is a third longer than `Deadlines.send_stall`. At least 3: the "
        "kernel counts keepalive in seconds.",
    )

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


def as_markdown() -> str:
    """All of them as the page docs/limits.md."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield from (
        "# Limits and deadlines",
        "",
        "Every bound that there is, with its default. Generated from `trioserve/core/limits.py` by",
        "`python -m trioserve.core.limits > docs/limits.md`; do not edit. How they work together stands in",
        "[open-port.md](open-port.md#what-happens-beyond-a-limit).",
        "",
        "In Python, `Config(limits=Limits(head=32_768), deadlines=Deadlines(idle=30))`; `math.inf` is none. At the",
        "command line, `--limit-head 32768` and `--deadline-idle 30`, or in the environment `TRIOSERVE_LIMIT_HEAD` and",
        "`TRIOSERVE_DEADLINE_IDLE`; `inf` is none. Each of several workers has all of them for itself.",
        "",
        "## Limits",
        "",
        "| `Limits.` | default | what it bounds, and what happens beyond it | why so |",
    )
    yield from _rows(Limits, unit="")
    yield from (
        "",
        "## Deadlines",
        "",
        "| `Deadlines.` | default | for how long, and what happens then | why so |",
    )
    yield from _rows(Deadlines, unit=" s")


def _rows(cls: type[Limits | Deadlines], unit: str) -> Iterator[str]:
    yield "| --- | ---: | --- | --- |"
    for field in fields(cls):
        what, why = field.metadata["what"], field.metadata["why"]
        yield f"| {field.name} | {_number(field.default, unit)} | {what} | {why} |"


def _number(value: Any, unit: str) -> str:
    if value == math.inf:
        return "none"
    mebibytes, rest = divmod(value, 2**20)
    return f"{mebibytes:.0f} MiB" if mebibytes and not rest else f"{value:,.0f}{unit}"


if __name__ == "__main__":
    print(as_markdown(), end="")

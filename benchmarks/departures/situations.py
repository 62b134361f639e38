"""The situations: one row of the table each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from benchmarks.departures.client import Client, Event
from benchmarks.departures.server import LATE_ANSWER, SHIELDED_CLEANUP, THREAD_LOOKS_EVERY
from benchmarks.leaving import Leaving
from trioserve import Deadlines

CLOSE, RESET, HALF_CLOSE, SILENCE = Leaving.CLOSE, Leaving.RESET, Leaving.HALF_CLOSE, Leaving.SILENCE
MB = 1_000_000

EARLY = 0.005
"""Seconds after the handler's start: before the connection looks for bytes that lie unread (0.25 s)."""
LATE = 0.5
"""After that look."""
BLOCKED = 0.1
"""Until a stream that nobody reads has filled all buffers."""


class ToldBy(Enum):
    """By what the departure counts as noticed."""

    CANCELLATION = auto()  # the handler says that it is being cancelled
    RECORD = auto()  # the hook is called: there is no handler, or it may not have started
    CLOSE = auto()  # the server closes its socket: there is no record
    NOTHING = auto()  # it is no departure: the client gets its answer


@dataclass(frozen=True, slots=True)
class Settings:
    """The deadlines that a row may change."""

    send_stall: float = Deadlines().send_stall
    vanish: float = Deadlines().vanish


SHORT = Settings(send_stall=1.0, vanish=3.0)
"""For departures that only a deadline ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A row: clients arrive, stay for a while, leave, and the departure is told by something."""

    name: str
    arrive: Callable[[Client], None]
    leaving: Leaving
    starts: bool = True  # wait for the handler's start before the stay begins
    stay: float = 0.005  # seconds
    reads: bool = False  # the client has read all that came before it leaves, so that its close is a FIN
    told_by: ToldBy = ToldBy.CANCELLATION
    patience: float = 1.0  # seconds until it counts as not noticed
    crowd: int = 1  # clients that leave in the same instant
    together: bool = False  # all repetitions at once: it takes seconds, and one does not disturb the other
    settings: Settings = Settings()
    # What else is to be seen, in a few words; the row tells how often which words were found.
    remark: Callable[[list[Event]], str] | None = None
    # Why this departure cannot be noticed within a millisecond or two, if it cannot.
    exempt: str = ""

    @property
    def brief(self) -> bool:
        """True if one repetition takes some milliseconds, and disturbs no other."""
        return self.stay <= BLOCKED and self.crowd == 1 and not self.together and not self.exempt


NOT_YET = "the FIN cannot come before the server looks for unread bytes, 250 ms after the handler's start"
TOO_MUCH = "more lies before the FIN than the limits allow to be taken in"
ONE_CORE = "one core unwinds one after another"
DEADLINE = "only a deadline tells"


def get(path: str) -> Callable[[Client], None]:
    return lambda client: client.get(path)


def fourth_exchange(client: Client) -> None:
    for _ in range(3):
        client.get("/quick")
        client.receive_until(b"ok")
    client.get("/sleep")


def unread_body(size: int, rate: float = float("inf")) -> Callable[[Client], None]:
    """A body of which all but the last byte comes, as fast as the server takes it or at `rate` bytes a second."""

    def arrive(client: Client) -> None:
        client.post("/sleep", f"content-length: {size}")
        client.keep_sending(b"x" * 65_536, size - 1, rate)

    return arrive


def unread_exempt(size: int, leaving: Leaving, stay: float) -> str:
    """A RST overtakes what is unread, and a FIN behind little of it arrives."""
    if leaving is RESET or size < MB:
        return ""
    if stay == EARLY:
        return NOT_YET
    return TOO_MUCH if size > 70 * MB else ""


def half_a_body(client: Client) -> None:
    client.post("/read", "content-length: 10000", b"x" * 5000)


def truncated_chunk(client: Client) -> None:
    client.post("/read", "transfer-encoding: chunked", b"1000\r\n" + b"x" * 2048)


def expect_and_be_asked(client: Client) -> None:
    client.post("/read", "content-length: 10000\r\nexpect: 100-continue")
    client.receive_until(b"\r\n\r\n")


def expect_and_not_be_asked(client: Client) -> None:
    client.post("/sleep", "content-length: 10000\r\nexpect: 100-continue")


REQUEST = b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\n"


def one_pipelined(client: Client) -> None:
    client.send(REQUEST * 2)


def many_pipelined(client: Client) -> None:
    client.send(REQUEST)
    client.keep_sending(REQUEST * 1000, 2 * MB)


def how_many_begun(events: list[Event]) -> str:
    behind = sum(event.what == "started" for event in events) - 1
    return "nothing behind it begun" if not behind else f"{behind} BEGUN BEHIND IT"


def read_some(client: Client) -> None:
    client.get("/stream")
    client.receive_until(b"xxx")


def partial_head(client: Client) -> None:
    client.send(b"GET /sleep HTTP/1.1\r\nhost:")


def one_answered(client: Client) -> None:
    client.get("/quick")
    client.receive_until(b"ok")


def cleanup_ended(events: list[Event]) -> str:
    return "clean-up ended" if any(event.what == "cleaned" for event in events) else "CLEAN-UP CUT"


def situations() -> Iterator[Situation]:
    """All rows, in the table's order."""
    yield from _waiting()
    yield from _unread_bodies()
    yield from _bodies_being_read()
    yield from _pipelined()
    yield from _responses()
    yield from _half_closes()
    yield from _ends_of_a_connection()
    yield from _silences()


def _waiting() -> Iterator[Situation]:
    for leaving in (CLOSE, RESET):
        yield Situation(name="handler sleeps", arrive=get("/sleep"), leaving=leaving)
        yield Situation(name="fourth exchange of a connection", arrive=fourth_exchange, leaving=leaving)
        yield Situation(
            name=f"handler with a shielded clean-up of {SHIELDED_CLEANUP * 1000:.0f} ms",
            arrive=get("/shielded"),
            leaving=leaving,
            remark=cleanup_ended,
        )
        yield Situation(
            name=f"plain def in a thread, looks each {THREAD_LOOKS_EVERY * 1000:g} ms",
            arrive=get("/thread"),
            leaving=leaving,
        )
        yield Situation(
            name="500 clients leave at once, each from its own close",
            arrive=get("/sleep"),
            leaving=leaving,
            crowd=500,
            exempt=ONE_CORE,
        )


def _unread_bodies() -> Iterator[Situation]:
    for size, text in (
        (32_000, "32 KB"),
        (10 * MB, "10 MB"),
        (50 * MB, "50 MB"),
        # On either side of the limit: Limits.spool (67 MB) and a raised receive buffer (some 8 MB).
        (70 * MB, "70 MB"),
        (100 * MB, "100 MB"),
    ):
        for leaving in (CLOSE, RESET):
            for stay in (EARLY, LATE):
                yield Situation(
                    name=f"{text} of body unread, leaves after {stay * 1000:.0f} ms",
                    arrive=unread_body(size),
                    leaving=leaving,
                    stay=stay,
                    exempt=unread_exempt(size, leaving, stay),
                )
    yield Situation(
        name="50 MB of body unread, sent at 40 MB/s, leaves after 600 ms",
        arrive=unread_body(50 * MB, rate=40 * MB),
        leaving=CLOSE,
        stay=0.6,
    )
    # On either side of the other limit: half of Limits.spool_total (134 MB) for all spools together.
    for crowd, text in ((2, "two"), (10, "ten")):
        yield Situation(
            name=f"{text} clients at once with 50 MB of body unread each, leave after 1 s",
            arrive=unread_body(50 * MB),
            leaving=CLOSE,
            stay=1.0,
            crowd=crowd,
            exempt=TOO_MUCH if crowd == 10 else "",
        )


def _bodies_being_read() -> Iterator[Situation]:
    for leaving in (CLOSE, RESET):
        yield Situation(name="body being read, Content-Length", arrive=half_a_body, leaving=leaving)
        yield Situation(name="body being read, chunk truncated", arrive=truncated_chunk, leaving=leaving)
        yield Situation(name="Expect: 100-continue, asked, no body sent", arrive=expect_and_be_asked, leaving=leaving)
        yield Situation(name="Expect: 100-continue, never asked", arrive=expect_and_not_be_asked, leaving=leaving)


def _pipelined() -> Iterator[Situation]:
    for leaving in (CLOSE, RESET):
        yield Situation(name="one request waits behind", arrive=one_pipelined, leaving=leaving, remark=how_many_begun)
        for stay in (EARLY, LATE):
            yield Situation(
                name=f"2 MB of requests wait behind, leaves after {stay * 1000:.0f} ms",
                arrive=many_pipelined,
                leaving=leaving,
                stay=stay,
                remark=how_many_begun,
                exempt=NOT_YET if leaving is CLOSE and stay == EARLY else "",
            )


def _responses() -> Iterator[Situation]:
    for leaving in (CLOSE, RESET):
        yield Situation(name="response streams, client reads", arrive=read_some, leaving=leaving, reads=True)
        yield Situation(name="send blocked, client does not read", arrive=get("/flood"), leaving=leaving, stay=BLOCKED)
    yield Situation(
        name="send blocked, half-closed client never reads, abort",
        arrive=get("/flood"),
        leaving=HALF_CLOSE,
        stay=BLOCKED,
    )
    yield Situation(
        name=f"the same, finish: only send_stall ends it ({SHORT.send_stall:g} s here)",
        arrive=get("/flood/finish"),
        leaving=HALF_CLOSE,
        stay=BLOCKED,
        settings=SHORT,
        patience=3.0,
        together=True,
        exempt=DEADLINE,
    )


def _half_closes() -> Iterator[Situation]:
    yield Situation(name="half-close, abort", arrive=get("/sleep"), leaving=HALF_CLOSE)
    for mode in ("finish", "probe"):
        yield Situation(
            name=f"half-close, {mode}: the client is there and waits",
            arrive=get(f"/late/{mode}"),
            leaving=HALF_CLOSE,
            told_by=ToldBy.NOTHING,
            patience=LATE_ANSWER + 1,
        )
    yield Situation(name="finish: the client resets", arrive=get("/sleep/finish"), leaving=RESET)
    yield Situation(name="probe: the client is gone", arrive=get("/sleep/probe"), leaving=CLOSE)
    yield Situation(name="probe: the client resets", arrive=get("/sleep/probe"), leaving=RESET)


def _ends_of_a_connection() -> Iterator[Situation]:
    yield Situation(
        name="request and close in one go (to the record)",
        arrive=get("/sleep"),
        leaving=CLOSE,
        starts=False,
        stay=0,
        told_by=ToldBy.RECORD,
    )
    for leaving in (CLOSE, RESET):
        yield Situation(
            name="partial head (to the record)",
            arrive=partial_head,
            leaving=leaving,
            starts=False,
            told_by=ToldBy.RECORD,
        )
        yield Situation(
            name="idle keep-alive (to the server's close)",
            arrive=one_answered,
            leaving=leaving,
            starts=False,
            told_by=ToldBy.CLOSE,
        )


def _silences() -> Iterator[Situation]:
    for name, arrive in (
        ("handler sleeps", get("/sleep")),
        ("response streams", read_some),
        ("send blocked", get("/flood")),
    ):
        yield Situation(
            name=f"client vanishes, {name} (vanish={SHORT.vanish:g} s here)",
            arrive=arrive,
            leaving=SILENCE,
            # TCP_USER_TIMEOUT and send_stall would race for the blocked send; here the silence is to be measured.
            settings=Settings(vanish=SHORT.vanish),
            patience=SHORT.vanish + 2,
            together=True,
            exempt=DEADLINE,
        )

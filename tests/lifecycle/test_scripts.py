"""Whole lifecycles, drawn by Hypothesis and played in memory in virtual time: a script says what one client does, and
whether there are layers around the handlers.

The oracle does not know how the server works. It knows what was sent before the client left, and what the design
allows for it: see `judge`. trio's scheduling is deterministic under Hypothesis, so what fails shrinks and replays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from lifecycle.stage import Client, Stage, Theatre
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    Completed,
    Config,
    Deadlines,
    DisconnectPolicy,
    Grace,
    HalfClose,
    HTTPError,
    Limits,
    Outcome,
    Phase,
    Request,
    Response,
)
from trioserve.core.status import TABLE

VANISH = 20.0
BODY_STALL = 10.0
BODY_RATE = 240.0
LIFETIME = 3000.0
"""Virtual seconds after which every script is over."""

BODY = bytes(range(256)) * 2

REQUESTS = {
    "quick": b"GET /quick HTTP/1.1\r\nHost: example\r\n\r\n",
    "sleep": b"GET /sleep HTTP/1.1\r\nHost: example\r\n\r\n",
    "tidy": b"GET /tidy HTTP/1.1\r\nHost: example\r\n\r\n",
    "stream": b"GET /stream HTTP/1.1\r\nHost: example\r\n\r\n",
    "big": b"GET /big HTTP/1.1\r\nHost: example\r\n\r\n",
    "fail": b"GET /fail HTTP/1.1\r\nHost: example\r\n\r\n",
    "head": b"HEAD /stream HTTP/1.1\r\nHost: example\r\n\r\n",
    "echo": b"POST /echo HTTP/1.1\r\nHost: example\r\nContent-Length: 512\r\n\r\n" + BODY,
    "echo chunked": b"POST /echo HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"40\r\n%b\r\n" % BODY[i : i + 64] for i in range(0, 512, 64))
    + b"0\r\n\r\n",
    "ignore": b"POST /ignore HTTP/1.1\r\nHost: example\r\nContent-Length: 512\r\n\r\n" + BODY,
}


@dataclass
class Script:
    """What one client does: sends requests in segments with pauses, and at some byte leaves in some way, or stays."""

    requests: list[str]
    segments: list[int]
    pauses: list[float]
    leave_after: float
    how: str
    stays_for: float
    reads: bool
    disconnect: DisconnectPolicy
    half_close: HalfClose
    layers: bool

    @property
    def stream(self) -> bytes:
        return b"".join(REQUESTS[name] for name in self.requests)

    @property
    def sent(self) -> bytes:
        """What of the stream is sent at all."""
        return self.stream if self.how == "STAY" else self.stream[: round(len(self.stream) * self.leave_after)]


scripts = st.builds(
    Script,
    requests=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=4),
    segments=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.3]), min_size=1, max_size=6),
    leave_after=st.one_of(st.just(1.0), st.floats(0, 1)),
    how=st.sampled_from(["FIN", "RESET", "HALF_CLOSE", "VANISH", "STAY"]),
    stays_for=st.sampled_from([0.0, 0.0, 0.1, 0.6, 2.0]),
    reads=st.booleans(),
    disconnect=st.sampled_from([CANCEL, FINISH, Grace(0.5)]),
    half_close=st.sampled_from(HalfClose),
    layers=st.booleans(),
)


@dataclass
class Run:
    """What came of a script."""

    started: int = 0
    ended: int = 0
    received: bytearray = field(default_factory=bytearray)
    left_at: float | None = None
    # How many bytes of the stream had been sent at which time.
    sent: list[tuple[float, int]] = field(default_factory=list)

    def sent_by(self, time: float) -> int:
        return max((size for sent_at, size in self.sent if sent_at <= time), default=0)


def application(script: Script, run: Run) -> App:  # noqa: C901 - a list of handlers, each of a few lines
    app = App(disconnect=script.disconnect, half_close=script.half_close)

    class counted:  # noqa: N801 - reads as a statement
        def __enter__(self) -> None:
            run.started += 1

        def __exit__(self, *_: object) -> None:
            run.ended += 1

    @app.get("/quick")
    async def quick() -> str:
        with counted():
            return "quick"

    @app.get("/sleep")
    async def sleep() -> str:
        with counted():
            await trio.sleep(1)
            return "slept"

    @app.get("/tidy")
    async def tidy() -> str:
        with counted():
            try:
                await trio.sleep(1)
            finally:
                with trio.move_on_after(1, shield=True):
                    await trio.sleep(0.2)
            return "tidied"

    @app.get("/stream")
    async def stream() -> Response:
        async def write_body(send) -> None:
            with counted():
                for _ in range(3):
                    await send(b"part")
                    await trio.sleep(0.2)

        return Response.stream(write_body)

    @app.get("/big")
    async def big() -> bytes:
        with counted():
            return bytes(300_000)

    @app.get("/fail")
    async def fail() -> None:
        with counted():
            raise HTTPError(409)

    @app.post("/echo")
    async def echo(request: Request) -> bytes:
        with counted():
            return await request.body()

    @app.post("/ignore")
    async def ignore() -> str:
        with counted():
            await trio.sleep(1)
            return "ignored"

    return app


async def play(script: Script, run: Run, stage: Stage) -> Theatre:
    config = Config(
        limits=Limits(body_rate=int(BODY_RATE)),
        deadlines=Deadlines(vanish=VANISH, send_stall=10, body_stall=BODY_STALL, idle=15),
    )
    async with stage.serve(application(script, run), config) as theatre:
        client = await theatre.connect()
        with trio.move_on_after(LIFETIME):
            async with trio.open_nursery() as nursery:
                if script.reads:
                    nursery.start_soon(read, client, run)
                await act(script, client, run)
                await trio.sleep(script.stays_for)
                leave(script, client, run)
                await trio.sleep(60)
                nursery.cancel_scope.cancel()
    return theatre


async def read(client: Client, run: Run) -> None:
    try:
        while data := await client.receive():
            run.received += data
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def act(script: Script, client: Client, run: Run) -> None:
    rest, turn = script.sent, 0
    while rest:
        size = script.segments[turn % len(script.segments)]
        try:
            await client.send(rest[:size])
        except trio.BrokenResourceError:
            return  # the server has closed: after a refusal, or a deadline
        rest = rest[size:]
        run.sent.append((trio.current_time(), len(script.sent) - len(rest)))
        await trio.sleep(script.pauses[turn % len(script.pauses)])
        turn += 1


def leave(script: Script, client: Client, run: Run) -> None:
    run.left_at = trio.current_time()
    match script.how:
        case "FIN" | "RESET":
            client.leave(script.how)
        case "HALF_CLOSE":
            client.half_close()
        case "VANISH":
            client.vanish()


@pytest.mark.parametrize("kind", ["memory", "memory-read-ahead", "memory-tls"])
@settings(max_examples=3 * settings.default.max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(script=scripts)
@example(
    # The body of the first request drips in long after its answer: the second is not served.
    script=Script(
        requests=["ignore", "big"],
        segments=[1],
        pauses=[0.0, 0.3],
        leave_after=1.0,
        how="STAY",
        stays_for=0.0,
        reads=True,
        disconnect=CANCEL,
        half_close=HalfClose.ABORT,
        layers=False,
    )
)
@example(
    # The client leaves in the very moment in which the next part is due.
    script=Script(
        requests=["stream"],
        segments=[39],
        pauses=[0.3],
        leave_after=1.0,
        how="FIN",
        stays_for=0.1,
        reads=True,
        disconnect=CANCEL,
        half_close=HalfClose.ABORT,
        layers=False,
    )
)
def test_whatever_a_client_does_the_records_tell_the_truth(kind: str, script: Script) -> None:
    run = Run()
    stage = Stage(f"{kind}-layers" if script.layers else kind)
    theatre = trio.run(play, script, run, stage, clock=MockClock(autojump_threshold=0))
    judge(script, run, theatre.observed.all)


def judge(script: Script, run: Run, records: list[Completed | Abandoned]) -> None:
    assert run.started == run.ended, "a handler was left running"
    assert [record.exchange_number for record in records] == list(range(1, len(records) + 1))
    assert len(records) <= len(script.requests)
    *earlier, last = records or [None]
    assert all(isinstance(record, Completed) for record in earlier), "an abandonment ends the connection"
    # HEAD of a stream has no body to write, so its handler counts nothing; nor does a head that never became whole.
    counted = [record for record in records if record.method != "HEAD" and record.headers is not None]
    if isinstance(last, Abandoned):
        # The last one may have been ended before its handler, or its stream, had begun.
        assert run.started in {len(counted), len(counted) - 1}
        assert last.outcome is not Outcome.NOT_STARTED or run.started < len(records)
        judge_abandoned(script, run, last)
    else:
        assert run.started == len(counted)
    if any(record.headers is None for record in records):
        return  # the client was too slow: what it did after that met a closed connection
    for record in records:
        if record.target == "/echo" and isinstance(record, Completed):
            tried = tried_patience(script, run, record)
            assert abs(tried - BODY_STALL) < 1e-6 if record.status == 408 else tried < BODY_STALL
    if isinstance(last, Completed) and last.status == 408:
        return  # a body that dripped in; what the client did after that met a closed connection
    if isinstance(last, Completed) and body_came_too_late(script, run, last):
        return  # nobody wanted the body, and the connection was not kept for the rest of it
    if script.how == "STAY" and script.reads:
        assert [type(record) for record in records] == [Completed] * len(script.requests)
        assert run.received.count(b"HTTP/1.1 ") == len(records)
    if script.how == "HALF_CLOSE" and script.reads and script.half_close is not HalfClose.ABORT:
        whole = script.leave_after == 1.0
        if whole and run.left_at is not None:
            assert [type(record) for record in records] == [Completed] * len(script.requests)


def body_came_too_late(script: Script, run: Run, last: Completed) -> bool:
    """True if an answered request's body, which its handler had not read, was not whole a body's deadline later."""
    requests = script.requests[: last.exchange_number]
    end_of_request = sum(len(REQUESTS[name]) for name in requests)
    answered_at = last.started_at + last.duration
    return requests[-1] == "ignore" and run.sent_by(answered_at + BODY_STALL) < end_of_request


def tried_patience(script: Script, run: Run, record: Completed) -> float:
    """For how many seconds at the most, less what the bytes may take that came meanwhile, a handler had waited for its
    body. Over some stretch of the waiting, that is: a client that was fast before has nothing to its credit.
    """
    requests = script.requests[: record.exchange_number]
    end_of_head = sum(len(REQUESTS[name]) for name in requests[:-1]) + REQUESTS[requests[-1]].index(b"\r\n\r\n") + 4
    answered_at = record.started_at + record.duration
    waits_since = max(record.started_at, min(at for at, size in run.sent if size >= end_of_head))
    # What came in the very moment of the answer, if it is a 408, came too late.
    before_that = max(answered_at - 1e-9, waits_since)
    moments = [waits_since, *(at for at, _ in run.sent if waits_since < at < before_that)]
    came = run.sent_by(before_that)
    return max(answered_at - moment - (came - run.sent_by(moment)) / BODY_RATE for moment in moments)


def judge_abandoned(script: Script, run: Run, record: Abandoned) -> None:
    assert record.status == TABLE[record.phase, record.cause]
    assert record.cause in causes(script), record
    assert run.left_at is not None
    if record.noticed_at < run.left_at:
        assert record.cause is Cause.WRITE_TIMEOUT
        return
    if record.cause in {Cause.FIN, Cause.RESET} and script.half_close is HalfClose.ABORT:
        # At once; only a FIN behind unread bytes takes a quarter of a second. Nothing here fills a window.
        assert record.noticed_at == run.left_at
    if record.cause is Cause.VANISHED:
        assert record.noticed_at == run.left_at + VANISH
    if record.phase is Phase.HEAD:
        assert record.headers is None
    else:
        assert record.target == REQUESTS[script.requests[record.exchange_number - 1]].split()[1].decode()
    if record.outcome is Outcome.CANCELLED and record.cause.by == "client" and record.phase is not Phase.HEAD:
        slow = record.cause in {Cause.READ_TIMEOUT, Cause.WRITE_TIMEOUT}
        assert slow or script.disconnect is not FINISH
        if script.disconnect not in {CANCEL, FINISH} and not slow:
            assert record.unwind_time > script.disconnect.seconds - 1e-9
    if record.outcome is Outcome.CANCELLED and script.disconnect is CANCEL:
        # As long as the longest clean-up, or the rest of it, if that was under way.
        assert record.unwind_time < 0.2 + 1e-9


def causes(script: Script) -> set[Cause]:
    """Why an exchange may be abandoned, given what the client does."""
    blocked = set() if script.reads else {Cause.WRITE_TIMEOUT}
    match script.how:
        case "FIN":
            # A close with bytes unread is a reset; so is what a send, or a probe, to one that is gone comes back with.
            return {Cause.FIN, Cause.RESET} | blocked
        case "RESET":
            return {Cause.RESET} | blocked
        case "HALF_CLOSE":
            return {Cause.FIN, Cause.DRAIN} | blocked
        case "VANISH":
            # Until it is given up for dead, the server may lose patience with it.
            return {Cause.VANISHED, Cause.READ_TIMEOUT, Cause.WRITE_TIMEOUT} | blocked
        case _:
            return blocked | {Cause.DRAIN}

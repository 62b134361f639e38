"""Whole lifecycles, drawn by Hypothesis and played in memory in virtual time: a script says what one client does, a
service what its handlers do and which policies are in force; and perhaps there are layers around the handlers.

What is allowed says the model (`trioserve.testing.model`), which does not know how the server works. trio's scheduling
is deterministic under Hypothesis, so what fails shrinks and replays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from lifecycle.stage import Client, Stage
from trioserve import FINISH, Completed, Deadlines, HalfClose
from trioserve.core.records import Record
from trioserve.testing import Way, Wire, wire_of
from trioserve.testing.handlers import Handler, HandlerBroke, Marks, Service
from trioserve.testing.model import check_script
from trioserve.testing.plain import is_right
from trioserve.testing.scripts import Course, Leave, Pause, Script, Send, Stay, Visit, play_scripts
from trioserve.testing.strategies import almost_valid_requests, connections, crowds, requests, services, splits

LIFETIME = 1000.0
"""Virtual seconds after which all that a script has begun is over."""

TARGETS = ["/a", "/b", "/c"]

GET = Wire(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n", b"", "GET", "/a")
OLD = Wire(b"GET /a HTTP/1.0\r\n\r\n", b"", "GET", "/a")
POST = Wire(b"POST /b HTTP/1.1\r\nHost: test\r\nContent-Length: 512\r\n\r\n", bytes(512), "POST", "/b")
SLOW = b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n" + bytes(100)

KINDS = ["memory", "memory-read-ahead", "memory-tls"]


@pytest.fixture(autouse=True)
def only_handlers_that_are_to_fail_do(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    for record in caplog.records:
        if record.levelno >= logging.ERROR:
            assert record.exc_info is not None, record
            assert isinstance(record.exc_info[1], HandlerBroke), record


async def played(visits: tuple[Visit, ...], service: Service, stage: Stage) -> tuple[list[Course], list[Record], Marks]:
    """How these went, all records, and what the handlers have told. Sees to it that no handler is left running."""
    marks = Marks()
    async with stage.serve(service.app(marks), service.config()) as theatre:

        async def connect() -> Client:
            return await theatre.connect(send_buffer=service.room // 2, window=service.room // 2)

        courses = await play_scripts(visits, connect, reached=marks.reached)
        await trio.sleep(LIFETIME)
    assert marks.begun == marks.ended, "a handler was left running"
    return courses, theatre.observed.all, marks


def play(visits: tuple[Visit, ...], service: Service, kind: str = "memory") -> list[list[Record]]:
    """Play these, and hold each against the model; the records of each."""
    courses, records, marks = trio.run(played, visits, service, Stage(kind), clock=MockClock(autojump_threshold=0))
    of_each = [[record for record in records if record.client == course.client] for course in courses]
    assert sum(map(len, of_each)) == len(records)
    assert {client for client, _ in marks.calls} <= {course.client for course in courses}
    for visit, course, own in zip(visits, courses, of_each, strict=True):
        check_script(visit.script, course, own, service, marks)
    return of_each


drawn = settings(suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.mark.parametrize("kind", KINDS)
@settings(drawn, max_examples=3 * settings.default.max_examples)
@given(script=connections(requests(TARGETS)), service=services(TARGETS), layers=st.booleans())
@example(
    # The body of the first request drips in long after its answer: the second is not served.
    script=Script((POST, GET), (Send(pieces=(1,), pauses=(0.0, 0.3)), Stay(60.0))),
    service=Service(
        handlers={"/a": Handler(content=300_000), "/b": Handler(reads=False, waits=1.0)},
        deadlines=Deadlines(vanish=20, send_stall=10, body_stall=10, idle=15),
    ),
    layers=False,
)
@example(
    # The client leaves in the very moment in which the next part is due.
    script=Script((GET,), (Send(pieces=(39,), pauses=(0.3,)), Pause(0.1), Leave(Way.FIN))),
    service=Service(handlers={"/a": Handler(parts=3, pause=0.2, content=4)}),
    layers=False,
)
@example(
    # A head that becomes whole in the very moment in which the wait for it is over.
    script=Script((GET,), (Send(len(GET.head) - 1), Pause(10.0), Send(), Stay(60.0))),
    service=Service(handlers={"/a": Handler()}),
    layers=False,
)
@example(
    # The FIN comes with the request, before its head was read.
    script=Script((GET,), (Send(), Leave(Way.FIN))),
    service=Service(handlers={"/a": Handler(waits=1.0)}),
    layers=False,
)
@example(
    # A client of HTTP/1.0 is not probed: it knows no interim responses.
    script=Script((OLD,), (Send(), Pause(0.1), Leave(Way.HALF_CLOSE), Stay(60.0))),
    service=Service(handlers={"/a": Handler(waits=1.0)}, half_close=HalfClose.PROBE),
    layers=False,
)
@example(
    # Every byte of a body comes in time, and all of it too slowly.
    script=Script((POST, GET), (Send(pieces=(1,), pauses=(0.3,)), Stay(60.0))),
    service=Service(handlers={"/b": Handler()}, deadlines=Deadlines(head=40.0, body_stall=1.0)),
    layers=False,
)
@example(
    # Nobody takes the answer.
    script=Script((GET,), (Send(), Stay(60.0)), reads=False),
    service=Service(handlers={"/a": Handler(content=300_000)}, deadlines=Deadlines(send_stall=10.0)),
    layers=False,
)
@example(
    # An answer that lasts until the connection's end breaks off: its client must see that.
    script=Script((OLD,), (Send(), Stay(60.0))),
    service=Service(handlers={"/a": Handler(parts=1, content=4, fails=True)}),
    layers=False,
)
@example(
    # The client leaves in the very moment in which the patience with its head is at its end: either comes first.
    script=Script((GET, GET), (Send(len(GET.head) + 1), Pause(2.0), Leave(Way.FIN))),
    service=Service(handlers={"/a": Handler(waits=1.0)}, deadlines=Deadlines(head=1.0)),
    layers=False,
)
@example(
    # More of the body comes in the very moment in which the patience with it is at its end: either comes first.
    script=Script((GET, GET, GET, wire_of(SLOW)), (Send(pieces=(4,), pauses=(0.0, 0.0, 0.0, 0.3)), Leave(Way.FIN))),
    service=Service(
        handlers={"/a": Handler()}, deadlines=Deadlines(idle=15.0, body_stall=1.0, send_stall=10.0, vanish=20.0)
    ),
    layers=False,
)
@example(
    # The client closes in the very moment of the first answer, perhaps behind it: then nothing tells that it is gone.
    script=Script((wire_of("/b"), GET), (Send(pieces=(1,)), Leave(Way.FIN))),
    service=Service(handlers={"/a": Handler(waits=0.2), "/b": Handler()}, half_close=HalfClose.FINISH),
    layers=False,
)
@example(
    # The client leaves while its answer is blocked, and the handler may run on: its answer is nobody's.
    script=Script((GET,), (Send(), Pause(0.5), Leave(Way.RESET)), reads=False),
    service=Service(handlers={"/a": Handler(content=300_000)}, disconnect=FINISH),
    layers=False,
)
def test_whatever_a_client_does_the_records_and_answers_tell_the_truth(
    kind: str,
    script: Script,
    service: Service,
    layers: bool,  # noqa: FBT001
) -> None:
    play((Visit(script),), service, f"{kind}-layers" if layers else kind)


@drawn
@given(visits=crowds(connections(requests(TARGETS), most=2)), service=services(TARGETS))
def test_several_clients_at_once_are_told_of_as_truly(visits: tuple[Visit, ...], service: Service) -> None:
    play(visits, service)


PATIENT = Service(handlers=dict.fromkeys(TARGETS, Handler(content=5)))


def told(records: list[Record]) -> list[tuple[object, ...]]:
    """What records say that does not depend on how the bytes came."""
    return [(type(record), record.status, record.method, record.target, record.headers is None) for record in records]


@settings(drawn, max_examples=2 * settings.default.max_examples)
@given(wire=almost_valid_requests(requests(TARGETS)), pieces=splits(largest=20))
def test_what_is_almost_a_request_is_the_same_however_it_is_cut(wire: Wire, pieces: tuple[int, ...]) -> None:
    def sent_in(sizes: tuple[int, ...]) -> list[tuple[object, ...]]:
        [records] = play((Visit(Script((wire, GET), (Send(pieces=sizes), Stay(200.0)))),), PATIENT)
        assert all(isinstance(record, Completed) for record in records)
        return told(records)

    whole = sent_in(())
    assert len(whole) >= 1
    assert sent_in(pieces) == whole
    if len(wire.head) < 1000:
        assert sent_in((1,)) == whole


@drawn
@given(wire=requests(TARGETS), pieces=splits(largest=20))
def test_a_right_request_is_served_however_it_is_cut(wire: Wire, pieces: tuple[int, ...]) -> None:
    assert is_right(wire)
    [[record]] = play((Visit(Script((wire,), (Send(pieces=pieces), Stay(60.0)))),), PATIENT)
    assert isinstance(record, Completed)
    assert record.status == 200

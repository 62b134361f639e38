"""The same scripts in memory and on real sockets: the two must agree record for record, and answer for answer.

So what is proven in memory is proven of sockets. There are no races: a client leaves when all is quiet, that is when
its handler waits, or the server waits for more of the request. Handlers answer at once, or wait for ever. Nothing
depends on time then, and only what tells of time, and who is who, may differ in the records.
"""

from __future__ import annotations

import dataclasses

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from lifecycle.stage import PATIENCE, Stage
from trioserve import CANCEL, Abandoned, Grace, HalfClose
from trioserve.core.records import Record
from trioserve.testing import Handler, Leave, Marks, Quiet, Reach, Read, Script, Send, Service, Way, Wire, play_script
from trioserve.testing.answers import Asked, read_answers_before_leaving
from trioserve.testing.model import check_script
from trioserve.testing.scripts import Action, Course
from trioserve.testing.strategies import requests, splits

FOR_EVER = 1e6
"""Seconds: longer than any play."""

LIFETIME = 1000.0
"""Virtual seconds after which a play in memory is over."""

CUSHION = 0.01
"""Real seconds for which everybody must have waited on sockets: what was sent on loopback has arrived long before. A
connection that reads ahead and has met a FIN looks for a reset every 0.02."""

HANDLERS = {
    "/quick": Handler(content=5),
    "/echo": Handler(echoes=True),
    "/big": Handler(content=300_000),
    "/stream": Handler(parts=3, content=100),
    "/fails": Handler(fails=True),
    "/refuses": Handler(status=409, reads=False),
    "/drops": Handler(drops=True),
    "/breaks off": Handler(parts=2, content=5, fails=True),
    "/waits": Handler(waits=FOR_EVER),
    "/waits unread": Handler(waits=FOR_EVER, reads=False),
    "/waits in its stream": Handler(parts=3, content=100, pause=FOR_EVER),
}
HANDLERS = {target.replace(" ", "-"): handler for target, handler in HANDLERS.items()}

OF_TIME_AND_NAMES = ("client", "connection_id", "started_at", "noticed_at", "unwound_at", "duration", "unacked_bytes")


@st.composite
def services(draw) -> Service:
    return Service(
        handlers=HANDLERS,
        disconnect=draw(st.sampled_from([CANCEL, Grace(0.01)])),
        half_close=draw(st.sampled_from(HalfClose)),
    )


@st.composite
def scripts(draw, half_close: HalfClose) -> Script:
    """A client that sends its requests or a part of them, and leaves when all is quiet."""
    wires = tuple(draw(st.lists(requests(sorted(HANDLERS)), min_size=1, max_size=3)))
    size = sum(len(wire.head) + len(wire.body) for wire in wires)
    actions: list[Action] = [Send(draw(st.none() | st.integers(0, size)), draw(splits(most=3))), Quiet()]
    # Where a FIN means nothing, a client that has closed is not missed before something is sent to it.
    ways = [Way.RESET, Way.HALF_CLOSE, *([Way.FIN] if half_close is HalfClose.ABORT else [])]
    way = draw(st.sampled_from(ways))
    actions.append(Leave(way))
    if way is Way.HALF_CLOSE:
        actions += [Quiet(), Leave(Way.RESET)]
    return Script(wires, tuple(actions))


@st.composite
def plays(draw) -> tuple[Script, Service]:
    service = draw(services())
    return draw(scripts(service.half_close)), service


async def played(script: Script, service: Service, stage: Stage, number: int | None) -> tuple[Course, list[Record]]:
    """How it went, and all records: as many as are expected, where nobody can jump to the end of time."""
    marks, cushion = Marks(), 0.0 if stage.in_memory else CUSHION
    async with stage.serve(service.app(marks), service.config()) as theatre:
        with trio.fail_after(LIFETIME if stage.in_memory else PATIENCE):
            course = await play_script(script, theatre.connect, reached=marks.reached, cushion=cushion)
            if number is None:
                await trio.sleep(LIFETIME / 2)
            else:
                await theatre.records(number)
            await wait_all_tasks_blocked(cushion)
        return course, [*theatre.observed.all]


def play(script: Script, service: Service, kind: str, number: int | None = None) -> tuple[Course, list[Record]]:
    stage = Stage(kind)
    return trio.run(
        played, script, service, stage, number, clock=MockClock(autojump_threshold=0) if stage.in_memory else None
    )


def told(record: Record) -> dict[str, object]:
    """What a record says but for times and names."""
    facts = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {
        "record": type(record).__name__,
        **{name: value for name, value in facts.items() if name not in (*OF_TIME_AND_NAMES, "exception")},
        "exception": repr(facts.get("exception")),
    }


def answers(script: Script, course: Course) -> list[tuple[object, ...]]:
    asked = [Asked(wire.method, "1.0" if b"HTTP/1.0" in wire.head else "1.1") for wire in script.requests]
    read, rest = read_answers_before_leaving(course.received, asked)
    return [*((each.status, each.interim, each.content, each.cut) for each in read), (rest,)]


def agree(script: Script, service: Service, kind: str) -> list[Record]:
    """Play in memory and on sockets, and compare; the records."""
    course, records = play(script, service, kind)
    check_script(script, course, records, service)
    on_sockets, told_on_sockets = play(script, service, kind.replace("memory", "socket"), len(records))
    assert [*map(told, told_on_sockets)] == [*map(told, records)]
    assert answers(script, on_sockets) == answers(script, course)
    return records


@pytest.mark.parametrize("kind", ["memory", "memory-read-ahead"])
@settings(
    max_examples=max(settings.default.max_examples // 2, 1),
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
@given(play=plays())
def test_memory_and_sockets_agree_record_for_record(kind: str, play: tuple[Script, Service]) -> None:
    agree(*play, kind)


def get(target: str) -> Wire:
    return Wire(b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n" % target.encode(), b"", "GET", target)


CASES = {
    "in a head": Script((get("/quick"),), (Send(10), Quiet(), Leave(Way.FIN))),
    "reset in a head": Script((get("/quick"),), (Send(10), Quiet(), Leave(Way.RESET))),
    "in a handler": Script((get("/waits"),), (Send(), Reach(2), Leave(Way.FIN))),
    "reset in a handler": Script((get("/waits"),), (Send(), Reach(2), Leave(Way.RESET))),
    "in a stream": Script((get("/waits-in-its-stream"),), (Send(), Reach(4), Read(200), Quiet(), Leave(Way.RESET))),
    "behind a whole answer": Script((get("/quick"), get("/waits")), (Send(), Reach(4), Leave(Way.FIN))),
    "with a request behind": Script((get("/waits"), get("/quick")), (Send(), Reach(2), Leave(Way.FIN))),
}


@pytest.mark.parametrize("kind", ["memory", "memory-read-ahead", "memory-tls"])
@pytest.mark.parametrize("case", CASES)
def test_memory_and_sockets_agree_on_departures(kind: str, case: str) -> None:
    *_, last = agree(CASES[case], Service(handlers=HANDLERS), kind)
    assert isinstance(last, Abandoned)


def test_what_differs_is_seen() -> None:
    """The comparison compares: with another policy, or another way, the records are not the same."""
    script = CASES["in a handler"]
    _, [record] = play(script, Service(handlers=HANDLERS), "memory")
    reset = dataclasses.replace(script, actions=(*script.actions[:-1], Leave(Way.RESET)))
    _, [another] = play(reset, Service(handlers=HANDLERS), "memory")
    assert told(record) != told(another)

"""Scripts, handlers as data, strategies, and the model of whole scripts, as users have them; and what lies it sees."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys

import pytest
import trio
from hypothesis import find, given, settings
from trio.testing import MockClock

import trioserve
import trioserve.testing
from trioserve import CANCEL, FINISH, Abandoned, Cause, Completed, Deadlines, Grace, HalfClose, Outcome, Phase, serve
from trioserve.connection.spool import Budget, Spool
from trioserve.core.records import Record
from trioserve.testing import (
    Course,
    Handler,
    Leave,
    Marks,
    ModelBroken,
    Pause,
    Peer,
    Quiet,
    Reach,
    Read,
    Records,
    Script,
    Send,
    Service,
    Stay,
    Visit,
    Way,
    Wire,
    breaches,
    check_script,
    memory_connection,
    memory_server,
    play_script,
    play_scripts,
    read_answers,
)
from trioserve.testing.model import handler_for
from trioserve.testing.plain import content_of, is_right
from trioserve.testing.strategies import (
    MISTAKES,
    almost_valid_requests,
    behaviours,
    connections,
    crowds,
    requests,
    services,
    splits,
)

GET = Wire(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n", b"", "GET", "/a")
POST = Wire(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n", b"abcd", "POST", "/a")

SLOW = Service(handlers={"/a": Handler(waits=1.0, content=3)})


def play(script: Script, service: Service = SLOW) -> tuple[Course, list[Record]]:
    """How it goes in memory, and all records."""
    course, records, _ = play_and_mark(script, service)
    return course, records


def play_and_mark(script: Script, service: Service) -> tuple[Course, list[Record], Marks]:
    """The same, and what the handlers have told."""

    async def run() -> tuple[Course, list[Record], Marks]:
        records, marks = Records(), Marks()
        config = dataclasses.replace(service.config(), observers=(records,))
        async with memory_server(service.app(marks), config) as server:
            course = await play_script(script, lambda: Peer(server.connect()), reached=marks.reached)
            await trio.sleep(500)
        assert marks.begun == marks.ended
        return course, records.all, marks

    return trio.run(run, clock=MockClock(autojump_threshold=0))


# Scripts


def again(value: object) -> object:
    names = {**vars(trioserve), **vars(trioserve.testing)}
    return eval(repr(value), names)


@settings(max_examples=50)
@given(script=connections(requests(["/a"])), service=services(["/a"]), visits=crowds())
def test_what_is_drawn_is_code_that_makes_it_again(script, service, visits):
    assert again(script) == script
    assert again(service) == service
    assert again(visits) == visits


def test_what_is_as_by_default_is_not_said():
    assert repr(Script((GET,), (Send(), Leave(Way.FIN)))) == f"Script(({GET!r},), (Send(), Leave(Way.FIN)))"
    assert repr(Send(pieces=(1,))) == "Send(pieces=(1,))"
    assert repr(Service(half_close=HalfClose.PROBE, disconnect=Grace(2))) == (
        "Service(disconnect=Grace(2), half_close=HalfClose.PROBE)"
    )
    assert repr(Service(deadlines=Deadlines(idle=3))) == "Service(deadlines=Deadlines(idle=3))"


@pytest.mark.parametrize(
    "actions", [(Leave(Way.FIN), Pause(1)), (Leave(Way.HALF_CLOSE), Send()), (Leave(Way.VANISH), Leave(Way.FIN))]
)
def test_a_script_in_which_something_follows_a_departure_is_refused(actions):
    with pytest.raises(ValueError, match="comes after Leave"):
        Script((GET,), actions)


def test_a_client_sends_what_it_is_told_in_pieces_with_pauses():
    course, [record] = play(Script((POST,), (Send(50, pieces=(30, 10), pauses=(0.5, 0.0)), Send(), Stay(5))))

    assert course.sent == [(0.0, 30), (0.5, 40), (0.5, 50), (1.0, len(POST.head + POST.body))]
    assert (course.sent_by(0.7), course.sent_at(41), course.sent_at(1000)) == (50, 0.5, None)
    assert record.started_at == 0.0


def test_a_client_stays_until_the_server_has_ended_the_connection():
    course, _ = play(Script((GET,), (Send(), Stay(500))))

    assert course.ended == (1.0 + Deadlines().idle, Way.FIN)
    assert [answer.content for answer in read_answers(course.received, [])] == [bytes(3)]


def test_a_client_reads_so_much_and_leaves():
    course, [record] = play(Script((GET,), (Send(), Read(10), Leave(Way.RESET)), reads=False))

    assert course.received == b"HTTP/1.1 2"
    assert course.left == [(1.0, Way.RESET)]
    assert isinstance(record, Completed)


def test_a_client_leaves_where_a_handler_is():
    _, [record] = play(Script((GET,), (Send(), Reach(2), Leave(Way.RESET))))

    assert (record.phase, record.cause, record.noticed_at) == (Phase.HANDLER, Cause.RESET, 0.0)


def test_where_nothing_is_reached_it_is_not_waited_for():
    course, [record] = play(Script((GET,), (Send(10), Reach(1), Leave(Way.RESET))))

    assert record.status == 408
    assert course.left == [(10.0, Way.RESET)]  # when the server had ended the connection


async def test_reach_asks_for_what_it_needs(autojump_clock):
    async with memory_server(SLOW.app()) as server:
        with pytest.raises(ValueError, match="reached=marks"):
            await play_script(Script((GET,), (Send(), Reach(1))), lambda: Peer(server.connect()))


def test_when_all_is_quiet_the_handler_waits():
    _, [record] = play(Script((GET,), (Send(), Quiet(), Leave(Way.FIN))))

    assert (record.phase, record.noticed_at) == (Phase.HANDLER, 0.0)


def test_at_the_end_a_client_closes():
    course, [record] = play(Script((GET,), (Send(), Pause(0.5))))

    assert course.left == [(0.5, Way.FIN)]
    assert (record.cause, record.noticed_at) == (Cause.FIN, 0.5)


async def test_several_clients_come_each_at_its_time(autojump_clock):
    records = Records()
    visits = [Visit(Script((GET,), (Send(), Stay(2))), comes_at) for comes_at in (0.3, 0.0)]
    config = dataclasses.replace(SLOW.config(), observers=(records,))
    async with memory_server(SLOW.app(), config) as server:
        first, second = await play_scripts(visits, lambda: Peer(server.connect()))

    begun = {record.client: record.started_at for record in records.all}
    assert begun[first.client] - begun[second.client] == pytest.approx(0.3)


async def test_a_script_is_played_on_a_socket_as_well(nursery):
    service = Service(handlers={"/a": Handler(content=3)})
    [address] = await nursery.start(serve, service.app(), service.config())

    async def connect() -> Peer:
        return Peer(await trio.open_tcp_stream("127.0.0.1", address.port))

    course = await play_script(Script((GET, POST), (Send(pieces=(7,)), Read(200), Leave(Way.RESET))), connect)

    first, *_ = read_answers(course.received[:], [])
    assert (first.status, first.content) == (200, bytes(3))
    nursery.cancel_scope.cancel()


# Handlers as data


@pytest.mark.parametrize(
    ("handler", "status", "content"),
    [
        (Handler(content=3), 200, bytes(3)),
        (Handler(status=201), 201, b""),
        (Handler(echoes=True), 200, b"abcd"),
        (Handler(parts=2, content=3), 200, bytes(6)),
        (Handler(reads=False, content=1), 200, bytes(1)),
        (Handler(status=409), 409, None),
        (Handler(fails=True), 500, None),
    ],
    ids=repr,
)
def test_a_handler_does_what_it_says(handler, status, content):
    course, [record] = play(Script((POST,), (Send(), Stay(5))), Service(handlers={"/a": handler}))

    [answer] = read_answers(course.received, [])
    assert record.status == answer.status == status
    assert content is None or answer.content == content == handler.answer_to(b"abcd")


def test_a_handler_waits_and_tidies_up():
    service = Service(handlers={"/a": Handler(waits=1.0, tidies=0.5)})
    _, [record] = play(Script((GET,), (Send(), Stay(5))), service)
    assert record.duration == 1.5
    _, [record] = play(Script((GET,), (Send(), Pause(0.25), Leave(Way.FIN))), service)
    assert record.unwind_time == 0.5


def test_a_handler_drops_and_one_breaks_off():
    _, [record] = play(Script((GET,), (Send(), Stay(5))), Service(handlers={"/a": Handler(drops=True)}))
    assert record.cause is Cause.DROPPED
    broken = Service(handlers={"/a": Handler(parts=1, content=1, fails=True)})
    _, [record] = play(Script((GET,), (Send(), Stay(5))), broken)
    assert (record.cause, record.phase) == (Cause.HANDLER_FAILED, Phase.RESPONSE_BODY)


# Strategies


def test_connections_shrink_to_one_request_that_is_answered():
    shortest = find(connections(requests(["/a"])), bool)
    assert shortest == Script((GET,), (Send(), Stay(60.0)))


def test_connections_that_fail_shrink_to_short_ones():
    def has_body_and_resets(script: Script) -> bool:
        return any(wire.body for wire in script.requests) and Leave(Way.RESET) in script.actions

    shortest = find(connections(requests(["/a"])), has_body_and_resets)
    [wire] = shortest.requests
    assert (wire.method, len(wire.body), shortest.actions) == ("POST", 5, (Send(), Leave(Way.RESET)))


@given(wire=requests(["/a", "/b"]))
def test_requests_are_right(wire):
    assert is_right(wire)
    assert wire.head.startswith(f"{wire.method} {wire.target} ".encode())


@given(wire=almost_valid_requests())
def test_requests_that_are_almost_right_are_not(wire):
    assert not is_right(wire)


def test_every_mistake_is_drawn():
    for name, spoil in MISTAKES.items():
        assert spoil(POST) != POST, name


@given(sizes=splits(largest=9, most=3))
def test_splits_are_sizes(sizes):
    assert len(sizes) <= 3
    assert all(1 <= size <= 9 for size in sizes)


@given(actions=behaviours(100, ways=[Way.HALF_CLOSE]))
def test_who_half_closes_stays_for_a_while(actions):
    if Leave(Way.HALF_CLOSE) in actions:
        assert isinstance(actions[-1], Stay | Pause)


@pytest.mark.parametrize("way", [None, *Way])
def test_clients_leave_in_every_way(way):
    found = find(
        behaviours(100),
        lambda actions: [each.way for each in actions if isinstance(each, Leave)] == [way] * (way is not None),
    )
    assert found


def test_without_hypothesis_the_strategies_say_what_to_install():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import trioserve.testing\n"
        "try:\n"
        "    import trioserve.testing.strategies\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'trioserve[testing]'" in result.stdout


# The model


def test_content_is_read_without_its_framing():
    chunked = b"POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert content_of(Wire(chunked, b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", "POST", "/a")) == b"abcd"
    assert not is_right(Wire(chunked, b"3\r\nabc\r\n1\r\nd\r\n", "POST", "/a"))
    assert content_of(POST) == b"abcd"


def test_where_there_is_no_handler_there_is_a_404():
    assert handler_for(SLOW, GET._replace(target="/b")).status == 404
    assert handler_for(SLOW, GET._replace(method="DELETE")).status == 405
    assert handler_for(SLOW, GET) == SLOW.handlers["/a"]


STAYS = Script((GET, GET), (Send(), Stay(5)))
LEAVES = Script((GET, GET), (Send(), Pause(1.5), Leave(Way.FIN)))
STREAMS = Service(handlers={"/a": Handler(parts=2, content=3, pause=1.0)})


def changed(**changes):
    """Another last record."""
    return lambda course, records: (course, [*records[:-1], dataclasses.replace(records[-1], **changes)])


def received(change):
    return lambda course, records: (dataclasses.replace(course, received=change(course.received)), records)


LIES = {
    "one record too few": (STAYS, SLOW, lambda course, records: (course, records[:1]), "exchange 2: it has no record"),
    "a record twice": (STAYS, SLOW, lambda course, records: (course, [*records, records[-1]]), "each once"),
    "records in another order": (STAYS, SLOW, lambda course, records: (course, records[::-1]), "each once"),
    "a record of nothing": (
        dataclasses.replace(STAYS, requests=(GET,)),
        SLOW,
        lambda course, records: (course, [*records, dataclasses.replace(records[0], exchange_number=2)]),
        "2 records of 1 requests",
    ),
    "another status": (STAYS, SLOW, changed(status=201), "with 201, and not with 200"),
    "another target": (STAYS, SLOW, changed(target="/b"), "recorded as GET /b"),
    "a later answer": (STAYS, SLOW, changed(duration=1.1), "due at 2.0"),
    "an earlier answer": (STAYS, SLOW, changed(duration=0.9), "due at 2.0"),
    "an earlier beginning": (STAYS, SLOW, changed(started_at=0.5, duration=1.5), "started_at is 0.5"),
    "less content read": (
        Script((POST,), (Send(), Stay(5))),
        SLOW,
        changed(request_body_bytes=3),
        "3 bytes of content were read, and not all 4",
    ),
    "no answer": (STAYS, SLOW, received(lambda _: b""), "2 exchanges are Completed, and 0 answers have come"),
    "a cut answer": (STAYS, SLOW, received(lambda data: data[:-1]), "1 answers have come"),
    "another answer": (STAYS, SLOW, received(lambda data: data.replace(b"\0\0\0", b"abc")), "not its handler's"),
    "an answer of another status": (
        STAYS,
        SLOW,
        received(lambda data: data.replace(b"200 OK", b"201 OK")),
        "its record says 200",
    ),
    "an answer that is none": (
        STAYS,
        SLOW,
        received(lambda data: data.replace(b"HTTP/1.1 200", b"HTTP/1.0 200")),
        "§4",
    ),
    "an answer to nobody": (STAYS, SLOW, received(lambda data: data * 2), "4 answers have come to 2 requests"),
    "the connection ended": (
        STAYS,
        SLOW,
        lambda course, records: (dataclasses.replace(course, ended=(3.0, Way.FIN)), records),
        "keeps the connection",
    ),
    "another cause": (LEAVES, SLOW, changed(cause=Cause.RESET), "RESET in phase HANDLER"),
    "another phase": (LEAVES, SLOW, changed(phase=Phase.RESPONSE_BODY), "FIN in phase RESPONSE_BODY"),
    "the wrong side": (LEAVES, SLOW, changed(by="server"), "ended by the client, and not by the server"),
    "another status of an abandonment": (LEAVES, SLOW, changed(status=200), "the table says 499"),
    "noticed late": (LEAVES, SLOW, changed(noticed_at=1.7, unwound_at=1.7), "noticed at 1.7"),
    "unwound late": (LEAVES, SLOW, changed(unwound_at=1.7), "has unwound at 1.7"),
    "unwound before": (LEAVES, SLOW, changed(unwound_at=1.2), "not in order"),
    "not stopped": (LEAVES, SLOW, changed(outcome=Outcome.FINISHED), "recorded as finished"),
    "not started": (LEAVES, SLOW, changed(outcome=Outcome.NOT_STARTED), "had started"),
    "sent something": (LEAVES, SLOW, changed(sent_status=200), "it has sent 200"),
    "without a head": (LEAVES, SLOW, changed(headers=None), "headers are None"),
    "stopped under FINISH": (
        LEAVES,
        dataclasses.replace(SLOW, disconnect=FINISH),
        changed(outcome=Outcome.CANCELLED, unwound_at=1.5),
        "or ended by itself at 2.0, and has unwound at 1.5",
    ),
    "stopped too early under Grace": (
        LEAVES,
        dataclasses.replace(SLOW, disconnect=Grace(0.25)),
        changed(unwound_at=1.5),
        "to be stopped at 1.75",
    ),
    "half-closed is not departed": (
        dataclasses.replace(LEAVES, actions=(Send(), Pause(0.5), Leave(Way.HALF_CLOSE), Stay(5))),
        dataclasses.replace(SLOW, half_close=HalfClose.FINISH),
        lambda course, records: (course, records[:1]),
        "exchange 2: it has no record",
    ),
    "an interim response": (
        STAYS,
        SLOW,
        received(lambda data: b"HTTP/1.1 100 Continue\r\n\r\n" + data),
        "nobody was to be asked",
    ),
    "completed behind a departure": (
        dataclasses.replace(LEAVES, requests=(GET,), actions=(Send(), Pause(0.5), Leave(Way.FIN))),
        SLOW,
        lambda course, records: (course, [_as_completed(records[0])]),
        "known to have left since 0.5",
    ),
    "completed though nobody took it": (
        Script((GET,), (Send(), Pause(0.5), Leave(Way.RESET)), reads=False),
        Service(handlers={"/a": Handler(content=300_000)}, disconnect=FINISH),
        lambda course, records: (course, [dataclasses.replace(_as_completed(records[0]), duration=0.5)]),
        "nobody has taken its answer",
    ),
    "a stream that looks whole": (
        dataclasses.replace(LEAVES, requests=(GET,)),
        STREAMS,
        received(lambda data: data + b"0\r\n\r\n"),
        "it is whole, and its record says that it is Abandoned",
    ),
}


def _as_completed(record: Abandoned) -> Completed:
    names = {field.name for field in dataclasses.fields(Completed)} - {"status", "duration"}
    return Completed(**{name: getattr(record, name) for name in names}, status=200, duration=1.0)


@pytest.mark.parametrize("lie", LIES)
def test_the_model_sees_it(lie):
    script, service, change, words = LIES[lie]
    course, records = play(script, service)
    assert not breaches(script, course, records, service), "the truth is allowed"

    found = breaches(script, *change(course, records), service)

    assert words in "\n".join(found)


CALLS = {
    "once more": (STAYS, lambda calls: [*calls, calls[-1]], "called 3 times, and by the records 2 times"),
    "once less": (STAYS, lambda calls: calls[1:], "called 1 times, and by the records 2 times"),
    "for nobody": (LEAVES, lambda calls: [*calls, calls[-1]], "called 3 times, and by the records 1 to 2 times"),
    "though it is recorded as not started": (
        Script((GET,), (Send(), Leave(Way.FIN))),
        lambda _calls: [(..., "/a")],
        "called 1 times, and by the records 0 times",
    ),
    "without a head": (
        Script((GET,), (Send(10), Leave(Way.FIN))),
        lambda _calls: [(..., "/a")],
        "called 1 times, and by the records 0 times",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_the_model_sees_that_a_handler_is_called(case):
    script, change, words = CALLS[case]
    course, records, marks = play_and_mark(script, SLOW)
    assert not breaches(script, course, records, SLOW, marks), "the truth is allowed"

    marks.calls = [(course.client, target) for _, target in change(marks.calls)]
    found = breaches(script, course, records, SLOW, marks)

    assert words in "\n".join(found)


def test_calls_of_other_clients_are_theirs():
    course, records, marks = play_and_mark(STAYS, SLOW)
    marks.calls.append((("203.0.113.1", 1), "/a"))
    assert not breaches(STAYS, course, records, SLOW, marks)


def test_what_is_broken_is_told_with_code_that_plays_it_again():
    course, records = play(LEAVES)

    with pytest.raises(ModelBroken) as caught:
        check_script(LEAVES, course, records[:1], SLOW)

    text = str(caught.value)
    assert text.startswith("exchange 2: it has no record\n")
    assert f"script = {LEAVES!r}\nservice = {SLOW!r}\n" in text


def test_from_a_request_that_is_not_right_on_everything_is_allowed():
    wrong = GET._replace(head=GET.head.replace(b"Host", b"Host "))
    script = Script((wrong, GET), (Send(), Stay(5)))
    course, records = play(script)
    assert [record.status for record in records] == [400]
    assert not breaches(script, course, records, SLOW)


# More lies


OLD = GET._replace(head=GET.head.replace(b"HTTP/1.1", b"HTTP/1.0"))
LEAVES_AT_ONCE = Script((GET,), (Send(), Leave(Way.FIN)))
ONE_STAYS = dataclasses.replace(STAYS, requests=(GET,))

MORE_LIES = {
    "too much content": (
        ONE_STAYS,
        SLOW,
        received(lambda data: re.sub(rb"(?i)(content-length: )3", rb"\g<1>4", data) + b"\0"),
        "(4 bytes), and not its handler's",
    ),
    "too much content, cut": (
        ONE_STAYS,
        SLOW,
        received(lambda data: re.sub(rb"(?i)(content-length: )3", rb"\g<1>9", data) + b"\0"),
        "(4 bytes), and not its handler's",
    ),
    "cancelled though Grace was longer than the handler": (
        LEAVES,
        dataclasses.replace(SLOW, disconnect=Grace(2)),
        changed(outcome=Outcome.CANCELLED),
        "has run on until its end",
    ),
    "started though its client had left before": (
        LEAVES_AT_ONCE,
        SLOW,
        changed(outcome=Outcome.CANCELLED),
        "was not to start for a client that had left",
    ),
    "a second exchange behind HTTP/1.0": (
        Script((OLD, GET), (Send(), Stay(5))),
        SLOW,
        lambda course, records: (course, [*records, dataclasses.replace(records[0], exchange_number=2)]),
        "exchange 1 was the connection's last, and there are 2 records",
    ),
}


@pytest.mark.parametrize("lie", MORE_LIES)
def test_the_model_sees_this_too(lie):
    script, service, change, words = MORE_LIES[lie]
    course, records = play(script, service)
    assert not breaches(script, course, records, service), "the truth is allowed"

    assert words in "\n".join(breaches(script, *change(course, records), service))


# How the player ends


@pytest.mark.parametrize(("end", "way"), [("close", Way.FIN), ("reset", Way.RESET)])
async def test_a_course_says_how_the_server_ended_the_connection(end, way, autojump_clock):
    stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))

    async def end_it():
        await trio.sleep(2)
        transport.receive_nowait()
        getattr(transport, end)()

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_it)
        course = await play_script(Script((GET,), (Send(), Stay(5))), lambda: Peer(stream))

    assert course.ended == (begin + 2, way)


async def test_a_play_that_is_cancelled_closes_its_client(autojump_clock):
    stream, transport = memory_connection(Spool(math.inf, Budget(math.inf)))

    with trio.move_on_after(1):
        await play_script(Script((GET,), (Send(), Stay(5))), lambda: Peer(stream))

    assert stream.is_closed
    assert transport.receive_nowait() == GET.head
    assert transport.receive_nowait() == b""


# What strategies can draw


def test_there_are_clients_that_stop_midway():
    first, *_, last = find(
        behaviours(100), lambda actions: isinstance(actions[-1], Leave) and 0 < (actions[0].count or 0) < 100
    )
    assert isinstance(first, Send)
    assert isinstance(last, Leave)


def test_there_are_splits_of_several_sizes():
    assert len(set(find(splits(), lambda sizes: len(set(sizes)) > 1 and max(sizes) > 100))) > 1


def test_there_are_requests_of_several_chunks():
    # One chunk and the last have four line ends, and no content has any.
    several = find(requests(methods=["POST"]), lambda wire: wire.body.count(b"\r\n") >= 6)
    assert is_right(several)
    assert content_of(several)


def test_the_simplest_service_cancels():
    assert find(services(), lambda _: True).disconnect == CANCEL

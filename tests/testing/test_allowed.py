"""What is allowed for a client that leaves, as a table written from the design; and what is not."""

from __future__ import annotations

import itertools
import math

import pytest

from tests.support.sample_records import abandoned, completed
from trioserve import CANCEL, FINISH, Cause, Deadlines, Grace, HalfClose, Phase
from trioserve.core.application import Rules
from trioserve.core.status import TABLE
from trioserve.testing import BodyBytes, Checkpoint, HeadBytes, ResponseBytes, Way, wire_of
from trioserve.testing.allowed import Allowed, allowed_after_leaving

ABORT, FINISHING, PROBE = HalfClose.ABORT, HalfClose.FINISH, HalfClose.PROBE

GET = wire_of("/x")
POST = wire_of(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nabcd")
OLD = wire_of(b"GET /x HTTP/1.0\r\n\r\n")
ASKS_FIRST = wire_of(b"POST /x HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd")

UNDISTURBED = {"wire": GET, "rules": Rules(), "half_close": ABORT, "deadlines": Deadlines(), "reads": True}


def allowed(point, way, wire=GET, half_close=ABORT, **others) -> Allowed:
    return allowed_after_leaving(point, way, **UNDISTURBED | {"wire": wire, "half_close": half_close} | others)


def shown(endings) -> str:
    """ "HANDLER FIN, QUEUED FIN": endings in the order of the alphabet."""
    return ", ".join(sorted(f"{phase} {cause}" for phase, cause in endings))


def of(causes: str, phases: str) -> str:
    return ", ".join(sorted(f"{phase} {cause}" for phase, cause in itertools.product(phases.split(), causes.split())))


def join(*parts: str) -> str:
    return ", ".join(sorted(part for each in parts for part in each.split(", ")))


HANDLER = "QUEUED HANDLER RESPONSE_HEAD RESPONSE_BODY"
RUNNING = "HANDLER RESPONSE_HEAD RESPONSE_BODY"
RESPONSE = "RESPONSE_HEAD RESPONSE_BODY"
IN_BODY = "BODY RESPONSE_HEAD RESPONSE_BODY"
WITH_BODY = "BODY QUEUED HANDLER RESPONSE_HEAD RESPONSE_BODY"
SLOW_TOO = of("WRITE_TIMEOUT", RESPONSE)

# (point, way, request, half_close) -> the endings of which one must be, if it is not Completed
TABLE_OF_DEPARTURES = {
    # In the head no policy is asked.
    (HeadBytes(3), Way.FIN, GET, ABORT): "HEAD FIN",
    (HeadBytes(3), Way.FIN, GET, FINISHING): "HEAD FIN",
    (HeadBytes(3), Way.HALF_CLOSE, GET, FINISHING): "HEAD FIN",
    (HeadBytes(3), Way.HALF_CLOSE, GET, PROBE): "HEAD FIN",
    (HeadBytes(3), Way.RESET, GET, ABORT): "HEAD RESET",
    # The request is whole: before the handler starts, in it, in its response.
    (BodyBytes(0), Way.FIN, GET, ABORT): join(of("FIN", HANDLER), of("RESET", RESPONSE)),
    (BodyBytes(0), Way.RESET, GET, ABORT): join(of("RESET", HANDLER), "HEAD RESET"),
    (BodyBytes(0), Way.HALF_CLOSE, GET, ABORT): of("FIN", HANDLER),
    (BodyBytes(0), Way.VANISH, GET, ABORT): join(of("VANISHED", HANDLER), SLOW_TOO),
    (HeadBytes(len(GET.head)), Way.HALF_CLOSE, GET, ABORT): of("FIN", HANDLER),
    (BodyBytes(4), Way.HALF_CLOSE, POST, ABORT): of("FIN", WITH_BODY),
    # A client that half-closes gets its answer; one that has closed answers it with a RST, and a probe too.
    (BodyBytes(0), Way.HALF_CLOSE, GET, FINISHING): of("DRAIN", RESPONSE),
    (BodyBytes(0), Way.HALF_CLOSE, GET, PROBE): of("DRAIN", RESPONSE),
    (BodyBytes(0), Way.FIN, GET, FINISHING): of("RESET DRAIN", RESPONSE),
    (BodyBytes(0), Way.FIN, GET, PROBE): join(of("RESET", HANDLER), of("DRAIN", RESPONSE)),
    (BodyBytes(0), Way.FIN, OLD, PROBE): of("RESET DRAIN", RESPONSE),
    (BodyBytes(0), Way.RESET, GET, FINISHING): join(of("RESET", HANDLER), "HEAD RESET"),
    # Half a body is no request, whatever the policy; and no handler's phase.
    (BodyBytes(3), Way.HALF_CLOSE, POST, ABORT): of("FIN", IN_BODY),
    (BodyBytes(3), Way.HALF_CLOSE, POST, FINISHING): join(of("FIN", IN_BODY), of("DRAIN", RESPONSE)),
    (BodyBytes(0), Way.FIN, POST, ABORT): join(of("FIN", IN_BODY), of("RESET", RESPONSE)),
    (BodyBytes(0), Way.FIN, ASKS_FIRST, ABORT): of("FIN RESET", IN_BODY),
    (BodyBytes(3), Way.VANISH, POST, ABORT): join(of("VANISHED READ_TIMEOUT", IN_BODY), SLOW_TOO),
    # The handler runs, or has begun its response: it was started, so it is not queued.
    (Checkpoint(1), Way.RESET, GET, ABORT): of("RESET", RUNNING),
    (Checkpoint(2), Way.HALF_CLOSE, GET, ABORT): of("FIN", RUNNING),
    (Checkpoint(1), Way.RESET, POST, ABORT): of("RESET", f"BODY {RUNNING}"),
    (ResponseBytes(1), Way.RESET, GET, ABORT): of("RESET", RESPONSE),
    (ResponseBytes(1), Way.FIN, GET, ABORT): of("FIN RESET", RESPONSE),
    (ResponseBytes(1), Way.RESET, ASKS_FIRST, ABORT): of("RESET", f"BODY {RUNNING}"),  # behind the interim response
}


@pytest.mark.parametrize(("case", "endings"), TABLE_OF_DEPARTURES.items(), ids=lambda case: repr(case)[:60])
def test_a_departure_ends_an_exchange_so(case, endings):
    assert shown(allowed(*case).endings) == endings


@pytest.mark.parametrize("disconnect", [CANCEL, FINISH, Grace(2)], ids=repr)
def test_what_becomes_of_the_handler_makes_no_other_ending(disconnect):
    for point, way in itertools.product([HeadBytes(3), BodyBytes(0), Checkpoint(1), ResponseBytes(1)], Way):
        assert allowed(point, way, rules=Rules(disconnect=disconnect)) == allowed(point, way)


@pytest.mark.parametrize("way", Way)
def test_nothing_was_asked_so_nothing_is_recorded(way):
    for point in (HeadBytes(0), HeadBytes(2)):
        wire = GET._replace(head=b"\r\n" + GET.head)
        assert allowed(point, way, wire) == Allowed(frozenset(), may_complete=False, may_be_unrecorded=True)


def test_a_head_that_is_not_whole_gets_no_answer_but_that_it_was_too_slow():
    assert [way for way in Way if allowed(HeadBytes(3), way).may_complete] == [Way.VANISH]
    patient = Deadlines(head=50, vanish=40)
    assert allowed(HeadBytes(3), Way.VANISH, deadlines=patient) == Allowed(
        frozenset({(Phase.HEAD, Cause.VANISHED)}), may_complete=False, may_be_unrecorded=False
    )


def test_a_handler_may_have_ended_first():
    for point, way in itertools.product([BodyBytes(0), Checkpoint(1), ResponseBytes(1)], Way):
        assert allowed(point, way).may_complete


def test_only_a_reset_is_faster_than_what_was_sent_before_it():
    unrecorded = [
        (point, way)
        for point, way in itertools.product([HeadBytes(3), BodyBytes(0), Checkpoint(1), ResponseBytes(1)], Way)
        if allowed(point, way).may_be_unrecorded
    ]
    assert unrecorded == [(HeadBytes(3), Way.RESET), (BodyBytes(0), Way.RESET)]


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("point", [BodyBytes(0), Checkpoint(1), ResponseBytes(1)], ids=repr)
def test_a_client_that_does_not_read_may_be_too_slow(point, way):
    more = allowed(point, way, reads=False).endings - allowed(point, way).endings
    assert shown(more) == ("" if way is Way.VANISH else SLOW_TOO)


@pytest.mark.parametrize(
    "settings",
    [{"rules": Rules(deadline=3)}, {"deadlines": Deadlines(handler=3)}],
    ids=["of the route", "of the server"],
)
def test_a_deadline_may_pass_first(settings):
    more = allowed(Checkpoint(1), Way.FIN, **settings).endings - allowed(Checkpoint(1), Way.FIN).endings
    assert shown(more) == of("DEADLINE", RUNNING)
    no_deadline = allowed(Checkpoint(1), Way.FIN, rules=Rules(deadline=math.inf), deadlines=Deadlines(handler=3))
    assert no_deadline == allowed(Checkpoint(1), Way.FIN)


def test_half_closing_is_judged_by_the_route_first():
    own = allowed(BodyBytes(0), Way.HALF_CLOSE, half_close=ABORT, rules=Rules(half_close=FINISHING))
    assert own == allowed(BodyBytes(0), Way.HALF_CLOSE, half_close=FINISHING)


def test_a_handler_that_breaks_off_its_own_response_may_do_so_before_the_departure():
    broken = abandoned(phase=Phase.RESPONSE_BODY, cause=Cause.HANDLER_FAILED)
    more = allowed(Checkpoint(1), Way.FIN, undisturbed=broken).endings - allowed(Checkpoint(1), Way.FIN).endings
    assert (Phase.RESPONSE_BODY, Cause.HANDLER_FAILED) in more


def test_where_somebody_else_answers_no_handler_has_started():
    assert (Phase.QUEUED, Cause.FIN) not in allowed(Checkpoint(1), Way.FIN, undisturbed=completed()).endings
    assert (Phase.QUEUED, Cause.FIN) in allowed(Checkpoint(1), Way.FIN, undisturbed=completed(status=404)).endings


def test_a_refused_head_may_be_refused_before_the_client_leaves():
    refused = completed(status=505, headers=None)
    for way in Way:
        there = allowed(HeadBytes(20), way, undisturbed=refused)
        assert there.may_complete
        assert {phase for phase, _ in there.endings} == {Phase.HEAD, Phase.RESPONSE_HEAD, Phase.RESPONSE_BODY}


def test_every_ending_is_a_cell_of_the_status_table():
    points = [HeadBytes(3), BodyBytes(0), BodyBytes(3), BodyBytes(4), Checkpoint(1), ResponseBytes(1)]
    told = [None, completed(status=404), completed(headers=None), abandoned(cause=Cause.DROPPED)]
    for point, way, wire, half_close, reads, record in itertools.product(
        points, Way, [GET, POST, OLD, ASKS_FIRST], HalfClose, [True, False], told
    ):
        endings = allowed(
            point, way, wire, half_close, reads=reads, undisturbed=record, deadlines=Deadlines(handler=3)
        ).endings
        assert not [ending for ending in endings if ending not in TABLE]


def test_what_is_no_point_is_refused():
    with pytest.raises(TypeError, match="give HeadBytes"):
        allowed("here", Way.FIN)

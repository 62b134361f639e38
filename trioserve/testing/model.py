"""The model: what the design allows, given what a client did. An oracle for tests; pure.

It does not know how the server works. It knows what docs/departure.md and the status table promise (which end a
departure is, in which phase, and when EOF is none), what was sent when, and what handlers do as far as they are
described. Where two things happen in the same moment, either may come first, so it answers with a set.

`breaches` and `check_script` know a whole script, how it went, and what its handlers do (`Service`). They foresee for
each exchange when its head and its body were there, when its handler answers, and when its client's departure is
noticed; what comes first, decides. Where somebody has to wait for room, because so much is sent or so little is read,
they foresee less exactly.

What they do not know: queues and limits of any kind, handlers' deadlines, drains, and requests that are not plain
(plain.py); from such a request on they allow everything.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trioserve.core.lifecycle import CANCEL, CLIENT_LEFT, Cause, HalfClose, Outcome, Phase
from trioserve.core.records import Abandoned, Completed, Record
from trioserve.core.status import TABLE
from trioserve.testing.allowed import IN_RESPONSE
from trioserve.testing.answers import GET, Asked, RawAnswer, WrongAnswer, read_answers_before_leaving
from trioserve.testing.handlers import Handler, Marks, Service
from trioserve.testing.leaving import Way
from trioserve.testing.plain import asks_to_close, content_of, expects_continue, is_right
from trioserve.testing.scripts import Course, Read, Script
from trioserve.testing.wire import Wire

EPSILON = 1e-6
"""Seconds within which two moments are the same."""

_HEAD_SIZE = 1000
"""More bytes than the head of an answer has here."""

_RESET_BEHIND_FIN = 0.02
"""Seconds within which a RST that follows a FIN is noticed where the system does not tell (`HangupNews.READ_AHEAD`)."""

_UNREAD_FOR = 0.25
"""Seconds for which bytes may lie unread, if they are so many that a FIN behind them cannot arrive."""


class ModelBroken(AssertionError):
    """A server did what the design does not allow; the text says what, and how to play it again."""


def check_script(
    script: Script, course: Course, records: Sequence[Record], service: Service, marks: Marks | None = None
) -> None:
    """See that nothing came of a script but what the design allows.

    Args:
        records: those of its connection, in their order, when all is over.
        marks: those of the service's app. With them it is seen whether a handler was called once for each exchange in
            which it was to be called, and for nothing else.

    Raises:
        ModelBroken: something is not allowed. The text has the script as code that can be pasted.
    """
    if broken := breaches(script, course, records, service, marks):
        again = ["", "Play it again:", "", f"script = {script!r}", f"service = {service!r}", ""]
        raise ModelBroken("\n".join([*broken, *again, f"{course}", *map(repr, records)]))


def breaches(
    script: Script, course: Course, records: Sequence[Record], service: Service, marks: Marks | None = None
) -> list[str]:
    """What of this the design does not allow, in words; none if all is well. As `check_script`."""
    wrong = [*_judge_records(script, course, records, service)]
    if not wrong and marks is not None:
        wrong = [*_judge_calls(script, course, records, service, marks)]
    return wrong or [*_judge_answers(script, course, records, service)]


class _Notice(NamedTuple):
    """How an exchange may end early."""

    at: float
    cause: Cause
    phases: frozenset[Phase] | None = None  # None: whatever it is in by then
    certain: bool = True  # this comes, if nothing else comes before
    within: float = 0.0  # seconds from then, in which it may come


class _Own(NamedTuple):
    """How an exchange ends if its client stays."""

    at: float
    status: int
    cause: Cause | None = None  # None: it is completed
    certain: bool = True  # at that time; else perhaps later
    is_last: bool = False  # the server closes the connection behind it


class _Exchange:
    """What is foreseen of one exchange.

    Args:
        free: since when the connection is free for it.
        broken: when the client's system has answered with a RST to an earlier answer; math.inf if it has not.
        unread: bytes of earlier answers that the client may not have read.
    """

    def __init__(
        self, script: Script, course: Course, service: Service, number: int, *, free: float, broken: float, unread: int
    ) -> None:
        self.wire = wire = script.requests[number - 1]
        self.number, self.free, self.broken = number, free, broken
        self._script, self._course, self._service, self._deadlines = script, course, service, service.deadlines
        self.handler = handler_for(service, wire)
        before = sum(len(each.head) + len(each.body) for each in script.requests[: number - 1])
        begun = course.sent_at(before + 1)
        # Its first byte comes too late: the connection is closed by then.
        patience = self._deadlines.head if number == 1 else self._deadlines.idle
        self.too_late = begun is None or begun > free + patience - EPSILON
        self.may_be_too_late = begun is None or begun > free + patience + EPSILON
        self.begun = max(free, _or_never(begun))
        self.head = max(self.begun, _or_never(course.sent_at(before + len(wire.head))))
        self.whole = max(self.head, _or_never(course.sent_at(before + len(wire.head) + len(wire.body))))
        self.left = {way: at for at, way in course.left}
        # The handler has read, has waited, and answers; and its answer is out, if it is taken.
        self.ready = self.whole if self.handler.reads else self.head
        self.waited = self.ready + self.handler.waits
        self.answers = self.waited + self.handler.tidies
        self.streams = bool(self.handler.parts) and wire.method != "HEAD"
        parts = self.handler.parts if self.streams else 0
        self.sends = [self.answers + part * self.handler.pause for part in range(parts)]
        self.done = self.answers + parts * self.handler.pause
        size = _HEAD_SIZE + (0 if wire.method == "HEAD" else len(self.handler.answer_to(content_of(wire))))
        self.unread = unread + size
        self.may_block = self._may_block()
        self.own = self._own()

    def _may_block(self) -> bool:
        """True if there may be no room for its answer: the client does not read, or has vanished."""
        vanished = self.left.get(Way.VANISH, math.inf)
        return (self.done > vanished - EPSILON and self.unread > self._service.room // 2) or (
            not self._script.reads and self.unread > self._service.room
        )

    def _must_block(self) -> bool:
        """True if there is certainly no room for its answer."""
        reads = self._script.reads or any(isinstance(action, Read) for action in self._script.actions)
        content = 0 if self.wire.method == "HEAD" else len(self.handler.answer_to(content_of(self.wire)))
        answers = self.own.cause is None and self.own.status == self.handler.status < 400
        return not reads and answers and content > self._service.room

    def _own(self) -> _Own:
        handler, certain = self.handler, not self.may_block
        if self.head > (too_slow := self.begun + self._deadlines.head) + EPSILON:
            return _Own(too_slow, 408, is_last=True)
        if handler.reads and self.whole > (too_slow := self._body_is_too_slow()) + EPSILON:
            # What arrives in that very moment may come first, and earns it some more time.
            in_time = any(_near(at, too_slow) for at, _ in self._course.sent)
            return _Own(too_slow, 408, certain=not in_time, is_last=True)
        if handler.drops:
            return _Own(self.answers, 444, Cause.DROPPED)
        if handler.fails and self.streams:
            return _Own(self.done, 500, Cause.HANDLER_FAILED, certain=certain)
        status = 500 if handler.fails and not handler.parts else handler.status
        return _Own(self.done, status, certain=certain, is_last=self._is_last())

    def _is_last(self) -> bool:
        """True if the answer ends the connection (RFC 9112 §9.3). One of HTTP/1.0 is not kept, whatever it says."""
        return b" HTTP/1.0\r\n" in self.wire.head or asks_to_close(self.wire)

    @property
    def may_be_last(self) -> bool:
        """True if its client has asked whether to send a body that nobody wanted: it may send it, or not."""
        return expects_continue(self.wire) and not self.handler.reads

    def _body_is_too_slow(self) -> float:
        """When the handler's patience with its body ends, if it does.

        In any stretch of its waiting, it waits for so long, and for what the bytes may take that came meanwhile: who
        was fast before has nothing to his credit.
        """
        rate, stall = self._service.limits.body_rate, self._deadlines.body_stall
        arrivals = [(self.head, self._course.sent_by(self.head))]
        arrivals += [(at, size) for at, size in self._course.sent if at > self.head]
        best = math.inf
        for (at, size), (until, _) in itertools.pairwise([*arrivals, (math.inf, 0)]):
            best = min(best, at - size / rate)
            if (end := max(at, best + stall + size / rate)) < until + EPSILON:
                return end
            if at >= self.whole:
                break
        return math.inf

    @property
    def may_be_408(self) -> bool:
        """True if what was missing may have come in the very moment in which the wait for it was over."""
        head_at, body_at = self.begun + self._deadlines.head, self._body_is_too_slow()
        return _near(self.head, head_at) or (self.handler.reads and _near(self.whole, body_at))

    def phases_at(self, at: float) -> frozenset[Phase]:
        """In which phases it may be at that time."""
        end = self.own.at if self.own.certain else math.inf
        spans = [
            (Phase.HEAD, self.begun, self.head),
            (Phase.QUEUED, self.head, self.head),
            (Phase.HANDLER, self.ready, self.answers),
            # A head is short: it is out in the moment of the answer, unless there is no room at all.
            (Phase.RESPONSE_HEAD, self.answers, end if self.may_block else self.answers),
            (Phase.RESPONSE_BODY, self.answers, end),
        ]
        if self.wire.body:
            # One that nobody reads is not complete, though it is there.
            spans.append((Phase.BODY, self.head, self.whole if self.handler.reads else self.answers))
        return frozenset(phase for phase, begin, end in spans if begin - EPSILON < at < end + EPSILON)

    def notices(self) -> list[_Notice]:
        """How its client may end it."""
        return [notice for notice in self._notices() if notice.at < math.inf]

    def _notices(self) -> Iterator[_Notice]:
        if Way.RESET in self.left:
            behind_fin = Way.HALF_CLOSE in self.left
            yield _Notice(self.left[Way.RESET], Cause.RESET, within=_RESET_BEHIND_FIN if behind_fin else 0.0)
        if Way.VANISH in self.left:
            yield _Notice(self.left[Way.VANISH] + self._deadlines.vanish, Cause.VANISHED)
        fin = min((self.left[way] for way in (Way.FIN, Way.HALF_CLOSE) if way in self.left), default=math.inf)
        yield from self._after_fin(fin)
        if Way.FIN in self.left:
            yield from self._after_close(self.left[Way.FIN], probed=max(fin, self.head))
        if self.broken < math.inf:
            # Of an answer in the very moment of the close, the client may have had all before it.
            certain = self.broken > self.left[Way.FIN] + EPSILON
            yield _Notice(self.broken, Cause.RESET, certain=certain, within=_RESET_BEHIND_FIN)
        if self.own.status == 408 and self._leaves_unanswered(self.own.at):
            phase = Phase.HEAD if self.own.at < self.head else Phase.BODY
            yield _Notice(self.own.at, Cause.READ_TIMEOUT, frozenset({phase}), certain=False)
        if self.may_block:
            stalled = self.answers + self._deadlines.send_stall
            yield _Notice(stalled, Cause.WRITE_TIMEOUT, IN_RESPONSE, certain=False, within=math.inf)
        if self._must_block():
            stalled = self.done + self._deadlines.send_stall
            yield _Notice(stalled, Cause.WRITE_TIMEOUT, IN_RESPONSE, within=1.0)

    def _leaves_unanswered(self, at: float) -> bool:
        """True if its client leaves in this very moment, so that an answer given then may not get out any more."""
        gone = {Way.FIN, Way.RESET} if not self._script.reads else {Way.RESET}
        gone |= {Way.FIN, Way.HALF_CLOSE} if self._service.half_close is HalfClose.ABORT else set()
        return any(_near(self.left[way], at) for way in gone if way in self.left)

    def _after_fin(self, at: float) -> Iterator[_Notice]:
        """Nothing more comes. In the midst of a request that is a departure, whatever the policy."""
        if self.head == math.inf:
            yield _Notice(max(at, self.begun), Cause.FIN, frozenset({Phase.HEAD}))
        elif self._service.half_close is HalfClose.ABORT:
            yield _Notice(max(at, self.begun), Cause.FIN)
        elif self.whole == math.inf and self.handler.reads:
            yield _Notice(max(at, self.head), Cause.FIN, frozenset({Phase.BODY}))

    def _after_close(self, at: float, probed: float) -> Iterator[_Notice]:
        """Nothing is taken: what is sent is answered with a RST. And a close with bytes unread is one."""
        moments = [*self.sends, self.answers, self.own.at, self.free]
        if not self._script.reads or any(abs(moment - at) < EPSILON for moment in moments):
            yield _Notice(at, Cause.RESET, certain=False, within=_RESET_BEHIND_FIN)
        if self._service.half_close is HalfClose.PROBE and b" HTTP/1.1\r\n" in self.wire.head and probed >= at:
            certain = probed < self.answers - EPSILON
            yield _Notice(probed, Cause.RESET, certain=certain, within=_RESET_BEHIND_FIN)
        for sent in self.sends or [self.own.at]:
            if sent > at - EPSILON:
                certain = at + EPSILON < sent < self.own.at - EPSILON
                yield _Notice(sent, Cause.RESET, IN_RESPONSE, certain=certain, within=_RESET_BEHIND_FIN)

    # What its record may be

    @property
    def must_be_recorded(self) -> bool:
        """True if the server has certainly read something of it."""
        if self.too_late:
            return False
        # A RST overtakes what was sent; a FIN cannot, but for one that ends the exchange before.
        others = [
            notice.at for notice in self.notices() if notice.cause is not Cause.FIN or self.free > notice.at - EPSILON
        ]
        return self.begun < min(others, default=math.inf) - EPSILON

    @property
    def may_be_recorded(self) -> bool:
        return not self.may_be_too_late and self.begun < self.certainly_noticed + EPSILON

    @property
    def certainly_noticed(self) -> float:
        """When it ends early, if it has not ended before."""
        return min((notice.at + notice.within for notice in self.notices() if notice.certain), default=math.inf)

    def judge(self, record: Record) -> Iterator[str]:
        """What of its record is not allowed."""
        if abs(record.started_at - self.begun) > EPSILON:
            yield f"started_at is {record.started_at}, and its first byte was there at {self.begun}"
        if record.headers is not None:
            if (record.method, record.target) != (self.wire.method, self.wire.target):
                yield f"it is recorded as {record.method} {record.target}"
            if record.request_body_bytes > len(content_of(self.wire)):
                yield f"{record.request_body_bytes} bytes of content were read, more than were sent"
        if isinstance(record, Completed):
            yield from self._judge_completed(record)
        else:
            yield from self._judge_abandoned(record)

    def _judge_completed(self, record: Completed) -> Iterator[str]:
        at, own = record.started_at + record.duration, self.own
        if self.may_be_408 and record.status == 408:
            return
        if own.cause is not None:
            yield f"it is Completed with {record.status}, and its handler breaks it off: {own.cause}"
        elif record.status != own.status:
            yield f"it is Completed with {record.status}, and not with {own.status}"
        if at < own.at - EPSILON or (own.certain and at > own.at + EPSILON):
            yield f"it is Completed at {at}, and its answer is due at {own.at}"
        if self._must_block():
            yield f"it is Completed at {at}, and nobody has taken its answer, for which there was no room"
        if at > (noticed := self.certainly_noticed) + EPSILON:
            yield f"it is Completed at {at}, when its client was known to have left since {noticed}"
        if (record.headers is None) != (own.at < self.head):
            yield "headers are there without a whole head, or are not there with one"
        if record.status < 400 and self.handler.reads and record.request_body_bytes != len(content_of(self.wire)):
            yield f"{record.request_body_bytes} bytes of content were read, and not all {len(content_of(self.wire))}"

    def _judge_abandoned(self, record: Abandoned) -> Iterator[str]:
        status = TABLE.get((record.phase, record.cause))
        if record.status != status:
            yield f"its status is {record.status}, and the table says {status}"
        if record.by != record.cause.by:
            yield f"it was ended by the {record.cause.by}, and not by the {record.by}"
        if not record.started_at <= record.noticed_at <= record.unwound_at:
            yield "its times are not in order"
        if (record.headers is None) != (record.phase is Phase.HEAD):
            yield f"in phase {record.phase} headers are {record.headers}"
        if (record.sent_status is not None) and record.phase not in IN_RESPONSE:
            yield f"in phase {record.phase} it has sent {record.sent_status}"
        allowed = [*self._allowed()]
        if any(self._is(record, notice) for notice in allowed):
            yield from self._judge_unwinding(record)
        else:
            yield (
                f"{record.cause} in phase {record.phase}, noticed at {record.noticed_at}, is not allowed; but "
                + ("; ".join(map(self._in_words, allowed)) or "to be completed")
            )

    def _allowed(self) -> Iterator[_Notice]:
        """How it may end early."""
        own = self.own
        latest = min(self.certainly_noticed, own.at if own.certain else math.inf) + EPSILON
        if own.cause is not None:
            phases = IN_RESPONSE if self.streams else frozenset({Phase.HANDLER, Phase.BODY})
            yield _Notice(own.at, own.cause, phases, within=0.0 if own.certain else math.inf)
        for notice in self.notices():
            if notice.at < latest:
                yield notice

    def _is(self, record: Abandoned, notice: _Notice) -> bool:
        # So long a FIN may stand behind bytes that nobody reads and there is no room for.
        late = 2 * _UNREAD_FOR if self._course.blocked or len(self._script.stream) > self._service.room // 2 else 0
        if notice.cause is not record.cause or record.noticed_at < notice.at - EPSILON:
            return False
        if record.noticed_at > notice.at + max(late, notice.within) + EPSILON:
            return False
        return record.phase in self.phases_at(record.noticed_at) & (notice.phases or frozenset(Phase))

    def _in_words(self, notice: _Notice) -> str:
        phases = self.phases_at(notice.at) & (notice.phases or frozenset(Phase))
        return f"{notice.cause} in {' or '.join(sorted(phases)) or 'no phase'} at {notice.at}"

    def _judge_unwinding(self, record: Abandoned) -> Iterator[str]:
        """The handler: was it stopped when it is to be stopped, and only then?"""
        noticed, outcome = record.noticed_at, record.outcome
        if noticed < self.head - EPSILON and outcome is not Outcome.NOT_STARTED:
            yield f"a handler is {outcome} that had no head"
        if outcome is Outcome.NOT_STARTED and noticed > self.head + EPSILON:
            yield "its handler had started, and is recorded as not_started"
        elif outcome is Outcome.NOT_STARTED and record.unwound_at > noticed + EPSILON:
            yield f"a handler that has not started took until {record.unwound_at} to unwind"
        elif record.phase is Phase.QUEUED and outcome is not Outcome.NOT_STARTED and self._stops_at_once:
            yield f"its handler was not to start for a client that had left, and is {outcome}"
        if outcome is not Outcome.NOT_STARTED and record.cause.by == "client" and not self.may_block:
            yield from self._judge_stopping(record)

    @property
    def _stops_at_once(self) -> bool:
        return self._service.disconnect == CANCEL

    def _judge_stopping(self, record: Abandoned) -> Iterator[str]:
        noticed, outcome = record.noticed_at, record.outcome
        left = record.cause in CLIENT_LEFT
        stopped = noticed + (self._service.disconnect.seconds if left else 0)
        # A handler that waits for a body which will never come is told so.
        ends = self.done if self.ready < math.inf else noticed
        at = record.unwound_at
        if not any(abs(at - each) < EPSILON for each in self._unwound(noticed, stopped, ends)):
            yield f"its handler was to be stopped at {stopped}, or ended by itself at {ends}, and has unwound at {at}"
        if stopped < min(self.waited, ends) - EPSILON and outcome is not Outcome.CANCELLED:
            yield f"its handler was stopped at {stopped}, and is recorded as {outcome}"
        if stopped > ends + EPSILON and outcome is Outcome.CANCELLED:
            yield f"its handler has run on until its end, at {ends}, and is recorded as {outcome}"

    def _unwound(self, noticed: float, stopped: float, ends: float) -> Iterator[float]:
        """When a handler may have unwound that is stopped then, or ends by itself then."""
        if stopped > ends - EPSILON:
            yield max(ends, noticed)
        if stopped < ends + EPSILON:
            if not self.ready - EPSILON < stopped < self.answers + EPSILON:
                yield stopped
            if stopped < self.ready + EPSILON:
                yield stopped
            if self.ready - EPSILON < stopped < self.waited + EPSILON:
                yield stopped + self.handler.tidies
            if self.waited - EPSILON < stopped < self.answers + EPSILON:
                yield max(self.answers, stopped)  # it was tidying up


def _near(a: float, b: float) -> bool:
    return a == b or abs(a - b) < EPSILON


def _or_never(at: float | None) -> float:
    return math.inf if at is None else at


def _judge_records(script: Script, course: Course, records: Sequence[Record], service: Service) -> Iterator[str]:
    numbers = [record.exchange_number for record in records]
    if numbers != [*range(1, len(numbers) + 1)]:
        yield f"the exchanges have the numbers {numbers}, and not 1, 2, 3 ..., each once"
        return
    if len(numbers) > len(script.requests):
        yield f"there are {len(numbers)} records of {len(script.requests)} requests"
        return
    free, broken, unread = course.began, math.inf, 0
    for number, wire in enumerate(script.requests, 1):
        if not is_right(wire):
            return  # a server may refuse it, or not; and then nothing is understood
        exchange = _Exchange(script, course, service, number, free=free, broken=broken, unread=unread)
        record = records[number - 1] if number <= len(records) else None
        wrong = [*_judge_record(exchange, record)]
        yield from (f"exchange {number}: {each}" for each in wrong)
        if wrong or not isinstance(record, Completed):
            if not wrong and number < len(records):
                yield f"exchange {number} was abandoned, and there are {len(records)} records"
            return
        done = record.started_at + record.duration
        free = max(done, exchange.whole)
        if exchange.own.is_last or record.status == 408:
            if number < len(records):
                yield f"exchange {number} was the connection's last, and there are {len(records)} records"
            return
        if exchange.may_be_last or free > done + service.deadlines.body_stall - EPSILON:
            return  # nobody wanted the body, and the connection may not be kept for the rest of it
        broken = done if done > exchange.left.get(Way.FIN, math.inf) - EPSILON else math.inf
        unread = exchange.unread


def _judge_record(exchange: _Exchange, record: Record | None) -> Iterator[str]:
    if record is not None and exchange.may_be_recorded:
        yield from exchange.judge(record)
    elif record is not None:
        yield f"it has a record, and cannot have begun: {record}"
    elif exchange.must_be_recorded:
        yield "it has no record"


def _judge_calls(
    script: Script, course: Course, records: Sequence[Record], service: Service, marks: Marks
) -> Iterator[str]:
    """Handlers: was each called as often as the records say?"""
    called = Counter(target for client, target in marks.calls if client == course.client)
    least, most = Counter[str](), Counter[str]()
    for wire, record in zip(script.requests, records, strict=False):
        target = record.target
        if target is not None and target in service.handlers and record.method in _METHODS:
            least[target] += _was_called(wire, record)
            most[target] += _may_have_been_called(record)
    for target in sorted({*called, *least}):
        if not least[target] <= called[target] <= most[target]:
            times = f"{least[target]} to {most[target]}" if least[target] < most[target] else f"{most[target]}"
            yield f"the handler of {target} was called {called[target]} times, and by the records {times} times"


def _was_called(wire: Wire, record: Record) -> bool:
    """True if its handler was certainly called. One that was cancelled may not have come beyond a middleware."""
    cancelled = isinstance(record, Abandoned) and record.outcome is Outcome.CANCELLED
    return is_right(wire) and _may_have_been_called(record) and not cancelled


def _may_have_been_called(record: Record) -> bool:
    not_started = isinstance(record, Abandoned) and record.outcome is Outcome.NOT_STARTED
    return record.headers is not None and not not_started


def _judge_answers(script: Script, course: Course, records: Sequence[Record], service: Service) -> Iterator[str]:
    of_each = itertools.zip_longest(script.requests, records)
    asked = [_asked(wire, record, course.received) for wire, record in of_each if wire is not None]
    try:
        answers, rest = read_answers_before_leaving(course.received, asked)
    except WrongAnswer as error:
        yield str(error)
        return
    if len(answers) > len(script.requests) and all(map(is_right, script.requests)):
        yield f"{len(answers)} answers have come to {len(script.requests)} requests"
    gone = min((at for at, way in course.left if way is not Way.HALF_CLOSE), default=math.inf)
    for number, (answer, wire) in enumerate(zip(answers, script.requests, strict=False), 1):
        if not is_right(wire):
            return
        if number > len(records):
            yield f"answer {number} ({answer.status}) has no record"
            return
        record = records[number - 1]
        for each in _answer_differs(answer, wire, record, handler_for(service, wire), course):
            yield f"answer {number}: {each}"
        if answer.interim and not (service.half_close is HalfClose.PROBE or expects_continue(wire)):
            yield f"answer {number}: the interim responses {answer.interim} came, and nobody was to be asked"
    whole = sum(not answer.cut for answer in answers)
    due = sum(
        isinstance(record, Completed) and record.started_at + record.duration < gone - EPSILON for record in records
    )
    if script.reads and whole < due:
        yield f"{due} exchanges are Completed, and {whole} answers have come"
    if rest and len(answers) >= len(records) and not rest.startswith(b"HTTP/1.1 100"):
        yield f"behind the last answer has come {rest[:60]!r}"
    yield from _end_differs(script, course, records, service, answers)


def _asked(wire: Wire, record: Record | None, received: bytes) -> Asked:
    """What a request asks for; of one that is not right, or was not whole, what the server has understood."""
    if is_right(wire) and (record is None or record.headers is not None):
        return Asked(wire.method, "1.0" if b" HTTP/1.0\r\n" in wire.head else "1.1")
    if record is None:
        return GET
    # Of a request line that is not whole, the method may be known all the same.
    method = "HEAD" if wire.head.startswith(b"HEAD ") and received.endswith(b"\r\n\r\n") else "GET"
    return Asked(record.method or method, record.http_version or "1.1")


def _answer_differs(answer: RawAnswer, wire: Wire, record: Record, handler: Handler, course: Course) -> Iterator[str]:
    # Without a length, an answer lasts until the server's FIN: before that, or if a RST comes, it is not whole.
    says_length = bool(answer.all("content-length") or answer.all("transfer-encoding"))
    ended = None if course.ended is None else course.ended[1]
    whole = not answer.cut and (says_length or wire.method == "HEAD" or ended is Way.FIN)
    if isinstance(record, Completed):
        if answer.status != record.status:
            yield f"its status is {answer.status}, and its record says {record.status}"
        if not whole and ended is not None:
            yield "it is cut, and its record says that it is Completed"
    else:
        if answer.status != record.sent_status:
            yield f"its status is {answer.status}, and its record says {record.sent_status} for what was sent"
        if whole:
            yield "it is whole, and its record says that it is Abandoned"
    if answer.status < 400 and wire.method != "HEAD":
        content = handler.answer_to(content_of(wire))
        if answer.content != (content if whole else content[: len(answer.content)]):
            yield f"its content is {answer.content[:40]!r} ({len(answer.content)} bytes), and not its handler's"


def _end_differs(
    script: Script, course: Course, records: Sequence[Record], service: Service, answers: Sequence[RawAnswer]
) -> Iterator[str]:
    """A connection is kept until somebody says otherwise (RFC 9112 §9.3)."""
    if not (answers and script.reads and len(answers) == len(records)) or answers[-1].cut:
        return
    last, wire = records[-1], script.requests[len(answers) - 1]
    if not isinstance(last, Completed) or not all(map(is_right, script.requests)):
        return
    done = last.started_at + last.duration
    stays = min((at for at, _ in course.left), default=math.inf)
    if answers[-1].closes:
        if course.ended is None and stays > done + service.deadlines.linger + EPSILON:
            yield "the last answer announces the connection's end, and it has not ended"
    elif (
        course.ended is not None
        and course.ended[0] < min(stays, done + service.deadlines.idle) - EPSILON
        and (handler_for(service, wire).reads or not wire.body)
    ):
        yield f"the last answer keeps the connection, and it has ended at {course.ended[0]}"


_METHODS = frozenset({"GET", "HEAD", "POST"})
_NOWHERE = Handler(reads=False, status=404)
_NOT_ALLOWED = Handler(reads=False, status=405)


def handler_for(service: Service, wire: Wire) -> Handler:
    """What becomes of a request: its handler, or one that stands for there being none."""
    if wire.target not in service.handlers:
        return _NOWHERE
    return service.handlers[wire.target] if wire.method in _METHODS else _NOT_ALLOWED

"""The rules: what must be so in every play, whenever and however the client left. Each is a function over a `Played`.

A rule yields a breach for each time that it is broken: what was found, in words for somebody who has written a handler
and has never read how trioserve is made, and what mends it. The rules of the first table are about handlers; those of
the second about the server, and say so: a user who meets one has found a defect of trioserve's.

No false alarms: where two things may come in either order, both are right. So a rule asks what is known, and not what
is usual.
"""

from __future__ import annotations

import linecache
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from trioserve.core.application import Rules
from trioserve.core.errors import DropConnection, ExchangeOver, HTTPError
from trioserve.core.lifecycle import CANCEL, Cause, HalfClose
from trioserve.core.records import Abandoned, Completed, Record
from trioserve.core.status import DEFAULT
from trioserve.failures import consists_of, sole, without_cancellations
from trioserve.testing.allowed import Allowed, allowed_after_leaving
from trioserve.testing.answers import Asked, WrongAnswer, read_answers_before_leaving
from trioserve.testing.facts import Wait
from trioserve.testing.leaving import Way
from trioserve.testing.places import Place, Whose, whose
from trioserve.testing.play import MOST_WAITS, PATIENCE, Played, usual_behind
from trioserve.testing.rests import unusual
from trioserve.testing.transport import WINDOW


class Found(NamedTuple):
    """One time that a rule is broken."""

    what: str  # lines of text
    place: Place | None = None  # in the user's code
    mend: str = ""  # lines of text; empty: as the rule says
    early: bool = False  # in a play whose client was to leave, before it had: what earlier plays left is behind it


class Rule(NamedTuple):
    """One rule."""

    name: str  # for `allow=`
    says: str
    mend: str
    find: Callable[[Played], Iterator[Found]]


STEPS = 4
"""Checkpoints that one task may pass between the departure and its cancellation: the news comes between two steps of
the scheduler, or one or two later."""


AT_ONCE = 0.1
"""Seconds within which a departure counts as noticed at once. In virtual time it takes none; but where a thread or a
descriptor is waited for, the time is real."""


# The handler


def _fails(played: Played) -> Iterator[Found]:
    raised = False
    for ending in played.watch.endings:
        error = without_cancellations(ending.error) if ending.error is not None else None
        if not (ending.endpoint and ending.before_departure) or error is None or consists_of(error, *_ANSWERS):
            continue
        if played.leave is None:
            raised = True
            yield Found(f"the handler raised {_shown(error)}", _raised_at(error))
        else:
            what = f"the handler had failed before its client left, with {_shown(error)}"
            yield Found(what, _raised_at(error), _ANEW, early=True)
    if played.leave is not None or raised or not played.in_time:
        return
    for record in played.records:
        if isinstance(record, Completed) and record.status >= 400:
            yield Found(
                f"answered {record.status} although the client stayed: what the handler does for a request that works "
                "is not proven",
                mend=f"give a request that works; if this answer is meant, allow=({'fails'!r},)",
            )


_ANEW = "perhaps because earlier plays left something behind: around= sets each play up anew"


_ANSWERS = (HTTPError, DropConnection, ExchangeOver)


def _never_ends(played: Played) -> Iterator[Found]:
    if not played.in_time:
        after = f"{PATIENCE:.0f} s (of virtual time) after its client had left"
        yield _unended(after, played.watch.waits)
    elif played.stay_over and not played.left and played.stay is None:
        waits = played.watch.waits_before_departure
        after = f"{PATIENCE:.0f} s (of virtual time) after the request"
        if len(waits) >= MOST_WAITS:
            after = f"{MOST_WAITS} checkpoints after the request"
        found = _unended(f"{after}, and its client was still there", waits)
        early = played.leave is not None
        yield found._replace(mend=_ANEW if early else _ENDLESS, early=early)


def _unended(when: str, waits: list[Wait]) -> Found:
    if not waits:
        return Found(f"the handler had not ended {when}")
    return Found(f"the handler had not ended {when};\nit waited at {waits[-1].place}", waits[-1].place)


_ENDLESS = (
    "If it is a stream without an end, say how many seconds the client stays: stay=10.\n"
    "If not, give what it waits for a bound: `with trio.fail_after(30):`."
)


def _is_cut_short(played: Played) -> Iterator[Found]:
    for cut in played.watch.cuts:
        if cut.cleanup is not None:
            kind, place = cut.cleanup
            if cut.first and kind == "except":
                continue  # it waits there before it tries again, say; the departure found it in no clean-up of its own
            inside = f" (inside it at {cut.place})" if cut.place != place else ""
            article = "a" if kind == "finally" else "an"
            what = f"the await at {place}, in {article} `{kind}`, was cut short{inside}:\nwhat it awaits was not done"
            yield Found(what, place, _shielded(place))


def _swallows(played: Played) -> Iterator[Found]:
    for ending in played.watch.endings:
        if ending.forced and ending.cut is not None:
            yield Found(
                f"cancelled at {ending.cut.place}, {_task(ending.task)} swallowed that again and again, and went on "
                "until it was ended by force",
                ending.cut.place,
            )
            return
    went_on = [cut for cut in played.watch.cuts if cut.went_on]
    for cut in went_on:
        yield Found(
            f"{_task(cut.task)} had been cancelled, swallowed that, and went on to the await at {cut.place}", cut.place
        )
    # One that awaits nothing any more has swallowed it as well: trio knows only by the Cancelled that it has ended by
    # it, and whoever awaits it would take what it returns for the outcome of work that was done.
    for ending in played.watch.endings:
        if ending.swallowed and ending.cut is not None and ending.task not in {cut.task for cut in went_on}:
            kept = "answered all the same" if ending.endpoint else "returned all the same"
            yield Found(
                f"cancelled at {ending.cut.place}, {_task(ending.task)} swallowed that and {kept}", ending.cut.place
            )


def _turns(played: Played) -> Iterator[Found]:
    for ending in played.watch.endings:
        error = without_cancellations(ending.error) if ending.error is not None and ending.turned else None
        if error is not None:
            at = f" at {ending.cut.place}" if ending.cut is not None else ""
            yield Found(f"cancelled{at}, {_task(ending.task)} raised {_shown(error)}", _raised_at(error))


def _leaves_over(played: Played) -> Iterator[Found]:
    usual = usual_behind(played.leave, played.stayed)
    if played.stayed is None or usual is None:
        return  # the first play warms up what is made once and kept
    # What an app that runs keeps anyway (a pool grows) goes at the latest when it ends.
    for rest in unusual(played.rests, played.stayed.rests) or unusual(played.rests_behind, usual):
        yield Found(f"left over: {rest}")


def _differs(played: Played) -> Iterator[Found]:
    if played.left and not played.came_to_its_end and played.before != played.after:
        yield Found(f"before the request: {_short(played.before)}\nafter its client left: {_short(played.after)}")


def _passes_by(played: Played) -> Iterator[Found]:
    if played.rules.disconnect != CANCEL or not _is_heard_at_once(played):
        return
    for task, count in Counter(wait.task for wait in played.watch.passed).items():
        alike = sum(ending.task == task for ending in played.watch.endings)
        if count > STEPS * max(alike, 1):
            wait = next(wait for wait in played.watch.passed if wait.task == task)
            yield Found(f"{_task(task)} passed {count} checkpoints before its cancellation came", wait.place)


HANDLER_RULES = (
    Rule(
        "fails",
        "the handler answers when the client stays, and not with 4xx or 5xx",
        "Mend the handler, or the request and what `around` sets up, so that the request is answered when nobody "
        "leaves. Meanwhile nothing is known of what it does when somebody does.",
        _fails,
    ),
    Rule(
        "never ends",
        "a handler comes to an end, at the latest when its client has left",
        "Give what is shielded a bound: `with trio.move_on_after(5, shield=True):`. In a worker thread, call "
        "`trio.from_thread.check_cancelled()` now and then.",
        _never_ends,
    ),
    Rule(
        "cut short",
        "no await of the clean-up is cut short",
        "Shield it, with a bound: `with trio.move_on_after(5, shield=True):` around what the clean-up awaits. In a "
        "scope that is cancelled, each await that is not shielded raises `trio.Cancelled` at once.",
        _is_cut_short,
    ),
    Rule(
        "swallowed",
        "a handler that is cancelled stops",
        "Let `trio.Cancelled` pass: do not catch `BaseException` (or use a bare `except:`) around an await without "
        "`raise` at the end of the block, and do not `return`, `break` or `continue` in a `finally`.",
        _swallows,
    ),
    Rule(
        "turned",
        "a handler that is cancelled raises nothing else",
        "Let `trio.Cancelled` pass: raise nothing in its place from `except BaseException`, `finally` or an "
        "`__aexit__`; catch there what the clean-up itself may raise.",
        _turns,
    ),
    Rule(
        "snapshot",
        "what `snapshot` sees is the same before the request and after its client has left",
        "Undo what was begun in a `finally` or an `async with`, and shield what that awaits: "
        "`with trio.move_on_after(5, shield=True):`. Or make it one step: all of it in one transaction. Or let it not "
        "be cut at all: `disconnect=FINISH` on the route, if the work is to be done whoever waits for it.",
        _differs,
    ),
    Rule(
        "left over",
        "no task, descriptor, thread or child process is left",
        "Open what is to be closed in a `with` or `async with`, and wait for what was started: tasks in a nursery, "
        "child processes with `trio.run_process`.",
        _leaves_over,
    ),
)


# The server


def _count_differs(played: Played) -> Iterator[Found]:
    least = 0 if played.left and _allowed(played).may_be_unrecorded else 1
    if not least <= len(played.records) <= 1:
        yield Found(f"{len(played.records)} records of one exchange: {_words(played.records)}")


def _is_not_allowed(played: Played) -> Iterator[Found]:
    for record in played.records:
        if not _may_be(record, played):
            yield Found(f"the record is {_word(record)}, which the design does not allow here")


def _is_inconsistent(played: Played) -> Iterator[Found]:
    for record in played.records:
        for what in _untrue(record, played):
            yield Found(f"of {_word(record)} the record says {what}")


def _untrue(record: Record, played: Played) -> Iterator[str]:
    """What a record tells that is known better."""
    if record.exchange_number != 1:
        yield f"exchange_number={record.exchange_number}, and it was the first"
    if record.method is not None and (record.method, record.target) != (played.wire.method, played.wire.target):
        yield f"method={record.method!r}, target={record.target!r}"
    if record.request_body_bytes > len(played.wire.body):
        yield f"request_body_bytes={record.request_body_bytes}, more than were sent"
    if isinstance(record, Abandoned):
        if record.by != record.cause.by:
            yield f"by={record.by!r}"
        if not record.started_at <= record.noticed_at <= record.unwound_at:
            yield (
                f"started_at={record.started_at}, noticed_at={record.noticed_at}, unwound_at={record.unwound_at}: not "
                "in this order"
            )
        if (record.outcome == "failed") is not (record.exception is not None):
            yield f"outcome={str(record.outcome)!r} with exception={record.exception!r}"
        status = _status_line(played.received)
        if status is not None and record.sent_status != status:
            yield f"sent_status={record.sent_status}, and {status} was received"


def _status_line(received: bytes) -> int | None:
    """The status code of the final response that has come; None if none has."""
    match = re.search(rb"(?:^|\r\n\r\n)HTTP/1\.1 ([2-9]\d\d) ", received)
    return int(match[1]) if match else None


def _is_noticed_late(played: Played) -> Iterator[Found]:
    if played.left_at is None or not _is_heard_at_once(played):
        return
    for record in played.records:
        if isinstance(record, Abandoned) and abs(record.noticed_at - played.left_at) > AT_ONCE:
            yield Found(f"the client left at {played.left_at:.3f} s, and that was noticed at {record.noticed_at:.3f} s")


def _may_be(record: Record, played: Played) -> bool:
    if played.stay_over and isinstance(record, Abandoned) and record.cause in {Cause.FIN, Cause.RESET}:
        return True  # which is how it left in the end
    if not played.left:
        return isinstance(record, Completed) or record.cause.by == "server"
    allowed = _allowed(played)
    if isinstance(record, Completed):
        return allowed.may_complete
    return (record.phase, record.cause) in allowed.endings


def _has_wrong_status(played: Played) -> Iterator[Found]:
    for record in played.records:
        if isinstance(record, Abandoned):
            status = _status_of(record, played.rules)
            if record.status != status:
                yield Found(f"the record's status is {record.status}, and the policy's for {_word(record)} is {status}")


def _status_of(record: Abandoned, rules: Rules) -> int | None:
    try:
        return rules.status.status(record.phase, record.cause)
    except Exception:
        return DEFAULT.status(record.phase, record.cause)  # and the user's function was logged


def _is_told_wrong(played: Played) -> Iterator[Found]:
    abandoned = [record for record in played.records if isinstance(record, Abandoned)]
    if [id(record) for record in abandoned] != [id(record) for record in played.told]:
        yield Found(f"the hooks were called {len(played.told)} times for {len(abandoned)} Abandoned")
    if played.told_early:
        yield Found("a hook was called while the handler still ran")


def _is_kept_wrong(played: Played) -> Iterator[Found]:
    if played.left or played.stay_over:
        return
    keeps = _keeps_connection(played)
    if keeps is not None and played.kept is not keeps:
        yield Found(
            "the connection was " + ("kept open" if played.kept else "closed") + " against what the answer says"
        )


def _keeps_connection(played: Played) -> bool | None:
    """Whether the connection persists behind the answer (RFC 9112 section 9.3); None if there is none."""
    if not any(isinstance(record, Completed) for record in played.records):
        return False
    try:
        answers, _ = read_answers_before_leaving(played.received, [_asked(played)])
    except WrongAnswer:
        return None
    if not answers or answers[-1].status == 101:
        return None
    if _asked(played).version == "1.0":
        # It may keep one that asked for that, and need not.
        return None if "keep-alive" in answers[-1].members("connection") else False
    return not answers[-1].closes


def _writes(played: Played) -> Iterator[Found]:
    if _is_heard_at_once(played) and played.written_after_departure:
        yield Found(f"{played.written_after_departure} bytes were written after the departure was heard")


def _is_misframed(played: Played) -> Iterator[Found]:
    try:
        answers, rest = read_answers_before_leaving(played.received, [_asked(played)])
    except WrongAnswer as error:
        yield Found(f"the response is malformed: {error}")
        return
    half_closed = played.leave is not None and played.leave.how is Way.HALF_CLOSE
    stayed = not played.stay_over and (not played.left or half_closed)
    completed = any(isinstance(record, Completed) for record in played.records)
    if stayed and completed and (rest or not answers or answers[-1].cut):
        yield Found(f"the response was completed, and is not whole: {played.received[-60:]!r} is its end")


SERVER_RULES = (
    Rule("not stopped", "a handler is cancelled soon after the departure", "", _passes_by),
    Rule("one record", "there is exactly one record of each exchange", "", _count_differs),
    Rule("legal record", "the record's phase and cause are possible for what the client did", "", _is_not_allowed),
    Rule("true record", "the record tells nothing that is known to be otherwise", "", _is_inconsistent),
    Rule("noticed", "a departure that can be heard is noticed at once", "", _is_noticed_late),
    Rule("status", "the record's status is the status policy's for its phase and cause", "", _has_wrong_status),
    Rule("hook", "hooks are called once for each Abandoned, after the handler has ended", "", _is_told_wrong),
    Rule("connection", "the connection is closed, or kept as the answer says (RFC 9112 §9.3)", "", _is_kept_wrong),
    Rule("silent", "nothing is written once the departure was heard", "", _writes),
    Rule("framing", "the response is whole or visibly cut", "", _is_misframed),
)

RULES = (*HANDLER_RULES, *SERVER_RULES)


def broken_rules(played: Played, *, but: Collection[str] = ()) -> Iterator[tuple[Rule, Found]]:
    """The rules that are broken in a play, each with what was found, except for those of these names."""
    for rule in _rules_for(played):
        if rule.name not in but:
            for found in rule.find(played):
                yield rule, found


def _rules_for(played: Played) -> Iterable[Rule]:
    """Those by which this play can be judged."""
    if not played.in_time:
        # The play has ended the exchange itself: what is there after that is the play's doing.
        return [rule for rule in HANDLER_RULES if rule.find not in {_differs, _leaves_over}]
    if played.stay_over and not played.left:
        # What a departure does to the handler is for the plays in which one was planned.
        return [rule for rule in RULES if rule.find not in {_is_cut_short, _swallows, _turns}]
    return RULES


def _allowed(played: Played) -> Allowed:
    assert played.leave is not None
    return allowed_after_leaving(
        played.leave.at,
        played.leave.how,
        wire=played.wire,
        rules=played.rules,
        half_close=played.config.half_close,
        deadlines=played.config.deadlines,
        reads=False,
        undisturbed=_undisturbed(played.stayed),
    )


def _undisturbed(stayed: Played | None) -> Record | None:
    """What became of the exchange when nobody left, as far as it had an end."""
    return stayed.records[0] if stayed is not None and stayed.records and not stayed.stay_over else None


def _is_heard_at_once(played: Played) -> bool:
    """True if the exchange ended by a departure that nothing kept from being heard when it came."""
    if not played.left or played.leave is None:
        return False
    if played.leave.how is Way.VANISH:
        return False
    # A FIN is a departure by itself only under ABORT, and waits behind what there is no room for.
    fin_is_heard = played.half_close is HalfClose.ABORT and len(played.wire.body) < WINDOW
    if played.leave.how is not Way.RESET and not fin_is_heard:
        return False
    # A client that closes with bytes unread resets.
    causes = {Cause.FIN, Cause.RESET}
    return any(isinstance(record, Abandoned) and record.cause in causes for record in played.records)


def _asked(played: Played) -> Asked:
    return Asked(played.wire.method, "1.0" if b" HTTP/1.0\r\n" in played.wire.head else "1.1")


# Words


def _shielded(place: Place) -> str:
    """What mends an await that was cut short, in code where the line is at hand; else empty."""
    line = linecache.getline(place.file, place.line).strip()
    if not line.startswith(("await ", "return await ")):
        return ""
    if line.count("(") != line.count(")"):
        line = line.partition("(")[0] + "(...)"
    return f"shield it, with a bound:\n    with trio.move_on_after(5, shield=True):\n        {line}"


def _task(name: str) -> str:
    return name if name == "the handler" else f"the task {name}"


def _words(records: list[Record]) -> str:
    return ", ".join(map(_word, records)) or "none"


def _word(record: Record) -> str:
    if isinstance(record, Completed):
        return f"Completed({record.status})"
    return f"Abandoned({record.phase}, {record.cause}, {record.outcome})"


def _shown(error: BaseException) -> str:
    error = sole(error)
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _raised_at(error: BaseException) -> Place | None:
    """The innermost line of the user's own code from which it came."""
    place = None
    traceback = sole(error).__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if whose(code.co_filename) is Whose.USER:
            place = Place(code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    return place


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."

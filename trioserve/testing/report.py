"""The text of a failure, for somebody who has written a handler and wants to know what is wrong with it.

One breach is told in full: the earliest in the plan's order, with what else was found in the same play. The others are
grouped by rule and place, a line for each group: one line of code is usually at the bottom of many plays.

A failure outlives its test: pytest keeps it to the end of the session. So a breach is made of texts and places, and
holds nothing of its play: no frame, pipe or child process that was left behind is kept for a later test to trip over.
"""

from __future__ import annotations

import linecache
import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trioserve.core.lifecycle import Phase
from trioserve.core.records import Abandoned
from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, ResponseBytes, Way
from trioserve.testing.places import Place
from trioserve.testing.plan import PlannedLeave, request_points
from trioserve.testing.play import Played
from trioserve.testing.rules import HANDLER_RULES, SERVER_RULES, Found, Rule
from trioserve.testing.wire import Wire

WIDTH = 100
"""Characters of a line of prose."""

MOST_GROUPS = 20
"""Groups of further breaches that are shown."""


class Breach(NamedTuple):
    """A rule that was broken in a play."""

    rule: Rule
    found: Found
    leave: PlannedLeave | None  # None: the client was to stay
    cut: Place | None  # the await that the departure cancelled first
    client: str  # where it left and how, in words; empty if it was to stay
    phase: str  # in words
    logged: tuple[str, ...]  # what the server logged as an error

    @classmethod
    def of(cls, rule: Rule, found: Found, played: Played) -> Breach:
        """What is to be told of it, without the play."""
        cuts, leave = played.watch.cuts, played.leave
        client = f"left {_where(played)}: {_HOW[leave.how]}" if leave is not None else ""
        return cls(rule, found, leave, cuts[0].place if cuts else None, client, _phase(played), tuple(played.logged))

    @property
    def told(self) -> tuple[str, str]:
        """What makes it another one than others of its play."""
        return self.rule.name, self.found.what


class LeftAMess(AssertionError):
    """A client left, and a rule was broken. The text says which, where, how to play it again and how to mend it."""

    def __init__(self, breaches: Sequence[Breach], plays: int, call: Call) -> None:
        self.breaches = list(breaches)
        super().__init__(_text(self.breaches, plays, call))


@dataclass(frozen=True, slots=True)
class Call:
    """The call of `leave_at_every_point`, as it is shown."""

    wire: Wire
    request: object
    options: dict[str, object]

    def shown(self, leave: PlannedLeave | None) -> str:
        """The call that plays this alone."""
        arguments = ["app", _shown_request(self.request)]
        if leave is not None:
            arguments += [f"at={leave.at!r}", f"how={leave.how!r}"]
        arguments += [f"{name}={_shown_option(value)}" for name, value in self.options.items()]
        return f"await leave_at_every_point({', '.join(arguments)})"


def _shown_request(request: object) -> str:
    return repr(request) if isinstance(request, str | bytes) and len(request) <= 60 else "request"


def _shown_option(value: object) -> str:
    if isinstance(value, tuple | int | float):
        return repr(value)
    name = getattr(value, "__name__", "...")
    return name if name.isidentifier() else "..."


def _text(breaches: list[Breach], plays: int, call: Call) -> str:
    first = breaches[0]
    same = Counter(breach.told for breach in breaches if breach.leave == first.leave)
    request = f"{call.wire.method} {call.wire.target}"
    if first.leave is None:
        title = f"{request} breaks a rule even when its client stays."
    else:
        title = f"{request} is not safe to abandon."
    lines = ["", title, "", *_in_full(first, same.pop(first.told), call)]
    if same:
        lines += ["", "In the same play:"]
        for (rule, what), times in same.items():
            lines += _bullet(rule, what, times)
    if first.logged and first.rule in {*SERVER_RULES, HANDLER_RULES[0]}:
        lines += ["", "Logged in this play:"]
        lines += [f"  {line}" for message in first.logged for line in message.splitlines()]
    lines += _groups(breaches, plays)
    return "\n".join(lines).replace(os.getcwd() + os.sep, "")  # noqa: PTH109 - a prefix of texts


def _bullet(rule: str, what: str, times: int) -> Iterator[str]:
    begin, *rest = what.splitlines()
    yield f"  {rule}{_times(times)}: {begin}"
    for line in rest:
        yield f"      {line}"


def _times(times: int) -> str:
    return f" ({times} times)" if times > 1 else ""


def _in_full(breach: Breach, times: int, call: Call) -> Iterator[str]:
    rule, found, leave, cut, client, phase, _ = breach
    yield from _item("rule", f"{rule.name}: {rule.says}")
    yield from _item("found", found.what + _times(times))
    if found.place is not None:
        yield from _source(found.place)
    if cut is not None and cut != found.place:
        yield from _item("cut at", f"{cut}: the await that was cancelled")
        yield from _source(cut)
    if leave is not None:
        yield from _item("client", client)
        yield from _item("phase", phase)
    if rule in SERVER_RULES:
        yield from _item("mend", "This is a rule about the server, not about your handler: please report it.")
    else:
        yield from _item("mend", found.mend or textwrap.fill(rule.mend, WIDTH))
    yield from _item("replay", call.shown(leave))
    yield from _item("allow", f"if this is as it should be: allow=({rule.name!r},)")


def _item(name: str, text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"  {name:8}{line}"
        name = ""


def _source(place: Place) -> Iterator[str]:
    line = linecache.getline(place.file, place.line).strip()
    if line:
        yield f"{'':14}{line}"


def _where(played: Played) -> str:
    assert played.leave is not None
    match played.leave.at:
        case Checkpoint(number):
            of = f" of {len(played.stayed.watch.waits_before_departure)}" if played.stayed is not None else ""
            place = next((wait.place for wait in played.watch.waits if wait.number == number), None)
            return f"at the handler's checkpoint {number}{of}" + (f" ({place})" if place is not None else "")
        case ResponseBytes(count):
            of = f" of {len(played.stayed.received)}" if played.stayed is not None else ""
            return f"when it had received {count}{of} bytes of the response"
        case HeadBytes(count):
            return f"when it had sent {count} of {len(played.wire.head)} bytes of the head{_place(played)}"
        case BodyBytes(count):
            return f"when it had sent {count} of {len(played.wire.body)} bytes of the content{_place(played)}"


def _place(played: Played) -> str:
    place = request_points(played.wire).get(played.leave.at) if played.leave is not None else None
    return f" ({place})" if place is not None else ""


_HOW = {
    Way.FIN: "FIN, it closed the connection",
    Way.RESET: "RESET, it reset the connection",
    Way.VANISH: "VANISH, it was silent from then on",
    Way.HALF_CLOSE: "HALF_CLOSE, it closed its sending side and went on reading",
}


def _phase(played: Played) -> str:
    for record in played.records:
        if isinstance(record, Abandoned):
            return f"{record.phase} ({_PHASES[record.phase]}), cause {record.cause}, outcome {record.outcome}"
    return "the response was completed" if played.records else "there is no record"


_PHASES = {
    Phase.IDLE: "between two requests",
    Phase.HEAD: "the request's head was not complete",
    Phase.BODY: "the request's content was not complete",
    Phase.QUEUED: "the handler had not started",
    Phase.HANDLER: "the request was complete, the response had not begun",
    Phase.RESPONSE_HEAD: "the response's head was being sent",
    Phase.RESPONSE_BODY: "the response was being sent",
    Phase.COMPLETE: "the response was complete",
}


def _groups(breaches: list[Breach], plays: int) -> Iterator[str]:
    groups: dict[tuple[str, Place | None], list[Breach]] = {}
    for breach in breaches:
        groups.setdefault(_group(breach), []).append(breach)
    broken = len({breach.leave for breach in breaches})
    yield ""
    yield f"{broken} of {plays} {'play' if plays == 1 else 'plays'} broke a rule." + (
        " By rule and place:" if len(groups) > 1 or broken > 1 else ""
    )
    if broken == 1 and len(groups) == 1:
        return
    for number, ((name, place), group) in enumerate(groups.items()):
        if number == MOST_GROUPS:
            yield f"  and {len(groups) - number} groups more"
            return
        leave = group[0].leave
        first = f"at={leave.at!r}, how={leave.how!r}" if leave is not None else "the client stays"
        where = f" {place}" if place is not None else ""
        count = len({breach.leave for breach in group})
        if group[0].found.early:
            what = group[0].found.what.replace("\n", " ")
            yield f"  {name}: in {count} {'play' if count == 1 else 'plays'} {what}; {group[0].found.mend}"
            continue
        yield f"  {name}:{where} ({count} {'play' if count == 1 else 'plays'}; the first: {first})"


def _group(breach: Breach) -> tuple[str, Place | None]:
    return breach.rule.name, breach.found.place or breach.cut

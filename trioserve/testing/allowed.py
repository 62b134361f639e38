"""What the design allows for one exchange whose client leaves at a point. Pure; it knows nothing of the handler.

It does not know how the server works, but what docs/departure.md and the status table promise: which end a departure
is, in which phase, and when EOF is none. Where two things happen in the same moment, either may come first, so it
answers with a set. For a whole script, whose handlers are known, model.py says more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trioserve.core.application import Rules
from trioserve.core.lifecycle import Cause, HalfClose, Phase
from trioserve.core.limits import Deadlines
from trioserve.core.records import Abandoned, Completed
from trioserve.core.status import Cell
from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, Point, ResponseBytes, Way
from trioserve.testing.plain import expects_continue
from trioserve.testing.wire import Wire

HANDLED = frozenset({Phase.BODY, Phase.HANDLER, Phase.RESPONSE_HEAD, Phase.RESPONSE_BODY})
"""Phases in which a handler may be running."""

IN_RESPONSE = frozenset({Phase.RESPONSE_HEAD, Phase.RESPONSE_BODY})


class Allowed(NamedTuple):
    """How one exchange may have ended."""

    endings: frozenset[Cell]
    """Those of an `Abandoned`: its phase and cause."""

    may_complete: bool
    """Its record may be a `Completed`."""

    may_be_unrecorded: bool
    """There may be no record of it: nothing of it had been read."""


def allowed_after_leaving(
    point: Point,
    way: Way,
    *,
    wire: Wire,
    rules: Rules,
    half_close: HalfClose,
    deadlines: Deadlines,
    reads: bool,
    undisturbed: Completed | Abandoned | None = None,
) -> Allowed:
    """How the first exchange of a connection may end if its client leaves at `point`, having sent nothing behind it.

    Nothing is known of the handler, so a set is as large as some handler can make it: a client that leaves at a
    checkpoint may have its whole answer, if nothing is left to be waited for. Where a handler may run on (`Checkpoint`
    and `ResponseBytes`), all of the request was sent, or would be as soon as the server reads.

    Args:
        rules: those of the endpoint; half_close: as configured, where the rules do not say.
        reads: the client takes the response as it comes. Else a send may block.
        undisturbed: the record of the same request where the client stays. Needed for those that are not answered by
            their handler, or not well: without it a request whose head is refused, or whose handler breaks off its own
            response, is taken for a breach.
    """
    case = _Case(wire, way, rules, rules.half_close or half_close, deadlines, reads, undisturbed)
    if case.head_is_refused:
        # Whenever the head was refused, the answer got out, or could not.
        endings = {*case.in_head(), *itertools.product({Phase.HEAD, *IN_RESPONSE}, case.departures())}
        return Allowed(frozenset(endings), may_complete=True, may_be_unrecorded=True)
    match point:
        case HeadBytes(count) if not wire.head[:count].strip(b"\r\n"):
            # Empty lines begin nothing (RFC 9112 §2.2).
            return Allowed(frozenset(), may_complete=False, may_be_unrecorded=True)
        case HeadBytes(count) if count < len(wire.head):
            # A client that is silent is told that it was too slow, and in vain.
            told_408 = way is Way.VANISH and deadlines.head <= deadlines.vanish
            return Allowed(frozenset(case.in_head()), told_408, may_be_unrecorded=way is Way.RESET)
        case HeadBytes() | BodyBytes():
            sent = point.count if isinstance(point, BodyBytes) else 0
            whole = sent >= len(wire.body)
            endings = set(case.ends(_phases(case, whole=whole), whole=whole))
            # A reset overtakes what was sent: of the head nothing may have been read, or not all.
            overtaken = way is Way.RESET
            endings |= {(Phase.HEAD, Cause.RESET)} if overtaken else set()
            return Allowed(frozenset(endings), may_complete=True, may_be_unrecorded=overtaken)
        case Checkpoint() | ResponseBytes():
            phases = set(HANDLED if wire.body else HANDLED - {Phase.BODY})
            if isinstance(point, ResponseBytes) and not case.awaits_continue:
                phases &= IN_RESPONSE
            if case.is_refused:
                phases.add(Phase.QUEUED)  # whoever answers it is no handler
            endings = set(case.ends(phases, whole=False))
            if isinstance(point, ResponseBytes):
                # What was received may be what the server said when it gave up, in whatever phase that was.
                endings |= {end for phase in HANDLED for end in case.given_up(phase)}
            return Allowed(frozenset(endings), may_complete=True, may_be_unrecorded=False)
    raise TypeError(f"{point!r} is no point; give HeadBytes, BodyBytes, Checkpoint or ResponseBytes")


def _phases(case: _Case, *, whole: bool) -> set[Phase]:
    """The phases in which a client may leave that has sent a head, and all of its body or not."""
    if not whole:
        return {Phase.BODY, *IN_RESPONSE}
    # A body that nobody has read is not complete, though it is there.
    body = {Phase.BODY} if case.wire.body else set()
    return {Phase.QUEUED, Phase.HANDLER, *IN_RESPONSE, *body}


class _Case(NamedTuple):
    """One client that leaves in one way."""

    wire: Wire
    way: Way
    rules: Rules
    half_close: HalfClose
    deadlines: Deadlines
    reads: bool
    undisturbed: Completed | Abandoned | None

    @property
    def head_is_refused(self) -> bool:
        return self.undisturbed is not None and self.undisturbed.headers is None

    @property
    def is_refused(self) -> bool:
        """True if the answer may come from another than the handler."""
        return self.undisturbed is not None and self.undisturbed.status >= 400

    @property
    def awaits_continue(self) -> bool:
        return expects_continue(self.wire)

    @property
    def can_be_probed(self) -> bool:
        """HTTP/1.0 knows no interim responses (RFC 9110 §15.2)."""
        return self.half_close is HalfClose.PROBE and b" HTTP/1.1\r\n" in self.wire.head

    def in_head(self) -> Iterator[Cell]:
        """How it ends where the head is not whole: no policy is asked, since nobody waits for an answer."""
        match self.way:
            case Way.FIN | Way.HALF_CLOSE:
                yield Phase.HEAD, Cause.FIN
            case Way.RESET:
                yield Phase.HEAD, Cause.RESET
            case Way.VANISH:
                if self.deadlines.vanish <= self.deadlines.head:
                    yield Phase.HEAD, Cause.VANISHED
                if self.deadlines.head <= self.deadlines.vanish:
                    yield Phase.HEAD, Cause.READ_TIMEOUT

    def departures(self) -> Iterable[Cause]:
        """As what a departure may be noticed, whatever the policy."""
        match self.way:
            case Way.FIN:
                return {Cause.FIN, Cause.RESET}
            case Way.RESET:
                return {Cause.RESET}
            case Way.HALF_CLOSE:
                return {Cause.FIN}
            case Way.VANISH:
                return {Cause.VANISHED, Cause.READ_TIMEOUT}

    def ends(self, phases: set[Phase], *, whole: bool) -> Iterator[Cell]:
        """How it ends where the head is whole and the exchange may be in these phases; `whole`: all of the body was
        sent before.
        """
        for phase in phases:
            yield from self._left(phase, whole=whole)
            yield from self.given_up(phase)
            if phase in IN_RESPONSE and not self.reads:
                yield phase, Cause.WRITE_TIMEOUT

    def _left(self, phase: Phase, *, whole: bool) -> Iterator[Cell]:
        """The client's departure."""
        match self.way:
            case Way.RESET:
                yield phase, Cause.RESET
            case Way.VANISH:
                yield phase, Cause.VANISHED
                if phase in IN_RESPONSE:
                    yield phase, Cause.WRITE_TIMEOUT
                # A handler that reads loses its patience.
                if self._body_may_be_missed(phase, whole=whole) and self.deadlines.body_stall <= self.deadlines.vanish:
                    yield phase, Cause.READ_TIMEOUT
            case Way.FIN | Way.HALF_CLOSE:
                # Whatever the policy, it is a departure where something is missing that will never come.
                if self.half_close is HalfClose.ABORT or self._body_may_be_missed(phase, whole=whole):
                    yield phase, Cause.FIN
                if self.way is Way.FIN and self._provokes_reset(phase):
                    yield phase, Cause.RESET

    def _body_may_be_missed(self, phase: Phase, *, whole: bool) -> bool:
        """True if a handler may wait for the rest of the body."""
        return bool(self.wire.body) and not whole and phase in {Phase.BODY, *IN_RESPONSE}

    def _provokes_reset(self, phase: Phase) -> bool:
        """True if a client that has closed may answer something with a RST, or has left something unread."""
        return phase in IN_RESPONSE or self.awaits_continue or self.can_be_probed

    def given_up(self, phase: Phase) -> Iterator[Cell]:
        """The server's own ends, where the departure does not come first."""
        deadline = self.deadlines.handler if self.rules.deadline is None else self.rules.deadline
        if deadline < math.inf and phase is not Phase.QUEUED:
            yield phase, Cause.DEADLINE
        if self.undisturbed is not None and isinstance(self.undisturbed, Abandoned) and phase in HANDLED:
            yield phase, self.undisturbed.cause
        fin_alone = self.way in {Way.FIN, Way.HALF_CLOSE} and self.half_close is not HalfClose.ABORT
        if fin_alone and phase in IN_RESPONSE:
            yield phase, Cause.DRAIN  # a play that ends before its handler does

"""What each event in an exchange's life decides. All the judgement of trioserve about departure lives in this file.

A sans-IO state machine: events go in (a hangup heard, the end of the input read, a deadline passed, ...), a `Verdict`
comes out, and the trio side carries it out. It does no I/O, knows no clock and imports nothing but words.

Theory
------
*Phase* says how far an exchange has come and is never stored: `phase_of` computes it from facts that the connection
has anyway. *Cause* says why an exchange ended early. The machine remembers two things only: whether the peer's FIN
has been heard (`peer`), and the first cause that was decisive (`ended`). The first decisive
cause is the exchange's cause for ever; what comes later may stop a handler that was allowed to run on, but never
changes the story.

Where news of the peer comes from matters, since a FIN has a place in the stream of bytes:

* `peer_hung_up` is out of band: the kernel's word, or a failed send. A FIN heard like this may stand behind bytes
  that nobody has read, so while the reader is busy with a head the FIN decides nothing: the reader will meet it in
  its place. A reset has no place; it decides at once.
* `input_ended` is in band: everything before the FIN has been read. If the request is incomplete it will never be
  complete, whatever `half_close` says: half-closing is for a client that has said everything.

The policies
------------
`HalfClose` says what a FIN means once the head is there. Under PROBE one `100 Continue` is sent after the FIN, if
nothing has been sent yet and the client speaks HTTP/1.1: a client that is gone answers with a RST, a half-closed one
stays silent. HTTP/1.0 has no interim responses (RFC 9110 §15.2), so for such a client the response itself is the
probe, which is what FINISH does.

After 101 Switching Protocols there is no request that could be complete, and no half-closing: see
`half_close_after_switching`.

A disconnect policy (`CANCEL`, `FINISH`, `Grace`) says what departure does to the handler. It speaks about departure
only: when the server gives up (deadline, drain) the handler is cancelled under every policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from trioserve.core.errors import ConfigError


class Phase(StrEnum):
    """How far an exchange has come."""

    IDLE = "IDLE"  # between exchanges: not one byte of the next head
    HEAD = "HEAD"  # the head has begun and is not complete
    BODY = "BODY"  # head complete, body not; the handler may be running
    QUEUED = "QUEUED"  # request complete, handler not started
    HANDLER = "HANDLER"  # request complete, handler running, response not begun
    RESPONSE_HEAD = "RESPONSE_HEAD"  # response begun, its head not handed whole to the transport
    RESPONSE_BODY = "RESPONSE_BODY"  # response head handed over, its end not
    COMPLETE = "COMPLETE"  # the response was handed whole to the transport


class Cause(StrEnum):
    """Why an exchange ended early."""

    FIN = "FIN"  # the client closed, or half-closed
    RESET = "RESET"  # the client's RST, or one provoked by a send
    VANISHED = "VANISHED"  # silence: keepalive or TCP_USER_TIMEOUT gave the peer up
    TLS_ERROR = "TLS_ERROR"  # the client's TLS broke
    READ_TIMEOUT = "READ_TIMEOUT"  # the client was too slow to send its request
    WRITE_TIMEOUT = "WRITE_TIMEOUT"  # the client was too slow to take its response
    DEADLINE = "DEADLINE"  # the handler ran into its deadline
    DRAIN = "DRAIN"  # the server stops
    DROPPED = "DROPPED"  # the handler asked for silence
    HANDLER_FAILED = "HANDLER_FAILED"  # the handler raised, or its response was none

    @property
    def by(self) -> str:
        """Whose side ended the exchange: "client" or "server"."""
        return "server" if self in SERVER_CAUSES else "client"


CLIENT_LEFT = frozenset({Cause.FIN, Cause.RESET, Cause.VANISHED, Cause.TLS_ERROR})
CLIENT_SLOW = frozenset({Cause.READ_TIMEOUT, Cause.WRITE_TIMEOUT})
SERVER_CAUSES = frozenset({Cause.DEADLINE, Cause.DRAIN, Cause.DROPPED, Cause.HANDLER_FAILED})

ANSWERABLE = frozenset({Cause.READ_TIMEOUT, Cause.DEADLINE, Cause.DRAIN, Cause.HANDLER_FAILED})
"""Causes after which the client is still there: the status code is sent if nothing was sent before."""

BEFORE_RESPONSE = frozenset({Phase.HEAD, Phase.BODY, Phase.QUEUED, Phase.HANDLER})
"""Phases of an exchange in which its response has not begun."""

READER_MEETS_FIN = frozenset({Phase.IDLE, Phase.HEAD, Phase.COMPLETE})
"""Phases in which a FIN heard out of band is left to the reader, who will meet it in its place."""


class Outcome(StrEnum):
    """What became of the handler of an abandoned exchange."""

    CANCELLED = "cancelled"  # it was cancelled and unwound
    FINISHED = "finished"  # it ran to its end
    FAILED = "failed"  # it raised something that is not a cancellation
    NOT_STARTED = "not_started"  # it was never called


class HalfClose(StrEnum):
    """What a client's FIN means once the head of its request is there."""

    ABORT = "abort"  # it has left
    FINISH = "finish"  # it waits for its answer; only a reset is departure
    PROBE = "probe"  # ask it: see the theory above

    @classmethod
    def of(cls, value: HalfClose | str) -> HalfClose:
        """The member for a word.

        Raises:
            ConfigError: there is none.
        """
        try:
            return cls(value)
        except ValueError:
            raise ConfigError(f"half_close={value!r}; use one of {', '.join(cls)}") from None


@dataclass(frozen=True, slots=True)
class DisconnectPolicy:
    """For how many seconds a handler runs on after its client has left.

    `CANCEL` (0) stops it at once; `FINISH` (math.inf) lets it run to its end and discards the response; `Grace(s)`
    is FINISH for s seconds and then CANCEL.
    """

    seconds: float

    def __repr__(self) -> str:
        names = {0: "CANCEL", math.inf: "FINISH"}
        return names.get(self.seconds, f"Grace({self.seconds:g})")


CANCEL = DisconnectPolicy(0)
FINISH = DisconnectPolicy(math.inf)


def Grace(seconds: float) -> DisconnectPolicy:  # noqa: N802 - reads as the name of a policy, beside CANCEL and FINISH
    """Let the handler run on for `seconds` after departure, then cancel it.

    Raises:
        ConfigError: `seconds` is not a positive, finite number.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"Grace({seconds!r}): give a positive number of seconds, or use CANCEL or FINISH")
    return DisconnectPolicy(seconds)


class Verdict(Enum):
    """What the connection has to do now."""

    NOTHING = auto()  # go on
    PROBE = auto()  # send 100 Continue and go on
    CANCEL = auto()  # cancel the scope in which the handler runs
    DISCARD = auto()  # let the handler run on for the policy's seconds; write nothing more


class Peer(Enum):
    """What has been heard of the client's sending side."""

    OPEN = auto()
    HALF_CLOSED = auto()  # its FIN was heard; it may be gone altogether
    GONE = auto()  # it has left: nothing can reach it


class ClientRules(NamedTuple):
    """What the judge must know of the current exchange to judge its client. Between exchanges: the app's defaults."""

    half_close: HalfClose
    disconnect: DisconnectPolicy
    http_version: str


class End(NamedTuple):
    """The decisive event of an exchange (or of an idle connection). `at` is the time at which it was noticed."""

    cause: Cause
    phase: Phase
    at: float


def phase_of(  # noqa: PLR0911 - a table, one line a phase
    *,
    head_begun: bool,
    head_complete: bool,
    request_complete: bool,
    handler_started: bool,
    response_begun: bool,
    response_head_sent: bool,
    response_complete: bool,
) -> Phase:
    """The phase, from facts. Later facts outrank earlier ones: a response may begin before the body is read."""
    if response_complete:
        return Phase.COMPLETE
    if response_head_sent:
        return Phase.RESPONSE_BODY
    if response_begun:
        return Phase.RESPONSE_HEAD
    if head_complete and not request_complete:
        return Phase.BODY
    if handler_started:
        return Phase.HANDLER
    if head_complete:
        return Phase.QUEUED
    return Phase.HEAD if head_begun else Phase.IDLE


class Lifecycle:
    """The judge of one connection. Ask it when something happens; it is not asked while all is well."""

    __slots__ = ("ended", "peer")

    def __init__(self) -> None:
        # What has been heard of the client. What a FIN means is judged anew for each exchange, since routes differ.
        self.peer = Peer.OPEN
        # The first decisive event; None while the connection is well. Set once, never changed.
        self.ended: End | None = None

    def peer_hung_up(self, cause: Cause, phase: Phase, at: float, rules: ClientRules) -> Verdict:
        """Out-of-band news: the kernel says that the peer hung up, or a send or receive failed."""
        if self.ended is not None:
            # Too late to be the cause, but an answer to one that has gone is not owed any more.
            if cause is not Cause.FIN or rules.half_close is HalfClose.ABORT:
                self.peer = Peer.GONE
            return Verdict.NOTHING
        if cause is not Cause.FIN:
            return self._departed(cause, phase, at, rules)
        if self.peer is not Peer.OPEN:
            return Verdict.NOTHING
        self.peer = Peer.HALF_CLOSED
        return self._judge_fin(phase, at, rules)

    def reader_rests(self, phase: Phase, at: float, rules: ClientRules) -> Verdict:
        """The reader reads no further for now: a FIN that was left to it is judged now.

        So it is when a head is there and its handler about to start: the FIN may have been heard during an earlier
        exchange, with this request already in our hands. To be told before any other news of this exchange: a FIN that
        is heard in it is judged when it is heard. And so it is in a switched protocol, whenever nobody reads on.
        """
        if self.ended is not None or self.peer is Peer.OPEN:
            return Verdict.NOTHING
        return self._judge_fin(phase, at, rules)

    def input_ended(self, phase: Phase, at: float, rules: ClientRules) -> Verdict:
        """In-band news: the reader met the FIN, having read everything before it, and needed more."""
        if self.ended is not None:
            return Verdict.NOTHING
        return self._departed(Cause.FIN, phase, at, rules)

    def gave_up(self, cause: Cause, phase: Phase, at: float) -> Verdict:
        """We end it: the client was too slow, a deadline passed, the server drains, the handler failed.

        After a departure this stops a handler that was allowed to run on; the exchange's cause stays what it was.
        """
        if self.ended is None:
            self.ended = End(cause, phase, at)
            return Verdict.CANCEL
        return Verdict.CANCEL if cause in SERVER_CAUSES else Verdict.NOTHING

    @property
    def owes_answer(self) -> bool:
        """True if the client is still there and has been told nothing: the end's status code is to be sent."""
        if self.ended is None or self.peer is Peer.GONE:
            return False
        return self.ended.cause in ANSWERABLE and self.ended.phase in BEFORE_RESPONSE

    def _judge_fin(self, phase: Phase, at: float, rules: ClientRules) -> Verdict:
        if phase in READER_MEETS_FIN:
            return Verdict.NOTHING
        if rules.half_close is HalfClose.ABORT:
            return self._departed(Cause.FIN, phase, at, rules)
        may_probe = phase in BEFORE_RESPONSE and rules.http_version == "1.1"
        if rules.half_close is HalfClose.PROBE and may_probe:
            return Verdict.PROBE
        return Verdict.NOTHING

    def _departed(self, cause: Cause, phase: Phase, at: float, rules: ClientRules) -> Verdict:
        self.ended = End(cause, phase, at)
        self.peer = Peer.GONE
        handler_may_run_on = phase not in READER_MEETS_FIN and rules.disconnect != CANCEL
        return Verdict.DISCARD if handler_may_run_on else Verdict.CANCEL


def half_close_after_switching(*, reader_waits: bool, client_may_go: bool) -> HalfClose:
    """What a FIN means after 101 Switching Protocols, whatever the route says of half-closing.

    It is departure: a client that does not send has not said everything, it has broken off (RFC 6455 §7.1.1). But for
    two cases. While the reader waits, the FIN is left to it: it meets it at once and in its place, behind the client's
    last word (a Close frame) if there is one. And a client may go whose last word was heard, or who was told ours.
    """
    return HalfClose.FINISH if reader_waits or client_may_go else HalfClose.ABORT


def outcome_of(*, started: bool, returned: bool, exception: BaseException | None) -> Outcome:
    """What became of the handler. `exception` is what it raised, if that is not a cancellation."""
    if not started:
        return Outcome.NOT_STARTED
    if exception is not None:
        return Outcome.FAILED
    return Outcome.FINISHED if returned else Outcome.CANCELLED

"""Departure: hears that the client has left or that we give up, asks the lifecycle, and carries out its verdict.

The one place that cancels a handler. It is told by the transport's watch, by a failed send or receive, by the reader
at the end of the input, by timers, and by a server that stops; all of that happens between two steps of the
scheduler, and nothing here waits.

Carrying out CANCEL means: the connection's scope is cancelled, with the reason; and a timer starts, at whose end a
handler that is still unwinding is reported. It is never cut. Under CANCEL and DISCARD both, every wait on the transport
ends, even inside a user's shield: no shielded send outlives the client, and no blocked one goes on writing to it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import trio

from trioserve.connection.timers import Timers
from trioserve.connection.transport import Transport
from trioserve.core.errors import ClientGone
from trioserve.core.lifecycle import CANCEL, Cause, ClientRules, HalfClose, Lifecycle, Peer, Phase, Verdict


class Departure:
    """The end of one connection, before and after it has come.

    Args:
        situation: tells the current phase and the rules in force.
        probe: sends 100 Continue without waiting.
        overdue: reports a handler that takes longer than `unwind` seconds to end after its cancellation.
    """

    __slots__ = (
        "_overdue",
        "_probe",
        "_situation",
        "_timer",
        "_transport",
        "_unwind",
        "cancelled",
        "lifecycle",
        "scope",
        "unacked_bytes",
    )

    def __init__(
        self,
        transport: Transport,
        timers: Timers,
        *,
        situation: Callable[[], tuple[Phase, ClientRules]],
        probe: Callable[[], None],
        overdue: Callable[[], None],
        unwind: float,
    ) -> None:
        self.scope = trio.CancelScope()
        # True once the scope was cancelled, which happens in this file alone. trio's own word for it asks the clock
        # whether a deadline has passed, each time, and there is none.
        self.cancelled = False
        self._transport = transport
        # The judge. `lifecycle.ended` is the decisive event, None while all is well, and may be asked for by everybody;
        # told it is here alone.
        self.lifecycle = Lifecycle()
        self._situation = situation
        self._probe = probe
        self._overdue = overdue
        self._unwind = unwind
        # Due at the end of a Grace, and then again when unwinding has taken too long.
        self._timer = timers.timer(self._time_is_up)
        # What was sent and not acknowledged when the end was noticed.
        self.unacked_bytes: int | None = None

    @property
    def owes_answer(self) -> bool:
        """True if the end's status code is to be sent."""
        return self.lifecycle.owes_answer

    @property
    def client_left(self) -> bool:
        """True if the client is known to be gone, whatever ended the exchange."""
        return self.lifecycle.peer is Peer.GONE

    @property
    def discarding(self) -> bool:
        """True while the client is gone and the handler may run on: what it sends is thrown away."""
        return self.lifecycle.ended is not None and not self.cancelled

    @property
    def cancelled_for(self) -> str | None:
        """The reason with which the scope was cancelled; None if it was not."""
        return self._reason() if self.cancelled else None

    def hung_up(self, cause: Cause) -> None:
        """Out-of-band news of the peer: from the watch, or from a failed send or receive."""
        if self.lifecycle.peer is Peer.GONE:
            return  # there is nothing left to learn; the system tells most FINs twice, and a crowd leaves at once
        phase, rules = self._situation()
        self._carry_out(self.lifecycle.peer_hung_up(cause, phase, trio.current_time(), rules), rules)

    def reader_rests(self) -> None:
        """Nobody reads on for now, as when a handler is about to start: is there news of the peer not judged yet?"""
        if self.lifecycle.peer is Peer.OPEN:
            return  # the usual case, and the only one for which a request pays
        phase, rules = self._situation()
        self._carry_out(self.lifecycle.reader_rests(phase, trio.current_time(), rules), rules)

    def input_ended(self) -> None:
        """The reader needed more and met the peer's FIN."""
        phase, rules = self._situation()
        self._carry_out(self.lifecycle.input_ended(phase, trio.current_time(), rules), rules)

    def give_up(self, cause: Cause) -> None:
        """We end it."""
        phase, rules = self._situation()
        self._carry_out(self.lifecycle.gave_up(cause, phase, trio.current_time()), rules)

    async def checkpoint(self) -> None:
        """Where an end has come, leave the handler: by its cancellation, or by an error if a shield holds that off.

        Raises:
            trio.Cancelled: the usual way.
            ClientGone: inside a shield.
        """
        await trio.lowlevel.checkpoint()
        if self.cancelled:
            # The cancellation may have come in the very moment in which the checkpoint had let us pass.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise ClientGone(self._reason())

    def unwound(self) -> None:
        """All that the scope held has ended: nothing is overdue, and there is nothing left to cancel or to interrupt,
        whatever is still heard.
        """
        self._timer.discard()

    def discard(self) -> None:
        """The connection is closed: whoever still uses it is told so. It is let go of, and not asked any more."""
        self._timer.discard()
        self._situation = _closed
        self._probe = self._overdue = _nothing
        self.cancelled = True

    def _carry_out(self, verdict: Verdict, rules: ClientRules) -> None:
        if self._timer.is_discarded:
            return  # all has unwound: there is nothing left to end
        match verdict:
            case Verdict.NOTHING:
                return
            case Verdict.PROBE:
                self._probe()
            case Verdict.CANCEL:
                self._note_unacked()
                self._cancel()
            case Verdict.DISCARD:
                self._note_unacked()
                self._transport.interrupt()
                if rules.disconnect.seconds < math.inf:
                    self._timer.set(trio.current_time() + rules.disconnect.seconds)

    def _note_unacked(self) -> None:
        if self.unacked_bytes is None:
            self.unacked_bytes = self._transport.unacked_bytes()

    def _cancel(self) -> None:
        self.cancelled = True
        self.scope.cancel(reason=self._reason())
        self._transport.interrupt()
        self._timer.set(trio.current_time() + self._unwind)

    def _time_is_up(self) -> None:
        if self.cancelled:
            self._overdue()
        else:
            self._cancel()

    def _reason(self) -> str:
        if self.lifecycle.ended is None:
            return "the connection is closed"
        return _reason_of(self.lifecycle.ended.cause, self.lifecycle.ended.phase)


@functools.cache
def _reason_of(cause: Cause, phase: Phase) -> str:
    who = "the client left or was too slow" if cause.by == "client" else "the server gave up"
    return f"{who}: {cause} in phase {phase}"


def _closed() -> tuple[Phase, ClientRules]:
    """The situation of a connection that is closed."""
    return Phase.COMPLETE, ClientRules(HalfClose.ABORT, CANCEL, "1.1")


def _nothing() -> None:
    pass

"""The fast engine: its machine is h11r, which is written in Rust. This is the only file that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import h11r

from trioserve.core.engine import NOT_IN_PROGRESS, TOO_LONG, TOO_SHORT, GatedEngine
from trioserve.core.errors import ResponseError
from trioserve.core.limits import Limits
from trioserve.core.messages import Content, Field
from trioserve.core.response_head import REASONS

_COMPLETE: Final = (h11r.State.DONE, h11r.State.MUST_CLOSE, h11r.State.CLOSED)
_AWAITED: Final = (h11r.State.SEND_RESPONSE, h11r.State.IDLE)
_DONE: Final = h11r.State.DONE
_EXPLAINED: Final = {
    "body exceeds Content-Length": TOO_LONG,
    "body is shorter than Content-Length": TOO_SHORT,
}
_MAX_FIELDS: Final = 1 << 16


class _Length:
    """Content of which h11r need not know more than its length in bytes."""

    __slots__ = ("nbytes",)

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class _Spoilt:
    """Stands where a machine was that has refused something. h11 is in error from then on; h11r would go on with a
    response that is not what its head says.
    """

    local_state: Final = h11r.State.ERROR

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise h11r.LocalProtocolError("nothing more is sent")

    send_informational_response = send_response = send_data_parts = end_of_message = start_next_cycle = _refuse


class H11rEngine(GatedEngine):
    """`Engine` on h11r."""

    __slots__ = ()

    _machine: h11r.Connection

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        # All that it gets has passed the gate, and so our limits.
        self._machine = h11r.Connection(
            h11r.Role.SERVER, max_head_bytes=1 << 62, max_header_count=int(min(limits.fields, _MAX_FIELDS))
        )

    @property
    def _machine_awaits(self) -> bool:
        return self._machine.local_state in _AWAITED

    @property
    def _machine_is_done(self) -> bool:
        return self._machine.local_state in _COMPLETE

    @property
    def _machine_keeps_alive(self) -> bool:
        return self._machine.local_state is _DONE

    def _send_interim(self, status: int, fields: Sequence[Field]) -> bytes:
        try:
            return self._machine.send_informational_response(status, fields, reason=REASONS.get(status, b""))
        except h11r.LocalProtocolError as error:
            self._spoil(error)

    def _send_head(self, status: int, fields: Sequence[Field]) -> bytes:
        try:
            return self._machine.send_response(status, fields, reason=REASONS.get(status, b""))
        except h11r.LocalProtocolError as error:
            self._spoil(error)

    def _send_data(self, data: Content) -> tuple[bytes, bytes]:
        try:
            before, _, behind = self._machine.send_data_parts(data if type(data) is bytes else _Length(len(data)))
        except h11r.LocalProtocolError as error:
            self._spoil(error)
        return before, behind

    def _send_end(self) -> bytes:
        try:
            return self._machine.end_of_message()
        except h11r.LocalProtocolError as error:
            self._spoil(error)

    def _spoil(self, error: h11r.LocalProtocolError) -> NoReturn:
        self._machine = _Spoilt()  # type: ignore[assignment]
        raise ResponseError(_EXPLAINED.get(str(error), NOT_IN_PROGRESS)) from None

"""The default engine and the reference: its machine is h11. This is the only file of the server that imports h11."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import h11

from trioserve.core.engine import NOT_IN_PROGRESS, TOO_LONG, TOO_SHORT, GatedEngine
from trioserve.core.errors import ResponseError
from trioserve.core.limits import Limits
from trioserve.core.messages import Content, Field
from trioserve.core.response_head import REASONS

_COMPLETE: Final = frozenset({h11.DONE, h11.MUST_CLOSE, h11.CLOSED})
_AWAITED: Final = frozenset({h11.IDLE, h11.SEND_RESPONSE})
_END_OF_MESSAGE: Final = h11.EndOfMessage()
# Where we ask it to close, h11 puts Transfer-Encoding behind that; where it closes by itself, and h11r always, before.
_CLOSE_FIRST: Final = b"Connection: close\r\nTransfer-Encoding: chunked\r\n"
_CLOSE_LAST: Final = b"Transfer-Encoding: chunked\r\nConnection: close\r\n"
_EXPLAINED: Final = {
    "Too much data for declared Content-Length": TOO_LONG,
    "Too little data for declared Content-Length": TOO_SHORT,
}


class H11Engine(GatedEngine):
    """`Engine` on h11."""

    __slots__ = ()

    _machine: h11.Connection

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._machine = h11.Connection(h11.SERVER)

    @property
    def _machine_awaits(self) -> bool:
        return self._machine.our_state in _AWAITED

    def _send_interim(self, status: int, fields: Sequence[Field]) -> bytes:
        reason = REASONS.get(status, b"")
        return b"".join(self._send(h11.InformationalResponse(status_code=status, headers=list(fields), reason=reason)))

    def _send_head(self, status: int, fields: Sequence[Field]) -> bytes:
        return b"".join(self._send(_response(status, *fields))).replace(_CLOSE_FIRST, _CLOSE_LAST)

    def _send_data(self, data: Content) -> tuple[bytes, bytes]:
        # h11 asks no more of the data than its length, and hands it back as it is.
        parts = self._send(h11.Data(data=data))  # type: ignore[arg-type]
        return (parts[0], parts[2]) if len(parts) == 3 else (b"", b"")

    def _send_end(self) -> bytes:
        return b"".join(self._send(_END_OF_MESSAGE))

    def _send(self, event: h11.Event) -> list[bytes]:
        try:
            return self._machine.send_with_data_passthrough(event) or []
        except h11.LocalProtocolError as error:
            raise ResponseError(_EXPLAINED.get(str(error), NOT_IN_PROGRESS)) from None

    @property
    def _machine_is_done(self) -> bool:
        return self._machine.our_state in _COMPLETE

    @property
    def _machine_keeps_alive(self) -> bool:
        return self._machine.our_state is h11.DONE


@functools.lru_cache(1024)
def _response(status: int, *fields: Field) -> h11.Response:
    """The event, which h11 does not change. Few of these fields differ from one response to the next."""
    return h11.Response(status_code=status, headers=list(fields), reason=REASONS.get(status, b""))

"""The status policy: which status code an exchange that ended early stands for.

`TABLE` is the default, (phase, cause) -> status code, None where there is no record. Cells that are not in the table
cannot happen. docs/status-policy.md is generated from it (`python -m trioserve.core.status`), and a test compares.

Precedents: 499 and 444 are nginx's ("client closed request", "connection closed without response"); 408 is RFC 9110
§15.5.9; 503 for what a stopping server gives up is RFC 9110 §15.6.4; 400 for a request that was never whole follows
RFC 9112 §8.

A user replaces single cells with a mapping, all client-side cells with one number, or everything with a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trioserve.core.errors import ConfigError
from trioserve.core.lifecycle import CLIENT_LEFT, CLIENT_SLOW, Cause, Phase

Cell = tuple[Phase, Cause]
StatusFunction = Callable[[Phase, Cause], int]
StatusChange = int | Mapping[Cell, int] | StatusFunction
"""What a user may give as `abandoned_status`."""


def _row(
    phase: Phase,
    *,
    left: int | None,
    slow: dict[Cause, int | None],
    gave_up: dict[Cause, int | None],
) -> dict[Cell, int | None]:
    cells: dict[Cause, int | None] = {cause: left for cause in Cause if cause in CLIENT_LEFT}
    return {(phase, cause): status for cause, status in (cells | slow | gave_up).items()}


READ_TIMEOUT, WRITE_TIMEOUT = Cause.READ_TIMEOUT, Cause.WRITE_TIMEOUT
_HANDLER_CAN_END: dict[Cause, int | None] = {
    Cause.DEADLINE: 503,
    Cause.DRAIN: 503,
    Cause.DROPPED: 444,
    Cause.HANDLER_FAILED: 500,
}

TABLE: Mapping[Cell, int | None] = {
    # Nothing was asked, so nothing is owed: no record.
    **_row(Phase.IDLE, left=None, slow={READ_TIMEOUT: None}, gave_up={Cause.DRAIN: None}),
    **_row(Phase.HEAD, left=400, slow={READ_TIMEOUT: 408}, gave_up={Cause.DRAIN: 503}),
    # The handler may run while the body is incomplete, so it may also fail or ask for silence. Before the response a
    # send can block only behind an interim response, or a probe, of which the client has taken a part.
    **_row(Phase.BODY, left=400, slow={READ_TIMEOUT: 408, WRITE_TIMEOUT: 408}, gave_up=_HANDLER_CAN_END),
    **_row(Phase.QUEUED, left=499, slow={WRITE_TIMEOUT: 499}, gave_up={Cause.DEADLINE: 503, Cause.DRAIN: 503}),
    **_row(Phase.HANDLER, left=499, slow={WRITE_TIMEOUT: 499}, gave_up=_HANDLER_CAN_END),
    # A handler that reads and writes at once can meet a READ_TIMEOUT here: the client is too slow all the same.
    **_row(Phase.RESPONSE_HEAD, left=499, slow={READ_TIMEOUT: 499, WRITE_TIMEOUT: 499}, gave_up=_HANDLER_CAN_END),
    **_row(Phase.RESPONSE_BODY, left=499, slow={READ_TIMEOUT: 499, WRITE_TIMEOUT: 499}, gave_up=_HANDLER_CAN_END),
    # The response is out: the exchange is Completed, whatever comes now.
    **_row(Phase.COMPLETE, left=None, slow={READ_TIMEOUT: None}, gave_up={Cause.DRAIN: None}),
}


@dataclass(frozen=True, slots=True)
class StatusPolicy:
    """The table in force for a route. Where a cell has a function, that decides instead of the cell's code."""

    cells: Mapping[Cell, int | None]
    functions: Mapping[Cell, StatusFunction] = field(default_factory=dict)

    def status(self, phase: Phase, cause: Cause) -> int | None:
        """The status code for a cell; None if there is to be no record.

        Raises:
            KeyError: the cell is not in the table, that is, the combination cannot happen.
            Exception: whatever a user's function raises, or TypeError for an answer that is no status code.
        """
        code = self.cells[phase, cause]
        function = self.functions.get((phase, cause))
        if function is None:
            return code
        code = function(phase, cause)
        if not _is_status(code):
            raise TypeError(f"abandoned_status function {function!r} returned {code!r}, not a status code")
        return code

    def changed(self, change: StatusChange | None) -> StatusPolicy:
        """This policy with a user's change laid over it.

        Args:
            change: a number replaces the cells whose cause is the client's; a mapping replaces single cells; a
                function (phase, cause) -> status code decides every cell that has a record. None changes nothing.

        Raises:
            ConfigError: the change is none of these, names a cell that cannot be, or has no status code in it.
        """
        if change is None:
            return self
        if isinstance(change, Mapping):
            return self._with(_checked(change))
        if callable(change):
            return StatusPolicy(self.cells, {cell: change for cell, code in self.cells.items() if code is not None})
        if not _is_status(change):
            raise ConfigError(
                f"abandoned_status={change!r}: give a status code (100-999), a mapping "
                "{(Phase.HANDLER, Cause.FIN): 408} or a function (phase, cause) -> status code"
            )
        clients = CLIENT_LEFT | CLIENT_SLOW
        return self._with(
            {cell: change for cell, code in self.cells.items() if code is not None and cell[1] in clients}
        )

    def _with(self, codes: Mapping[Cell, int]) -> StatusPolicy:
        functions = {cell: function for cell, function in self.functions.items() if cell not in codes}
        return StatusPolicy({**self.cells, **codes}, functions)


def _checked(change: Mapping[Cell, int]) -> Mapping[Cell, int]:
    for cell, status in change.items():
        if TABLE.get(cell) is None:
            raise ConfigError(
                f"abandoned_status has the cell {cell!r}, which has no record; the cells that have one are in "
                "docs/status-policy.md"
            )
        if not _is_status(status):
            raise ConfigError(f"abandoned_status[{cell!r}] is {status!r}, not a status code (100-999)")
    return change


def _is_status(status: object) -> bool:
    return isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 999


DEFAULT = StatusPolicy(TABLE)


def as_markdown() -> str:
    """The default table as the page docs/status-policy.md."""
    lines = [
        "# The status policy",
        "",
        "Which status code an exchange that ended early stands for, by phase and cause. Generated from",
        "`trioserve/core/status.py` by `python -m trioserve.core.status > docs/status-policy.md`; do not edit.",
        "",
        "`no record`: the end is not an abandoned exchange. `·`: cannot happen.",
        "",
        "| phase | " + " | ".join(Cause) + " |",
        "| --- |" + " --- |" * len(Cause),
    ]
    for phase in Phase:
        cells = [_cell(phase, cause) for cause in Cause]
        lines.append(f"| {phase} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "FIN, RESET, VANISHED and TLS_ERROR: the client left. READ_TIMEOUT and WRITE_TIMEOUT: it was too slow.",
        "DEADLINE, DRAIN, DROPPED and HANDLER_FAILED: the server gave up.",
        "",
        "Where the client is still there and nothing was sent (READ_TIMEOUT, DEADLINE, DRAIN and HANDLER_FAILED before",
        "the response), the code is sent, and the exchange is `Completed` with it; it is `Abandoned` only if even that",
        "could not be delivered.",
        "",
        "Change it with `abandoned_status=`, per app or per route: a mapping such as",
        "`{(Phase.HANDLER, Cause.FIN): 408}` replaces single cells, a number replaces the cells of the six causes on",
        "the client's side, a function `(phase, cause) -> int` decides every cell that has a record.",
    ]
    return "\n".join(lines) + "\n"


def _cell(phase: Phase, cause: Cause) -> str:
    if (phase, cause) not in TABLE:
        return "·"
    status = TABLE[phase, cause]
    return "no record" if status is None else str(status)


if __name__ == "__main__":
    print(as_markdown(), end="")

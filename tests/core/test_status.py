"""The status policy: every cell against the design's table, written out by hand; changes; the generated page."""

from __future__ import annotations

from pathlib import Path

import pytest

from trioserve.core.errors import ConfigError
from trioserve.core.lifecycle import Cause, Phase
from trioserve.core.status import DEFAULT, TABLE, StatusPolicy, as_markdown

# One row a phase; the columns in the order of COLUMNS. "-": no record; ".": cannot happen.
COLUMNS = [
    Cause.FIN, Cause.RESET, Cause.VANISHED, Cause.TLS_ERROR,  # the client left
    Cause.READ_TIMEOUT, Cause.WRITE_TIMEOUT,  # it was too slow
    Cause.DEADLINE, Cause.DRAIN, Cause.DROPPED, Cause.HANDLER_FAILED,  # we gave up
]  # fmt: skip
DESIGN = {
    "IDLE":          " -   -   -   -    -   .    .   -   .   .",
    "HEAD":          "400 400 400 400  408  .    .  503  .   .",
    "BODY":          "400 400 400 400  408 408  503 503 444 500",
    "QUEUED":        "499 499 499 499   .  499  503 503  .   .",
    "HANDLER":       "499 499 499 499   .  499  503 503 444 500",
    "RESPONSE_HEAD": "499 499 499 499  499 499  503 503 444 500",
    "RESPONSE_BODY": "499 499 499 499  499 499  503 503 444 500",
    "COMPLETE":      " -   -   -   -    -   .    .   -   .   .",
}  # fmt: skip
CELLS = {
    (Phase(phase), cause): cell
    for phase, row in DESIGN.items()
    for cause, cell in zip(COLUMNS, row.split(), strict=True)
}
RECORDED = {cell: int(code) for cell, code in CELLS.items() if code not in "-."}
CLIENT_SIDE = set(COLUMNS[:6])


@pytest.mark.parametrize(("phase", "cause"), CELLS)
def test_a_cell_has_the_status_code_of_the_design(phase, cause):
    match CELLS[phase, cause]:
        case ".":
            with pytest.raises(KeyError):
                DEFAULT.status(phase, cause)
        case "-":
            assert DEFAULT.status(phase, cause) is None
        case code:
            assert DEFAULT.status(phase, cause) == int(code)


def test_the_design_knows_every_phase_and_every_cause():
    assert set(CELLS) == {(phase, cause) for phase in Phase for cause in Cause}


def statuses(policy: StatusPolicy) -> dict[tuple[Phase, Cause], int | None]:
    return {cell: policy.status(*cell) for cell in TABLE}


def test_no_change_changes_nothing():
    assert DEFAULT.changed(None) is DEFAULT


def test_a_number_replaces_the_cells_of_the_client_and_no_others():
    changed = statuses(DEFAULT.changed(202))
    assert {cell for cell, code in changed.items() if code == 202} == {
        (phase, cause) for phase, cause in RECORDED if cause in CLIENT_SIDE
    }
    assert {cell: code for cell, code in changed.items() if code != 202} == {
        cell: code for cell, code in statuses(DEFAULT).items() if cell not in RECORDED or cell[1] not in CLIENT_SIDE
    }


def test_a_mapping_replaces_its_cells_and_no_others():
    change = {(Phase.HANDLER, Cause.FIN): 408, (Phase.BODY, Cause.DROPPED): 999}
    assert statuses(DEFAULT.changed(change)) == {**TABLE, **change}


def test_a_function_decides_every_cell_that_has_a_record():
    asked = []

    def function(phase: Phase, cause: Cause) -> int:
        asked.append((phase, cause))
        return 100 + len(asked)

    changed = statuses(DEFAULT.changed(function))
    assert set(asked) == set(RECORDED)
    assert all(changed[cell] == 100 + number for number, cell in enumerate(asked, start=1))
    assert {cell for cell, code in changed.items() if code is None} == set(TABLE) - set(RECORDED)


def test_a_function_is_not_asked_about_what_cannot_happen():
    with pytest.raises(KeyError):
        DEFAULT.changed(lambda _phase, _cause: 499).status(Phase.IDLE, Cause.HANDLER_FAILED)


@pytest.mark.parametrize("answer", [None, "499", 99, 1000, 499.0, True])
def test_a_function_that_answers_no_status_code_is_named(answer):
    def odd(_phase: Phase, _cause: Cause) -> object:
        return answer

    with pytest.raises(TypeError, match=rf"odd.*returned {answer!r}"):
        DEFAULT.changed(odd).status(Phase.HANDLER, Cause.FIN)


def test_what_a_function_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        DEFAULT.changed(lambda _phase, _cause: 1 // 0).status(Phase.HANDLER, Cause.FIN)


def test_changes_lie_one_over_the_other():
    app = DEFAULT.changed(202)
    route = app.changed({(Phase.HANDLER, Cause.FIN): 418})
    assert route.status(Phase.HANDLER, Cause.FIN) == 418
    assert route.status(Phase.HANDLER, Cause.RESET) == 202
    assert app.status(Phase.HANDLER, Cause.FIN) == 202
    assert DEFAULT.status(Phase.HANDLER, Cause.FIN) == 499


def test_a_change_of_some_cells_leaves_the_others_to_the_function_that_was_there_before():
    app = DEFAULT.changed(lambda _phase, _cause: 418)
    one_cell = statuses(app.changed({(Phase.HANDLER, Cause.FIN): 408}))
    assert {cell for cell, code in one_cell.items() if code == 418} == set(RECORDED) - {(Phase.HANDLER, Cause.FIN)}
    assert one_cell[Phase.HANDLER, Cause.FIN] == 408
    client_side = statuses(app.changed(202))
    for cell in RECORDED:
        assert client_side[cell] == (202 if cell[1] in CLIENT_SIDE else 418)


def test_a_function_prevails_over_all_changes_that_were_there_before():
    app = DEFAULT.changed(202).changed({(Phase.HANDLER, Cause.FIN): 408}).changed(lambda _phase, _cause: 599)
    assert set(statuses(app.changed(lambda _phase, _cause: 418)).values()) == {418, None}


@pytest.mark.parametrize("change", [99, 1000, 499.0, "499", True, object()])
def test_a_change_that_is_none_is_a_config_error(change):
    with pytest.raises(ConfigError, match="give a status code"):
        DEFAULT.changed(change)


@pytest.mark.parametrize("code", [99, 1000, None, "408", False])
def test_a_mapping_to_what_is_no_status_code_is_a_config_error_that_names_the_cell(code):
    with pytest.raises(ConfigError, match=r"HANDLER.*FIN.*not a status code"):
        DEFAULT.changed({(Phase.HANDLER, Cause.FIN): code})


@pytest.mark.parametrize(
    "cell", [(Phase.IDLE, Cause.FIN), (Phase.QUEUED, Cause.DROPPED), (Cause.FIN, Phase.HANDLER), Phase.HANDLER]
)
def test_a_mapping_of_a_cell_without_a_record_is_a_config_error(cell):
    with pytest.raises(ConfigError, match="has no record"):
        DEFAULT.changed({cell: 499})


def test_the_page_in_docs_is_generated_from_the_table():
    page = Path(__file__).parents[2] / "docs" / "status-policy.md"
    assert page.read_text(encoding="utf-8") == as_markdown()


def test_the_page_has_every_cell():
    rows = [line.strip("|").split("|") for line in as_markdown().splitlines() if line.startswith("| ")]
    header, _rule, *body = [[cell.strip() for cell in row] for row in rows]
    words = {"-": "no record", ".": "·"}
    assert header == ["phase", *COLUMNS]
    assert body == [
        [phase, *(words.get(cell, cell) for cell in row.split())] for phase, row in DESIGN.items()
    ]  # fmt: skip

import importlib.util

import pytest

from benchmarks.promises import at_most
from benchmarks.results import Figure, Report, Result, Row
from benchmarks.suite import compare, plots, publish, report, targets
from benchmarks.suite.measure import CPU, RATE


def cpu(*values):
    return Figure("us", tuple(map(float, values)))


def row(name, *values, note=""):
    return Row(name, {CPU: cpu(*values), RATE: Figure("1/s", tuple(1e6 / value for value in values))}, note)


def result(*rows, name="plaintext"):
    return Result(name, name.title(), tuple(rows))


def reported(*results, **more):
    return Report({"day": "2026-01-05"}, results, **more)


def test_a_table_has_medians_spreads_and_ratios_to_the_floor_by_round():
    text = report.result_table(result(row("floor", 10, 20, 12), row("trioserve", 30, 40, 60)))
    cells = [cell.strip() for cell in text.splitlines()[3].split("|")]
    assert cells[1:4] == ["trioserve", "40.0 (30.0-60.0)", "3.00 (2.00-5.00)"]


def test_without_a_floor_there_is_no_ratio():
    assert "x floor" not in report.result_table(result(row("trioserve", 30)))


def test_a_row_that_lacks_a_column_has_a_dash():
    late = Row("late", {"p99": Figure.once(1.5, "ms")})
    early = Row("early", {"p50": Figure.once(0.25, "ms")})
    lines = report.result_table(Result("x", "X", (early, late))).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]] == [
        ["early", "0.250", "-"],
        ["late", "-", "1.50"],
    ]


@pytest.mark.parametrize(
    ("figure", "cell"),
    [
        (Figure.once(30), "30"),  # a number of something
        (Figure("", (2.0, 3.0, 2.5)), "2.50 (2.00-3.00)"),
        (Figure.once(0, "%"), "0"),
        (Figure.once(0.25, "ms"), "0.250"),
        (Figure.once(12.34, "us"), "12.3"),
        (Figure("1/s", (12345.6, 23456.7)), "17,901 (12,346-23,457)"),
    ],
)
def test_a_cell_has_three_digits_and_numbers_of_things_are_whole(figure, cell):
    assert report.spread(figure) == cell


def test_notes_stand_beside_what_they_are_about():
    lines = report.result_table(result(row("go", 10, note="3 requests timed out"), row("node", 10))).splitlines()
    assert "3 requests timed out" in lines[2]
    assert "timed out" not in lines[3]


def test_a_report_says_its_conditions_what_was_promised_and_what_is_left_out():
    text = report.as_markdown(
        reported(
            result(row("trioserve", 30)),
            left_out=("nginx is left out: it is not installed",),
            promises=(at_most("memory", 13, 12, " KB"),),
        )
    )
    assert "* day: 2026-01-05" in text
    assert "| memory  | at most 12 KB | 13 KB | **BROKEN** |" in text
    assert "* nginx is left out: it is not installed" in text


def test_a_server_that_the_suite_does_not_know_keeps_its_name():
    assert "| an older one |" in report.result_table(result(row("an older one", 10)))


def test_the_headline_has_the_cheapest_first_and_ours_in_bold():
    lines = report.headline(reported(result(row("trioserve", 30), row("go", 12), row("floor", 10)))).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "bare trio, no HTTP: the floor",
        "Go, net/http",
        "**trioserve**",
    ]


@pytest.mark.parametrize(
    ("now", "verdict"),
    [((30, 31), "as before"), ((31, 40), "as before"), ((32.5, 40), "**worse**"), ((20, 29), "better")],
)
def test_a_change_is_one_only_if_the_spreads_do_not_overlap(now, verdict):
    (change,) = compare.changes(reported(result(row("go", 30, 32))), reported(result(row("go", *now))))
    assert change.verdict == verdict


def test_a_slower_machine_is_no_change_where_there_is_a_floor():
    before = reported(result(row("floor", 10, 11), row("trioserve", 30, 33)))
    after = reported(result(row("floor", 20, 22), row("trioserve", 60, 66)))
    floor, ours = compare.changes(before, after)
    assert (floor.what, floor.verdict) == (CPU, "the machine")
    assert (ours.what, ours.ratio, ours.verdict) == ("x floor", 1.0, "as before")


def test_more_answers_a_second_are_better():
    def answers(*values):
        return reported(Result("retries", "", (Row("go", {"answers": Figure("1/s", values)}),)))

    (change,) = compare.changes(answers(100.0, 110.0), answers(200.0, 210.0))
    assert change.verdict == "better"


def test_what_only_one_report_has_is_not_compared():
    before = reported(result(row("go", 30)), result(row("node", 10), name="json"))
    after = reported(result(row("node", 30)), result(row("node", 10), name="echo"))
    assert list(compare.changes(before, after)) == []
    assert "nothing in common" in compare.as_markdown(before, after)


def test_a_comparison_prints_the_change_in_percent():
    text = compare.as_markdown(reported(result(row("go", 30, 32))), reported(result(row("go", 60, 64))))
    assert "+100.0 %" in text


def test_a_promise_is_judged_by_the_median_of_the_ratios_of_the_rounds():
    (promise,) = targets.promises([result(row("bare-h11", 10, 20, 40), row("trioserve", 12.4, 24, 48))])
    assert (promise.seen, promise.kept) == ("1.20 (1.20-1.24)", True)


def test_a_promise_is_judged_by_what_was_seen_and_not_by_how_it_is_printed():
    (promise,) = targets.promises([result(row("bare-h11", 1000), row("trioserve", 1251))])
    assert (promise.seen, promise.kept) == ("1.25 (1.25-1.25)", False)


@pytest.mark.parametrize(
    ("values", "kept"),
    [((1.0, 1.2), True), ((1.3, 1.4), False), ((1.2, 1.3), None), ((1.0,) * 10 + (1.9,) * 2, True)],
)
def test_a_promise_whose_spread_has_the_bound_in_it_cannot_be_told(values, kept):
    assert targets.judged(Figure("", values), 1.25) is kept


def test_nothing_is_promised_of_what_was_not_measured():
    assert targets.promises([result(row("trioserve", 13))]) == ()


def test_many_connections_are_judged_beside_few():
    few = result(row("floor", 10, 20), row("trioserve", 20, 40))
    many = result(row("floor", 20, 20), row("trioserve", 48, 52), name="2000")
    results = [few, many]
    (promise,) = targets.promises(results)
    assert promise.what == "2000: trioserve, to itself, plaintext, each as a ratio to its floor"
    assert (promise.seen, promise.kept) == ("1.25 (1.20-1.30)", True)


def test_what_a_document_shows_is_replaced_whole():
    text = f"before\n{publish.BEGIN}\nold\n{publish.END}\nafter\n"
    once = publish.replaced(text, "new")
    assert once == f"before\n{publish.BEGIN}\n\nnew\n\n{publish.END}\nafter\n"
    assert publish.replaced(once, "new") == once


def test_a_document_without_a_place_for_results_is_refused():
    with pytest.raises(ValueError, match="there is no place for results"):
        publish.replaced(f"{publish.BEGIN} but no end", "new")


@pytest.mark.parametrize("document", publish.DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_have_a_place_for_results(document):
    publish.replaced(document.read_text(), "new")


def test_a_document_says_which_promises_were_not_kept():
    shown = publish.shown(reported(result(row("trioserve", 1)), promises=(at_most("memory", 13, 12, " KB"),)), "docs/")
    assert "Of 1 promises 0 were kept" in shown
    assert "* not kept: memory: at most 12 KB, and it was 13 KB" in shown


def test_a_run_leaves_its_results_as_json_and_as_markdown(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "missing", lambda: "there is nothing to draw with")
    lines = publish.write(reported(result(row("trioserve", 30))), tmp_path / "new" / "folder")
    assert (tmp_path / "new/folder/results.md").read_text().startswith("# Results")
    assert (tmp_path / "new/folder/results.json").exists()
    assert lines[-1] == "there is nothing to draw with"


def test_without_matplotlib_there_are_no_plots_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert plots.missing() == "matplotlib is not installed, so there are no plots; `make bench` installs it into .bench"

import json

import pytest

from benchmarks.promises import at_most
from benchmarks.results import Figure, Report, Result, Row, as_json, from_json, load


def a_report():
    rows = (
        Row("floor", {"CPU": Figure("us", (12.5, 13.0, 12.0))}),
        Row(
            "trioserve",
            {"CPU": Figure("us", (25.0, 13.0, 36.0)), "requests": Figure.once(40_000, "1/s")},
            "2 timed out",
        ),
    )
    result = Result("plaintext", "Plaintext", rows, (at_most("x floor", 2.0, 3.0),), "Thirteen bytes.")
    return Report(
        {"day": "2026-01-05"}, (result,), ("nginx: it is not installed",), (at_most("memory", 13, 12, " KB"),)
    )


def test_a_report_comes_back_from_its_file_as_it_was(tmp_path):
    a_report().save(tmp_path / "report.json")
    assert load(tmp_path / "report.json") == a_report()


def test_a_report_is_plain_json():
    assert from_json(json.loads(json.dumps(as_json(a_report())))) == a_report()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "conditions": {}, "results": [{}]}'])
def test_what_is_no_report_is_refused_with_the_name_of_the_file(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not what --save writes"):
        load(tmp_path / "other.json")


def test_a_figure_knows_its_median_and_its_spread():
    figure = Figure("us", (3.0, 1.0, 2.0))
    assert (figure.least, figure.median, figure.greatest) == (1.0, 2.0, 3.0)


def test_a_figure_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        Figure("us", ())


def test_a_ratio_is_taken_within_each_round():
    assert Figure("us", (25.0, 13.0, 36.0)).to(Figure("us", (12.5, 13.0, 12.0))) == Figure("", (2.0, 1.0, 3.0))


def test_figures_of_different_rounds_have_no_ratio():
    with pytest.raises(ValueError, match="shorter"):
        Figure("us", (1.0, 2.0)).to(Figure("us", (1.0,)))


def test_the_columns_of_a_result_are_those_of_all_its_rows():
    assert a_report().result("plaintext").columns == ("CPU", "requests")


def test_all_promises_of_a_report_are_its_own_and_those_of_its_results():
    assert [promise.what for promise in a_report().all_promises] == ["memory", "x floor"]

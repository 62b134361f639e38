import shutil

import pytest

from benchmarks import __main__ as suite


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        suite.main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_an_unknown_workload_is_answered_with_those_that_exist(capsys):
    said = refused(capsys, "--only", "plaintext,plain")
    assert "there is no plain; there are plaintext, watch, json, parameters" in said


def test_an_unknown_server_is_answered_with_those_that_exist(capsys):
    assert "there is no gunicorn; there are floor, bare-h11, trioserve" in refused(capsys, "--peer", "gunicorn")


def test_an_empty_list_is_refused(capsys):
    assert "there is no name" in refused(capsys, "--only", ",")


@pytest.mark.parametrize("option", ["--rounds", "--seconds"])
def test_no_rounds_and_no_seconds_are_refused(capsys, option):
    assert "at least 1 is needed" in refused(capsys, option, "0")


def test_a_missing_wrk_is_said_with_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(suite, "cores", lambda: (0, 1))
    monkeypatch.setattr(suite, "raise_descriptors", lambda: None)
    assert suite.main(["--only", "plaintext"]) == 2
    assert "wrk is not installed; on Debian: apt-get install wrk" in capsys.readouterr().err


def test_a_file_to_compare_with_that_is_none_is_refused_before_anything_is_measured(capsys, tmp_path):
    (tmp_path / "old.json").write_text("{}")
    assert suite.main(["--compare", str(tmp_path / "old.json")]) == 2
    assert "old.json is not what --save writes" in capsys.readouterr().err


def test_the_quick_mode_is_about_few_workloads():
    workloads, departures = suite.chosen(None, quick=True)
    assert [workload.name for workload in workloads] == ["plaintext", "json", "close"]
    assert departures


def test_what_is_asked_for_is_measured_in_the_quick_mode_too():
    workloads, departures = suite.chosen(("tls", "storm"), quick=True)
    assert [workload.name for workload in workloads] == ["tls"]
    assert [one.NAME for one in departures] == ["storm"]

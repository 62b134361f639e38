import shutil

import pytest

from benchmarks.suite.workloads import WORKLOADS, workload_named
from benchmarks.suite.wrk import Answered, LoadError, missing, parse, script_of

GOOD = """Running 2s test @ http://127.0.0.1:8000/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   512.00us  100.00us   2.10ms   90.00%
    Req/Sec    61.99k     2.00k   65.00k    80.00%
  123456 requests in 2.10s, 18.96MB read
Requests/sec:  58788.57
Transfer/sec:      9.03MB
"""


def test_the_requests_are_those_that_were_answered():
    assert parse(GOOD) == Answered(123456, 2.1, 0, 0)


def test_broken_connections_and_timeouts_are_told_apart():
    said = GOOD.replace("Requests/sec", "  Socket errors: connect 1, read 20, write 300, timeout 4\nRequests/sec")
    assert parse(said) == Answered(123456, 2.1, 321, 4)


def test_another_status_code_is_no_answer():
    with pytest.raises(LoadError, match="7 of 123456 answers had a status code that is not 2xx or 3xx"):
        parse(GOOD.replace("Requests/sec", "  Non-2xx or 3xx responses: 7\nRequests/sec"))


def test_what_wrk_never_says_is_quoted():
    with pytest.raises(LoadError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


@pytest.mark.parametrize(
    ("there", "line"),
    [
        ([], "wrk is not installed; on Debian: apt-get install wrk"),
        (["wrk"], "taskset is not installed; on Debian: apt-get install util-linux"),
        (["wrk", "taskset"], None),
    ],
)
def test_what_is_missing_is_said_with_how_to_install_it(monkeypatch, there, line):
    monkeypatch.setattr(shutil, "which", lambda program: program if program in there else None)
    assert missing() == line


def test_a_plain_request_needs_no_script(tmp_path):
    assert script_of(workload_named("plaintext"), tmp_path) == ""


def test_a_body_is_read_from_a_file_as_it_is(tmp_path):
    echo = workload_named("echo")
    script = script_of(echo, tmp_path)
    assert 'wrk.method = "POST"' in script
    assert f'io.open("{tmp_path}/echo.body", "rb")' in script
    assert (tmp_path / "echo.body").read_bytes() == echo.body


def test_quotes_in_a_field_are_quoted_for_lua(tmp_path):
    assert r'wrk.headers["sec-ch-ua-platform"] = "\"Linux\""' in script_of(workload_named("browser"), tmp_path)


def test_pipelined_requests_are_sent_at_once(tmp_path):
    assert "string.rep(wrk.format(), 16)" in script_of(workload_named("pipelined"), tmp_path)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_every_workload_says_who_answers_rightly(workload):
    assert not workload.right(b"something else")
    assert workload.title
    assert workload.text.endswith(".")

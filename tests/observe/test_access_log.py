"""The access log: its lines, and that nobody can forge one."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sample_records import abandoned, completed
from trioserve.core.engine_h11 import H11Engine
from trioserve.core.errors import RequestError
from trioserve.core.lifecycle import Cause, Outcome, Phase
from trioserve.core.limits import Limits
from trioserve.core.messages import RequestHead
from trioserve.core.records import Completed
from trioserve.observe import access_log
from trioserve.observe.access_log import ACCESS_LOGGER, AccessLog, LineHandler, line_of

LINE = re.compile(r'(?P<client>\S+) "(?P<request>[^"]*)" (?P<status>\d+) (?P<size>\d+)B (?P<duration>\d+\.\d)ms')


def logged(caplog, record) -> logging.LogRecord:
    """What the access log makes of a record."""
    caplog.set_level(logging.INFO, ACCESS_LOGGER)
    log = AccessLog()
    tell = log.completed if isinstance(record, Completed) else log.abandoned
    tell(record)
    [entry] = caplog.records
    return entry


def test_a_completed_exchange_is_a_line(caplog):
    entry = logged(caplog, completed())
    assert entry.getMessage() == '127.0.0.1:53124 "GET /reports/2025 HTTP/1.1" 200 14B 0.4ms'
    assert (entry.name, entry.levelname) == ("trioserve.access", "INFO")


@pytest.mark.parametrize(
    ("client", "text"),
    [
        (("203.0.113.9", 0), "203.0.113.9"),
        (("2001:db8::7", 0), "[2001:db8::7]"),
        (("2001:db8::7", 4711), "[2001:db8::7]:4711"),
        (None, "-"),
    ],
)
def test_a_client_whose_port_nobody_knows_has_none(caplog, client, text):
    assert logged(caplog, completed(client=client)).getMessage().startswith(f'{text} "GET')


def test_an_abandoned_exchange_is_a_line_that_says_how(caplog):
    assert logged(caplog, abandoned()).getMessage() == (
        '127.0.0.1:53126 "GET /reports/2026 HTTP/1.1" 499 0B 300.2ms abandoned HANDLER FIN cancelled unwind=0.1ms'
    )


def test_an_exchange_abandoned_in_its_response_has_the_status_code_that_was_sent(caplog):
    record = abandoned(
        target="/export",
        client=("127.0.0.1", 53128),
        phase=Phase.RESPONSE_BODY,
        cause=Cause.RESET,
        outcome=Outcome.FAILED,
        sent_status=200,
        response_body_bytes=65536,
    )
    assert logged(caplog, record).getMessage() == (
        '127.0.0.1:53128 "GET /export HTTP/1.1" 200 65536B 300.2ms abandoned RESPONSE_BODY RESET failed unwind=0.1ms'
    )


def test_the_examples_of_the_module_are_lines_of_this_form():
    examples = [line.strip() for line in access_log.__doc__.splitlines() if line.startswith("    ")]
    assert len(examples) == 3
    assert all(LINE.match(example) for example in examples)


@pytest.mark.parametrize("record", [completed(), abandoned()], ids=["completed", "abandoned"])
def test_the_record_itself_goes_along_for_structured_handlers(caplog, record):
    assert logged(caplog, record).exchange is record


@pytest.mark.parametrize("make", [completed, abandoned])
def test_what_is_not_known_is_a_dash(make):
    record = make(client=None, method=None, target=None, http_version=None, headers=None)
    assert line_of(record, 400).startswith('- "-" 400 ')


def test_a_percent_sign_in_a_target_is_no_format(caplog):
    assert '"GET /%s%d%(x)s HTTP/1.1"' in logged(caplog, completed(target="/%s%d%(x)s")).getMessage()


def test_a_quote_in_a_target_does_not_end_the_request_line():
    line = line_of(completed(target='/" 200 0B 0.1ms forged "'), 404)
    match = LINE.fullmatch(line)
    assert match
    assert match["status"] == "404"
    assert match["request"] == "GET /%22 200 0B 0.1ms forged %22 HTTP/1.1"


@given(
    method=st.binary(min_size=1, max_size=10),
    target=st.one_of(
        st.binary(min_size=1, max_size=30), st.text("/\"\\%'` \n\r\t\x1b\x85", min_size=1).map(str.encode)
    ),
)
def test_whatever_head_the_engine_accepts_is_one_line_that_reads_back(method, target):
    engine = H11Engine(Limits())
    engine.receive_data(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    try:
        head = engine.next_event()
    except RequestError:
        return
    if not isinstance(head, RequestHead):
        return
    line = line_of(completed(method=head.method, target=head.target, http_version=head.http_version), 404)
    assert line.isprintable()
    match = LINE.fullmatch(line)
    assert match
    assert match["status"] == "404"
    assert match["request"].replace("%22", '"') == f"{head.method} {head.target.replace('%22', chr(34))} HTTP/1.1"


@given(
    target=st.one_of(st.binary(min_size=1, max_size=30), st.text("/\"\\%'`{ \r\x1b\x85", min_size=1).map(str.encode))
)
def test_so_is_the_request_line_of_whatever_head_it_refuses(target):
    engine = H11Engine(Limits())
    engine.receive_data(b"GET " + target + b" HTTP/1.1\r\nHost : a\r\n\r\n")
    with pytest.raises(RequestError):
        engine.next_event()
    line = line_of(completed(**(engine.request_line._asdict() if engine.request_line else {"method": None})), 400)
    assert line.isprintable()
    assert LINE.fullmatch(line)["status"] == "400"


def test_without_a_listener_nothing_is_written(caplog):
    caplog.set_level(logging.WARNING, ACCESS_LOGGER)
    AccessLog().completed(completed())
    assert not caplog.records


# The handler of `trioserve run`


class WithoutRecords(LineHandler):
    """One that takes lines only."""

    def emit(self, record):
        raise AssertionError(record)


class Keeping(logging.Handler):
    """One that keeps its log records."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[logging.LogRecord] = []

    def emit(self, record):
        self.entries.append(record)


@contextlib.contextmanager
def heard_by(*handlers: logging.Handler, propagate: bool = False) -> Iterator[logging.Logger]:
    """The access log's logger, set up as by `trioserve run`, but for its handlers."""
    logger = logging.getLogger(ACCESS_LOGGER)
    level, propagates, others = logger.level, logger.propagate, logger.handlers
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = propagate, list(handlers)
    try:
        yield logger
    finally:
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagates, others
        logger.filters.clear()


STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (.*)\n")


@pytest.mark.parametrize("record", [completed(), abandoned()], ids=["completed", "abandoned"])
def test_a_line_handler_that_hears_alone_is_given_the_line_and_no_log_record(record):
    lines: list[str] = []
    with heard_by(WithoutRecords(lines.append)):
        tell = AccessLog().completed if isinstance(record, Completed) else AccessLog().abandoned
        tell(record)
    [line] = lines
    assert STAMPED.fullmatch(line)[1].startswith(line_of(record, record.status))


@given(now=st.floats(0, 4e9))
def test_its_time_is_written_as_logging_writes_it(now):
    entry = logging.makeLogRecord({"created": now, "msecs": int((now - int(now)) * 1000)})
    assert LineHandler(pytest.fail).stamp(now) == logging.Formatter().formatTime(entry)


def test_its_time_goes_on():
    handler = LineHandler(pytest.fail)
    first, same, later = (handler.stamp(86_400.0 * 7 + seconds)[-6:] for seconds in (1, 1.25, 2.5))
    assert (first, same, later) == ("01,000", "01,250", "02,500")


def test_a_line_handler_that_was_given_another_form_is_given_log_records():
    lines: list[str] = []
    handler = LineHandler(lines.append)
    handler.setFormatter(logging.Formatter("%(name)s %(exchange)s"))
    record = completed()
    with heard_by(handler):
        AccessLog().completed(record)
    assert lines == [f"{ACCESS_LOGGER} {record}\n"]


@pytest.mark.parametrize("where", ["handler", "logger"])
def test_a_filter_hears_of_each_log_record(where):
    handler = LineHandler(pytest.fail)
    heard: list[object] = []
    record = completed()
    with heard_by(handler) as logger:
        (handler if where == "handler" else logger).addFilter(lambda entry: heard.append(entry.exchange))  # and no more
        AccessLog().completed(record)
    assert heard == [record]


def test_a_line_handler_for_graver_things_is_given_no_line():
    handler = WithoutRecords(pytest.fail)
    handler.setLevel(logging.ERROR)
    with heard_by(handler):
        AccessLog().completed(completed())


@pytest.mark.parametrize("first", [True, False])
def test_beside_another_handler_a_line_handler_has_its_line_all_the_same(first):
    lines: list[str] = []
    other = Keeping()
    line_handler = LineHandler(lines.append)
    record = completed()
    with heard_by(*((line_handler, other) if first else (other, line_handler))):
        AccessLog().completed(record)
    [entry], [line] = other.entries, lines
    assert entry.exchange is record
    assert STAMPED.fullmatch(line)[1] == entry.getMessage()


def test_who_hears_further_up_hears_what_a_line_handler_does(caplog):
    lines: list[str] = []
    with heard_by(LineHandler(lines.append), propagate=True):
        AccessLog().completed(completed())
    assert len(caplog.records) == len(lines) == 1


def test_what_cannot_be_formatted_is_told_by_logging_and_is_no_line(capsys):
    handler = LineHandler(pytest.fail)
    handler.setFormatter(logging.Formatter("%(unknown)s"))
    with heard_by(handler):
        AccessLog().completed(completed())
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_log_record_says_where_it_was_made(caplog):
    assert logged(caplog, completed()).pathname == access_log.__file__

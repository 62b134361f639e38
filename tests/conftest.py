"""How Hypothesis draws: the suite the same examples in each run, `make explore` new ones and many more.

So a commit is judged by what it changed, and a rare mistake is looked for on purpose, and not met by whoever comes by.

And what has to be so where several processes share the tests, and where coverage is measured.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("suite")

# Who runs tests is measured, and measured already; the processes that tests start are not, and start sooner.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_START", None)
# A shell has what it starts in the background ignore SIGINT, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent

MEASURED = tuple(HERE / room for room in ("conformance", "connection", "core", "lifecycle"))
"""Tests that are about what the gate of coverage asks for: core/ and connection/. A line of these that only others
reach does not count as covered, so the gate asks for a test that is about it. And where lines are not counted, tests
take less than half as long."""

PLAYED_BY_THE_THOUSAND = tuple(
    HERE / name for name in ("conformance/test_corpus.py", "lifecycle/test_crowds.py", "lifecycle/test_scripts.py")
)
"""Not measured either: the same is gone through in them again and again."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    if _is_one_of(item, MEASURED) and not _is_one_of(item, PLAYED_BY_THE_THOUSAND):
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


def _is_one_of(item: pytest.Item, paths: tuple[Path, ...]) -> bool:
    return any(item.path.is_relative_to(path) for path in paths)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What a test has said may hold lone surrogates, which no process can send to another."""
    return sendable((yield))


def sendable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: sendable(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(sendable, value))
    return value

"""How Hypothesis draws: the suite the same examples in each run, `make explore` new ones and many more.

So a commit is judged by what it changed, and a rare mistake is looked for on purpose, and not met by whoever comes by.

And what has to be so where several processes share the tests.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("suite")

# Who runs tests is measured, and measured already; the processes that tests start are not, and start sooner.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_START", None)


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

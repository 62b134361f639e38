"""What is remembered of requests is bounded in bytes, also where somebody tries to fill it.

By `tracemalloc`, and for one process. The heads that are tried are those that fill the tables most.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import chain

import pytest

from trioserve.core import engine as engine_module
from trioserve.core import field_section, remembered
from trioserve.core import gate as gate_module
from trioserve.core.engine import EngineName
from trioserve.core.limits import Limits
from trioserve.core.messages import ResponseHead

LIMITS = Limits()
RESPONSE = ResponseHead(200, [(b"content-length", b"0")])
new_engine = EngineName.H11.maker()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    gate_module._terms.cache_clear()
    engine_module._whole.cache_clear()
    field_section._remembered.clear()


def heads(name: bytes, fields: int, size: int) -> Iterator[bytes]:
    """More heads of this size than any table has room for, each with so many new lines of the field."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    room = (size - len(start) - len(b"\r\n")) // fields
    for number in range(600):
        lines = [(b"%b: %d.%d." % (name, number, line)).ljust(room - 2, b"x") + b"\r\n" for line in range(fields)]
        yield start + b"".join(lines) + b"\r\n"


def kept(wires: Iterable[bytes]) -> int:
    """Bytes that are in use when all these requests have been answered, and were not before."""
    forget()
    tracemalloc.start()
    try:
        for wire in wires:
            engine = new_engine(LIMITS)
            engine.receive_data(wire)
            engine.next_event()
            engine.respond(RESPONSE, b"")
        del engine, wire
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def new_lines() -> Iterator[bytes]:
    """Heads with as many new lines as there is room for beside those of the heads above, each as long as may be."""
    for number in range(remembered.MAX_REMEMBERED - 3):
        line = (b"Accept: %d." % number).ljust(remembered.MAX_REMEMBERED_SIZE, b"x")
        yield b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % line


@pytest.mark.parametrize(
    "wires",
    [
        pytest.param(lambda: heads(b"Connection", 1, 240), id="small"),
        pytest.param(lambda: heads(b"Connection", 4, 2040), id="large"),
        pytest.param(lambda: heads(b"Connection", 90, 2040), id="many-fields"),
        pytest.param(
            lambda: chain(heads(b"Connection", 4, 250), new_lines(), heads(b"Connection", 4, 2040)), id="all-tables"
        ),
    ],
)
def test_nobody_can_make_a_process_remember_more_than_so_much(wires):
    assert kept(wires()) < 1_250_000

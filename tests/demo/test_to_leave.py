"""What a client without a browser is told to try: what it says is what it does. In memory and in virtual time."""

from __future__ import annotations

import re

import pytest
import trio

from trioserve import Abandoned, App, Config
from trioserve.core.messages import RequestHead
from trioserve.demo.app import make_app
from trioserve.demo.search import Tree
from trioserve.demo.to_leave import what_to_try
from trioserve.testing import memory_server

TRIED = re.findall(r"curl (?:-m 2 )?http://here(/\S*)(?: (-X POST|-T \S+))?", what_to_try("http://here"))
OF_THE_PAGE = {"/", "/style.css", "/script.js", "/icon.svg", "/panel", "/search/finish"}
METHODS = {"": "GET", "-X POST": "POST"}


@pytest.fixture
def app(tmp_path) -> App:
    (tmp_path / "a.py").write_text("import async\n")
    return make_app(Tree.under(tmp_path))


class Log:
    """An observer that keeps what was abandoned."""

    def __init__(self) -> None:
        self.abandoned_ones: list[Abandoned] = []

    def completed(self, record) -> None: ...

    def abandoned(self, record: Abandoned) -> None:
        self.abandoned_ones.append(record)


def test_every_line_of_what_to_try_leads_to_a_handler_and_every_handler_is_tried(app):
    tried = {
        app.endpoint(RequestHead(METHODS.get(options, "PUT"), target, "1.1", (), 0)).name for target, options in TRIED
    }
    assert tried == {route.pattern.text for route in app.routes} - OF_THE_PAGE


@pytest.mark.parametrize(
    ("line", "outcome", "printed"),
    [
        ("GET /report/2025", "cancelled", []),
        ("GET /ticks", "cancelled", ["  ticks: stopped after 3"]),
        ("POST /payment", "finished", ["  payment: booked"]),
    ],
)
async def test_a_client_that_leaves_after_two_seconds(app, autojump_clock, capsys, line, outcome, printed):
    log = Log()
    async with memory_server(app, Config(observers=(log,), access_log=False)) as server:
        client = server.connect()
        await client.send_all(f"{line} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        with trio.move_on_after(2.5):
            async for _ in client:
                pass
        client.reset()
    (record,) = log.abandoned_ones
    assert (record.status, record.outcome) == (499, outcome)
    assert capsys.readouterr().out.splitlines() == printed


async def test_the_counting_thread_stops_when_its_client_leaves(app):
    log = Log()
    async with memory_server(app, Config(observers=(log,), access_log=False)) as server:
        client = server.connect()
        await client.send_all(b"GET /count/1000 HTTP/1.1\r\nHost: here\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        client.close()
    (record,) = log.abandoned_ones
    assert (record.phase, record.outcome) == ("HANDLER", "cancelled")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /report/2025 HTTP/1.1\r\nHost: here\r\n\r\n", b'{"year":2025,"sum":42}'),
        (b"GET /count/0 HTTP/1.1\r\nHost: here\r\n\r\n", b"counted to 0\n"),
        (b"PUT /upload HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nbytes", b"5 bytes\n"),
        (b"POST /payment HTTP/1.1\r\nHost: here\r\n\r\n", b'{"paid":true}'),
    ],
)
async def test_a_client_that_stays_gets_its_answer(app, autojump_clock, request_, answer):
    async with memory_server(app, Config(access_log=False)) as server, server.connect() as client:
        await client.send_all(request_)
        assert (await client.receive_some()).endswith(b"\r\n\r\n" + answer)

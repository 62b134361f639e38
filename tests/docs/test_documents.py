"""The documents: every Python block in them runs, does what the text says, and every link leads somewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from tests.docs.clients import Log, ask, leave, request
from tests.support.memory import in_memory
from tests.support.tls import write_certificate
from trioserve import Config, Deadlines, Limits
from trioserve.cli import main as program
from trioserve.testing import memory_server

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs", "docs/decisions", "examples", "benchmarks", "trioserve/*")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md".removeprefix("/")))


def run(path: Path) -> dict[str, Any]:
    """Run all Python blocks of a document, one after another; what they have defined."""
    document = Document.parse(str(path), PythonCodeBlockParser())
    for example in document.examples():
        example.evaluate()
    return document.namespace


@pytest.fixture(scope="module")
def readme() -> dict[str, Any]:
    return run(ROOT / "README.md")


@pytest.fixture(scope="module")
def departure() -> dict[str, Any]:
    return run(ROOT / "docs/departure.md")


@pytest.fixture(autouse=True, scope="module")
def folder_with_a_certificate(tmp_path_factory):
    """Where the documents run: they name these files, and may leave others."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("documents")
    write_certificate(folder)
    os.chdir(folder)
    yield
    os.chdir(here)


# All documents


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_block_runs(path):
    run(path)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_option_of_a_command_is_one_of_the_program():
    options = {
        name for parameter in program.commands["run"].params for name in (*parameter.opts, *parameter.secondary_opts)
    }
    used = set()
    for path in DOCUMENTS:
        for command in re.findall(r"trioserve run main:app((?:[^`\n\\]|\\\n)*)", path.read_text()):
            used |= set(re.findall(r"--[a-z-]+", command))
    assert used >= {"--workers", "--tls-key", "--trusted-proxy", "--deadline-handler"}
    assert used <= options


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_limit_and_deadline_that_is_named_is_there(path):
    for group, name in re.findall(r"`(Limits|Deadlines)\.(\w+)`", path.read_text()):
        assert hasattr({"Limits": Limits(), "Deadlines": Deadlines()}[group], name), name


# README.md


async def test_the_first_example_stops_when_its_client_leaves(readme, autojump_clock, capsys):
    log = Log()
    async with memory_server(readme["app"], Config(observers=(log,))) as server:
        await leave(server.connect(), request("GET /reports/2025"))
    (record,) = log.records
    assert record.unwound_at - record.started_at == pytest.approx(1)
    assert capsys.readouterr().out == "499 HANDLER FIN /reports/2025\n"
    assert "\n499 HANDLER FIN /reports/2025\n" in (ROOT / "README.md").read_text()


async def test_the_first_example_answers_a_client_that_stays(readme, autojump_clock):
    async with memory_server(readme["app"]) as server:
        assert await ask(server, "GET /reports/2025") == (200, b'{"year":2025}')
    assert trio.current_time() >= 30


async def test_the_handlers_of_the_readme_answer(readme, autojump_clock):
    async with memory_server(readme["app"]) as server:
        assert await ask(server, "GET /primes/20") == (200, b"[2,3,5,7,11,13,17,19]")
        assert await ask(server, "POST /lines", b"one\ntwo\n") == (200, b'{"lines":2}')
        assert await ask(server, "POST /payments", b'{"sum":7}') == (201, b'{"paid":7}')
        assert await ask(server, "GET /exports/all") == (200, b"...")
        status, body = await ask(server, "GET /exports/some")
        assert (status, b"there is no export 'some'" in body) == (404, True)
        assert await ask(server, "POST /jobs") == (204, b"")


@pytest.mark.parametrize(
    ("data", "status", "outcome", "unwind_time"),
    [
        (request("GET /ticks"), 499, "cancelled", 0),
        (request("POST /payments", b'{"sum":7}'), 499, "finished", 1),
        (request("GET /exports/all"), 499, "cancelled", 10),
        (request("POST /jobs"), 202, "cancelled", 0),
    ],
    ids=["stream", "FINISH", "Grace", "abandoned_status"],
)
async def test_the_policies_of_the_readme_when_the_client_leaves(
    readme, autojump_clock, data, status, outcome, unwind_time
):
    log = Log()
    async with memory_server(readme["app"], Config(observers=(log,))) as server:
        await leave(server.connect(), data)
    (record,) = log.records
    assert (record.status, record.outcome) == (status, outcome)
    assert record.unwind_time == pytest.approx(unwind_time)


async def test_the_metrics_of_the_readme_count_both_kinds_of_record(readme, autojump_clock):
    metrics = readme["Metrics"]()
    async with memory_server(readme["app"], Config(observers=(metrics,))) as server:
        await ask(server, "GET /primes/9")
        await leave(server.connect(), request("GET /reports/2025"))
    assert metrics.count == {("/primes/{limit:int}", 200): 1, ("/reports/{year:int}", 499): 1}


def test_the_embedded_server_of_the_readme_listens(capsys):
    run(ROOT / "README.md")
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:[1-9]\d*\n", capsys.readouterr().out)


# docs/departure.md


UNITS = {"s": 1, "MiB": 2**20}


def test_the_departure_page_tells_the_defaults_as_they_are():
    text = (ROOT / "docs/departure.md").read_text()
    told = re.findall(r"`(Limits|Deadlines)\.(\w+)` \((\d+) (\w+)\)", text)
    assert {name for _, name, _, _ in told} == {"vanish", "unwind", "spool", "spool_total"}
    defaults = {"Limits": Limits(), "Deadlines": Deadlines()}
    for group, name, number, unit in told:
        assert getattr(defaults[group], name) == int(number) * UNITS[unit], name


async def test_the_clean_up_of_the_departure_page_runs_under_its_shield(departure, autojump_clock):
    log = Log()
    async with memory_server(departure["app"], Config(observers=(log,))) as server:
        await leave(server.connect(), request("POST /rooms/blue"))
    (record,) = log.records
    assert (record.outcome, departure["taken"]) == ("cancelled", set())
    assert record.unwind_time == pytest.approx(0.2)


async def test_the_payment_of_the_departure_page_is_finished_once_it_has_its_body(departure, autojump_clock):
    log = Log()
    async with memory_server(departure["app"], Config(observers=(log,))) as server:
        await leave(server.connect(), request("POST /payments", b'{"sum":7}'), after=0.5)
    (record,) = log.records
    assert record.outcome == "finished"


async def test_the_payment_of_the_departure_page_fails_quietly_without_its_body(departure, autojump_clock, caplog):
    log = Log()
    async with memory_server(departure["app"], Config(observers=(log,), access_log=False)) as server:
        await leave(server.connect(), request("POST /payments", b'{"su', length=9))
    (record,) = log.records
    assert (record.phase, record.outcome, type(record.exception).__name__) == ("BODY", "failed", "ClientGone")
    assert caplog.records == []


# docs/running.md


async def test_the_feed_that_waits_for_news_ends_whole_when_the_server_does():
    running = run(ROOT / "docs/running.md")
    async with in_memory(running["app"]) as served:
        client = served.connect()
        await client.send(b"GET /news HTTP/1.1\r\nHost: test\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        async with running["news"]:
            running["news"].notify_all()
        await trio.testing.wait_all_tasks_blocked()

        await served.server.drain()

        assert (await client.answer()).body == b"data: there is news\n\n"

"""The demo's routes: the page's files, the search with its answers and mistakes, and what the panel hears of it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import Records, happens, start
from trioserve import Abandoned, App, Completed, Config
from trioserve.demo.app import PAGE, SEARCHES_AT_ONCE, SEARCHES_WAITING, make_app
from trioserve.demo.search import Tree
from trioserve.testing import memory_server


@pytest.fixture
def app(tmp_path) -> App:
    (tmp_path / "a.py").write_text("# <b>needle</b>\n" * 3)
    (tmp_path / "b.bin").write_bytes(b"\0needle")
    return make_app(Tree.under(tmp_path))


@asynccontextmanager
async def browser(app: App):
    """An HTTP client of a server on a real socket."""
    async with trio.open_nursery() as nursery:
        server = await start(nursery, app)
        async with httpx.AsyncClient(base_url=server.url) as client:
            yield client
        nursery.cancel_scope.cancel()


def search(query: str, to_the_end: str = "") -> bytes:
    return f"GET /search{to_the_end}?q={query} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


# The page


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/script.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
async def test_a_file_of_the_page_is_served_once_and_then_it_is_still_the_same(app, path, content_type):
    async with browser(app) as client:
        first = await client.get(path)
        again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, first.headers["content-type"]) == (200, content_type)
    assert first.headers["content-security-policy"].startswith("default-src 'self';")
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")


async def test_the_page_asks_for_nothing_but_what_is_served_here(app):
    async with browser(app) as client:
        page = (await client.get("/")).text
        script = (await client.get("/script.js")).text
        style = (await client.get("/style.css")).text
    for path in ("/style.css", "/script.js", "/icon.svg"):
        assert f'"{path}"' in page
        assert path in PAGE
    assert "://" not in style + script
    assert "style=" not in page, "the page's policy forbids it"
    assert "innerHTML" not in script


# The search


@pytest.mark.parametrize("path", ["/search", "/search/finish"])
async def test_a_search_sends_its_matches_and_then_that_it_is_done(app, path):
    async with browser(app) as client:
        answer = await client.get(path, params={"q": "NEEDLE"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["match"]["line"] for line in lines if "match" in line] == [1, 2, 3]
    assert lines[0] == {"match": {"path": "a.py", "line": 1, "pieces": ["# <b>", "needle", "</b>"]}}
    assert lines[-1] == {"done": {"matches": 3, "passed": 2, "skipped": 1, "files": 2}}


@pytest.mark.parametrize(
    ("query", "words"),
    [("", "nothing to search for"), ("q=", "nothing"), ("q=" + "x" * 101, "100 are the most"), ("q=a%0Ab", "one line")],
)
async def test_a_mistake_in_a_query_is_answered_with_what_to_do(app, query, words):
    async with browser(app) as client:
        answer = await client.get(f"/search?{query}")
    assert answer.status_code == 400
    assert words in answer.text


async def stalled(server, to_the_end: str = ""):
    """A client that takes nothing of its answer, so that its search keeps its place."""
    client = server.connect(send_buffer=1, window=1)
    await client.send_all(search("needle", to_the_end))
    return client


async def states_until(feed, condition) -> dict:
    """The first state of a feed for which the condition holds."""
    text = b""
    while True:
        text += await feed.receive_some()
        *events, text = text.split(b"\n\n")
        for event in events:
            name, _, data = event.rpartition(b"\ndata: ")
            if name.endswith(b"event: state") and condition(state := json.loads(data)):
                return state


async def test_a_search_without_a_place_waits_in_its_handler_and_leaves_the_queue_with_its_client(app):
    records = Records()
    async with memory_server(app, Config(observers=(records,), access_log=False)) as server:
        running = [await stalled(server) for _ in range(SEARCHES_AT_ONCE)]
        waiting = await stalled(server)
        feed = server.connect()
        await feed.send_all(b"GET /panel HTTP/1.1\r\nHost: here\r\n\r\n")
        await happens(states_until(feed, lambda state: (state["running"], state["waiting"]) == (SEARCHES_AT_ONCE, 1)))
        waiting.close()
        record = await records.next(Abandoned)
        assert (record.phase, record.status, record.outcome) == ("HANDLER", 499, "cancelled")
        await happens(states_until(feed, lambda state: (state["waiting"], state["never_scanned"]) == (0, 2)))
        for client in running:
            client.close()
            record = await records.next(Abandoned)
            assert record.phase in {"RESPONSE_HEAD", "RESPONSE_BODY"}
        await happens(states_until(feed, lambda state: state["running"] == 0))
        feed.close()


async def test_a_search_to_the_end_goes_on_without_its_client_and_says_so(app):
    records = Records()
    async with memory_server(app, Config(observers=(records,), access_log=False)) as server:
        running = [await stalled(server) for _ in range(SEARCHES_AT_ONCE)]
        waiting = await stalled(server, "/finish")
        feed = server.connect()
        await feed.send_all(b"GET /panel HTTP/1.1\r\nHost: here\r\n\r\n")
        await happens(states_until(feed, lambda state: state["waiting"] == 1))
        waiting.close()
        await wait_all_tasks_blocked()
        assert records.unread == [], "it waits on, for nobody"
        for client in running:
            client.close()
            await records.next(Abandoned)
        record = await records.next(Abandoned)
        assert (record.outcome, record.status) == ("finished", 499)
        state = await happens(states_until(feed, lambda state: state["running"] == 0))
        assert state["for_nobody"] == 2, "both files, by the one"
        assert state["never_scanned"] == 2 * SEARCHES_AT_ONCE, "both files, by each of the others"
        feed.close()


async def test_when_too_many_wait_the_next_is_told_to_come_again(app):
    async with memory_server(app, Config(access_log=False)) as server:
        clients = [await stalled(server) for _ in range(SEARCHES_AT_ONCE + SEARCHES_WAITING)]
        await wait_all_tasks_blocked()
        async with server.connect() as client:
            await client.send_all(search("needle"))
            assert (await client.receive_some()).startswith(b"HTTP/1.1 503 ")
        for client in clients:
            client.close()


async def test_a_page_that_leaves_is_told_of_like_everybody(app):
    records = Records()
    async with memory_server(app, Config(observers=(records,), access_log=False)) as server:
        staying, leaving = server.connect(), server.connect()
        for page in (staying, leaving):
            await page.send_all(b"GET /panel HTTP/1.1\r\nHost: here\r\n\r\n")
        await happens(states_until(staying, lambda state: state["pages"] == 2))
        leaving.close()
        record = await records.next(Abandoned)
        assert (record.route, record.phase, record.outcome) == ("/panel", "RESPONSE_BODY", "cancelled")
        await happens(states_until(staying, lambda state: (state["pages"], state["abandoned"]) == (1, 1)))
        staying.close()


async def test_a_client_that_stays_is_not_told_of(app):
    records = Records()
    async with memory_server(app, Config(observers=(records,), access_log=False)) as server:
        async with server.connect() as client:
            await client.send_all(search("needle"))
            async for _ in client:
                pass
        await records.next(Completed)
    assert records.unread == []

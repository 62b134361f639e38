"""The demo: search as you type, where abandoned requests come from in real life. `trioserve demo` serves it.

Each keystroke in the page starts a search and aborts the one before. A search is an ordinary handler: it goes through
the files in slices, each in a worker thread, and sends what was found. It knows nothing of departures. That the work
stops is the server's doing, and that the page can show it is the hook's, at the end of `make_app`.

The search is there twice: at /search, where departure cancels it, and at /search/finish, where it runs to its end for
nobody. That is the whole difference between the two positions of the page's switch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from trioserve import CANCEL, FINISH, Abandoned, App, HTTPError, Request, Response, Send
from trioserve.demo import to_leave
from trioserve.demo.panel import FollowedSearch, Panel
from trioserve.demo.search import QueryError, Search, Tree

SEARCHES_AT_ONCE = 2
"""More would not be faster, since Python runs one thread at a time; and so there is a queue to be seen."""

SWITCH_INTERVAL = 0.0005
"""Seconds for which a thread may compute before Python lets another one run. With Python's default, ten times this, the
server, which is one thread too, waits as long for its turn behind each search, and so does the news of a departure."""

SEARCHES_WAITING = 200
"""Beyond it 503. A crowd that types under FINISH would have to wait for minutes by then."""

SLICE = 0.02
"""Seconds for which a search goes on in its thread before it sends what it has found: soon enough for an eye."""

STATIC = Path(__file__).parent / "static"

PAGE = {"/": "index.html", "/style.css": "style.css", "/script.js": "script.js", "/icon.svg": "icon.svg"}
"""The files of the page, by path: each has a route of its own, and nothing else is served."""

PAGE_FIELDS = {
    # What the page shows comes from files that anybody may have written; none of it may become part of the page.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # A browser asks each time whether it is still the same, which costs nothing here.
    "cache-control": "no-cache",
}

MATCHES_FIELDS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    # A browser that aborts a response may go on reading it for some seconds, to keep the connection for its next
    # request (Chromium does, between two reads). Where there will be none, it hangs up at once.
    "connection": "close",
}

_AS_MANY_AS_WANTED = trio.CapacityLimiter(math.inf)  # of threads: it is the places that are few


def make_app(tree: Tree) -> App:
    """The demo, for the files of a tree."""
    app = App()
    places = trio.CapacityLimiter(SEARCHES_AT_ONCE)
    panel = Panel(tree, places)

    @app.lifespan
    async def quick_turns() -> AsyncIterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            yield
        finally:
            sys.setswitchinterval(before)

    async def search(request: Request) -> Response:
        """The matches for ?q=, one JSON object a line: each "match", now and then "progress", at last "done"."""
        try:
            search = Search(request.query.get("q", ""), tree)
        except QueryError as error:
            raise HTTPError(400, str(error)) from None
        if places.statistics().tasks_waiting >= SEARCHES_WAITING:
            raise HTTPError(503, "too many searches are waiting; try again in a moment", headers={"retry-after": "5"})
        followed = panel.follow(request, search)
        # Both until the response is written, or the client has left.
        await request.resources.enter_async_context(places)
        request.resources.callback(panel.ended, search)

        async def write_body(send: Send) -> None:
            await run(followed, send)

        return Response.stream(write_body, content_type="application/x-ndjson", headers=MATCHES_FIELDS)

    app.get("/search", disconnect=CANCEL, name="search")(search)
    app.get("/search/finish", disconnect=FINISH, name="search to the end")(search)

    @app.get("/panel")
    async def feed() -> Response:
        return Response.events(panel.feed)

    @app.on_abandoned
    async def tell(event: Abandoned) -> None:
        panel.tell(event)

    for path, name in PAGE.items():
        app.get(path, name=name)(page_file(name))
    app.include(to_leave.router())
    return app


def page_file(name: str) -> Callable[[], Awaitable[Response]]:
    """A handler that serves a file of the page."""

    async def serve_file() -> Response:
        return Response.file(STATIC / name, headers=PAGE_FIELDS)

    return serve_file


async def run(followed: FollowedSearch, send: Send) -> None:
    """Run a search to its end, and send what it finds. Cancelled, it stops within a few hundred lines of a file."""
    search = followed.search
    while not search.done:
        matches = await trio.to_thread.run_sync(
            search.scan, SLICE, trio.from_thread.check_cancelled, limiter=_AS_MANY_AS_WANTED
        )
        followed.note_progress()
        await send("".join([*(json_line("match", match._asdict()) for match in matches), progress("progress", search)]))
    await send(progress("done", search))


def json_line(kind: str, value: dict[str, Any]) -> str:
    return json.dumps({kind: value}, ensure_ascii=False, separators=(",", ":")) + "\n"


def progress(kind: str, search: Search) -> str:
    """How far a search has come."""
    counts = {"matches": search.matches, "passed": search.passed, "skipped": search.skipped}
    return json_line(kind, {**counts, "files": len(search.tree.files)})

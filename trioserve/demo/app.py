"""The demo: search as you type, where abandoned requests come from in real life. `trioserve demo` serves it.

Each keystroke in the page starts a search and aborts the one before. A search is an ordinary handler: it goes through
the files in slices, each in a worker thread, and sends what was found. It knows nothing of departures. That the work
stops is the server's doing, and that the page can show it is the hook's, at the end of `make_app`.

The search is there twice: at /search, where departure cancels it, and at /search/finish, where it runs to its end for
nobody. That is the whole difference between the two positions of the page's switch.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import trio

from trioserve import CANCEL, FINISH, Abandoned, App, HTTPError, Request, Response, Send
from trioserve.demo import to_leave
from trioserve.demo.panel import FollowedSearch, Panel
from trioserve.demo.search import QueryError, Search, Tree

SEARCHES_AT_ONCE = 2
"""More would not be faster, since Python runs one thread at a time; and so there is a queue to be seen."""

SEARCHES_WAITING = 200
"""Beyond it 503. A crowd that types under FINISH would have to wait for minutes by then."""

SLICE = 0.02
"""Seconds for which a search goes on in its thread before it sends what it has found: soon enough for an eye."""

STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files of the page, by path: with their names in the folder static, and their types."""

PAGE_HEADERS = {
    # What the page shows comes from files that anybody may have written; none of it may become part of the page.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

NOT_KEPT = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

_AS_MANY_AS_WANTED = trio.CapacityLimiter(math.inf)  # of threads: it is the places that are few


def make_app(tree: Tree) -> App:
    """The demo, for the files of a tree."""
    app = App()
    places = trio.CapacityLimiter(SEARCHES_AT_ONCE)
    panel = Panel(tree, places)

    async def search(request: Request) -> Response:
        """The matches for ?q=, one JSON object a line; "match", then and when "progress", at last "done"."""
        try:
            search = Search(query_of(request), tree)
        except QueryError as error:
            raise HTTPError(400, str(error)) from None
        if places.statistics().tasks_waiting >= SEARCHES_WAITING:
            raise HTTPError(503, "too many searches are waiting; try again in a moment")
        followed = panel.follow(request, search)

        async def write_body(send: Send) -> None:
            async with places:
                try:
                    await run(followed, send)
                finally:
                    panel.ended(search)

        return Response.stream(write_body, content_type="application/x-ndjson", headers=NOT_KEPT)

    app.get("/search", disconnect=CANCEL)(search)
    app.get("/search/finish", disconnect=FINISH)(search)

    @app.get("/panel")
    async def feed() -> Response:
        return Response.stream(panel.feed, content_type="text/event-stream", headers=NOT_KEPT)

    @app.on_abandoned
    async def tell(event: Abandoned) -> None:
        panel.tell(event)

    for path, (name, content_type) in STATIC.items():
        app.get(path)(static_file(name, content_type))
    to_leave.add_to(app)
    return app


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


def query_of(request: Request) -> str:
    """What to search for: the parameter q; "" if there is none.

    Raises:
        QueryError: the query string is not one.
    """
    try:
        return parse_qs(request.query_string, errors="strict").get("q", [""])[0]
    except ValueError as error:
        raise QueryError(f"the query string cannot be read: {error}") from None


def static_file(name: str, content_type: str) -> Any:
    """A handler that serves a file of the page. A browser asks each time whether it is still the same."""
    content = (Path(__file__).parent / "static" / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**PAGE_HEADERS, "cache-control": "no-cache", "etag": tag}

    async def serve_file(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status=304, headers=headers)
        return Response(content, headers=headers, content_type=content_type)

    return serve_file

"""A JSON API over SQLite. Each request is a transaction, and nothing half-written stays of one whose client leaves.

trioserve run examples.readings:app
curl http://127.0.0.1:8000/readings -d '{"sensor": "roof", "celsius": 21.5}'
yes '{"sensor": "roof", "celsius": 99}' | curl -m 1 -X POST -T - http://127.0.0.1:8000/readings  # leaves amid it
curl http://127.0.0.1:8000/readings/roof  # nothing of it is there
"""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial

import trio

from trioserve import App, HTTPError, Request, Response

app = App()
connect = partial(sqlite3.connect, "readings.db", check_same_thread=False)  # it goes from thread to thread


@app.lifespan
async def schema() -> AsyncIterator[None]:
    with closing(connect()) as connection:
        connection.execute("create table if not exists readings (sensor text, celsius real)")
    yield


@app.dependency
async def transaction() -> AsyncIterator[sqlite3.Connection]:
    """Open while the handler runs. If that fails, or is stopped, there is no commit, and closing rolls back."""
    with closing(await trio.to_thread.run_sync(connect)) as connection:
        yield connection
        await trio.to_thread.run_sync(connection.commit)  # and only then the client is told of its success


@app.post("/readings", max_body=1_000_000_000)
async def add(request: Request, connection: sqlite3.Connection) -> Response:
    """Write readings as they arrive, each in a line of its own: all of them, or none."""
    rest = b""
    async for part in request.stream():
        lines, _, rest = (rest + part).rpartition(b"\n")
        await trio.to_thread.run_sync(insert, connection, lines)
    await trio.to_thread.run_sync(insert, connection, rest)
    return Response(status=201)


def insert(connection: sqlite3.Connection, lines: bytes) -> None:
    try:
        rows = [(str(reading["sensor"]), float(reading["celsius"])) for reading in map(json.loads, lines.splitlines())]
    except (ValueError, TypeError, KeyError) as error:
        raise HTTPError(400, f'each line is like {{"sensor": "roof", "celsius": 21.5}}, but: {error!r}') from None
    connection.executemany("insert into readings values (?, ?)", rows)


@app.get("/readings/{sensor}")
def show(sensor: str, connection: sqlite3.Connection) -> list[float]:  # a plain function runs in a thread
    return [celsius for (celsius,) in connection.execute("select celsius from readings where sensor = ?", (sensor,))]

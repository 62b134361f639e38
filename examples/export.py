"""A table as a stream of CSV, from an async generator that another one draws from: carelessly, and safely.

trioserve run examples.export:app
curl -m 0.5 --limit-rate 1M 'http://127.0.0.1:8000/careless/squares.csv?to=9999999'
curl 'http://127.0.0.1:8000/squares.csv?to=9'

Whoever reads rows holds a connection of the pool. The careless generator gives it back without a shield, and nobody who
draws from it closes it: it ends when Python comes upon it, somewhere else and later. Let curl leave twice, and whoever
comes next waits for ever.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import trio

from examples.pool import Pool, in_thread
from trioserve import App, Request, Response

app = App()
pool = Pool("squares.db")
Rows = list[tuple[int, int]]
SQUARES = "with recursive t(n) as (select 1 union all select n + 1 from t where n < ?) select n, n * n from t"


@app.lifespan
async def connections() -> AsyncIterator[Pool]:
    async with pool:
        yield pool


async def rows_carelessly(pool: Pool, last: int) -> AsyncGenerator[Rows, None]:
    connection = await pool.acquire()
    try:
        cursor = await in_thread(connection.execute, SQUARES, [last])
        while rows := await in_thread(cursor.fetchmany, 500):
            yield rows
    finally:
        await pool.release(connection)


async def write_carelessly(pool: Pool, last: int) -> AsyncIterator[str]:
    async for rows in rows_carelessly(pool, last):
        yield "".join(f"{n},{square}\n" for n, square in rows)


async def rows_safely(pool: Pool, last: int) -> AsyncGenerator[Rows, None]:
    connection = await pool.acquire()
    try:
        cursor = await in_thread(connection.execute, SQUARES, [last])
        while rows := await in_thread(cursor.fetchmany, 500):
            yield rows
    finally:
        with trio.move_on_after(5, shield=True):
            await pool.release(connection)


async def write_safely(pool: Pool, last: int) -> AsyncIterator[str]:
    async with aclosing(rows_safely(pool, last)) as all_rows:
        async for rows in all_rows:
            yield "".join(f"{n},{square}\n" for n, square in rows)


@app.get("/careless/squares.csv")
async def export_carelessly(request: Request, pool: Pool) -> Response:
    return Response.stream(write_carelessly(pool, int(request.query["to"])), content_type="text/csv")


@app.get("/squares.csv")
async def export(request: Request, pool: Pool) -> Response:
    return Response.stream(write_safely(pool, int(request.query["to"])), content_type="text/csv")

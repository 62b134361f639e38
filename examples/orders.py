"""Two handlers that take an order and both look right. One of them leaves a mess when its client leaves. Needs httpx.

trioserve run examples.orders:warehouse --port 9000
trioserve run examples.orders:app
curl -m 0.5 http://127.0.0.1:8000/careless/orders -d '{"item": "pear"}'
curl http://127.0.0.1:8000/orders -d '{"item": "pear"}'

Let curl leave twice: the careless one has then lost both connections of the pool, and the next order waits for ever.
Each time an order that nobody reserved stays in the database, and a folder in /tmp. docs/testing.md has the test that
finds it.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator

import httpx
import trio

from examples.pool import Pool, in_thread
from trioserve import App, Request, Response

app = App()
pool = Pool("orders.db")
WAREHOUSE = os.environ.get("WAREHOUSE", "http://127.0.0.1:9000")
TLS = httpx.create_ssl_context()  # made once, since it takes 20 ms
TABLES = "create table if not exists orders (item text); create table if not exists reservations (item text)"


@app.lifespan
async def connections() -> AsyncIterator[Pool]:
    async with pool:
        connection = await pool.acquire()
        connection.executescript(TABLES)
        await pool.release(connection)
        yield pool


@app.lifespan
async def warehouse_client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=WAREHOUSE, verify=TLS) as client:
        yield client


@app.post("/careless/orders")
async def order_carelessly(request: Request, pool: Pool, client: httpx.AsyncClient) -> Response:
    item = (await request.json())["item"]
    connection = await pool.acquire()
    folder = tempfile.mkdtemp(prefix="order-")
    try:
        await in_thread(connection.execute, "insert into orders values (?)", [item])
        await in_thread(connection.commit)
        slip = trio.Path(folder, "slip.txt")
        await slip.write_text(f"one {item}\n")
        (await client.post("/reservations", content=await slip.read_bytes())).raise_for_status()
        await in_thread(connection.execute, "insert into reservations values (?)", [item])
        await in_thread(connection.commit)
        return Response(status=201)
    finally:
        await in_thread(shutil.rmtree, folder)
        await pool.release(connection)


@app.post("/orders")
async def order(request: Request, pool: Pool, client: httpx.AsyncClient) -> Response:
    item = (await request.json())["item"]
    connection = await pool.acquire()
    folder = tempfile.mkdtemp(prefix="order-")
    try:
        await in_thread(connection.execute, "insert into orders values (?)", [item])
        slip = trio.Path(folder, "slip.txt")
        await slip.write_text(f"one {item}\n")
        (await client.post("/reservations", content=await slip.read_bytes())).raise_for_status()
        await in_thread(connection.execute, "insert into reservations values (?)", [item])
        await in_thread(connection.commit)  # of both, and the last thing that can be cancelled
        return Response(status=201)
    finally:
        with trio.move_on_after(5, shield=True):
            await in_thread(shutil.rmtree, folder)
            await pool.release(connection)


# The warehouse, for trying it out.

warehouse = App()


@warehouse.post("/reservations")
async def reserve(request: Request) -> None:
    await request.body()
    await trio.sleep(float(os.environ.get("SECONDS_TO_RESERVE", "1")))

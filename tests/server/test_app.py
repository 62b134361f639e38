"""An app on real sockets, asked by httpx: what can be registered, and what is answered when it goes wrong."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any, NewType

import httpx
import pytest
import trio

from tests.support.logs import errors, logged, tracebacks
from tests.support.server import Running, happens, start
from trioserve import Abandoned, App, Completed, Converter, HTTPError, Next, Request, Response, Router

Store = NewType("Store", dict)
Transaction = NewType("Transaction", dict)


class SoldOut(Exception): ...


class Shop:
    """The app, and what has happened in it."""

    def __init__(self) -> None:  # noqa: C901 - an app, not an algorithm
        self.log: list[Any] = []
        self.worked = trio.Event()
        self.started = trio.Event()
        self.app = app = App(max_body=100)

        @app.lifespan
        async def store() -> AsyncIterator[Store]:
            yield Store({"apple": 3, "pear": 0})
            self.log.append("closed")

        @app.dependency
        async def transaction(store: Store) -> AsyncIterator[Transaction]:
            changes = Transaction({})
            try:
                yield changes
            except BaseException as error:
                self.log.append(f"rolled back for {type(error).__name__}")
                raise
            if "pear" in changes:
                raise HTTPError(409, "somebody was faster")
            store.update(changes)
            self.log.append("committed")

        @app.middleware
        async def stamp(request: Request, call_next: Next) -> Response:
            if request.headers.get("user") == "mallory":
                raise HTTPError(403, "not you")
            response = await call_next(request)
            response.headers["x-stamp"] = f"{request.method} {response.status}"
            return response

        @app.error_handler(SoldOut)
        def sold_out(request: Request, error: SoldOut) -> Response:
            return Response.json({"sold out": str(error)}, status=410)

        api = Router(converters={"fruit": Converter("[a-z]+", str, str)})

        @api.get("/{name:fruit}", name="fruit")
        async def show(name: str, store: Store) -> dict[str, int]:
            if name not in store:
                raise HTTPError(404, f"no {name}")
            return {name: store[name]}

        @api.post("/{name:fruit}")
        async def change(request: Request, name: str, transaction: Transaction) -> Response:
            transaction[name] = await request.json()
            request.after_response(self.work, name)
            return Response.redirect(request.url_for("fruit", name=name), status=303)

        @api.delete("/{name:fruit}")
        def eat(name: str, store: Store) -> None:
            if store[name] == 0:
                raise SoldOut(name)
            store[name] -= 1
            app.start_soon(self.work_plainly, name)

        @api.get("/{name:fruit}/slow")
        async def slow(name: str, transaction: Transaction) -> None:
            self.started.set()
            await trio.sleep_forever()

        app.include(api, prefix="/fruit")

    async def work(self, name: str) -> None:
        self.log.append(f"worked for {name}")
        self.worked.set()

    def work_plainly(self, name: str) -> None:
        self.log.append(f"worked for {name}, {threading.current_thread() is threading.main_thread()}")
        trio.from_thread.run_sync(self.worked.set)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def server(shop: Shop, nursery: trio.Nursery) -> Running:
    return await start(nursery, shop.app)


@pytest.fixture
async def client(server: Running):
    async with httpx.AsyncClient(base_url=server.url, timeout=10) as made:
        yield made


async def test_a_route_of_a_router_with_a_value_of_the_lifespan(client, server):
    answer = await client.get("/fruit/apple")
    assert (answer.status_code, answer.json()) == (200, {"apple": 3})
    assert answer.headers["x-stamp"] == "GET 200"
    assert (await server.records.next(Completed)).route == "/fruit/{name:fruit}"


async def test_errors_are_text_for_people_and_problem_details_for_programs(client):
    answer = await client.get("/fruit/kiwi")
    assert (answer.status_code, answer.text) == (404, "404 Not Found\nno kiwi\n")
    answer = await client.get("/fruit/kiwi", headers={"accept": "application/json"})
    assert answer.json() == {"title": "Not Found", "status": 404, "detail": "no kiwi"}
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-stamp"] == "GET 404"


async def test_what_the_routing_refuses(client):
    assert (await client.get("/fruit/APPLE")).status_code == 404
    assert "there is at /fruit/apple" in (await client.get("/fruit/apple/")).text
    answer = await client.put("/fruit/apple")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS, POST")
    answer = await client.options("/fruit/apple")
    assert (answer.status_code, answer.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, POST")
    answer = await client.head("/fruit/apple")
    assert (answer.status_code, answer.headers["content-length"], answer.text) == (200, "11", "")


async def test_middleware_refuses(client):
    answer = await client.get("/fruit/apple", headers={"user": "mallory"})
    assert (answer.status_code, answer.text) == (403, "403 Forbidden\nnot you\n")


async def test_a_transaction_is_committed_before_the_answer_and_work_is_done_behind_it(client, shop):
    answer = await client.post("/fruit/apple", json=5)
    assert (answer.status_code, answer.headers["location"]) == (303, "/fruit/apple")
    assert (await client.get(answer.headers["location"])).json() == {"apple": 5}
    await happens(shop.worked.wait())
    assert shop.log == ["committed", "worked for apple"]


async def test_a_transaction_that_cannot_be_committed_is_told(client, shop):
    answer = await client.post("/fruit/pear", json=5)
    assert (answer.status_code, answer.text) == (409, "409 Conflict\nsomebody was faster\n")
    assert (await client.get("/fruit/pear")).json() == {"pear": 0}


async def test_a_transaction_is_rolled_back_with_what_the_handler_raised(client, shop):
    assert (await client.post("/fruit/apple", content=b"five")).status_code == 400
    assert shop.log == ["rolled back for HTTPError"]


async def test_a_body_that_is_too_large_is_refused(client, shop):
    async def large() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"5" * 30

    assert (await client.post("/fruit/apple", content=large())).status_code == 413
    assert (await client.post("/fruit/apple", content=b"5" * 101)).status_code == 413


async def test_a_transaction_is_rolled_back_when_the_client_leaves(client, server, shop):
    async with trio.open_nursery() as asking:
        asking.start_soon(client.get, "/fruit/apple/slow")
        await happens(shop.started.wait())
        asking.cancel_scope.cancel()
    record = await server.records.next(Abandoned)
    assert (record.status, record.route) == (499, "/fruit/{name:fruit}/slow")
    assert shop.log == ["rolled back for Cancelled"]


async def test_a_plain_handler_starts_work_in_a_thread_and_an_error_handler_answers_for_it(client, shop):
    assert (await client.delete("/fruit/apple")).status_code == 204
    await happens(shop.worked.wait())
    assert shop.log == ["worked for apple, False"]
    answer = await client.delete("/fruit/pear")
    assert (answer.status_code, answer.json()) == (410, {"sold out": "pear"})


async def test_what_nobody_expected_is_a_500_and_logged(client, caplog):
    answer = await client.delete("/fruit/kiwi")
    assert answer.status_code == 500
    assert "kiwi" not in answer.text
    (error,) = tracebacks(caplog)
    assert isinstance(error, KeyError)


async def test_debug_mode_shows_the_traceback(nursery, caplog):
    app = App(debug=True)

    @app.get("/")
    async def handler() -> None:
        raise ValueError("<shown>")

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url, headers={"accept": "text/html"}) as client:
        answer = await client.get("/")
    assert answer.status_code == 500
    assert "&lt;shown&gt;" in answer.text


async def test_background_work_that_fails_is_logged_and_the_server_goes_on(nursery, caplog):
    app = App()

    async def work() -> None:
        raise ValueError("in the background")

    @app.get("/")
    async def handler() -> str:
        app.start_soon(work)
        return "started"

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url) as client:
        with logged("trioserve.error") as said:
            assert (await client.get("/")).text == "started"
            await happens(said.wait())
        assert (await client.get("/")).text == "started"
    assert "ValueError: in the background" in errors(caplog)[0]


async def test_the_lifespan_is_closed_when_the_server_has_drained(client, server, shop):
    assert (await client.get("/fruit/apple")).status_code == 200
    assert shop.log == []
    server.drain.set()
    await happens(server.ended.wait())
    assert shop.log == ["closed"]

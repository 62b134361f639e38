"""Which engine serves, on real sockets, and what is said where it cannot."""

from __future__ import annotations

import sys

import httpx
import pytest
import trio

from tests.support.server import happens, start
from trioserve import App, Config, ConfigError, EngineName, Request, Response


def app_that_tells_what_it_was_told() -> App:
    app = App()

    @app.post("/")
    async def echo(request: Request) -> Response:
        content = await request.body()

        async def write(send):
            await send(content)
            await send(b"!")

        return Response.stream(write) if "stream" in request.query else Response(content)

    return app


@pytest.mark.parametrize("engine", [*EngineName, "h11", "h11r"])
async def test_an_engine_that_is_chosen_serves(nursery, engine):
    server = await start(nursery, app_that_tells_what_it_was_told(), engine=engine)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        for _ in range(2):
            assert (await happens(client.post("/", content=b"hello"))).content == b"hello"
        streamed = await happens(client.post("/?stream=1", content=b"hello"))
        assert (streamed.content, streamed.headers["transfer-encoding"]) == (b"hello!", "chunked")


async def test_h11_is_the_default_and_h11r_is_loaded_only_where_it_is_chosen():
    assert Config().engine is EngineName.H11
    code = "import sys, trioserve; trioserve.Config(); assert 'h11r' not in sys.modules"
    await trio.run_process([sys.executable, "-c", code])


def test_an_engine_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="'fast'; use one of h11, h11r"):
        Config(engine="fast")


def test_where_h11r_is_missing_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "h11r", None)
    monkeypatch.delitem(sys.modules, "trioserve.core.engine_h11r", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'trioserve\[fast\]'"):
        Config(engine="h11r")

"""Who is behind a proxy: what handlers, records and the access log are told, and who is not believed."""

from __future__ import annotations

import json
import logging

import httpx
import pytest
import trio

from tests.support import Client, happens, start
from tests.support.logs import errors
from tests.support.memory import in_memory
from tests.support.tls import client_context, server_context
from trioserve import (
    Abandoned,
    App,
    Completed,
    Config,
    ConfigError,
    ForwardedFields,
    Request,
    TcpAddress,
    UnixAddress,
)
from trioserve.observe.access_log import ACCESS_LOGGER

PROXY = "198.51.100.7"  # from where clients in memory connect
CLIENT = "203.0.113.9"
SAID = (f"X-Forwarded-For: {CLIENT}", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example")


def app_that_tells() -> App:
    app = App()

    @app.route("/{rest:path}", methods=["GET", "POST"])
    async def handler(request: Request, rest: str) -> dict[str, object]:
        return {"client": request.client, "scheme": request.scheme, "host": request.host, "url": request.url}

    return app


async def seen(*fields: str, **settings) -> dict[str, object]:
    """What a handler sees of a request with these fields."""
    async with in_memory(app_that_tells(), **settings) as served:
        answer = await served.get("/x?y", *fields)
        assert answer.status == 200
        return json.loads(answer.body)


async def test_a_trusted_proxy_says_who_the_client_is_and_what_it_asked_for():
    assert await seen(*SAID, trusted_proxies=(PROXY,)) == {
        "client": [CLIENT, 0],
        "scheme": "https",
        "host": "shop.example",
        "url": "https://shop.example/x?y",
    }


async def test_so_it_can_in_forwarded():
    field = f'Forwarded: for="{CLIENT}:4711";proto=https;host=shop.example'

    assert await seen(field, trusted_proxies=(PROXY,)) == {
        "client": [CLIENT, 4711],
        "scheme": "https",
        "host": "shop.example",
        "url": "https://shop.example/x?y",
    }


@pytest.mark.parametrize("settings", [{}, {"trusted_proxies": ("192.0.2.0/24", "unix")}])
async def test_others_are_not_believed(settings):
    told = await seen(*SAID, **settings)

    assert told["client"][0] == PROXY
    assert (told["scheme"], told["host"], told["url"]) == ("http", "test", "http://test/x?y")


async def test_what_a_trusted_proxy_does_not_say_is_as_it_reached_us():
    told = await seen(trusted_proxies=(PROXY,))

    assert told["client"][0] == PROXY
    assert (told["scheme"], told["host"]) == ("http", "test")


async def test_both_kinds_of_fields_are_answered_400_and_recorded():
    async with in_memory(app_that_tells(), trusted_proxies=(PROXY,)) as served:
        answer = await served.get("/x", *SAID, f"Forwarded: for={CLIENT}")

        assert (answer.status, answer.closes) == (400, True)
        assert b"both Forwarded and X-Forwarded" in answer.body
        record = await served.records.next(Completed)
        assert (record.status, record.target, record.client[0]) == (400, "/x", PROXY)


async def test_both_kinds_are_no_matter_where_it_is_said_which_is_written():
    both = (*SAID, "Forwarded: for=192.0.2.1")

    told = await seen(*both, trusted_proxies=(PROXY,), forwarded_fields=ForwardedFields.FORWARDED)
    assert told["client"] == ["192.0.2.1", 0]
    told = await seen(*both, trusted_proxies=(PROXY,), forwarded_fields="x-forwarded")
    assert told["client"] == [CLIENT, 0]


async def test_on_one_connection_each_request_has_its_own_client():
    async with in_memory(app_that_tells(), trusted_proxies=(PROXY,)) as served:
        client = served.connect()
        for number in (1, 2, 3):
            answer = await client.get("/x", f"X-Forwarded-For: 203.0.113.{number}")
            assert json.loads(answer.body)["client"] == [f"203.0.113.{number}", 0]
        assert json.loads((await client.get("/x")).body)["client"][0] == PROXY

        clients = [record.client[0] for record in served.records.all]
        assert clients == ["203.0.113.1", "203.0.113.2", "203.0.113.3", PROXY]


async def test_an_abandoned_record_names_the_client_too():
    started = trio.Event()
    app = App()

    @app.get("/x")
    async def handler() -> None:
        started.set()
        await trio.sleep_forever()

    async with in_memory(app, trusted_proxies=(PROXY,)) as served:
        client = served.connect()
        await client.send(f"GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {CLIENT}\r\n\r\n".encode())
        await happens(started.wait())
        client.reset()

        assert (await served.records.next(Abandoned)).client == (CLIENT, 0)


async def test_a_head_that_is_not_understood_is_the_proxys():
    async with in_memory(app_that_tells(), trusted_proxies=(PROXY,)) as served:
        client = served.connect()
        await client.send(f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {CLIENT}\r\nno field\r\n\r\n".encode())

        assert (await client.answer()).status == 400
        assert (await served.records.next(Completed)).client[0] == PROXY


async def test_the_access_log_names_the_client(nursery, caplog):
    caplog.set_level(logging.INFO, ACCESS_LOGGER)
    server = await start(nursery, app_that_tells(), trusted_proxies=("127.0.0.1",))
    client = await server.connect()

    await client.get("/x", *SAID)

    await server.records.next(Completed)
    assert [record.getMessage().split(" 200")[0] for record in caplog.records] == [f'{CLIENT} "GET /x HTTP/1.1"']


async def test_httpx_through_a_trusted_address_on_real_sockets(nursery, caplog):
    server = await start(nursery, app_that_tells(), trusted_proxies=("127.0.0.0/8",))

    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{server.url}/x", headers={"forwarded": 'for="[2001:db8::7]:99";proto=https'})

    assert answer.json() == {
        "client": ["2001:db8::7", 99],
        "scheme": "https",
        "host": f"127.0.0.1:{server.port}",
        "url": f"https://127.0.0.1:{server.port}/x",
    }
    assert not errors(caplog)


@pytest.mark.parametrize(("said", "scheme"), [("X-Forwarded-Proto: http", "http"), ("X-Accel: 1", "https")])
async def test_over_tls_too_it_is_the_proxy_who_says_the_scheme(nursery, said, scheme):
    address = TcpAddress("127.0.0.1", 0, tls=server_context())
    server = await start(nursery, app_that_tells(), listen=(address,), trusted_proxies=("127.0.0.1",))
    plain = await server.connect()
    client = Client(trio.SSLStream(plain.stream, client_context(), server_hostname="127.0.0.1"))

    told = json.loads((await client.get("/x", said)).body)

    assert (told["scheme"], told["url"]) == (scheme, f"{scheme}://test/x")


@pytest.mark.parametrize(("trusted", "client"), [(("unix",), [CLIENT, 0]), (("0.0.0.0/0", "::/0"), None)])
async def test_who_connects_to_a_unix_socket_is_believed_if_that_is_listed(nursery, tmp_path_factory, trusted, client):
    path = str(tmp_path_factory.mktemp("s") / "socket")
    server = await start(nursery, app_that_tells(), listen=(UnixAddress(path),), trusted_proxies=trusted)

    answer = await (await server.connect()).get("/x", *SAID)

    assert json.loads(answer.body)["client"] == client


@pytest.mark.parametrize(("named", "client"), [("10.0.0.1", CLIENT), ("203.0.113.77", "203.0.113.77")])
async def test_behind_the_proxy_protocol_it_is_the_named_peer_that_is_trusted_or_not(nursery, named, client):
    """A balancer of connections before a proxy of requests: whom the header names is the proxy."""
    address = TcpAddress("127.0.0.1", 0, proxy_protocol=True)
    server = await start(nursery, app_that_tells(), listen=(address,), trusted_proxies=("10.0.0.0/8",))
    connection = await server.ask(f"PROXY TCP4 {named} 192.0.2.2 51234 443\r\n".encode())

    answer = await connection.get("/x", *SAID)

    assert json.loads(answer.body)["client"][0] == client


async def test_a_client_of_http_1_0_may_name_no_host(nursery):
    server = await start(nursery, app_that_tells())
    client = await server.ask(b"GET /x HTTP/1.0\r\n\r\n")

    told = json.loads((await happens(client.answer())).body)

    assert (told["host"], told["url"]) == (None, "/x")


async def test_a_target_in_absolute_form_says_the_host_and_may_say_no_other_scheme(nursery):
    server = await start(nursery, app_that_tells())
    client = await server.ask(b"GET http://shop.example/x HTTP/1.1\r\nHost: shop.example\r\n\r\n")

    told = json.loads((await client.answer()).body)

    assert (told["scheme"], told["host"], told["url"]) == ("http", "shop.example", "http://shop.example/x")
    await client.send(b"GET https://shop.example/x HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    assert (await client.answer()).status == 421


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (
            {"trusted_proxies": ("localhost",)},
            r"Config\.trusted_proxies: 'localhost' is neither .* nor .*10\.0\.0\.0/8",
        ),
        ({"trusted_proxies": ("10.0.0.1/8",)}, "for that network write 10.0.0.0/8"),
        ({"trusted_proxies": "10.0.0.1"}, "give a tuple"),
        ({"forwarded_fields": "both"}, "use one of either, x-forwarded, forwarded"),
    ],
)
def test_a_wrong_setting_is_a_config_error_with_advice(settings, advice):
    with pytest.raises(ConfigError, match=advice):
        Config(**settings)

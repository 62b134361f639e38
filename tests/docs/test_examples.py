"""The examples: each does what its first lines say."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio

from examples import child, embedded, export, feed, gateway, orders, readings, sort
from tests.docs.clients import request
from tests.support.client import Client
from tests.support.program import trioserve
from tests.support.server import Running, happens, start
from tests.support.sockets import PATIENCE
from trioserve import Abandoned, Completed
from trioserve.cli.finding import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMMANDS = [
    (path.name, spec)
    for path in EXAMPLES
    for spec in re.findall(r"^trioserve run (\S+)", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("name", "spec"), COMMANDS, ids=[spec for _, spec in COMMANDS])
def test_what_the_first_lines_tell_to_run_is_in_the_file(name, spec):
    assert load(spec)
    assert spec.startswith(f"examples.{name.removesuffix('.py')}:")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_the_readme_names_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < (100 if "/careless/" in text else 60)  # some have everything twice
    assert f"[{path.name}]({path.name})" in (path.parent / "README.md").read_text()


async def until(client: Client, text: bytes) -> bytes:
    """What the client reads, up to and with what comes together with `text`."""
    received = b""
    while text not in received:
        data = await client.receive()
        assert data, f"{text!r} has not come: {received!r}"
        received += data
    return received


# readings.py


def is_being_written() -> bool:
    """True if somebody has written and neither committed nor rolled back; then SQLite keeps a journal."""
    return Path("readings.db-journal").exists()


@pytest.fixture
async def roof(nursery, tmp_path, monkeypatch) -> Running:
    """The readings' server, in a folder of its own, with one reading of the roof."""
    monkeypatch.chdir(tmp_path)
    server = await start(nursery, readings.app)
    client = await server.connect()
    answer = await client.post(b'{"sensor": "roof", "celsius": 21.5}\n', "/readings")
    assert answer.status == 201
    await server.records.next(Completed)
    return server


async def celsius(server: Running) -> object:
    async with httpx.AsyncClient(base_url=server.url) as client:
        return (await client.get("/readings/roof")).json()


async def test_readings_that_came_whole_are_there(roof):
    lines = b'{"sensor": "roof", "celsius": 22}\n{"sensor": "cellar", "celsius": 9}\n{"sensor": "roof", "celsius": 23}'
    assert (await (await roof.connect()).post(lines, "/readings")).status == 201
    assert await celsius(roof) == [21.5, 22, 23]


async def test_nothing_stays_of_readings_whose_client_left_in_the_middle(roof):
    lines = b'{"sensor": "roof", "celsius": 98}\n{"sensor": "roof", "celsius": 99}\n{"sensor": "ro'
    client = await roof.ask(request("POST /readings", lines, length=1000))
    with trio.fail_after(PATIENCE):
        while not is_being_written():
            await trio.lowlevel.checkpoint()
    client.close()
    record = await roof.records.next(Abandoned)
    assert (record.status, record.phase, record.outcome) == (400, "BODY", "cancelled")
    assert record.request_body_bytes == len(lines)
    assert await celsius(roof) == [21.5]
    assert not is_being_written()


async def test_nothing_stays_of_readings_one_of_which_is_malformed(roof):
    for wrong in (
        b'{"sensor": "roof"',
        b'{"sensor": "roof"}',
        b'{"sensor": "roof", "celsius": "hot"}',
        b"[1, 2]",
        b"1",
    ):
        answer = await (await roof.connect()).post(b'{"sensor": "roof", "celsius": 22}\n' + wrong, "/readings")
        assert answer.status == 400
        assert answer.body.startswith(b'400 Bad Request\neach line is like {"sensor": "roof", "celsius": 21.5}, but: ')
    assert await celsius(roof) == [21.5]


# feed.py


async def listen(server: Running, name: str, *fields: str) -> Client:
    client = await server.connect()
    await client.send("\r\n".join([f"GET /feed?name={name} HTTP/1.1", "Host: here", *fields, "", ""]).encode())
    return client


async def test_listeners_of_the_feed_hear_each_other_and_who_comes_back_hears_what_it_missed(nursery):
    server = await start(nursery, feed.app)
    ann = await listen(server, "ann")
    await until(ann, b"id: 1\ndata: ann is here\n\n")
    bob = await listen(server, "bob")
    for client in (ann, bob):
        await until(client, b"id: 2\ndata: bob is here\n\n")
    speaker = await server.connect()
    assert (await speaker.post(b"hello", "/feed")).status == 204
    for client in (ann, bob):
        await until(client, b"id: 3\ndata: hello\n\n")

    bob.close()
    await until(ann, b"id: 4\ndata: bob has left\n\n")
    assert (await speaker.post(b"where\nis bob?", "/feed")).status == 204
    await until(ann, b"id: 5\ndata: where\ndata: is bob?\n\n")

    bob = await listen(server, "bob", "Last-Event-ID: 3")
    received = await until(bob, b"id: 6\ndata: bob is here\n\n")
    missed = b"id: 4\ndata: bob has left\n\n", b"id: 5\ndata: where\ndata: is bob?\n\n", b"id: 6\n"
    assert [received.count(event) for event in missed] == [1, 1, 1]
    assert b"hello" not in received


async def test_a_listener_of_the_feed_that_leaves_is_reported_once_it_has_cleaned_up(nursery):
    server = await start(nursery, feed.app)
    ann = await listen(server, "ann")
    await until(ann, b"ann is here")
    ann.close()
    record = await server.records.next(Abandoned)
    assert (record.status, record.phase, record.outcome) == (499, "RESPONSE_BODY", "cancelled")
    bob = await listen(server, "bob", "Last-Event-ID: 1")
    await until(bob, b"ann has left")


async def test_the_feed_takes_an_id_that_it_does_not_know_for_none(nursery):
    server = await start(nursery, feed.app)
    ann = await listen(server, "ann", "Last-Event-ID: from before the restart")
    assert b"id: 1\ndata: ann is here" in await until(ann, b"ann is here")


# gateway.py


async def test_who_leaves_the_gateway_stops_the_upstream_behind_it():
    async with trioserve("run", "examples.gateway:upstream", "--port", "0", cwd=ROOT) as upstream:
        variables = {"UPSTREAM": await upstream.address()}
        async with trioserve("run", "examples.gateway:gateway", "--port", "0", cwd=ROOT, **variables) as passing:
            client = Client(await passing.connect())
            await client.send(request("GET /answers/why"))
            assert b"text/plain" in await until(client, b"why?")
            client.close()
            await upstream.line("the meter has stopped")
            assert await passing.end(signal.SIGTERM) == 0
        assert await upstream.end(signal.SIGTERM) == 0
    (left_gateway,) = passing.stdout
    _, _, left_upstream = upstream.stdout
    assert re.search(r'"GET /answers/why HTTP/1.1" 200 .* abandoned RESPONSE_BODY ', left_gateway)
    assert re.search(r'"GET /tokens\?question=why HTTP/1.1" 200 .* abandoned RESPONSE_BODY ', left_upstream)
    assert len(passing.stderr + upstream.stderr) == 4, "each says where it serves and that it drains, and no more"


async def test_the_gateway_passes_the_status_code_of_its_upstream_on(nursery, monkeypatch):
    upstream = await start(nursery, gateway.upstream)
    monkeypatch.setattr(gateway, "UPSTREAM", f"{upstream.url}/elsewhere")
    passing = await start(nursery, gateway.gateway)
    answer = await (await passing.connect()).get("/answers/why")
    assert (answer.status, answer.body[:13]) == (404, b"404 Not Found")


async def test_the_gateway_says_that_its_upstream_is_not_there(nursery, monkeypatch):
    nobody = await start(nursery, gateway.upstream)
    nobody.drain.set()
    await happens(nobody.ended.wait())
    monkeypatch.setattr(gateway, "UPSTREAM", nobody.url)
    passing = await start(nursery, gateway.gateway)
    answer = await (await passing.connect()).get("/answers/why")
    assert (answer.status, answer.body[:15]) == (502, b"502 Bad Gateway")


# child.py


async def test_a_child_has_ended_when_its_client_has_left(nursery, capsys):
    server = await start(nursery, child.app)
    client = await server.ask(request("GET /count"))
    await until(client, b"\r\n1")  # the line break may come in another chunk
    (pid,) = map(int, re.findall(r"^child (\d+) runs$", capsys.readouterr().out, re.MULTILINE))
    os.kill(pid, 0)  # it is there
    client.close()
    record = await server.records.next(Abandoned)  # made when the handler has unwound
    assert (record.phase, record.outcome) == ("RESPONSE_BODY", "cancelled")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# orders.py, export.py and sort.py: the careless and the safe handlers do the same as long as their clients stay


BOTH = pytest.mark.parametrize("prefix", ["", "/careless"], ids=["safe", "careless"])


@BOTH
async def test_an_order_is_two_rows_and_no_file_stays(nursery, tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SECONDS_TO_RESERVE", "0")
    warehouse = await start(nursery, orders.warehouse)
    monkeypatch.setattr(orders, "WAREHOUSE", warehouse.url)
    server = await start(nursery, orders.app)
    answer = await (await server.connect()).post(b'{"item": "pear"}', f"{prefix}/orders")
    assert answer.status == 201
    with closing(sqlite3.connect("orders.db")) as connection:
        rows = connection.execute("select * from orders union all select * from reservations").fetchall()
    assert rows == [("pear",), ("pear",)]
    assert [path.name for path in tmp_path.iterdir()] == ["orders.db"]
    assert orders.pool.free == 2


@BOTH
async def test_an_export_has_all_rows(nursery, tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    server = await start(nursery, export.app)
    answer = await (await server.connect()).get(f"{prefix}/squares.csv?to=1234")
    assert answer.body.decode().splitlines() == [f"{n},{n * n}" for n in range(1, 1235)]
    assert export.pool.free == 2


@BOTH
async def test_a_child_sorts(nursery, prefix):
    server = await start(nursery, sort.app)
    answer = await (await server.connect()).post(b"pear\napple\n", f"{prefix}/sorted")
    assert answer.body == b"apple\npear\n"


# embedded.py


async def test_embedded_drains_and_returns(autojump_clock, capsys):
    await embedded.main(port=0)
    listening, drained = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:[1-9]\d*", listening)
    assert drained == "drained"

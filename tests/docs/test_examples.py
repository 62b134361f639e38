"""The examples: each does what its first lines say."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import trio

from examples import child, embedded, hello
from tests.docs.clients import Log, leave, request
from tests.support.program import trioserve
from trioserve import Config
from trioserve.cli import load
from trioserve.testing import memory_server

ROOT = Path(__file__).parents[2]
COMMANDS = [
    (path.name, spec)
    for path in sorted((ROOT / "examples").glob("*.py"))
    for spec in re.findall(r"^trioserve run (\S+)", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("name", "spec"), COMMANDS, ids=[spec for _, spec in COMMANDS])
def test_what_the_first_lines_tell_to_run_is_in_the_file(name, spec):
    assert load(spec)
    assert spec.startswith(f"examples.{name.removesuffix('.py')}:")


async def test_hello_stops_when_its_client_leaves(autojump_clock, capsys):
    async with memory_server(hello.app) as server:
        await leave(server.connect(), request("GET /reports/2025"))
    assert capsys.readouterr().out == "499 HANDLER FIN /reports/2025\n"


async def test_who_leaves_the_gateway_stops_the_service_behind_it():
    async with trioserve("run", "examples.gateway:service", "--port", "0", cwd=ROOT) as service:
        variables = {"SERVICE": await service.address()}
        async with trioserve("run", "examples.gateway:gateway", "--port", "0", cwd=ROOT, **variables) as gateway:
            client = await gateway.connect()
            await client.send_all(request("GET /answers/why"))
            await service.line("thinking about question=why")
            await client.aclose()
            await service.line("the meter has stopped")
            assert await gateway.end(signal.SIGTERM) == 0
        assert await service.end(signal.SIGTERM) == 0
    (left_gateway,) = gateway.stdout
    _, _, left_service = service.stdout
    assert '"GET /answers/why HTTP/1.1" 499 ' in left_gateway
    assert '"GET /models/large?question=why HTTP/1.1" 499 ' in left_service
    assert len(gateway.stderr + service.stderr) == 4, "each says where it serves and that it drains, and no more"


async def test_child_is_killed_when_its_client_leaves(capsys):
    log = Log()
    async with memory_server(child.app, Config(observers=(log,))) as server:
        client = server.connect()
        await client.send_all(request("GET /count"))
        received = b""
        with trio.fail_after(20):
            while received.endswith(b"\r\n\r\n") or not received:  # the head alone
                received += await client.receive_some()
        client.close()
    (record,) = log.records
    assert (record.phase, record.outcome) == ("RESPONSE_BODY", "cancelled")
    pid = int(re.fullmatch(r"child (\d+) runs\n", capsys.readouterr().out)[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_embedded_drains_and_returns(autojump_clock, capsys):
    await embedded.main(port=0)
    listening, drained = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:[1-9]\d*", listening)
    assert drained == "drained"

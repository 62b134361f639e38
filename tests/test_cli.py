"""The command line, as a user meets it: a process with arguments, an environment, signals and two output streams."""

from __future__ import annotations

import dataclasses
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.support.program import Program, command, finished, trioserve
from tests.support.tls import TlsClient, client_context, write_certificate
from trioserve import Deadlines, Limits
from trioserve.cli import main

SHOP = """
import trio
from trioserve import App

app = App()
shelf = object()

@app.get("/hello")
async def hello():
    return "hello"

@app.get("/sleep")
async def sleep():
    print("sleep: started")
    try:
        await trio.sleep(30)
    except trio.Cancelled:
        print("sleep: cancelled")
        raise

@app.post("/order")
async def order(request):
    print("order: started")
    return await request.body()

@app.on_abandoned
async def tell(event):
    print("hook:", event.status, event.phase, event.cause, event.target)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the application shop:app."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def request(method: str, target: str, *fields: str, body: str = "") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: shop", *fields, "", body]).encode()


async def everything(stream: trio.SocketStream) -> bytes:
    """What comes until the server closes; then the client closes too."""
    async with stream:
        return b"".join([data async for data in stream])


async def answer(stream: trio.abc.Stream, data: bytes) -> str:
    """Send a request; the status line and the body of what is answered before the server closes."""
    await stream.send_all(data)
    head, _, body = (await everything(stream)).decode().partition("\r\n\r\n")
    return f"{head.splitlines()[0]} {body}".rstrip()


CLOSE = "Connection: close"


# trioserve run


async def test_run_serves_the_application_and_prints_where(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        line = await program.line("trioserve: serving")
        assert re.fullmatch(
            r"trioserve: serving shop:app on http://127\.0\.0\.1:[1-9]\d* \(Ctrl-C to stop\)",
            line,
        )
        assert await answer(await program.connect(), request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"


async def test_run_listens_on_every_host_given(shop):
    async with trioserve(
        "run", "shop:app", "--host", "127.0.0.1", "--host", "127.0.0.2", "--port", "0", cwd=shop
    ) as program:
        addresses = re.findall(r"http://([\d.]+):(\d+)", await program.line("trioserve: serving"))
        assert [host for host, _ in addresses] == ["127.0.0.1", "127.0.0.2"]
        for host, port in addresses:
            stream = await trio.open_tcp_stream(host, int(port))
            assert await answer(stream, request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"


async def test_run_serves_a_unix_socket_and_removes_it_at_the_end(shop):
    async with trioserve("run", "shop:app", "--unix", "s", cwd=shop) as program:
        assert "on unix:s " in await program.line("trioserve: serving")
        stream = await trio.open_unix_socket(shop / "s")
        assert await answer(stream, request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"
        assert await program.end(signal.SIGTERM) == 0
    assert not (shop / "s").exists()


async def test_a_client_that_gives_up_cancels_the_handler_and_is_told_of_once(shop):
    """What `curl -m 0.3` does to a handler that sleeps for 30 s, and all that is ever printed about it."""
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        client = await program.connect()
        await client.send_all(request("GET", "/sleep"))
        await program.line("sleep: started")
        await client.aclose()
        await program.line("hook:")
        assert await program.end(signal.SIGTERM) == 0
    # The access log is written by a thread of its own, beside what others print.
    hook = next(line for line in program.stdout if line.startswith("hook: "))
    started, cancelled, access = (line for line in program.stdout if line != hook)
    assert (started, cancelled) == ("sleep: started", "sleep: cancelled")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} 127\.0\.0\.1:\d+ "
        r'"GET /sleep HTTP/1\.1" 499 0B \d+\.\dms abandoned HANDLER FIN cancelled unwind=\d+\.\dms',
        access,
    )
    assert hook == "hook: 499 HANDLER FIN /sleep"
    serving, draining = program.stderr
    assert serving.startswith("trioserve: serving")
    assert draining.startswith("trioserve: draining")


async def test_the_access_log_has_a_line_for_a_completed_exchange(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        await answer(await program.connect(), request("GET", "/hello?a=b", CLOSE))
        assert await program.end(signal.SIGTERM) == 0
    (line,) = program.stdout
    assert re.fullmatch(r'\S+ \S+ 127\.0\.0\.1:\d+ "GET /hello\?a=b HTTP/1\.1" 200 5B \d+\.\dms', line)


async def test_no_access_log_prints_nothing(shop):
    async with trioserve("run", "shop:app", "--port", "0", "--no-access-log", cwd=shop) as program:
        await answer(await program.connect(), request("GET", "/hello", CLOSE))
        assert await program.end(signal.SIGTERM) == 0
    assert program.stdout == []


async def test_an_application_that_sets_up_logging_gets_the_access_log_its_own_way(shop):
    (shop / "own.py").write_text(
        "import logging, sys\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='own %(name)s')\n"
        "from shop import app\n"
    )
    async with trioserve("run", "own:app", "--port", "0", cwd=shop) as program:
        await answer(await program.connect(), request("GET", "/hello", CLOSE))
        assert await program.end(signal.SIGTERM) == 0
    assert program.stdout == ["own trioserve.access"]


async def without_proxy_header(app: str, *options: str, cwd: Path, **variables: str) -> Program:
    """The output of a server to which a client has come that is refused at the opening of its connection."""
    async with trioserve("run", app, "--port", "0", "--proxy-protocol", *options, cwd=cwd, **variables) as program:
        stream = await program.connect()
        await stream.send_all(request("GET", "/"))
        assert await everything(stream) == b""
        assert await program.end(signal.SIGTERM) == 0
    return program


@pytest.mark.parametrize(
    ("options", "variables", "told"),
    [
        ([], {}, False),
        (["--log-level", "info"], {}, False),
        (["--log-level", "debug"], {}, True),
        ([], {"TRIOSERVE_LOG_LEVEL": "debug"}, True),
    ],
)
async def test_the_log_level_decides_whether_a_connection_that_comes_to_nothing_is_told_of(
    shop, options, variables, told
):
    program = await without_proxy_header("shop:app", *options, cwd=shop, **variables)
    assert any("at its opening" in line for line in program.stderr) is told


async def test_the_log_level_holds_where_the_application_has_set_up_logging_itself(shop):
    (shop / "own.py").write_text(
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout, format='own %(levelname)s %(name)s')\n"
        "from shop import app\n"
    )
    program = await without_proxy_header("own:app", "--log-level", "debug", cwd=shop)
    assert program.stdout == ["own DEBUG trioserve.error"]


# Behind proxies

TELLS = """
from trioserve import App

app = App()

@app.get("/")
async def tell(request):
    return f"{request.client and request.client[0]} {request.url}"
"""


@pytest.fixture
def behind(tmp_path: Path) -> Path:
    """A directory with the application behind:app."""
    (tmp_path / "behind.py").write_text(TELLS)
    return tmp_path


FORWARDED = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example")


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "127.0.0.1"], {}),
        ([], {"TRIOSERVE_TRUSTED_PROXY": "10.0.0.0/8 127.0.0.1", "TRIOSERVE_FORWARDED_FIELDS": "x-forwarded"}),
    ],
)
async def test_a_trusted_proxy_is_believed(behind, options, variables):
    async with trioserve("run", "behind:app", "--port", "0", *options, cwd=behind, **variables) as program:
        told = await answer(await program.connect(), request("GET", "/", *FORWARDED, CLOSE))
        assert told == "HTTP/1.1 200 OK 203.0.113.9 https://shop.example/"
        assert '203.0.113.9 "GET / HTTP/1.1" 200' in await program.line("20")


async def test_without_that_nobody_is_believed(behind):
    async with trioserve("run", "behind:app", "--port", "0", cwd=behind) as program:
        told = await answer(await program.connect(), request("GET", "/", *FORWARDED, CLOSE))
        assert told == "HTTP/1.1 200 OK 127.0.0.1 http://shop/"


async def test_the_proxy_protocol_is_asked_for_at_every_address(behind):
    header = b"PROXY TCP4 203.0.113.9 192.0.2.2 51234 443\r\n"
    options = ["--proxy-protocol", "--port", "0", "--unix", "s"]
    async with trioserve("run", "behind:app", *options, cwd=behind) as program:
        await program.line("trioserve: serving")
        for stream in (await program.connect(), await trio.open_unix_socket(behind / "s")):
            told = await answer(stream, header + request("GET", "/", CLOSE))
            assert told == "HTTP/1.1 200 OK 203.0.113.9 http://shop/"
        stream = await program.connect()
        await stream.send_all(request("GET", "/"))
        assert await everything(stream) == b""


# TLS


@pytest.fixture
def certified(shop):
    """The shop, with the files of a certificate and of its key."""
    write_certificate(shop)
    return shop


async def secure_answer(program: Program, data: bytes) -> str:
    stream = TlsClient(await program.connect(), client_context())
    await stream.handshake()
    await stream.send_all(data)
    received = b""
    while part := await stream.receive_some():
        received += part
    await stream.aclose()
    head, _, body = received.decode().partition("\r\n\r\n")
    return f"{head.splitlines()[0]} {body}".rstrip()


async def test_with_a_certificate_it_serves_over_tls_and_unix_sockets_in_the_clear(certified):
    options = ["--tls-certificate", "certificate.pem", "--tls-key", "key.pem", "--port", "0", "--unix", "s"]
    async with trioserve("run", "shop:app", *options, cwd=certified) as program:
        line = await program.line("trioserve: serving")
        assert re.search(r" on https://127\.0\.0\.1:\d+, unix:s ", line)
        assert await secure_answer(program, request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"
        stream = await trio.open_unix_socket(certified / "s")
        assert await answer(stream, request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"


async def test_the_certificate_may_be_said_in_the_environment_and_have_its_key_with_it(certified):
    names = ["certificate.pem", "key.pem"]
    (certified / "both.pem").write_text("".join((certified / name).read_text() for name in names))
    variables = {"TRIOSERVE_TLS_CERTIFICATE": "both.pem", "TRIOSERVE_PORT": "0"}
    async with trioserve("run", "shop:app", cwd=certified, **variables) as program:
        assert await secure_answer(program, request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-key", "key.pem"], ["--tls-key without --tls-certificate"]),
        (["--tls-certificate", "certificate.pem"], ["no private key", "certificate.pem"]),
        (["--tls-certificate", "missing.pem"], ["cannot read missing.pem"]),
        (["--tls-certificate", "certificate.pem", "--tls-key", "key.pem", "--unix", "s"], ["in the clear", "--host"]),
    ],
)
def test_a_mistake_about_certificates_is_one_clear_line(certified, options, words):
    assert_one_clear_line(finished("run", "shop:app", *options, cwd=certified), *words)


# Signals


async def test_after_sigterm_accepting_goes_on_for_the_drains_delay(shop):
    (shop / "ready.py").write_text("from shop import app\napp.readiness('/ready')\n")
    delay = {"TRIOSERVE_DEADLINE_DRAIN_DELAY": "20"}
    async with trioserve("run", "ready:app", "--port", "0", cwd=shop, **delay) as program:
        assert await answer(await program.connect(), request("GET", "/ready", CLOSE)) == "HTTP/1.1 200 OK ready"
        program.process.send_signal(signal.SIGTERM)
        await program.line("trioserve: draining")
        assert (await answer(await program.connect(), request("GET", "/ready"))).startswith("HTTP/1.1 503 ")
        assert await answer(await program.connect(), request("GET", "/hello")) == "HTTP/1.1 200 OK hello"
        await program.insist(signal.SIGTERM)
        assert await program.process.wait() == 0


async def test_after_sigint_nobody_waits_for_the_drains_delay(shop):
    async with trioserve(
        "run",
        "shop:app",
        "--port",
        "0",
        cwd=shop,
        TRIOSERVE_DEADLINE_DRAIN_DELAY="1000",
        TRIOSERVE_DEADLINE_DRAIN="1000",
    ) as program:
        await program.port()
        assert await program.end(signal.SIGINT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_an_exchange_under_way_end(shop, number):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        client = await program.connect()
        await client.send_all(request("POST", "/order", "Content-Length: 5", body="te"))
        await program.line("order: started")
        program.process.send_signal(number)
        await program.line("trioserve: draining")
        assert (await answer(client, b"apo")) == "HTTP/1.1 200 OK teapo"
        assert await program.process.wait() == 0


async def test_a_signal_to_replace_workers_that_are_not_there_is_told_and_the_server_goes_on(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        await program.port()
        program.process.send_signal(signal.SIGHUP)
        assert "--workers" in await program.line("trioserve: SIGHUP")
        async with await program.connect() as client:
            await client.send_all(request("GET", "/hello", "Connection: close"))
            assert (await everything(client)).endswith(b"hello")
        assert await program.end(signal.SIGINT) == 0
    assert program.stderr[1:] == [
        "trioserve: SIGHUP replaces workers, and there are none; start with --workers for that",
        "trioserve: draining; signal again to stop at once",
    ]


async def test_a_terminal_that_hangs_up_drains_the_server(shop):
    """The kernel sends SIGHUP then too; whoever sat there is gone, and nothing can be said to them."""
    terminal, end = pty.openpty()
    process = await trio.lowlevel.open_process(
        command("run", "shop:app", "--unix", "s"), cwd=shop, stdin=end, stdout=end, stderr=end, start_new_session=True
    )
    os.close(end)
    while b"serving" not in await trio.to_thread.run_sync(os.read, terminal, 4096):
        pass
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert await process.wait() == 0
    assert not (shop / "s").exists(), "it has ended as it should"


async def test_two_signals_at_once_are_one_order(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        client = await program.connect()
        await client.send_all(request("POST", "/order", "Content-Length: 5", body="te"))
        await program.line("order: started")
        program.process.send_signal(signal.SIGTERM)
        program.process.send_signal(signal.SIGINT)
        await program.line("trioserve: draining")
        assert (await answer(client, b"apo")) == "HTTP/1.1 200 OK teapo"
        assert await program.process.wait() == 0
    assert "trioserve: stopping" not in program.stderr


async def test_the_second_signal_stops_at_once(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop) as program:
        client = await program.connect()
        await client.send_all(request("GET", "/sleep"))
        await program.line("sleep: started")
        program.process.send_signal(signal.SIGINT)
        await program.line("trioserve: draining")
        await program.insist(signal.SIGINT)
        assert (await everything(client)).startswith(b"HTTP/1.1 503 ")
        assert await program.process.wait() == 0
    assert "sleep: cancelled" in program.stdout


async def test_a_third_signal_does_not_cut_a_handler_that_cleans_up(shop):
    (shop / "careful.py").write_text(
        "import trio\n"
        "from trioserve import App\n"
        "app = App()\n"
        "@app.get('/')\n"
        "async def handler():\n"
        "    try:\n"
        "        print('started')\n"
        "        await trio.sleep_forever()\n"
        "    finally:\n"
        "        with trio.CancelScope(shield=True):\n"
        "            print('cleaning up')\n"
        "            async with await trio.open_file('told') as told:\n"
        "                await told.read()\n"
        "        print('clean')\n"
    )
    os.mkfifo(shop / "told")
    async with (
        trioserve("run", "careful:app", "--port", "0", cwd=shop) as program,
        await program.connect() as client,
    ):
        await client.send_all(request("GET", "/"))
        await program.line("started")
        program.process.send_signal(signal.SIGINT)
        await program.line("trioserve: draining")
        await program.insist(signal.SIGINT)
        await program.line("cleaning up")
        await program.insist(signal.SIGINT)
        await program.line("trioserve: stopping; waiting")
        async with await trio.open_file(shop / "told", "w"):
            pass
        assert await program.process.wait() == 0
    assert "clean" in program.stdout


SLOW_START = """
import trio
from collections.abc import AsyncIterator
from trioserve import App
app = App()
@app.lifespan
async def life() -> AsyncIterator[None]:
    try:
        print('starting')
        await trio.sleep_forever()
        yield
    finally:
        print('clean')
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
async def test_a_signal_while_a_lifespan_starts_stops_it(shop, number, workers):
    (shop / "slow.py").write_text(SLOW_START)
    async with trioserve("run", "slow:app", "--port", "0", *workers, cwd=shop) as program:
        await program.line("starting")
        assert await program.end(number) == 0
    assert program.stdout == ["starting", "clean"]
    assert len(program.stderr) == 1


async def test_a_signal_while_importing_ends_it_without_a_traceback(shop):
    (shop / "slow.py").write_text("print('importing')\nimport time\ntime.sleep(30)\n")
    async with trioserve("run", "slow:app", "--port", "0", cwd=shop) as program:
        await program.line("importing")
        assert await program.end(signal.SIGINT) == 130
    assert "".join(program.stderr) == ""


# The environment


@pytest.mark.parametrize("parameter", main.commands["run"].params + main.commands["demo"].params, ids=lambda p: p.name)
def test_every_option_has_an_environment_variable_of_its_name(parameter):
    if parameter.name != "app":
        assert parameter.envvar == f"TRIOSERVE_{parameter.name.upper()}"


async def test_environment_variables_are_options(shop):
    async with trioserve(
        "run",
        "shop:app",
        cwd=shop,
        TRIOSERVE_HOST="127.0.0.1 127.0.0.2",
        TRIOSERVE_PORT="0",
        TRIOSERVE_ACCESS_LOG="no",
        TRIOSERVE_HALF_CLOSE="finish",
        TRIOSERVE_LIMIT_BODY="3",
        TRIOSERVE_DEADLINE_HANDLER="0.01",
    ) as program:
        assert "http://127.0.0.2:" in await program.line("trioserve: serving")

        too_large = request("POST", "/order", "Content-Length: 4", CLOSE, body="four")
        assert (await answer(await program.connect(), too_large)).startswith("HTTP/1.1 413 ")

        assert (await answer(await program.connect(), request("GET", "/sleep"))).startswith("HTTP/1.1 503 ")

        client = await program.connect()
        await client.send_all(request("GET", "/hello"))
        await client.send_eof()
        assert (await everything(client)).endswith(b"hello")

        assert await program.end(signal.SIGTERM) == 0
    assert program.stdout == ["sleep: started", "sleep: cancelled"]


async def test_an_option_outranks_its_environment_variable(shop):
    async with trioserve("run", "shop:app", "--port", "0", cwd=shop, TRIOSERVE_PORT="1") as program:
        assert await program.port() > 1


async def test_a_deadline_or_limit_may_be_infinite(shop):
    async with trioserve(
        "run", "shop:app", "--port", "0", "--limit-body", "inf", "--deadline-idle", "inf", cwd=shop
    ) as program:
        assert await answer(await program.connect(), request("GET", "/hello", CLOSE)) == "HTTP/1.1 200 OK hello"


# trioserve demo


async def test_demo_prints_what_to_try_and_serves_it(tmp_path):
    async with trioserve("demo", "--port", "0", cwd=tmp_path) as program:
        await program.line("What the server hears")
        printed = "\n".join(program.stdout)
        address = await program.address()
        assert f"curl -m 2 {address}/report/2025" in printed
        host = f"Host: {address.removeprefix('http://')}"
        served = await answer(await program.connect(), f"GET /try HTTP/1.1\r\n{host}\r\n{CLOSE}\r\n\r\n".encode())
        assert printed.strip() in served


async def test_demo_searches_the_standard_library(tmp_path):
    async with trioserve("demo", "--port", "0", cwd=tmp_path) as program:
        found = await answer(await program.connect(), request("GET", "/search?q=Gur+Mra+bs+Clguba", CLOSE))
    assert '{"match":{"path":"this.py","line":1,' in found


async def test_demo_searches_a_directory(tmp_path):
    (tmp_path / "notes.txt").write_text("one\na needle\n")
    async with trioserve("demo", "--port", "0", "--path", str(tmp_path), cwd=tmp_path) as program:
        found = await answer(await program.connect(), request("GET", "/search?q=needle", CLOSE))
    assert '{"match":{"path":"notes.txt","line":2,"pieces":["a ","needle",""]}}' in found


async def test_demo_stops_soon_while_a_page_looks_on(tmp_path):
    async with trioserve("demo", "--port", "0", cwd=tmp_path) as program, await program.connect() as page:
        await page.send_all(request("GET", "/panel"))
        assert (await page.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert await program.end(signal.SIGTERM) == 0


# Mistakes


def assert_one_clear_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("trioserve: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nosuch:app"], ["no module 'nosuch'"]),
        (["run", "shop.nosuch:app"], ["no module 'shop.nosuch'"]),
        (["run", "shop:nosuch"], ["'shop' has no attribute 'nosuch'"]),
        (["run", "shop"], ["'shop' is not MODULE:ATTR", "main:app"]),
        (["run", "shop:"], ["not MODULE:ATTR"]),
        (["run", "shop.py:app"], ["not MODULE:ATTR"]),
        (["run", "../shop:app"], ["not MODULE:ATTR"]),
        (["run", "shop:shelf"], ["no application", "object", "trioserve.App"]),
        (["run", "shop:App"], ["no application"]),
        (["run"], ["MODULE:ATTR"]),
        (["run", "shop:app", "--port", "http"], ["--port", "'http'"]),
        (["run", "shop:app", "--port", "65536"], ["--port", "65536"]),
        (["run", "shop:app", "--half-close", "maybe"], ["--half-close", "'maybe'", "'abort', 'finish', 'probe'"]),
        (["run", "shop:app", "--hangup-news", "maybe"], ["--hangup-news", "'kernel', 'read-ahead', 'none'"]),
        (["run", "shop:app", "--engine", "fast"], ["--engine", "'h11', 'h11r'"]),
        (
            ["run", "shop:app", "--forwarded-fields", "both"],
            ["--forwarded-fields", "'either', 'x-forwarded', 'forwarded'"],
        ),
        (["run", "shop:app", "--trusted-proxy", "proxy"], ["trusted_proxies", "'proxy'", "10.0.0.0/8"]),
        (["run", "shop:app", "--deadline-idle", "soon"], ["--deadline-idle", "'soon'", "positive"]),
        (["run", "shop:app", "--deadline-idle", "nan"], ["--deadline-idle", "'nan'", "positive"]),
        (["run", "shop:app", "--deadline-idle", "0"], ["--deadline-idle", "'0'", "positive"]),
        (["run", "shop:app", "--deadline-vanish", "2.9"], ["vanish", "at least 3"]),
        (["run", "shop:app", "--limit-body", "1.5"], ["--limit-body", "'1.5'", "whole"]),
        (["run", "shop:app", "--limit-body", "-1"], ["--limit-body", "'-1'", "positive"]),
        (["run", "shop:app", "--prot", "80"], ["--prot"]),
        (["run", "shop:app", "--host", "host.invalid"], ["cannot listen on http://host.invalid:8000"]),
        (["run", "shop:app", "--unix", "no/such/directory"], ["cannot listen on unix:no/such/directory"]),
        (["run", "shop:app", "--unix", "shop.py"], ["cannot listen on unix:shop.py", "no socket"]),
        (["walk"], ["'walk'"]),
        (["demo", "--port", "http"], ["--port", "'http'"]),
        (["demo", "--path", "no/such"], ["invalid value for --path: ", "no directory no/such"]),
        (["demo", "--path", "shop.py"], ["--path", "shop.py is no directory"]),
    ],
    ids=lambda value: " ".join(value[1:]) if value and value[0] in {"run", "walk", "demo"} else "",
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(shop, arguments, words):
    assert_one_clear_line(finished(*arguments, cwd=shop), *words)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("HALF_CLOSE", "maybe"),
        ("ACCESS_LOG", "maybe"),
        ("DEADLINE_IDLE", "soon"),
        ("LIMIT_BODY", "1.5"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(shop, variable, value):
    name = f"TRIOSERVE_{variable}"
    assert_one_clear_line(finished("run", "shop:app", cwd=shop, **{name: value}), f"{name}: '{value}'")


def test_a_mistake_on_the_command_line_names_the_option_and_not_the_variable(shop):
    ended = finished("run", "shop:app", "--port", "http", cwd=shop, TRIOSERVE_PORT="8000")
    assert_one_clear_line(ended, "--port: 'http'")
    assert "TRIOSERVE" not in ended.stderr


def test_a_port_in_use_is_one_clear_line(shop):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ended = finished("run", "shop:app", "--port", port, cwd=shop)
    assert_one_clear_line(ended, f"cannot listen on http://127.0.0.1:{port}", "in use")


@pytest.mark.parametrize(
    "wait", ["raise ConnectionError('no\\ndatabase')", "async with trio.open_nursery() as n: n.start_soon(connect)"]
)
def test_a_lifespan_that_fails_at_the_start_is_its_traceback_alone_and_one_line(shop, wait):
    (shop / "failing.py").write_text(
        "import trio\nfrom collections.abc import AsyncIterator\nfrom trioserve import App\napp = App()\n"
        "async def connect():\n    raise ConnectionError('no\\ndatabase')\n"
        f"@app.lifespan\nasync def database() -> AsyncIterator[None]:\n    {wait}\n    yield\n"
    )
    ended = finished("run", "failing:app", "--port", "0", cwd=shop)
    assert ended.returncode == 1
    *trace, last = ended.stderr.splitlines()
    place = shop / "failing.py"
    assert last == (
        f"trioserve: the lifespan failing.database ({place}:7) failed at the start: ConnectionError: no database"
    )
    assert trace[0] == "Traceback (most recent call last):"
    assert str(place) in trace[1], "it begins where the user's code does"
    assert ended.stderr.count("Traceback") == 1
    assert "Group" not in ended.stderr
    assert "raise ConnectionError" in ended.stderr


def test_a_unix_socket_in_use_is_one_clear_line(shop):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(shop / "s"))
        other.listen()
        assert_one_clear_line(finished("run", "shop:app", "--unix", "s", cwd=shop), "cannot listen on unix:s")
    assert (shop / "s").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nosuch", ["ModuleNotFoundError", "'nosuch'", "line 1"]),
        ("import broken.part", ["ModuleNotFoundError", "'broken'", "line 1"]),
        ("\n1 / 0", ["ZeroDivisionError", "line 2"]),
        ("import json\njson.loads('{')", ["JSONDecodeError", "broken.py, line 2"]),
        ("raise ValueError('one\\ntwo')", ["ValueError: one two"]),
        ("def (", ["SyntaxError", "broken.py, line 1"]),
        ("raise SystemExit('no settings')", ["SystemExit: no settings", "line 1"]),
        (
            "from trioserve import App\napp = App()\n@app.get('x')\ndef x(): ...",
            ["ConfigError", "'x'", "broken.py, line 3"],
        ),
    ],
    ids=range(8),
)
def test_an_error_while_importing_is_one_clear_line_with_its_place(shop, source, words):
    (shop / "broken.py").write_text(source)
    assert_one_clear_line(finished("run", "broken:app", cwd=shop), "cannot import 'broken'", *words)


# trioserve routes

CATALOGUE = """
from trioserve import FINISH, App, Cause, Grace, Phase, Router

app = App(deadline=30)
empty = App()

@app.get("/")
async def home(): ...

@app.route("/orders/{order:int}", methods=["PUT", "DELETE"], disconnect=FINISH, max_body=5000)
def change(order): ...

api = Router(disconnect=Grace(2), abandoned_status=202)

def by_phase(phase, cause):
    return 499

class Shelf:
    async def show(self, item): ...

    async def __call__(self): ...

    def __repr__(self):
        return "Shelf()"

api.get("/{item}", abandoned_status={(Phase.HANDLER, Cause.FIN): 409}, half_close="probe", deadline=5)(Shelf().show)
api.post("", abandoned_status=by_phase)(Shelf())

@api.websocket("/live")
async def live(socket): ...

app.include(api, prefix="/api")

class Other:
    hooks = ()
    rules = None
    def endpoint(self, head): ...

other = Other()
"""


def test_routes_prints_each_route_with_its_handler_and_the_policies_that_differ(tmp_path):
    (tmp_path / "catalogue.py").write_text(CATALOGUE)
    ended = finished("routes", "catalogue:app", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [re.split(r"  +", line) for line in ended.stdout.splitlines()] == [
        ["GET", "/", "catalogue.home (catalogue.py:7)", "deadline=30"],
        [
            "PUT,DELETE",
            "/orders/{order:int}",
            "catalogue.change (catalogue.py:10)",
            "disconnect=FINISH deadline=30 max_body=5000",
        ],
        [
            "GET",
            "/api/{item}",
            "catalogue.Shelf.show (catalogue.py:19)",
            "disconnect=Grace(2) half_close=probe abandoned_status=202 abandoned_status={HANDLER FIN: 409} deadline=5",
        ],
        [
            "POST",
            "/api",
            "catalogue.Shelf() (catalogue.py:21)",
            "disconnect=Grace(2) abandoned_status=202 abandoned_status=catalogue.by_phase deadline=30",
        ],
        [
            "WEBSOCKET",
            "/api/live",
            "catalogue.live (catalogue.py:29)",
            "disconnect=Grace(2) abandoned_status=202 deadline=inf",
        ],
    ]


def test_routes_are_printed_in_columns_without_anything_behind_them(shop):
    ended = finished("routes", "shop:app", cwd=shop)
    assert ended.stdout.splitlines() == [
        "GET   /hello  shop.hello (shop.py:8)",
        "GET   /sleep  shop.sleep (shop.py:12)",
        "POST  /order  shop.order (shop.py:21)",
    ]


def test_routes_says_where_there_are_none(tmp_path):
    (tmp_path / "catalogue.py").write_text(CATALOGUE)
    ended = finished("routes", "catalogue:empty", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "trioserve: catalogue:empty has no routes\n")
    assert_one_clear_line(
        finished("routes", "catalogue:other", cwd=tmp_path), "no routes to print", "trioserve.App", "of type Other"
    )


def test_routes_needs_an_application(shop):
    assert_one_clear_line(finished("routes", "shop:missing", cwd=shop), "no attribute 'missing'")
    assert_one_clear_line(finished("routes", cwd=shop), "MODULE:ATTR")


# Help and version


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], []], ids=" ".join)
def test_help_names_the_commands(tmp_path, arguments):
    ended = finished(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"\brun\b", ended.stdout)
    assert re.search(r"\broutes\b", ended.stdout)
    assert re.search(r"\bdemo\b", ended.stdout)


def test_help_of_run_names_every_deadline_and_limit_with_its_default(tmp_path):
    ended = finished("run", "-h", cwd=tmp_path)
    assert ended.returncode == 0
    text = " ".join(ended.stdout.split())
    for cls, prefix in [(Deadlines, "deadline"), (Limits, "limit")]:
        for field in dataclasses.fields(cls):
            option = f"--{prefix}-{field.name.replace('_', '-')}"
            _, _, after = text.partition(f"{option} ")
            assert float(re.search(r"\[default: (\S+)\]", after)[1]) == field.default


def test_help_of_run_names_deadlines_and_limits_as_options(tmp_path):
    text = "".join(finished("run", "-h", cwd=tmp_path).stdout.split())
    assert "notcome,orbelow--limit-body-rate;then408." in text
    assert "`" not in text


@pytest.mark.parametrize(
    "program", [command(), [str(Path(sys.executable).with_name("trioserve"))]], ids=["module", "script"]
)
def test_the_installed_program_knows_its_version(tmp_path, program: Sequence[str]):
    ended = subprocess.run([*program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"trioserve \d+\.\d+\.\d+\n", ended.stdout)

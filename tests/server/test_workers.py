"""Worker processes and their supervisor, as a user meets them: a command, signals, requests, and what is printed.

What is decided is in test_fleet.py; here is that it is carried out.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from pathlib import Path

import pytest
import trio

from tests.server.test_systemd import Manager, activated
from tests.support import PATIENCE, Client, connect
from tests.support.program import Program, command, finished, trioserve
from trioserve import Config, ConfigError, OpenSocket, TcpAddress, UnixAddress
from trioserve.server.workers import VARIABLE, Inheritance, Supervisor, _Process

SHOP = """
import os
from collections.abc import AsyncIterator
import trio
from trioserve import App

app = App()
app.readiness("/ready")

@app.lifespan
async def life() -> AsyncIterator[None]:
    print(f"starts: {os.getpid()}")
    yield
    print(f"ends: {os.getpid()}")

@app.get("/pid")
async def pid():
    return str(os.getpid())

@app.post("/order")
async def order(request):
    print("order: started")
    return await request.body()

@app.get("/sleep")
async def sleep():
    print("sleep: started")
    await trio.sleep_forever()
"""

TWO = ("--workers", "2")
ANYWHERE = ("--port", "0")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the application shop:app."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def pids(lines: list[str]) -> set[int]:
    return {int(line.partition(": ")[2]) for line in lines}


async def client_of(program: Program) -> Client:
    return await connect(TcpAddress("127.0.0.1", await program.port()))


async def body_of(program: Program, target: str) -> str:
    client = await client_of(program)
    try:
        answer = await client.get(target, "Connection: close")
        assert answer.status == 200
        return answer.body.decode()
    finally:
        client.close()


ORDER = b"POST /order HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\n\r\ntea"


async def order_under_way(program: Program) -> Client:
    """A client that has sent half of its request, whose handler has begun."""
    client = await client_of(program)
    await client.send(ORDER)
    await program.line("order: started")
    return client


async def is_answered(client: Client) -> bool:
    """Send the other half."""
    await client.send(b"pot")
    answer = await client.answer()
    client.close()
    return (answer.status, answer.body) == (200, b"teapot")


def said(program: Program) -> list[str]:
    """What was printed on stderr, without who and where."""
    texts = [re.sub(r"worker \d+|http://\S+", "...", line) for line in program.stderr]
    assert all(text.startswith("trioserve: ") for text in texts), program.stderr
    return [text.removeprefix("trioserve: ") for text in texts]


SERVING = "serving shop:app on ... with 2 workers (Ctrl-C to stop)"
DRAINING = "draining; signal again to stop at once"


# Start and end


async def test_workers_share_one_port_and_one_log_and_end_together(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        workers = pids(await program.lines("starts: ", 2))
        assert len(workers) == 2
        assert int(await body_of(program, "/pid")) in workers
        order = await order_under_way(program)
        program.process.send_signal(signal.SIGTERM)
        await program.line("trioserve: draining")
        assert await is_answered(order)
        assert await program.process.wait() == 0
    assert pids([line for line in program.stdout if line.startswith("ends: ")]) == workers
    assert [re.sub(r".* (\"\w+ /\w+).*", r"\1", line) for line in program.stdout if '"' in line] == [
        '"GET /pid',
        '"POST /order',
    ]
    assert said(program) == [SERVING, DRAINING]


async def test_one_worker_has_a_supervisor_too(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, cwd=shop, TRIOSERVE_WORKERS="1") as program:
        assert int(await body_of(program, "/pid")) != program.process.pid
        assert await program.end(signal.SIGTERM) == 0
    assert said(program)[0] == "serving shop:app on ... with a worker (Ctrl-C to stop)"


async def test_after_sigterm_readiness_is_refused_and_accepting_goes_on_for_the_drains_delay(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop, TRIOSERVE_DEADLINE_DRAIN_DELAY="20") as program:
        early = [await client_of(program) for _ in range(8)]
        for client in early:
            assert (await client.get("/ready")).status == 200
        program.process.send_signal(signal.SIGTERM)
        await program.line("trioserve: draining")
        late = await client_of(program)
        assert (await late.get("/pid")).status == 200
        for client in early:
            client.close()
        late.close()
        await program.insist(signal.SIGTERM)
        assert await program.process.wait() == 0
    assert said(program) == [SERVING, DRAINING, "stopping"]


async def test_two_signals_at_once_are_one_order(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        order = await order_under_way(program)
        program.process.send_signal(signal.SIGTERM)
        program.process.send_signal(signal.SIGINT)
        await program.line("trioserve: draining")
        assert await is_answered(order)
        assert await program.process.wait() == 0
    assert "trioserve: stopping" not in program.stderr


async def test_the_second_signal_stops_all_at_once(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        client = await client_of(program)
        await client.send(b"GET /sleep HTTP/1.1\r\nHost: shop\r\n\r\n")
        await program.line("sleep: started")
        program.process.send_signal(signal.SIGINT)
        await program.line("trioserve: draining")
        await program.insist(signal.SIGINT)
        assert (await client.answer()).status == 503
        client.close()
        assert await program.process.wait() == 0
    assert said(program) == [SERVING, DRAINING, "stopping"]


async def test_a_ctrl_c_which_a_terminal_sends_to_the_whole_group_is_heard_once(shop):
    arguments = ("run", "shop:app", *ANYWHERE, *TWO)
    async with trioserve(cwd=shop, through=("setsid", *command(*arguments))) as program:
        order = await order_under_way(program)
        os.killpg(program.process.pid, signal.SIGINT)
        await program.line("trioserve: draining")
        assert await is_answered(order)
        assert await program.process.wait() == 0
    assert said(program) == [SERVING, DRAINING]


async def test_after_sigint_nobody_is_told_and_the_drains_delay_is_left_out(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop, TRIOSERVE_DEADLINE_DRAIN_DELAY="24") as program:
        idle = await client_of(program)
        assert (await idle.get("/ready")).status == 200
        program.process.send_signal(signal.SIGINT)
        assert await idle.is_closed()
        idle.close()
        assert await program.process.wait() == 0


async def test_when_the_workers_accept_nobody_any_more_the_system_refuses_who_comes(shop):
    """The supervisor has the listener too: with it open, who comes would wait in the backlog for nobody."""
    async with trioserve("run", "shop:app", *ANYWHERE, "--workers", "1", cwd=shop) as program:
        order, idle = await order_under_way(program), await client_of(program)
        assert (await idle.get("/ready")).status == 200
        program.process.send_signal(signal.SIGTERM)
        assert await idle.is_closed()  # the worker has closed its listener before that
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            await client_of(program)
        assert await is_answered(order)
        assert await program.process.wait() == 0


async def test_sigterm_for_everybody_is_one_order_to_drain(shop):
    """As systemd sends it to all processes of a service."""
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        order = await order_under_way(program)
        for pid in (*pids(await program.lines("starts: ", 2)), program.process.pid):
            os.kill(pid, signal.SIGTERM)
        await program.line("trioserve: draining")
        assert await is_answered(order)
        assert await program.process.wait() == 0


async def test_the_path_of_a_unix_socket_is_there_as_long_as_the_supervisor(shop):
    async with trioserve("run", "shop:app", "--unix", "s", *TWO, cwd=shop) as program:
        await program.line("trioserve: serving")
        made = (shop / "s").stat()
        program.process.send_signal(signal.SIGHUP)
        await program.line("trioserve: all workers were restarted")
        await program.lines("ends: ", 2)
        assert os.path.samestat((shop / "s").stat(), made)
        client = await connect(UnixAddress(str(shop / "s")))
        assert (await client.get("/ready")).status == 200
        client.close()
        assert await program.end(signal.SIGTERM) == 0
    assert not (shop / "s").exists()


# The start fails


def test_a_mistake_is_said_once_and_ends_with_exit_code_2(shop):
    ended = finished("run", "nothing:app", *ANYWHERE, *TWO, cwd=shop)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("trioserve: there is no module 'nothing'")


def test_a_port_in_use_is_said_once_and_ends_with_exit_code_2(shop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = finished("run", "shop:app", "--port", str(taken.getsockname()[1]), *TWO, cwd=shop)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "the address is in use" in line
    assert ended.stdout == "", "no worker was started"


def test_a_lifespan_that_fails_at_the_start_is_said_once_and_ends_with_exit_code_1(shop):
    (shop / "shop.py").write_text(SHOP.replace("    yield\n", "    raise ValueError('no tea')\n    yield\n"))
    ended = finished("run", "shop:app", *ANYWHERE, *TWO, cwd=shop)
    assert ended.returncode == 1
    assert ended.stderr.count("ValueError: no tea") == 2, "in its traceback, and in the last line"
    assert "serving" not in ended.stderr


async def test_a_worker_that_is_never_ready_is_killed_and_that_is_told(shop):
    (shop / "shop.py").write_text(SHOP.replace("    yield\n", "    await trio.sleep_forever()\n    yield\n"))
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, "--deadline-start", "1", cwd=shop) as program:
        assert await program.process.wait() == 1
    assert said(program) == [
        "... was not ready within 1 s and is killed",
        "... was killed by SIGKILL before it was ready",
    ]


async def test_a_signal_while_workers_import_ends_all(shop):
    (shop / "shop.py").write_text("print('importing')\nimport time\ntime.sleep(100)\n")
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.line("importing")
        assert await program.end(signal.SIGINT) == 0
    assert said(program) == [DRAINING]


def test_the_variable_that_makes_a_worker_is_not_for_users(shop):
    for value in ("", "1", "[1, 2]", "[999999, [], [[999998, 0]]]"):
        ended = finished("run", "shop:app", *ANYWHERE, cwd=shop, **{VARIABLE: value})
        assert ended.returncode == 2
        assert ended.stderr == f"trioserve: {VARIABLE} is set, and not by a supervisor; unset it\n"


# A worker ends


@pytest.mark.parametrize(("number", "how"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGTERM, "has ended")])
async def test_a_worker_that_ends_is_replaced(shop, number, how):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        victim, other = pids(await program.lines("starts: ", 2))
        os.kill(victim, number)
        new = pids(await program.lines("starts: ", 3)) - {victim, other}
        assert len(new) == 1
        await body_of(program, "/ready")
        assert await program.end(signal.SIGTERM) == 0
    assert said(program) == [SERVING, f"... {how}; starting another", DRAINING]


async def test_workers_whose_supervisor_is_killed_drain_and_leave_the_address(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        address = TcpAddress("127.0.0.1", await program.port())
        order = await order_under_way(program)
        idle = await connect(address)
        await idle.get("/ready")
        program.process.kill()
        assert await idle.is_closed(), "they drain"
        idle.close()
        assert await is_answered(order)
        await program.lines("ends: ", 2)
    with pytest.raises(ConnectionRefusedError):
        await connect(address)


async def test_a_process_that_cannot_be_started_is_told_and_ends_the_start():
    said: list[str] = []
    supervisor = Supervisor(
        2,
        Config(listen=(TcpAddress("127.0.0.1", 0),)),
        ["/nowhere/python"],
        tell=lambda news, _addresses: said.append(news.name),
        say=said.append,
    )

    assert await supervisor.run() == 1

    assert said == ["cannot start a worker: No such file or directory"]


async def run_process(process: _Process, command: list[str], to_be_sent: signal.Signals | None = None) -> int:
    def inherited(link: int) -> Inheritance:
        if to_be_sent is not None:
            process.send(to_be_sent)
        return Inheritance(link, (), ())

    return await process.run(command, inherited, ready=lambda: None)


async def test_a_process_whose_end_is_ordered_before_its_beginning_is_not_started():
    process = _Process()
    process.send(signal.SIGTERM)
    assert await run_process(process, ["/nowhere/python"]) == -signal.SIGTERM


async def test_a_signal_that_comes_while_a_process_is_being_started_is_sent_to_it():
    with trio.fail_after(PATIENCE):
        assert await run_process(_Process(), ["sleep", "1000"], signal.SIGTERM) == -signal.SIGTERM


# Rolling restarts


async def test_a_restart_takes_up_new_code_and_finishes_what_is_under_way_with_the_old(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        old = pids(await program.lines("starts: ", 2))
        order = await order_under_way(program)
        (shop / "shop.py").write_text(SHOP.replace("return str(os.getpid())", "return 'new'"))
        program.process.send_signal(signal.SIGHUP)
        await program.line("trioserve: all workers were restarted")
        assert await is_answered(order)
        assert pids(await program.lines("ends: ", 2)) == old
        assert await body_of(program, "/pid") == "new"
        assert await program.end(signal.SIGTERM) == 0
    restarting = ["restarting the workers, one after another", "all workers were restarted"]
    assert said(program) == [SERVING, *restarting, DRAINING]


async def test_while_workers_are_replaced_readiness_is_not_refused_and_their_connections_end(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop, TRIOSERVE_DEADLINE_DRAIN_DELAY="20") as program:
        early = [await client_of(program) for _ in range(8)]
        for client in early:
            assert not (await client.get("/ready")).closes
        program.process.send_signal(signal.SIGHUP)
        await program.line("trioserve: all workers were restarted")
        for client in early:
            # Its worker has been told, and hears it in its own time; until then it answers as ever.
            while not (answer := await client.get("/ready")).closes:
                assert answer.status == 200
            assert answer.status == 200
            client.close()
        late = await client_of(program)
        answer = await late.get("/ready")
        assert (answer.status, answer.closes) == (200, False), "whoever comes gets one that stays"
        late.close()
        assert await program.end(signal.SIGINT) == 0


async def test_a_restart_with_broken_code_is_given_up_and_the_old_workers_go_on(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        old = pids(await program.lines("starts: ", 2))
        (shop / "shop.py").write_text("app = tea\n")
        program.process.send_signal(signal.SIGHUP)
        await program.line("trioserve: the restart was given up")
        for _ in range(4):
            assert int(await body_of(program, "/pid")) in old
        assert await program.end(signal.SIGTERM) == 0
    _, why, ended, given_up = said(program)[1:-1]
    assert why.startswith("cannot import 'shop': NameError: name 'tea' is not defined (")
    assert ended == "... has ended with exit code 2 before it was ready"
    assert given_up == "the restart was given up; the old workers go on"


async def test_sigterm_during_a_restart_ends_old_and_new(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        (shop / "shop.py").write_text("print('importing')\nimport time\ntime.sleep(100)\n")
        program.process.send_signal(signal.SIGHUP)
        await program.line("importing")
        assert await program.end(signal.SIGTERM) == 0
    assert len([line for line in program.stdout if line.startswith("ends: ")]) == 2


async def test_sigterm_right_behind_sighup_ends_all(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        program.process.send_signal(signal.SIGHUP)
        assert await program.end(signal.SIGTERM) == 0
    assert len([line for line in program.stdout if line.startswith("ends: ")]) >= 2


async def test_sighup_twice_is_one_restart_after_the_other(shop):
    async with trioserve("run", "shop:app", *ANYWHERE, *TWO, cwd=shop) as program:
        await program.port()
        old = pids(await program.lines("starts: ", 2))
        program.process.send_signal(signal.SIGHUP)
        await program.line("trioserve: restarting")
        program.process.send_signal(signal.SIGHUP)
        await program.line("trioserve: all workers were restarted")
        assert old <= pids(await program.lines("ends: ", 2 + 1))
        assert await program.end(signal.SIGTERM) == 0
    assert said(program).count("all workers were restarted") == 1


# systemd


async def test_systemd_is_told_of_the_whole_and_its_sockets_are_shared(shop):
    manager, path = Manager(str(shop / "notify")), str(shop / "s")
    arguments = ("run", "shop:app", *TWO)
    try:
        async with trioserve(*arguments, cwd=shop, through=activated(path), NOTIFY_SOCKET=manager.address) as program:
            for address in (TcpAddress("127.0.0.1", await program.port()), UnixAddress(path)):
                client = await connect(address)
                assert (await client.get("/ready")).status == 200
                client.close()
            program.process.send_signal(signal.SIGHUP)
            await program.line("trioserve: all workers were restarted")
            assert await body_of(program, "/pid")
            assert await program.end(signal.SIGTERM) == 0
        assert [manager.told().partition("\n")[0] for _ in range(4)] == [
            "READY=1",
            "RELOADING=1",
            "READY=1",
            "STOPPING=1",
        ]
        assert manager.heard_all()
        assert (shop / "s").exists()
    finally:
        manager.close()


# What a worker inherits


def test_an_inheritance_is_taken_out_of_the_environment_and_is_not_for_children():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        written = Inheritance(ours.fileno(), (3, 4), ((theirs.fileno(), 0),))
        environment = {VARIABLE: str(written), "HOME": "/root"}

        assert Inheritance.taken_from(environment) == written

        assert environment == {"HOME": "/root"}
        assert Inheritance.taken_from(environment) is None
        assert not theirs.get_inheritable()


def test_every_listener_is_served_as_its_address_says():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listen = (TcpAddress("localhost", 80, tls=tls, proxy_protocol=True), UnixAddress("/run/s"))
    inheritance = Inheritance(9, (), ((5, 0), (6, 0), (7, 1)))
    assert inheritance.addresses(listen) == (
        OpenSocket(5, tls=tls, proxy_protocol=True),
        OpenSocket(6, tls=tls, proxy_protocol=True),
        OpenSocket(7),
    )
    with pytest.raises(ConfigError, match="the addresses to listen on have changed"):
        inheritance.addresses((*listen, UnixAddress("/run/t")))


async def test_children_of_a_worker_are_no_workers(shop):
    (shop / "shop.py").write_text(
        SHOP.replace("return str(os.getpid())", f"return {{'is': {VARIABLE!r} in os.environ}}")
    )
    async with trioserve("run", "shop:app", *ANYWHERE, "--workers", "1", cwd=shop) as program:
        assert await body_of(program, "/pid") == '{"is":false}'
        assert await program.end(signal.SIGTERM) == 0
    await trio.lowlevel.checkpoint()

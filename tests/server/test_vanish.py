"""A client that vanishes without FIN or RST is noticed within `Deadlines.vanish`.

The client lives in a network namespace of its own and talks to the server over a pair of virtual interfaces. Its side
is set down, and from then on there is silence. The only tests that leave loopback; nothing leaves the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from tests.support import PATIENCE, happens, start
from trioserve import Abandoned, App, Cause, Deadlines, Outcome, Phase, Response, TcpAddress

VANISH = 3
SCHEDULING = 1  # seconds; the kernel's timers and ours are coarse, and machines are busy

CLIENT = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(f"GET {sys.argv[3]} HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n".encode())
time.sleep(60)
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


class Namespace:
    """A network namespace with one link to this one."""

    def __init__(self) -> None:
        # Names of interfaces have 15 characters at the most.
        self.name = f"ts{os.getpid()}"
        self.near, self.far = f"{self.name}n", f"{self.name}f"
        # Addresses for documentation (RFC 5737), which nobody should have.
        self.near_address, self.far_address = "203.0.113.201", "203.0.113.202"

    def make(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        run("ip", "address", "add", f"{self.near_address}/30", "dev", self.near)
        run("ip", "link", "set", self.near, "up")
        run("ip", "-n", self.name, "address", "add", f"{self.far_address}/30", "dev", self.far)
        run("ip", "-n", self.name, "link", "set", self.far, "up")

    def cut(self) -> None:
        """From now on not one packet comes from the other side."""
        run("ip", "-n", self.name, "link", "set", self.far, "down")

    def remove(self) -> None:
        # The link goes with the namespace, but not at once; its near side is removed by hand.
        for command in (("ip", "link", "delete", self.near), ("ip", "netns", "delete", self.name)):
            subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and the command ip (iproute2)")
    namespace = Namespace()
    try:
        try:
            namespace.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace: {' '.join(error.cmd)}: {error.stderr.decode().strip()}")
        yield namespace
    finally:
        namespace.remove()


class Watched(App):
    """An app with a handler that sleeps and one whose sends come to block."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping, self.sending = trio.Event(), trio.Event()

        @self.get("/sleep")
        async def sleep() -> None:
            self.sleeping.set()
            await trio.sleep_forever()

        @self.get("/stream")
        async def stream() -> Response:
            return Response.stream(self.write_body)

    async def write_body(self, send) -> None:
        while True:
            with trio.move_on_after(0.2) as blocked:
                await send(bytes(65_536))
            if blocked.cancelled_caught:
                self.sending.set()


async def test_a_client_that_vanishes_is_noticed_in_time(nursery, namespace):
    """While its handler sleeps, when only keepalive can tell; and while a send is blocked on it, when it cannot."""
    app = Watched()
    server = await start(
        nursery,
        app,
        listen=(TcpAddress(namespace.near_address, 0),),
        deadlines=Deadlines(vanish=VANISH, send_stall=60),
    )
    for target in ("/sleep", "/stream"):
        client = [sys.executable, "-c", CLIENT, namespace.near_address, str(server.port), target]
        nursery.start_soon(partial(trio.run_process, ["ip", "netns", "exec", namespace.name, *client], check=False))
    await happens(app.sleeping.wait())
    await happens(app.sending.wait())

    await trio.to_thread.run_sync(namespace.cut)
    vanished_at = trio.current_time()
    records = {record.target: record for record in [await server.records.next(Abandoned) for _ in range(2)]}

    for record in records.values():
        assert record.cause is Cause.VANISHED
        assert record.outcome is Outcome.CANCELLED
        assert record.noticed_at - vanished_at < VANISH + SCHEDULING
    assert (records["/sleep"].phase, records["/sleep"].status) == (Phase.HANDLER, 499)
    assert (records["/stream"].phase, records["/stream"].sent_status) == (Phase.RESPONSE_BODY, 200)
    assert records["/stream"].unacked_bytes > 0

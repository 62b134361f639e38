"""The server that is attacked. `--hurry N`: its deadlines are N times shorter than the defaults."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from benchmarks.answers import HELLO
from benchmarks.server_process import STATISTICS, announce
from benchmarks.slow.ordinary import HOST as ORDINARY
from trioserve import Abandoned, App, Completed, Config, Deadlines, Request, Response, TcpAddress, serve

PART = b"x" * 65_536
PARTS = 256
"""A response of 16 MiB: more than the system takes from us for a client that does not read."""

FILE_SIZE = 1_048_576

app = App()
stories: Counter[str] = Counter()
file = Path(tempfile.mkdtemp()) / "file.bin"


@app.get("/")
async def hello() -> bytes:
    return HELLO


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@app.get("/file")
async def ranges() -> Response:
    return Response.file(file)


@app.get("/large")
async def large() -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(PARTS):
            yield PART

    return Response.stream(parts())


@app.get(STATISTICS)
async def statistics() -> dict[str, int]:
    return dict(stories)


class Records:
    """Counts what became of all but the ordinary clients' exchanges."""

    def completed(self, record: Completed) -> None:
        self._count(record, f"{record.status} completed")

    def abandoned(self, record: Abandoned) -> None:
        self._count(record, f"{record.status} {record.phase} {record.cause} {record.outcome}")

    def _count(self, record: Completed | Abandoned, story: str) -> None:
        assert record.client is not None
        if record.client[0] != ORDINARY and record.target != STATISTICS:
            stories[story] += 1


def deadlines(hurry: float) -> Deadlines:
    """The defaults, or so many times shorter ones where they are about clients."""
    defaults = Deadlines()
    names = ("head", "idle", "body_stall", "send_stall", "linger")
    shorter = {name: getattr(defaults, name) / hurry for name in names}
    return dataclasses.replace(defaults, **shorter)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hurry", type=float, required=True)
    options = parser.parse_args()
    file.write_bytes(bytes(FILE_SIZE))
    config = Config(
        listen=(TcpAddress("127.0.0.1", 0),),
        access_log=False,
        observers=(Records(),),
        deadlines=deadlines(options.hurry),
    )
    try:
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve, app, config)
            announce(address.port)
    finally:
        file.unlink()
        file.parent.rmdir()


if __name__ == "__main__":
    trio.run(main)

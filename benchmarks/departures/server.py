"""The server whose clients leave. It tells on stdout what happens, with the time of CLOCK_MONOTONIC, which a client in
another process of the same machine can compare with its own.

What is told: "started" (a handler), "cancelled" (it), "cleaned" (its shielded clean-up has ended), "record" (the
`Abandoned`, from the hook), "completed" (the `Completed`). The client's port says whose it is.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator

import trio

from benchmarks.server_process import announce, say
from trioserve import Abandoned, App, Completed, Config, Deadlines, Request, Response, TcpAddress, serve
from trioserve.app.streaming import Send

THREAD_LOOKS_EVERY = 0.0002
"""Seconds between two looks of the plain `def` handler for its cancellation."""

SHIELDED_CLEANUP = 0.02
LATE_ANSWER = 0.05
"""Seconds after which a handler answers that is not to be cancelled."""

STREAM_PAUSE = 0.01
"""Seconds between two parts of a stream that is not held up by its client."""

app = App()


def tell(what: str, port: int, **facts: object) -> None:
    at = time.monotonic()
    say({"at": at, "what": what, "port": port, **facts})


def port_of(request: Request) -> int:
    assert request.client is not None, "it is served on TCP"
    return request.client[1]


@contextlib.contextmanager
def told(request: Request) -> Iterator[None]:
    """Tell when the handler starts and when it is cancelled."""
    tell("started", port_of(request))
    try:
        yield
    except trio.Cancelled:
        tell("cancelled", port_of(request))
        raise


@app.get("/quick")
async def quick() -> str:
    return "ok"


@app.get("/sleep")
@app.post("/sleep", max_body=math.inf)
async def sleep(request: Request) -> None:
    with told(request):
        await trio.sleep_forever()


@app.get("/sleep/finish", half_close="finish")
async def sleep_finish(request: Request) -> None:
    await sleep(request)


@app.get("/sleep/probe", half_close="probe")
async def sleep_probe(request: Request) -> None:
    await sleep(request)


@app.get("/late/finish", half_close="finish")
@app.get("/late/probe", half_close="probe")
async def late(request: Request) -> str:
    with told(request):
        await trio.sleep(LATE_ANSWER)
    return "ok"


@app.get("/shielded")
async def shielded(request: Request) -> None:
    try:
        await sleep(request)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(SHIELDED_CLEANUP)
        tell("cleaned", port_of(request))


@app.get("/thread")
def thread(request: Request) -> None:
    with told(request):
        while True:
            trio.from_thread.check_cancelled()
            time.sleep(THREAD_LOOKS_EVERY)


@app.post("/read", max_body=math.inf)
async def read(request: Request) -> None:
    with told(request):
        async for _ in request.stream():
            pass


@app.get("/stream")
async def stream(request: Request) -> Response:
    async def write(send: Send) -> None:
        with told(request):
            while True:
                await send(b"x" * 1024)
                await trio.sleep(STREAM_PAUSE)

    return Response.stream(write)


async def flood(request: Request) -> Response:
    async def write(send: Send) -> None:
        with told(request):
            while True:
                await send(b"x" * 65_536)

    return Response.stream(write)


app.get("/flood")(flood)
app.get("/flood/finish", half_close="finish")(flood)


@app.on_abandoned
async def hook(record: Abandoned) -> None:
    assert record.client is not None
    tell(
        "record",
        record.client[1],
        story=f"{record.status} {record.phase} {record.cause} {record.outcome}",
        noticed_after=record.noticed_at - record.started_at,
    )


class Completions:
    """An observer that tells of completed exchanges; the hook tells of the others."""

    def completed(self, record: Completed) -> None:
        assert record.client is not None
        tell("completed", record.client[1], story=f"{record.status} Completed")

    def abandoned(self, record: Abandoned) -> None:
        pass


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hangup-news", required=True)
    parser.add_argument("--send-stall", type=float, required=True)
    parser.add_argument("--vanish", type=float, required=True)
    options = parser.parse_args()
    config = Config(
        listen=(TcpAddress("127.0.0.1", 0),),
        deadlines=Deadlines(send_stall=options.send_stall, vanish=options.vanish),
        hangup_news=options.hangup_news,
        access_log=False,
        observers=(Completions(),),
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve, app, config)
        announce(address.port)


if __name__ == "__main__":
    trio.run(main)

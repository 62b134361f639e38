"""The server under test. It says on stdout which handlers begin, and each record; a route tells what lives in it.

`--descriptors N`: so many may be open, and no more. Its deadlines are short, so that many a client meets them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import logging
import re
import resource
import ssl
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio
import trustme

from benchmarks.server_process import STATISTICS, announce, say
from benchmarks.soak.asking import content, event_text, number_in
from trioserve import (
    Abandoned,
    App,
    Completed,
    Config,
    Deadlines,
    Event,
    HangupNews,
    HTTPError,
    Next,
    Request,
    Response,
    TcpAddress,
    WebSocket,
    serve,
)
from trioserve.core.errors import ERROR_LOGGER

DEADLINES = Deadlines(handshake=2, head=2, idle=3, body_stall=2, send_stall=2, linger=1)
HANDLER = 3.0
"""The deadline of handlers that would never end."""

LONGEST_HELD = 20.0
"""Seconds for which any connection of a misbehaving client may be held: what it can make of all these deadlines, one
after another, a byte here and there. Most are cut after two or three."""

HOST_NAME = "soak.example"
FILE_NUMBER, FILE_SIZE = 0, 300_000
SMALL_BODY = 1000

app = App()
file = Path(tempfile.mkdtemp()) / "file.bin"
hook_calls = 0
log_lines: Counter[str] = Counter()


@app.middleware
async def begins(request: Request, call_next: Next) -> Response:
    number = number_in(request.target)
    if number is not None:
        say({"began": number})
    return await call_next(request)


def asked(request: Request) -> tuple[int, int]:
    """The number of the exchange, and the size of the answer that it asks for."""
    number, size = number_in(request.target), request.query.get("size", "")
    if number is None or not re.fullmatch("[0-9]{1,6}", size):
        raise HTTPError(400, "whoever behaves gives its request a name and says a size")
    return number, int(size)


@app.get("/plain")
async def plain(request: Request) -> bytes:
    return content(*asked(request))


@app.get("/thread")
def thread(request: Request) -> bytes:
    return content(*asked(request))


@app.get("/finish", half_close="finish")
async def finish(request: Request) -> bytes:
    """For clients that half-close and wait."""
    await trio.sleep(0.01)
    return content(*asked(request))


@app.get("/stream")
async def stream(request: Request) -> Response:
    whole = content(*asked(request))

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), 10_000):
            yield whole[start : start + 10_000]
            await trio.sleep(0.0005)

    return Response.stream(parts())


@app.post("/echo")
async def echo(request: Request) -> Response:
    body = await request.body()
    return Response(body, headers={"x-sha256": hashlib.sha256(body).hexdigest()})


@app.post("/through")
async def through(request: Request) -> Response:
    """Answers while it still reads."""
    return Response.stream(request.stream())


@app.post("/form")
async def form(request: Request) -> dict[str, Any]:
    fields = await request.form()
    upload = fields.file("file")
    data = await upload.read()
    return {"title": fields.text("title"), "name": upload.filename, "sha256": hashlib.sha256(data).hexdigest()}


@app.post("/small", max_body=SMALL_BODY)
async def small(request: Request) -> bytes:
    return await request.body()


@app.get("/file")
async def whole_file() -> Response:
    return Response.file(file)


@app.get("/events")
async def events(request: Request) -> Response:
    number, count = asked(request)

    async def all_of_them() -> AsyncIterator[Event]:
        for position in range(count):
            yield Event(event_text(number, position), id=str(position), event="tick")
            await trio.sleep(0.001)

    return Response.events(all_of_them())


@app.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


# For those who misbehave


@app.post("/sleep", deadline=HANDLER)
async def sleep() -> None:
    await trio.sleep_forever()


@app.get("/flood", deadline=HANDLER)
async def flood() -> Response:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 16_384
            await trio.sleep(0.001)

    return Response.stream(endless())


@app.post("/ignore")
async def ignore() -> bytes:
    """Answers without a look at the body."""
    await trio.sleep(0.005)
    return b"ignored"


@app.get(STATISTICS)
async def statistics() -> dict[str, Any]:
    """What lives here now, this request and its connection included."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not in use, and differs by chance
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "objects": sum(type(thing).__module__.startswith("trioserve.") for thing in gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "hook calls": hook_calls,
        "log lines": log_lines,
    }


@app.on_abandoned
async def hook(_record: Abandoned) -> None:
    global hook_calls  # noqa: PLW0603 - a count
    hook_calls += 1


class Records:
    """An observer that tells of each record."""

    def completed(self, record: Completed) -> None:
        self._tell(record, f"{record.status} completed")

    def abandoned(self, record: Abandoned) -> None:
        self._tell(record, f"{record.status} {record.phase} {record.cause} {record.outcome}")

    def _tell(self, record: Completed | Abandoned, story: str) -> None:
        if record.target != STATISTICS:
            number = number_in(record.target)
            say(
                {
                    "record": number,
                    "connection": record.connection_id,
                    "exchange": record.exchange_number,
                    "story": story,
                }
            )


class LogLines(logging.Handler):
    """Counts what the error log says, and lets it be read on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        log_lines[str(record.msg)] += 1


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptors", type=int, required=True)
    parser.add_argument("--hangup-news", choices=list(HangupNews), required=True)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.descriptors, options.descriptors))
    logging.basicConfig(format="server: %(message)s")
    logging.getLogger(ERROR_LOGGER).addHandler(LogLines())
    file.write_bytes(content(FILE_NUMBER, FILE_SIZE))
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST_NAME).configure_cert(context)
    config = Config(
        listen=(TcpAddress("127.0.0.1", 0), TcpAddress("127.0.0.1", 0, tls=context)),
        access_log=False,
        observers=(Records(),),
        deadlines=DEADLINES,
        hangup_news=options.hangup_news,
    )
    try:
        async with trio.open_nursery() as nursery:
            clear, tls = await nursery.start(serve, app, config)
            announce(clear.port, tls_port=tls.port, authority=authority.cert_pem.bytes().decode())
    finally:
        file.unlink()
        file.parent.rmdir()


if __name__ == "__main__":
    trio.run(main)

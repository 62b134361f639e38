"""trio and h11 and nothing else: what any server pays that speaks HTTP with h11."""

from __future__ import annotations

import socket

import h11
import trio

from benchmarks.cpu.bare import run

FIELDS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"13"),
    (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
]
BODY = b"Hello, world!"


async def serve(connection: socket.socket) -> None:
    engine = h11.Connection(h11.SERVER)
    while True:
        event = engine.next_event()
        if event is h11.NEED_DATA:
            await trio.lowlevel.wait_readable(connection)
            data = connection.recv(65_536)
            if not data:
                return
            engine.receive_data(data)
        elif isinstance(event, h11.EndOfMessage):
            head = engine.send(h11.Response(status_code=200, headers=FIELDS, reason=b"OK"))
            body = engine.send(h11.Data(data=BODY))
            end = engine.send(h11.EndOfMessage())
            connection.send(head + body + end)
            engine.start_next_cycle()


if __name__ == "__main__":
    run(serve)

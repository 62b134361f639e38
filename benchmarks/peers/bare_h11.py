"""trio and h11 and nothing else: what any server pays that lets h11 work through each exchange.

Its response is made and validated once, as one that never changes can be.
"""

from __future__ import annotations

import argparse
import socket

import h11
import trio

from benchmarks.peers.bare import run
from benchmarks.peers.content import HELLO

FIELDS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"13"),
    (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
]
RESPONSE = h11.Response(status_code=200, headers=FIELDS, reason=b"OK")
BODY = h11.Data(data=HELLO.encode())
END = h11.EndOfMessage()


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
            head = engine.send(RESPONSE)
            body = engine.send(BODY)
            end = engine.send(END)
            connection.send(head + body + end)
            engine.start_next_cycle()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    run(serve, parser.parse_args().port)


if __name__ == "__main__":
    main()

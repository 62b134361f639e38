"""trioserve, with connections that may be idle for as long as the measurement takes."""

from __future__ import annotations

import sys

import trio

from benchmarks.answers import HELLO
from benchmarks.server_process import announce
from trioserve import App, Config, Deadlines, HangupNews, TcpAddress, serve

app = App()


@app.get("/")
async def hello() -> bytes:
    return HELLO


async def main(hangup_news: str) -> None:
    config = Config(
        listen=(TcpAddress("127.0.0.1", 0),),
        access_log=False,
        hangup_news=HangupNews(hangup_news),
        deadlines=Deadlines(idle=3600),
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve, app, config)
        announce(address.port)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])

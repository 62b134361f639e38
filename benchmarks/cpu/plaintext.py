"""trioserve's full path: an App, a route, a handler that returns text."""

from __future__ import annotations

import argparse
import logging
import os

import trio

from benchmarks.server_process import announce
from trioserve import App, Config, HangupNews, TcpAddress, serve
from trioserve.cli.console import PAUSE
from trioserve.cli.output import Output
from trioserve.observe.access_log import ACCESS_LOGGER, LineHandler

app = App()


@app.get("/")
async def hello() -> str:
    return "Hello, world!"


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hangup-news", choices=list(HangupNews), required=True)
    parser.add_argument("--access-log", action="store_true")
    options = parser.parse_args()
    config = Config(
        listen=(TcpAddress("127.0.0.1", 0),),
        hangup_news=options.hangup_news,
        access_log=options.access_log,
    )
    if options.access_log:
        log_to_nowhere()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve, app, config)
        announce(address.port)


def log_to_nowhere() -> None:
    """As `trioserve run` does it, but to /dev/null."""
    output = Output("the access log", os.open(os.devnull, os.O_WRONLY), print, PAUSE)
    logger = logging.getLogger(ACCESS_LOGGER)
    logger.addHandler(LineHandler(output.write))
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    trio.run(main)

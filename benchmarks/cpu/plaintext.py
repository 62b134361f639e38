"""trioserve's full path: an App, a route, a handler that returns text."""

from __future__ import annotations

import argparse
import logging
import os

import trio

from benchmarks.server_process import announce
from trioserve import App, Config, HangupNews, TcpAddress, serve
from trioserve.observe.access_log import ACCESS_LOGGER

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
    """Formatted and written, as `trioserve run` does it, but to /dev/null."""
    handler = logging.FileHandler(os.devnull)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(ACCESS_LOGGER)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    trio.run(main)

"""A server in a nursery of your own, beside other tasks. It drains after five seconds.

python -m examples.embedded
curl http://127.0.0.1:8000/
"""

from functools import partial

import trio

from trioserve import App, Config, Deadlines, TcpAddress, serve

app = App()
beats: list[float] = []


@app.get("/")
async def index() -> str:
    return f"{len(beats)} beats\n"


async def beat() -> None:
    """Something else that the program does."""
    while True:
        beats.append(trio.current_time())
        await trio.sleep(0.1)


async def main(port: int = 8000, seconds: float = 5) -> None:
    config = Config(listen=(TcpAddress("127.0.0.1", port),), deadlines=Deadlines(drain=10))
    drain = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        async with trio.open_nursery() as serving:
            addresses = await serving.start(partial(serve, app, config, drain=drain))
            print("listening on", *addresses)
            await trio.sleep(seconds)
            drain.set()
        print("drained")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

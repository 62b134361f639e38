"""A child process for each request; it is killed when the client leaves.

trioserve run examples.child:app
curl -m 2 -N http://127.0.0.1:8000/count
"""

import subprocess
import sys
from functools import partial

import trio

from trioserve import App, Response, Send

app = App()

COUNT = "import itertools, time\nfor n in itertools.count(1): print(n, flush=True); time.sleep(0.5)"


async def write_output(send: Send) -> None:
    """Run the child, and send on what it prints."""
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, [sys.executable, "-c", COUNT], stdout=subprocess.PIPE)
        child = await nursery.start(run)
        print(f"child {child.pid} runs")
        async for data in child.stdout:
            await send(data)
    # Whichever way we leave the nursery, the child has ended.


@app.get("/count")
async def count() -> Response:
    return Response.stream(write_output, content_type="text/plain")

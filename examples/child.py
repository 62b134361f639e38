"""A child process for each request, which dies with its client.

trioserve run examples.child:app
curl -m 2 -N http://127.0.0.1:8000/count

Here it is a Python that counts; think of ffmpeg, or of a search through large files. It hears SIGTERM, and SIGKILL five
seconds later if it is still there, because that is how `trio.run_process` ends a child when it is cancelled.
"""

import subprocess
import sys
from functools import partial

import trio

from trioserve import App, Response, Send

app = App()

COUNT = "import itertools, time\nfor n in itertools.count(1): print(n, flush=True); time.sleep(0.5)"


@app.get("/count")
async def count() -> Response:
    return Response.stream(write_output, content_type="text/plain")


async def write_output(send: Send) -> None:
    """Run the child, and send on what it prints; while the client does not read, the child waits too."""
    run = partial(trio.run_process, [sys.executable, "-c", COUNT], stdout=subprocess.PIPE)
    async with trio.open_nursery() as nursery:
        child: trio.Process = await nursery.start(run)
        print(f"child {child.pid} runs")
        assert child.stdout is not None, "it is a pipe"
        async for data in child.stdout:
            await send(data)
    # However the nursery was left, the child has ended.

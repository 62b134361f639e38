"""Lines sorted by a child process, which should end with its client: carelessly, and safely.

trioserve run examples.sort:app
printf 'pear\\napple\\n' | curl http://127.0.0.1:8000/sorted --data-binary @-

The careless one kills its child however the handler ends, but when the handler is cancelled, it does not wait until the
child has died: the system keeps a zombie.
"""

from subprocess import PIPE

import trio

from trioserve import App, Request

app = App()
COMMAND = ["sort"]


@app.post("/careless/sorted")
async def sort_carelessly(request: Request) -> bytes:
    text = await request.body()
    child = await trio.lowlevel.open_process(COMMAND, stdin=PIPE, stdout=PIPE)
    assert child.stdin, "a pipe"
    assert child.stdout, "a pipe"
    try:
        async with child.stdin, child.stdout:
            await child.stdin.send_all(text)
            await child.stdin.aclose()
            return b"".join([part async for part in child.stdout])
    finally:
        child.kill()
        await child.wait()


@app.post("/sorted")
async def sort(request: Request) -> bytes:
    text = await request.body()
    finished = await trio.run_process(COMMAND, stdin=text, capture_stdout=True)
    return finished.stdout

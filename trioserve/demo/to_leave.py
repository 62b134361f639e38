"""What a client without a browser can try: one handler for each way in which a departure can meet a handler.

Read it as a first example. Every handler here is plain code that knows nothing of departures, but for the one that
runs in a thread and has to ask.
"""

import time

import trio

from trioserve import FINISH, Request, Response, Router, Send

WHAT_TO_TRY = """
Open {address}/ in a browser, and type. Each keystroke aborts the search before it,
and the page shows what the server hears of that.

Or try these in another terminal, and leave with Ctrl-C or with -m (seconds) before the answer is there:

  curl -m 2 {address}/report/2025         a report that takes 30 seconds stops at once: 499
  curl -m 2 {address}/ticks               so does a stream, between two ticks
  curl -m 2 {address}/count/10            so does a worker thread, which asks now and then
  curl -m 2 {address}/payment -X POST     but this one runs to its end: outcome "finished"
  curl {address}/upload -T README.md      an upload, counted as it arrives
  curl {address}/search?q=async           what the page asks for
  curl {address}/try                      this text

What the server hears of a departure is in the page, and in the access log below.
"""


def what_to_try(address: str) -> str:
    """What to try with the demo, for a terminal."""
    return WHAT_TO_TRY.format(address=address)


def router() -> Router:  # noqa: C901 - not complex, but a list of small handlers
    """A new router with the handlers of this file."""
    router = Router()

    @router.get("/try")
    async def what(request: Request) -> str:
        return what_to_try(f"http://{request.headers.get('host', 'localhost')}")

    @router.get("/report/{year:int}")
    async def report(year: int) -> dict[str, int]:
        """Something slow: a query, a model, another service."""
        await trio.sleep(30)
        return {"year": year, "sum": 42}

    @router.get("/ticks")
    async def ticks() -> Response:
        """A stream without an end."""

        async def write_body(send: Send) -> None:
            number = 0
            try:
                while True:
                    number += 1
                    await send(f"tick {number}\n")
                    await trio.sleep(1)
            finally:
                print(f"  ticks: stopped after {number}")

        return Response.stream(write_body, content_type="text/plain")

    @router.get("/count/{seconds:int}")
    def count(seconds: int) -> str:
        """A plain function runs in a worker thread. A thread cannot be cancelled from outside, so it asks."""
        number = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number += 1
            if number % 1000 == 0:
                trio.from_thread.check_cancelled()
        return f"counted to {number}\n"

    @router.put("/upload", max_body=1_000_000_000)
    async def upload(request: Request) -> str:
        """A body that is not kept in memory: the client is held back while nobody reads."""
        size = 0
        async for part in request.stream():
            size += len(part)
        return f"{size} bytes\n"

    @router.post("/payment", disconnect=FINISH)
    async def payment() -> Response:
        """Not to be cut in the middle: the handler runs to its end, whether or not anybody waits for it."""
        await trio.sleep(4)
        print("  payment: booked")
        return Response.json({"paid": True}, status=201)

    return router

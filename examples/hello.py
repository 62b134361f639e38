"""A slow handler that stops when its client leaves, and a hook that hears of it.

trioserve run examples.hello:app
curl -m 1 http://127.0.0.1:8000/reports/2025
"""

import trio

from trioserve import Abandoned, App, Response

app = App()


@app.get("/reports/{year:int}")
async def report(year: int) -> Response:
    await trio.sleep(30)  # stops here, at once, when the client hangs up
    return Response.json({"year": year})


@app.on_abandoned
async def tell(event: Abandoned) -> None:
    print(event.status, event.phase, event.cause, event.target)

"""A feed of server-sent events: who listens hears what anybody says, and on coming back what was said meanwhile.

trioserve run examples.feed:app
curl -N 'http://127.0.0.1:8000/feed?name=ann'
curl http://127.0.0.1:8000/feed -d 'hello'
curl -N -H 'Last-Event-ID: 1' 'http://127.0.0.1:8000/feed?name=bob'

Give each listener a terminal, and stop one: the others hear at once that it has left. A browser's `EventSource`, which
sends Last-Event-ID by itself, comes back after a second.
"""

from collections.abc import AsyncIterator

import trio

from trioserve import App, Event, Request, Response

app = App()


class Feed:
    def __init__(self) -> None:
        self._said: list[Event] = []
        self._news = trio.Event()

    def say(self, text: str) -> None:
        self._said.append(Event(text, id=str(len(self._said) + 1)))
        self._news.set()
        self._news = trio.Event()

    async def listen(self, name: str, last_id: str | None) -> AsyncIterator[Event]:
        """What is said from now on; or since that event, if there is such a one."""
        ids = [event.id for event in self._said]
        heard = ids.index(last_id) + 1 if last_id in ids else len(ids)
        self.say(f"{name} is here")
        try:
            while True:
                while heard < len(self._said):
                    heard += 1
                    yield self._said[heard - 1]
                await self._news.wait()
        finally:  # runs when the client has left
            self.say(f"{name} has left")


@app.lifespan
async def feed() -> AsyncIterator[Feed]:
    yield Feed()


@app.get("/feed")
async def listen(request: Request, feed: Feed) -> Response:
    name = request.query.get("name", "somebody")
    return Response.events(feed.listen(name, request.last_event_id), retry=1)


@app.post("/feed")
async def say(request: Request, feed: Feed) -> None:
    feed.say((await request.body()).decode(errors="replace"))

r"""Server-sent events: what one is, how it is written, and how a stream of them is kept alive (WHATWG HTML §9.2).

An event is written as lines `field: value` and an empty line. The data's line breaks, of whichever kind, make several
`data` lines, which the client joins with "\n"; an id or a name with a line break, which would forge further fields, is
refused.

A client, and whatever stands between, takes a connection on which nothing comes for broken. So while the source has
nothing to say, a comment, which clients pass over, is sent every `ping` seconds. That takes a second task, and these
are its rules:

* The source stays in the exchange's own task, as that of any stream. Only the pinger is started.
* The pinger has no nursery in that task. A generator that was begun before it came here may hold a scope or a nursery
  open at its `yield`, and leaves it in a later step: whatever was opened here in between would not nest with it. So the
  pinger is a system task. It ends by a scope that is cancelled as soon as the source has ended, however it did, and its
  end is waited for, so it never outlives the stream; a cancellation from outside is the source's alone to raise.
* One event, or ping, at a time, and each of them whole. Others wait for their turn.
* A ping that cannot be sent is nobody's error: the pinger goes, and the source learns from its own next send.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from trioserve.app.streaming import pour
from trioserve.core.errors import ClientGone, ResponseError

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_PING = b":\n\n"

FIELDS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Nobody may keep a stream that has no end, and nginx is not to hold it back."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event.

    Args:
        data: text, or a dict or list, which is sent as JSON. None: no data, so the client hears no event but takes
            note of `id` and `retry`.
        event: the event's name, for which the client listens; None: "message".
        id: what the client sends back as Last-Event-ID when it comes again; "" takes an earlier one back.
        retry: seconds that the client is to wait before it comes again.
        comment: text that clients pass over, for people who read the stream.

    Raises:
        ResponseError: `data` is none of these, `event` or `id` has a line break or a NUL, there is a name without
            data (no client would hear it), or `retry` is no number of seconds.
        TypeError, ValueError: from `encode`: the data cannot be JSON.
    """

    data: str | dict[str, Any] | list[Any] | None = None
    event: str | None = None
    id: str | None = None
    retry: float | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, str | dict | list | None):
            raise ResponseError(f"an event's data is str, dict or list (JSON), not {type(self.data).__name__}")
        if self.event is not None and self.data is None:
            raise ResponseError(f'the event {self.event!r} has no data, so no client would hear it; say data=""')
        for field, value in (("event", self.event), ("id", self.id)):
            if value is not None and (not isinstance(value, str) or re.search("[\r\n\0]", value)):
                raise ResponseError(f"an event's {field} is text without line breaks and NULs, not {value!r}")
        if self.comment is not None and not isinstance(self.comment, str):
            raise ResponseError(f"an event's comment is text, not {self.comment!r}")
        if self.retry is not None and not (_is_number(self.retry) and 0 <= self.retry < math.inf):
            raise ResponseError(f"retry={self.retry!r}; it is a number of seconds")

    def encode(self) -> bytes:
        """The event as it is sent."""
        lines = ""
        if self.comment is not None:
            lines += _lines("", self.comment)
        if self.retry is not None:
            lines += f"retry: {round(self.retry * 1000)}\n"
        if self.id is not None:
            lines += f"id: {self.id}\n"
        if self.event is not None:
            lines += f"event: {self.event}\n"
        if self.data is not None:
            lines += _lines("data", self._text())
        return _ended(lines)

    def _text(self) -> str:
        if isinstance(self.data, str):
            return self.data
        return json.dumps(self.data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _lines(field: str, text: str) -> str:
    """Text as lines of a field, as many as it has itself."""
    if "\n" in text or "\r" in text:
        text = _LINE_BREAK.sub(f"\n{field}: ", text)
    return f"{field}: {text}\n"


def _ended(lines: str) -> bytes:
    try:
        return f"{lines}\n".encode()
    except UnicodeEncodeError as error:
        raise ResponseError(f"an event is text that UTF-8 can carry: {error}") from None


Sendable = Event | str | dict[str, Any] | list[Any]
"""An event, or the data of one."""


class SendEvent(Protocol):
    """What a writer of events is given: `await send(event)`, or only its data: text, or a dict or list (JSON).

    As `Send`, but for this: several tasks may send, each in its turn.

    Raises:
        ResponseError: it is no event, or the response is over.
        TypeError, ValueError: its data cannot be JSON.
        ClientGone: the client has left, and a cancellation cannot reach here (inside a shield).
    """

    async def __call__(self, event: Sendable, /) -> None: ...


WriteEvents = Callable[[SendEvent], Awaitable[None]]
Events = (
    WriteEvents
    | AsyncIterable[Event]
    | AsyncIterable[str]
    | AsyncIterable[dict[str, Any]]
    | AsyncIterable[list[Any]]
    | AsyncIterable[Sendable]
)


def checked_ping(ping: float) -> float:
    """Seconds between keep-alive comments; `math.inf`: none.

    Raises:
        ResponseError: it is no positive number.
    """
    if not (_is_number(ping) and ping > 0):
        raise ResponseError(f"ping={ping!r}; it is a positive number of seconds (math.inf: none)")
    return ping


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class EventStream:
    """The sending of events.

    Args:
        send_part: sends bytes to the client; one at a time.
        ping: seconds without an event after which a comment is sent.
    """

    __slots__ = ("_mistake", "_ping", "_send_part", "_sent_at", "_turn")

    def __init__(self, send_part: Callable[[bytes], Awaitable[None]], ping: float) -> None:
        self._send_part = send_part
        self._ping = ping
        self._turn = trio.Lock()
        self._sent_at = trio.current_time()
        # Ours, and not the client's: what a ping raised that is not to be expected.
        self._mistake: Exception | None = None

    async def send(self, event: Sendable) -> None:
        """As `SendEvent`."""
        match event:
            case Event():
                data = event.encode()
            case str():  # as most are: it needs no check
                data = _ended(_lines("data", event))
            case _:
                data = Event(event).encode()
        # Without a checkpoint of its own, as the sending of the part is one.
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            await self._send_part(data)
            self._sent_at = trio.current_time()
        finally:
            self._turn.release()

    async def send_all(self, source: Any) -> None:
        """Send all events of a source, and comments while it has none."""
        if self._ping == math.inf:
            await pour(source, self.send)
            return
        pinging, gone = trio.CancelScope(), trio.Event()
        trio.lowlevel.spawn_system_task(self._keep_alive, pinging, gone)
        try:
            await pour(source, self.send)
        finally:
            pinging.cancel()
            with trio.CancelScope(shield=True):
                await gone.wait()  # not long: all that it waits for is cancelled
            if self._mistake is not None:
                raise self._mistake

    async def _keep_alive(self, pinging: trio.CancelScope, gone: trio.Event) -> None:
        try:
            with pinging:
                await self._send_pings()
        except Exception as error:
            self._mistake = error  # what leaves a system task ends the whole program
        finally:
            gone.set()

    async def _send_pings(self) -> None:
        while True:
            await trio.sleep_until(self._sent_at + self._ping)
            async with self._turn:
                if trio.current_time() < self._sent_at + self._ping:
                    continue
                try:
                    await self._send_part(_PING)
                except (ClientGone, ResponseError):
                    return
                self._sent_at = trio.current_time()

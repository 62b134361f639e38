"""The source of a streamed body: a function that is given `send`, or an async iterator.

The function is pushed and not pulled, so that structured concurrency holds: see `Response.stream`.

An async generator is taken too, and made to behave as if each `yield part` were `await send(part)`: it runs in the
same task, and what ends a send is raised at its `yield`. That is more than closing it: a generator may have a cancel
scope or a nursery around its yields, and these can only do their part if the Cancelled comes through them. However the
exchange ends, the generator is closed before its scope is left; none is left to the garbage collector.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from trioserve.core.errors import ResponseError

Part = bytes | bytearray | memoryview | str
"""A part of a body. Text is sent as UTF-8."""


class Send(Protocol):
    """What a stream's writer is given: `await send(part)` sends one part of the body, text as UTF-8.

    A checkpoint, always; waits while the client is not reading. A send that is cancelled half-way is completed by the
    next one, and one that waits for that is as if it had not been made.

    Raises:
        ResponseError: the part goes beyond the response's Content-Length, or the response is over.
        ClientGone: the client has left, and a cancellation cannot reach here (inside a shield).
        trio.BusyResourceError: another task is sending.
    """

    async def __call__(self, part: Part, /) -> None: ...


WriteBody = Callable[[Send], Awaitable[None]]
Body = WriteBody | AsyncIterable[Part]


def source_of(source: Any) -> Any:
    """A source that was checked: a function that takes `send`, or an async iterator.

    Raises:
        ResponseError: it is neither.
    """
    if isinstance(source, AsyncIterable):
        return aiter(source)
    if inspect.iscoroutine(source):
        source.close()
        raise ResponseError(f"a stream takes the function itself: {source.__name__}, not {source.__name__}(...)")
    if inspect.isasyncgenfunction(source):
        raise ResponseError(f"a stream takes a generator, not the function that makes one: {source.__name__}()")
    if not callable(source):
        raise ResponseError(f"a stream takes `async def write(send)` or an async iterator, not {type(source).__name__}")
    return source


async def pour(source: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Give `send` all that the source has. The source is not closed by this if it was never begun."""
    if not isinstance(source, AsyncIterator):
        writing = source(send)
        if not inspect.isawaitable(writing):
            raise ResponseError("a stream's function must be `async def`: it writes with `await send(part)`")
        await writing
        return
    try:
        item = await anext(source)
        while True:
            try:
                await send(item)
            except BaseException as error:
                # What a send raises is raised at the `yield`, and may be caught there like any other.
                if not hasattr(source, "athrow"):
                    raise
                item = await source.athrow(error)
            else:
                item = await anext(source)
    except StopAsyncIteration:
        return


async def close_source(source: Any) -> None:
    """Close an iterator that can be closed. A function holds nothing before it is called."""
    if isinstance(source, AsyncIterator) and hasattr(source, "aclose"):
        await source.aclose()

"""An application with something around it: all is passed on to it, but for what a subclass says. It is not changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from trioserve.core.application import Application, Background, Endpoint, Exchange, Hook, Rules
from trioserve.core.messages import RequestHead


class WrappedApplication:
    """An `Application` that is another one, so far."""

    def __init__(self, app: Application) -> None:
        self._app = app

    @property
    def rules(self) -> Rules:
        return self._app.rules

    @property
    def hooks(self) -> Sequence[Hook]:
        return self._app.hooks

    def running(self, background: Background) -> AbstractAsyncContextManager[None]:
        return self._app.running(background)

    def endpoint(self, head: RequestHead) -> Endpoint:
        return self._app.endpoint(head)


class WrappedEndpoint:
    """An `Endpoint` that is called by `call`."""

    def __init__(self, endpoint: Endpoint, call: Callable[[Endpoint, Exchange], Awaitable[None]]) -> None:
        self._endpoint = endpoint
        self._call = call
        self.name = endpoint.name
        self.rules = endpoint.rules

    async def __call__(self, exchange: Exchange) -> None:
        __tracebackhide__ = True
        await self._call(self._endpoint, exchange)

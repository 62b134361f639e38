"""What listens for hangups in the tests of transports."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from trioserve.core.lifecycle import Cause


class Ear:
    """Keeps the causes of a hangup that it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[Cause] = []
        self._news = trio.Event()

    def __call__(self, cause: Cause) -> None:
        self.heard.append(cause)
        self._news.set()

    async def hears(self, *causes: Cause) -> bool:
        """True as soon as these, and only these, have been heard altogether."""
        with trio.fail_after(5):
            while len(self.heard) < len(causes):
                self._news = trio.Event()
                await self._news.wait()
        await wait_all_tasks_blocked()
        return self.heard == list(causes)

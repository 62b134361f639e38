"""Background work: tasks that outlive the exchange which started them, and the application's own.

They run beside the connections, inside what `Application.running` holds, so a pool that is opened there can be used to
the end. One that raises is logged, and nobody else notices. One that ends with the news that its client is gone has not
failed, and is not logged. When the server stops, background work is drained: waited for until `Deadlines.background`,
then cancelled; the unwinding is not cut.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import trio

from trioserve.core.callables import is_async, name_of
from trioserve.core.errors import ExchangeOver
from trioserve.failures import consists_of, is_failure, sole

Failed = Callable[[str, BaseException], None]
"""Told the name of the function that raised, and what it raised."""


class BackgroundWork:
    """The background work of one server.

    Args:
        nursery: where it runs.
        failed: told of what raises.
        threads: where plain functions run.
    """

    def __init__(self, nursery: trio.Nursery, failed: Failed, threads: trio.CapacityLimiter) -> None:
        self._nursery = nursery
        self._failed = failed
        self._threads = threads
        self._scopes: set[trio.CancelScope] = set()
        self._ended = trio.lowlevel.ParkingLot()
        self._open = True

    def start_soon(self, function: Callable[..., Any], *args: Any) -> None:
        if not trio.lowlevel.in_trio_run():  # a plain handler runs in a worker thread
            trio.from_thread.run_sync(functools.partial(self.start_soon, function, *args))
            return
        if not callable(function):
            raise TypeError(f"start_soon takes a function and its arguments, not {function!r}")
        if not self._open:
            raise RuntimeError(f"cannot start {name_of(function)}: the server has stopped")
        scope = trio.CancelScope()
        self._nursery.start_soon(self._run, scope, function, args, name=name_of(function))
        self._scopes.add(scope)

    async def _run(self, scope: trio.CancelScope, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            with scope:
                await self._call(function, args)
        except BaseException as error:
            if not is_failure(error):
                raise
            if not consists_of(error, ExchangeOver):
                self._failed(name_of(function), sole(error))
        finally:
            self._scopes.discard(scope)
            self._ended.unpark_all()

    async def _call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if is_async(function):
            # A task of its own: one that leaves a nursery or a cancel scope open breaks that task, and no other.
            async with trio.open_nursery() as fence:
                fence.start_soon(functools.partial(function, *args))
        else:
            await trio.to_thread.run_sync(functools.partial(function, *args), limiter=self._threads)

    async def drain(self, deadline: float) -> None:
        """Wait for what runs, cancel it after `deadline` seconds, and return when all has ended."""
        try:
            with trio.move_on_after(deadline):
                await self._all_ended()
        finally:  # also if we are cancelled ourselves: nobody runs on with what the application holds no more
            await self.stop()

    async def stop(self) -> None:
        """Cancel what runs, start nothing more, and return when all has ended; that is not cut."""
        self._open = False  # before what unwinds can start more, which nobody would end
        for scope in self._scopes:
            scope.cancel(reason="the server has stopped")
        with trio.CancelScope(shield=True):
            await self._all_ended()

    async def _all_ended(self) -> None:
        while self._scopes:
            await self._ended.park()

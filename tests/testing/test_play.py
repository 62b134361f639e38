"""One play: what the client does in it, and what is known of it afterwards."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import trio

from trioserve import FINISH, Abandoned, App, Completed, Config, HTTPError, Request
from trioserve.core.application import Application, Background, Endpoint, Exchange, Hook, Rules
from trioserve.core.messages import RequestHead
from trioserve.testing import Checkpoint, Way, run, wire_of
from trioserve.testing.plan import PlannedLeave
from trioserve.testing.play import Played, Setting, play
from trioserve.testing.rules import broken_rules

POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nabcd"
EXPECTS = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")


def played(app: Application, request: str | bytes = "/", leave: PlannedLeave | None = None) -> Played:
    """A play in which the client leaves so, behind one in which it has stayed."""

    async def main() -> Played:
        setting = Setting(app, wire_of(request), Config())
        stayed = await play(setting)
        return stayed if leave is None else await play(setting, leave, stayed)

    return run(main)


def broken(played: Played) -> dict[str, str]:
    return {rule.name: found.what for rule, found in broken_rules(played)}


# What is known


def test_the_watch_is_told_when_the_client_leaves() -> None:
    app = App()

    @app.get("/", disconnect=FINISH)
    async def goes_on() -> None:
        for _ in range(12):
            await trio.sleep(1)

    left = played(app, leave=PlannedLeave(Checkpoint(2), Way.RESET))

    assert [wait.number for wait in left.watch.passed] == [*range(3, 13)]
    assert not broken(left)
    # The same, of a server that was to cancel it.
    assert broken(dataclasses.replace(left, rules=Rules())) == {
        "not stopped": "the handler passed 10 checkpoints before its cancellation came"
    }


class _Hasty:
    """An application whose hooks are called while its handler runs."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.rules = app.rules
        self.name = "hasty"

    @property
    def hooks(self) -> Sequence[Hook]:
        return self._app.hooks

    def running(self, background: Background) -> AbstractAsyncContextManager[None]:
        return self._app.running(background)

    def endpoint(self, head: RequestHead) -> Endpoint:
        self._endpoint = self._app.endpoint(head)
        return self

    async def __call__(self, exchange: Exchange) -> None:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        whole: Application = frame.f_back.f_locals["self"]  # what the play serves: with its own hook
        try:
            await self._endpoint(exchange)
        except trio.Cancelled:
            await whole.hooks[-1](None)
            raise


def test_a_hook_that_is_called_while_the_handler_runs_is_noted() -> None:
    app = App()

    @app.get("/")
    async def rests() -> None:
        await trio.sleep(1)

    leave = PlannedLeave(Checkpoint(1), Way.FIN)
    assert not played(app, leave=leave).told_early
    hasty = played(_Hasty(app), leave=leave)
    assert hasty.told_early
    assert broken(hasty) == {"hook": "a hook was called while the handler still ran"}


# What the client does


def test_content_comes_in_two_halves_which_a_handler_has_to_wait_for() -> None:
    app = App()
    seen: list[bytes] = []

    @app.post("/")
    async def reads(request: Request) -> None:
        seen.extend([part async for part in request.stream()])

    stayed = played(app, POST)

    assert [part for part in seen if part] == [b"ab", b"cd"]
    assert len(stayed.watch.waits) >= 2
    assert not broken(stayed)


def test_a_client_that_expects_100_continue_waits_for_it() -> None:
    app = App()
    seen: list[bytes] = []

    @app.post("/")
    async def reads(request: Request) -> bytes:
        await trio.sleep(5)
        seen.extend([part async for part in request.stream() if part])
        return b"".join(seen)

    stayed = played(app, EXPECTS)

    assert seen == [b"ab", b"cd"]  # and not all that had come while the handler slept

    assert stayed.received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert stayed.received.endswith(b"abcd")
    assert not broken(stayed)


def test_a_client_that_expects_100_continue_and_is_refused_has_its_answer() -> None:
    app = App()

    @app.post("/")
    async def refuses() -> None:
        await trio.sleep(5)
        raise HTTPError(403)

    stayed = played(app, EXPECTS)

    assert stayed.received.startswith(b"HTTP/1.1 403 ")
    assert [(type(each), each.request_body_bytes) for each in stayed.records] == [(Completed, 0)]
    assert list(broken(stayed)) == ["fails"]  # it proves nothing of a request that works, and else all is well


def test_a_client_that_leaves_is_told_to_the_hooks_once() -> None:
    app = App()

    @app.get("/")
    async def rests() -> None:
        await trio.sleep(1)

    left = played(app, leave=PlannedLeave(Checkpoint(1), Way.FIN))

    assert left.left
    assert [type(each) for each in left.told] == [Abandoned]

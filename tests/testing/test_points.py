"""`leave_at_every_point`: what it plays, what it says, what it refuses."""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import httpx
import pytest
import trio
import trio.testing

from trioserve import App, DropConnection, Request, Response, Send
from trioserve.testing import (
    BodyBytes,
    Checkpoint,
    HeadBytes,
    LeftAMess,
    ResponseBytes,
    VirtualClock,
    Way,
    leave_at_every_point,
    run,
)

pytest_plugins = ["pytester"]


@pytest.fixture
def app() -> App:
    """With a handler that is safe to abandon, one that leaves a mess, and a long one."""
    app = App()

    @app.get("/right")
    async def right() -> str:
        for _ in range(3):
            await trio.sleep(1)
        return "done"

    @app.get("/bug")
    async def bug() -> str:
        await trio.sleep(1)
        try:
            await trio.sleep(1)
        finally:
            await trio.sleep(1)  # planted
        return "done"

    @app.get("/long")
    async def long() -> str:
        for number in range(300):
            await trio.lowlevel.checkpoint()
            if number == 200:
                try:
                    await trio.sleep(1)
                finally:
                    await trio.sleep(2)
        return "done"

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        async def write_body(send: Send) -> None:
            async for part in request.stream():
                await send(part)

        return Response.stream(write_body)

    return app


def test_each_point_is_left_in_each_way(app: App) -> None:
    tally = run(leave_at_every_point, app, "/right")
    assert tally.plays["Checkpoint"] == 3 * 4
    assert tally.plays["HeadBytes"] == 11 * 4
    assert tally.plays["ResponseBytes"] == 3 * 4
    assert tally.total == tally.points == sum(tally.plays.values())
    assert tally.missed == 0
    assert str(tally) == (
        "68 plays of GET /right, answered 200 (12 at Checkpoint, 12 at ResponseBytes, 44 at HeadBytes), "
        "by FIN, RESET, VANISH, HALF_CLOSE"
    )


def test_ways_can_be_chosen(app: App) -> None:
    assert run(leave_at_every_point, app, "/right", ways=[Way.RESET]).total == 17
    assert run(leave_at_every_point, app, "/right", ways=Way.RESET).total == 17
    assert run(leave_at_every_point, app, "/right", how=Way.RESET).ways == (Way.RESET,)


def test_a_planted_bug_in_a_handler_with_three_awaits_is_found_within_a_hundred_plays(app: App) -> None:
    with pytest.raises(LeftAMess) as caught:
        run(leave_at_every_point, app, "/bug")
    plays = int(re.search(r"of (\d+) plays", str(caught.value))[1])  # type: ignore[index]
    assert plays < 100
    first = caught.value.breaches[0]
    assert first.leave is not None
    assert first.leave.at == Checkpoint(2)


def test_the_text_says_which_rule_where_how_and_what_to_do(app: App) -> None:
    with pytest.raises(LeftAMess) as caught:
        run(leave_at_every_point, app, "/bug", snapshot=count)
    text = str(caught.value)
    here = r"tests/testing/test_points\.py:\d+, in bug"
    for line in (
        r"GET /bug is not safe to abandon\.",
        r"  rule    cut short: no await of the clean-up is cut short",
        rf"  found   the await at {here}, in a `finally`, was cut short:",
        r"              await trio\.sleep\(1\)  # planted",
        rf"  cut at  {here}: the await that was cancelled",
        rf"  client  left at the handler's checkpoint 2 of 3 \({here}\): FIN, it closed the connection",
        r"  phase   HANDLER \(the request was complete, the response had not begun\), cause FIN, outcome cancelled",
        r"  mend    shield it, with a bound:",
        r"              with trio\.move_on_after\(5, shield=True\):",
        r"  replay  await leave_at_every_point\(app, '/bug', at=Checkpoint\(2\), how=Way\.FIN, snapshot=count\)",
        r"  allow   .*allow=\('cut short',\)",
        rf"  cut short: {here} \(\d+ plays; the first: at=Checkpoint\(2\), how=Way\.FIN\)",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), f"{line}\n{text}"


def count() -> int:
    return 0


def test_one_departure_can_be_played_alone(app: App) -> None:
    with pytest.raises(LeftAMess, match=r"1 of 1 play broke a rule"):
        run(leave_at_every_point, app, "/bug", at=Checkpoint(2), how=Way.FIN)
    tally = run(leave_at_every_point, app, "/bug", at=Checkpoint(1), how=Way.FIN)
    assert str(tally) == "1 play of GET /bug, answered 200 (1 at Checkpoint), by FIN"
    assert run(leave_at_every_point, app, "/bug", at=HeadBytes(3)).total == 4


def test_many_departures_are_sampled_and_what_is_found_is_shrunk_to_the_earliest_point(app: App) -> None:
    with pytest.raises(LeftAMess) as caught:
        run(leave_at_every_point, app, "/long", budget=400)
    first = caught.value.breaches[0].leave
    assert first is not None
    assert first.at == Checkpoint(201)  # whose cancellation comes with the next
    assert first.how is Way.FIN


def test_a_sample_keeps_to_the_budget(app: App) -> None:
    tally = run(leave_at_every_point, app, "/long", budget=40, allow=("cut short",))
    assert tally.total <= 40
    assert tally.points > 1000
    assert "sampled from" in str(tally)


def test_an_httpx_request_with_content_is_played(app: App) -> None:
    request = httpx.Request("POST", "http://test/echo", content=b"0123456789")
    assert run(leave_at_every_point, app, request).plays["BodyBytes"] == 16


@pytest.mark.parametrize("clock", [None, trio.testing.MockClock()])
def test_time_must_be_virtual(app: App, clock: Any) -> None:
    with pytest.raises(RuntimeError, match=r"needs virtual time.*run\(leave_at_every_point"):
        trio.run(leave_at_every_point, app, "/right", clock=clock)


@pytest.mark.parametrize("clock", [VirtualClock(), trio.testing.MockClock(autojump_threshold=0)])
def test_each_clock_that_jumps_will_do(app: App, clock: Any) -> None:
    assert trio.run(leave_at_every_point, app, "/right", clock=clock).total == 68


@pytest.mark.parametrize(
    ("request_", "settings", "text"),
    [
        ("/nowhere", {}, r"no handler was called for GET /nowhere: the answer was 404"),
        ("right", {}, r"'right' is no request"),
        ("/right", {"allow": ("cut shorts",)}, r"'cut shorts', which is no rule; the rules are 'fails', 'never ends'"),
        ("/right", {"at": Checkpoint(9)}, r"never got to Checkpoint\(9\): the handler reaches 3 checkpoints"),
        ("/right", {"at": ResponseBytes(9999)}, r"never got to ResponseBytes\(9999\)"),
        ("/right", {"at": HeadBytes(999)}, r"never gets to HeadBytes\(999\): the request has \d+ bytes in its head"),
        ("/right", {"at": BodyBytes(1)}, r"never gets to BodyBytes\(1\): the request has 0 bytes in its body"),
        ("/right", {"ways": ["LATER"]}, r"'LATER' is not a valid Way; the ways are Way\.FIN"),
        ("/right", {"ways": []}, r"ways is empty"),
        ("/right", {"budget": 0}, r"budget=0 leaves nothing to play"),
        ("/right", {"snapshot": itertools.count().__next__}, r"when nothing has happened: it was 0, and .* again 1"),
        ("/right", {"snapshot": lambda: float("nan")}, r"when nothing has happened: it was nan"),
    ],
)
def test_what_cannot_be_played_is_refused(app: App, request_: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        run(leave_at_every_point, app, request_, **settings)


def set_up() -> AbstractAsyncContextManager[None]:
    return nullcontext()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"app": "module:app"}, r"'module:app' is no application; give the App itself"),
        ({"app": None}, r"None is no application"),
        ({"app": App}, r"is no application"),
        ({"snapshot": 3}, r"snapshot=3 is a value; give a function that looks anew: snapshot=lambda: \.\.\."),
        ({"around": set_up()}, r"around=set_up, not around=set_up\(\)"),
        ({"around": 3}, r"around=3 is no function"),
        ({"config": {}}, r"config=\{\} is no Config"),
        ({"at": 3}, r"at=3 is no point; give one, such as at=Checkpoint\(1\)"),
    ],
)
def test_what_is_of_another_kind_is_refused(app: App, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        run(leave_at_every_point, **{"app": app, "request": "/right", **settings})


def test_an_answer_that_refuses_proves_nothing_unless_it_is_meant() -> None:
    app = App()

    @app.get("/")
    async def refuses() -> Response:
        await trio.sleep(1)
        return Response("no", status=400)

    with pytest.raises(LeftAMess, match=r"(?s)answered 400 .*give a request that works.*allow=\('fails',\)"):
        run(leave_at_every_point, app, "/")
    tally = run(leave_at_every_point, app, "/", allow="fails")
    assert tally.status == 400
    assert ", answered 400 (" in str(tally)


def test_no_answer_is_no_status() -> None:
    app = App()

    @app.get("/")
    async def drops() -> str:
        raise DropConnection

    tally = run(leave_at_every_point, app, "/", ways=Way.FIN)
    assert tally.status is None
    assert str(tally).startswith(f"{tally.total} plays of GET /, not answered (")


def test_what_is_found_in_one_play_is_told_once_each_and_counted() -> None:
    app, taken = App(), []

    @app.get("/")
    async def handle() -> None:
        async def tidy_badly() -> None:
            try:
                await trio.sleep_forever()
            finally:
                await trio.sleep(1)  # of the tasks

        async with trio.open_nursery() as nursery:
            taken.append(1)
            for _ in range(3):
                nursery.start_soon(tidy_badly)
            try:
                await trio.sleep(1)
            finally:
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

    @contextmanager
    def afresh() -> Iterator[None]:
        taken.clear()
        yield

    settings = {"around": afresh, "snapshot": taken.copy, "allow": ("fails",)}
    with pytest.raises(LeftAMess) as caught:
        run(leave_at_every_point, app, "/", at=Checkpoint(4), how=Way.FIN, **settings)
    text = str(caught.value)
    in_full, _, others = text.partition("In the same play:\n")
    told = others.partition("\n\n")[0].splitlines()
    assert f"{in_full}\n{told}".count("(3 times)") == 1, text
    assert told[-2:] == ["  snapshot: before the request: []", "      after its client left: [1]"], text
    assert len({line for line in told if line.startswith("  cut short")}) == 1, text


class Value:
    """A snapshot of its own kind, which is never the same and always equal, but for being left in another state."""

    all: ClassVar[weakref.WeakSet[Value]] = weakref.WeakSet()

    def __init__(self, state: int) -> None:
        self.state = state
        self.all.add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.state == other.state

    __hash__ = object.__hash__


def test_a_failure_holds_nothing_of_the_plays() -> None:
    app, states = App(), itertools.count(1)
    state = [0]

    @app.get("/")
    async def leaks() -> str:
        state[0] = next(states)
        await trio.sleep(1)
        return "done"

    with pytest.raises(LeftAMess) as caught:
        run(leave_at_every_point, app, "/", snapshot=lambda: Value(state[0]), at=Checkpoint(1))
    assert caught.value.breaches
    assert not list(Value.all)


@pytest.mark.parametrize("style", ["long", "short"])
def test_pytest_shows_the_text_and_nothing_of_our_source(pytester: pytest.Pytester, style: str) -> None:
    pytester.makepyfile(
        """
        import trio
        from trioserve import App
        from trioserve.testing import leave_at_every_point, run

        app = App()

        @app.get("/")
        async def handle():
            try:
                await trio.sleep(1)
            finally:
                await trio.sleep(1)

        def test_it():
            run(leave_at_every_point, app, "/")
        """
    )
    result = pytester.runpytest("-p", "no:randomly", "-p", "no:cacheprovider", f"--tb={style}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*GET / is not safe to abandon."])
    shown = result.stdout.str()
    for ours in ("points.py", "clock.py", "_run.py", "trial", "outcome = "):
        assert ours not in shown, shown


def test_a_cancelled_proof_ends(app: App) -> None:
    async def main() -> bool:
        with trio.move_on_after(1.5) as scope:
            await leave_at_every_point(app, "/right")
        return scope.cancelled_caught

    assert run(main)

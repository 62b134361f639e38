"""A pytest plugin: a client that is open in the test, under a virtual clock. With pytest-trio and without it.

Ask for it in conftest.py; installing trioserve changes nobody's tests:

    pytest_plugins = "trioserve.testing.plugin"

    @pytest.fixture
    def app():
        return my_app

    async def test_a_report_is_found(client):
        answer = await client.get("/reports/2025")
        assert answer.status_code == 200

The fixtures are `app` (yours; there is none by default), `client` (a `TestClient` of it) and `virtual_clock`. An `async
def` test that uses `client` or `virtual_clock`, or is marked `@pytest.mark.trioserve`, runs in virtual time: in the way
of pytest-trio, async fixtures included, if that is installed, whatever its `trio_mode`; else by this plugin, which then
knows plain fixtures only. A clock of another kind among the test's arguments (pytest-trio's `autojump_clock`) is taken
instead.

There is one mechanism: around such a test, every `TestClient` among its arguments that is not open yet is opened. So
a fixture of your own makes one with other settings, and leaves the opening to this:

    @pytest.fixture
    def client(app):
        return TestClient(app, Config(half_close="finish"), follow_redirects=True)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from trioserve.core.application import Application
from trioserve.failures import sole
from trioserve.testing import TestClient, VirtualClock  # the package says what to install where httpx is missing

MARKER = "trioserve"

Test = Callable[..., Awaitable[None]]


@pytest.fixture
def app() -> Application:
    """The app under test: to be overridden."""
    pytest.fail(
        "trioserve's fixture `client` does not know your app; say so in conftest.py or beside the test:\n\n"
        "    @pytest.fixture\n    def app():\n        return my_app\n",
        pytrace=False,
    )


@pytest.fixture
def client(app: Application) -> TestClient:
    """A `TestClient` of the fixture `app`, open in the test."""
    return TestClient(app)


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """The `VirtualClock` under which the test runs."""
    return VirtualClock()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}: run an async test in virtual time, with every trioserve TestClient among its arguments open",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    if _is_ours(item) and item.config.pluginmanager.hasplugin("trio"):
        item.add_marker(pytest.mark.trio)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Before pytest-trio makes a plain function of it: open the clients inside the test."""
    if _is_ours(item):
        item.stash[_OURS] = True
        _replace(item, _opening)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """After that: run it in virtual time."""
    if pyfuncitem.stash.get(_OURS, False):
        pyfuncitem.stash[_OURS] = False  # once is enough, if the test is run again
        _replace(pyfuncitem, _in_virtual_time)


_OURS = pytest.StashKey[bool]()


def _is_ours(item: pytest.Item) -> bool:
    """True for an async test that uses what is here."""
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(_test(item)):
        return False
    return item.get_closest_marker(MARKER) is not None or not {"client", "virtual_clock"}.isdisjoint(item.fixturenames)


def _test(item: pytest.Function) -> Any:
    """What the test is; with Hypothesis, what is run for each example."""
    hypothesis = getattr(item.obj, "hypothesis", None)
    return item.obj if hypothesis is None else hypothesis.inner_test


def _replace(item: pytest.Item, wrap: Callable[[Any], Any]) -> None:
    assert isinstance(item, pytest.Function), "nothing else is ours"
    test = wrap(_test(item))
    if hasattr(item.obj, "hypothesis"):
        item.obj.hypothesis.inner_test = test
    else:
        item.obj = test


_CLOCK = "_trioserve_clock"
"""As what an argument more the clock reaches whoever runs the test: pytest-trio takes the one among them."""


def _opening(test: Test) -> Test:
    """The test, in which every client among its arguments is open."""

    @functools.wraps(test)
    async def opened(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        kwargs.pop(_CLOCK, None)
        async with AsyncExitStack() as stack:
            for value in kwargs.values():
                if isinstance(value, TestClient) and value.is_unopened:
                    await stack.enter_async_context(value)
            await test(*args, **kwargs)

    return opened


def _in_virtual_time(test: Callable[..., Any]) -> Callable[..., None]:
    """The test, still async or made plain by pytest-trio, as a plain one in virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        clocks = [value for value in kwargs.values() if isinstance(value, trio.abc.Clock)]
        if not clocks:
            clocks = [VirtualClock()]
            kwargs[_CLOCK] = clocks[0]
        call = functools.partial(test, *args, **kwargs)
        try:
            if inspect.iscoroutinefunction(test):
                trio.run(call, clock=clocks[0])
            else:
                call()
        except BaseExceptionGroup as group:
            error = sole(group)
            if error is group:
                raise
            raise error from None  # the nursery around it is pytest-trio's, and tells nobody anything

    return run

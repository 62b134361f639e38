"""The pytest plugin, with pytest-trio and without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
import trio
from trioserve import App

pytest_plugins = "trioserve.testing.plugin"


@pytest.fixture
def app():
    app = App()

    @app.get("/")
    async def sleep() -> str:
        await trio.sleep(3600 if app.long else 25)
        return "rested"

    app.long = False
    return app
"""


@pytest.fixture(params=["with pytest-trio", "in its trio mode", "without it"])
def play(request, pytester):
    """Run a test file; returns what pytest says."""
    pytester.makeconftest(CONFTEST)
    trio_mode = request.param == "in its trio mode"
    options = ["-p", "no:trio"] if request.param == "without it" else []
    if not options:
        pytester.makeini(f"[pytest]\ntrio_mode = {str(trio_mode).lower()}\n")

    def play(*tests, **files):
        files = {name: _HEAD + text for name, text in files.items()}
        pytester.makepyfile(*[_HEAD + test for test in tests], **files)
        # In this process the plugin may have been imported before, by other tests.
        strict = ["-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning", "--strict-markers"]
        return pytester.runpytest_inprocess("-p", "no:randomly", *strict, *options)

    return play


_HEAD = "import pytest, trio, time\nfrom trioserve import *\nfrom trioserve.testing import *\n"


def test_the_client_is_open_in_the_test_and_time_is_virtual(play):
    play("""
async def test_an_answer(client):
    answer = await client.get("/")
    assert (answer.status_code, answer.text) == (200, "rested")
    assert trio.current_time() == 25
""").assert_outcomes(passed=1)


def test_a_client_of_the_users_own_is_opened_too_and_an_open_one_is_left_alone(play):
    play("""
@pytest.fixture
def client(app):
    return TestClient(app, headers={"x": "y"})

@pytest.fixture
def other():
    return TestClient(App())

async def test_two(client, other):
    assert (await client.get("/")).request.headers["x"] == "y"
    assert (await other.get("/")).status_code == 404

async def test_a_closed_one_stays_closed(app, virtual_clock):
    client = TestClient(app)
    async with client:
        await client.get("/")
    with pytest.raises(RuntimeError, match="closed"):
        await client.get("/")
""").assert_outcomes(passed=2)


def test_the_virtual_clock_is_the_one_that_the_test_runs_under(play):
    play("""
async def test_time(virtual_clock):
    await trio.sleep(5000)
    assert virtual_clock.current_time() == trio.current_time() == 5000

async def test_time_with_a_client(virtual_clock, client):
    await client.get("/")
    assert virtual_clock.current_time() == 25
""").assert_outcomes(passed=2)


def test_a_marked_test_runs_in_virtual_time(play):
    play("""
@pytest.mark.trioserve
async def test_time():
    began = time.monotonic()
    await trio.sleep(5000)
    assert trio.current_time() == 5000
    assert time.monotonic() - began < 1000

@pytest.mark.trioserve
class TestMethods:
    @pytest.mark.parametrize("seconds", [1, 2000])
    async def test_time(self, seconds):
        await trio.sleep(seconds)
        assert trio.current_time() == seconds

    def test_a_plain_test_is_left_alone(self):
        with pytest.raises(RuntimeError):
            trio.current_time()
""").assert_outcomes(passed=4)


def test_a_failing_test_fails_with_its_own_error(play):
    result = play("""
async def test_it(client):
    assert (await client.get("/")).text == "tired"
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E       AssertionError: assert 'rested' == 'tired'"])
    result.stdout.no_fnmatch_line("*ExceptionGroup*")
    result.stdout.no_fnmatch_line("*plugin.py*")


def test_a_missing_app_is_explained(play, pytester):
    pytester.makeconftest('pytest_plugins = "trioserve.testing.plugin"')
    result = play("""
async def test_it(client):
    await client.get("/")
""")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture `client` does not know your app*", "*def app():*"])


def test_examples_of_hypothesis_have_each_a_run_of_their_own(play):
    play("""
from hypothesis import given, settings, strategies as st, HealthCheck

@pytest.mark.trioserve
@given(seconds=st.integers(1, 10_000))
@settings(max_examples=5, suppress_health_check=list(HealthCheck), deadline=None)
async def test_time(seconds):
    await trio.sleep(seconds)
    assert trio.current_time() == seconds
""").assert_outcomes(passed=1)


def test_with_pytest_trio_async_fixtures_work_too(play, request):
    if request.node.callspec.params["play"] == "without it":
        pytest.skip("they are pytest-trio's")
    play("""
@pytest.fixture
async def app():
    await trio.sleep(10)
    return App()

async def test_it(client):
    assert (await client.get("/")).status_code == 404
    assert trio.current_time() == 10

async def test_the_clock_of_others(client, autojump_clock):
    assert trio.current_time() == autojump_clock.current_time()
""").assert_outcomes(passed=2)


def test_what_does_not_use_it_is_left_alone(play, request):
    result = play("""
async def test_elsewhere():
    pass
""")
    if request.node.callspec.params["play"] == "in its trio mode":
        result.assert_outcomes(passed=1)
    else:
        result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_without_httpx_it_says_what_to_install():
    program = """
import sys
sys.modules["httpx"] = None
try:
    import trioserve.testing.plugin
except ModuleNotFoundError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.endswith("needs the package httpx; install it with pip install 'trioserve[testing]'\n")

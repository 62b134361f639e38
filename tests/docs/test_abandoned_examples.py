"""The examples that have everything twice: careless handlers leave a mess, and the kit names the line; safe ones leave
none.
"""

from __future__ import annotations

import difflib
import gc
import inspect
import re
import runpy
import sqlite3
import subprocess
import tempfile
import warnings
from contextlib import closing
from pathlib import Path
from typing import get_args

import httpx
import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from examples import export, orders, sort
from tests.support.program import command, environment
from trioserve.testing import LeftAMess, Point, Way, leave_at_every_point, run
from trioserve.testing.rules import RULES

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CARELESS = "/careless"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the databases are, and the temporary folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture(scope="module")
def warehouse():
    """The other service, in a process of its own as in real life: its descriptors and its time are not ours."""
    with subprocess.Popen(
        command("run", "examples.orders:warehouse", "--port", "0", "--no-access-log"),
        cwd=ROOT,
        env=environment(SECONDS_TO_RESERVE="0"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield re.search(r" on (http://\S+)", process.stderr.readline())[1]
        process.kill()


def failure(app, request, **settings) -> str:
    """The text that says what is wrong with a careless handler.

    What nobody has closed, children and pipes and generators, is warned of when it is collected, which is here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        text = _failure(app, request, **settings)
        gc.collect()
    return text


def _failure(app, request, **settings) -> str:
    with pytest.raises(LeftAMess) as raised:
        run(leave_at_every_point, app, request, ways=[Way.FIN], **settings)
    return str(raised.value)


def line_of(function, text: str) -> str:
    """The line in which a function has these words, as the kit names it: "orders.py:50, in order_carelessly"."""
    lines, first = inspect.getsourcelines(function)
    (number,) = [number for number, line in enumerate(lines, first) if text in line]
    return f"{Path(inspect.getsourcefile(function)).name}:{number}, in {function.__name__}"


def found(text: str) -> str:
    """What a failure says first of all: what was found, and in which line."""
    return re.search(r"^  found .+$", text, re.MULTILINE)[0]


# orders.py


def what_orders_leave() -> object:
    with closing(sqlite3.connect("orders.db")) as connection:
        rows = [connection.execute(f"select count(*) from {table}").fetchone() for table in ("orders", "reservations")]
    return orders.pool.free, rows, list(Path(tempfile.gettempdir()).iterdir())


def order(prefix: str = "") -> httpx.Request:
    return httpx.Request("POST", f"{prefix}/orders", json={"item": "pear"})


@pytest.fixture
def shop(warehouse, monkeypatch):
    monkeypatch.setattr(orders, "WAREHOUSE", warehouse)
    return orders.app


# httpx leaves a generator of its own to the garbage collector when it is cancelled while it sends.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
def test_an_order_leaves_nothing_wherever_its_client_leaves(shop):
    tally = run(leave_at_every_point, shop, order(), snapshot=what_orders_leave)
    assert tally.plays["Checkpoint"] > 50


def test_a_careless_order_is_found_and_its_line_named(shop):
    text = failure(shop, order(CARELESS), snapshot=what_orders_leave)
    assert line_of(orders.order_carelessly, "in_thread(shutil.rmtree") in found(text)
    assert "was cut short" in found(text)


def test_a_row_without_the_other_is_found_and_the_call_named_that_was_cancelled(shop):
    text = failure(shop, order(CARELESS), snapshot=lambda: what_orders_leave()[1], allow=["cut short", "left over"])
    assert "rule    snapshot" in text
    assert f"cut at  {EXAMPLES}/{line_of(orders.order_carelessly, 'slip.write_text')}" in text


# export.py


def test_an_export_leaves_nothing_wherever_its_client_leaves():
    tally = run(leave_at_every_point, export.app, "/squares.csv?to=1500", snapshot=lambda: export.pool.free)
    assert tally.plays["ResponseBytes"] > 10


def test_a_careless_export_is_found_and_its_line_named():
    text = failure(export.app, "/careless/squares.csv?to=1500", snapshot=lambda: export.pool.free)
    assert line_of(export.rows_carelessly, "await pool.release(") in found(text)


# sort.py


def lines(prefix: str = "") -> httpx.Request:
    return httpx.Request("POST", f"{prefix}/sorted", content=b"pear\napple\n")


def test_a_child_leaves_nothing_wherever_its_client_leaves():
    run(leave_at_every_point, sort.app, lines())


def test_a_careless_child_is_found_and_its_line_named():
    text = failure(sort.app, lines(CARELESS))
    assert line_of(sort.sort_carelessly, "await child.wait()") in found(text)


# docs/testing.md


PAGE = ROOT / "docs/testing.md"


def blocks() -> list[str]:
    """The Python blocks of the page."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_its_first_test_says_of_its_first_handler():
    one_line, seats, *_ = blocks()
    Path("seats.py").write_text(seats)
    names = runpy.run_path("seats.py")
    exec(one_line, names)
    with pytest.raises(LeftAMess) as raised:
        names["test_who_leaves_leaves_no_mess"]()
    shown = str(raised.value).strip()
    assert f"```text\n{shown}\n```" in PAGE.read_text(), shown


def test_the_page_shows_how_the_careless_order_becomes_the_safe_one():
    bodies = [inspect.getsource(function).splitlines()[2:] for function in (orders.order_carelessly, orders.order)]
    shown = "\n".join([line.rstrip() for line in difflib.unified_diff(*bodies, n=99, lineterm="")][3:])
    assert f"```diff\n{shown}\n```" in PAGE.read_text(), shown


def test_the_page_shows_what_is_said_of_the_careless_order(shop):
    text = failure(shop, order(CARELESS), snapshot=what_orders_leave)
    # Which await is cut first can depend on how long the thread before it takes.
    shown, _, _ = text.strip().replace(f"{ROOT}/", "").partition("\n  cut at")
    assert f"```text\n{shown}\n" in PAGE.read_text(), shown


def test_the_page_has_all_rules():
    rows = re.findall(r"^\| `([a-z ]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(rule.name, rule.says) for rule in RULES], "\n".join(f"| `{r.name}` | {r.says} |" for r in RULES)


def test_the_page_has_all_ways_and_points():
    text = PAGE.read_text()
    assert re.findall(r"^\| `Way\.(\w+)` \|", text, re.MULTILINE) == [way.name for way in Way]
    assert all(f"`{point.__name__}(" in text for point in get_args(Point))


def test_every_test_of_the_page_passes_where_it_stands(capsys):
    document = Document.parse(str(PAGE), PythonCodeBlockParser())
    played = {"test_who_leaves_leaves_no_mess", "test_an_order_leaves_no_mess"}  # above, for they need more
    for example in document.examples():
        example.evaluate()
        for name, test in document.namespace.items():
            if name.startswith("test_") and name not in played and not inspect.signature(test).parameters:
                played.add(name)
                run(test) if inspect.iscoroutinefunction(test) else test()
    assert len(played) == 7
    assert f"```text\n{capsys.readouterr().out}```" in PAGE.read_text()

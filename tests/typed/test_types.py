"""What strict type checkers say to a user: nothing where the API is used well, and something at each wrong use."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trioserve
from tests.typed import user_module

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WRONG_USES = HERE / "wrong_uses.py"
GOOD_USES = [HERE / "user_module.py", *sorted((ROOT / "examples").glob("*.py"))]

Report = tuple[Path, int, str]
"""A file, a line of it, and what a checker says of it."""


def output_of(*command: str) -> str:
    """What a checker prints. Its exit code is 1, since there are wrong uses."""
    files = map(str, [WRONG_USES, *GOOD_USES])
    done = subprocess.run(
        [sys.executable, "-m", *command, *files], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def mypy() -> list[Report]:
    lines = re.findall(
        r"^(.+?):(\d+): (error: .*)$", output_of("mypy", "--strict", "--explicit-package-bases"), re.MULTILINE
    )
    return [(ROOT / path, int(line), text) for path, line, text in lines]


def basedpyright() -> list[Report]:
    output = output_of("basedpyright", "--project", str(HERE), "--pythonpath", sys.executable, "--outputjson")
    reports = json.loads(output)["generalDiagnostics"]
    return [(Path(each["file"]), each["range"]["start"]["line"] + 1, each["message"]) for each in reports]


@pytest.fixture(scope="module", params=[mypy, basedpyright], ids=lambda checker: checker.__name__)
def reports(request) -> list[Report]:
    return request.param()


def test_a_users_module_and_the_examples_are_accepted(reports):
    assert [report for report in reports if report[0] in GOOD_USES] == []


def test_each_wrong_use_is_reported_and_nothing_else(reports):
    lines = WRONG_USES.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")}
    reported = {number for path, number, _ in reports if path == WRONG_USES}
    assert {number: lines[number - 1] for number in wrong ^ reported} == {}
    assert len(wrong) == WRONG_USES.read_text().count("# wrong")


def test_the_users_module_uses_every_public_name():
    nodes = list(ast.walk(ast.parse(Path(user_module.__file__).read_text())))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "trioserve"]
    assert {alias.name for node in imports for alias in node.names} == set(trioserve.__all__)
    assert set(trioserve.__all__) <= {node.id for node in nodes if isinstance(node, ast.Name)}


async def test_the_users_module_runs(autojump_clock):
    await user_module.test_item()

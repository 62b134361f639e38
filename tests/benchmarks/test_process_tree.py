"""On processes that are started for it, and wait to be told."""

import os
import subprocess
import sys
from contextlib import contextmanager

from benchmarks.process_facts import cpu_seconds, descendants, tree_cpu_seconds

BURN = "import time\nwhile time.process_time() < 0.2: pass\n"
ENOUGH = 0.15  # the system counts in hundredths of a second, and rounds each of them
SAY_AND_WAIT = "print('there', flush=True)\ninput()\n"


@contextmanager
def process(code):
    running = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert running.stdout.readline() == b"there\n"
        yield running
    finally:
        running.communicate(b"\n")


def with_child(code):
    return (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-c', {code!r}]\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        f"{SAY_AND_WAIT}"
        "child.communicate(b'\\n')\n"
    )


def test_the_time_of_a_living_child_is_that_of_its_tree_and_not_of_its_parent():
    parent = with_child(f"{BURN}{SAY_AND_WAIT}")
    with process(parent) as running:
        (below,) = descendants(running.pid)
        assert tree_cpu_seconds(running.pid) >= cpu_seconds(running.pid) + ENOUGH
        assert cpu_seconds(below) >= ENOUGH


def test_the_time_of_a_child_that_has_ended_still_counts():
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n{SAY_AND_WAIT}"
    with process(parent) as running:
        assert descendants(running.pid) == []
        assert tree_cpu_seconds(running.pid) >= cpu_seconds(running.pid) + ENOUGH


def test_grandchildren_are_descendants_and_come_after_their_parents():
    parent = with_child(with_child(SAY_AND_WAIT))
    with process(parent) as running:
        first, second = descendants(running.pid)
        assert descendants(first) == [second]
        assert descendants(os.getpid()).count(second) == 1

"""The residue tells what there is after something and was not before, in words."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import trio
import trio.testing

from trioserve.testing import Residue, left

ASLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


async def test_nothing_is_left_of_nothing():
    assert left(Residue.now(), Residue.now()) == []


async def test_a_task_that_still_runs_is_left():
    async def worker():
        await trio.sleep_forever()

    before = Residue.now()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker)
        (told,) = left(before, Residue.now())
        assert told.startswith("a task still runs: ")
        assert told.endswith("worker")
        nursery.cancel_scope.cancel()
    assert left(before, Residue.now()) == []


async def test_a_task_of_a_task_is_left_too():
    async def grandchild():
        await trio.sleep_forever()

    async def child():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grandchild)

    before = Residue.now()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.testing.wait_all_tasks_blocked()
        assert [each.rpartition(".")[2] for each in left(before, Residue.now())] == ["child", "grandchild"]
        nursery.cancel_scope.cancel()


async def test_a_thread_that_works_is_left_and_one_that_trio_keeps_is_not():
    at_work, go_on = trio.Event(), threading.Event()

    def work():
        trio.from_thread.run_sync(at_work.set)
        go_on.wait()

    before = Residue.now()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, work)
        await at_work.wait()
        told = left(before, Residue.now())
        go_on.set()
    assert [each for each in told if each.startswith("a thread is still at work: work from ")]
    assert left(before, Residue.now()) == []


def test_a_thread_of_ones_own_is_left():
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="mine")
    before = Residue.now()
    thread.start()
    told = left(before, Residue.now())
    go_on.set()
    thread.join()
    assert told == ["a thread is still at work: mine"]
    assert left(before, Residue.now()) == []


def test_a_file_that_is_open_is_left(tmp_path):
    before = Residue.now()
    with (tmp_path / "rows").open("w") as file:
        assert left(before, Residue.now()) == [f"left open: {tmp_path / 'rows'} (descriptor {file.fileno()})"]
    assert left(before, Residue.now()) == []


def test_a_descriptor_that_is_another_now_is_left(tmp_path):
    first = os.open(tmp_path / "first", os.O_CREAT)
    before = Residue.now()
    os.close(first)
    second = os.open(tmp_path / "second", os.O_CREAT)
    assert first == second
    assert left(before, Residue.now()) == [f"left open: {tmp_path / 'second'} (descriptor {second})"]
    os.close(second)


def test_a_child_process_is_left_until_somebody_has_waited_for_it():
    before = Residue.now()
    child = subprocess.Popen(ASLEEP)
    (told,) = left(before, Residue.now())
    assert told.startswith(f"a child process is left: {child.pid} (")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead now
    assert left(before, Residue.now()) == [
        f"a child process is left: {child.pid} (has ended, and nobody has waited for it)"
    ]
    child.wait()
    assert left(before, Residue.now()) == []

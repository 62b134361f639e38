import importlib.util
import shutil

import pytest

from benchmarks.options import Options
from benchmarks.suite import measure, peers
from benchmarks.suite.peers import BY_KEY, PEERS, servers_of
from benchmarks.suite.targets import TARGETS
from benchmarks.suite.workloads import QUICK_PEERS, QUICK_WORKLOADS, WORKLOADS, workload_named


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_servers_that_a_workload_names_exist(workload):
    assert set(workload.peers) <= set(BY_KEY)


def test_what_the_quick_mode_measures_exists():
    assert set(QUICK_PEERS) <= set(BY_KEY)
    assert all(workload_named(name) for name in QUICK_WORKLOADS)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_both_sides_of_a_target_are_measured_in_a_whole_run(target):
    def measured(name):
        return [peer.key for peer in servers_of(workload_named(name), None)]

    assert target.peer in measured(target.workload)
    assert target.base in measured(target.base_workload or target.workload)


def test_a_server_that_cannot_serve_a_workload_is_not_asked():
    assert [peer.key for peer in servers_of(workload_named("tls"), ("floor", "bare-h11", "go"))] == ["go"]


def test_who_asks_for_servers_gets_them_in_workloads_that_name_others():
    assert [peer.key for peer in servers_of(workload_named("json"), ("node",))] == ["node"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.key)
def test_every_server_serves_plaintext(peer):
    command = peer.command(workload_named("plaintext"))
    assert command is not None
    assert "{port}" in command or command[0] == peers.NGINX or any("{port}" in word for word in command)


def test_a_module_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert BY_KEY["granian"].missing() == "granian is not installed; `make bench` installs it into .bench"


def test_a_program_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert BY_KEY["go"].missing() == "go is not installed"


def test_a_server_that_cannot_be_started_is_left_out_of_the_plan_with_the_reason(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    tasks, left_out = measure.plan([workload_named("plaintext"), workload_named("tls")], ("floor", "go"))
    assert [(task.workload.name, [peer.key for peer in task.peers]) for task in tasks] == [("plaintext", ["floor"])]
    assert left_out == ("go is left out: go is not installed",)


def test_the_estimate_counts_a_server_once_however_many_workloads_it_serves():
    options = Options(rounds=1, seconds=1, quick=True, server_core=0, load_core=1)
    both, _ = measure.plan([workload_named("plaintext"), workload_named("256")], ("floor",))
    one, _ = measure.plan([workload_named("plaintext")], ("floor",))
    assert measure.seconds(both, options) - measure.seconds(one, options) == pytest.approx(1 + measure.OVERHEAD)

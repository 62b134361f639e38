"""The load: wrk, a script for it where a request needs one, and what it says in the end."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.workloads import Manner, Workload

TIMEOUT = 10
"""Seconds until wrk counts a request as timed out; it then goes on waiting for it."""


UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""In which wrk tells a time, in seconds."""


class LoadError(Exception):
    """The load could not be put on a server, or the server did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk says."""

    requests: int
    seconds: float  # that it took, by its own clock
    errors: int  # connections that failed or broke
    timeouts: int


def missing() -> str | None:
    """What must be installed for the load; None: nothing."""
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is not installed; on Debian: apt-get install {package}"
    return None


def put_load(workload: Workload, port: int, seconds: int, core: int, scratch: Path) -> Answered:
    """Let wrk ask for so long.

    Raises:
        LoadError: wrk failed, or an answer had another status code than 2xx or 3xx.
    """
    scheme = "https" if workload.manner is Manner.TLS else "http"
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{workload.connections}", f"-d{seconds}s"]
    command += ["--timeout", f"{TIMEOUT}s"]
    if script := script_of(workload, scratch):
        path = scratch / f"{workload.name}.lua"
        path.write_text(script)
        command += ["-s", str(path)]
    try:
        said = subprocess.run(
            [*command, f"{scheme}://127.0.0.1:{port}{workload.target}"],
            capture_output=True,
            text=True,
            timeout=seconds + TIMEOUT + 20,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk did not end {TIMEOUT + 20} s after its time") from error
    if said.returncode != 0:
        raise LoadError(f"wrk failed: {(said.stderr or said.stdout).strip()}")
    return parse(said.stdout)


def script_of(workload: Workload, scratch: Path) -> str:
    """Lua for wrk; empty if the bare address says it all. A body is in a file, for Lua would have to quote it."""
    lines = []
    if workload.method != "GET":
        lines.append(f'wrk.method = "{workload.method}"')
    lines += [f"wrk.headers[{_quoted(name)}] = {_quoted(value)}" for name, value in workload.fields]
    if workload.body:
        path = scratch / f"{workload.name}.body"
        path.write_bytes(workload.body)
        lines.append(f'wrk.body = io.open({_quoted(str(path))}, "rb"):read("*a")')
    if workload.pipelined > 1:
        lines += [
            f"init = function() requests = string.rep(wrk.format(), {workload.pipelined}) end",
            "request = function() return requests end",
        ]
    return "".join(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse(said: str) -> Answered:
    """What wrk printed.

    Raises:
        LoadError: as for `put_load`.
    """
    answered = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m|h)\b", said)
    if answered is None:
        raise LoadError(f"wrk says something unknown: {said.strip()!r}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if refused is not None:
        raise LoadError(f"{refused[1]} of {answered[1]} answers had a status code that is not 2xx or 3xx")
    trouble = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    connect, read, write, timeouts = map(int, trouble.groups()) if trouble else (0, 0, 0, 0)
    seconds = float(answered[2]) * UNITS[answered[3]]
    return Answered(int(answered[1]), seconds, connect + read + write, timeouts)

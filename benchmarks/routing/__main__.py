"""`python -m benchmarks.routing`: CPU time of one lookup in tables of 10 to 10,000 routes."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from benchmarks.tables import load_average, measured_where, publish, table
from trioserve.app.routing import Match, NoMatch, Pattern, RouteTable

SIZES = (10, 100, 1_000, 10_000)
LOOKUPS = 20_000


def routes(size: int) -> RouteTable[int]:
    """A third without parameters, a third with one in the middle, a third with two."""
    made: RouteTable[int] = RouteTable()
    for number in range(size):
        paths = (
            f"/api/v1/items-{number}/list",
            f"/api/v1/users-{number}/{{id:int}}/posts",
            f"/{{tenant}}/x-{number}/{{name}}",
        )
        made.add(["GET"], Pattern(paths[number % 3]), number)
    return made


def workloads(size: int) -> dict[str, list[tuple[str, str]]]:
    """Requests (method, path) by what they are, spread over all routes."""
    draw = random.Random(1)
    numbers = [draw.randrange(size // 3) * 3 for _ in range(200)]
    return {
        "without parameters": [("GET", f"/api/v1/items-{n}/list") for n in numbers],
        "one parameter": [("GET", f"/api/v1/users-{min(n + 1, size - 2)}/17/posts") for n in numbers],
        "two parameters": [("GET", f"/acme/x-{min(n + 2, size - 1)}/some-name") for n in numbers],
        "unknown path": [("GET", f"/nowhere/{n}/list") for n in numbers],
    }


def cost(find: Callable[[str, str], object], requests: list[tuple[str, str]]) -> float:
    """Microseconds of CPU for one lookup."""
    turns = LOOKUPS // len(requests)
    begun = time.process_time_ns()
    for _ in range(turns):
        for method, path in requests:
            find(method, path)
    return (time.process_time_ns() - begun) / 1000 / (turns * len(requests))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", metavar="FILE")
    arguments = parser.parse_args()
    load = load_average()

    tables = {size: routes(size) for size in SIZES}
    kinds = list(workloads(SIZES[0]))
    measured: dict[tuple[str, int], list[float]] = {(kind, size): [] for kind in kinds for size in SIZES}
    for _ in range(arguments.rounds):
        for size, made in tables.items():
            for kind, requests in workloads(size).items():
                wanted = NoMatch if kind == "unknown path" else Match
                assert all(isinstance(made.find(*request), wanted) for request in requests), (kind, size)
                measured[kind, size].append(cost(made.find, requests))

    rows = []
    for kind in kinds:
        medians = [statistics.median(measured[kind, size]) for size in SIZES]
        rows.append([kind, *(f"{median:.2f}" for median in medians), f"{medians[2] / medians[0]:.2f}"])
    columns = ["CPU us a lookup", *(f">{size:,} routes" for size in SIZES), ">1,000 / 10"]
    publish(f"{measured_where(load)}\n\n{table(columns, rows)}", arguments.markdown)


if __name__ == "__main__":
    main()

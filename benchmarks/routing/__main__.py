"""`python -m benchmarks.routing`: CPU time of one lookup, by the number of routes and the length of hostile paths."""

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
# Routes at one place, `/{x}.k0`, `/{x}.k1`, ..., which are tried one after another.
SIBLINGS = (10, 100, 1_000)
LENGTHS = (100, 1_000, 8_000)
# A pattern, and what a path repeats that nearly fits it in very many ways.
HOSTILE = {
    "/posts/{year}-{month}-{slug}.html": "-",
    "/posts/{year}-{month:int}-{slug}.html": "1-",
    "/{a}/{rest:path}/raw": "/-",
    "/{id:int}": "1/",
}


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


def siblings(size: int) -> RouteTable[int]:
    made: RouteTable[int] = RouteTable()
    for number in range(size):
        made.add(["GET"], Pattern(f"/{{x}}.k{number:04}"), number)
    return made


def hostile(pattern: str, repeated: str, length: int) -> tuple[RouteTable[str], str]:
    """A table of routes for four methods, and a path of about that length that fits none."""
    made: RouteTable[str] = RouteTable()
    made.add(["GET", "PUT", "POST", "DELETE"], Pattern(pattern), pattern)
    return made, pattern[: pattern.index("{")] + repeated * (length // len(repeated))


def cost(find: Callable[[str, str], object], requests: list[tuple[str, str]], lookups: int = LOOKUPS) -> float:
    """Microseconds of CPU for one lookup."""
    turns = lookups // len(requests)
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
    beside = {size: siblings(size) for size in SIBLINGS}
    tried: dict[int, list[float]] = {size: [] for size in SIBLINGS}
    attacks = {
        (pattern, length): hostile(pattern, HOSTILE[pattern], length) for pattern in HOSTILE for length in LENGTHS
    }
    attacked: dict[tuple[str, int], list[float]] = {attack: [] for attack in attacks}
    for _ in range(arguments.rounds):
        for size, made in tables.items():
            for kind, requests in workloads(size).items():
                wanted = NoMatch if kind == "unknown path" else Match
                assert all(isinstance(made.find(*request), wanted) for request in requests), (kind, size)
                measured[kind, size].append(cost(made.find, requests))
        for size, made in beside.items():
            last = ("GET", f"/a.k{size - 1:04}")
            assert made.find(*last) == Match(size - 1, {"x": "a"})
            tried[size].append(cost(made.find, [last], 500))
        for attack, (one, path) in attacks.items():
            assert isinstance(one.find("GET", path), NoMatch), attack
            attacked[attack].append(cost(one.find, [("GET", path)], 200))

    rows = []
    for kind in kinds:
        medians = [statistics.median(measured[kind, size]) for size in SIZES]
        rows.append([kind, *(f"{median:.2f}" for median in medians), f"{medians[2] / medians[0]:.2f}"])
    columns = ["CPU us a lookup", *(f">{size:,} routes" for size in SIZES), ">1,000 / 10"]
    medians = [statistics.median(tried[size]) for size in SIBLINGS]
    rows.append(
        ["the last of all at one place", *(f"{median:.2f}" for median in medians), "", f"{medians[2] / medians[0]:.2f}"]
    )
    hostile_rows = [
        [f"`{pattern}`", f"`{HOSTILE[pattern]}`", *(f"{statistics.median(attacked[pattern, n]):.0f}" for n in LENGTHS)]
        for pattern in HOSTILE
    ]
    hostile_columns = ["CPU us for a hostile path", "that repeats", *(f">{length:,} characters" for length in LENGTHS)]
    publish(
        f"{measured_where(load)}\n\n{table(columns, rows)}\n\n{table(hostile_columns, hostile_rows)}",
        arguments.markdown,
    )


if __name__ == "__main__":
    main()

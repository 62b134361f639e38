"""The panel by itself: what it tells of an abandonment, and that a page which does not keep up disturbs nobody."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.sample_records import abandoned
from trioserve import Outcome
from trioserve.demo.panel import LATEST, TICK, CpuMeter, FollowedSearch, Panel, abandonment
from trioserve.demo.search import Search, Tree

TREE = Tree(Path("/nowhere"), tuple(Path(f"/nowhere/{number}") for number in range(10)))


@pytest.fixture
def panel() -> Panel:
    return Panel(TREE, trio.CapacityLimiter(2))


def search_that_has_passed(files: int) -> Search:
    search = Search("needle", TREE)
    search.scanned = files
    return search


class Page:
    """Keeps what it is sent; takes nothing while `closed` is not set."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []
        self.open = trio.Event()

    async def send(self, event) -> None:
        await self.open.wait()
        self.events.append((event.event, event.data))

    def of(self, name: str) -> list[dict]:
        return [data for event, data in self.events if event == name]


# What is told


def test_what_is_told_of_an_exchange_that_was_no_search():
    told = abandonment(abandoned(noticed_at=1.0, unwound_at=1.00042, status=499, route="/ticks"), None)
    assert told == {
        "status": 499,
        "phase": "HANDLER",
        "cause": "FIN",
        "outcome": "cancelled",
        "method": "GET",
        "route": "/ticks",
        "unwind_ms": 0.4,
        "search": None,
    }


async def test_a_cancelled_search_tells_what_it_has_not_scanned():
    told = abandonment(abandoned(), FollowedSearch(search_that_has_passed(3)))
    assert told["search"] == {"query": "needle", "files": 10, "passed": 3, "never_scanned": 7, "for_nobody": 0}


async def test_a_finished_search_tells_what_it_scanned_after_its_client_had_left(autojump_clock):
    search = search_that_has_passed(0)
    followed = FollowedSearch(search)
    for passed in [2, 6, 10]:
        await trio.sleep(1)
        search.scanned = passed
        followed.note_progress()
    left_at = trio.current_time() - 1.5  # between the first note and the second
    told = abandonment(abandoned(noticed_at=left_at, outcome=Outcome.FINISHED), followed)
    assert told["search"]["for_nobody"] == 8
    assert followed.passed_after(trio.current_time() - 5) == 10
    assert followed.passed_after(trio.current_time()) == 0


async def test_an_exchange_that_did_not_start_is_not_taken_for_an_earlier_search(panel, autojump_clock):
    request = SimpleNamespace(client=("127.0.0.1", 1), target="/search?q=needle")
    panel.follow(request, search_that_has_passed(3))
    page = Page()
    page.open.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(panel.feed, page.send)
        await wait_all_tasks_blocked()
        same = {"client": request.client, "target": request.target}
        panel.tell(abandoned(outcome=Outcome.NOT_STARTED, **same))
        panel.tell(abandoned(**same))
        panel.tell(abandoned(**same))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [told["search"] is not None for told in page.of("abandoned")] == [False, True, False]


# Pages


async def test_a_page_hears_hello_then_states_and_each_abandonment_at_once(panel, autojump_clock):
    panel.tell(abandoned(target="/before"))
    page = Page()
    page.open.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(panel.feed, page.send)
        await wait_all_tasks_blocked()
        (hello,) = page.of("hello")
        assert (hello["root"], hello["files"], len(hello["latest"])) == ("/nowhere", 10, 1)
        panel.tell(abandoned())
        await wait_all_tasks_blocked()
        assert [event for event, _ in page.events] == ["hello", "state", "abandoned"]
        await trio.sleep(TICK * 3.5)
        nursery.cancel_scope.cancel()
    states = page.of("state")
    assert len(states) == 4
    assert states[-1].items() >= {"running": 0, "waiting": 0, "pages": 1, "abandoned": 2}.items()


async def test_a_page_that_does_not_keep_up_misses_the_oldest_and_holds_up_nobody(panel, autojump_clock):
    slow, quick = Page(), Page()
    quick.open.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(panel.feed, slow.send)
        nursery.start_soon(panel.feed, quick.send)
        await wait_all_tasks_blocked()
        for number in range(LATEST + 3):
            panel.tell(abandoned(status=400 + number))
            await wait_all_tasks_blocked()
        assert len(quick.of("abandoned")) == LATEST + 3
        slow.open.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [told["status"] for told in slow.of("abandoned")] == [403 + number for number in range(LATEST)]


async def test_a_page_that_has_left_is_forgotten(panel, autojump_clock):
    staying, leaving = Page(), Page()
    staying.open.set()
    leaving.open.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(panel.feed, staying.send)
        with trio.move_on_after(TICK * 1.5):
            await panel.feed(leaving.send)
        await trio.sleep(TICK)
        nursery.cancel_scope.cancel()
    assert [state["pages"] for state in staying.of("state")] == [1, 2, 1] or staying.of("state")[-1]["pages"] == 1
    assert leaving.of("state")[-1]["pages"] == 2


def test_cpu_is_in_percent_of_the_time_since_the_last_call():
    now, used = iter([100.0, 102.0, 102.5, 102.5]), iter([5.0, 6.0, 6.5, 6.5])
    meter = CpuMeter(lambda: next(now), lambda: next(used))
    assert [meter.percent() for _ in range(3)] == [50.0, 100.0, 0.0]

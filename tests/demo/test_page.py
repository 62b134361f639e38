"""The page in a real browser: what somebody who types sees, and what the panel shows of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from selenium.webdriver.common.keys import Keys

from tests.demo.browser import Page, browser, large_tree, missing
from tests.support.program import Program, trioserve

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"needs a browser: {missing()}")


@pytest.fixture(scope="module")
def driver():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return large_tree(tmp_path_factory.mktemp("demo") / "tree")


async def in_page(driver, tree: Path, use: Callable[[Page], None]) -> Program:
    """Serve the demo for a tree, and use its page; the program as it ended, with what it has printed."""

    def drive(address: str) -> None:
        page = Page(driver, address)
        page.console()
        page.open()
        try:
            use(page)
        finally:
            driver.get("about:blank")

    async with trioserve("demo", "--port", "0", "--path", str(tree), cwd=tree) as program:
        await trio.to_thread.run_sync(drive, await program.address())
    return program


async def test_who_types_fast_sees_matches_and_the_searches_that_were_abandoned_for_them(driver, tree):
    def use(page: Page) -> None:
        page.type("needle")
        page.wait(page.is_done)
        assert page.text("#counts") == "400 matches in 400 files; the first 200 are shown"
        assert page.texts("#matches .where")[:2] == ["000.txt:1", "001.txt:1"]
        assert len(page.texts("#matches li")) == 200
        assert page.text("#matches li:first-child .text") == "a needle"
        assert page.text("#matches li:first-child mark") == "needle"
        page.wait(lambda: page.text("#announcement") == "400 matches in 400 files")

        # How many requests get out at all before the next key aborts them is the browser's business.
        page.wait(lambda: 0 < page.number("#abandoned") == len(page.texts("#abandonments li")))
        told = "\n".join(page.texts("#abandonments li"))
        assert re.search(
            r"^499“n\w*”\d+\.\d ms(HANDLER|RESPONSE_HEAD|RESPONSE_BODY) · (FIN|RESET) · cancelled"
            r"\d+ of 400 files never scanned$",
            told,
            re.MULTILINE,
        ), told
        never_scanned = [int(n) for n in re.findall(r"(\d+) of 400 files", told)]
        assert page.number("#never-scanned") == sum(never_scanned) > 0
        assert page.number("#for-nobody") == 0
        page.wait(lambda: (page.number("#running"), page.number("#waiting")) == (0, 0))
        assert page.console() == []

    await in_page(driver, tree, use)


async def test_a_tab_that_is_closed_takes_its_search_and_its_feed_with_it(driver, tree):
    def use(page: Page) -> None:
        other = driver.current_window_handle
        driver.switch_to.new_window("window")
        page.open()
        page.type("n")
        page.wait(lambda: "so far" in page.text("#counts"))
        driver.close()
        driver.switch_to.window(other)
        page.wait(lambda: {"“n”", "a page closed or was hidden"} <= set(page.texts("#abandonments .what")))
        page.wait(lambda: page.text("#feed") == "1 page looks on.")
        page.wait(lambda: page.number("#running") == 0)

    program = await in_page(driver, tree, use)
    log = "\n".join(program.stdout)
    assert re.search(r'"GET /search\?q=n HTTP/1.1" 200 .* abandoned RESPONSE_BODY \w+ cancelled', log)
    assert re.search(r'"GET /panel HTTP/1.1" 200 .* abandoned RESPONSE_BODY \w+ cancelled', log)
    assert "".join(program.stderr).count("trioserve") == 1, "it says where it serves, and no more"


async def test_with_the_switch_at_finish_searches_pile_up_and_run_for_nobody(driver, tree):
    def use(page: Page) -> None:
        keys = itertools.cycle(["e", Keys.BACKSPACE])

        def after_another_key(selector: str) -> list[str]:
            # Of keys that follow each other at once a browser sends some searches only: so as many as it takes.
            page.one("#query").send_keys(next(keys))
            return page.texts(selector)

        page.choose("/search/finish")
        page.type("needle")
        page.wait(lambda: len(after_another_key("#pile i.running")) == 2 and page.number("#waiting") >= 2)
        page.wait(lambda: page.texts("#abandonments .finished"))
        assert "499" in page.texts("#abandonments .finished .code")
        how = " ".join(page.texts("#abandonments .how"))
        assert "finished" in how
        assert re.search(r"\d+ of 400 files scanned for nobody", how)
        page.wait(lambda: page.number("#for-nobody") > 0)
        # And back: what waits now is nobody's, but the next departures stop.
        page.choose("/search")
        page.wait(lambda: after_another_key("#abandonments .cancelled"))
        assert page.console() == []

    await in_page(driver, tree, use)


async def test_the_page_goes_by_keyboard(driver, tree):
    def use(page: Page) -> None:
        def focused() -> str:
            return driver.switch_to.active_element.get_attribute("id")

        assert focused() == "query"
        page.type("needle")
        page.wait(lambda: page.texts("#matches li"))
        page.one("#query").send_keys(Keys.ESCAPE)
        assert page.one("#query").get_attribute("value") == ""
        page.wait(lambda: not page.texts("#matches li"))
        page.one("#query").send_keys(Keys.TAB)
        assert focused() == "results"
        driver.switch_to.active_element.send_keys("/")
        assert focused() == "query"
        assert page.one("#query").get_attribute("value") == ""
        page.one("input[value='/search']").send_keys(Keys.ARROW_RIGHT)
        assert page.one("input[value='/search/finish']").is_selected()
        assert page.console() == []

    await in_page(driver, tree, use)


async def test_everything_in_the_page_has_a_name_for_those_who_do_not_see_it(driver, tree):
    def use(page: Page) -> None:
        names = {
            "#query": ("searchbox", f"Search in 400 files under {tree}"),
            "input[value='/search']": ("radio", "CANCEL stop at once"),
            "input[value='/search/finish']": ("radio", "FINISH run to the end"),
            "fieldset": ("group", "When the client leaves"),
            "#results": ("region", "Matches"),
            "aside": ("complementary", "What the server hears"),
            "aside .scroll": ("region", "Abandonments, newest first"),
            "form": ("search", ""),
        }
        for selector, (role, name) in names.items():
            element = page.one(selector)
            assert (element.aria_role, element.accessible_name) == (role, name)
        assert page.one("#announcement").aria_role == "status"

    await in_page(driver, tree, use)


async def test_what_is_in_a_file_is_text_and_never_part_of_the_page(driver, tmp_path):
    hostile = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"
    (tmp_path / "<b>.txt").write_text(f"needle {hostile}\n")

    def use(page: Page) -> None:
        page.type("img src")
        page.wait(page.is_done)
        assert page.text("#matches .where") == "<b>.txt:1"
        assert page.text("#matches .text") == f"needle {hostile}"
        assert page.all("#matches img, #matches script, #matches b") == []
        assert driver.title == "Search as you type: trioserve"
        assert page.console() == []

    await in_page(driver, tmp_path, use)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_a_phone_and_nothing_jumps(driver, tree, scheme):
    def use(page: Page) -> None:
        def layout() -> list[float]:
            tops = "return [...document.querySelectorAll('form, #counts, #results, aside > *')]"
            return driver.execute_script(tops + ".map((it) => it.getBoundingClientRect().top + scrollY)")

        before = layout()
        assert driver.execute_script("return document.documentElement.scrollWidth") == 360
        page.type("needle")
        page.wait(page.is_done)
        page.wait(lambda: page.texts("#abandonments li"))
        assert layout() == before
        assert driver.execute_script("return document.documentElement.scrollWidth") == 360

    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        await in_page(driver, tree, use)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


async def test_a_server_that_is_gone_is_said_so(driver, tree):
    async with trioserve("demo", "--port", "0", "--path", str(tree), cwd=tree) as program:
        page = Page(driver, await program.address())
        await trio.to_thread.run_sync(page.open)
        program.process.kill()
        await program.process.wait()

        def use() -> None:
            page.wait(lambda: "No connection" in page.text("#feed"))
            page.type("n")
            page.wait(lambda: "does not answer" in page.text("#counts"))
            driver.get("about:blank")

        await trio.to_thread.run_sync(use)
    assert page.console(), "the browser has its own words for it"

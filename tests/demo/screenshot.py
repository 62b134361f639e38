"""Draw docs/images/demo.png, the demo's page after somebody has typed fast: `python -m tests.demo.screenshot [PATH]`.

It searches the running Python's standard library. The numbers are others each time, so nothing compares it.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import trio

from tests.demo.browser import Page, browser
from tests.support.program import trioserve

ROOT = Path(__file__).parents[2]
SIZE = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
LIGHT = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}


def draw(address: str, path: Path) -> None:
    with browser() as driver:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SIZE)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", LIGHT)
        page = Page(driver, address)
        page.open()
        page.type("cancel scope")
        page.wait(page.is_done)
        page.one("#query").clear()
        page.type("cancel")
        page.wait(page.is_done)
        page.wait(lambda: page.number("#running") == 0 and page.number("#abandoned") > 5)
        driver.save_screenshot(str(path))


async def main(path: Path) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    # By its name alone: where it lies on this machine is nobody's business.
    async with trioserve("demo", "--port", "0", "--path", library.name, cwd=library.parent) as program:
        await trio.to_thread.run_sync(draw, await program.address(), path)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / "docs" / "images" / "demo.png")

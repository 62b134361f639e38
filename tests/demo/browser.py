"""A real browser, without a window, and the demo's page in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support import PATIENCE

PROGRAMS = ("chromium", "chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # it does not run as root otherwise, and the page is ours
    "--disable-dev-shm-usage",  # which is small in containers
    "--disable-background-networking",
    "--hide-scrollbars",
)


def missing() -> str | None:
    """What is to be installed for a browser, in words; None if it is all there."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {' and no '.join(absent)}; on Debian: apt-get install chromium chromium-driver" if absent else None


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A browser, with the log of its console."""
    program, driver = map(shutil.which, PROGRAMS)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


class Page:
    """The demo's page, in the browser's current tab."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self) -> None:
        """Go there, and wait until its panel is told of what happens."""
        self.driver.get(self.address)
        self.wait(lambda: "look" in self.text("#feed"))

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives, once that is true."""
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.02).until(lambda _: condition())

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all that the selector finds, as they are at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
        return self.driver.execute_script(script, selector)

    def text(self, selector: str) -> str:
        (text,) = self.texts(selector)
        return text

    def number(self, selector: str) -> int:
        return int(self.text(selector).replace(",", ""))

    def type(self, text: str) -> None:
        """As fast as it goes, and a key at a time."""
        self.one("#query").send_keys(text)

    def is_done(self) -> bool:
        """True if the search under way has come to its end."""
        return re.match(r"[\d,]+ match(es)? in (?!.*so far)", self.text("#counts")) is not None

    def choose(self, policy: str) -> None:
        """Press the switch, as a pointer would."""
        self.one(f"input[value='{policy}']").click()

    def console(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


def large_tree(directory: Path) -> Path:
    """A directory whose search takes a second or so on any machine, and many keystrokes: and hardly any disk."""
    directory.mkdir()
    first = directory / "000.txt"
    first.write_text("a needle\n" + "hay\n" * 5000)
    for number in range(1, 400):
        (directory / f"{number:03}.txt").hardlink_to(first)
    return directory

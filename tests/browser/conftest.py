"""A headless Chromium that tells what it asked for and what went wrong in a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.commands import serving
from tests.mirror import sites
from tests.mirror.sites import RELEASES, Release
from tests.mirror.test_site import build

SHOTS = Path(__file__).resolve().parents[2] / ".cache" / "screenshots"
"""Where pictures of pages are kept, for people; git ignores it."""

_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Browser:
    """A browser, and the address of the site that it looks at."""

    driver: webdriver.Chrome
    url: str

    def open(self, path: str) -> None:
        """Go to a page of the site; what is logged from now on is of it."""
        self.log("browser")
        self.log("performance")
        self.driver.get(f"{self.url}site/{path}")

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What the browser has logged since it was asked before."""
        rows: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return rows

    def all(self, selector: str) -> list[WebElement]:
        """The elements of a selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The only element of a selector, once it is there."""
        found: list[WebElement] = self.until(lambda: self.all(selector), selector)
        assert len(found) == 1, f"{selector}: {len(found)}"
        return found[0]

    def until(self, condition: Any, what: str = "") -> Any:
        """Wait until a condition holds; returns what it returns."""
        return WebDriverWait(self.driver, _SECONDS).until(lambda _: condition(), what)

    def script(self, text: str, *values: object) -> Any:
        """Run JavaScript, as a developer's tools do."""
        return self.driver.execute_script(text, *values)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """Say what has the focus: its text or its id."""
        element = self.driver.switch_to.active_element
        return element.text or element.get_attribute("id") or ""

    def tell(self, command: str, **values: object) -> Any:
        """Give the browser a command of its own protocol."""
        return self.driver.execute_cdp_cmd(command, values)

    def requests(self) -> list[str]:
        """All addresses that were asked for since the page was opened."""
        found = []
        for row in self.log("performance"):
            message = json.loads(row["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def require_quiet(self) -> None:
        """Require that nothing went wrong in the page, and nothing was asked of others."""
        assert self.log("browser") == []
        places = {urlsplit(address)[:2] for address in self.requests()}
        assert places <= {urlsplit(self.url)[:2]}, places
        assert self.script("return window.hacked") is None

    def picture(self, name: str, *, whole: bool = True) -> Path:
        """Keep a picture of the page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        if whole:
            height = self.script("return document.documentElement.scrollHeight")
            width = self.script("return window.innerWidth")
            self.size(width, min(max(height, 600), 4000))
        path = SHOTS / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        return path

    def size(self, width: int, height: int = 900) -> None:
        """Give the page a size, as a screen of it has; also less than a window may have."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.tell("Emulation.setDeviceMetricsOverride", **metrics)


def _program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no {names[0]}: packaging/setup.sh test installs it")


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    chromium = _program("chromium", "chromium-browser")
    chromedriver = _program("chromedriver")
    options = Options()
    options.binary_location = chromium
    for word in (
        "--headless=new",
        "--no-sandbox",  # tests run as root, in whose hands Chromium's own sandbox does not work
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--window-size=1100,900",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a served mirror that has a site of hostile texts."""
    root = tmp_path_factory.mktemp("browser")
    published = sites.create(root)
    for release in RELEASES:
        published.publish(release)
    sites.advise(published)
    published.publish(Release("1", {"alpha": 1}), ref="Other")
    build(published.mirror, published.cache, "--title", "Systems of the tests")
    with serving(published.mirror, root / "log") as url:
        yield url


@pytest.fixture
def browser(driver: webdriver.Chrome, site: str) -> Iterator[Browser]:
    """The browser on a page of no site, as it was when it was started."""
    found = Browser(driver, site)
    found.size(1100)
    yield found
    found.tell("Emulation.setScriptExecutionDisabled", value=False)
    found.tell("Emulation.setEmulatedMedia", features=[])
    driver.get("about:blank")

"""The site of `mirror site` in a browser: what a person does there, and that nothing goes wrong."""

from __future__ import annotations

import re
from itertools import permutations
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from composer.mirror.site.naming import slug, slugs
from composer.rpm.changes import compare
from composer.rpm.package import Nevra
from tests.browser.conftest import Browser
from tests.mirror.sites import HOSTILE, REF, RELEASES

SLUG = slug(REF)
NAMES = slugs([release.version for release in RELEASES])
PAGES = {
    "overview": "index.html",
    "ref": f"ref/{SLUG}.html",
    "version": f"version/{SLUG}/1.2.html",
    "odd-version": f"version/{SLUG}/{NAMES[RELEASES[4].version]}.html",
    "compare": f"compare/{SLUG}.html",
    "packages": "packages/index.html",
    "letter": "packages/a.html",
    "package": "package/alpha.html",
    "search": "search.html?q=alpha&ref=" + SLUG,
}

# Contrast of every text with what is behind it, by WCAG 2.1: pairs that are below AA.
_CONTRAST = """
const parse = (text) => {
  const found = text.match(/[0-9.]+/g).map(Number);
  return found.length === 3 ? [...found, 1] : found;
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((one) => {
    const part = one / 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const color = parse(getComputedStyle(one).backgroundColor);
    if (color[3] === 1) return color;
  }
  return [255, 255, 255, 1];
};
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.closest("noscript, title, desc, option")) continue;
  const style = getComputedStyle(element);
  const svg = element.closest("svg");
  const [one, other] = [light(parse(svg ? style.fill : style.color)), light(behind(element))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (ratio < 4.5) bad.push([walker.currentNode.data.trim().slice(0, 40), ratio]);
}
return bad;
"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_readable_and_fits_a_phone(browser: Browser, name: str) -> None:
    browser.open(PAGES[name])
    browser.one("h1")
    if name in ("compare", "search"):
        browser.until(lambda: browser.all("main h2"))
    for theme in ("light", "dark"):
        scheme = [{"name": "prefers-color-scheme", "value": theme}]
        browser.tell("Emulation.setEmulatedMedia", features=scheme)
        assert browser.script(_CONTRAST) == []
        browser.picture(f"{name}-{theme}")
    browser.size(360, 740)
    wide = browser.script("return document.documentElement.scrollWidth")
    browser.picture(f"{name}-phone")
    assert wide <= 360
    browser.require_quiet()


def test_dark_mode_is_dark(browser: Browser) -> None:
    browser.open("index.html")
    ground = "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    assert min(browser.script(ground)) > 240
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.tell("Emulation.setEmulatedMedia", features=dark)
    assert max(browser.script(ground)) < 40


def test_a_person_finds_the_way_through_the_site(browser: Browser) -> None:
    browser.open("index.html")
    by_text = {one.text: one for one in browser.all("main a")}
    by_text[REF].click()
    assert browser.one("h1").text == REF
    {one.text: one for one in browser.all("table.versions a")}["1.2"].click()
    assert browser.one("h1").text == "1.2"
    browser.one("a[rel=next]").click()
    assert browser.one("h1").text == "1.3"
    {one.text: one for one in browser.all(".changes a")}["alpha"].click()
    assert browser.one("h1").text == "alpha"
    {one.text: one for one in browser.all("nav a")}["Packages"].click()
    assert browser.one("h1").text == "Packages"
    browser.one('a[href="../packages/o.html"]').click()
    assert [one.text for one in browser.all("tbody th")] == ["Odd_Name", "old"]
    browser.one('a[href*="odd-name"]').click()
    assert browser.one("h1").text == "Odd_Name"
    browser.require_quiet()


def test_plots_are_drawn(browser: Browser) -> None:
    browser.open(f"ref/{SLUG}.html")
    updates, sizes = browser.all("svg.plot")
    bars = updates.find_elements("css selector", "g")
    assert len(bars) == len(RELEASES) - 1
    for bar in bars:  # that of the same tree is its metadata
        tall = [rect.rect["height"] for rect in bar.find_elements("css selector", "rect")]
        assert sum(tall) > 0.5
    colors = browser.script(
        "return [...arguments[0].querySelectorAll('rect')].map((a) => getComputedStyle(a).fill)",
        updates,
    )
    assert len(set(colors)) >= 3
    assert "rgb(0, 0, 0)" not in colors
    assert len(sizes.find_elements("css selector", "g")) == len(RELEASES)
    # As tall as their share of the axis: the highest bar and the table agree.
    browser.one("summary").click()
    totals = [
        int(one.text.replace(",", "")) for one in browser.all("td:last-child") if "," in one.text
    ]
    heights = [
        sum(rect.rect["height"] for rect in bar.find_elements("css selector", "rect"))
        for bar in bars
    ]
    rows = [*zip(heights, totals[::-1], strict=True)]
    shares = [height / total for height, total in rows if height > 20]
    assert max(shares) / min(shares) < 1.05


def _shown(browser: Browser) -> dict[str, list[str]]:
    """What a comparison shows, by heading."""
    text = """
    const found = {};
    for (const title of document.querySelectorAll("#difference h3")) {
      found[title.firstChild.data.trim()] = [...title.nextElementSibling.children]
        .map((one) => [...one.children].slice(0, 3).map((part) => part.textContent).join(""));
    }
    return [document.querySelector("#difference h2")?.textContent, found];
    """
    title, found = browser.script(text)
    return {"title": [title], **found}


def _expected(old: int, new: int) -> dict[str, list[str]]:
    one, other = (
        [Nevra(name, 0, str(v), "1", "noarch") for name, v in RELEASES[n].packages.items()]
        for n in (old, new)
    )
    changes = compare(one, other)
    parts = {
        "Upgraded": [f"{b.name}.noarch{a.evr} → {b.evr}" for a, b in changes.upgraded],
        "Downgraded": [f"{b.name}.noarch{a.evr} → {b.evr}" for a, b in changes.downgraded],
        "Added": [f"{one.name}.noarch{one.evr}" for one in changes.added],
        "Removed": [f"{one.name}.noarch{one.evr}" for one in changes.removed],
    }
    return {title: rows for title, rows in parts.items() if rows}


def test_any_two_versions_are_compared_as_diff_does(browser: Browser) -> None:
    browser.open(f"compare/{SLUG}.html")
    for old, new in permutations(range(len(RELEASES)), 2):
        one, other = RELEASES[old].version, RELEASES[new].version
        for name, version in (("from", one), ("to", other)):
            Select(browser.one(f"#{name}")).select_by_value(NAMES[version])
        title = f"From {one} to {other}"
        browser.until(lambda t=title: _shown(browser)["title"] == [t], title)
        shown = _shown(browser)
        advisories = [
            row.split("security")[0].split("bugfix")[0] for row in shown.pop("Advisories", [])
        ]
        alpha = RELEASES[old].packages["alpha"] < 3 <= RELEASES[new].packages["alpha"]
        beta = RELEASES[old].packages["beta"] < 4 <= RELEASES[new].packages["beta"]
        assert advisories == ["ADV-1 <i>"] * alpha + ["ADV-2"] * beta, title
        del shown["title"]
        count = sum(map(len, _expected(old, new).values()))
        assert browser.one("#said").text.split()[0] == str(count or "No")
        assert shown == _expected(old, new), title
    browser.require_quiet()


def test_a_comparison_shows_new_changelog_entries(browser: Browser) -> None:
    browser.open(f"compare/{SLUG}.html?from=1.1&to=1.2")
    browser.until(lambda: browser.all("#difference details"))
    summary = browser.all("#difference summary")[0]
    summary.click()
    entries = browser.until(lambda: browser.all("#difference pre"))
    assert [int(re.findall(r"change (\d+)", one.text)[0]) for one in entries] == [*range(10, 2, -1)]
    assert HOSTILE in entries[0].text
    browser.picture("compare-changelog")
    browser.require_quiet()


def _results(browser: Browser, words: str) -> tuple[list[str], list[str]]:
    """Search; returns the names of packages, and the paths of files."""
    field: Any = browser.one("#q")
    browser.script("document.getElementById('said').textContent = ''")
    field.clear()
    field.send_keys(words)
    browser.until(lambda: browser.one("#said").text.startswith(tuple("0123456789")))
    packages = [one.text for one in browser.all("#results a[href*='package/']:first-child")]
    return packages, [one.text for one in browser.all("#results code")]


def test_search_finds_packages_and_files(browser: Browser) -> None:
    browser.open("index.html")
    browser.one("#q").send_keys("alph", Keys.ENTER)
    Select(browser.one("#ref")).select_by_visible_text(REF)
    packages, files = _results(browser, "alpha")
    assert packages[0] == "alpha"
    assert files == ["/usr/bin/alpha"]
    packages, files = _results(browser, "<b>be")
    assert files == ["/usr/lib/beta/<b>beta.so.4"]
    packages, files = _results(browser, "/usr/share/doc/gamma/")
    assert (packages, files) == ([], ["/usr/share/doc/gamma/README"])
    packages, files = _results(browser, "odd_name")
    assert packages == ["Odd_Name"]
    assert files == ["/usr/bin/Odd_Name"]
    packages, files = _results(browser, "nothing of that name")
    assert (packages, files) == ([], [])
    assert browser.one("#said").text == "0 packages, 0 files."
    # The summaries are looked into, too.
    packages, _ = _results(browser, "window.hacked")
    assert len(packages) == 5
    browser.require_quiet()


def test_the_site_works_by_keyboard(browser: Browser) -> None:
    browser.open("index.html")
    browser.press(Keys.TAB)
    assert browser.focused() == "Skip to content"
    place = browser.script("return document.activeElement.getBoundingClientRect().left")
    assert place >= 0
    browser.picture("skip-link", whole=False)
    browser.press(Keys.ENTER)
    assert browser.script("return document.activeElement.id") == "main"
    browser.press(Keys.TAB)
    assert browser.focused() == "q"
    browser.press("beta", Keys.ENTER)
    browser.until(lambda: browser.all("#search"))
    browser.open(f"compare/{SLUG}.html?from=1.0&to=1.1")
    browser.until(lambda: browser.all("#difference details"))
    browser.one("#from").send_keys(Keys.TAB)
    assert browser.focused().startswith("2.1") or browser.focused() == "to"
    seen = []
    browser.script("document.getElementById('main').focus()")
    for _ in range(12):
        browser.press(Keys.TAB)
        seen.append(browser.script("return document.activeElement.tagName"))
        width = "return parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
        assert browser.script(width) >= 1, seen
    assert {"A", "SELECT", "BUTTON", "SUMMARY"} <= set(seen)
    browser.script("document.querySelector('#difference summary').focus()")
    browser.press(Keys.ENTER)
    assert browser.until(lambda: browser.all("#difference pre"))
    browser.require_quiet()


def test_the_block_that_sets_a_client_up_names_this_mirror_and_is_copied(browser: Browser) -> None:
    browser.open("index.html")
    block = browser.one("#setup-block")
    assert f"remote add mirror {browser.url} --trust none" in block.text
    button = browser.one(".copy button")
    button.click()
    browser.until(lambda: button.text in ("Copied", "Selected"))
    browser.require_quiet()


def test_without_javascript_pages_say_what_they_can(browser: Browser) -> None:
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    browser.open("index.html")
    assert browser.one("h1").text == "Systems of the tests"
    browser.one("#q").send_keys("alpha", Keys.ENTER)
    browser.until(lambda: "search.html?q=alpha" in browser.driver.current_url)
    browser.picture("search-without-javascript")
    browser.one('noscript a[href="packages/a.html"]').click()
    assert [one.text for one in browser.all("tbody th")] == ["alpha"]
    browser.open(f"compare/{SLUG}.html")
    assert "takes JavaScript" in browser.one("noscript").text
    browser.one(f'a[href="../version/{SLUG}/1.2.html"]').click()
    browser.all(".changes summary")[0].click()
    assert browser.all(".changes pre")[0].is_displayed()
    browser.open(f"ref/{SLUG}.html")
    assert browser.all("svg.plot")[0].is_displayed()
    browser.one("details > summary").click()
    assert browser.one("details tbody").is_displayed()
    browser.require_quiet()


def test_a_policy_keeps_pages_from_running_what_others_wrote(browser: Browser) -> None:
    browser.open("index.html")
    browser.script(
        "const one = document.createElement('script'); one.textContent = 'window.hacked = 1';"
        "document.body.append(one)"
    )
    assert browser.script("return window.hacked") is None
    said = " ".join(row["message"] for row in browser.log("browser"))
    assert "Content Security Policy" in said


def test_the_first_page_is_small_and_soon_there(browser: Browser) -> None:
    browser.tell("Network.clearBrowserCache")
    browser.open("index.html")
    timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    loaded = browser.until(lambda: browser.script(timing))
    sizes = "return performance.getEntries().reduce((sum, one) => sum + (one.transferSize || 0), 0)"
    assert 5_000 < browser.script(sizes) < 100_000
    assert loaded < 5_000  # under 1 s on a machine that does nothing else: make bench-site

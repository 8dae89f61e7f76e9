"""`mirror site` in numbers: built at once, again, after one more version; its first page.

``python -m tests.bench.site MIRROR [--packages DIR]...``; MIRROR has the sets of many versions
(tests/bench/versions.py makes them out of two) and is copied by hard links.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from composer.jigdo.pointer import Pointer, Versions
from composer.mirror.lists import read_lists
from tests.bench.verify import Run, measured
from tests.commands import serving

_TIMES = 7


def site(mirror: Path, cache: Path, packages: list[Path]) -> Run:
    """Measure one build."""
    words = ["-m", "composer", "-q", "mirror", "site", mirror, "--cachedir", cache]
    return measured(sys.executable, *words, *(w for one in packages for w in ("--packages", one)))


def withdraw_newest(mirror: Path) -> None:
    """Publish the lists as they were before the newest version."""
    lists = read_lists(mirror)
    [entry], others = lists.pointer.entries, lists.versions.entries
    assert others, f"{entry.ref}: one version"
    _write(mirror, "jigdo", Pointer(others[-1:]).dump())
    _write(mirror, "jigdo-versions", Versions(others[:-1]).dump())


def _write(mirror: Path, kind: str, document: bytes) -> None:
    import createrepo_c

    repomd = createrepo_c.Repomd(str(mirror / "repodata/repomd.xml"))
    path = mirror / "repodata" / f"before-{kind}.json.gz"
    path.write_bytes(gzip.compress(document, mtime=0))
    record = createrepo_c.RepomdRecord(kind, str(path))
    record.fill(createrepo_c.SHA256)
    repomd.set_record(record)
    (mirror / "repodata/repomd.xml").unlink()
    (mirror / "repodata/repomd.xml").write_text(repomd.xml_dump())


def first_page(mirror: Path, work: Path) -> tuple[int, float]:
    """Bytes of all that the first page loads, and the median of the seconds until it is there."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium") or "", shutil.which("chromedriver") or ""
    options = Options()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    size, seconds = 0, []
    try:
        with serving(mirror, work / "access.log") as url:
            for _ in range(_TIMES):
                browser.execute_cdp_cmd("Network.clearBrowserCache", {})
                browser.get(f"{url}site/index.html")
                text = """
                const page = performance.getEntriesByType("navigation")[0];
                const all = [page, ...performance.getEntriesByType("resource")];
                return [all.reduce((sum, one) => sum + one.transferSize, 0), page.loadEventEnd];
                """
                found: Any = browser.execute_script(text)
                size = max(size, int(found[0]))
                seconds.append(found[1] / 1000)
    finally:
        browser.quit()
    return size, median(seconds)


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--packages", type=Path, action="append", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-site.", dir=given.mirror.parent) as place:
        work = Path(place)
        mirror, cache = work / "mirror", work / "cache"
        subprocess.run(["cp", "-al", given.mirror, mirror], check=True)
        shutil.rmtree(mirror / "site", ignore_errors=True)
        found: dict[str, Any] = {"versions": len(read_lists(mirror).versions.entries) + 1}
        runs = {"at once": site(mirror, cache, given.packages)}
        runs["again, nothing new"] = site(mirror, cache, given.packages)
        files = [path for path in (mirror / "site").rglob("*") if path.is_file()]
        found |= {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
        size, seconds = first_page(mirror, work)
        found |= {"first_page_bytes": size, "first_page_seconds": round(seconds, 3)}
        shutil.copytree(mirror / "repodata", work / "repodata")
        shutil.rmtree(mirror / "site")
        shutil.rmtree(cache)
        withdraw_newest(mirror)
        site(mirror, cache, given.packages)
        shutil.rmtree(mirror / "repodata")
        shutil.copytree(work / "repodata", mirror / "repodata")
        runs["one more version"] = site(mirror, cache, given.packages)
    found["runs"] = {
        name: {"seconds": run.wall, "cpu": round(run.cpu, 2), "memory": run.memory}
        for name, run in runs.items()
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

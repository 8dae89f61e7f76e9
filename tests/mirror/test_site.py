"""`mirror site`: what pages say, that they are safe and whole, and made again only if they must."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree, html

import composer.mirror.site.rendering as rendering
from composer.mirror.lists import read_lists
from composer.mirror.site.naming import slug, slugs
from composer.rpm.changes import compare
from composer.rpm.package import Nevra
from composer.system.templates import find_template
from tests.client.published import Published as FixtureOs
from tests.client.published import put
from tests.client.pulling import run_here
from tests.commands import Done, jigdo, ostree, serving
from tests.mirror import sites
from tests.mirror.sites import HOSTILE, REF, RELEASES, Published, Release

SLUG = slug(REF)
POLICY = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The releases, published, with advisories and another ref; nothing may change it."""
    published = sites.create(tmp_path_factory.mktemp("site"))
    for release in RELEASES:
        published.publish(release)
    sites.advise(published)
    published.publish(Release("1", {"alpha": 1}), ref="Other")
    build(published.mirror, published.cache)
    return published


@pytest.fixture
def mirror(made: Published, tmp_path: Path) -> Iterator[Path]:
    """A copy of the mirror, with its site."""
    shutil.copytree(made.mirror, tmp_path / "mirror")
    yield tmp_path / "mirror"
    shutil.rmtree(tmp_path / "mirror")


def build(mirror: Path, cache: Path, *words: object, status: int = 0) -> Done:
    done = run_here("mirror", "site", mirror, "--cachedir", cache, *words)
    assert done.status == status, f"{done.status}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err
    return done


def pages(mirror: Path) -> dict[str, Any]:
    found = sorted((mirror / "site").rglob("*.html"))
    return {str(p.relative_to(mirror / "site")): html.fromstring(p.read_bytes()) for p in found}


def page(mirror: Path, name: str) -> Any:
    return html.fromstring((mirror / "site" / name).read_bytes())


def text(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


def files(mirror: Path) -> dict[str, bytes]:
    """All that readers see of a site."""
    found = sorted((mirror / "site").rglob("*"))
    return {str(p.relative_to(mirror / "site")): p.read_bytes() for p in found if p.is_file()}


def figures(mirror: Path) -> dict[str, dict[str, int]]:
    """The table of what updates to the newest version move, by the version they are from."""
    rows = page(mirror, f"ref/{SLUG}.html").xpath('//section[@aria-labelledby="updates"]//tbody/tr')
    names = ("rpm", "delta", "new", "set", "total")
    found = {}
    for row in rows:
        numbers = [int(text(cell).replace(",", "")) for cell in row.xpath("td")]
        found[text(row.xpath("th")[0])] = dict(zip(names, numbers, strict=True))
    return found


# What it says


def test_updates_cost_what_plan_announces(made: Published, tmp_path: Path) -> None:
    words = ["remote", "add", "x", made.mirror, "--trust", "none"]
    assert run_here(*words, "--config-dir", tmp_path).status == 0
    found = figures(made.mirror)
    labels = [release.version for release in RELEASES[:-1]]
    assert [*found] == [*reversed(labels)]
    deltas = 0
    for label in labels:
        repo = tmp_path / "repo"
        ostree(repo, "init", "--mode=bare-user")
        words = [f"x:{REF}@{label}", "--repo", repo, "--config-dir", tmp_path, "--json"]
        assert run_here("pull", *words).status == 0
        words[0] = f"x:{REF}"
        announced = run_here("plan", *words).document
        told = {
            kind: announced["transfers"][kind]["bytes"] for kind in ("rpm", "delta", "new", "set")
        }
        assert found[label] == told | {"total": announced["bytes"]}
        deltas += told["delta"]
        shutil.rmtree(repo)
    assert deltas > 0
    # The same tree under another version: nothing but the set's metadata.
    same = found["2.1~rc"]
    assert (same["rpm"], same["delta"], same["new"]) == (0, 0, 0) < (same["set"],) * 3


def test_a_version_shows_what_it_changed(made: Published) -> None:
    changed = page(made.mirror, f"version/{SLUG}/1.2.html")
    section = changed.xpath('//section[@aria-labelledby="changes"]')[0]
    titles = [text(one) for one in section.xpath("h3")]
    assert titles == ["Advisories", "Upgraded 2", "Added 1", "Removed 1"]
    rows = [text(one) for one in section.xpath('ul[@class="changes"]/li')]
    assert rows[0].startswith("alpha .noarch 2-1 → 10-1 Changelog, 8 entries")
    assert [row.split()[0] for row in rows] == ["alpha", "beta", "new", "old"]
    entries = [text(one) for one in section.xpath("ul/li[1]//pre")]
    assert [entry.split()[3] for entry in entries] == [str(n) for n in range(10, 2, -1)]
    # 3 is between what was and what came; the other is for a version that is not there yet.
    assert [text(one).split(" security")[0] for one in section.xpath("ul[1]/li")] == ["ADV-1 <i>"]
    downgraded = page(made.mirror, f"version/{SLUG}/1.3.html")
    assert "Downgraded 1 alpha .noarch 10-1 → 9-1" in text(downgraded)
    assert "ADV" not in text(downgraded.xpath('//section[@aria-labelledby="changes"]')[0])


def test_the_newest_set_is_taken_apart_as_set_inspect_does(made: Published) -> None:
    newest = next(one for one in read_lists(made.mirror).entries if one.version == "2.1")
    inspected = run_here("set", "inspect", made.mirror / newest.location, "--json").document
    shown = page(made.mirror, f"version/{SLUG}/2.1.html").xpath(
        '//section[@aria-labelledby="made-of"]'
    )[0]
    tables = [
        [[text(cell) for cell in row.xpath("th | td")] for row in table.xpath("tbody/tr")]
        for table in shown.xpath(".//table")
    ]
    parts = {row[0].split()[0]: int(row[2].replace(",", "")) for row in tables[0]}
    expected = {one["kind"]: one["bytes"] for one in inspected["sections"] if one["frames"]}
    assert parts == expected | {"index": inspected["index"]["size"]}
    rows = {row[0]: [int(cell.replace(",", "") or 0) for cell in row[1:]] for row in tables[1]}
    assert rows.pop("of no package")[1] == inspected["other"]["patch_bytes"]
    names = ("map_bytes", "patch_bytes", "patches")
    assert rows == {one["nevra"]: [one[n] for n in names] for one in inspected["packages"]}
    base = inspected["bases"][0]
    assert f"{base['copied']} contents copied, {base['patched']} patched" in text(shown)
    assert "By package" not in text(page(made.mirror, f"version/{SLUG}/1.3.html"))


def test_the_document_for_any_two_has_every_version_and_rpms_order(made: Published) -> None:
    data = json.loads((made.mirror / f"site/history/{SLUG}.json").read_bytes())
    held: set[int] = set()
    for row, release in zip(data["versions"], RELEASES, strict=True):
        held = (held - set(row["-"])) | set(row["+"])
        names = {(data["packages"][n][0], data["packages"][n][2]) for n in held}
        assert names == {(name, f"{v}-1") for name, v in release.packages.items()}
    alphas = [row for row in data["packages"] if row[0] == "alpha"]
    assert [row[2] for row in alphas] == [f"{n}-1" for n in (1, 2, 3, 9, 10, 11, 12)]
    assert [row[3] for row in alphas] == [*range(7)]
    assert data["slugs"] == {"Odd_Name": slug("Odd_Name")}


def test_a_package_shows_its_history_and_files(made: Published) -> None:
    shown = page(made.mirror, "package/alpha.html")
    rows = [text(row) for row in shown.xpath(f'//h2[contains(., "{REF}")]/..//tbody/tr')]
    assert [row.split()[0] for row in rows] == [f"{n}-1.noarch" for n in (12, 11, 9, 10, 2, 1)]
    listed = [text(one) for one in shown.xpath('//ul[@class="files"]/li')]
    assert listed == [
        "/usr/bin/alpha",
        "/usr/lib/alpha/<b>alpha.so.12",
        "/usr/share/doc/alpha/README",
    ]
    gone = page(made.mirror, "package/old.html")
    assert "not there" in text(gone.xpath("//tbody/tr[1]/th")[0])


def test_files_are_found_by_parts_that_are_sorted(made: Published) -> None:
    place = made.mirror / f"site/search/{SLUG}"
    firsts, found = json.loads((place / "files.json").read_bytes()), []
    for number, first in enumerate(firsts):
        part = json.loads((place / f"files-{number}.json").read_bytes())
        assert part["files"][0][0].lower() == first
        found += [
            (
                f"{part['directories'][where]}/{name}",
                part["packages"][owner][0] if owner >= 0 else "",
            )
            for name, where, owner in part["files"]
        ]
    expected = [
        (one.path, name)
        for name, version in RELEASES[-1].packages.items()
        for one in sites.package_files(name, version)
    ]
    assert sorted(found) == sorted([*expected, ("/usr/share/rpm/rpmdb.sqlite", "")])


def test_feed_has_the_versions_and_is_well_formed(made: Published) -> None:
    root: Any = etree.fromstring((made.mirror / "site/feed.atom").read_bytes())
    space = {"a": "http://www.w3.org/2005/Atom"}
    titles = root.xpath("a:entry/a:title/text()", namespaces=space)
    assert f"{REF} {RELEASES[-2].version}" in titles
    assert len(titles) == len(RELEASES) + 1
    ids = root.xpath("//a:id/text()", namespaces=space)
    assert len(set(ids)) == len(ids)
    updated = root.xpath("a:entry/a:updated/text()", namespaces=space)
    assert updated == sorted(updated, reverse=True)


def test_the_block_sets_a_client_up(published: FixtureOs, tmp_path: Path) -> None:
    mirror = published.mirror(2, tmp_path / "mirror")
    jigdo("mirror", "keys", "init", mirror, "--tuf-keys", tmp_path / "keys")
    with serving(mirror, tmp_path / "log") as url:
        options = ["--base-url", url, "--gpg-key", published.key, "--remote", "here"]
        build(mirror, tmp_path / "cache", *options)
        shown = page(
            mirror, "ref/fixture-x86-64-minimal~" + slug("fixture/x86_64/minimal")[-12:] + ".html"
        )
        [block] = shown.xpath('//*[@id="setup-block"]')
        assert "good signature" in text(shown)
        assert published.fingerprint in text(shown)
        assert len(shown.xpath("//time[@data-until]")) == 1
        program = tmp_path / "bin/jigdo-composer"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m composer "$@"\n')
        program.chmod(0o755)
        ostree(tmp_path / "repo", "init", "--mode=bare-user")
        lines = block.text_content().replace("/ostree/repo", str(tmp_path / "repo"))
        environment = os.environ | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "JIGDO_COMPOSER_CONFIG": str(tmp_path / "config"),
            "JIGDO_COMPOSER_STATE": str(tmp_path / "state"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        done = subprocess.run(
            ["bash", "-euc", lines], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
    commit = published.commit("fixture/x86_64/minimal", 2)
    assert ostree(tmp_path / "repo", "refs", "--list").split() == ["fixture/x86_64/minimal"]
    assert ostree(tmp_path / "repo", "rev-parse", "fixture/x86_64/minimal") == commit
    build(mirror, tmp_path / "cache")
    unchecked = text(page(mirror, "index.html"))
    assert "signed, not checked here" in unchecked
    assert "good signature" not in unchecked


# What it is safe from


def test_texts_of_others_stay_text(made: Published) -> None:
    seen = 0
    for name, document in pages(made.mirror).items():
        scripts = document.xpath("//script")
        assert [one.get("src", "").rpartition("/")[0][-6:] for one in scripts] == ["assets"], name
        assert not document.xpath("//img | //iframe | //i | //style | //*[@style]"), name
        assert not document.xpath('//@*[starts-with(name(), "on")]'), name
        for address in document.xpath("//@href | //@src | //@action"):
            assert urlsplit(address).scheme in ("", "https"), f"{name}: {address}"
        seen += HOSTILE in document.text_content()
    assert seen > 8
    about = page(made.mirror, "package/alpha.html").text_content()
    assert "�gnihtemos" in about  # what turns the direction of writing
    assert "javascript:window.hacked=1" in about


def test_every_page_is_whole_and_accessible(made: Published) -> None:
    site = made.mirror / "site"
    everything = pages(made.mirror)
    assert len(everything) > 20
    for name, document in everything.items():
        here = site / name
        assert document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content") == [POLICY]
        assert document.get("lang") == "en"
        assert (site / name).read_bytes().startswith(b"<!DOCTYPE html>")
        assert text(document.xpath("//title")[0])
        for landmark in ("header", "main", "footer", "nav", "h1"):
            assert document.xpath(f"//{landmark}"), f"{name}: no {landmark}"
        assert len(document.xpath("//h1")) == len(document.xpath("//main")) == 1
        ids = document.xpath("//@id")
        assert len(ids) == len(set(ids)), name
        labelled = set(document.xpath("//label/@for"))
        controls = document.xpath("//input[not(@type='hidden')]/@id | //select/@id")
        assert set(controls) == labelled, name
        for one in document.xpath("//nav | //*[@role='region']"):
            assert one.get("aria-label"), name
        for target in document.xpath("//@aria-labelledby"):
            assert set(target.split()) <= set(ids), name
        for address in document.xpath("//a/@href | //link/@href | //script/@src | //@data-history"):
            parts = urlsplit(address)
            if parts.scheme or not parts.path:
                assert parts.fragment in ("", *ids)
                continue
            target = (here.parent / unquote(parts.path)).resolve()
            assert target.is_file(), f"{name}: {address}"
            assert target.is_relative_to(made.mirror), f"{name}: {address}"


def test_every_page_is_bounded(made: Published) -> None:
    first = page(made.mirror, "index.html")
    loaded = first.xpath("//link[@rel='stylesheet' or @rel='icon']/@href | //script/@src")
    sizes = [(made.mirror / "site" / name).stat().st_size for name in ["index.html", *loaded]]
    assert sum(sizes) < 60_000
    assert max(len(data) for data in files(made.mirror).values()) < 100_000


@given(st.lists(st.text(max_size=300), max_size=20))
def test_names_of_pages_are_distinct_and_safe(texts: list[str]) -> None:
    found = slugs(texts)
    assert set(found) == set(texts)
    lower = [name.lower() for name in found.values()]
    assert len(set(lower)) == len(lower)
    for name in found.values():
        assert re.fullmatch(r"[a-z0-9+~][a-z0-9.+~-]*", name), name
        assert ".." not in name
        assert len(name) < 130


@pytest.mark.parametrize("text", ["", ".", "..", "../../x", "CON", "a/b", "a" * 5000, "\ud800"])
def test_names_that_are_no_file_names_get_a_digest(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9.+-]*~[0-9a-f]{12}", slug(text))


def test_rebuilt_rpm_md_is_the_same_with_and_without_the_site(
    made: Published, mirror: Path
) -> None:
    def listed() -> list[str]:
        (mirror / "out").mkdir(exist_ok=True)
        argv = ["createrepo_c", "--quiet", "--outputdir", str(mirror / "out"), str(mirror)]
        subprocess.run(argv, check=True, capture_output=True)
        [primary] = (mirror / "out/repodata").glob("*primary.xml*")
        return [primary.name, *sorted(path.name for path in (mirror / "out/repodata").iterdir())]

    before = listed()
    shutil.rmtree(mirror / "site")
    assert listed() == before
    assert run_here("mirror", "verify", made.mirror).status == 0


# Making it again


def test_the_same_is_made_again_byte_for_byte(
    made: Published, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(mirror / "site")
    mask = os.umask(0o077)
    try:
        build(mirror, tmp_path / "cache")
    finally:
        os.umask(mask)
    assert files(mirror) == files(made.mirror)
    modes = {path.stat().st_mode & 0o777 for path in (mirror / "site").rglob("*")}
    assert modes == {0o755, 0o644}
    assert build(mirror, tmp_path / "cache", "--json").document["changed"] == 0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    done = build(mirror, tmp_path / "cache", "--json").document
    assert done["changed"] == 2  # the first page and the feed
    assert "2009-02-13 23:31 UTC" in text(page(mirror, "index.html").xpath("//footer")[0])


def test_a_new_version_renews_what_it_changes(made: Published, tmp_path: Path) -> None:
    later = Published(tmp_path / "later", dict(made.released))
    shutil.copytree(made.root, later.root)
    before = {p: p.stat().st_ino for p in (later.mirror / "site").rglob("*") if p.is_file()}
    later.publish(Release("2.2", {**RELEASES[-1].packages, "gamma": 3}, ["2.1"]))
    build(later.mirror, later.cache)
    after = {p: p.stat().st_ino for p in (later.mirror / "site").rglob("*") if p.is_file()}
    root = later.mirror / "site"
    renewed = {str(p.relative_to(root)) for p in after if before.get(p) != after[p]}
    assert {"index.html", f"version/{SLUG}/2.2.html", f"version/{SLUG}/2.1.html"} <= renewed
    assert "package/gamma.html" in renewed
    kept = {f"version/{SLUG}/1.0.html", f"version/{SLUG}/1.3.html", "package/alpha.html"}
    assert not kept & renewed
    fresh = tmp_path / "fresh"
    shutil.copytree(later.mirror, fresh)
    shutil.rmtree(fresh / "site")
    build(fresh, tmp_path / "cache")
    assert files(fresh) == files(later.mirror)


def test_other_templates_renew_every_page(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = tmp_path / "templates"
    shutil.copytree(find_template("site/base.html.j2").parent, templates)
    base = templates / "base.html.j2"
    base.write_text(base.read_text().replace("Made by", "Built by"))
    monkeypatch.setattr("composer.mirror.site.rendering.find_template", lambda name: base)
    build(mirror, tmp_path / "cache")
    for name, document in pages(mirror).items():
        assert "Built by" in text(document.xpath("//footer")[0]), name


def test_what_is_gone_leaves_no_page(made: Published, mirror: Path, tmp_path: Path) -> None:
    entry = next(one for one in read_lists(mirror).entries if one.version == "1.2")
    (mirror / entry.location).unlink()
    done = build(mirror, tmp_path / "cache")
    assert f"{entry.location}: the pointers name it and it is not there" in done.err
    assert not (mirror / f"site/version/{SLUG}/1.2.html").exists()
    assert "1.2" not in figures(mirror)
    assert "Changes from 1.1" in text(page(mirror, f"version/{SLUG}/1.3.html"))


def test_a_damaged_set_leaves_the_site_as_it_was(mirror: Path, tmp_path: Path) -> None:
    before = files(mirror)
    entry = next(one for one in read_lists(mirror).entries if one.version == "2.1")
    path = mirror / entry.location
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.index.offset + 5] ^= 1
    put(path, bytes(data))
    done = build(mirror, tmp_path / "cache", status=3)
    assert entry.location in done.err
    assert files(mirror) == before


def test_a_page_that_cannot_be_made_leaves_the_site_as_it_was(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(mirror)
    render = rendering.Pages.render

    def full(self: rendering.Pages, template: str, /, **values: Any) -> bytes:
        if template == "search.html.j2":
            raise OSError(28, "No space left on device")
        return render(self, template, **values)

    monkeypatch.setattr(rendering.Pages, "render", full)
    done = run_here(
        "mirror", "site", mirror, "--cachedir", tmp_path / "cache", "--title", "Another"
    )
    assert done.status != 0
    monkeypatch.undo()
    assert files(mirror) == before


def test_who_reads_meanwhile_gets_whole_pages(mirror: Path, tmp_path: Path) -> None:
    names = [name for name in files(mirror) if name.endswith(".html")]
    ended, parts, reads = threading.Event(), list[str](), Counter[str]()

    def read() -> None:
        while not ended.is_set():
            for name in names:
                data = (mirror / "site" / name).read_bytes()
                reads[name] += 1
                if not data.startswith(b"<!DOCTYPE html>") or not data.endswith(b"</html>\n"):
                    parts.append(name)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for title in ("One", "Another", "One"):
            build(mirror, tmp_path / "cache", "--title", title)
    finally:
        ended.set()
        reader.join()
    assert not parts
    assert min(reads[name] for name in names) > 3


def test_two_builders_take_turns_and_one_that_was_killed_is_cleaned_up(
    made: Published, mirror: Path, tmp_path: Path
) -> None:
    (mirror / "site/.new-killed/package").mkdir(parents=True)
    (mirror / "site/.new-killed/package/alpha.html").write_text("half a p")
    words = [sys.executable, "-m", "composer", "-q", "mirror", "site", str(mirror)]
    words += ["--cachedir", str(tmp_path / "cache")]
    builders = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(120) for one in builders] == [0, 0]
    assert files(mirror) == files(made.mirror)


def test_a_state_that_is_damaged_means_that_all_is_made_again(mirror: Path, tmp_path: Path) -> None:
    before = files(mirror)
    (mirror / "site/stray.html").write_text("of an older site")
    (mirror / "site/.state.json").write_text('{"format": 1, "groups": {"x": [1]}}')
    build(mirror, tmp_path / "cache")
    assert files(mirror) == before


def test_a_directory_of_somebody_else_is_left_alone(mirror: Path, tmp_path: Path) -> None:
    shutil.rmtree(mirror / "site")
    (mirror / "site").mkdir()
    (mirror / "site/index.html").write_text("mine")
    done = build(mirror, tmp_path / "cache", status=2)
    assert "something in it" in done.err
    assert (mirror / "site/index.html").read_text() == "mine"


def test_options_that_would_be_commands_are_refused(mirror: Path, tmp_path: Path) -> None:
    for words in (
        ["--remote", "x; rm -rf /"],
        ["--base-url", "https://x/$(id)/"],
        ["--base-url", "x"],
        ["--repository", "x"],
    ):
        build(mirror, tmp_path / "cache", *words, status=2)
    done = build(tmp_path, tmp_path / "cache", status=1)
    assert "no repository" in done.err


def test_comparison_is_that_of_diff(made: Published) -> None:
    """What pages say of neighbours is what the layer of `diff` says of the packages."""
    for number, release in enumerate(RELEASES[1:], start=1):
        old, new = (
            [Nevra(name, 0, str(v), "1", "noarch") for name, v in one.packages.items()]
            for one in (RELEASES[number - 1], release)
        )
        changes = compare(old, new)
        shown = page(
            made.mirror, f"version/{SLUG}/{slugs([release.version])[release.version]}.html"
        )
        rows = shown.xpath('//section[@aria-labelledby="changes"]/ul[@class="changes"]/li/a')
        expected = [new.name for _, new in (*changes.upgraded, *changes.downgraded)]
        expected += [nevra.name for nevra in (*changes.added, *changes.removed)]
        assert [text(row) for row in rows] == expected

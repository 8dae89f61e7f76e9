"""``set inspect``: the bytes of sections, packages and codecs add up; the page is safe."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.cli.text import human_bytes
from composer.jigdo.inspecting import shared_out
from composer.mirror.making import open_set
from composer.system.templates import render
from tests.client.published import MINIMAL, Published, SetRpm
from tests.client.pulling import run_here
from tests.commands import jigdo


@pytest.fixture(scope="module")
def with_deltas(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inspected")
    mirror = published.mirror(2, place / "mirror")
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", mirror]
    words += ["--from", published.commit(MINIMAL, 1), "--rpm-deltas", "all"]
    jigdo(*words, "--packages", published.packages(2), "--cachedir", place / "cache")
    return SetRpm.of(mirror, MINIMAL).path


@pytest.fixture(scope="module")
def document(with_deltas: Path) -> Any:
    done = run_here("set", "inspect", with_deltas, "--json")
    assert done.status == 0, done.err
    return done.document


def section(document: Any, kind: str) -> int:
    [found] = [row["bytes"] for row in document["sections"] if row["kind"] == kind]
    return int(found)


def test_bytes_add_up(document: Any, with_deltas: Path) -> None:
    assert (
        sum(row["bytes"] for row in document["sections"]) + document["index"]["size"]
        == (document["bytes"])
    )
    # Between the bytes that are told lie only the file's start and its trailer.
    place = open_set(with_deltas).place
    assert document["bytes"] == place.offset + place.size - 16
    packages = document["packages"]
    assert sum(row["map_bytes"] for row in packages) == section(document, "map")
    patches = sum(row["patch_bytes"] for row in packages) + document["other"]["patch_bytes"]
    assert patches == section(document, "patch") > 0
    assert sum(row["bytes"] for row in document["patch_codecs"]) == section(document, "patch")
    frames = sum(row["bytes"] for row in document["sections"])
    assert sum(row["bytes"] for row in document["frame_codecs"]) == frames


def test_patches_are_of_packages_that_changed(document: Any, published: Published) -> None:
    old = SetRpm.of(published.root / "mirror1", MINIMAL).jigdo.head.packages
    before = {str(package.ref.pkgid) for package in old}
    with_patches = [row for row in document["packages"] if row["patch_bytes"]]
    assert with_patches
    assert not [row["nevra"] for row in with_patches if row["pkgid"] in before]
    [base] = document["bases"]
    assert base["commit"] == published.commit(MINIMAL, 1)
    patched = sum(row["patches"] for row in document["packages"]) + document["other"]["patches"]
    assert base["patched"] + base["repacked"] == patched


def test_text_names_what_is_largest(document: Any, with_deltas: Path) -> None:
    said = run_here("set", "inspect", with_deltas).out
    largest = max(document["packages"], key=lambda row: row["patch_bytes"])
    assert re.search(rf"{largest['patch_bytes']}  {re.escape(largest['nevra'])}\n", said)
    assert document["bases"][0]["commit"] in said
    assert "hdiff" in said


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_shows_all_and_loads_nothing(document: Any, with_deltas: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert run_here("set", "inspect", with_deltas, "--html", path).status == 0
    page = _Page(path.read_text())
    for package in document["packages"]:
        assert package["nevra"] in page.text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href", "srcset")]
    assert "url(" not in path.read_text()
    widths = [float(w) for w in re.findall(r'style="width:([0-9.]+)%"', path.read_text())]
    assert len(widths) > len(document["packages"])
    assert max(widths) == 100
    assert min(widths) >= 0


def test_names_in_a_page_are_escaped(document: Any) -> None:
    evil = "<script>alert(1)</script>\"'&"
    spoilt = document | {"version": evil, "ref": evil}
    spoilt["packages"] = [document["packages"][0] | {"nevra": evil}]
    text = render("set-inspect.html.j2", set=spoilt, human=human_bytes)
    assert "<script" not in text
    assert _Page(text).text.count("alert(1)") >= 4


@pytest.mark.parametrize("generation", [1])
def test_set_without_deltas_has_a_page(
    published: Published, generation: int, tmp_path: Path
) -> None:
    rpm = published.set_rpm(MINIMAL, generation)
    path = tmp_path / "page.html"
    done = run_here("set", "inspect", rpm.path, "--html", path, "--json")
    assert done.status == 0, done.err
    assert done.document["bases"] == done.document["patch_codecs"] == []
    assert "Codecs of patches" not in path.read_text()


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1))
def test_shares_are_whole_and_add_up(total: int, weights: list[int]) -> None:
    shares = shared_out(total, weights)
    assert sum(shares) == total
    assert min(shares) >= 0
    if any(weights):
        whole = sum(weights)
        pairs = zip(shares, weights, strict=True)
        assert all(abs(share - total * part / whole) <= 1 + total * 1e-9 for share, part in pairs)

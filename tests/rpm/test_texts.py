"""Descriptions, changelogs and advisories of rpm-md: what is asked for, and nothing odd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, FormatError
from composer.rpm.advisories import Advisory
from composer.rpm.rpmmd import REPOMD, parse_repomd
from composer.rpm.texts import Description, read_advisories, read_changelogs, read_descriptions
from tests.client.published import put
from tests.mirror.sites import HOSTILE, UPDATEINFO, package_tags
from tests.rpm.crafted import rpm_bytes


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two packages with texts, and advisories."""
    for name in ("one", "two"):
        data = rpm_bytes([], name=name, version="3", tags=package_tags(name, 3))
        (tmp_path / f"{name}.rpm").write_bytes(data)
    _run("createrepo_c", "--quiet", tmp_path)
    (tmp_path / "updateinfo.xml").write_text(UPDATEINFO)
    _run("modifyrepo_c", "--mdtype=updateinfo", tmp_path / "updateinfo.xml", tmp_path / "repodata")
    return tmp_path


def _run(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True)


def _pkgid(repository: Path, name: str) -> str:
    return str(ContentDigest.of((repository / f"{name}.rpm").read_bytes()))


def test_texts_are_of_the_packages_that_are_wanted(repository: Path) -> None:
    one = _pkgid(repository, "one")
    about = f"All of one.\n\n{HOSTILE}\n\u202egnihtemos"
    expected = Description(f"one for {HOSTILE}", about, "javascript:window.hacked=1", "<b>GPL</b>")
    assert read_descriptions(repository, {one}) == {one: expected}
    changelogs = read_changelogs(repository, {one})
    assert [*changelogs] == [one]
    assert [entry.text.split()[3] for entry in changelogs[one]] == ["3", "2", "1"]
    assert changelogs[one][0].time > changelogs[one][1].time
    assert not read_descriptions(repository, set())
    assert not read_changelogs(repository, set())


def test_advisories_have_packages_and_references_to_vulnerabilities(repository: Path) -> None:
    first, second = read_advisories(repository)
    references = (
        ("https://example.org/2", "CVE-2023-0002"),
        ("javascript:window.hacked=1", "CVE-2023-0001"),
    )
    packages = ("alpha-3-1.noarch",)
    assert first == Advisory("ADV-1 <i>", "security", "important", packages, references)
    assert second == Advisory("ADV-2", "bugfix", "none", ("beta-4-1.noarch",), ())


def test_a_package_that_cannot_be_is_left_out_of_an_advisory(repository: Path) -> None:
    odd = UPDATEINFO.replace('name="alpha"', 'name="al pha"').replace("security", "holiday")
    (repository / "updateinfo.xml").write_text(odd)
    words = ["--mdtype=updateinfo", repository / "updateinfo.xml", repository / "repodata"]
    _run("modifyrepo_c", *words)
    first = read_advisories(repository)[0]
    assert (first.kind, first.packages) == ("unknown", ())


def test_a_repository_without_them_has_none(tmp_path: Path) -> None:
    assert read_advisories(tmp_path) == []
    assert not read_changelogs(tmp_path, {"x"})
    assert not read_descriptions(tmp_path, {"x"})


def test_a_document_type_and_damage_are_refused(repository: Path) -> None:
    entity = '<!DOCTYPE updates [<!ENTITY x "y">]>\n<updates>'
    (repository / "updateinfo.xml").write_text(UPDATEINFO.replace("<updates>", entity))
    words = ["--mdtype=updateinfo", repository / "updateinfo.xml", repository / "repodata"]
    _run("modifyrepo_c", *words)
    with pytest.raises(FormatError, match="document type"):
        read_advisories(repository)
    record = parse_repomd((repository / REPOMD).read_bytes()).require("other")
    put(repository / record.location, b"\x1f\x8b other")
    with pytest.raises(ChecksumMismatch):
        read_changelogs(repository, {"x"})

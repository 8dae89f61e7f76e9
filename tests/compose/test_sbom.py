"""The bill of materials of a commit (composer/compose/sbom.py)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from composer.checksum import ContentDigest, ObjectChecksum
from composer.compose.packages import ComposedPackage
from composer.compose.sbom import Subject, describes, render
from composer.rpm.package import PackageRefused
from tests.commands import jigdo
from tests.compose.rpms import Spec, build, composed, needs_root, repository, shell

SUBJECT = Subject("os/stable", ObjectChecksum(b"\x12" * 32), "40.1", 1_700_000_000, "example")
SPECS = [
    Spec("plain"),
    Spec("vendored", "2.0", headers=["Epoch: 3", "Vendor: Example Org"]),
]


def valid(data: bytes) -> Any:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    return json.loads(data)


def components(document: Any) -> dict[str, Any]:
    return {component["name"]: component for component in document["components"]}


def made(tmp_path: Path, specs: Iterable[Spec] = SPECS) -> list[ComposedPackage]:
    return [composed(build(spec, tmp_path)) for spec in specs]


def test_document_is_valid_and_says_what_is_known_of_each_package(tmp_path: Path) -> None:
    packages = made(tmp_path)
    document = valid(render(SUBJECT, packages))
    root = document["metadata"]["component"]
    assert root["name"] == "os/stable"
    assert root["version"] == "40.1"
    assert root["type"] == "operating-system"
    assert root["hashes"] == [{"alg": "SHA-256", "content": "12" * 32}]
    assert document["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    vendored = components(document)["vendored"]
    assert vendored["version"] == "3:2.0-1"
    assert vendored["purl"] == "pkg:rpm/example/vendored@2.0-1?arch=noarch&epoch=3"
    digest = str(ContentDigest.of(packages[1].path.read_bytes()))
    assert vendored["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert vendored["supplier"] == {"name": "Example Org"}
    assert {p["name"]: p["value"] for p in vendored["properties"]} == {
        "rpm:nevra": "vendored-3:2.0-1.noarch",
        "rpm:repository": "test",
        "rpm:sourcerpm": "vendored-2.0-1.src.rpm",
    }
    (graph,) = [row for row in document["dependencies"] if row["ref"] == root["bom-ref"]]
    assert sorted(graph["dependsOn"]) == sorted(c["bom-ref"] for c in document["components"])


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("GPL-2.0-or-later", {"license": {"id": "GPL-2.0-or-later"}}),
        ("MIT AND (BSD-3-Clause OR ISC)", {"expression": "MIT AND (BSD-3-Clause OR ISC)"}),
        ("GPLv2+ and Public Domain", {"license": {"name": "GPLv2+ and Public Domain"}}),
        ("MIT AND", {"license": {"name": "MIT AND"}}),
    ],
)
def test_licence_is_spdx_or_a_name(
    tmp_path: Path, licence: str, expected: dict[str, object]
) -> None:
    document = valid(render(SUBJECT, made(tmp_path, [Spec("a", licence=licence)])))
    (found,) = document["components"][0]["licenses"]
    found.get("license", found).pop("acknowledgement", None)
    assert found == expected


def test_bytes_do_not_depend_on_path_order_locale_or_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = made(tmp_path)
    first = render(SUBJECT, packages)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = []
    for package in reversed(packages):
        path = shutil.copy(package.path, elsewhere / f"renamed-{package.path.name}")
        moved.append(ComposedPackage(package.ref, Path(path)))
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    assert render(SUBJECT, moved) == first


def test_another_package_than_the_named_one_is_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path)
    with pytest.raises(PackageRefused, match=r"it is vendored-3:2\.0-1\.noarch, not plain-1-1"):
        render(SUBJECT, [ComposedPackage(one.ref, other.path)])


def test_a_file_of_another_commit_or_none_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.cdx.json"
    assert not describes(path, "os/stable", "12" * 32)
    path.write_bytes(render(SUBJECT, []))
    assert describes(path, "os/stable", "12" * 32)
    assert not describes(path, "os/other", "12" * 32)
    assert not describes(path, "os/stable", "13" * 32)
    for text in ("", "[]", "{", '"x"'):
        path.write_text(text)
        assert not describes(path, "os/stable", "12" * 32)


@needs_root
def test_compose_writes_it_beside_the_set_and_where_it_was_asked_for(tmp_path: Path) -> None:
    rpms = repository(tmp_path / "rpms", [shell(), *SPECS])
    keys = "ref: os/stable\nrepos: [base]\nselinux: false\npackages: [shell, vendored]\n"
    (tmp_path / "os.yaml").write_text(keys)

    def run(place: Path, *words: object, status: int = 0, **env: str) -> Any:
        options = ["--repo", place / "repo", "--cachedir", place / "cache", "--json"]
        options += ["--repository", f"base={rpms}", "--basearch", "x86_64"]
        command = ["compose", tmp_path / "os.yaml", *options, "--rpm-repo", place / "mirror"]
        done = jigdo(*command, *words, status=status, env=env)
        return done.document if status == 0 else None

    first = run(tmp_path / "a", "--sbom", tmp_path / "a.json")
    second = run(tmp_path / "b", LC_ALL="C", TZ="Pacific/Chatham")
    beside = Path(second["sbom"][0])
    assert beside.name == Path(second["set"]["rpm"]).name.removesuffix(".rpm") + ".cdx.json"
    assert first["sbom"][0] == str(tmp_path / "a.json")
    data = beside.read_bytes()
    assert [Path(path).read_bytes() for path in first["sbom"]] == [data, data]
    document = valid(data)
    assert set(components(document)) == {"shell", "vendored"}
    assert document["metadata"]["component"]["hashes"][0]["content"] == second["commit"]

    run(tmp_path / "b", status=77)
    os.unlink(beside)
    again = run(tmp_path / "b")
    assert (again["commit"], beside.read_bytes()) == (second["commit"], data)
    run(tmp_path / "b", "--sbom", tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == data
    assert run(tmp_path / "c", "--sbom", tmp_path / "c.json", "--dry-run")["sbom"] == []
    assert not (tmp_path / "c.json").exists()

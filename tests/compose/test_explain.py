"""``--explain``: where a value comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.compose.explain import explain
from composer.errors import UsageError
from tests.commands import jigdo
from tests.compose.treefiles import write


@pytest.fixture
def treefile(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "base.yaml",
        "selinux: false\npackages:\n- kernel\n- systemd bash\n"
        "add-commit-metadata: {a: far, b: far}\n",
    )
    write(tmp_path, "more.yaml", "units: [b.service]\nselinux: false\n")
    return write(
        tmp_path,
        "os.yaml",
        "edition: '2024'\nselinux: true\ninclude: [base.yaml, more.yaml]\npackages: [own]\n"
        "packages-x86_64: [bash]\nunits: [a.service, c.service]\n"
        "add-commit-metadata:\n  b: near\n",
    )


def _said(path: Path, key: str) -> list[tuple[str, int | None, object, bool]]:
    found = explain(path, key, basearch="x86_64")
    return [(f"{o.file.name}: {o.key}", o.line, o.value, o.counts) for o in found.origins]


def test_of_single_values_the_last_origin_counts(treefile: Path) -> None:
    assert _said(treefile, "selinux") == [
        ("more.yaml: selinux", 2, False, False),
        ("base.yaml: selinux", 1, False, False),
        ("os.yaml: selinux", 2, True, True),
    ]


def test_each_item_of_a_list_has_its_line(treefile: Path) -> None:
    assert _said(treefile, "packages") == [
        ("base.yaml: packages[0]", 3, "kernel", True),
        ("base.yaml: packages[1]", 4, "systemd bash", True),
        ("os.yaml: packages-x86_64[0]", 5, "bash", True),
        ("os.yaml: packages[0]", 4, "own", True),
    ]
    assert [origin[0] for origin in _said(treefile, "units")] == [
        "more.yaml: units[0]",
        "os.yaml: units[0]",
        "os.yaml: units[1]",
    ]


def test_each_name_of_a_mapping_has_its_line(treefile: Path) -> None:
    assert _said(treefile, "add-commit-metadata") == [
        ("base.yaml: add-commit-metadata.a", 5, "far", True),
        ("base.yaml: add-commit-metadata.b", 5, "far", False),
        ("os.yaml: add-commit-metadata.b", 8, "near", True),
    ]


def test_what_an_edition_stands_for_comes_from_it(treefile: Path) -> None:
    assert _said(treefile, "tmp-is-dir") == [("os.yaml: edition", 1, True, True)]


def test_explanation_ends_with_the_value_that_is_flattened(treefile: Path) -> None:
    found = explain(treefile, "packages", basearch="x86_64")
    assert found.value == ["bash", "kernel", "own", "systemd"]
    assert explain(treefile, "ref", basearch="x86_64").is_default


def test_unknown_key_is_an_error_of_usage(treefile: Path) -> None:
    with pytest.raises(UsageError, match="packges: unknown key") as caught:
        explain(treefile, "packges", basearch="x86_64")
    assert caught.value.hint == "did you mean packages?"


def test_command_prints_origins(treefile: Path) -> None:
    words = ["treefile", treefile, "--basearch", "x86_64", "--explain"]
    assert jigdo(*words, "selinux").out.splitlines()[1:] == [
        f"  {treefile.parent}/more.yaml: selinux (line 2): false; overridden",
        f"  {treefile.parent}/base.yaml: selinux (line 1): false; overridden",
        f"  {treefile}: selinux (line 2): true",
    ]
    assert "no file says it; the default is ''" in jigdo(*words, "ref").out
    found = jigdo(*words, "units", "--json").document
    assert found["value"] == ["b.service", "a.service", "c.service"]
    assert found["origins"][0] == {
        "file": f"{treefile.parent}/more.yaml",
        "line": 1,
        "key": "units[0]",
        "value": "b.service",
        "counts": True,
    }


def test_command_prints_the_schema() -> None:
    assert "properties" in jigdo("treefile", "--schema").document
    jigdo("treefile", status=2)

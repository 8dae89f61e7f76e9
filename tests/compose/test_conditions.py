"""Variables and conditions: what they mean, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.compose.document import TreefileError
from composer.compose.treefile import load
from tests.compose.treefiles import read, refusal, write

_VARIABLES = "releasever: 41\nvariables: {stream: stable, prod: true, empty: '', number: 7}\n"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('basearch == "x86_64"', True),
        ('basearch != "x86_64"', False),
        ("releasever == 41", True),
        ("releasever >= 41", True),
        ("releasever < 41", False),
        ("releasever<=41", True),
        ("  releasever  >  40  ", True),
        ("prod == true", True),
        ("prod != true", False),
        ("prod == false", False),
        ('empty == ""', True),
        ('stream == "st"able"', False),
        ("['number == 7', 'prod == true', 'stream == \"stable\"']", True),
        ("['number == 8', 'prod == true']", False),
        ("[]", True),
    ],
)
def test_conditions_decide_about_files_and_maps(
    tmp_path: Path, condition: str, holds: bool
) -> None:
    write(tmp_path, "more.yaml", "packages: [more]\n")
    said = condition if condition.startswith("[") else f"'{condition}'"
    treefile = read(
        tmp_path,
        f"{_VARIABLES}conditional-include:\n"
        f"- {{if: {said}, include: more.yaml}}\n"
        f"- {{if: {said}, include: {{packages: [a b], units: [c.service]}}}}\n",
    )
    assert treefile.packages == (("a", "b", "more") if holds else ())
    assert treefile.units == (("c.service",) if holds else ())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("prod", "conditional-include[0].if: not a condition: 'prod'"),
        ("prod is true", "conditional-include[0].if: not a condition: 'prod is true'"),
        ("stream == stable", "conditional-include[0].if: not a condition: 'stream == stable'"),
        ("prod == TRUE", "conditional-include[0].if: not a condition"),
        ("number == -1", "conditional-include[0].if: not a condition"),
        ("7", "conditional-include[0].if: expected a condition, got 7"),
        ("[7]", "conditional-include[0].if[0]: expected a condition, got 7"),
        ("gone == 1", "conditional-include[0].if: the variable 'gone' is not set"),
        ("number == true", "conditional-include[0].if: number is a number, true is true or false"),
        ("releasever == \"41\"", "conditional-include[0].if: releasever is a number, '41' is a"),
        ("prod > true", "conditional-include[0].if: > is for numbers, prod is not one"),
        ("['number == 8', 'gone == 1']", "conditional-include[0].if[1]: the variable 'gone'"),
    ],
)  # fmt: skip
def test_wrong_condition_is_told_with_key_and_line(tmp_path: Path, said: str, message: str) -> None:
    text = f"{_VARIABLES}conditional-include:\n- if: {said}\n  include: gone.yaml\n"
    found = refusal(tmp_path, text)
    assert found.startswith(f"fedora.yaml: {message}")
    assert found.endswith("(line 4)")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{if: prod == true}", "include is missing"),
        ("{include: a.yaml}", "if is missing"),
        ("{if: prod == true, include: a.yaml, else: b.yaml}", "else: unknown"),
        ("{if: prod == true, include: 7}", "expected a path, a list of paths or a treefile"),
        ("{if: prod == false, include: {packages: x}}", "packages: expected a list, got 'x'"),
        ("{if: prod == false, include: {packges: [x]}}", "packges: unknown key"),
        ("a.yaml", "expected a mapping with if and include, got 'a.yaml'"),
    ],
)
def test_wrong_conditional_include_is_told(tmp_path: Path, entry: str, message: str) -> None:
    found = refusal(tmp_path, f"{_VARIABLES}conditional-include: [{entry}]\n")
    assert found.startswith("fedora.yaml: conditional-include[0]")
    assert message in found
    assert found.endswith("(line 3)")


def test_map_whose_condition_does_not_hold_needs_no_files(tmp_path: Path) -> None:
    entry = "{if: prod == false, include: {postprocess-script: gone, include: gone.yaml}}"
    assert not read(tmp_path, f"{_VARIABLES}conditional-include: [{entry}]\n").packages


def test_nearest_variable_counts_and_reaches_included_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base.yaml",
        "variables: {stream: far, other: x}\nref: os/${stream}/${other}\n"
        'conditional-include: [{if: stream == "near", include: {packages: [near]}}]\n',
    )
    treefile = read(tmp_path, "variables: {stream: near}\ninclude: base.yaml\n")
    assert treefile.ref == "os/near/x"
    assert treefile.packages == ("near",)
    assert treefile.variables == {"basearch": "x86_64", "stream": "near", "other": "x"}


def test_variables_are_replaced_where_rpm_ostree_does(tmp_path: Path) -> None:
    treefile = read(
        tmp_path,
        f"{_VARIABLES}"
        "ref: ${stream}/$basearch/${number}/${prod}\n"
        "automatic-version-prefix: ${releasever}.<date:%Y>\n"
        "mutate-os-release: $releasever\n"
        "platform-module: 'platform:f${releasever}'\n"
        "rojig: {name: 'os-${stream}', summary: 'For ${stream}', license: '${stream}'}\n"
        "metadata: {a: '${stream} $5 $HOME', b: ['${stream}']}\n"
        "add-commit-metadata: {a: '${number}', b: 7}\n"
        "packages: [a$basearch]\n",
    )
    assert treefile.ref == "stable/x86_64/7/true"
    assert treefile.automatic_version_prefix == "41.<date:%Y>"
    assert treefile.mutate_os_release == "41"
    assert treefile.platform_module == "platform:f41"
    assert treefile.rojig is not None
    assert treefile.rojig.name == "os-stable"
    assert treefile.rojig.summary == "For stable"
    assert treefile.rojig.license == "${stream}"
    assert treefile.metadata == {"a": "stable $5 $HOME", "b": ("${stream}",)}
    assert treefile.add_commit_metadata == {"a": "7", "b": 7}
    assert treefile.packages == ("a$basearch",)


def test_overridden_value_may_have_unknown_variables(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "ref: os/${gone}\nadd-commit-metadata: {a: '${gone}'}\n")
    text = "ref: os\nadd-commit-metadata: {a: b}\ninclude: base.yaml\n"
    assert read(tmp_path, text).add_commit_metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "variables: {basearch: x}\n",
            "fedora.yaml: variables.basearch: the name basearch is reserved (line 1)",
        ),
        ("variables: {releasever: 1}\n", "fedora.yaml: variables.releasever: the name"),
        ("\nvariables:\n  a: ${b}\n", "fedora.yaml: variables.a: a variable's value cannot refer"),
        ("variables: {a: -1}\n", "fedora.yaml: variables.a: expected a string, true, false or a"),
        ("variables: {a: 1.5}\n", "fedora.yaml: variables.a: expected a string, true, false or a"),
        (
            "\nadd-commit-metadata:\n  x: 1\n  y: ${a}\n",
            "fedora.yaml: add-commit-metadata.y: the variable 'a' is not set (line 4)",
        ),
        (
            "rojig:\n  name: ${a}\n  summary: s\n  license: l\n",
            "fedora.yaml: rojig.name: the variable 'a' is not set (line 2)",
        ),
    ],
)
def test_wrong_variables_are_told(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_arch_include_is_for_the_architecture_and_after_include(tmp_path: Path) -> None:
    for name in ("a", "x", "arm"):
        write(tmp_path, f"{name}.yaml", f"ref: {name}\nunits: [{name}.service]\n")
    path = write(
        tmp_path,
        "os.yaml",
        "arch-include: {x86_64: x.yaml, aarch64: [arm.yaml]}\ninclude: a.yaml\n",
    )
    x86, arm, other = (load(path, basearch=arch) for arch in ("x86_64", "aarch64", "s390x"))
    assert x86.units == ("x.service", "a.service")
    assert arm.units == ("arm.service", "a.service")
    assert other.units == ("a.service",)
    assert x86.ref == "a"


def test_unknown_architecture_is_told(tmp_path: Path) -> None:
    with pytest.raises(TreefileError, match=r"arch-include.x86: unknown arch.* \(line 1\)") as told:
        read(tmp_path, "arch-include: {x86: a.yaml}\n")
    assert told.value.hint == "did you mean x86_64?"

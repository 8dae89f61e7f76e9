"""Treefiles: what they mean, how includes join, and what is said about wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.compose.document import Document, TreefileError
from composer.compose.keys import KEYS
from composer.compose.kinds import Place
from composer.compose.treefile import load
from composer.compose.values import AccountCheck, plain
from tests.compose.treefiles import read, refusal, write


def test_values_and_defaults(tmp_path: Path) -> None:
    treefile = read(
        tmp_path,
        "ref: os/${basearch}/$releasever\nreleasever: 41\nrepos: [base]\npackages: [b a, 'a']\n"
        "packages-x86_64: [x]\npackages-aarch64: [arm]\ncheck-passwd: {type: none}\n",
    )
    assert treefile.ref == "os/x86_64/41"
    assert treefile.packages == ("a", "b", "x")
    assert treefile.check_passwd == AccountCheck("none")
    assert (treefile.selinux, treefile.recommends, treefile.documentation) == (True, True, True)
    assert (treefile.boot_location, treefile.tmp_is_dir) == ("new", False)


def test_key_with_nothing_is_as_if_it_was_not_there(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "packages: [a]\nselinux: false\n")
    text = "include: base.yaml\npackages:\n  # - none any more\nselinux:\nunits: ~\n"
    treefile = read(tmp_path, text)
    assert (treefile.packages, treefile.selinux, treefile.units) == (("a",), False, ())
    assert read(tmp_path, '{"units": null}', "os.json").units == ()


def test_edition_2024_changes_defaults(tmp_path: Path) -> None:
    treefile = read(tmp_path, "edition: '2024'\n")
    assert (treefile.boot_location, treefile.tmp_is_dir) == ("modules", True)
    treefile = read(tmp_path, "edition: 2024\ntmp-is-dir: false\n")
    assert treefile.tmp_is_dir is False


def test_package_with_condition_stays_together(tmp_path: Path) -> None:
    treefile = read(tmp_path, "packages:\n  - \"'podman >= 4.1' crun\"\n")
    assert treefile.packages == ("crun", "podman >= 4.1")


def test_includes_join_as_rpm_ostree_says(tmp_path: Path) -> None:
    script = "#!/bin/sh\necho "
    for name, more in (("kernel", ""), ("bootupd", "units: [b.service]\n")):
        write(
            tmp_path,
            f"manifests/{name}.yaml",
            f"ref: {name}\npackages: [{name}]\npostprocess: ['{script}{name}']\n{more}",
        )
    treefile = read(
        tmp_path,
        "include: [manifests/kernel.yaml, manifests/bootupd.yaml]\n"
        f"packages: [own]\nunits: [a.service]\npostprocess: ['{script}own']\n",
    )
    assert [text.split()[-1] for text in treefile.postprocess] == ["bootupd", "kernel", "own"]
    assert treefile.units == ("b.service", "a.service")
    assert treefile.packages == ("bootupd", "kernel", "own")
    assert treefile.ref == "kernel"
    assert [path.name for path in treefile.files] == ["fedora.yaml", "kernel.yaml", "bootupd.yaml"]


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    write(tmp_path, "sub/more.yaml", "check-passwd: {type: file, filename: passwd}\n")
    write(tmp_path, "sub/passwd", "")
    treefile = read(tmp_path, "include: sub/more.yaml\n")
    assert treefile.check_passwd.filename == tmp_path / "sub/passwd"


def test_json_is_read_with_comments(tmp_path: Path) -> None:
    text = json.dumps({"comment": "x", "comment-2": 1, "ref": "a/b", "packages": ["p"]})
    assert read(tmp_path, text, "atomic.json").packages == ("p",)


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    treefile = read(tmp_path, "packages: [on, no, y, 12:30, 2024-01-01]\n")
    assert treefile.packages == ("12:30", "2024-01-01", "no", "on", "y")


def test_flattened_treefile_means_the_same(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "packages: [a]\nselinux: false\n")
    first = read(tmp_path, "include: base.yaml\nref: x\nremove-files: [/etc/a]\n")
    again = read(tmp_path, yaml.safe_dump(first.flattened()), "flat.yaml")
    assert again.given == first.given
    assert again.digest() == first.digest()


def test_digest_covers_the_files_that_are_named(tmp_path: Path) -> None:
    write(tmp_path, "passwd", "root:x:0:0:::\n")
    text = "check-passwd: {type: file, filename: passwd}\n"
    before = read(tmp_path, text).digest()
    write(tmp_path, "passwd", "root:x:0:0:::\nbin:x:1:1:::\n")
    assert read(tmp_path, text).digest() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "packages:\n  - a\n  - b\n  - c\n  - 7\n",
            "fedora.yaml: packages[3]: expected a string, got 7 (line 5)",
        ),
        ("selinux: maybe\n", "fedora.yaml: selinux: expected true or false, got 'maybe' (line 1)"),
        ("\n\npackages: a\n", "fedora.yaml: packages: expected a list, got 'a' (line 3)"),
        ("packges: []\n", "fedora.yaml: packges: unknown key (line 1)"),
        ("packages-arch64: []\n", "fedora.yaml: packages-arch64: unknown architecture"),
        ("ref: a\nref: b\n", "fedora.yaml: the key 'ref' is there twice (line 2)"),
        (
            "default-target: a.target\ndefault_target: b.target\n",
            "fedora.yaml: default_target: the same as default-target, which is there too (line 2)",
        ),
        ("- a\n", "fedora.yaml: expected a mapping of keys, got a list (line 1)"),
        ("ref: [\n", "fedora.yaml: line 2: "),
        ("repos:\n\t- a\n", "fedora.yaml: line 2: found character '\\t'"),
        ("ref: !!python/object:os.system x\n", "fedora.yaml: ref: the tag"),
        ("ref: &a [*a]\n", "fedora.yaml: ref[0]: an alias that contains itself"),
        ("boot-location: old\n", "fedora.yaml: boot-location: expected one of new, modules"),
        ("postprocess: ['  ']\n", "fedora.yaml: postprocess[0]: expected a script, got '  '"),
        ("remove-files: [../x]\n", "fedora.yaml: remove-files[0]: '../x' does not name something"),
        ("units: ['../x.service']\n", "fedora.yaml: units[0]: expected a unit such as"),
        ("check-passwd: {type: data}\n", "fedora.yaml: check-passwd: the type data needs entries"),
        (
            "check-passwd: {type: none, filename: x}\n",
            "fedora.yaml: check-passwd.filename: unknown",
        ),
        (
            "check-passwd: {typ: none}\n",
            "fedora.yaml: check-passwd.type: expected one of none, previous, file, data, got",
        ),
        (
            "check-passwd: {type: data, entries: {a: [1, 2, 3]}}\n",
            "fedora.yaml: check-passwd.entries.a: expected a number, or a list of uid and gid",
        ),
        ("ref: os/${stream}\n", "fedora.yaml: ref: the variable 'stream' is not set"),
        ("ref: os/$releasever\n", "fedora.yaml: ref: the variable 'releasever' is not set"),
        ("include: gone.yaml\n", "fedora.yaml: include: "),
    ],
)
def test_wrong_treefile_is_told_with_file_key_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("packges: []\n", "did you mean packages?"),
        ("boot_locations: new\n", "did you mean boot-location?"),
        ("packages-x86: []\n", "did you mean packages-x86_64?"),
        ("zzz: 1\n", "docs/treefile.md lists the keys"),
    ],
)
def test_hint_names_the_nearest_key(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(TreefileError) as caught:
        read(tmp_path, text)
    assert caught.value.hint == hint


def test_wrong_json_is_told_with_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, '{\n"ref": ,}', "a.json").startswith("a.json: line 2: ")
    assert refusal(tmp_path, '{"ref": "a", "ref": "b"}', "a.json") == (
        "a.json: the key 'ref' is there twice (line 1)"
    )


def test_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, "more.yaml", "ref: 1.5\n")
    assert refusal(tmp_path, "include: more.yaml\n").startswith("more.yaml: ref: expected a string")


def test_include_cycle_shows_the_way(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "include: c.yaml\n")
    write(tmp_path, "c.yaml", "include: fedora.yaml\n")
    message = refusal(tmp_path, "include: b.yaml\n")
    assert message.startswith("c.yaml: include: a cycle: ")
    chain = message.removesuffix(" (line 1)").split(": ")[3]
    assert [Path(name).name for name in chain.split(" -> ")] == [
        "fedora.yaml", "b.yaml", "c.yaml", "fedora.yaml",
    ]  # fmt: skip


def test_file_included_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "include: d.yaml\n")
    write(tmp_path, "d.yaml", "recommends: true\n")
    assert "is included twice" in refusal(tmp_path, "include: [b.yaml, d.yaml]\n")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TreefileError, match="No such file"):
        load(tmp_path / "no.yaml", basearch="x86_64")
    (tmp_path / "latin.yaml").write_bytes(b"ref: a\nrepos: [\xe4]\n")
    with pytest.raises(TreefileError, match="line 2: not UTF-8"):
        load(tmp_path / "latin.yaml", basearch="x86_64")


def test_compose_needs_ref_and_packages(tmp_path: Path) -> None:
    with pytest.raises(TreefileError, match="the key ref is missing"):
        read(tmp_path, "packages: [a]\n").require_complete()
    with pytest.raises(TreefileError, match="the key packages is missing"):
        read(tmp_path, "ref: a\nmodules: {enable: ['nodejs:18']}\n").require_complete()
    with pytest.raises(TreefileError, match="not a valid OSTree ref"):
        read(tmp_path, "ref: a//b\npackages: [a]\n").require_complete()


@pytest.mark.parametrize(
    "keys",
    [
        "repo-packages: [{repo: a, packages: [b]}]",
        "modules: {install: ['nodejs:18/minimal']}",
        "packages-x86_64: [b]",
        "include: more.ks",
    ],
)
def test_packages_may_come_by_other_keys(tmp_path: Path, keys: str) -> None:
    write(tmp_path, "more.ks", "%packages\na\n%end\n")
    read(tmp_path, f"ref: a\n{keys}\n").require_complete()


def test_every_row_has_a_default_that_its_own_check_takes() -> None:
    place = Place(Document(Path("x.yaml"), {}, {}), ())
    for key in KEYS:
        if key.default not in ("", None):
            assert key.kind.check(plain(key.default), place) == key.default, key.name


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([name for key in KEYS for name in (key.name, *key.aliases)]) | st.text()
quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _reads_or_refuses(path: Path) -> None:
    try:
        treefile = load(path, basearch="x86_64")
    except TreefileError:
        return
    yaml.safe_dump(treefile.flattened()).encode()
    treefile.digest()


@quick
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="replace")))
def test_no_bytes_break_the_parser(tmp_path: Path, data: bytes) -> None:
    for name in ("a.yaml", "a.json"):
        (tmp_path / name).write_bytes(data)
        _reads_or_refuses(tmp_path / name)


@quick
@given(st.dictionaries(names, values, max_size=5))
def test_no_values_break_the_parser(tmp_path: Path, document: dict[str, object]) -> None:
    if document.get("check-passwd", {}) and isinstance(document.get("check-passwd"), dict):
        document = {**document, "check-passwd": {"type": "none"}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    _reads_or_refuses(tmp_path / "a.json")


@quick
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=3), min_size=1, max_size=4))
def test_joined_lists_hold_everything_once(tmp_path: Path, parts: list[list[str]]) -> None:
    for number, part in enumerate(parts):
        more = f"include: {number + 1}.yaml\n" if number + 1 < len(parts) else ""
        write(tmp_path, f"{number}.yaml", f"packages: {json.dumps(part)}\n{more}")
    treefile = load(tmp_path / "0.yaml", basearch="x86_64")
    assert treefile.packages == tuple(sorted({name for part in parts for name in part}))


def test_deep_and_wide_documents_are_refused(tmp_path: Path) -> None:
    assert "too deeply" in refusal(tmp_path, "ref: " + "[" * 5000)
    assert "too deeply" in refusal(tmp_path, '{"ref": ' + "[" * 200_000, "a.json")
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for previous, name in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{previous}'] * 9)}]\n"
    assert "far too many values" in refusal(tmp_path, bomb)

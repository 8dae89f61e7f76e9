"""Values with a shape of their own: what they become, and what is said about wrong ones."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from composer.compose.document import TreefileError
from composer.compose.treefile import Treefile, load
from composer.compose.values import (
    AccountCheck,
    AddFile,
    Modules,
    RemoveFrom,
    RepoPackages,
    Rojig,
)
from tests.compose.treefiles import make_files, read, refusal, write


def test_structured_values(tmp_path: Path) -> None:
    make_files(tmp_path)
    treefile = read(
        tmp_path,
        "add-files:\n- [script.sh, /usr/libexec/run]\n- [sub/motd, etc//motd]\n"
        "remove-from-packages: [[cpio, /usr/share/.*, '[.]gz$']]\n"
        "repo-packages: [{repo: base, packages: [b a]}]\n"
        "modules: {enable: ['a:1 b:2'], install: ['c:3/x']}\n"
        "rojig: {name: n, summary: s, license: MIT}\n"
        "check-passwd: {type: data, entries: {adm: [3, 4], bin: 1, x: [5]}}\n"
        "check-groups: {type: file, filename: sub/passwd}\n"
        "postprocess-script: script.sh\n"
        "metadata: {a: [1, {b: null}]}\n"
        "rpmdb: b-d-b\nopt-usrlocal: stateoverlay\nselinux-label-version: 1\n",
    )
    assert treefile.add_files == (
        AddFile(tmp_path / "script.sh", "usr/libexec/run"),
        AddFile(tmp_path / "sub/motd", "etc/motd"),
    )
    assert treefile.add_files[1].where == f"{tmp_path}/fedora.yaml: add-files[1] (line 3)"
    assert treefile.remove_from_packages == (
        RemoveFrom("cpio", ("/usr/share/.*", "[.]gz$")),
    )  # fmt: skip
    assert treefile.remove_from_packages[0].where.endswith("remove-from-packages[0] (line 4)")
    assert treefile.repo_packages == (RepoPackages("base", ("a", "b")),)
    assert treefile.modules == Modules(("a:1", "b:2"), ("c:3/x",))
    assert treefile.rojig == Rojig("n", "s", "MIT")
    entries = (("adm", 3, 4), ("bin", 1, 1), ("x", 5, 5))
    assert treefile.check_passwd == AccountCheck("data", entries=entries)
    assert treefile.check_groups == AccountCheck("file", filename=tmp_path / "sub/passwd")
    assert treefile.postprocess_script == tmp_path / "script.sh"
    assert treefile.metadata == {"a": (1, {"b": None})}
    assert (treefile.rpmdb, treefile.opt_usrlocal) == ("bdb", "state-overlay")
    assert treefile.selinux_label_version == 1
    assert pickle.loads(pickle.dumps(treefile)) == treefile


def test_defaults_are_rpm_ostrees(tmp_path: Path) -> None:
    treefile = read(tmp_path, "ref: a\n")
    assert (treefile.machineid_compat, treefile.preserve_passwd) == (True, True)
    assert (treefile.ignore_devices, treefile.readonly_executables) == (True, False)
    assert treefile.check_groups == treefile.check_passwd == AccountCheck("previous")
    assert (treefile.rpmdb, treefile.sysusers) == ("target", "compose-auto")
    assert (treefile.opt_usrlocal, treefile.automatic_version_suffix) == ("var", ".")
    assert (treefile.rojig, treefile.postprocess_script, treefile.gpg_key) == (None, None, "")


def test_container_stands_for_other_values(tmp_path: Path) -> None:
    treefile = read(tmp_path, "container: true\nselinux: true\n")
    assert (treefile.selinux, treefile.tmp_is_dir, treefile.preserve_passwd) == (False, True, False)
    assert treefile.boot_location == "modules"
    assert treefile.check_groups == treefile.check_passwd == AccountCheck("none")


def test_package_of_two_repositories_is_taken_from_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "repo-packages: [{repo: far, packages: [a, b]}]\n")
    text = "include: base.yaml\nrepo-packages: [{repo: near, packages: [b]}]\n"
    assert read(tmp_path, text).repo_packages == (
        RepoPackages("far", ("a",)),
        RepoPackages("near", ("b",)),
    )


def test_mappings_and_sets_are_joined(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base.yaml",
        "repovars: {a: far, b: far}\nignore-removed-users: [b, a]\n"
        "modules: {enable: [x:1]}\ngpg_key: FAR\n",
    )
    treefile = read(
        tmp_path,
        "include: base.yaml\nrepovars: {b: near}\nignore-removed-users: [c, a]\n"
        "modules: {enable: [y:1], install: [z:1]}\ngpg-key: NEAR\n",
    )
    assert treefile.repovars == {"a": "far", "b": "near"}
    assert treefile.ignore_removed_users == ("a", "b", "c")
    assert treefile.modules == Modules(("x:1", "y:1"), ("z:1",))
    assert treefile.gpg_key == "NEAR"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("add-files: [[gone, /usr/x]]\n", "add-files[0]: "),
        ("add-files: [[sub, /usr/x]]\n", "add-files[0]: "),
        ("add-files: [[../out, /usr/x]]\n", "add-files[0][0]: "),
        ("add-files: [[sub/../script.sh, /usr/x]]\n", "add-files[0][0]: "),
        ("add-files: [[/etc/passwd, /usr/x]]\n", "add-files[0][0]: "),
        ("add-files: [[leak, /usr/x]]\n", "add-files[0][0]: "),
        ("add-files: [[way/passwd, /usr/x]]\n", "add-files[0][0]: "),
        ("add-files: [[loop, /usr/x]]\n", "add-files[0]: "),
        ("add-files: [[script.sh, /usr/../etc/x]]\n", "add-files[0][1]: '/usr/../etc/x' does not"),
        ("add-files: [[script.sh, /var/x]]\n", "add-files[0][1]: /var/x is not in /usr or /etc"),
        ("add-files: [[script.sh, /usr/local/x]]\n", "add-files[0][1]: /usr/local/x is not in"),
        ("add-files: [[script.sh, /usr]]\n", "add-files[0][1]: /usr is not in /usr or /etc"),
        ("add-files: [script.sh]\n", "add-files[0]: expected a list, got 'script.sh'"),
        ("add-files: [[script.sh]]\n", "add-files[0]: expected a list of two"),
        ("add-files: {script.sh: /usr/x}\n", "add-files: expected a list, got a mapping"),
        (
            "remove-from-packages: [[a, '(']]\n",
            "remove-from-packages[0][1]: '(' is no regular expression: at char 1: missing",
        ),
        ("remove-from-packages: [[a, '(?<=a+)']]\n", "remove-from-packages[0][1]: "),
        ("remove-from-packages: [[a, '']]\n", "remove-from-packages[0][1]: expected a regular"),
        (f"remove-from-packages: [[a, '{'x' * 3000}']]\n", "remove-from-packages[0][1]: expected"),
        ("remove-from-packages: [[a]]\n", "remove-from-packages[0]: expected a list of a package"),
        ("remove-from-packages: [a, b]\n", "remove-from-packages[0]: expected a list, got 'a'"),
        ("postprocess-script: gone.sh\n", "postprocess-script: "),
        ("postprocess-script: sub\n", "postprocess-script: "),
        ("check-groups: {type: file, filename: gone}\n", "check-groups: "),
        ("check-groups: {type: data, entries: {a: [1]}}\n", "check-groups.entries.a: expected a"),
        ("check-passwd: {type: data, entries: {a: -1}}\n", "check-passwd.entries.a: expected a"),
        ("repo-packages: [{repo: a}]\n", "repo-packages[0]: packages is missing"),
        ("repo-packages: [{repo: a, packages: b}]\n", "repo-packages[0].packages: expected a list"),
        ('packages: ["\'a >= 1"]\n', "packages[0]: No closing quotation"),
        ("packages: [\"''\"]\n", "packages[0]: an empty name"),
        ("modules: {enabled: []}\n", "modules.enabled: unknown; known are enable, install"),
        ("rojig: {name: a, summary: b}\n", "rojig: license is missing"),
        ("automatic-version-suffix: ab\n", "automatic-version-suffix: expected one ASCII char"),
        ("selinux-label-version: 2\n", "selinux-label-version: expected one of 0, 1, got 2"),
        ("selinux-label-version: true\n", "selinux-label-version: expected one of 0, 1, got true"),
        ("repovars: {releasever: 1}\n", "repovars.releasever: the name releasever is reserved"),
        ("basearch: aarch64\n", "basearch: expected x86_64, for which this is, got 'aarch64'"),
        ("override-remove: [a]\n", "override-remove: a key for layering packages on a machine"),
        ("metadata: " + "{a: " * 80 + "1" + "}" * 80 + "\n", "metadata.a.a.a"),
    ],
)
def test_wrong_value_is_told_with_key_and_line(tmp_path: Path, text: str, message: str) -> None:
    inside = tmp_path / "inside"
    make_files(inside)
    write(tmp_path, "out", "secret\n")
    (inside / "leak").symlink_to("../out")
    (inside / "way").symlink_to("/etc")
    (inside / "loop").symlink_to("loop")
    found = refusal(inside, f"# first line\n{text}")
    assert found.startswith(f"fedora.yaml: {message}")
    assert found.endswith("(line 2)")


def test_link_inside_the_directory_may_be_added(tmp_path: Path) -> None:
    make_files(tmp_path)
    (tmp_path / "link").symlink_to("sub/motd")
    assert read(tmp_path, "add-files: [[link, /usr/x]]\n").add_files[0].source.read_text()


def test_digest_covers_the_content_of_every_named_file(tmp_path: Path) -> None:
    make_files(tmp_path)
    text = (
        "add-files: [[sub/motd, /usr/x]]\npostprocess-script: script.sh\n"
        "check-groups: {type: file, filename: sub/passwd}\n"
    )
    seen = {read(tmp_path, text).digest()}
    for name in ("sub/motd", "script.sh", "sub/passwd"):
        write(tmp_path, name, "changed:x:1:1:::\n")
        seen.add(read(tmp_path, text).digest())
    os.chmod(tmp_path / "sub/motd", 0o755)
    seen.add(read(tmp_path, text).digest())
    assert len(seen) == 5


def test_digest_is_the_same_in_another_directory(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        make_files(tmp_path / name)
        treefile = read(
            tmp_path / name,
            "add-files: [[sub/motd, /usr/x]]\npostprocess-script: script.sh\n"
            f"check-passwd: {{type: file, filename: sub/passwd}}\nmetadata: {{at: {name}}}\n",
        )
        digests.add(treefile.digest())
    assert len(digests) == 1


def _complete(directory: Path, more: str) -> Treefile:
    return read(directory, f"ref: a\npackages: [a]\n{more}")


def test_rojig_name_that_no_package_can_have_is_refused_by_a_compose(tmp_path: Path) -> None:
    said = "variables: {a: 'x y'}\nrojig: {name: 'os-${a}', summary: s, license: MIT}\n"
    with pytest.raises(TreefileError, match=r"rojig \(line 4\): 'os-x y' cannot be the name"):
        _complete(tmp_path, said).require_complete()


def test_keys_without_effect_are_one_warning(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "cliwrap-binaries: [kernel-install]\n")
    treefile = _complete(tmp_path, "include: base.yaml\ncliwrap: true\nosname: a\n")
    treefile.require_complete()
    assert treefile.warnings == ("without effect here: cliwrap, cliwrap-binaries, osname",)


def test_unknown_keys_are_warnings_in_json(tmp_path: Path) -> None:
    text = '{"ref": "a",\n "packges": [],\n "install-langs-comment": 1, "_comment": ""}'
    treefile = read(tmp_path, text, "os.json")
    assert treefile.warnings == (
        f"{tmp_path}/os.json: packges: unknown key (line 2): skipped; did you mean packages?",
    )
    assert (
        refusal(tmp_path, "ref: a\npackges: []\n") == "fedora.yaml: packges: unknown key (line 2)"
    )
    assert refusal(tmp_path, "comment: x\n") == "fedora.yaml: comment: unknown key (line 1)"


def test_warning_about_a_map_that_is_included_is_said_once(tmp_path: Path) -> None:
    entry = {"if": 'basearch == "x86_64"', "include": {"packges": []}}
    treefile = read(tmp_path, json.dumps({"conditional-include": [entry]}), "os.json")
    assert len(treefile.warnings) == 1


def test_values_of_json_have_lines(tmp_path: Path) -> None:
    text = '{\n\t"ref": "a",\n\t"packages": ["a\\"]",\n\t\t"b",\n\t\t7]\n}'
    assert refusal(tmp_path, text, "os.json") == (
        "os.json: packages[2]: expected a string, got 7 (line 5)"
    )
    assert refusal(tmp_path, '{"a": {"b": 1,\n"b": 2}}', "os.json") == (
        "os.json: the key 'b' is there twice (line 2)"
    )


def test_file_that_is_not_called_yaml_is_json(tmp_path: Path) -> None:
    assert read(tmp_path, '{"ref": "a"}', "os.treefile").ref == "a"
    assert read(tmp_path, "ref: a\n", "os.yml").ref == "a"


def test_patterns_are_those_that_rpm_ostree_takes(tmp_path: Path) -> None:
    said = "remove-from-packages: [[a, '[[:alpha:]]++', '(?<name>x)']]\n"
    (removal,) = read(tmp_path, said).remove_from_packages
    assert removal.patterns == ("[[:alpha:]]++", "(?<name>x)")


def test_byte_order_mark_is_no_part_of_json(tmp_path: Path) -> None:
    (tmp_path / "os.json").write_bytes(b'\xef\xbb\xbf{"ref": "a"}')
    assert load(tmp_path / "os.json", basearch="x86_64").ref == "a"

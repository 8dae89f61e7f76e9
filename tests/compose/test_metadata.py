"""What a commit says about itself, with real repositories (composer/compose/metadata.py)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from gi.repository import GLib

from composer.checksum import ObjectChecksum
from composer.compose.history import advisories_of
from composer.compose.metadata import BadMetadata, finished, joined, json_values
from composer.ostree.repo import Repository
from composer.rpm.advisories import Advisory, fixed, metadata, read
from composer.rpm.package import Nevra
from tests.commands import Done, jigdo, ostree
from tests.compose.rpms import File, Spec, build, index, needs_root, repository, shell

UPDATE = """<update from="a" status="stable" type="{kind}" version="1">
<id>{ident}</id><title>{ident}</title><severity>{severity}</severity>
<issued date="2024-01-01 00:00:00"/><references>
<reference href="https://bugs.example/2" id="2" type="bugzilla" title="CVE-2024-22 again"/>
<reference href="https://bugs.example/1" id="1" type="bugzilla" title="CVE-2024-22 lock opens"/>
<reference href="https://bugs.example/3" id="3" type="bugzilla" title="no such thing"/>
</references><pkglist><collection short="c"><name>c</name>
<package name="app" version="{version}" release="1" epoch="0" arch="noarch" src="app.src.rpm">
<filename>app-{version}-1.noarch.rpm</filename></package></collection></pkglist></update>"""


def advise(rpms: Path, *updates: Mapping[str, str]) -> None:
    """Put advisories for versions of app into a repository."""
    body = "".join(UPDATE.format_map(update) for update in updates)
    path = rpms.parent / "updateinfo.xml"
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?><updates>{body}</updates>')
    subprocess.run(["modifyrepo_c", path, rpms / "repodata"], check=True, capture_output=True)


OLD = {"ident": "EX-1", "kind": "security", "severity": "Low", "version": "1"}
NEW = {"ident": "EX-2", "kind": "security", "severity": "Important", "version": "2"}
BUG = {"ident": "EX-3", "kind": "bugfix", "severity": "None", "version": "2"}


@dataclass(frozen=True)
class Place:
    """A treefile with its repository, where commits are made."""

    path: Path

    @property
    def repo(self) -> Path:
        return self.path / "repo"

    @property
    def rpms(self) -> Path:
        return self.path / "rpms"

    def compose(self, *words: object) -> Done:
        options = ["--repo", self.repo, "--cachedir", self.path / "cache", "--json"]
        options += ["--repository", f"base={self.rpms}", "--basearch", "x86_64"]
        return jigdo("compose", self.path / "os.yaml", *options, *words)

    def say(self, keys: str) -> None:
        with (self.path / "os.yaml").open("a") as treefile:
            treefile.write(keys)

    def show(self, option: str, key: str) -> str:
        return ostree(self.repo, "show", f"--print-{option}-key={key}", "os/stable")


def app(version: str) -> Spec:
    return Spec("app", version, {"/usr/share/app": File(version)})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    repository(tmp_path / "rpms", [shell(), app("1")])
    keys = "ref: os/stable\nrepos: [base]\nselinux: false\npackages: [shell, app]\n"
    (tmp_path / "os.yaml").write_text(keys)
    return Place(tmp_path)


def update(place: Place) -> None:
    build(app("2"), place.rpms)
    index(place.rpms)


@needs_root
def test_advisory_that_an_update_fixes_is_told(place: Place) -> None:
    advise(place.rpms, OLD)
    first = place.compose().document
    assert [one["id"] for one in first["advisories_fixed"]] == ["EX-1"]
    update(place)
    advise(place.rpms, OLD, NEW, BUG)
    fixed_now = place.compose().document["advisories_fixed"]
    assert fixed_now[0] == {
        "id": "EX-2",
        "kind": "security",
        "severity": "important",
        "packages": ["app-2-1.noarch"],
        "cves": ["CVE-2024-22"],
        "references": [{"url": "https://bugs.example/1", "title": "CVE-2024-22 lock opens"}],
    }
    assert [one["id"] for one in fixed_now[1:]] == ["EX-3"]
    done = jigdo("diff", "os/stable^", "os/stable", "--repo", place.repo)
    assert "  EX-2 (security, important): app-2-1.noarch\n" in done.out
    assert "    CVE-2024-22 lock opens https://bugs.example/1\n" in done.out
    assert "  EX-3 (bugfix): app-2-1.noarch\n" in done.out
    assert "EX-1" not in done.out
    back = jigdo("diff", "os/stable", "os/stable^", "--repo", place.repo)
    assert "EX-" not in back.out


@needs_root
@pytest.mark.parametrize("where", ["inline", "detached"])
def test_advisory_of_a_version_that_was_passed_over_is_fixed_too(place: Place, where: str) -> None:
    place.say(f"advisories-metadata: {where}\n")
    place.compose()
    build(app("3"), place.rpms)
    index(place.rpms)
    later = {"ident": "EX-9", "kind": "security", "severity": "Low", "version": "4"}
    advise(place.rpms, OLD, NEW, BUG, later)
    told = place.compose().document["advisories_fixed"]
    assert [(one["id"], one["packages"]) for one in told] == [
        ("EX-2", ["app-3-1.noarch"]),
        ("EX-3", ["app-3-1.noarch"]),
    ]
    words = ["diff", "os/stable^", "os/stable", "--repo", place.repo, "--json"]
    assert [one["id"] for one in jigdo(*words).document["advisories"]] == ["EX-2", "EX-3"]


@needs_root
def test_difference_over_several_commits_has_the_advisories_of_all(place: Place) -> None:
    place.compose()
    for version, advisory in (("2", NEW), ("4", {**BUG, "version": "4"})):
        build(app(version), place.rpms)
        index(place.rpms)
        # Repositories forget the advisories of what they no longer have.
        advise(place.rpms, advisory)
        place.compose()
    words = ["diff", "os/stable^^", "os/stable", "--repo", place.repo, "--json"]
    told = jigdo(*words).document["advisories"]
    assert [(one["id"], one["packages"]) for one in told] == [
        ("EX-2", ["app-4-1.noarch"]),
        ("EX-3", ["app-4-1.noarch"]),
    ]


@needs_root
def test_advisories_are_of_rpm_ostrees_type(place: Place) -> None:
    update(place)
    advise(place.rpms, NEW, BUG)
    place.compose()
    shown = place.show("detached-metadata", "rpmostree.advisories")
    variant = GLib.Variant.parse(GLib.VariantType.new("a(suuasa{sv})"), shown, None, None)
    ((ident, kind, severity, packages, more),) = variant.unpack()
    assert (ident, kind, severity, packages) == ("EX-2", 1, 3, ["app-2-1.noarch"])
    assert more == {"cve_references": [("https://bugs.example/1", "CVE-2024-22 lock opens")]}


@needs_root
def test_a_repository_made_anew_from_the_same_packages_gives_the_same_commit(
    place: Place, tmp_path: Path
) -> None:
    first = place.compose("--no-parent").document["commit"]
    shown = place.show("detached-metadata", "rpmostree.rpmmd-repos")
    (row,) = GLib.Variant.parse(None, shown, None, None).unpack()
    assert row == {"id": "base", "timestamp": newest_time(place.rpms)}
    later = ["createrepo_c", "--revision", "2000000000", "--set-timestamp-to-revision"]
    subprocess.run([*later, str(place.rpms)], check=True, capture_output=True)
    advise(place.rpms, OLD)
    again = place.compose("--no-parent", "--force-nocache").document["commit"]
    assert again == first
    assert str(newest_time(place.rpms)) in place.show("detached-metadata", "rpmostree.rpmmd-repos")
    assert "EX-1" in place.show("detached-metadata", "rpmostree.advisories")


def newest_time(rpms: Path) -> int:
    text = (rpms / "repodata/repomd.xml").read_text()
    return max(int(t) for t in re.findall(r"<timestamp>(\d+)</timestamp>", text))


@needs_root
@pytest.mark.parametrize("where", ["inline", "disabled"])
def test_keys_say_where_it_goes(place: Place, where: str) -> None:
    place.say(f"repo-metadata: {where}\nadvisories-metadata: {where}\n")
    advise(place.rpms, OLD)
    commit = ObjectChecksum.parse(place.compose().document["commit"])
    repo = Repository.open(place.repo)
    keys = {"rpmostree.rpmmd-repos", "rpmostree.advisories"}
    assert keys & repo.commit(commit).metadata.keys() == (keys if where == "inline" else set())
    assert repo.detached_metadata(commit) is None
    assert [one.ident for one in advisories_of(repo, commit)] == ["EX-1"] * (where == "inline")


@needs_root
def test_treefile_adds_to_the_metadata_and_cannot_take_over_what_is_measured(
    place: Place,
) -> None:
    place.say(
        "variables: {snapshot: abc}\n"
        "add-commit-metadata: {a.count: 3, a.git: '${snapshot}', version: '9.9', "
        "rpmostree.inputhash: wrong, rpmostree.rpmmd-repos: mine}\n"
        "repo-metadata: inline\nautomatic-version-prefix: '1'\ncontainer-cmd: [/sbin/init]\n"
    )
    assert place.compose().document["version"] == "9.9"
    assert place.show("metadata", "a.count") == "int64 3"
    assert place.show("metadata", "a.git") == "'abc'"
    assert place.show("metadata", "version") == "'9.9'"
    assert place.show("metadata", "rpmostree.rpmmd-repos") == "'mine'"
    assert place.show("metadata", "ostree.container-cmd") == "['/sbin/init']"
    assert len(place.show("metadata", "rpmostree.inputhash")) == 66


@needs_root
def test_key_of_the_treefile_signs(place: Place) -> None:
    place.say("gpg-key: a@example.org\n")
    with gpg_home(place) as home:
        made = place.compose("--gpg-homedir", home, "--rpm-repo", place.path / "mirror").document
    detached = Repository.open(place.repo).detached_metadata(ObjectChecksum.parse(made["commit"]))
    assert detached is not None
    assert "ostree.gpgsigs" in detached.unpack()
    query = ["rpm", "-qp", "--qf", "%{RSAHEADER:pgpsig}%{DSAHEADER:pgpsig}", made["set"]["rpm"]]
    shown = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    assert "Key ID" in shown


@contextmanager
def gpg_home(place: Place) -> Iterator[Path]:
    home = place.path / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", "--quick-gen-key"]
    subprocess.run([*gpg, "a@example.org", "rsa2048"], check=True, capture_output=True)
    try:
        yield home
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@needs_root
def test_signature_and_what_is_kept_beside_the_commit_stay_together(place: Place) -> None:
    with gpg_home(place) as home:
        signing = ["--gpg-sign", "a@example.org", "--gpg-homedir", home, "--no-parent"]
        commit = place.compose(*signing).document["commit"]
        place.compose("--no-parent", "--force-nocache")
    detached = Repository.open(place.repo).detached_metadata(ObjectChecksum.parse(commit))
    assert detached is not None
    assert set(detached.unpack()) == {"ostree.gpgsigs", "rpmostree.rpmmd-repos"}


@needs_root
def test_unsigned_commit_is_not_called_signed_for_what_is_kept_beside_it(place: Place) -> None:
    made = place.compose("--rpm-repo", place.path / "mirror").document
    (rpm,) = (place.path / "mirror/jigdo").glob("*.rpm")
    assert made["set"]["rpm"] == str(rpm)
    assert jigdo("set", "inspect", rpm, "--json").document["signed"] is False


def test_json_becomes_what_json_glib_makes_of_it() -> None:
    values = json_values(
        {"s": "x", "i": 3, "b": True, "d": 1.5, "n": None, "l": [1, "a"], "m": {"b": 1, "a": False}}
    )
    assert {key: value.print_(True) for key, value in values.items()} == {
        "s": "'x'",
        "i": "int64 3",
        "b": "true",
        "d": "1.5",
        "n": "@mv nothing",
        "l": "[<int64 1>, <'a'>]",
        "m": "{'a': <false>, 'b': <int64 1>}",
    }


@pytest.mark.parametrize("value", [1 << 63, object(), json.loads("[" * 40 + "]" * 40)])
def test_what_no_gvariant_holds_is_told_with_its_key(value: object) -> None:
    with pytest.raises(BadMetadata, match=r"add-commit-metadata: a\.b: "):
        json_values({"a.b": value})


def test_numbers_are_in_network_byte_order_and_keys_sorted() -> None:
    variant = finished({"b": GLib.Variant("u", 1), "a": GLib.Variant("s", "x")})
    assert variant.get_child_value(0).get_child_value(0).get_string() == "a"
    assert b"\0\0\0\1" in variant.get_data_as_bytes().get_data()


def test_other_keys_of_detached_metadata_stay() -> None:
    old = finished({"z": GLib.Variant("u", 1), "b": GLib.Variant("s", "old")})
    new = joined(old, {"b": GLib.Variant("s", "new"), "c": GLib.Variant("u", 2)})
    assert new.get_type_string() == "a{sv}"
    swap = 1 if sys.byteorder == "big" else 1 << 24
    assert new.unpack() == {"b": "new", "c": 2 * swap, "z": swap}


ADVISORY = Advisory("A", "security", "low", ("app-2-1.x",), (("http://x", "CVE-2024-1"),))


def test_advisories_survive_metadata_and_what_is_none_is_left_out() -> None:
    other = Advisory("B", "bugfix", "none", ("a-1-1.x", "b-1-1.x"))
    assert read(finished(metadata([other, ADVISORY])).unpack()) == (ADVISORY, other)
    values: list[object] = ["text", 7, [1], [("A", 1)], [("A", "1", 1, [], {})], {"a": 1}]
    for value in values:
        assert read({"rpmostree.advisories": value}) == ()
    strange = [("A", -5, 1 << 40, [3], {"cve_references": [("x",)]})]
    assert read({"rpmostree.advisories": strange}) == (Advisory("A", "unknown", "none", ()),)


def test_only_advisories_that_came_with_a_package_are_fixed() -> None:
    new, other = Nevra.parse("app-2-1.x"), Nevra.parse("lib-1-1.x")
    assert fixed((), [ADVISORY], [new]) == (ADVISORY,)
    assert fixed((), [ADVISORY], [other]) == ()
    assert fixed([ADVISORY], [ADVISORY], [new]) == ()

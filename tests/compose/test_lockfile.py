"""The lockfile format: rpm-ostree's, read from several files, written the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.compose.document import TreefileError
from composer.compose.lockfile import (
    Entry,
    Lockfile,
    LockfileError,
    read_lockfiles,
    write_lockfile,
)
from composer.rpm.package import Nevra
from tests.shared import shared

SHA = "sha256:" + "ab" * 32


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def read(path: Path, text: str) -> Lockfile:
    path.write_text(text)
    return read_lockfiles([path])


def test_evra_evr_digest_and_sources_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.lock",
        {
            "packages": {
                "foo": {"evra": "0:1.0-1.noarch", "digest": SHA, "metadata": {"why": [1]}},
                "bar": {"evr": "2:1.0-1"},
            },
            "source-packages": {"baz": {"evr": "3-1", "metadata": {}}},
            "metadata": {
                "generated": "2024-10-06T00:00:00Z",
                "rpmmd_repos": {"a": {"generated": "2024-04-14T18:51:11+00:00"}},
            },
        },
    )
    lockfile = read_lockfiles([path])
    foo, bar = lockfile.packages["foo"], lockfile.packages["bar"]
    assert (str(foo), foo.digest) == ("foo-1.0-1.noarch", SHA)
    assert foo.takes(Nevra.parse("foo-1.0-1.noarch"))
    assert not foo.takes(Nevra.parse("foo-1.0-1.x86_64"))
    assert bar.takes(Nevra.parse("bar-2:1.0-1.x86_64"))
    assert not bar.takes(Nevra.parse("bar-1.0-1.x86_64"))
    assert lockfile.sources["baz"].rpm == "baz-3-1.src.rpm"
    assert foo.where.startswith(f"{path}: packages.foo")


def test_later_files_override_package_by_package(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.json", {"packages": {"foo": {"evra": "1-1.noarch"}, "bar": {"evr": "1-1"}}}
    )
    second = tmp_path / "b.yaml"
    second.write_text("packages:\n  foo:\n    evr: 2-1  # pinned\n")
    lockfile = read_lockfiles([first, second])
    assert {name: str(one) for name, one in lockfile.packages.items()} == {
        "foo": "foo-2-1",
        "bar": "bar-1-1",
    }
    assert lockfile.packages["foo"].where == f"{second}: packages.foo (line 2)"
    assert str(read_lockfiles([second, first]).packages["foo"]) == "foo-1-1.noarch"


def test_one_version_with_two_digests_is_a_contradiction(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", {"packages": {"foo": {"evra": "1-1.noarch", "digest": SHA}}})
    other = SHA.replace("ab", "cd")
    second = write(
        tmp_path / "b.json", {"packages": {"foo": {"evra": "1-1.noarch", "digest": other}}}
    )
    with pytest.raises(LockfileError, match=r"foo-1-1\.noarch has another digest") as caught:
        read_lockfiles([first, second])
    assert [line.split(": packages.foo")[0] for line in caught.value.details] == [
        str(first),
        str(second),
    ]
    assert [line[-71:] for line in caught.value.details] == [SHA, other]
    newer = write(
        tmp_path / "c.json", {"packages": {"foo": {"evra": "2-1.noarch", "digest": other}}}
    )
    assert read_lockfiles([first, newer]).packages["foo"].digest == other


def test_real_lockfile_with_its_overrides() -> None:
    place = shared("treefiles/coreos+fedora-coreos-config@stable")
    base, overrides = place / "manifest-lock.x86_64.json", place / "manifest-lock.overrides.yaml"
    alone = read_lockfiles([base])
    both = read_lockfiles([base, overrides])
    assert len(alone.packages) > 400
    assert set(alone.packages) <= set(both.packages)
    assert str(both.packages["podman"]) == "podman-5:5.2.4-1.fc40"
    assert both.packages["podman"].where.startswith(f"{overrides}: packages.podman (line ")
    changed = [n for n, one in both.packages.items() if one != alone.packages.get(n)]
    assert sorted(changed) == ["afterburn", "afterburn-dracut", "podman"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a mapping"),
        ("{}", "the key packages is missing"),
        ('{"packages": []}', "packages: expected a mapping"),
        ('{"packages": null}', "packages: expected a mapping"),
        ('{"packages": {"foo": "1-1"}}', r"packages.foo: expected a mapping"),
        ('{"packages": {"foo": {}}}', "expected one of evra and evr"),
        ('{"packages": {"foo": {"evr": "1-1", "evra": "1-1.a"}}}', "expected one of evra and evr"),
        ('{"packages": {"foo": {"evra": "1-1"}}}', r"packages.foo.evra: expected \[epoch:\]"),
        ('{"packages": {"foo": {"evr": 7}}}', "packages.foo.evr: expected .* got 7"),
        ('{"packages": {"foo": {"evr": "a:1-1"}}}', "got 'a:1-1'"),
        ('{"packages": {"fo\\u0000o": {"evr": "1-1"}}}', "of a package"),
        ('{"packages": {"../x": {"evr": "1-1"}}}', "of a package"),
        ('{"packages": {"foo": {"evr": "1-1\\u0000"}}}', "expected"),
        ('{"packages": {"foo": {"evr": "1-1", "digest": "sha256:dead"}}}', "foo.digest: expected"),
        ('{"packages": {"foo": {"evr": "1-1", "digest": 5}}}', "foo.digest: expected"),
        ('{"packages": {"foo": {"evr": "1-1", "metadata": 5}}}', "metadata: expected a mapping"),
        ('{"packages": {"foo": {"evr": "1-1", "url": "x"}}}', "packages.foo.url: this key is not"),
        ('{"packages": {}, "unknown-field": true}', "unknown-field: this key is not known"),
        ('{"packages": {}, "metadata": {"generated": "soon"}}', "expected a time"),
        ('{"packages": {}, "metadata": {"rpmmd_repos": {"a": 5}}}', "rpmmd_repos.a: expected"),
        ('{"packages": {}, "packages": {}}', "twice"),
        ('{"packages": {"a": {"evr": "1-1"}, "a": {"evr": "2-1"}}}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"packages": {"a": {"evr": "1-1", "metadata": ' + '{"a":' * 50_000, "nested|line 1"),
        ("{", "line 1"),
        ('{"packages": {"foo": {"evr": ' + "9" * 10_000 + "}}}", "."),
    ],
)
def test_hostile_lockfile_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TreefileError, match=message) as caught:
        read(tmp_path / "bad.json", text)
    assert caught.value.message.startswith(f"{tmp_path}/bad.json: ")
    assert len(caught.value.message) < 1000


def test_hostile_yaml_lockfile_is_refused(tmp_path: Path) -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        laughs += f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for text in (
        laughs,
        "packages: !!python/object:os.system {}\n",
        "packages: {a: {evr: 1-1}, a: {}}",
    ):
        with pytest.raises(TreefileError, match=r"bad\.yaml"):
            read(tmp_path / "bad.yaml", text)
    (tmp_path / "huge.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(TreefileError, match=r"huge\.json: more than"):
        read_lockfiles([tmp_path / "huge.json"])
    (tmp_path / "bytes.json").write_bytes(b'{"packages": "\xff"}')
    with pytest.raises(TreefileError, match="not UTF-8"):
        read_lockfiles([tmp_path / "bytes.json"])
    with pytest.raises(TreefileError, match="No such file"):
        read_lockfiles([tmp_path / "none.json"])


ENTRIES = [
    Entry(Nevra.parse("b-2:1-1.x86_64"), SHA, "src"),
    Entry(Nevra.parse("a-1-1.noarch"), SHA),
    Entry(Nevra.parse("lib-1-1.x86_64"), SHA, "lib"),
    Entry(Nevra.parse("lib-1-1.i686"), SHA.replace("ab", "cd"), "lib"),
]


@pytest.mark.parametrize("name", ["x.json", "x.lock", "x.yaml"])
def test_written_lockfile_is_read_again_and_is_deterministic(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_lockfile(path, ENTRIES, {"z": 1_700_000_000, "a": 5})
    first = path.read_bytes()
    write_lockfile(path, ENTRIES[::-1], {"a": 5, "z": 1_700_000_000})
    assert path.read_bytes() == first
    lockfile = read_lockfiles([path])
    assert {name: str(one) for name, one in lockfile.packages.items()} == {
        "a": "a-1-1.noarch",
        "b": "b-2:1-1.x86_64",
        "lib": "lib-1-1",
    }
    assert lockfile.packages["a"].digest == SHA
    assert lockfile.packages["lib"].digest == ""
    if name == "x.json":
        document = json.loads(first)
        assert document["packages"]["b"]["metadata"] == {"sourcerpm": "src"}
        assert document["metadata"]["generated"] == "2023-11-14T22:13:20Z"
        assert document["metadata"]["rpmmd_repos"]["a"] == {"generated": "1970-01-01T00:00:05Z"}


def test_two_versions_of_one_name_cannot_be_written(tmp_path: Path) -> None:
    entries = [Entry(Nevra.parse(f"kernel-{v}-1.x86_64"), SHA) for v in (1, 2)]
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(LockfileError, match="kernel: the tree has several versions"):
        write_lockfile(path, entries, {})
    assert path.read_text() == "old"

"""What a treefile may ask for, from provides and environments to modules and local RPMs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.compose.depsolve import Solution, solving
from composer.compose.packages import ComposedPackage, fetch
from composer.compose.problems import SolveFailed
from composer.compose.repositories import RepositoryUnusable
from composer.compose.treefile import Treefile, load
from composer.progress import silent
from composer.rpm.package import PackageRefused
from tests.compose.rpms import File, Spec, build, index, repository

COMPS = """<?xml version="1.0"?>
<comps>
<group><id>core</id><name>Core</name><description/><default>true</default>
<uservisible>true</uservisible><packagelist>
<packagereq type="mandatory">lib</packagereq>
<packagereq type="conditional" requires="app">app-doc</packagereq>
<packagereq type="conditional" requires="left">right</packagereq>
</packagelist></group>
<group><id>extras</id><name>Extras</name><description/><default>false</default>
<uservisible>true</uservisible><packagelist>
<packagereq type="default">tool</packagereq>
</packagelist></group>
<environment><id>server</id><name>Server</name><description/><display_order>1</display_order>
<grouplist><groupid>core</groupid></grouplist>
<optionlist><groupid>extras</groupid></optionlist></environment>
</comps>
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = repository(
        tmp_path_factory.mktemp("arguments") / "repo",
        [
            Spec("app", headers=["Requires: lib", "Recommends: tool"]),
            Spec("app-doc"),
            Spec("lib", headers=["Provides: pkgconfig(lib) = 3"]),
            Spec("left"),
            Spec("right"),
            Spec("tool", files={"/usr/bin/tool": File("x"), "/usr/share/tool/data": File("x")}),
        ],
    )
    (place / "comps.xml").write_text(COMPS)
    subprocess.run(["createrepo_c", "-q", "-g", "comps.xml", str(place)], check=True)
    return place


def write(tmp_path: Path, packages: str, keys: str = "", repos: str = "[base]") -> Treefile:
    path = tmp_path / "os.yaml"
    path.write_text(f"ref: a\nrepos: {repos}\npackages: {packages}\n{keys}")
    return load(path, basearch="x86_64")


def solve(
    tmp_path: Path, treefile: Treefile, overrides: Mapping[str, Path]
) -> tuple[Solution, tuple[ComposedPackage, ...]]:
    scratch = tmp_path / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    with solving(
        treefile,
        overrides={ident: str(place) for ident, place in overrides.items()},
        cachedir=tmp_path / "cache",
        scratch=scratch,
    ) as (solution, base):
        return solution, fetch(solution, base, silent)


def names(tmp_path: Path, treefile: Treefile, **overrides: Path) -> list[str]:
    solution, _ = solve(tmp_path, treefile, overrides)
    return [f"{p.nevra.name}-{p.nevra.version}" for p in solution.packages]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("pkgconfig(lib)", ["lib-1"]),
        ("'pkgconfig(lib) >= 3'", ["lib-1"]),
        ("/usr/bin/tool", ["tool-1"]),
        ("/usr/share/tool/data", ["tool-1"]),
        ("l*t", ["left-1"]),
        ("lib-1-1", ["lib-1"]),
        ("lib.noarch", ["lib-1"]),
        ("@core", ["lib-1"]),
        ("@core left", ["left-1", "lib-1", "right-1"]),
        ("@^server", ["lib-1"]),
        ("'@^server' '@extras'", ["lib-1", "tool-1"]),
    ],
)
def test_argument_finds_packages(
    tmp_path: Path, repo: Path, argument: str, expected: list[str]
) -> None:
    assert names(tmp_path, write(tmp_path, f'["{argument}"]'), base=repo) == expected


@pytest.mark.parametrize("argument", ["@^serve", "'pkgconfig(lib) >= 4'", "/usr/bin/nothing"])
def test_argument_that_nothing_answers_is_told(tmp_path: Path, repo: Path, argument: str) -> None:
    with pytest.raises(SolveFailed, match="no repository has"):
        names(tmp_path, write(tmp_path, f'["{argument}"]'), base=repo)


def test_excluded_package_is_left_out_unless_something_needs_it(tmp_path: Path, repo: Path) -> None:
    weak = write(tmp_path, "[app]", "exclude-packages: [tool]\n")
    assert names(tmp_path, weak, base=repo) == ["app-1", "lib-1"]
    with pytest.raises(SolveFailed, match="cannot be installed together") as caught:
        names(tmp_path, write(tmp_path, "[app]", "exclude-packages: [lib]\n"), base=repo)
    path = tmp_path / "os.yaml"
    assert caught.value.details == (
        f"package lib-1-1.noarch may not be taken: {path}: exclude-packages[0] (line 4) names it",
        "package app-1-1.noarch requires lib, but none of the providers can be installed",
    )
    assert "lib-1-1.noarch is needed" in caught.value.hint
    with pytest.raises(SolveFailed, match=r"\(line 4\): lib: in packages and in exclude") as caught:
        names(tmp_path, write(tmp_path, "[lib]", "exclude-packages: [lib]\n"), base=repo)


def test_repo_packages_come_from_that_repository_alone(tmp_path: Path, repo: Path) -> None:
    more = repository(tmp_path / "more", [Spec("lib", version="9"), Spec("tool", version="0.1")])
    keys = "repo-packages: [{repo: more, packages: [tool]}, {repo: base, packages: [lib]}]\n"
    both = "[base, more]"
    assert names(tmp_path, write(tmp_path, "[left]", "", both), base=repo, more=more) == ["left-1"]
    assert names(tmp_path, write(tmp_path, "[app]", keys, both), base=repo, more=more) == [
        "app-1",
        "lib-1",
        "tool-0.1",
    ]
    keys = "repo-packages: [{repo: more, packages: [left]}]\n"
    with pytest.raises(
        SolveFailed, match=r"packages\[0\] \(line 4\): the repository more has no left"
    ):
        names(tmp_path, write(tmp_path, "[app]", keys, both), base=repo, more=more)
    with pytest.raises(SolveFailed, match="'more' is not among those of the treefile"):
        names(tmp_path, write(tmp_path, "[app]", keys), base=repo)


def test_repovars_are_variables_of_repo_files(tmp_path: Path, repo: Path) -> None:
    url = repo.parent.as_uri()
    (tmp_path / "x.repo").write_text(f"[base]\nname=x\nbaseurl={url}/$stream_1\n")
    with pytest.raises(RepositoryUnusable, match=r"\$stream_1 is not set"):
        names(tmp_path, write(tmp_path, "[lib]"))
    treefile = write(tmp_path, "[lib]", "repovars: {stream_1: repo}\n")
    assert names(tmp_path, treefile) == ["lib-1"]


def test_same_package_in_two_repositories_does_not_depend_on_their_order(
    tmp_path: Path, repo: Path
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(repo, twin)

    def taken(repos: str, lines: Mapping[str, str]) -> set[str]:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        for ident in ("zz", "aa"):
            place = twin if ident == "aa" else repo
            text = f"[{ident}]\nname=x\nbaseurl={place.as_uri()}\n{lines.get(ident, '')}\n"
            (tmp_path / f"{'ab'[ident == 'aa']}.repo").write_text(text)
        solution, _ = solve(tmp_path, write(tmp_path, "[app]", "", repos), {})
        return {package.repository for package in solution.packages}

    for repos in ("[aa, zz]", "[zz, aa]"):
        assert taken(repos, {}) == {"aa"}
        assert taken(repos, {"zz": "cost=500"}) == {"zz"}
        assert taken(repos, {"zz": "priority=10"}) == {"zz"}
        assert taken(repos, {"zz": "priority=10", "aa": "priority=5\ncost=5000"}) == {"aa"}
    forth = write(tmp_path, "[app]", "", "[aa, zz]").digest()
    assert write(tmp_path, "[app]", "", "[zz, aa]").digest() == forth


def test_local_rpm_is_taken_from_beside_the_treefile_that_names_it(
    tmp_path: Path, repo: Path
) -> None:
    below = tmp_path / "more"
    below.mkdir()
    rpm = build(Spec("mine", headers=["Requires: lib"]), below).rename(below / "any name.rpm")
    (below / "base.yaml").write_text("packages: [\"'any name.rpm'\"]\n")
    treefile = write(tmp_path, "[left]", "include: more/base.yaml\n")
    solution, packages = solve(tmp_path, treefile, {"base": repo})
    assert [package.nevra.name for package in solution.packages] == ["left", "lib", "mine"]
    mine = packages[-1]
    assert mine.path == rpm
    assert mine.ref.pkgid == ContentDigest.of(rpm.read_bytes())
    assert mine.ref.repository == ""
    assert mine.ref.location == f"local/mine-1-1.noarch.{str(mine.ref.pkgid)[:16]}.rpm"
    assert solution.to_download == 0


def test_local_rpm_counts_by_its_bytes_and_not_its_path(tmp_path: Path, repo: Path) -> None:
    digests = set()
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        build(Spec("mine"), place).rename(place / "x.rpm")
        digests.add(write(place, "[x.rpm]").digest())
    assert len(digests) == 1


@pytest.mark.parametrize("damage", ["missing", "directory", "garbage", "payload"])
def test_damaged_local_rpm_is_refused(tmp_path: Path, repo: Path, damage: str) -> None:
    path = tmp_path / "x.rpm"
    if damage == "directory":
        path.mkdir()
    elif damage == "garbage":
        path.write_bytes(b"\xed\xab\xee\xdb" + bytes(range(256)) * 40)
    elif damage == "payload":
        build(Spec("mine"), tmp_path).rename(path)
        data = bytearray(path.read_bytes())
        data[-10] ^= 1
        path.write_bytes(data)
    with pytest.raises((SolveFailed, PackageRefused), match=r"x\.rpm"):
        names(tmp_path, write(tmp_path, "[x.rpm]"), base=repo)


RELEASE = ["Provides: system-release", "Provides: base-module(platform:el9)"]
MODULES = """---
document: modulemd
version: 2
data:
  name: node
  stream: "STREAM"
  version: 1
  context: c0ffee
  arch: noarch
  summary: Node
  description: Node
  license: {module: [MIT]}
  dependencies:
  - requires: {platform: [el9]}
  profiles:
    small: {rpms: [node]}
    full: {rpms: [node, node-doc]}
  artifacts:
    rpms: ["node-0:VERSION-1.noarch", "node-doc-0:VERSION-1.noarch"]
"""
DEFAULTS = """---
document: modulemd-defaults
version: 1
data:
  module: node
  stream: "18"
  profiles: {"18": [small], "20": [small]}
...
"""


@pytest.fixture(scope="module")
def modular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("modules") / "repo"
    for version in ("18.1", "20.1"):
        for name in ("node", "node-doc"):
            header = "ModularityLabel: node:x:1:c0ffee"
            build(Spec(name, version=version, headers=[header]), ensured(place))
    build(Spec("release", headers=RELEASE), place)
    index(place)
    text = "".join(
        MODULES.replace("STREAM", stream).replace("VERSION", f"{stream}.1")
        for stream in ("18", "20")
    )
    modules = place / "modules.yaml"
    modules.write_text(text + DEFAULTS)
    subprocess.run(
        ["modifyrepo_c", "--mdtype=modules", str(modules), str(place / "repodata")],
        check=True,
        capture_output=True,
    )
    return place


def ensured(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    return place


@pytest.mark.parametrize(
    ("packages", "keys", "expected"),
    [
        ("[node]", "", ["node-18.1"]),
        ("[node]", 'modules: {enable: ["node:20"]}', ["node-20.1"]),
        ("[release]", 'modules: {install: ["node:20/small"]}', ["node-20.1", "release-1"]),
        (
            "[release]",
            'modules: {install: ["node:18/full"]}',
            ["node-18.1", "node-doc-18.1", "release-1"],
        ),
        ("[release]", 'modules: {install: ["node"]}', ["node-18.1", "release-1"]),
        (
            "[node]",
            'modules: {enable: ["node:20"]}\nplatform-module: "platform:el9"',
            ["node-20.1"],
        ),
    ],
)
def test_module_streams_and_profiles(
    tmp_path: Path, modular: Path, packages: str, keys: str, expected: list[str]
) -> None:
    assert names(tmp_path, write(tmp_path, packages, f"{keys}\n"), base=modular) == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('modules: {enable: ["node:77"]}', "node:77"),
        ('modules: {enable: ["nothing:1"]}', "nothing:1"),
        ('modules: {install: ["node:18/huge"]}', "node:18/huge"),
        ('modules: {enable: ["node:18", "node:20"]}', "node"),
        ('modules: {enable: ["node:20"]}\nplatform-module: platform:el7', "platform"),
    ],
)
def test_module_that_is_not_there_is_told(
    tmp_path: Path, modular: Path, keys: str, message: str
) -> None:
    with pytest.raises(SolveFailed) as caught:
        names(tmp_path, write(tmp_path, "[release]", f"{keys}\n"), base=modular)
    said = " ".join([caught.value.message, *caught.value.details])
    assert "os.yaml: modules (line 4): " in said
    assert message in said

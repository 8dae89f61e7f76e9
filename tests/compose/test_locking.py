"""Lockfiles in a solve: they pin, they forbid, and say clearly what they contradict."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from composer.compose.depsolve import Solution, solving
from composer.compose.lockfile import LockfileError, read_lockfiles
from composer.compose.locking import LockedDigestMismatch
from composer.compose.packages import fetch, lock
from composer.compose.problems import SolveFailed
from composer.compose.treefile import load
from composer.errors import ChecksumMismatch, VerificationFailed
from composer.progress import silent
from tests.compose.rpms import Spec, build, repository

SPECS = (
    Spec("app", version="1", headers=["Requires: lib"]),
    Spec("app", version="2", headers=["Requires: lib >= 2"]),
    Spec("lib", version="1"),
    Spec("lib", version="2"),
    Spec("free", version="1"),
    Spec("free", version="2"),
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("locking") / "repo", SPECS)


class Bench:
    """A treefile beside lockfiles, and repositories by id."""

    def __init__(self, tmp_path: Path, **repositories: Path) -> None:
        self.path, self.repositories = tmp_path, repositories
        self.files: list[Path] = []

    def lock(self, packages: Mapping[str, object], **more: object) -> Path:
        path = self.path / f"{len(self.files)}.json"
        path.write_text(json.dumps({"packages": packages, **more}))
        self.files.append(path)
        return path

    def solve(
        self, packages: str, keys: str = "", *, strict: bool = False, get: bool = False
    ) -> list[str]:
        treefile = self.path / "os.yaml"
        treefile.write_text(f"ref: a\nrepos: [base]\npackages: {packages}\n{keys}")
        with solving(
            load(treefile, basearch="x86_64"),
            overrides={ident: str(place) for ident, place in self.repositories.items()},
            cachedir=self.path / "cache",
            scratch=self.path / "scratch",
            lockfile=read_lockfiles(self.files) if self.files else None,
            strict=strict,
        ) as (solution, base):
            self.solution: Solution = solution
            if get:
                lock(self.path / "written.json", solution, fetch(solution, base, silent))
        return [f"{p.nevra.name}-{p.nevra.version}" for p in solution.packages]


@pytest.fixture
def bench(tmp_path: Path, repo: Path) -> Bench:
    return Bench(tmp_path, base=repo)


def digest(repo: Path, name: str, algorithm: str = "sha256") -> str:
    data = (repo / f"{name}-1.noarch.rpm").read_bytes()
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def test_locked_packages_are_pinned_and_others_free(bench: Bench, repo: Path) -> None:
    assert bench.solve("[app, free]") == ["app-2", "free-2", "lib-2"]
    locked_lib = {"evr": "1-1", "digest": digest(repo, "lib-1")}
    bench.lock({"app": {"evra": "1-1.noarch"}, "lib": locked_lib})
    assert bench.solve("[app, free]") == ["app-1", "free-2", "lib-1"]
    # A lockfile allows; the treefile asks.
    assert bench.solve("[free]") == ["free-2"]


def test_later_lockfile_overrides(bench: Bench) -> None:
    bench.lock({"free": {"evr": "2-1"}, "lib": {"evr": "1-1"}})
    bench.lock({"free": {"evr": "1-1"}})
    assert bench.solve("[lib, free]") == ["free-1", "lib-1"]


def test_strict_takes_locked_packages_and_lists_all_others(bench: Bench) -> None:
    path = bench.lock({"app": {"evr": "1-1"}, "lib": {"evr": "1-1"}})
    assert bench.solve("[app]", strict=True) == ["app-1", "lib-1"]
    with pytest.raises(LockfileError, match=r"not in the lockfiles: free-2-1\.noarch"):
        bench.solve("[app, free]", strict=True)
    path.write_text('{"packages": {"app": {"evr": "1-1"}}}')
    with pytest.raises(LockfileError) as caught:
        bench.solve("[app, free]", strict=True)
    assert caught.value.details == ("free-2-1.noarch", "lib-2-1.noarch")


def test_strict_prefers_what_is_locked_to_what_would_be_newer(tmp_path: Path) -> None:
    place = repository(
        tmp_path / "repo",
        [
            Spec("web", headers=["Requires: server", "Recommends: extra"]),
            Spec("apache", headers=["Provides: server"]),
            Spec("nginx", headers=["Provides: server"]),
            Spec("extra"),
        ],
    )
    bench = Bench(tmp_path, base=place)
    free = bench.solve("[web]")
    other = "nginx" if "apache-1" in free else "apache"
    bench.lock({"web": {"evr": "1-1"}, other: {"evr": "1-1"}})
    assert bench.solve("[web]", strict=True) == sorted([f"{other}-1", "web-1"])


def test_written_lockfile_gives_the_same_again_in_strict_mode(bench: Bench, repo: Path) -> None:
    bench.solve("[app, free]", get=True)
    written = bench.path / "written.json"
    packages = json.loads(written.read_text())["packages"]
    assert packages["lib"]["digest"] == digest(repo, "lib-2")
    assert packages["lib"]["metadata"] == {"sourcerpm": "lib"}
    bench.files = [written]
    before = written.read_bytes()
    assert bench.solve("[app, free]", strict=True, get=True) == ["app-2", "free-2", "lib-2"]
    assert written.read_bytes() == before


def test_written_digest_is_the_pkgid_whatever_the_repository_uses(
    tmp_path: Path, repo: Path
) -> None:
    place = repository(tmp_path / "repo", [Spec("one")])
    subprocess.run(["createrepo_c", "-q", "-s", "sha512", str(place)], check=True)
    bench = Bench(tmp_path, base=place)
    bench.solve("[one]", get=True)
    assert bench.solution.packages[0].algorithm == "sha512"
    packages = json.loads((tmp_path / "written.json").read_text())["packages"]
    assert packages["one"]["digest"] == digest(place, "one-1")
    bench.lock({"one": {"evr": "1-1", "digest": digest(place, "one-1")}})
    assert bench.solve("[one]", get=True) == ["one-1"]
    bench.lock({"one": {"evr": "1-1", "digest": digest(place, "one-1", "sha512")}})
    assert bench.solve("[one]", get=True) == ["one-1"]
    bench.files = []
    bench.lock({"one": {"evr": "1-1", "digest": "sha256:" + "ab" * 32}})
    with pytest.raises(ChecksumMismatch, match=r"one-1-1\.noarch") as caught:
        bench.solve("[one]", get=True)
    assert "lockfile" in caught.value.hint


def test_other_bytes_than_locked_stop_before_the_download(bench: Bench, repo: Path) -> None:
    path = bench.lock({"lib": {"evra": "1-1.noarch", "digest": "sha256:" + "ab" * 32}})
    with pytest.raises(LockedDigestMismatch) as caught:
        bench.solve("[lib]")
    (detail,) = caught.value.details
    assert detail.startswith(f"{path}: packages.lib")
    assert detail.endswith(f"base has {digest(repo, 'lib-1')}")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("packages", "wanted", "reason"),
    [
        (
            {"lib": {"evr": "7-1"}},
            "lib",
            "lib-7-1, which no repository has; there is lib-1-1.noarch (base), lib-2-1.noarch",
        ),
        ({"lib": {"evra": "1-1.x86_64"}}, "lib", "lib-1-1.x86_64, which no repository has; there"),
        ({"gone": {"evr": "1-1"}}, "gone", "gone-1-1, which no repository has"),
        ({"app": {"evr": "1-1"}, "lib": {"evr": "7-1"}}, "app", "lib-7-1, which no repository has"),
    ],
)
def test_locked_package_that_no_repository_has_stops_who_needs_it(
    bench: Bench, packages: Mapping[str, object], wanted: str, reason: str, *, strict: bool
) -> None:
    path = bench.lock(packages)
    with pytest.raises(SolveFailed) as caught:
        bench.solve(f"[{wanted}]", strict=strict)
    (told,) = [line for line in caught.value.details if f"{path}: packages." in line]
    assert f" locks {reason}" in told


def test_locked_packages_that_no_repository_has_are_a_warning(bench: Bench) -> None:
    """Fedora CoreOS' lockfiles have such entries."""
    locked = {"lib": {"evr": "7-1"}, "free": {"evr": "1-1"}}
    gone = {f"gone{number}": {"evr": "1-1"} for number in range(4)}
    bench.lock({**locked, **gone}, **{"source-packages": {"none": {"evr": "1-1"}}})
    for strict in (False, True):
        assert bench.solve("[free]", strict=strict) == ["free-1"]
        assert bench.solution.warnings == (
            "no repository has 6 of the locked packages; none of them is needed: "
            "gone0-1-1, gone1-1-1, gone2-1-1, and 3 more",
        )


def test_locked_package_that_the_treefile_excludes(bench: Bench) -> None:
    path = bench.lock({"lib": {"evr": "1-1"}})
    with pytest.raises(LockfileError, match="the treefile excludes lib") as caught:
        bench.solve("[free]", "exclude-packages: [lib]\n")
    assert caught.value.message.startswith(f"{path}: packages.lib")


def test_treefile_that_asks_for_another_version_than_locked(bench: Bench) -> None:
    path = bench.lock({"app": {"evr": "1-1"}})
    with pytest.raises(SolveFailed, match="no repository has app >= 2") as caught:
        bench.solve("[\"'app >= 2'\"]")
    assert f"{path}: packages.app" in caught.value.details[0]
    assert "locks app-1-1" in caught.value.details[0]


def test_locked_versions_that_do_not_go_together_name_the_lockfile(bench: Bench) -> None:
    bench.lock({"app": {"evr": "2-1"}})
    path = bench.lock({"lib": {"evr": "1-1"}})
    with pytest.raises(SolveFailed) as caught:
        bench.solve("[app]")
    assert any(f"may not be taken: {path}: packages.lib" in line for line in caught.value.details)


def test_lockfile_repos_give_locked_packages_only(tmp_path: Path) -> None:
    base = repository(tmp_path / "base", [Spec("foo"), Spec("bar")])
    pool = repository(
        tmp_path / "pool", [Spec("foo", version="2"), Spec("bar", version="2"), Spec("baz")]
    )
    bench = Bench(tmp_path, base=base, pool=pool)
    keys = "lockfile-repos: [pool]\n"
    assert bench.solve("[foo, bar]", keys) == ["bar-1", "foo-1"]
    bench.lock({"foo": {"evr": "2-1"}})
    assert bench.solve("[foo, bar]", keys) == ["bar-1", "foo-2"]
    assert {p.repository for p in bench.solution.packages} == {"base", "pool"}
    with pytest.raises(SolveFailed, match="no repository has baz"):
        bench.solve("[foo, baz]", keys)


def test_source_packages_lock_all_that_was_built_from_them(tmp_path: Path) -> None:
    part = {"%package doc": "Summary: x\n%description doc\nx", "%files doc": ""}
    suites = [Spec("suite", version=str(version), scripts=part) for version in (1, 2)]
    bench = Bench(tmp_path, base=repository(tmp_path / "repo", suites))
    assert bench.solve("[suite, suite-doc]") == ["suite-2", "suite-doc-2"]
    bench.lock({}, **{"source-packages": {"suite": {"evr": "1-1"}}})
    assert bench.solve("[suite, suite-doc]") == ["suite-1", "suite-doc-1"]
    assert bench.solve("[suite]", strict=True) == ["suite-1"]
    bench.lock({"suite": {"evr": "2-1"}})  # the later file counts
    assert bench.solve("[suite, suite-doc]") == ["suite-2", "suite-doc-1"]


def test_source_packages_that_contradict(bench: Bench) -> None:
    bench.lock({"app": {"evr": "2-1"}}, **{"source-packages": {"app": {"evr": "1-1"}}})
    with pytest.raises(LockfileError, match=r"app-2-1 is not built from app-1-1\.src\.rpm"):
        bench.solve("[app]")


def test_local_rpm_is_locked_like_any_other(bench: Bench) -> None:
    build(Spec("mine", headers=["Requires: lib"]), bench.path).rename(bench.path / "mine.rpm")
    assert bench.solve("[mine.rpm]", get=True) == ["lib-2", "mine-1"]
    bench.files = [bench.path / "written.json"]
    assert bench.solve("[mine.rpm]", strict=True, get=True) == ["lib-2", "mine-1"]
    build(Spec("mine", headers=["Provides: more"]), bench.path).rename(bench.path / "mine.rpm")
    with pytest.raises(VerificationFailed, match=r"mine|packages are not those"):
        bench.solve("[mine.rpm]", strict=True, get=True)
    build(Spec("mine", version="2"), bench.path).rename(bench.path / "mine.rpm")
    with pytest.raises(SolveFailed) as caught:
        bench.solve("[mine.rpm]")
    assert any("locks mine-1-1.noarch, which no repo" in line for line in caught.value.details)


def test_strict_with_source_packages_lists_only_what_neither_locks(bench: Bench) -> None:
    bench.lock({}, **{"source-packages": {"app": {"evr": "1-1"}}})
    with pytest.raises(LockfileError) as caught:
        bench.solve("[app]", strict=True)
    assert caught.value.details == ("lib-2-1.noarch",)

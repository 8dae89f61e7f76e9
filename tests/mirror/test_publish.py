"""Publishing: the old repository or the new one, for clients of sets and for dnf."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch, CommandFailed, FormatError
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import Pointer, PointerEntry
from composer.mirror.publish import describe_set, publish_set
from composer.mirror.set_rpm import build_set_rpm
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.repository import read_pointer, read_versions
from composer.rpm.rpmmd import parse_repomd, read_packages

TIME = 1_760_000_000


def make(
    work: Path, *, ref: str = "os/stable", version: str = "1", seed: int = 1
) -> tuple[Path, PointerEntry]:
    """Build the RPM of a set and its entry."""
    jigdo = work / "set.jigdo"
    jigdo.write_bytes(b"JIGDOSET" + Random(seed).randbytes(5000))
    timestamp, commit = TIME + int(version), commit_of(version)
    rpm = build_set_rpm(
        jigdo,
        name=ref.replace("/", "-"),
        version=version,
        release="1",
        arch="noarch",
        ref=ref,
        commit=commit,
        output=work,
        timestamp=timestamp,
    )
    index = IndexPlace(4000, 500, 900, ContentDigest(b"i" * 32))
    entry = describe_set(
        rpm, ref=ref, version=version, commit=commit, timestamp=timestamp, index=index
    )
    return rpm, entry


def commit_of(version: str) -> ObjectChecksum:
    """The commit of a version."""
    return ObjectChecksum(version.encode().rjust(32, b"c"))


def versions_of(repository: Path) -> tuple[PointerEntry, ...]:
    """Read the list of other versions as a client does."""
    with Fetcher(Mirrors.parse(repository.as_uri())) as fetcher:
        return read_versions(fetcher).entries


def pointer_of(repository: Path) -> Pointer:
    """Read the pointer as a client does."""
    with Fetcher(Mirrors.parse(repository.as_uri())) as fetcher:
        return read_pointer(fetcher)


def tree(directory: Path) -> dict[str, bytes]:
    """All files below ``directory`` that readers may see."""
    found = ((p, p.relative_to(directory).as_posix()) for p in sorted(directory.rglob("*")))
    return {
        place: path.read_bytes()
        for path, place in found
        if path.is_file() and not place.startswith(".jigdo-publish")
    }


def test_new_repository_is_made(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    rpm, entry = make(tmp_path)
    assert publish_set(rpm, entry, repository) == entry
    assert pointer_of(repository) == Pointer((entry,))
    [package] = read_packages(repository)
    assert (package.location, package.pkgid) == (entry.location, entry.pkgid)
    data = (repository / entry.location).read_bytes()
    assert data[entry.offset :][:8] == b"JIGDOSET"


def test_publication_is_reproducible(tmp_path: Path) -> None:
    rpm, entry = make(tmp_path)
    os.utime(rpm, (1, 1))
    publish_set(rpm, entry, tmp_path / "one")
    os.utime(rpm, (2, 2))
    publish_set(rpm, entry, tmp_path / "other")
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_newest_set_of_each_ref_is_pointed_to(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    entries = []
    for ref, version in [("os/stable", "1"), ("os/testing", "1"), ("os/stable", "2")]:
        rpm, entry = make(tmp_path, ref=ref, version=version)
        entries.append(publish_set(rpm, entry, repository))
    assert pointer_of(repository).entries == (entries[2], entries[1])
    assert len(read_packages(repository)) == 3


def put(work: Path, repository: Path, version: str, *, seed: int = 1, newest: bool = True) -> str:
    """Build and publish a set; returns its location."""
    rpm, entry = make(work, version=version, seed=seed)
    return publish_set(rpm, entry, repository, newest=newest).location


def listed(repository: Path) -> list[str]:
    """Locations of the newest set and of the others, by age, newest first."""
    entries = [*pointer_of(repository).entries, *reversed(versions_of(repository))]
    return [entry.location for entry in entries]


def test_older_versions_stay_listed_as_long_as_their_sets_are_there(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    one, two, three = (put(tmp_path, repository, version) for version in "123")
    assert listed(repository) == [three, two, one]
    (repository / one).unlink()
    four = put(tmp_path, repository, "4")
    assert listed(repository) == [four, three, two]


def test_set_of_an_older_version_does_not_become_the_newest(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    one, three = (put(tmp_path, repository, version) for version in "13")
    two = put(tmp_path, repository, "2", newest=False)
    assert listed(repository) == [three, two, one]
    again = put(tmp_path, repository, "3", seed=2, newest=False)
    assert listed(repository) == [again, two, one]


def test_set_that_was_built_again_replaces_the_old_one_of_its_commit(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    one, two = (put(tmp_path, repository, version) for version in "12")
    again = put(tmp_path, repository, "1", seed=2, newest=False)
    assert listed(repository) == [two, again]
    # It is no package any more, but who read the last pointers may be reading it.
    assert {package.location for package in read_packages(repository)} == {two, again}
    assert (repository / one).exists()
    put(tmp_path, repository, "3")
    assert not (repository / one).exists()
    assert all((repository / location).exists() for location in listed(repository))


def test_ref_that_goes_back_has_its_old_version_as_the_newest(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    one, two = (put(tmp_path, repository, version) for version in "12")
    assert put(tmp_path, repository, "1") == one
    assert listed(repository) == [one, two]


def test_sets_that_no_pointer_names_are_left_alone(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    put(tmp_path, repository, "1")
    kept = repository / "jigdo/kept.rpm"
    (tmp_path / "work").mkdir()
    rpm, _ = make(tmp_path / "work", version="7")
    shutil.copy(rpm, kept)
    for version in "234":
        put(tmp_path, repository, version)
    assert kept.exists()
    assert len(read_packages(repository)) == 5


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    rpm, entry = make(tmp_path)
    publish_set(rpm, entry, repository)
    before = tree(repository)
    publish_set(rpm, entry, repository)
    assert tree(repository) == before


def test_other_content_under_the_same_name_does_not_replace_what_clients_read(
    tmp_path: Path,
) -> None:
    repository = tmp_path / "repo"
    rpm, old = make(tmp_path, seed=1)
    publish_set(rpm, old, repository)
    rpm, entry = make(tmp_path, seed=2)
    new = publish_set(rpm, entry, repository)
    assert new.location != old.location
    assert pointer_of(repository) == Pointer((new,))
    for one in (old, new):
        assert ContentDigest.of((repository / one.location).read_bytes()) == one.pkgid


def test_rpm_that_is_not_the_described_one_is_refused(tmp_path: Path) -> None:
    rpm, entry = make(tmp_path)
    with pytest.raises(ChecksumMismatch):
        publish_set(rpm, replace(entry, pkgid=ContentDigest(b"x" * 32)), tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A repository with comps, updateinfo, databases and a package, by createrepo_c."""
    repository = tmp_path / "foreign"
    repository.mkdir()
    (tmp_path / "work").mkdir()
    rpm, _ = make(tmp_path / "work", ref="tool")
    shutil.copy(rpm, repository)
    comps, updates = tmp_path / "comps.xml", tmp_path / "updateinfo.xml"
    comps.write_text(
        "<comps><group><id>core</id><name>Core</name><description/>"
        "<packagelist><packagereq type='mandatory'>tool</packagereq></packagelist></group></comps>"
    )
    updates.write_text("<updates/>")
    subprocess.run(
        ["createrepo_c", "-q", "--database", "-g", comps, "--revision", "v1", repository],
        check=True,
    )
    subprocess.run(
        ["modifyrepo_c", updates, repository / "repodata"], check=True, capture_output=True
    )
    return repository


def test_what_others_put_into_rpm_md_stays(foreign: Path, tmp_path: Path) -> None:
    rpm, entry = make(tmp_path)
    publish_set(rpm, entry, foreign)
    repomd = parse_repomd((foreign / "repodata/repomd.xml").read_bytes())
    types = [record.type for record in repomd.records]
    assert set(types) >= {"primary", "group", "updateinfo", "jigdo"}
    assert not [type for type in types if type.endswith("_db")]  # they would be outdated
    for record in repomd.records:
        assert record.checksum == ContentDigest.of((foreign / record.location).read_bytes())
    assert len(read_packages(foreign)) == 2


def test_files_of_the_repomd_before_stay_for_who_has_just_read_it(
    foreign: Path, tmp_path: Path
) -> None:
    before = parse_repomd((foreign / "repodata/repomd.xml").read_bytes())
    for version in ("1", "2"):
        rpm, entry = make(tmp_path, version=version)
        publish_set(rpm, entry, foreign)
        there = [(foreign / record.location).exists() for record in before.records]
        assert all(there) == (version == "1")


def test_failure_leaves_the_old_repository(foreign: Path, tmp_path: Path) -> None:
    rpm, entry = make(tmp_path)
    (foreign / "broken.rpm").write_bytes(b"not an RPM")
    before = tree(foreign / "repodata")
    with pytest.raises(CommandFailed):
        publish_set(rpm, entry, foreign)
    assert tree(foreign / "repodata") == before
    assert not list(foreign.glob(".repodata.*"))


@pytest.mark.parametrize("kind", ["jigdo", "jigdo-versions"])
def test_damaged_pointer_is_not_overwritten_unseen(tmp_path: Path, kind: str) -> None:
    repository = tmp_path / "repo"
    put(tmp_path, repository, "1")
    rpm, entry = make(tmp_path, version="2")
    publish_set(rpm, entry, repository)
    record = parse_repomd((repository / "repodata/repomd.xml").read_bytes()).require(kind)
    (repository / record.location).write_bytes(b"damaged")
    with pytest.raises((ChecksumMismatch, FormatError), match=rf"{kind}\.json\.gz"):
        publish_set(rpm, entry, repository)


def test_two_publishers_both_succeed(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    context = multiprocessing.get_context("spawn")
    jobs = []
    for ref in ("a", "b", "c"):
        work = tmp_path / ref
        work.mkdir()
        rpm, entry = make(work, ref=ref)
        jobs.append(context.Process(target=publish_set, args=(rpm, entry, repository)))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(timeout=60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert [entry.ref for entry in pointer_of(repository).entries] == ["a", "b", "c"]


_DNF = """
import sys, dnf
base = dnf.Base()
base.conf.cachedir = sys.argv[2]
base.conf.installroot = sys.argv[2] + "/root"
base.conf.substitutions["releasever"] = "1"
base.repos.add_new_repo("foreign", base.conf, baseurl=[sys.argv[1]])
base.fill_sack(load_system_repo=False)
base.read_comps()
print(sorted(str(package) for package in base.sack.query()))
print([group.id for group in base.comps.groups])
"""


def test_dnf_reads_the_repository_and_skips_the_pointer(foreign: Path, tmp_path: Path) -> None:
    rpm, entry = make(tmp_path)
    publish_set(rpm, entry, foreign)
    argv = [sys.executable, "-c", _DNF, foreign.as_uri(), str(tmp_path / "dnf")]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "['os-stable-1-1.noarch', 'tool-1-1.noarch']",
        "['core']",
    ]

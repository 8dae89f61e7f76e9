"""`mirror prune`: old versions go, and what the others need stays; with real repositories."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from composer.mirror.lists import read_lists
from composer.mirror.renewing import alone
from composer.rpm.rpmmd import REPOMD, read_packages
from tests.client.published import Gpg, copy_of, put
from tests.client.pulling import check_message, run_here
from tests.commands import Done, ostree
from tests.mirror.histories import DAY, PACKAGES, STABLE, TESTING, TIME, History, build

NOW = TIME + 10 * DAY


def at(time: int, *words: object) -> Done:
    """Run a command at a time."""
    with patch.dict(os.environ, {"SOURCE_DATE_EPOCH": str(time)}):
        return run_here(*words)


def pruned(directory: Path, *words: object, now: int = NOW) -> Any:
    """Prune, which must succeed; returns the document of ``--json``."""
    done = at(now, "mirror", "prune", directory, *words, "--json")
    assert done.status == 0, f"{done.status}\n{done.err}"
    return done.document


def refused(directory: Path, *words: object, status: int) -> Done:
    """Prune, which must fail and leave everything as it was."""
    before = tree(directory)
    done = at(NOW, "-q", "mirror", "prune", directory, *words)
    assert done.status == status, f"{done.status}\n{done.out}\n{done.err}"
    assert tree(directory) == before
    return done


def sound(directory: Path, *words: object) -> None:
    """Require that `mirror verify` finds everything."""
    done = run_here("mirror", "verify", directory, *words)
    assert done.status == 0, done.out


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    """All files, but the lock: which they are, and their sizes."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_ino, path.stat().st_size)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".jigdo-publish.lock"
    }


def listed(directory: Path, ref: str = STABLE) -> list[str]:
    """Versions of a ref that are listed."""
    return sorted(one.version for one in read_lists(directory).entries if one.ref == ref)


def in_rpm_md(directory: Path) -> set[str]:
    """Locations that rpm-md lists."""
    return {one.location for one in read_packages(directory)}


def pull(directory: Path, place: Path, wanted: str, *, status: int = 0) -> Done:
    """Pull a ref, or a version, into a new repository."""
    repo, config = place / "client", place / "config"
    shutil.rmtree(repo, ignore_errors=True)
    ostree(repo, "init", "--mode=bare-user")
    words = ["remote", "add", "x", directory, "--trust", "none", "--replace"]
    assert run_here(*words, "--config-dir", config).status == 0
    done = run_here("pull", f"x:{wanted}", "--repo", repo, "--config-dir", config, "--json")
    assert done.status == status, done.err
    return done


@pytest.fixture
def directory(history: History, tmp_path: Path) -> Path:
    """A copy of the mirror that may be changed."""
    return copy_of(history.mirror, tmp_path / "mirror")


def test_dry_run_says_what_goes_and_what_versions_take(directory: Path, history: History) -> None:
    before = tree(directory)
    told = pruned(directory, "--keep", "2", "--dry-run")
    assert tree(directory) == before
    stays = {(one["ref"], one["version"]): one["stays"] for one in told["versions"]}
    assert stays == {
        **{(STABLE, f"1.{n}"): n > 4 for n in range(1, 7)},
        (TESTING, "1.1"): True,
        (TESTING, "1.2"): True,
    }
    gone = [one["version"]["version"] for one in told["unlisted"]]
    assert gone == ["1.4", "1.3", "1.2", "1.1"]
    # Together they are every RPM once.
    sizes = {one.pkgid: one.size for one in read_packages(directory)}
    assert told["bytes"] == sum(sizes.values())
    first = next(one for one in told["versions"] if one["version"] == "1.1")
    assert first["own_bytes"] == first["added_bytes"] > first["set_bytes"]
    # What version 1.4 has that 1.5, 1.6 and testing have not: one more costs its RPMs and its set.
    [row] = [one for one in told["versions"] if one["version"] == "1.4"]
    assert row["own_bytes"] <= told["one_more_bytes"][STABLE] <= row["added_bytes"]
    shown = at(NOW, "mirror", "prune", directory, "--keep", "2", "--dry-run").out
    assert "goes" in shown
    assert "one more version costs about" in shown


def test_versions_go_from_the_lists_now_and_their_files_after_the_grace(
    directory: Path, history: History, tmp_path: Path
) -> None:
    sets = {one.version: one.location for one in history.entries() if one.ref == STABLE}
    told = pruned(directory, "--keep", "2")
    assert len(told["unlisted"]) == 4
    assert listed(directory) == ["1.5", "1.6"]
    sound(directory)
    pull(directory, tmp_path, f"{STABLE}@1.4", status=1)
    # Who is in the middle of a pull finds it still; dnf does not see it.
    for version, location in sets.items():
        assert (directory / location).is_file()
        assert (location in in_rpm_md(directory)) == (version in ("1.5", "1.6"))
    assert pruned(directory, "--keep", "2", now=NOW + DAY)["removed"] == []
    told = pruned(directory, "--keep", "2", now=NOW + 2 * DAY)
    assert {one["location"] for one in told["removed"]} == {sets[f"1.{n}"] for n in range(1, 5)}
    assert {path.relative_to(directory).as_posix() for path in directory.glob("jigdo/*")} >= {
        sets["1.5"],
        sets["1.6"],
    }
    assert not (directory / sets["1.1"]).exists()
    assert not (directory / ".jigdo-unlisted.json").exists()
    sound(directory, "--proof")
    # All other RPMs are the mirror's own.
    assert len(list((directory / PACKAGES).iterdir())) == len(
        list((history.mirror / PACKAGES).iterdir())
    )
    pull(directory, tmp_path, STABLE)
    pull(directory, tmp_path, f"{STABLE}@1.5")


def test_undo_lists_them_again_as_long_as_they_are_there(directory: Path, tmp_path: Path) -> None:
    before = listed(directory), in_rpm_md(directory)
    pruned(directory, "--keep", "1")
    done = at(NOW, "mirror", "prune", directory, "--undo")
    assert done.status == 0
    assert "6 RPMs" in done.out
    assert (listed(directory), in_rpm_md(directory)) == before
    sound(directory)
    pull(directory, tmp_path, f"{STABLE}@1.1")
    assert "nothing to undo" in at(NOW, "mirror", "prune", directory, "--undo").out
    # They have a whole time of grace again.
    pruned(directory, "--keep", "1", now=NOW + 5 * DAY)
    assert pruned(directory, now=NOW + 6 * DAY)["removed"] == []
    assert len(pruned(directory, now=NOW + 7 * DAY)["removed"]) == 6
    assert "nothing to undo" in at(NOW, "mirror", "prune", directory, "--undo").out


def test_undo_lists_no_version_of_which_something_has_gone(
    directory: Path, history: History, tmp_path: Path
) -> None:
    pruned(directory, "--keep", "1")
    (directory / PACKAGES / "always-1-1.noarch.rpm").unlink()
    done = at(NOW, "mirror", "prune", directory, "--undo")
    assert done.status == 5
    assert f"{STABLE} 1.1 is not: 1 of its RPMs are gone, as always-1-1.noarch" in done.err
    assert listed(directory) == [f"1.{n}" for n in range(2, 7)]
    sound(directory)
    words = ["--undo", "--packages", history.upstream]
    assert at(NOW, "mirror", "prune", directory, *words).status == 0
    assert "1.1" in listed(directory)
    sound(directory)
    pull(directory, tmp_path, f"{STABLE}@1.1")


def test_rules_keep_by_age_pin_and_tag_and_only_of_the_named_ref(
    directory: Path, history: History
) -> None:
    def rest(*words: object) -> list[str]:
        told = pruned(directory, *words, "--dry-run")
        own = [one for one in told["versions"] if one["ref"] == STABLE and one["stays"]]
        return sorted(one["version"] for one in own)

    everything = [f"1.{n}" for n in range(1, 7)]
    assert rest() == everything
    assert rest("--keep-within", "6d") == ["1.4", "1.5", "1.6"]
    assert rest("--keep-within", "1h") == ["1.6"]
    assert rest("--keep", "1", "--keep-within", "5d") == ["1.5", "1.6"]
    assert rest("--keep", "1", "--ref", TESTING) == everything
    assert run_here("mirror", "pin", directory, f"{STABLE}@1.2").status == 0
    commit = history.commits[STABLE][2]
    assert run_here("mirror", "tag", directory, f"{STABLE}@{commit}", "release", "lts").status == 0
    assert rest("--keep", "1") == ["1.2", "1.6"]
    assert rest("--keep-tag", "lts") == ["1.2", "1.3", "1.6"]
    [pinned, tagged] = sorted(
        run_here("mirror", "pin", directory, "--json").document, key=lambda one: one["tags"]
    )
    assert pinned["pinned"]
    assert (tagged["commit"], tagged["tags"]) == (commit, ["lts", "release"])
    assert run_here("mirror", "pin", directory, f"{STABLE}@1.2", "--remove").status == 0
    words = ["mirror", "tag", directory, f"{STABLE}@1.3", "lts", "--remove"]
    assert run_here(*words).status == 0
    assert rest("--keep-tag", "lts") == ["1.6"]
    assert rest("--keep-tag", "release") == ["1.3", "1.6"]


def test_deltas_from_a_version_that_went_serve_who_has_it(directory: Path, tmp_path: Path) -> None:
    pull(directory, tmp_path, f"{STABLE}@1.5")
    pruned(directory, "--keep", "1")
    pruned(directory, now=NOW + 9 * DAY)
    repo, config = tmp_path / "client", tmp_path / "config"
    done = run_here("pull", f"x:{STABLE}", "--repo", repo, "--config-dir", config, "--json")
    assert done.status == 0
    assert done.document["moved"]["delta"]["bytes"] > 0
    assert done.document["version"] == "1.6"


# RPMs.


def test_retained_copies_go_with_the_last_version_that_needs_them(
    directory: Path, history: History, tmp_path: Path
) -> None:
    words = ["set", "build", "--repo", history.repo, "--ref", STABLE, "--commit", "1.2"]
    words += ["--packages", history.upstream, "--from", "none", "--retain", "all"]
    done = run_here(*words, "--output", directory, "--cachedir", tmp_path / "cache")
    assert done.status == 0, done.err
    copies = {path.name for path in directory.glob("retained/*/*.rpm")}
    assert copies == {f"{n}-1.noarch.rpm" for n in ("always-2", "never-1", "often-1", "seldom-1")}
    told = pruned(directory, "--keep", "5")
    assert [one["nevra"] for one in told["unlisted"]] == [""]  # 1.2 stays
    told = pruned(directory, "--keep", "3")
    # What 1.4 and later have, too, stays: once the mirror's own copy will be gone.
    assert {one["nevra"] for one in told["unlisted"] if one["nevra"]} == {
        "always-2-1.noarch",
        "often-1-1.noarch",
    }
    assert not any("always-2" in one for one in in_rpm_md(directory) if "retained" in one)
    pruned(directory, now=NOW + 3 * DAY)
    left = {path.name for path in directory.glob("retained/*/*.rpm")}
    assert left == {"never-1-1.noarch.rpm", "seldom-1-1.noarch.rpm"}
    assert len(list(directory.glob("retained/*"))) == 2
    sound(directory)


def test_what_the_upstream_repository_has_dropped_is_retained(
    directory: Path, history: History, tmp_path: Path
) -> None:
    lost = directory / PACKAGES / "always-6-1.noarch.rpm"
    also = directory / PACKAGES / "always-1-1.noarch.rpm"
    lost.unlink()
    also.unlink()
    told = pruned(directory, "--keep", "1", "--packages", history.upstream, "--dry-run")
    assert [one["nevra"] for one in told["retained"]] == ["always-6-1.noarch"]
    empty = tmp_path / "empty"
    shutil.copytree(history.upstream / PACKAGES, empty, ignore=lambda *_: [lost.name])
    told = pruned(directory, "--keep", "1", "--packages", empty)
    assert [one["nevra"] for one in told["lacking"]] == ["always-6-1.noarch"]
    told = pruned(directory, "--keep", "1", "--packages", history.upstream)
    [copy] = directory.glob("retained/*/*.rpm")
    assert copy.name == lost.name
    assert copy.relative_to(directory).as_posix() in in_rpm_md(directory)
    sound(directory)
    pull(directory, tmp_path, STABLE)


def test_packages_of_another_repository_are_asked_for_there(
    history: History, tmp_path: Path
) -> None:
    mirror, fedora = tmp_path / "sets", copy_of(history.upstream, tmp_path / "fedora")
    words = ["set", "build", "--repo", history.repo, "--ref", STABLE, "--from", "none"]
    words += ["--packages", f"fedora={history.upstream}", "--output", mirror]
    assert run_here(*words, "--cachedir", tmp_path / "cache").status == 0
    words = ["--repository", f"fedora={fedora}", "--packages", history.upstream]
    assert pruned(mirror, *words)["retained"] == []
    (fedora / PACKAGES / "seldom-2-1.noarch.rpm").unlink()
    told = pruned(mirror, *words)
    assert [one["nevra"] for one in told["retained"]] == ["seldom-2-1.noarch"]
    sound(mirror, "--repository", f"fedora={fedora}")


def test_packages_go_only_when_asked_and_never_the_newest_of_a_name(
    directory: Path, tmp_path: Path
) -> None:
    pruned(directory, "--keep", "1", "--ref", STABLE)
    assert len(in_rpm_md(directory) & {f"{PACKAGES}/always-{n}-1.noarch.rpm" for n in range(9)})
    told = pruned(directory, "--packages-too")
    names = {one["nevra"] for one in told["unlisted"]}
    # 1.6 and testing (which is the version after it) stay.
    assert names == {
        *(f"always-{n}-1.noarch" for n in range(1, 6)),
        *(f"often-{n}-1.noarch" for n in (1, 2)),
        "seldom-1-1.noarch",
    }
    assert (directory / PACKAGES / "always-1-1.noarch.rpm").exists()
    assert f"{PACKAGES}/always-1-1.noarch.rpm" not in in_rpm_md(directory)
    sound(directory, "--all-packages")
    pruned(directory, now=NOW + 3 * DAY)
    assert not (directory / PACKAGES / "always-1-1.noarch.rpm").exists()
    sound(directory, "--all-packages", "--proof")


def test_rpm_that_is_needed_again_comes_back(
    directory: Path, history: History, tmp_path: Path
) -> None:
    """A version is published again while what it needs waits to be removed."""
    pruned(directory, "--keep", "1", "--packages-too")
    build(history.root, directory, STABLE, "1.3")
    assert listed(directory) == ["1.3", "1.6"]
    told = pruned(directory, "--keep", "2", now=NOW + 9 * DAY)
    again = {one["nevra"] for one in told["listed_again"]}
    removed = {one["nevra"] for one in told["removed"]}
    assert "always-3-1.noarch" in again
    assert "always-2-1.noarch" in removed
    sound(directory, "--all-packages", "--proof")


def test_what_waits_stays_hidden_from_dnf_when_something_is_published(
    directory: Path, history: History
) -> None:
    pruned(directory, "--keep", "1", "--ref", STABLE)
    hidden = [one.location for one in history.entries() if one.ref == STABLE][:-1]
    build(history.root, directory, TESTING, "1.1")
    assert not in_rpm_md(directory) & set(hidden)
    assert all((directory / one).is_file() for one in hidden)


# Signed statements.


@pytest.fixture
def keys(directory: Path, tmp_path: Path) -> Path:
    """Keys by which the mirror is signed."""
    place = tmp_path / "keys"
    assert run_here("mirror", "keys", "init", directory, "--tuf-keys", place).status == 0
    return place


def test_signed_repository_is_signed_anew(directory: Path, keys: Path) -> None:
    root = directory / "tuf/1.root.json"
    err = refused(directory, "--keep", "1", status=2).err
    check_message(err, "has signed statements", "--tuf-keys")
    told = pruned(directory, "--keep", "1", "--tuf-keys", keys)
    assert any("stable" in role for role in told["signed"])
    sound(directory, "--tuf-root", root)
    # Nothing is said anew where nothing is listed anew.
    pruned(directory, now=NOW + 3 * DAY)
    sound(directory, "--tuf-root", root)
    assert at(NOW, "mirror", "prune", directory, "--undo").status == 0


def test_undo_is_signed_too(directory: Path, keys: Path, tmp_path: Path) -> None:
    pruned(directory, "--keep", "1", "--tuf-keys", keys)
    assert at(NOW, "mirror", "prune", directory, "--undo").status == 2
    assert at(NOW, "mirror", "prune", directory, "--undo", "--tuf-keys", keys).status == 0
    sound(directory, "--tuf-root", directory / "tuf/1.root.json")
    assert "1.1" in listed(directory)


def test_signed_repomd_is_signed_anew(directory: Path) -> None:
    with Gpg.home() as gpg:
        key = gpg.make_key("operator")
        repomd, signature = directory / REPOMD, directory / f"{REPOMD}.asc"
        gpg.run("--armor", "--output", signature, "--detach-sign", repomd)
        err = refused(directory, "--keep", "1", status=2).err
        check_message(err, "its repomd.xml is signed", "--gpg-sign")
        pruned(directory, "--keep", "1", "--gpg-sign", key, "--gpg-homedir", gpg.directory)
        gpg.run("--verify", signature, repomd)
        # Nothing is signed where nothing is listed anew.
        pruned(directory, now=NOW + 3 * DAY)
        gpg.run("--verify", signature, repomd)


def test_another_process_that_publishes_is_waited_for_only_when_asked(directory: Path) -> None:
    with alone(directory):
        refused(directory, "--keep", "1", status=75)
        pruned(directory, "--keep", "1", "--dry-run")
    pruned(directory, "--keep", "1", "--wait")


# Bad input.


def test_set_that_stays_and_is_damaged_refuses_and_one_that_goes_does_not(
    directory: Path, history: History
) -> None:
    by_version = {one.version: one for one in history.entries() if one.ref == STABLE}

    def damage(version: str) -> None:
        entry = by_version[version]
        data = bytearray((directory / entry.location).read_bytes())
        data[entry.offset + entry.index.offset + 3] ^= 1
        put(directory / entry.location, bytes(data))

    damage("1.2")
    check_message(refused(directory, "--keep", "5", status=3).err, "index", "mirror verify")
    pruned(directory, "--keep", "2")
    assert listed(directory) == ["1.5", "1.6"]


def test_version_whose_set_somebody_removed_leaves_the_list(
    directory: Path, history: History
) -> None:
    entry = history.entries()[1]
    (directory / entry.location).unlink()
    told = pruned(directory)
    assert told["gone"] == [entry.location]
    assert entry.version not in listed(directory)
    sound(directory)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--keep-within", "soon"], 2, "expected a span of time"),
        (["--keep", "1", "--ref", "no/such"], 2, "no such ref"),
        (["--undo", "--keep", "1"], 2, "--undo takes no rules"),
        (["--packages", "/nowhere"], 1, "no such directory"),
        (["--keep", "1", "--tuf-keys", "/nowhere"], 3, "root"),
    ],
)
def test_wrong_words_are_refused(directory: Path, words: list[str], status: int, told: str) -> None:
    assert told in refused(directory, *words, status=status).err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".jigdo-unlisted.json", "{"),
        (".jigdo-unlisted.json", '{"format":1,"rpms":[{"location":"../x.rpm"}]}'),
        (
            ".jigdo-unlisted.json",
            '{"format":1,"rpms":[{"location":"../x.rpm","since":0,"size":1,"pkgid":"%s"}]}'
            % ("0" * 64),
        ),
        (
            ".jigdo-unlisted.json",
            '{"format":1,"rpms":[{"location":"tuf/x.json","since":0,"size":1,"pkgid":"%s"}]}'
            % ("0" * 64),
        ),
        (".jigdo-labels.json", "[]"),
        (".jigdo-labels.json", '{"format":1,"versions":[{"ref":"a b","commit":"x"}]}'),
    ],
)
def test_damaged_documents_are_told_and_nothing_is_removed(
    directory: Path, name: str, text: str
) -> None:
    (directory / name).write_text(text)
    check_message(refused(directory, "--keep", "1", status=3).err, name)


def test_directories_that_are_no_such_repository_are_refused(
    directory: Path, history: History, tmp_path: Path
) -> None:
    assert "no rpm-md repository" in refused(tmp_path / "mirror/jigdo", status=1).err
    plain = copy_of(history.upstream, tmp_path / "plain")
    assert "carries no jigdo sets" in refused(plain, "--keep", "1", status=1).err
    copy = tmp_path / "copy"
    assert run_here("mirror", "sync", directory, copy).status == 0
    assert "a copy of another repository" in refused(copy, "--keep", "1", status=2).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pin", STABLE], "expected REF@VERSION"),
        (["pin", f"{STABLE}@9"], "no such set"),
        (["tag", f"{STABLE}@1.1", "a b"], "a tag has"),
    ],
)
def test_labels_for_what_is_not_there_are_refused(
    directory: Path, words: list[str], told: str
) -> None:
    before = tree(directory)
    done = run_here("mirror", words[0], directory, *words[1:])
    assert done.status in (1, 2)
    assert told in done.err
    assert tree(directory) == before

"""RPMs that mirrors have no more: found elsewhere, or what they have comes another way."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ObjectChecksum
from composer.ostree.repo import Repository
from tests.client.published import MINIMAL, Published, SetRpm, copy_of, fsck
from tests.client.pulling import REMOTE, Client, check_message, rpm_requests, run_here
from tests.commands import Done, jigdo
from tests.net.lying_mirror import LyingMirror


@pytest.fixture
def site(published: Published, mirror: LyingMirror, updatable: Client) -> SetRpm:
    """The set without deltas, on the one mirror that the client knows."""
    updatable.add_remote(mirror.url)
    return SetRpm.of(mirror.directory, MINIMAL, Repository.open(published.repo))


@pytest.fixture
def elsewhere(published: Published, tmp_path: Path) -> Iterator[LyingMirror]:
    """A server with a directory that is empty yet."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    with LyingMirror(directory) as server:
        yield server


def pull(client: Client, *words: object) -> Done:
    return run_here(*client.words(), *words, "--config-dir", client.config)


def complete(client: Client, *words: object) -> Any:
    """Pull, which must bring the very commit; returns the document."""
    done = pull(client, *words)
    assert done.status == 0, done.err
    assert client.head() == client.published.commit(MINIMAL, 2)
    fsck(client.repo)
    assert not list(client.repo.glob("tmp/jigdo-packages"))
    return done.document


def replans(err: str) -> list[Any]:
    """The new plans that a pull printed, from what --json prints on standard error."""
    documents = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return [one for one in documents if one["event"] == "replan"]


def lose(site: SetRpm, *names: str) -> list[Path]:
    """Take RPMs away from the mirror, as files and from its package list; keep them beside."""
    kept = []
    for name in names:
        path = site.mirror / site.locations()[name]
        beside = site.mirror.parent / "kept" / path.name
        beside.parent.mkdir(exist_ok=True)
        path.rename(beside)
        kept.append(beside)
    return kept


# Nothing has them


def test_all_lost_rpms_are_named_with_what_they_are_needed_for(
    site: SetRpm, updatable: Client
) -> None:
    lose(site, "paint", "brush")
    done = updatable.refused(
        "brush-2.0-1.fx.noarch and another package: lost, and nothing else has",
        site.locations()["paint"],
        site.locations()["brush"],
        "needed for /usr/bin/paint",
        "--archive",
        status=1,
    )
    assert done.err.count("hint: ") == 1


def test_what_was_fetched_is_kept_for_the_next_run(
    site: SetRpm, mirror: LyingMirror, updatable: Client
) -> None:
    [lost] = lose(site, "paint")
    updatable.refused("paint-5.1-1", status=1)
    first = rpm_requests(mirror.log)
    shutil.copy(lost, site.mirror / site.locations()["paint"])
    complete(updatable)
    again = rpm_requests(mirror.log)[len(first) :]
    assert [one.path for one in again] == [site.locations()["paint"]]


# They are elsewhere


@pytest.mark.parametrize("option", ["in the remote", "in the command"])
@pytest.mark.parametrize(
    ("layout", "suffix"),
    [
        ("{file}", ""),
        ("{name}/{version}/{release}/{arch}/{file}", None),
        ("by-pkgid/{pkgid}.rpm", None),
        ("{location}", ""),
    ],
    ids=["directory", "koji", "pkgid", "repository"],
)
def test_an_archive_has_them(
    site: SetRpm,
    updatable: Client,
    elsewhere: LyingMirror,
    layout: str,
    suffix: str | None,
    option: str,
) -> None:
    refs = {p.ref.nevra.name: p.ref for p in site.jigdo.head.packages}
    for path, name in zip(lose(site, "paint", "libhue"), ("paint", "libhue"), strict=True):
        ref = refs[name]
        place = layout.format(
            file=path.name,
            pkgid=ref.pkgid,
            location=ref.location,
            name=name,
            version=ref.nevra.version,
            release=ref.nevra.release,
            arch=ref.nevra.arch,
        )
        kept = elsewhere.directory / place
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
    archive = elsewhere.url + (layout if suffix is None else suffix)
    words: list[object] = []
    if option == "in the command":
        words = ["--archive", archive]
    else:
        url = updatable.config / "remotes.d" / f"{REMOTE}.toml"
        url.write_text(url.read_text() + f'archives = ["{archive}"]\n')
    document = complete(updatable, *words)
    assert document["lost"] == document["replaced"] == []
    served = [one for one in elsewhere.log if one.status == 200]
    assert sum(one.sent for one in served) == refs["paint"].size + refs["libhue"].size


def test_an_archive_is_a_repository_that_lists_them(
    site: SetRpm, updatable: Client, elsewhere: LyingMirror
) -> None:
    [path] = lose(site, "paint")
    shutil.copy(path, elsewhere.directory / "renamed.rpm")
    subprocess.run(["createrepo_c", "-q", elsewhere.directory], check=True)
    assert complete(updatable, "--archive", elsewhere.url)["lost"] == []


def test_an_archive_is_not_asked_while_the_mirror_has_all(
    site: SetRpm, updatable: Client, elsewhere: LyingMirror
) -> None:
    complete(updatable, "--archive", elsewhere.url)
    assert not elsewhere.log


def test_an_archive_serves_where_the_mirror_refuses(
    site: SetRpm, mirror: LyingMirror, updatable: Client, elsewhere: LyingMirror
) -> None:
    # Object stores answer so for what they do not have.
    shutil.copy(site.mirror / site.locations()["paint"], elsewhere.directory)
    mirror.fail(site.locations()["paint"], 403, times=100)
    complete(updatable, "--archive", elsewhere.url)
    assert [one.status for one in elsewhere.log] == [404, 200]


def test_a_mirror_that_is_down_is_no_lost_rpm(
    site: SetRpm, mirror: LyingMirror, updatable: Client, elsewhere: LyingMirror
) -> None:
    paths = site.locations().values()
    for path in paths:
        mirror.fail(path, 503, times=100)
    done = pull(updatable, "--archive", elsewhere.url)
    assert done.status == 1
    check_message(done.err, "could not be fetched", "HTTP status 503")
    assert not elsewhere.log
    # As soon as the first has been tried enough, nothing more is asked for.
    assert len({one.path for one in rpm_requests(mirror.log)}) < len(set(paths))


def test_what_an_archive_sends_is_proven(
    site: SetRpm, updatable: Client, elsewhere: LyingMirror
) -> None:
    [path] = lose(site, "paint")
    shutil.copy(path, elsewhere.directory / path.name)
    elsewhere.flip_bit(path.name, 5000)
    before = updatable.head()
    done = pull(updatable, "--archive", elsewhere.url)
    assert done.status == 3
    check_message(done.err, "paint-5.1-1", "expected", elsewhere.url)
    updatable.require_unchanged(before)


def test_an_archive_that_is_down_hides_nothing(site: SetRpm, updatable: Client) -> None:
    lose(site, "paint")
    done = pull(updatable, "--archive", "http://127.0.0.1:1/")
    assert done.status == 1
    check_message(done.err, "paint", site.locations()["paint"], "127.0.0.1:1")
    assert "package list of http://127.0.0.1:1/" not in done.err


@pytest.mark.parametrize(
    "archive", ["ftp://a/", "http://a/{what}", "http://a/{name", "{name}/x", "http://{name}/x"]
)
def test_a_bad_archive_is_refused(archive: str, updatable: Client) -> None:
    done = pull(updatable, "--archive", archive)
    assert done.status == 2
    assert f"--archive: {archive}" in done.err


# The publisher has seen to it


def _build(client: Client, site: SetRpm, scratch: Path, *words: object) -> SetRpm:
    """Publish the set again, on the same mirror."""
    published = client.published
    argv = ["set", "build", "--from", "none", "--repo", published.repo, "--ref", MINIMAL]
    argv += ["--output", site.mirror, "--packages", published.packages(2)]
    jigdo(*argv, "--cachedir", scratch / "cache", *words)
    return SetRpm.of(site.mirror, MINIMAL, site.repo)


@pytest.mark.parametrize("which", ["paint", "paint-5.1-1.fx.x86_64", "all"])
def test_a_retained_rpm_serves(
    site: SetRpm, mirror: LyingMirror, updatable: Client, tmp_path: Path, which: str
) -> None:
    made = _build(updatable, site, tmp_path, "--retain", which)
    kept = sorted(site.mirror.glob("retained/*/*.rpm"))
    assert len(kept) == (len(made.jigdo.head.packages) if which == "all" else 1)
    lose(made, "paint")
    document = complete(updatable)
    assert document["lost"] == document["replaced"] == []
    [request] = [one for one in mirror.log if one.path.startswith("retained/")]
    assert request.path.endswith("/paint-5.1-1.fx.x86_64.rpm")
    ref = next(p.ref for p in made.jigdo.head.packages if p.ref.nevra.name == "paint")
    assert request.path.split("/")[1] == str(ref.pkgid)
    assert request.sent == ref.size


def test_what_a_package_has_can_be_shipped_in_the_set(
    site: SetRpm, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    made = _build(updatable, site, tmp_path, "--full", "paint", "--full", "greeter")
    lose(made, "paint", "greeter")
    document = complete(updatable)
    assert document["new_content_bytes"] > 0
    assert {one.path for one in rpm_requests(mirror.log) if one.status == 404} <= {
        made.locations()["paint"],
        made.locations()["greeter"],
    }


def test_a_package_that_the_commit_has_not_cannot_be_retained(
    site: SetRpm, updatable: Client, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="no-such: the commit has no such package"):
        _build(updatable, site, tmp_path, "--retain", "no-such")


# Deltas have it


@pytest.fixture
def nearly(with_deltas: Path, updatable: Client, tmp_path: Path) -> Iterator[LyingMirror]:
    """A mirror with deltas, and a client that lacks one object, whose RPM is the cheapest way."""
    with LyingMirror(copy_of(with_deltas, tmp_path / "deltas")) as server:
        updatable.add_remote(server.url)
        before = updatable.head()
        complete(updatable)
        (updatable.repo / "refs/heads" / MINIMAL).write_text(before + "\n")
        made = SetRpm.of(server.directory, MINIMAL, Repository.open(updatable.published.repo))
        old = _objects(updatable, before)
        for checksum in made.objects()[made.locations()["fixture-release"]] - old:
            (updatable.repo / f"objects/{checksum.hex()[:2]}/{checksum.hex()[2:]}.file").unlink()
        yield server
    shutil.rmtree(tmp_path / "deltas")


def _objects(client: Client, commit: str) -> set[ObjectChecksum]:
    from composer.jigdo.tree import Ordinals, walk

    repo, ordinals = Repository.open(client.published.repo), Ordinals()
    root = repo.commit(ObjectChecksum.parse(commit)).tree
    for visit in walk(root, lambda one: repo.metadata("dirtree", one)):
        ordinals.add(visit.tree)
    return set(ordinals.checksums)


def plan(client: Client, *words: object, as_json: bool = True) -> Any:
    argv = ["plan", f"{REMOTE}:{MINIMAL}", "--repo", client.repo, "--config-dir", client.config]
    done = run_here(*argv, *words, *(["--json"] if as_json else []))
    assert done.status == 0, done.err
    return done.document if as_json else done.out


def test_deltas_serve_for_a_lost_rpm_and_the_new_plan_is_said(
    nearly: LyingMirror, updatable: Client
) -> None:
    made = SetRpm.of(nearly.directory, MINIMAL)
    first = plan(updatable)
    assert first["transfers"]["rpm"]["requests"] == 1
    nearly.drop(made.locations()["fixture-release"])
    done = pull(updatable)
    assert done.status == 0, done.err
    assert updatable.head() == updatable.published.commit(MINIMAL, 2)
    fsck(updatable.repo)
    [lost] = done.document["lost"]
    assert lost["package"] == "fixture-release-2-1.fx.noarch"
    [again] = replans(done.err)
    assert again["lost"] == [lost]
    assert again["transfers"]["delta"] == done.document["moved"]["delta"]
    assert done.document["moved"]["delta"]["bytes"] == done.document["delta_bytes"] > 0


def test_a_plan_that_probes_says_what_is_lost_and_what_serves(
    nearly: LyingMirror, updatable: Client
) -> None:
    made = SetRpm.of(nearly.directory, MINIMAL)
    nearly.drop(made.locations()["fixture-release"])
    assert "lost" not in plan(updatable)
    found = plan(updatable, "--probe", "--explain", "fixture-release")
    [lost] = found["lost"]
    assert lost["package"] == "fixture-release-2-1.fx.noarch"
    assert found["transfers"]["rpm"] == {"bytes": 0, "requests": 0}
    assert found["transfers"]["delta"]["bytes"] > 0
    assert "no-deltas" not in found["alternatives"]  # that would not bring everything
    [rpm] = [way for way in found["explanation"]["ways"] if way["kind"] == "rpm"]
    assert not rpm["chosen"]
    assert rpm["obstacle"].startswith("lost: fixture-release-2-1.fx.noarch: not found")
    text = plan(updatable, "--probe", as_json=False)
    assert "lost: fixture-release-2-1.fx.noarch: not found on any mirror" in text
    moved = complete(updatable)["moved"]
    assert moved["delta"] == found["transfers"]["delta"]


def test_a_probe_of_an_honest_mirror_moves_a_byte_of_each(
    site: SetRpm, mirror: LyingMirror, updatable: Client
) -> None:
    before = plan(updatable)
    seen = len(mirror.log)
    found = plan(updatable, "--probe")
    assert found.pop("lost") == found.pop("replaced") == []
    assert found == before
    probes = rpm_requests(mirror.log[seen:])
    assert len(probes) == before["transfers"]["rpm"]["requests"]
    assert all(one.sent == 1 for one in probes)


def test_a_probe_tells_of_what_nothing_has(site: SetRpm, updatable: Client) -> None:
    lose(site, "paint")
    argv = ["plan", f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo, "--probe", "--json"]
    done = run_here(*argv, "--config-dir", updatable.config)
    assert done.status == 1
    check_message(done.err, "paint-5.1-1.fx.x86_64: lost", "needed for /usr/bin/paint")


def test_a_probe_goes_with_a_dry_run(site: SetRpm, updatable: Client) -> None:
    done = pull(updatable, "--probe")
    assert done.status == 2
    check_message(done.err, "--dry-run")

"""Pulling from good mirrors: the same commit, with no byte more than it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.jigdo.container import Kind
from composer.ostree.repo import Repository
from tests.client.published import BASE, MINIMAL, Published, SetRpm, build_set, copy_of, fsck
from tests.client.pulling import REMOTE, Client, rpm_requests, run_here
from tests.commands import jigdo, ostree, serving
from tests.fixtures_os.repos import FixtureRepos
from tests.net.lying_mirror import LyingMirror
from tests.net.real_servers import apache, nginx

Served = Iterator[tuple[str, Callable[[], int] | None]]
"""The URL, and what tells how many bytes of bodies were sent, where somebody counts."""


@contextmanager
def _from_files(directory: Path, scratch: Path) -> Served:
    yield directory.as_uri(), None


@contextmanager
def _from_simple(directory: Path, scratch: Path) -> Served:
    with LyingMirror(directory) as server:
        yield server.url, lambda: sum(one.sent for one in server.log)


@contextmanager
def _from_nginx(directory: Path, scratch: Path) -> Served:
    with nginx(directory) as server:
        yield server.url, server.sent


@contextmanager
def _from_apache(directory: Path, scratch: Path) -> Served:
    with apache(directory) as server:
        yield server.url, server.sent


@contextmanager
def _from_mirror_serve(directory: Path, scratch: Path) -> Served:
    log = scratch / "access.log"

    def sent() -> int:
        return sum(int(line.rsplit(" ", 1)[1]) for line in log.read_text().splitlines())

    with serving(directory, log) as url:
        yield url, sent


_SERVERS = [_from_simple, _from_nginx, _from_apache, _from_mirror_serve, _from_files]


@pytest.mark.parametrize("served", _SERVERS, ids=lambda served: served.__name__[len("_from_") :])
def test_install_and_update_give_the_very_commits(
    served: Callable[[Path, Path], AbstractContextManager[tuple[str, Callable[[], int] | None]]],
    published: Published,
    client: Client,
    tmp_path: Path,
) -> None:
    for generation in (1, 2):
        directory = published.mirror(generation, tmp_path / f"mirror{generation}")
        with served(directory, tmp_path) as (url, sent):
            client.add_remote(url)
            done = client.completes(generation=generation, own_process=True)
            assert done["updated"] is True
            if sent is not None:
                assert sum(part["bytes"] for part in done["moved"].values()) == sent()
        (tmp_path / "access.log").unlink(missing_ok=True)


@pytest.mark.parametrize("mode", ["bare", "bare-user", "archive"])
def test_every_mode_keeps_the_whole_system(mode: str, published: Published, tmp_path: Path) -> None:
    client = Client.create(tmp_path / "client", published, mode=mode)
    for generation in (1, 2):
        client.add_remote(published.root / f"mirror{generation}")
        client.completes(generation=generation)


def test_bare_user_only_is_refused_where_the_system_does_not_fit(
    published: Published, mirror: LyingMirror, tmp_path: Path
) -> None:
    client = Client.create(tmp_path / "client", published, mode="bare-user-only")
    client.add_remote(mirror.url)
    client.refused("bare-user-only", "bare-user or archive", status=1)
    assert not list(client.repo.glob("objects/*/*"))
    assert not rpm_requests(mirror.log)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A published commit that any mode can keep."""

    mirror: Path
    ref: str
    commit: str


@pytest.fixture
def plain(fixture_repos: FixtureRepos, tmp_path: Path) -> _Plain:
    """Publish a package that has nothing but root's plain files."""
    repo, mirror = tmp_path / "plain-repo", tmp_path / "plain-mirror"
    (rpm,) = fixture_repos.gen1.rglob("zones-*.rpm")
    (mirror / "Packages").mkdir(parents=True)
    copy_of(rpm.parent, mirror / "Packages")
    ostree(repo, "init", "--mode=bare-user")
    (made,) = jigdo("repo", "import", rpm, "--repo", repo, "--json").document["imported"]
    build_set(repo, made["ref"], mirror, mirror, tmp_path / "cache")
    return _Plain(mirror, made["ref"], made["commit"])


def test_bare_user_only_keeps_what_fits(plain: _Plain, tmp_path: Path) -> None:
    repo, env = tmp_path / "client", {"JIGDO_COMPOSER_CONFIG": str(tmp_path / "config")}
    ostree(repo, "init", "--mode=bare-user-only")
    jigdo("remote", "add", "plain", plain.mirror, "--trust", "none", env=env)
    jigdo("pull", f"plain:{plain.ref}", "--repo", repo, env=env)
    assert ostree(repo, "rev-parse", plain.ref) == plain.commit
    fsck(repo)


def test_update_asks_only_for_packages_that_changed(
    published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    updatable.add_remote(mirror.url)
    done = updatable.completes()
    old, new = (published.set_rpm(MINIMAL, generation).locations() for generation in (1, 2))
    asked = [one.path for one in rpm_requests(mirror.log)]
    assert len(asked) == len(set(asked)) == done["packages"]
    assert set(asked) <= set(new.values()) - set(old.values())
    assert {new["paint"], new["greeter"], new["kernel-core"]} <= set(asked)


def test_moved_bytes_are_those_that_the_server_sent(
    published: Published, mirror: LyingMirror, client: Client
) -> None:
    client.add_remote(mirror.url)
    moved = client.completes(BASE)["moved"]
    log = mirror.log
    rpms = rpm_requests(log)
    rest = [one for one in log if one not in rpms]
    assert moved["rpm"] == {"bytes": sum(one.sent for one in rpms), "requests": len(rpms)}
    assert moved["rpm"]["bytes"] == sum(
        (mirror.directory / path).stat().st_size for path in {one.path for one in rpms}
    )
    rest_moved = [moved[kind] for kind in ("set", "new")]
    assert sum(part["bytes"] for part in rest_moved) == sum(one.sent for one in rest)
    assert sum(part["requests"] for part in rest_moved) == len(rest)
    data = sum(f.size for f in published.set_rpm(BASE, 2).jigdo.index.of(Kind.DATA))
    assert moved["new"]["bytes"] == data


def test_set_is_read_by_ranges_and_not_whole(
    published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    updatable.add_remote(mirror.url)
    updatable.completes()
    rpm = published.set_rpm(MINIMAL, 2)
    asked = mirror.requests(rpm.location)
    assert all(one.status == 206 for one in asked)
    assert sum(one.sent for one in asked) < rpm.path.stat().st_size


def test_second_pull_moves_only_the_pointer(mirror: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(mirror.url)
    updatable.completes()
    seen = len(mirror.log)
    again = updatable.pull()
    assert again["updated"] is False
    assert [one.path.rpartition("-")[2] for one in mirror.log[seen:]] == [
        "repodata/repomd.xml",
        "jigdo.json.gz",
    ]
    assert sum(part["bytes"] for part in again["moved"].values()) < 5_000


def test_a_check_that_finds_nothing_costs_little(mirror: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(mirror.url)
    updatable.pull()
    before = mirror.sent()
    words = ["check", f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo, "--json"]
    done = run_here(*words, "--config-dir", updatable.config)
    assert done.status == 77
    moved = done.document["moved"]
    assert moved["bytes"] == mirror.sent() - before < 10_000
    assert moved["requests"] == 2


def test_a_liar_is_named_and_what_it_sent_in_vain_is_told_apart(
    published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    planned = run_here(
        "plan", f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo, "--json",
        "--config-dir", _with_remote(updatable, mirror.url),
    ).document  # fmt: skip
    liar = published.mirror(2, tmp_path / "liar")
    with LyingMirror(liar) as other:
        for path in sorted(liar.rglob("Packages/**/*.rpm")):
            other.flip_bit(str(path.relative_to(liar)), 200)
        updatable.add_remote(other.url, mirror.url)
        done = updatable.run()
        assert done.status == 0, done.err
        sent = mirror.sent() + other.sent()
    [wrong] = done.document["wrong"]
    assert wrong["mirror"] == other.url
    assert f"warning: {other.url} served wrong bytes" in done.err
    moved = done.document["moved"]
    for kind, announced in planned["transfers"].items():
        assert moved[kind] == announced
    assert moved["again"]["bytes"] > 0
    rows = {row["mirror"]: row["bytes"] for row in done.document["mirrors"]}
    assert set(rows) == {other.url, mirror.url}
    assert sum(rows.values()) == sum(part["bytes"] for part in moved.values())
    assert sum(rows.values()) + planned["transfers"]["set"]["bytes"] == sent


def _with_remote(client: Client, url: str) -> Path:
    client.add_remote(url)
    return client.config


def test_signature_is_kept_beside_the_commit(published: Published, updatable: Client) -> None:
    updatable.add_remote(published.root / "mirror2")
    commit = updatable.completes()["commit"]
    assert published.fingerprint[-16:] in ostree(updatable.repo, "show", commit)


def test_second_ref_takes_what_the_first_brought(
    published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    updatable.add_remote(mirror.url)
    updatable.completes(MINIMAL)
    seen = len(mirror.log)
    updatable.completes(BASE)
    asked = {one.path for one in rpm_requests(mirror.log[seen:])}
    locations = published.set_rpm(BASE, 2).locations()
    assert locations["atlas"] in asked
    # What German-only paint lacks is in its RPM; nothing lacks anything of the kernel.
    assert locations["kernel-core"] not in asked


def test_moved_package_is_found_through_the_package_list(
    published: Published, updatable: Client, tmp_path: Path
) -> None:
    directory = tmp_path / "rearranged"
    copy_of(published.packages(2) / "Packages", directory / "pool")
    build_set(published.repo, MINIMAL, published.packages(2), directory, tmp_path / "cache")
    assert (
        SetRpm.of(directory, MINIMAL, Repository.open(published.repo))
        .locations()["paint"]
        .startswith("Packages/")
    )
    with LyingMirror(directory) as mirror:
        updatable.add_remote(mirror.url)
        updatable.completes()
        got = [one for one in rpm_requests(mirror.log) if one.status == 200]
    assert got
    assert all(one.path.startswith("pool/") for one in got)


def test_packages_come_from_the_repository_that_the_set_names(
    published: Published, updatable: Client, tmp_path: Path
) -> None:
    sets, packages = tmp_path / "sets", copy_of(published.packages(2), tmp_path / "packages")
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", sets]
    words += ["--from", "none", "--cachedir", tmp_path / "cache"]
    jigdo(*words, "--packages", f"os={packages}")
    with LyingMirror(sets) as first, LyingMirror(packages) as second:
        words = ["remote", "add", "demo", first.url, "--repository", f"os={second.url}"]
        jigdo(*words, "--gpg-key", published.key, env=updatable.env)
        updatable.completes()
        assert rpm_requests(second.log)
        assert not rpm_requests(first.log)
        assert all(one.path.endswith(".rpm") for one in second.log)

"""`mirror sync`, and what other programs copy: mirrors of a mirror that serve by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ContentDigest
from composer.rpm.rpmmd import parse_repomd
from tests.client.published import (
    BASE,
    MINIMAL,
    Published,
    SetRpm,
    copy_of,
    put,
    read_pointer,
    write_pointer,
)
from tests.client.pulling import REMOTE, Client, run_here
from tests.client.test_pull_resigned import sign
from tests.commands import Done, jigdo, serving
from tests.net.lying_mirror import LyingMirror


def synced(*words: object, status: int = 0) -> Done:
    """Sync; returns how it ended."""
    done = run_here("mirror", "sync", *words)
    assert done.status == status, f"{done.status}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err
    return done


def document(*words: object) -> Any:
    """Sync, which must succeed; returns the document of ``--json``."""
    return synced(*words, "--json").document


def sound(directory: Path, *words: object) -> None:
    """Require that `mirror verify` finds everything."""
    done = run_here("mirror", "verify", directory, *words)
    assert done.status == 0, done.out


def tree(directory: Path) -> dict[str, bytes]:
    """What clients can see of a mirror."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.relative_to(directory).as_posix().startswith(".")
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where the mirror of the mirror will be."""
    return tmp_path / "copy"


def test_mirror_of_a_mirror_serves_by_itself(
    mirror: LyingMirror, client: Client, copy: Path, tmp_path: Path
) -> None:
    told = document(mirror.url, copy)
    assert told["fetch"]["sets"] == 4
    assert told["changed"]
    sound(copy)
    with serving(copy, tmp_path / "log") as url:
        client.add_remote(url)
        client.completes()
    # What no version needs was left there.
    there = {path.name for path in mirror.directory.rglob("*.rpm")}
    assert {path.name for path in copy.rglob("*.rpm")} < there


def test_what_is_there_is_not_fetched_again(mirror: LyingMirror, copy: Path) -> None:
    document(mirror.url, copy)
    before = len(mirror.log)
    told = document(mirror.url, copy)
    assert not told["changed"]
    assert told["here"]["rpms"] > 40
    again = [one for one in mirror.log[before:] if one.path.startswith("Packages/")]
    assert not again
    (copy / ".jigdo-sync/state.json").unlink()
    before = len(mirror.log)
    assert document(mirror.url, copy)["here"] == told["here"]
    assert not [one for one in mirror.log[before:] if one.path.startswith("Packages/")]


def test_update_fetches_only_what_is_new(published: Published, copy: Path) -> None:
    document(published.root / "mirror1", copy)
    old = {path.name for path in copy.rglob("*.rpm")}
    with LyingMirror(published.root / "mirror2") as mirror:
        told = document(mirror.url, copy)
        packages = {one.path for one in mirror.log if one.path.startswith("Packages/")}
    assert told["here"]["rpms"] >= len(old)
    assert not {Path(path).name for path in packages} & old
    assert len(packages) == told["fetch"]["packages"]
    sound(copy)


def test_only_the_named_versions_are_taken(
    mirror: LyingMirror, published: Published, client: Client, copy: Path
) -> None:
    told = document(mirror.url, copy, "--ref", f"{MINIMAL}@1.1")
    assert told["versions"] == [
        {"ref": MINIMAL, "version": "1.1", "commit": published.commit(MINIMAL, 2)}
    ]
    locations = published.set_rpm(MINIMAL, 2).locations().values()
    rpms = {path.relative_to(copy).as_posix() for path in copy.rglob("*.rpm")}
    assert rpms == {*locations, SetRpm.of(mirror.directory, MINIMAL).location}
    sound(copy, "--ref", f"{MINIMAL}@1.1")
    assert run_here("mirror", "verify", copy).status == 5
    client.add_remote(copy)
    client.completes()
    assert len(document(mirror.url, copy, "--newest", "1")["versions"]) == 2
    sound(copy, "--ref", f"{BASE}@1.1")
    assert "no such set" in synced(mirror.url, copy, "--ref", "no/such", status=1).err


def test_dry_run_says_what_it_takes_and_writes_nothing(mirror: LyingMirror, copy: Path) -> None:
    done = synced(mirror.url, copy, "--dry-run")
    assert not copy.exists()
    assert "to fetch: 4 sets" in done.out
    told = document(mirror.url, copy, "--dry-run")
    assert told["dry_run"]
    moved = document(mirror.url, copy)
    assert moved["fetch"] == told["fetch"]


def test_everything_makes_a_mirror_for_dnf_too(mirror: LyingMirror, copy: Path) -> None:
    synced(mirror.url, copy, "--all-packages")
    sound(copy, "--all-packages")
    theirs = tree(mirror.directory)
    repomd = parse_repomd(theirs["repodata/repomd.xml"])
    current = {record.location for record in repomd.records} | {"repodata/repomd.xml"}
    assert tree(copy) == {
        name: data
        for name, data in theirs.items()
        if name in current or not name.startswith("repodata/")
    }


def test_from_a_directory_rpms_are_linked_and_verified(
    published: Published, copy: Path, tmp_path: Path
) -> None:
    source = published.mirror(2, tmp_path / "source")
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    told = document(source, copy)
    assert told["linked"] == told["fetch"]["sets"] + told["fetch"]["packages"]
    assert os.path.samefile(source / location, copy / location)
    data = (source / location).read_bytes()
    put(source / location, bytes([data[0] ^ 1]) + data[1:])
    shutil.rmtree(copy)
    done = synced(source, copy, status=3)
    assert "paint" in done.err
    assert not (copy / location).exists()
    assert not (copy / "repodata").exists()


def test_partial_rpm_is_continued(mirror: LyingMirror, published: Published, copy: Path) -> None:
    location = max(
        published.set_rpm(MINIMAL, 2).locations().values(),
        key=lambda one: (mirror.directory / one).stat().st_size,
    )
    size = (mirror.directory / location).stat().st_size
    cut = size // 3
    staging = copy / ".jigdo-sync/staging"
    staging.mkdir(parents=True)
    pkgid = ContentDigest.of((mirror.directory / location).read_bytes())
    (staging / f"{pkgid}.file.part").write_bytes((mirror.directory / location).read_bytes()[:cut])
    document(mirror.url, copy)
    [asked] = mirror.requests(location)
    assert asked.range.startswith(f"bytes={cut}-")
    assert asked.sent == size - cut
    sound(copy)


def test_rpm_that_is_missing_leaves_the_old_state(
    published: Published, mirror: LyingMirror, copy: Path
) -> None:
    document(published.root / "mirror1", copy)
    before = tree(copy)
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    mirror.drop(location)
    done = synced(mirror.url, copy, status=1)
    assert "paint" in done.err
    now = tree(copy)
    assert {name: now[name] for name in before} == before
    sound(copy)
    mirror.honest()
    before_requests = len(mirror.log)
    document(mirror.url, copy)
    fetched = [one.path for one in mirror.log[before_requests:] if one.path.startswith("Pack")]
    assert fetched == [location]
    sound(copy)


@pytest.mark.parametrize("lie", ["html", "flip", "loop", "truncate"])
def test_wrong_rpm_is_told_and_never_visible(
    published: Published, mirror: LyingMirror, copy: Path, lie: str
) -> None:
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    tell = {
        "html": lambda: mirror.html(location),
        "flip": lambda: mirror.flip_bit(location, 1000),
        "loop": lambda: mirror.redirect_loop(location),
        "truncate": lambda: mirror.truncate(location),
    }
    tell[lie]()
    done = synced(mirror.url, copy, status=1 if lie in ("html", "loop") else 3)
    assert "paint" in done.err
    assert "hint:" in done.err
    assert not (copy / location).exists()
    assert not (copy / "repodata").exists()


def test_rpm_of_another_host_comes_by_a_redirect(
    published: Published, mirror: LyingMirror, copy: Path
) -> None:
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    with LyingMirror(published.root / "mirror2") as other:
        mirror.redirect(location, other.url + location)
        document(mirror.url, copy)
        assert [one.path for one in other.log] == [location]
    sound(copy)


def test_replaced_rpm_is_kept_for_clients_of_the_state_before(
    published: Published, copy: Path, tmp_path: Path
) -> None:
    """Here is an RPM of the same name that was signed by another."""
    source = published.root / "mirror2"
    document(source, copy)
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    sign(copy / location, tmp_path)
    old = (copy / location).read_bytes()
    told = document(source, copy)
    assert told["fetch"]["packages"] == 1
    assert (copy / location).read_bytes() == (source / location).read_bytes() != old
    kept = copy / "retained" / str(ContentDigest.of(old)) / Path(location).name
    assert kept.read_bytes() == old
    sound(copy)


_STOP = """
import os, sys
from pathlib import Path
left = int(sys.argv[1])
def counted(real):
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*args, **options)
    return call
from composer.system import files
os.replace = counted(os.replace)
os.link = counted(os.link)
Path.replace = counted(Path.replace)
Path.unlink = counted(Path.unlink)
sys.argv = ["jigdo-composer", "-q", "mirror", "sync", *sys.argv[2:]]
from composer.cli.main import main
main()
"""


def test_kill_at_any_step_leaves_the_old_state_or_the_new_one(
    published: Published, tmp_path: Path
) -> None:
    source, start = published.root / "mirror2", tmp_path / "start"
    only = ["--ref", MINIMAL]
    synced(published.root / "mirror1", start)
    commits = []
    for step in [*range(0, 120, 9), 10_000]:
        place = copy_of(start, tmp_path / f"copy{step}")
        argv = ["-c", _STOP, str(step), str(source), str(place), *only]
        status = subprocess.run([sys.executable, *argv], check=False).returncode
        assert status in (0, 9)
        commits.append(read_pointer(place)["refs"][1]["commit"])
        assert commits[-1] == published.commit(MINIMAL, 1 if status else 2) or step > 50
        sound(place, *only)
        if status:
            synced(source, place, *only)
            sound(place, *only)
        shutil.rmtree(place)
        if status == 0:
            break
    assert status == 0
    assert len(commits) > 2


def test_stale_origin_is_refused(published: Published, copy: Path) -> None:
    document(published.root / "mirror2", copy)
    before = tree(copy)
    done = synced(published.root / "mirror1", copy, status=3)
    assert "older than what is here" in done.err
    assert "--allow-older" in done.err
    assert tree(copy) == before
    synced(published.root / "mirror1", copy, "--allow-older")
    sound(copy)


def test_metadata_of_older_states_goes(published: Published, copy: Path, tmp_path: Path) -> None:
    source = published.mirror(1, tmp_path / "source")
    document(source, copy)
    first = set(copy.glob("repodata/*"))
    copy_of(published.root / "mirror2", source)
    shutil.copytree(published.root / "mirror2/repodata", source / "repodata", dirs_exist_ok=True)
    document(source, copy)
    assert all(path.exists() for path in first)
    words = ["set", "build", "--from", "none", "--repo", published.repo, "--ref", MINIMAL]
    words += ["--packages", published.packages(2), "--output", source, "--full", "paint"]
    jigdo(*words, "--cachedir", tmp_path / "cache")
    document(source, copy)
    repomd = parse_repomd((copy / "repodata/repomd.xml").read_bytes())
    current = {Path(record.location).name for record in repomd.records}
    assert {path.name for path in copy.glob("repodata/*")} > current
    left = [path for path in first if path.exists() and path.name not in current]
    assert [path.name for path in left] == ["repomd.xml"]


def test_metadata_without_sha256_is_refused(
    published: Published, copy: Path, tmp_path: Path
) -> None:
    source = tmp_path / "sha1"
    copy_of(published.root / "mirror2", source)
    pointers = read_pointer(source)
    shutil.rmtree(source / "repodata")
    subprocess.run(["createrepo_c", "-q", "--checksum", "sha1", source], check=True)
    write_pointer(source, pointers)
    done = synced(source, copy, status=3)
    assert "SHA-256" in done.err
    assert "createrepo_c --checksum sha256" in done.err
    assert not (copy / "repodata").exists()


@pytest.mark.parametrize(
    "location",
    [".jigdo-sync/trust/a.rpm", "../a.rpm", "/a.rpm", "tuf/timestamp.json", "repodata/repomd.xml"],
)
def test_place_that_is_none_for_an_rpm_is_refused(
    published: Published, copy: Path, tmp_path: Path, location: str
) -> None:
    """What the origin names must not take the place of what is believed here."""
    source = published.mirror(2, tmp_path / "source")
    pointer = read_pointer(source)
    [entry] = [one for one in pointer["refs"] if one["ref"] == MINIMAL]
    data = (source / entry["set"]["location"]).read_bytes()
    entry["set"]["location"] = location
    write_pointer(source, pointer)
    if location.startswith((".j", "tuf")):
        put(source / location, data)
    done = synced(source, copy, "--ref", MINIMAL, status=3)
    assert "no place for an RPM" in done.err or "leads out" in done.err or "relative" in done.err
    assert not tree(copy)


def test_file_of_rpm_md_outside_of_repodata_is_refused(
    published: Published, copy: Path, tmp_path: Path
) -> None:
    source = published.mirror(2, tmp_path / "source")
    path = source / "repodata/repomd.xml"
    put(path, path.read_bytes().replace(b'href="repodata/', b'href="tuf/', 1))
    assert "no place for a file of rpm-md" in synced(source, copy, status=3).err
    assert not tree(copy)


def test_full_disk_is_told_and_nothing_is_lost(
    mirror: LyingMirror, published: Published, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=22m", "none", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        copy = small / "copy"
        done = synced(mirror.url, copy, status=4)
        assert "are free" in done.err
        # Room for all, at first: somebody else takes it meanwhile.
        subprocess.run(["mount", "-o", "remount,size=80m", small], check=True)
        document(published.root / "mirror1", copy)
        before = tree(copy)
        rpms = [one for one in mirror.directory.rglob("*.rpm") if one.name.startswith("atlas")]
        assert rpms
        filler = small / "filler"

        def fill() -> None:
            if not filler.exists() and any(one.path.startswith("Pack") for one in mirror._log):
                free = shutil.disk_usage(small).free
                filler.write_bytes(b"\0" * max(0, free - 20_000))

        mirror.on_request = fill
        done = synced(mirror.url, copy, status=4)
        assert "no space left" in done.err
        filler.unlink()
        now = tree(copy)
        assert {name: now[name] for name in before} == before
        sound(copy)
        mirror.on_request = lambda: None
        document(mirror.url, copy)
        sound(copy)
    finally:
        subprocess.run(["umount", small], check=True)


# Statements.


@pytest.fixture
def signed(published: Published, tmp_path: Path) -> tuple[Path, Path]:
    """A mirror with statements, and their root, which a person has."""
    directory = published.mirror(2, tmp_path / "signed")
    jigdo("mirror", "keys", "init", directory, "--tuf-keys", tmp_path / "keys")
    return directory, Path(shutil.copy(directory / "tuf/1.root.json", tmp_path / "root.json"))


def trusting(client: Client, root: Path, *urls: object) -> None:
    """Give a client a remote that demands statements."""
    jigdo("remote", "add", REMOTE, *urls, "--tuf-root", root, env=client.env)


def test_statements_are_copied_and_serve(
    signed: tuple[Path, Path], client: Client, copy: Path, tmp_path: Path
) -> None:
    directory, root = signed
    jigdo("mirror", "keys", "rotate", directory, "root", "--tuf-keys", tmp_path / "keys")
    synced(directory, copy, "--tuf-root", root)
    files = {path.name: path.read_bytes() for path in (directory / "tuf").iterdir()}
    mine = {path.name: path.read_bytes() for path in (copy / "tuf").iterdir()}
    assert {"1.root.json", "2.root.json", "timestamp.json"} <= mine.keys() <= files.keys()
    assert all(files[name] == data for name, data in mine.items())
    sound(copy, "--tuf-root", root)
    trusting(client, root, copy)
    client.completes()


def test_statements_of_others_expired_and_older_ones_are_refused(
    signed: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    directory, root = signed
    other = tmp_path / "other"
    shutil.copytree(directory, other, ignore=shutil.ignore_patterns("tuf"))
    jigdo("mirror", "keys", "init", other, "--tuf-keys", tmp_path / "other-keys")
    assert "signed" in synced(other, copy, "--tuf-root", root, status=3).err
    assert not (copy / "repodata").exists()
    older = tmp_path / "older"
    shutil.copytree(directory, older)
    jigdo("mirror", "refresh", directory, "--tuf-keys", tmp_path / "keys")
    synced(directory, copy, "--tuf-root", root)
    before = tree(copy)
    assert "older than what this machine has seen" in synced(older, copy, status=3).err
    assert tree(copy) == before
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    env = {"LD_PRELOAD": str(found[0]), "FAKETIME": "+30d"}
    words = ["mirror", "sync", directory, copy, "--tuf-root", root]
    assert "expired on" in jigdo(*words, env=env, status=3).err
    assert tree(copy) == before


# What other programs copy.


def needs(program: str) -> None:
    """Skip the test where a program is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def test_copy_by_rsync_is_a_mirror(signed: tuple[Path, Path], client: Client, copy: Path) -> None:
    needs("rsync")
    directory, root = signed
    subprocess.run(["rsync", "-a", "--delay-updates", f"{directory}/", copy], check=True)
    sound(copy, "--all-packages", "--tuf-root", root)
    trusting(client, root, copy)
    client.completes()


def test_copy_by_wget_is_a_mirror(signed: tuple[Path, Path], client: Client, copy: Path) -> None:
    needs("wget")
    from tests.net.real_servers import nginx

    directory, root = signed
    with nginx(directory, more="autoindex on;") as server:
        argv = ["wget", "-m", "-nv", "-np", "-nH", "-e", "robots=off", "-R", "index.html*"]
        subprocess.run([*argv, "-P", copy, server.url], check=True, capture_output=True)
    sound(copy, "--all-packages", "--tuf-root", root)
    trusting(client, root, copy)
    client.completes()


def test_copy_of_rpm_md_alone_serves_content_with_statements_of_the_origin(
    signed: tuple[Path, Path], client: Client, copy: Path, tmp_path: Path
) -> None:
    """As reposync makes it: the files of repomd.xml, and the RPMs that the package list names."""
    directory, root = signed
    needs("dnf")
    if subprocess.run(["dnf", "reposync", "--help"], check=False, capture_output=True).returncode:
        pytest.skip("dnf has no reposync: dnf-plugins-core is not installed")
    argv = ["dnf", "--assumeyes", "--setopt=reposdir=/nonexistent", "--releasever=1"]
    argv += [f"--repofrompath=copy,{directory.as_uri()}", "--repoid=copy", "--nogpgcheck"]
    argv += [f"--setopt=cachedir={tmp_path / 'cache'}", "reposync", "--download-metadata"]
    argv += ["--norepopath", "-p", str(copy)]
    subprocess.run(argv, check=True, capture_output=True)
    assert not (copy / "tuf").exists()
    with LyingMirror(copy) as content, LyingMirror(directory) as origin:
        trusting(client, root, content.url, origin.url)
        client.completes()
        assert all(one.path.startswith("tuf/") for one in origin.log if one.status < 400)
        assert [one for one in content.log if one.path.endswith(".rpm")]

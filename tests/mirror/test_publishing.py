"""`mirror publish`: what operators stage, into the tree that mirrors and clients read."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ContentDigest
from composer.mirror import renewing
from composer.mirror.known import KnownFiles
from composer.mirror.lists import read_lists
from composer.mirror.renewing import alone
from composer.mirror.set_rpm import signers_of, signing_keys
from composer.rpm.rpmmd import read_packages
from tests.client.published import BASE, MINIMAL, Gpg, Published, copy_of, put
from tests.client.pulling import Client, run_here
from tests.commands import Done, jigdo, serving
from tests.mirror.test_publish import make, tree


def publish(*words: object, status: int = 0) -> Done:
    """Publish; returns how it ended."""
    done = run_here("mirror", "publish", *words)
    assert done.status == status, f"{done.status}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err
    return done


def document(*words: object) -> Any:
    """Publish, which must succeed; returns the document of ``--json``."""
    return publish(*words, "--json").document


def refused(*words: object, saying: str, status: int = 1, directory: Path) -> Done:
    """Require that it fails with these words and a hint, and readers see what they saw."""
    before = tree(directory / "repodata"), tree(directory / "tuf")
    done = publish(*words, directory, status=status)
    assert saying in done.err, done.err
    assert "hint: " in done.err, done.err
    assert (tree(directory / "repodata"), tree(directory / "tuf")) == before
    assert not list(directory.glob(".repodata.*"))
    return done


def sound(directory: Path, *words: object) -> None:
    """Require that everything a client could need is there and intact."""
    done = run_here("mirror", "verify", directory, "--full", "--all-packages", *words)
    assert done.status == 0, done.out + done.err


@pytest.fixture
def staged(published: Published, tmp_path: Path) -> Path:
    """A repository of generation 1, as `set build` wrote it beside its packages."""
    return published.mirror(1, tmp_path / "staged")


@pytest.fixture
def www(tmp_path: Path) -> Path:
    """The published tree."""
    return tmp_path / "www"


@pytest.fixture
def at_1(staged: Path, www: Path) -> Path:
    """The tree with generation 1 published."""
    publish(staged, www)
    return www


def tool(place: Path, *, seed: int = 1, version: str = "1") -> Path:
    """A small RPM ``tool``, whose size does not depend on its content."""
    place.mkdir(exist_ok=True)
    rpm, _ = make(place, ref="tool", version=version, seed=seed)
    return rpm


def stage(place: Path, rpm: Path) -> Path:
    """A repository of one package."""
    (place / "Packages").mkdir(parents=True)
    shutil.copy2(rpm, place / "Packages")
    subprocess.run(["createrepo_c", "-q", place], check=True)
    return place


def listed(directory: Path) -> dict[str, str]:
    """What rpm-md says: pkgid by location."""
    return {one.location: str(one.pkgid) for one in read_packages(directory)}


def test_client_pulls_what_was_published(
    published: Published, www: Path, updatable: Client, tmp_path: Path
) -> None:
    publish(published.root / "mirror1", www)
    publish(published.root / "mirror2", www)
    sound(www)
    with serving(www, tmp_path / "log") as url:
        updatable.add_remote(url)
        updatable.completes()


def test_rpms_are_shared_with_what_was_staged(staged: Path, www: Path) -> None:
    told = document(staged, www)["rpms"]
    assert told["copied"] == 0
    assert told["linked"] + told["cloned"] == len(list(staged.rglob("*.rpm")))
    # What is there already is not even looked at.
    told = document(staged, www)["rpms"]
    assert told["here"] == len([*staged.glob("Packages/**/*.rpm")])
    assert (told["linked"], told["cloned"], told["copied"]) == (0, 0, 0)


def test_rpms_that_not_all_can_read_are_copied(staged: Path, www: Path) -> None:
    path = next(staged.glob("Packages/**/atlas*.rpm"))
    put(path, path.read_bytes())
    path.chmod(0o600)
    time = path.stat().st_mtime_ns
    assert document(staged, www)["rpms"]["copied"] == 1
    made = www / path.relative_to(staged)
    assert (made.stat().st_mode & 0o777, made.stat().st_mtime_ns) == (0o644, time)
    assert path.stat().st_mode & 0o777 == 0o600


def test_tree_does_not_depend_on_how_it_came_about(staged: Path, tmp_path: Path) -> None:
    publish(staged, tmp_path / "one")
    other = tmp_path / "elsewhere"
    subprocess.run(["cp", "-a", "--reflink=never", staged, other], check=True)
    publish(other, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_update_makes_the_old_set_another_version(published: Published, at_1: Path) -> None:
    told = document(published.root / "mirror2", at_1)
    newest = {one["ref"]: one["version"] for one in told["sets"] if one["newest"]}
    assert newest == {BASE: "1.1", MINIMAL: "1.1"}
    lists = read_lists(at_1)
    assert [one.version for one in lists.pointer.entries] == ["1.1", "1.1"]
    assert [one.version for one in lists.versions.entries] == ["1", "1"]


def test_older_set_becomes_the_newest_only_when_told(
    published: Published, staged: Path, www: Path
) -> None:
    publish(published.root / "mirror2", www)
    told = document(staged, www)
    assert not any(one["newest"] for one in told["sets"])
    assert read_lists(www).pointer.entries[0].version == "1.1"
    document(staged, www, "--allow-older")
    assert read_lists(www).pointer.entries[0].version == "1"
    sound(www)


def test_packages_are_published_beside_sets(
    published: Published, www: Path, tmp_path: Path
) -> None:
    packages = published.packages(1)
    rpm = next(published.packages(2).glob("Packages/**/*-1.1-*.rpm"), None) or next(
        one
        for one in sorted(published.packages(2).rglob("*.rpm"))
        if not (packages / one.relative_to(published.packages(2))).exists()
    )
    publish("--packages", packages, "--packages", rpm, www)
    listed = {one.location for one in read_packages(www)}
    there = {one.relative_to(packages).as_posix() for one in packages.rglob("*.rpm")}
    assert listed == there | {f"Packages/{rpm.name}"}


def test_nothing_to_publish_is_a_usage_error(www: Path) -> None:
    assert "nothing to publish" in publish(www, status=2).err


def test_rpm_that_was_built_anew_is_read_anew(www: Path, tmp_path: Path) -> None:
    """Another content of the same name, size and time: createrepo_c takes it for the old one."""
    old, new = tool(tmp_path / "old", seed=1), tool(tmp_path / "new", seed=2)
    publish("--packages", old, www)
    path = www / "Packages" / old.name
    status = path.stat()
    put(path, new.read_bytes())
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    again = copy_of(www, tmp_path / "witness")
    os.utime(again / "Packages" / old.name, ns=(status.st_mtime_ns, status.st_mtime_ns))
    subprocess.run(["createrepo_c", "-q", "--update", again], check=True)
    assert listed(again) == {f"Packages/{old.name}": digest(old)}
    publish("--packages", tool(tmp_path / "other", version="2"), www)
    assert listed(www)[f"Packages/{old.name}"] == digest(new)


def digest(path: Path) -> str:
    return str(ContentDigest.of(path.read_bytes()))


def test_file_whose_inode_alone_was_touched_is_not_hashed_again(www: Path, tmp_path: Path) -> None:
    publish("--packages", tool(tmp_path / "one"), www)
    (rpm,) = www.rglob("*.rpm")
    known = KnownFiles(www)
    # What is said of it is believed, though it is wrong: so it was not read.
    state = www / ".jigdo-publish/files.json"
    state.write_text(state.read_text().replace(digest(rpm), "0" * 64, 1))
    os.link(rpm, tmp_path / "link")
    assert str(KnownFiles(www).pkgid("Packages/" + rpm.name)) == "0" * 64
    rpm.touch()
    assert str(KnownFiles(www).pkgid("Packages/" + rpm.name)) == digest(rpm)
    assert str(known.pkgid("Packages/" + rpm.name)) == digest(rpm)


def test_set_that_somebody_wrote_into_is_told_and_can_be_published_again(
    published: Published, staged: Path, at_1: Path
) -> None:
    entry = read_lists(at_1).pointer.entries[0]
    path = at_1 / entry.location
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    put(path, bytes(data))
    words = ["--packages", published.packages(2)]
    done = refused(
        *words, saying="which was published: checksum mismatch", status=3, directory=at_1
    )
    assert "publish that set again" in done.err
    told = document(staged, at_1)
    assert [one["new"] for one in told["sets"]] == [True, False]
    sound(at_1)


# Two at once


def test_another_publisher_is_told_who_is_at_work(at_1: Path, staged: Path) -> None:
    with alone(at_1):
        done = publish(staged, at_1, status=75)
        assert f"process {os.getpid()}" in done.err
        assert "--wait" in done.err
        words = [sys.executable, "-m", "composer", "mirror", "publish", staged, at_1, "--wait"]
        waiting = subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        while "waiting for process" not in waiting.stderr.readline():
            assert waiting.poll() is None
    waiting.communicate()
    assert waiting.returncode == 0


# Bad input


def test_wrong_checksum_in_the_source_is_refused(staged: Path, at_1: Path, www: Path) -> None:
    rpm = next(staged.glob("Packages/**/atlas*.rpm"))
    data = bytearray(rpm.read_bytes())
    data[-20] ^= 1
    put(rpm, bytes(data))
    fresh = www.with_name("fresh")
    fresh.mkdir()
    refused(staged, saying=f"{rpm}: checksum mismatch", status=3, directory=fresh)
    assert not list(fresh.rglob("*.rpm")) or not (fresh / rpm.relative_to(staged)).exists()


def test_missing_checksums_in_the_source_are_refused(www: Path, tmp_path: Path) -> None:
    source = stage(tmp_path / "source", tool(tmp_path / "work"))
    subprocess.run(["createrepo_c", "-q", "--checksum", "sha1", source], check=True)
    www.mkdir()
    refused(source, saying="not SHA-256", status=3, directory=www)
    subprocess.run(["createrepo_c", "-q", "--checksum", "sha256", source], check=True)
    repomd = source / "repodata/repomd.xml"
    text = re.sub(r"<checksum .*?</checksum>", "", repomd.read_text())
    repomd.write_text(text)
    refused(source, saying="not SHA-256", status=3, directory=www)


def test_repodata_older_than_the_packages_is_refused(www: Path, tmp_path: Path) -> None:
    source = stage(tmp_path / "source", tool(tmp_path / "one"))
    www.mkdir()
    shutil.copy(tool(tmp_path / "two", version="2"), source / "Packages")
    refused(source, saying="does not list 1 RPMs", status=3, directory=www)
    for rpm in source.rglob("*.rpm"):
        rpm.unlink()
    done = refused(source, saying="no such file", directory=www)
    assert "createrepo_c --update" in done.err
    shutil.copy(tool(tmp_path / "three", seed=3), source / "Packages")
    refused(source, saying="checksum mismatch", status=3, directory=www)


def test_two_rpms_of_one_name_are_refused(www: Path, tmp_path: Path) -> None:
    one, other = tool(tmp_path / "one", seed=1), tool(tmp_path / "other", seed=2)
    www.mkdir()
    words = ["--packages", one, "--packages", other]
    done = refused(*words, saying="two RPMs of one name", status=2, directory=www)
    assert digest(one) in done.err
    assert digest(other) in done.err
    publish("--packages", one, www)
    refused("--packages", other, saying="two RPMs of one name", status=2, directory=www)
    # Not under another location either.
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    shutil.copy(other, source / "b")
    refused("--packages", source, saying="two RPMs of one name", status=2, directory=www)
    assert listed(www) == {f"Packages/{one.name}": digest(one)}


def test_damaged_rpm_is_refused(www: Path, tmp_path: Path) -> None:
    rpm = tool(tmp_path / "one")
    data = bytearray(rpm.read_bytes())
    data[-500] ^= 1
    rpm.write_bytes(data)
    www.mkdir()
    refused("--packages", rpm, saying="rpm refuses it", status=3, directory=www)
    rpm.write_bytes(data[:200])
    refused("--packages", rpm, saying="rpm refuses it", status=3, directory=www)
    # Also one that rpm-md describes as it is.
    rpm.write_bytes(b"no RPM")
    assert "hint" in publish(tmp_path / "one", www, status=1).err


def test_rpm_that_changes_while_it_is_read_is_refused(
    www: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpm = tool(tmp_path / "one")
    other = tool(tmp_path / "other", seed=2).read_bytes()
    real = ContentDigest.of_stream
    calls = []

    def changing(stream: Any) -> ContentDigest:
        found = real(stream)
        if Path(stream.name).name == rpm.name:
            calls.append(stream.name)
            if len(calls) == 2:  # the first has told what it is
                rpm.write_bytes(other)
        return found

    www.mkdir()
    monkeypatch.setattr(ContentDigest, "of_stream", changing)
    refused("--packages", rpm, saying="changed while it was read", status=3, directory=www)
    assert not list(www.rglob("Packages/*.rpm"))


def test_source_that_leads_out_of_itself_is_refused(www: Path, tmp_path: Path) -> None:
    source = stage(tmp_path / "source", tool(tmp_path / "work"))
    (rpm,) = source.rglob("*.rpm")
    secret = tmp_path / "secret.rpm"
    rpm.rename(secret)
    rpm.symlink_to(secret)
    www.mkdir()
    refused(source, saying="a symlink that leads out of", status=3, directory=www)
    (source / "repodata/repomd.xml").unlink()
    refused("--packages", source, saying="a symlink that leads out of", status=3, directory=www)
    rpm.unlink()
    rpm.symlink_to(rpm.name)
    refused("--packages", source, saying="no RPMs in", directory=www)


def test_source_that_is_the_tree_is_refused(at_1: Path) -> None:
    refused(at_1, saying="is the tree that is to be published into", status=2, directory=at_1)


def test_directory_without_rpm_md_is_refused(at_1: Path, tmp_path: Path) -> None:
    refused(tmp_path, saying="no rpm-md repository", directory=at_1)


def test_set_whose_packages_would_be_missing_is_refused(
    published: Published, www: Path, tmp_path: Path
) -> None:
    sets = tmp_path / "sets"
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", sets]
    words += ["--packages", published.packages(2), "--cachedir", tmp_path / "cache"]
    jigdo(*words, "--from", "none")
    www.mkdir()
    done = refused(sets, saying="would not be in the tree", directory=www)
    assert "--packages" in done.err
    publish(sets, "--packages", published.packages(2), www)
    sound(www)


def test_expired_keys_of_a_root_are_told(published: Published, at_1: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    jigdo("mirror", "keys", "init", at_1, "--tuf-keys", keys, "--days", "root=1")
    words = ["--tuf-keys", keys, at_1]
    (keys / "root-1.pem").rename(tmp_path / "root-1.pem")
    later = {"LD_PRELOAD": faketime(), "FAKETIME": "+3d"}
    done = jigdo("mirror", "publish", published.root / "mirror2", *words, env=later, status=1)
    assert "root: expired, and cannot be signed" in done.err
    assert read_lists(at_1).pointer.entries[0].version == "1"


def faketime() -> str:
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1") + glob.glob(
        "/usr/lib64/faketime/libfaketime.so.1"
    )
    if not found:
        pytest.skip("libfaketime is not installed")
    return found[0]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system with little room."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    place = tmp_path / "tiny"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place]
    done = subprocess.run(list(map(str, words)), check=False)
    if done.returncode:
        pytest.skip("cannot mount here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_disk_without_room_is_told_before_anything_is_copied(
    published: Published, tiny: Path
) -> None:
    www = tiny / "www"
    www.mkdir()
    refused(published.root / "mirror2", saying="bytes are needed", status=4, directory=www)
    assert not list(www.rglob("*.rpm"))


def test_disk_that_fills_up_in_the_middle_leaves_the_old_state(
    published: Published, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", tiny], check=True)
    www, filler = tiny / "www", tiny / "filler"
    publish(published.root / "mirror1", www)
    real = renewing._createrepo

    def filled(*words: Any, **options: Any) -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(1 << 16))
        real(*words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(renewing, "_createrepo", filled)
        refused(published.root / "mirror2", saying="no space left", status=4, directory=www)
    filler.unlink()
    sound(www)
    publish(published.root / "mirror2", www)
    sound(www)


def test_permission_missing_is_told(published: Published, at_1: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root to become somebody else")
    before = tree(at_1)
    without = "-dac_override,-dac_read_search"
    for path in [at_1, *at_1.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    argv = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", sys.executable]
    argv += ["-m", "composer", "mirror", "publish", f"{published.root}/mirror2", str(at_1)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ermission denied" in done.stderr or "not yours to change" in done.stderr, done.stderr
    assert "hint: " in done.stderr
    assert tree(at_1) == before


# Signing


@pytest.fixture(scope="module")
def gpg() -> Iterator[tuple[Gpg, str]]:
    """A GPG home with a key."""
    with Gpg.home() as home:
        yield home, home.make_key("operator", algorithm="rsa2048")


def test_sets_are_signed_before_anything_names_them(
    published: Published, www: Path, updatable: Client, gpg: tuple[Gpg, str], tmp_path: Path
) -> None:
    home, key = gpg
    words = ["--rpmsign", key, "--gpg-sign", key, "--gpg-homedir", home.directory, www]
    publish(published.root / "mirror1", *words)
    told = document(published.root / "mirror2", *words)
    sound(www)
    for one in told["sets"]:
        assert signers_of(www / one["location"]) == signing_keys(key, home.directory)
        assert one["pkgid"] == digest(www / one["location"])
    home.run("--verify", www / "repodata/repomd.xml.asc", www / "repodata/repomd.xml")
    # A second run finds them, though they are other files than what is staged.
    again = document(published.root / "mirror2", *words)
    assert not any(one["new"] for one in again["sets"])
    assert [one["location"] for one in again["sets"]] == [one["location"] for one in told["sets"]]
    updatable.add_remote(www)
    updatable.completes()


def test_signed_set_takes_the_place_of_the_unsigned_one(
    staged: Path, at_1: Path, gpg: tuple[Gpg, str]
) -> None:
    home, key = gpg
    old = read_lists(at_1).locations
    words = ["--rpmsign", key, "--gpg-homedir", home.directory, at_1]
    told = document(staged, *words)
    assert all(one["new"] for one in told["sets"])
    assert not old & read_lists(at_1).locations
    assert all((at_1 / one).exists() for one in old)  # who has read the old pointer reads them
    sound(at_1)
    # And not the other way round.
    told = document(staged, at_1)
    assert not any(one["new"] for one in told["sets"])


def test_signed_repomd_is_not_replaced_by_an_unsigned_one(
    staged: Path, www: Path, gpg: tuple[Gpg, str]
) -> None:
    home, key = gpg
    publish(staged, "--gpg-sign", key, "--gpg-homedir", home.directory, www)
    refused(staged, saying="its repomd.xml is signed", status=2, directory=www)


def test_key_that_is_not_there_is_told(staged: Path, at_1: Path, gpg: tuple[Gpg, str]) -> None:
    words = ["--gpg-homedir", gpg[0].directory]
    refused(staged, "--gpg-sign", "nobody", *words, saying="gpg failed", directory=at_1)
    refused(staged, "--rpmsign", "nobody", *words, saying="gpg failed", directory=at_1)


_LIBREPO = """
import librepo, sys
handle = librepo.Handle()
handle.urls, handle.repotype, handle.gpgcheck = [sys.argv[1]], librepo.LR_YUMREPO, True
handle.destdir, handle.gnupghomedir = sys.argv[2], sys.argv[3]
handle.yumdlist = ["primary"]
result = librepo.Result()
handle.perform(result)
"""


def test_repomd_and_its_signature_are_replaced_at_once(
    published: Published, www: Path, gpg: tuple[Gpg, str], tmp_path: Path
) -> None:
    home, key = gpg
    words = ["--gpg-sign", key, "--gpg-homedir", home.directory, www]
    publish(published.root / "mirror1", *words)
    place = www / "repodata"
    place.chmod(0o750)
    seen: set[tuple[str, ...]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            # One directory, so one moment, whatever comes meanwhile.
            moment = os.open(place, os.O_RDONLY)
            try:
                names = ("repomd.xml", "repomd.xml.asc")
                seen.add(tuple(_digest_at(moment, name) for name in names))
            except FileNotFoundError:
                pass  # the old directory, as it is removed
            finally:
                os.close(moment)

    watcher = threading.Thread(target=watch)
    watcher.start()
    publish(published.root / "mirror2", *words)
    ended.set()
    watcher.join()
    assert len(seen) == 2, "a signature of another repomd.xml"
    assert place.stat().st_mode & 0o777 == 0o750
    (tmp_path / "client").mkdir()
    argv = [sys.executable, "-c", _LIBREPO, www.as_uri(), tmp_path / "client", home.directory]
    subprocess.run(list(map(str, argv)), check=True)


def _digest_at(directory: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as stream:
        return str(ContentDigest.of(stream.read()))


# dnf


def dnf(www: Path, cache: Path, *words: str) -> str:
    """Run dnf on the tree; returns what it prints."""
    argv = ["dnf", "-q", "-y", f"--repofrompath=here,{www.as_uri()}", "--repo=here"]
    argv += [f"--setopt=cachedir={cache}", "--setopt=reposdir=/nonexistent", "--releasever=1"]
    argv += ["--setopt=here.gpgcheck=0", f"--installroot={cache}/root", "--forcearch=x86_64"]
    done = subprocess.run([*argv, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dnf_installs_from_the_tree_as_before(
    published: Published, www: Path, tmp_path: Path
) -> None:
    if shutil.which("dnf") is None or os.geteuid() != 0:
        pytest.skip("needs dnf, and root")
    publish(published.root / "mirror2", www)
    plain = dnf(published.packages(2), tmp_path / "plain", "repoquery")
    ours = dnf(www, tmp_path / "ours", "repoquery")
    assert set(plain.split()) <= set(ours.split())
    plain, ours = (
        dnf(place, tmp_path / cache, "install", "atlas", "--setopt=tsflags=noscripts")
        for place, cache in ((published.packages(2), "plain"), (www, "ours"))
    )
    assert "atlas-24.2" in plain
    assert plain == ours
    for cache in ("plain", "ours"):
        assert (tmp_path / cache / "root/usr/share/atlas/world.tiles").is_file()

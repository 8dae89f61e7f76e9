"""Repositories through libostree, in all modes: what is written, refused, kept and found."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, NoSpace, NotFound, VerificationFailed
from composer.ostree.objects import Header
from composer.ostree.repo import INLINE_LIMIT, MODES, SPOOL_LIMIT, Repository
from tests.jigdo.sets import fsck, objects, write_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")

FILE, SYMLINK = Header(0, 0, 0o100644), Header(0, 0, 0o120777)
WRONG = ObjectChecksum(b"\x11" * 32)
LARGE = hashlib.shake_256(b"large").digest(INLINE_LIMIT * 2 + 17)
LARGEST = LARGE + bytes(SPOOL_LIMIT)
# Headers that a bare-user-only repository can keep, and one that it cannot.
PLAIN = [FILE, Header(0, 0, 0o100755)]
RICH = Header(1000, 20, 0o104750, ((b"user.a", b"1"), (b"user.b", b"\0\xff")))


@pytest.fixture(params=MODES)
def repo(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """Return an empty repository, of every mode in turn."""
    return Repository.create(tmp_path / "repo", mode=request.param)


def _read(repo: Repository, checksum: ObjectChecksum) -> tuple[Header, bytes]:
    header, size, pieces = repo.content(checksum)
    data = b"".join(pieces)
    assert len(data) == size
    return header, data


def _pieces(data: bytes) -> Iterator[bytes]:
    yield from (data[start : start + 100_000] for start in range(0, len(data), 100_000))


# --- reading and writing


def test_mode_is_what_it_was_created_with(repo: Repository, tmp_path: Path) -> None:
    assert Repository.open(tmp_path / "repo").mode == repo.mode
    assert f"mode={repo.mode}".replace("=archive", "=archive-z2") in (
        (repo.path / "config").read_text()
    )


@pytest.mark.parametrize("data", [b"", b"content", bytes(range(256)) * 999])
@pytest.mark.parametrize("header", PLAIN, ids=["0644", "0755"])
def test_file_survives(repo: Repository, header: Header, data: bytes) -> None:
    with repo.transaction():
        checksum = repo.writer(header).write(data, None)
        assert _read(repo, checksum) == (header, data)  # staged
    assert _read(repo, checksum) == (header, data)


def test_checksum_is_the_same_in_every_mode(tmp_path: Path) -> None:
    found = set()
    for mode in MODES:
        repo = Repository.create(tmp_path / mode, mode=mode)
        with repo.transaction():
            found.add(repo.writer(FILE).write(b"content", None))
            found.add(repo.writer(FILE).write_stream(7, iter([b"con", b"tent"]), None))
    assert len(found) == 1


def test_owner_mode_and_attributes_survive(repo: Repository) -> None:
    if repo.mode == "bare-user-only":
        with pytest.raises(ComposerError), repo.transaction():
            repo.writer(RICH).write(b"content", None)
        return
    if repo.mode == "bare" and os.geteuid() != 0:
        pytest.skip("a bare repository keeps owners, which takes root")
    for write in ("whole", "stream"):
        data = write.encode() * 1000
        with repo.transaction():
            writer = repo.writer(RICH)
            if write == "whole":
                checksum = writer.write(data, None)
            else:
                checksum = writer.write_stream(len(data), _pieces(data), None)
        assert _read(repo, checksum) == (RICH, data)


def test_symlink_survives(repo: Repository) -> None:
    with repo.transaction():
        writer = repo.writer(SYMLINK)
        assert writer.is_symlink
        checksum = writer.write("ziel/ä".encode(), None)
    assert _read(repo, checksum) == (SYMLINK, "ziel/ä".encode())


def test_symlink_that_is_not_utf_8_is_refused_clearly(repo: Repository) -> None:
    with pytest.raises(ComposerError), repo.transaction():
        repo.writer(SYMLINK).write(b"a\xff", None)


@pytest.mark.parametrize("data", [LARGE, LARGEST], ids=["large", "largest"])
def test_large_file_survives(repo: Repository, data: bytes) -> None:
    with repo.transaction():
        expected = repo.writer(FILE).write(data, None)
    again = Repository.create(repo.path.parent / "again", mode=repo.mode)
    with again.transaction():
        streamed = again.writer(FILE).write_stream(len(data), _pieces(data), expected)
    assert streamed == expected
    assert _read(again, streamed) == (FILE, data)
    fsck(again)


def test_tree_survives_and_is_clean(repo: Repository) -> None:
    commit = write_tree(
        repo,
        "/usr/bin/sh 0100755 0:0 shell\n/usr/bin/link 0120777 0:0 sh\n/usr/empty 0100644 0:0\n",
        metadata={"version": "7"},
    )
    fsck(repo)
    repo.fsck_commit(commit)
    assert repo.refs() == {"test/x86_64/os": commit}
    assert repo.require("test/x86_64/os") == repo.resolve(str(commit)) == commit
    assert repo.commit(commit).version == "7"
    assert [e.name for e in repo.dirtree(repo.commit(commit).tree).directories] == ["usr"]


# --- what is refused


@pytest.mark.parametrize("data", [b"content", LARGE, LARGEST], ids=["small", "large", "largest"])
@pytest.mark.parametrize("streamed", [False, True])
def test_content_of_another_checksum_is_refused_and_not_kept(
    repo: Repository, data: bytes, streamed: bool
) -> None:
    writer = repo.writer(FILE)

    def write() -> ObjectChecksum:
        if streamed:
            return writer.write_stream(len(data), _pieces(data), WRONG)
        return writer.write(data, WRONG)

    with repo.transaction():
        with pytest.raises(VerificationFailed, match=str(WRONG)):
            write()
        assert not repo.has("file", WRONG)
    assert not objects(repo)
    fsck(repo)


def test_symlink_of_another_checksum_is_refused(repo: Repository) -> None:
    with repo.transaction(), pytest.raises(VerificationFailed):
        repo.writer(SYMLINK).write(b"target", WRONG)
    assert not objects(repo)


@pytest.mark.parametrize("kind", ["commit", "dirtree", "dirmeta"])
@pytest.mark.parametrize("data", [b"", b"nonsense" * 9, bytes(200)])
def test_bad_metadata_is_refused(repo: Repository, kind: str, data: bytes) -> None:
    own = ObjectChecksum(hashlib.sha256(data).digest())
    for checksum in (WRONG, own):
        with repo.transaction(), pytest.raises(ComposerError):
            repo.write_metadata(kind, checksum, data)
    assert not objects(repo)


def test_metadata_of_another_checksum_is_refused(repo: Repository) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    before = objects(repo)
    tree = repo.commit(commit).tree
    with repo.transaction(), pytest.raises(VerificationFailed):
        repo.write_metadata("dirtree", WRONG, repo.metadata("dirtree", tree))
    assert objects(repo) == before


@pytest.mark.parametrize("actual", [0, 5, 15])
def test_stream_of_another_length_is_refused(repo: Repository, actual: int) -> None:
    with repo.transaction(), pytest.raises(VerificationFailed):
        repo.writer(FILE).write_stream(10, iter([b"x" * actual]), None)
    assert not objects(repo)


def test_source_that_fails_leaves_nothing(repo: Repository) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 1000
        raise VerificationFailed("cut")

    with repo.transaction(), pytest.raises(VerificationFailed, match="cut"):
        repo.writer(FILE).write_stream(5000, broken(), None)
    assert not objects(repo)
    fsck(repo)


@pytest.mark.parametrize("ref", ["../evil", "a/../../evil", "/evil", ".hidden", "", "a b\n"])
def test_ref_that_is_no_name_is_refused(repo: Repository, ref: str, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a", ref=None)
    with pytest.raises(ComposerError), repo.transaction():
        repo.set_ref(ref, commit)
    assert not repo.refs()
    assert not list(tmp_path.rglob("*evil*"))


# --- what is not there


def test_what_is_no_repository_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFound, match="not an OSTree repository") as error:
            Repository.open(path)
        assert "init" in error.value.hint


def test_ref_that_is_not_there_is_not_found(repo: Repository) -> None:
    assert repo.resolve("no/such/ref") is None
    with pytest.raises(NotFound, match="no/such/ref"):
        repo.require("no/such/ref")


def test_objects_that_are_not_there_are_our_error(repo: Repository) -> None:
    assert not repo.has("file", WRONG)
    assert not repo.has("commit", WRONG)
    with pytest.raises(ComposerError, match=str(WRONG)):
        repo.content(WRONG)
    with pytest.raises(ComposerError, match=str(WRONG)):
        repo.commit(WRONG)
    with pytest.raises(VerificationFailed, match=str(WRONG)):
        repo.fsck_commit(WRONG)


def test_missing_content_is_what_is_not_there(repo: Repository) -> None:
    with repo.transaction():
        here = [repo.writer(FILE).write(b"%d" % number, None) for number in range(40)]
        here.append(repo.writer(SYMLINK).write(b"target", None))
    gone = {ObjectChecksum(hashlib.sha256(b"%d" % n).digest()) for n in range(300)}
    assert repo.missing_content([*here, *gone]) == gone
    assert repo.missing_content([]) == set()
    (victim,) = repo.path.glob(f"objects/{here[3].hex()[:2]}/{here[3].hex()[2:]}*")
    victim.unlink()
    assert repo.missing_content(here) == {here[3]}


def test_metadata_is_not_taken_for_content(repo: Repository) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    tree = repo.commit(commit).tree
    assert repo.missing_content([commit, tree]) == {commit, tree}


@pytest.mark.parametrize("size", [100, INLINE_LIMIT * 2])
def test_damaged_object_is_our_error(repo: Repository, size: int) -> None:
    data = LARGE[:size]
    commit = write_tree(repo, "/a 0100644 0:0 a")
    with repo.transaction():
        checksum = repo.writer(FILE).write(data, None)
        tree = repo.write_dirtree({"a": checksum}, {})
        meta = repo.write_dirmeta(Header(0, 0, 0o040755))
        commit = repo.write_commit(tree, meta, subject="", metadata={}, timestamp=0)
    (path,) = repo.path.glob(f"objects/{checksum.hex()[:2]}/{checksum.hex()[2:]}*")
    damaged = bytearray(path.read_bytes())
    for at in range(len(damaged) // 2, min(len(damaged), len(damaged) // 2 + 40)):
        damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(VerificationFailed):
        repo.fsck_commit(commit)
    try:
        assert _read(repo, checksum)[1] != data
    except ComposerError:
        assert repo.mode == "archive"


def test_object_that_is_gone_fails_fsck(repo: Repository) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    (checksum,) = [e.checksum for e in repo.dirtree(repo.commit(commit).tree).files]
    (path,) = repo.path.glob(f"objects/{checksum.hex()[:2]}/{checksum.hex()[2:]}*")
    path.unlink()
    with pytest.raises(VerificationFailed):
        repo.fsck_commit(commit)


# --- transactions


class Stop(Exception):
    """Ends a transaction."""


def test_transaction_that_fails_keeps_the_old_ref_and_its_objects_for_later(
    repo: Repository,
) -> None:
    old = write_tree(repo, "/a 0100644 0:0 old")
    written = []

    def stopped() -> None:
        with repo.transaction():
            written.append(repo.writer(FILE).write(b"staged", None))
            repo.set_ref("test/x86_64/os", WRONG)
            repo.set_ref("other", old)
            raise Stop

    with pytest.raises(Stop):
        stopped()
    (checksum,) = written
    assert repo.refs() == {"test/x86_64/os": old}
    assert repo.missing_content([checksum]) == {checksum}
    fsck(repo)
    repo.land_staged()
    assert repo.missing_content([checksum]) == set()
    assert repo.refs() == {"test/x86_64/os": old}
    fsck(repo)


def test_land_staged_of_nothing_does_nothing(repo: Repository) -> None:
    repo.land_staged()
    repo.land_staged()
    assert not objects(repo)


_KILLED = """
import os, signal, sys
from pathlib import Path
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
repo = Repository.open(Path(sys.argv[1]))
with repo.transaction():
    for number in range(20):
        print(repo.writer(Header(0, 0, 0o100644)).write(b"%d" % number, None), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_objects_of_a_killed_process_are_found(repo: Repository) -> None:
    old = write_tree(repo, "/a 0100644 0:0 old")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(repo.path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    staged = [ObjectChecksum.parse(line) for line in done.stdout.split()]
    fsck(repo)
    again = Repository.open(repo.path)
    assert again.missing_content(staged) == set(staged)
    assert again.staged_content() == set(staged)
    again.land_staged()
    assert again.staged_content() == set()
    assert again.missing_content(staged) == set()
    assert again.refs() == {"test/x86_64/os": old}
    fsck(again)


def test_object_that_is_here_is_not_written_again(repo: Repository) -> None:
    with repo.transaction():
        checksum = repo.writer(FILE).write(b"content", None)
    before = objects(repo)
    with repo.transaction():
        repo.writer(FILE).write(b"content", checksum)
    assert objects(repo) == before


def test_partial_commit_is_told(repo: Repository) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    assert not repo.is_partial(commit)
    (repo.path / "state" / f"{commit}.commitpartial").touch()
    assert repo.is_partial(commit)


def test_detached_metadata_survives(repo: Repository) -> None:
    from gi.repository import GLib

    commit = write_tree(repo, "/a 0100644 0:0 a")
    assert repo.detached_metadata(commit) is None
    data = GLib.Variant("a{sv}", {"k": GLib.Variant("s", "v")}).get_data_as_bytes().get_data()
    with repo.transaction():
        repo.write_detached_metadata(commit, data)
    found = repo.detached_metadata(commit)
    assert found is not None
    assert found.unpack() == {"k": "v"}


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    yield place
    # libostree holds the repository open until it is collected.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(repo: Repository, size: int, *, streamed: bool) -> None:
    with repo.transaction():
        repo.set_ref("test/x86_64/os", WRONG)
        for number in range(40):
            data = hashlib.shake_256(b"%d" % number).digest(size)
            if streamed:
                repo.writer(FILE).write_stream(size, _pieces(data), None)
            else:
                repo.writer(FILE).write(data, None)


@needs_root
@pytest.mark.parametrize(
    ("size", "streamed"), [(1 << 20, False), (9 << 20, True), (40 << 20, True)]
)
@pytest.mark.parametrize("mode", ["archive", "bare-user", "bare"])
def test_full_disk_is_no_space_and_leaves_a_clean_repository(
    small_disk: Path, mode: str, size: int, streamed: bool
) -> None:
    repo = Repository.create(small_disk / "repo", mode=mode)
    old = write_tree(repo, "/a 0100644 0:0 old")
    with pytest.raises(NoSpace, match="no space left") as error:
        _fill(repo, size, streamed=streamed)
    assert "free some space" in error.value.hint
    assert repo.refs() == {"test/x86_64/os": old}
    fsck(repo)

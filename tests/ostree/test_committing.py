"""Our tree writer against libostree's own: the same commit for every tree, and whole objects."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gi.repository import Gio

from composer.checksum import ContentDigest, ObjectChecksum
from composer.compose.commit import _attributes
from composer.ostree.committing import UnsupportedFile, Written, write_tree
from composer.ostree.digests import DigestCache
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from tests.commands import ostree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and capabilities take root")

# cap_net_raw=ep, version 2: vfs_cap_data in linux/capability.h.
_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
_NAMES = ("a", "b.so", "with space", "ümlaut", "x" * 200, "-dash", "Z", "...", "new\nline")
_MODES = (0o644, 0o600, 0o755, 0o4755, 0o2711, 0o000, 0o444, 0o1644)


class Reference:
    """libostree's tree writer, with the attributes that a compose keeps."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo

    def write(self, root: Path, policy: Any = None) -> tuple[str, str]:
        def attributes(repo: Any, path: str, info: Any) -> Any:
            from gi.repository import GLib

            try:
                value = os.getxattr(f"{root}{path}", "security.capability", follow_symlinks=False)
            except OSError:
                return GLib.Variant("a(ayay)", [])
            return GLib.Variant("a(ayay)", [(b"security.capability\0", value)])

        with self._repo.libostree() as (engine, repo), self._repo.transaction():
            flags = engine.RepoCommitModifierFlags.NONE
            modifier = engine.RepoCommitModifier.new(flags, None, None)
            modifier.set_xattr_callback(attributes)
            if policy is not None:
                modifier.set_sepolicy(policy)
            tree = engine.MutableTree.new()
            descriptor = os.open(root, os.O_RDONLY)
            repo.write_dfd_to_mtree(descriptor, ".", tree, modifier, None)
            os.close(descriptor)
            _, file = repo.write_mtree(tree, None)
            return file.tree_get_contents_checksum(), file.tree_get_metadata_checksum()


def grow(root: Path, seed: int) -> None:
    """Make a tree of everything that OSTree can hold."""
    rng = random.Random(seed)
    directories: list[Path] = [root]
    files: list[Path] = []
    root.mkdir()
    for _ in range(rng.randrange(1, 12)):
        parent = rng.choice(directories)
        path = parent / rng.choice(_NAMES)
        if not path.exists():
            path.mkdir()
            directories.append(path)
    for _ in range(rng.randrange(60)):
        path = rng.choice(directories) / f"{rng.choice(_NAMES)}{rng.randrange(9)}"[-250:]
        if os.path.lexists(path):
            continue
        kind = rng.random()
        if kind < 0.15:
            path.symlink_to(rng.choice(("/usr/bin", "../x", "nowhere", "ü")))
        elif kind < 0.3 and files:
            os.link(rng.choice(files), path)
        else:
            size = rng.choice((0, 1, 10, 5000, 1 << 20, (1 << 20) + 1))
            path.write_bytes(rng.choice((b"x" * size, rng.randbytes(size))))
            files.append(path)
    if os.geteuid() == 0:
        for path in (*directories, *files):
            os.chown(path, rng.choice((0, 7, 70000)), rng.choice((0, 999)))
    for path in directories[1:]:
        path.chmod(rng.choice((0o755, 0o1777, 0o700, 0o2775)))
    for path in files:
        path.chmod(rng.choice(_MODES))
        if os.geteuid() == 0 and rng.random() < 0.1:
            os.setxattr(path, "security.capability", _CAPABILITY)
        if rng.random() < 0.1:
            os.setxattr(path, "user.other", b"of no interest")


def commit(repo: Repository, written: Written, ref: str) -> ObjectChecksum:
    with repo.transaction():
        checksum = repo.write_commit(
            written.tree, written.meta, subject="", metadata={}, timestamp=1
        )
        repo.set_ref(ref, checksum)
    return checksum


def take(repo: Repository, root: Path) -> Written:
    with repo.transaction():
        return write_tree(repo, root)


@needs_root
@pytest.mark.parametrize("mode", ["bare-user", "archive", "bare"])
@pytest.mark.parametrize("seed", range(12))
def test_checksums_are_libostrees(tmp_path: Path, seed: int, mode: str) -> None:
    grow(tmp_path / "tree", seed)
    reference = Repository.create(tmp_path / "reference", mode="bare-user")
    expected = Reference(reference).write(tmp_path / "tree")
    repo = Repository.create(tmp_path / "repo", mode=mode)
    written = take(repo, tmp_path / "tree")
    assert (str(written.tree), str(written.meta)) == expected
    commit(repo, written, "test")
    assert "no errors" in ostree(tmp_path / "repo", "fsck")
    assert list((tmp_path / "repo/tmp").glob("jigdo*")) == []


@needs_root
def test_objects_are_stored_as_libostree_stores_them(tmp_path: Path) -> None:
    grow(tmp_path / "tree", 99)
    reference = Repository.create(tmp_path / "reference", mode="bare-user")
    Reference(reference).write(tmp_path / "tree")
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    take(repo, tmp_path / "tree")

    def stored(place: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted((place / "objects").rglob("*.file")):
            status = path.stat()
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
            attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            found[path.name] = (*facts, status.st_mtime, attributes, path.read_bytes())
        return found

    assert stored(tmp_path / "repo") == stored(tmp_path / "reference")


@needs_root
def test_labels_are_those_of_libostree(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    grow(root, 5)
    contexts = root / "etc/selinux/mini/contexts/files"
    contexts.mkdir(parents=True)
    (contexts / "file_contexts").write_text(
        "/.*\tsystem_u:object_r:default_t:s0\n/a.*\t--\tsystem_u:object_r:a_t:s0\n/Z(/.*)?\t<<none>>\n"
    )
    (root / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=mini\n")
    (root / "etc/selinux/mini/policy").mkdir()
    (root / "etc/selinux/mini/policy/policy.33").write_text("stands for a policy")
    os.link(root / "etc/selinux/config", root / "a-linked-elsewhere")
    reference = Repository.create(tmp_path / "reference", mode="bare-user")
    with reference.libostree() as (engine, _):
        policy = engine.SePolicy.new(Gio.File.new_for_path(str(root)), None)
    expected = Reference(reference).write(root, policy)
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    with repo.transaction():
        written = write_tree(repo, root, attributes=_attributes(policy, {}))
    assert (str(written.tree), str(written.meta)) == expected
    commit(repo, written, "test")
    assert "no errors" in ostree(tmp_path / "repo", "fsck")
    assert "a_t" in ostree(tmp_path / "repo", "ls", "-X", "test", "/a-linked-elsewhere")
    assert "default_t" in ostree(tmp_path / "repo", "ls", "-X", "test", "/etc/selinux/config")


def test_what_the_repository_has_is_not_stored_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text("same")
        (tmp_path / name / "again").write_text("same")
    (tmp_path / "two/other").write_text("other")
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    first = take(repo, tmp_path / "one")
    assert (first.files, first.new) == (2, 1)
    (same,) = (tmp_path / "repo/objects").rglob("*.file")
    inode = same.stat().st_ino
    second = take(repo, tmp_path / "two")
    assert (second.files, second.new) == (3, 1)
    assert same.stat().st_ino == inode


def test_new_files_move_and_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    path = tmp_path / "tree/file"
    path.write_text("x")
    inode = path.stat().st_ino
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    take(repo, tmp_path / "tree")
    (stored,) = (tmp_path / "repo/objects").rglob("*.file")
    assert stored.stat().st_ino == inode


def test_hard_links_are_copied(tmp_path: Path) -> None:
    # Whoever has the other name could write into the object.
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").write_text("x")
    os.link(tmp_path / "outside", tmp_path / "tree/file")
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    take(repo, tmp_path / "tree")
    (stored,) = (tmp_path / "repo/objects").rglob("*.file")
    assert stored.stat().st_nlink == 1
    assert (tmp_path / "outside").stat().st_nlink == 2


def test_another_file_system_works(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    root = memory / f"jigdo-test-{os.getpid()}"
    try:
        grow(root, 3)
        reference = Repository.create(tmp_path / "reference", mode="bare-user")
        expected = Reference(reference).write(root)
        repo = Repository.create(tmp_path / "repo", mode="bare-user")
        written = take(repo, root)
    finally:
        shutil.rmtree(root)
    assert (str(written.tree), str(written.meta)) == expected
    commit(repo, written, "test")
    assert "no errors" in ostree(tmp_path / "repo", "fsck")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device(path: Path) -> None:
    try:
        # A whiteout of overlayfs.
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("no devices can be made here")


def _not_utf8(path: Path) -> None:
    (path.parent / os.fsdecode(b"\xff")).write_text("x")


@pytest.mark.parametrize("make", [_fifo, _socket, _device, _not_utf8])
def test_what_ostree_cannot_hold_is_named(tmp_path: Path, make: Any) -> None:
    (tmp_path / "tree/dir").mkdir(parents=True)
    make(tmp_path / "tree/dir/odd")
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    with pytest.raises(UnsupportedFile, match=r"/dir/"):
        take(repo, tmp_path / "tree")
    assert list((tmp_path / "repo/objects").rglob("*.file")) == []


def test_full_disk_leaves_no_object(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        (tmp_path / "tree").mkdir()
        # Linked, so that it has to be copied.
        (tmp_path / "tree/a").write_bytes(b"x" * 1_800_000)
        os.link(tmp_path / "tree/a", tmp_path / "tree/b")
        repo = Repository.create(tmp_path / "repo", mode="bare-user")
        with pytest.raises(Exception, match="space"):
            take(repo, tmp_path / "tree")
        assert list((tmp_path / "repo/objects").rglob("*.file")) == []
        assert list((tmp_path / "repo/tmp").glob("jigdo*")) == []
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_metadata_of_a_header_is_a_dirmeta(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir(mode=0o750)
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    written = take(repo, tmp_path / "tree")
    status = (tmp_path / "tree").stat()
    header = Header(status.st_uid, status.st_gid, status.st_mode)
    assert repo.metadata("dirmeta", written.meta) == header.metadata()


def _plant(root: Path) -> dict[str, bytes]:
    root.mkdir()
    texts = {f"file-{number}": b"text %d" % number for number in range(9)}
    for name, text in texts.items():
        (root / name).write_bytes(text)
    return texts


def test_file_of_known_content_is_not_read_if_its_object_is_there(tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    cache = DigestCache(tmp_path / "digests")
    texts = _plant(tmp_path / "first")
    with repo.transaction():
        first = write_tree(repo, tmp_path / "first", cache=cache)
    _plant(tmp_path / "second")
    known = {(tmp_path / "second" / name).lstat().st_ino: text for name, text in texts.items()}
    unread = tmp_path / "second/file-3"
    unread.write_bytes(b"TEXT 3")  # so that it shows whether it was read
    (tmp_path / "second/file-4").chmod(0o600)
    header = Header(os.geteuid(), os.getegid(), (tmp_path / "second/file-5").lstat().st_mode)
    gone = ObjectChecksum(hashlib.sha256(header.serialized() + b"text 5").digest())
    (repo.path / "objects" / str(gone)[:2] / f"{str(gone)[2:]}.file").unlink()

    def digest(status: os.stat_result) -> ContentDigest | None:
        return ContentDigest.of(known[status.st_ino]) if status.st_ino in known else None

    with repo.transaction():
        second = write_tree(repo, tmp_path / "second", cache=cache, unread=digest)
    before = {entry.name: entry.checksum for entry in repo.dirtree(first.tree).files}
    after = {entry.name: entry.checksum for entry in repo.dirtree(second.tree).files}
    assert {name for name in before if before[name] != after[name]} == {"file-4"}
    assert second.new == 2
    assert "no errors" in ostree(repo.path, "fsck")

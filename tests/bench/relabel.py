"""Commits with other SELinux labels: the same bytes, owners and modes under other headers."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.ostree.objects import Header
from composer.ostree.repo import INLINE_LIMIT, Repository

_LABEL = b"security.selinux"
Choose = Callable[[int, str], bytes]


def labelled(repo: Path, commit: str, choose: Choose) -> str:
    """Write a commit like ``commit``, its child, in which regular files have chosen labels.

    ``choose`` gets a file's number, in the order of paths, and its path.
    """
    repository = Repository.open(repo)
    repository.disable_fsync()
    with repository.transaction():
        return str(_Labeller(repository, choose).commit(ObjectChecksum.parse(commit)))


def usual(number: int, path: str) -> bytes:
    """Label by place, as a policy does."""
    kind = "bin" if "/bin/" in path else "lib" if path.startswith("/usr/lib") else "usr"
    return f"system_u:object_r:{kind}_t:s0\0".encode()


def changed(first: int) -> Choose:
    """Return a choice that gives the ``first`` files another label, the rest their usual one."""

    def choose(number: int, path: str) -> bytes:
        return b"system_u:object_r:other_t:s0\0" if number < first else usual(number, path)

    return choose


class _Labeller:
    def __init__(self, repo: Repository, choose: Choose) -> None:
        self._repo, self._choose, self._number = repo, choose, 0

    def commit(self, base: ObjectChecksum) -> ObjectChecksum:
        from gi.repository import GLib

        tree = self._directory(self._repo.commit(base).tree, "")
        data = self._repo.metadata("commit", base)
        kind = "(a{sv}aya(say)sstayay)"
        old = GLib.Variant.new_from_bytes(GLib.VariantType.new(kind), GLib.Bytes.new(data), False)
        parts = [old.get_child_value(number) for number in range(old.n_children())]
        metadata = GLib.VariantDict.new(parts[0])
        version = self._repo.commit(base).version
        metadata.insert_value("version", GLib.Variant("s", f"{version}.1"))  # a set's name has it
        parts[0] = metadata.end()
        parts[1] = GLib.Variant("ay", bytes(base))
        later = self._repo.commit(base).timestamp + 1
        parts[5] = GLib.Variant("t", int.from_bytes(later.to_bytes(8, "big"), "little"))
        parts[6] = GLib.Variant("ay", bytes(tree))
        written = GLib.Variant.new_tuple(*parts).get_data_as_bytes().get_data()
        checksum = ObjectChecksum(ContentDigest.of(written))
        self._repo.write_metadata("commit", checksum, written)
        return checksum

    def _directory(self, tree: ObjectChecksum, path: str) -> ObjectChecksum:
        found = self._repo.dirtree(tree)
        files = {f.name: self._file(f.checksum, f"{path}/{f.name}") for f in found.files}
        below = {
            entry.name: (self._directory(entry.tree, f"{path}/{entry.name}"), entry.meta)
            for entry in found.directories
        }
        return self._repo.write_dirtree(files, below)

    def _file(self, checksum: ObjectChecksum, path: str) -> ObjectChecksum:
        header, size, pieces = self._repo.content(checksum)
        if not stat.S_ISREG(header.mode):
            return checksum
        label = self._choose(self._number, path)
        self._number += 1
        writer = self._repo.writer(_with_label(header, label))
        if size <= INLINE_LIMIT:
            return writer.write(b"".join(pieces), None)
        return writer.write_stream(size, pieces, None)


def _with_label(header: Header, label: bytes) -> Header:
    others = [(name, value) for name, value in header.xattrs if name != _LABEL]
    return replace(header, xattrs=tuple(sorted([*others, (_LABEL, label)])))

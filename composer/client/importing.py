"""Local RPMs into a repository: objects, a tree of them, and a ref for each package.

The ref is ``jigdo/pkg/<name>/<evr>.<arch>``; its commit's metadata has the pkgid.
The tree is what ``rpm2cpio | cpio`` would unpack: RPM paths as they are, without
OSTree's layout rules.  Ghosts are in no payload; device nodes and sockets have
no place in OSTree and are left out, and listed.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError
from composer.jigdo.importing import Target, Targets, write_payload
from composer.ostree.locking import Wait, changing
from composer.ostree.objects import Header
from composer.ostree.repo import ContentWriter, Repository
from composer.ostree.writing import TreeBuilder
from composer.progress import Report, Step, silent
from composer.rpm.capabilities import capability_xattr
from composer.rpm.package import Nevra, PackageRefused, nevra_of, verify_digests
from composer.rpm.payload import FileList
from composer.system.accounts import AccountTable


@dataclass(frozen=True, slots=True)
class Imported:
    """One RPM that is in the repository: its ref, commit, and what was left out of it."""

    nevra: Nevra
    pkgid: ContentDigest
    ref: str
    commit: ObjectChecksum
    left_out: tuple[str, ...]


def package_ref(nevra: Nevra) -> str:
    """Return the ref of an imported package, another for every NEVRA.

    What OSTree allows in no ref (":", "+", "~", "^") becomes "_" and two hexadecimal digits,
    and "_" itself two of them: rpm-ostree's way.
    """
    return f"jigdo/pkg/{_quoted(nevra.name)}/{_quoted(nevra.evr)}.{nevra.arch}"


def _quoted(text: str) -> str:
    def quote(character: str) -> str:
        if character == "_":
            return "__"
        plain = character.isascii() and (character.isalnum() or character in ".-")
        return character if plain else "".join(f"_{byte:02X}" for byte in character.encode())

    return "".join(map(quote, text))


def import_rpms(
    paths: Sequence[Path],
    repo: Repository,
    accounts: AccountTable,
    report: Report = silent,
    *,
    wait: Wait | None = None,
) -> list[Imported]:
    """Import RPM files one after the other; each lands whole or not at all.

    Raises PackageRefused for an RPM that rpm itself would refuse, ComposerError
    for an owner that ``accounts`` does not know, and Busy (unless there is ``wait``) while
    another process changes ``repo``.
    """
    done = []
    with changing(repo, wait):
        for number, path in enumerate(paths, 1):
            done.append(_import(path, repo, accounts))
            report(Step("import", number, len(paths), "packages", path.name))
    return done


def _import(path: Path, repo: Repository, accounts: AccountTable) -> Imported:
    verify_digests(path)
    with path.open("rb") as stream:
        pkgid = ContentDigest.of_stream(stream)
    tree = _PackageTree(repo, accounts, path.name)
    with repo.transaction():
        write_payload(repo, path, tree.choose, tree.wrote)
        root = tree.write()
    assert tree.nevra is not None
    ref, metadata = package_ref(tree.nevra), _metadata(tree.nevra, pkgid)
    # A transaction lands in no order: the commit comes after all that it names.
    with repo.transaction():
        subject, timestamp = str(tree.nevra), tree.timestamp
        commit = repo.write_commit(*root, subject=subject, metadata=metadata, timestamp=timestamp)
        repo.set_ref(ref, commit)
    return Imported(tree.nevra, pkgid, ref, commit, tuple(tree.left_out))


def _metadata(nevra: Nevra, pkgid: ContentDigest) -> dict[str, str]:
    return {"jigdo-composer.pkgid": str(pkgid), "jigdo-composer.nevra": str(nevra)}


@dataclass(slots=True)
class _PackageTree:
    """Collects the objects of one RPM into a tree."""

    repo: Repository
    accounts: AccountTable
    name: str
    nevra: Nevra | None = None
    timestamp: int = 0
    left_out: list[str] = field(default_factory=list)
    _files: FileList | None = None
    _writers: dict[Header, ContentWriter] = field(default_factory=dict)
    _objects: dict[int, ObjectChecksum] = field(default_factory=dict)

    def choose(self, header: Any, files: FileList) -> Targets:
        """Want every file that the payload carries, with the header's owner and mode."""
        self.nevra = nevra_of(header, Path(self.name))
        self.timestamp = header["buildtime"] or 0
        self._files = files
        targets: Targets = {}
        for index in range(len(files)):
            if files.is_file(index):
                size = files.sizes[index]
            elif files.is_symlink(index):
                size = len(files.targets[index].encode(errors="surrogateescape"))
            else:
                continue
            object_header = self._header(files, index)
            if object_header not in self._writers:
                self._writers[object_header] = self.repo.writer(object_header)
            targets[index] = [Target(self._writers[object_header], None, size)]
        return targets

    def _header(self, files: FileList, index: int) -> Header:
        try:
            uid = self.accounts.users[files.owners[index]]
            gid = self.accounts.groups[files.groups[index]]
        except KeyError as error:
            raise ComposerError(
                f"{self.name}: {files.paths[index]}: unknown owner {error.args[0]!r}",
                hint="give the tree's account tables with --passwd and --group",
            ) from None
        mode, capability = files.modes[index], files.capabilities[index]
        xattrs = ((b"security.capability", capability_xattr(capability)),) if capability else ()
        # A symlink has no permissions of its own; OSTree has all of them 0777.
        return Header(uid, gid, stat.S_IFLNK | 0o777 if stat.S_ISLNK(mode) else mode, xattrs)

    def wrote(self, index: int, checksum: ObjectChecksum) -> None:
        """Remember which object file ``index`` is."""
        self._objects[index] = checksum

    def write(self) -> tuple[ObjectChecksum, ObjectChecksum]:
        """Write the tree; the same for one RPM and one table of accounts.  Returns its root."""
        files = self._files
        assert files is not None
        builder = TreeBuilder(self.repo)
        try:
            for index, path in enumerate(files.paths):
                if index in self._objects:
                    builder.add_file(path, self._objects[index])
                elif stat.S_ISDIR(files.modes[index]) and not files.ghosts[index]:
                    builder.add_directory(path, self._header(files, index))
                elif not files.ghosts[index]:
                    self.left_out.append(path)
            return builder.write()
        except ValueError as error:
            raise PackageRefused(f"{self.name}: {error}") from error

"""What differs between the trees of two commits, file by file.

Both are walked side by side, in the order of names.  A subtree whose checksums are equal
is never entered, and no more is held than the directories on the way to where the walk is.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from composer.checksum import ObjectChecksum
from composer.errors import FormatError, NotFound
from composer.ostree.objects import DirTree, Header, TreeDirectory, TreeFile, parse_dirmeta
from composer.ostree.repo import Repository

ADDED, REMOVED, CHANGED = "added", "removed", "changed"

# Deeper than any path that a Linux system can open.
_DEEPEST = 2048
_EMPTY = DirTree((), ())
_TYPES = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, symlink or directory as one of the commits has it.

    ``size`` is in bytes, 0 for a directory; ``target`` is a symlink's.
    """

    header: Header
    size: int = 0
    target: str = ""

    @property
    def type(self) -> str:
        """file, symlink or directory."""
        return _TYPES.get(stat.S_IFMT(self.header.mode), "other")

    @property
    def mode(self) -> int:
        """The permission bits."""
        return stat.S_IMODE(self.header.mode)


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that differs; ``kind`` is ADDED, REMOVED or CHANGED.

    ``what`` says in which respects a CHANGED one differs, of "type", "content" (a
    symlink's: its target), "mode", "owner" and "xattrs".  Where only "type" is given,
    there is nothing else to compare.
    """

    path: str
    kind: str
    before: Entry | None
    after: Entry | None
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Descent:
    """Directories of one path that have to be walked; None for the side that has none."""

    path: str
    before: ObjectChecksum | None
    after: ObjectChecksum | None


_Named = TreeFile | TreeDirectory


def differences(
    repo: Repository, before: ObjectChecksum, after: ObjectChecksum
) -> Iterator[FileChange]:
    """Yield what became different from commit ``before`` to ``after``, in the order of names.

    A directory that was added or removed is followed by all that is in it.  Raises
    NotFound for a commit of which only a part is here, RepositoryError, FormatError.
    """
    for commit in (before, after):
        if repo.is_partial(commit):
            raise NotFound(f"{repo.path}: only a part of {commit} is here", hint="pull it again")
    return _Walk(repo).run(before, after)


def _by_name(tree: DirTree) -> dict[str, _Named]:
    found: dict[str, _Named] = {entry.name: entry for entry in tree.files}
    return found | {entry.name: entry for entry in tree.directories}


class _Walk:
    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._directory = lru_cache(maxsize=1024)(self._read_dirmeta)

    def run(self, before: ObjectChecksum, after: ObjectChecksum) -> Iterator[FileChange]:
        old, new = self._repo.commit(before), self._repo.commit(after)
        root = TreeDirectory("", old.tree, old.meta), TreeDirectory("", new.tree, new.meta)
        stack = [self._entry("", *root)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, FileChange):
                yield found
            elif len(stack) > _DEEPEST:
                raise FormatError(f"{found.path[:200]}...: more than {_DEEPEST} directories deep")
            else:
                stack.append(self._entries(found))

    def _entries(self, here: _Descent) -> Iterator[FileChange | _Descent]:
        old = self._repo.dirtree(here.before) if here.before else _EMPTY
        new = self._repo.dirtree(here.after) if here.after else _EMPTY
        left, right = _by_name(old), _by_name(new)
        for name in sorted(left.keys() | right.keys(), key=str.encode):
            one, other = left.get(name), right.get(name)
            if one != other:
                yield from self._entry(f"{here.path}/{name}", one, other)

    def _entry(
        self, path: str, old: _Named | None, new: _Named | None
    ) -> Iterator[FileChange | _Descent]:
        """Yield the change of one path, and what is to be walked below it."""
        change = self._change(path or "/", old, new)
        if change is not None:
            yield change
        before = old.tree if isinstance(old, TreeDirectory) else None
        after = new.tree if isinstance(new, TreeDirectory) else None
        if before != after:
            yield _Descent(path, before, after)

    def _change(self, path: str, old: _Named | None, new: _Named | None) -> FileChange | None:
        match old, new:
            case TreeDirectory(meta=one), TreeDirectory(meta=other) if one == other:
                return None
        before = self._read(old) if old else None
        after = self._read(new) if new else None
        if before is None or after is None:
            return FileChange(path, ADDED if before is None else REMOVED, before, after)
        what = tuple(self._respects(before, after, old, new))
        return FileChange(path, CHANGED, before, after, what)

    def _respects(
        self, before: Entry, after: Entry, old: _Named | None, new: _Named | None
    ) -> Iterator[str]:
        one, other = before.header, after.header
        if before.type != after.type:
            yield "type"
            return
        # Under one header, different checksums can only be of different content.
        if isinstance(old, TreeFile) and isinstance(new, TreeFile):
            equal = one != other and self._same_content(before, after, old, new)
            yield from () if equal else ("content",)
        if one.mode != other.mode:
            yield "mode"
        if (one.uid, one.gid) != (other.uid, other.gid):
            yield "owner"
        if one.xattrs != other.xattrs:
            yield "xattrs"

    def _same_content(self, before: Entry, after: Entry, old: TreeFile, new: TreeFile) -> bool:
        if before.header.is_symlink:
            return before.target == after.target
        if before.size != after.size:
            return False
        # The pieces of contents of one size are cut at the same places.
        pieces = (self._repo.content(file.checksum)[2] for file in (old, new))
        return all(a == b for a, b in zip_longest(*pieces))

    def _read(self, entry: _Named) -> Entry:
        if isinstance(entry, TreeDirectory):
            return self._directory(entry.meta)
        header, size, pieces = self._repo.content(entry.checksum)
        if header.is_symlink:
            return Entry(header, size, b"".join(pieces).decode(errors="surrogateescape"))
        return Entry(header, size)

    def _read_dirmeta(self, checksum: ObjectChecksum) -> Entry:
        return Entry(parse_dirmeta(self._repo.metadata("dirmeta", checksum)))

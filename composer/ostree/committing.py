"""A directory on disk into a repository: every file hashed once, only new ones stored.

libostree copies each file into the repository while it hashes it, and finds out afterwards
that it has it already.  Here a file is hashed first, unless the caller knows the digest of
its bytes, and the cache an object of the repository with them.  What the repository has is
done with.  What is new moves into a bare-user repository on the same file system: the file
itself becomes the object.  Everything else (hard links, other modes, another file system,
symlinks, directories) is written by libostree.

Rules kept here: an object is whole on disk before it has its name; objects arrive while the
repository's lock is held; nothing is followed and nothing outside the tree is touched.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError
from composer.ostree.digests import ContentInfo, DigestCache
from composer.ostree.objects import Header
from composer.ostree.repo import INLINE_LIMIT, Repository
from composer.system.files import explained, remove_tree, removing, sync_directory

_PIECE = 1 << 20
_CAPABILITY = "security.capability"
# Labels of the machine that composes; the tree's own come from its policy.
_IGNORED = frozenset({_CAPABILITY, "security.selinux"})
_META = "user.ostreemeta"

Attributes = Callable[[str, str, os.stat_result], Iterable[tuple[bytes, bytes]]]
"""Gives extended attributes of a file by its name in the tree, its path and its status."""

Unread = Callable[[os.stat_result], ContentDigest | None]
"""Gives the digest of a file's bytes where it is known for sure, by the file's status."""


class UnsupportedFile(ComposerError):
    """Something that OSTree cannot hold: a device, a socket, a name that is not UTF-8."""


@dataclass(frozen=True, slots=True)
class Written:
    """The root's dirtree and dirmeta, and how many content objects there were and were new."""

    tree: ObjectChecksum
    meta: ObjectChecksum
    files: int
    new: int


@dataclass(slots=True)
class _File:
    """A regular file or symlink: where, what the walk saw, and what came of it."""

    path: str
    header: Header
    status: os.stat_result
    plain: bool
    checksum: ObjectChecksum | None = None
    digest: ContentDigest | None = None
    stored: bool = False


@dataclass(slots=True)
class _Directory:
    header: Header
    files: dict[str, _File]
    directories: dict[str, _Directory]


def write_tree(
    repo: Repository,
    root: Path,
    *,
    attributes: Attributes | None = None,
    cache: DigestCache | None = None,
    unread: Unread | None = None,
) -> Written:
    """Write the tree at ``root``, consuming it.  Needs an open transaction.

    Of extended attributes, ``security.capability`` is kept and ``attributes`` adds others,
    such as labels.  ``cache`` learns what is read here, and tells what need not be where
    ``unread`` knows the digest.  Raises UnsupportedFile, NoSpace, RepositoryError.
    """
    files: list[_File] = []
    top = _scan(str(root), "/", attributes, files)
    writer = _Writer(repo, root, cache, unread)
    try:
        with writer:
            known = writer.find(files)
            with removing(file.path for file in known):
                writer.store(files)
                tree, meta = _write_directory(repo, top)
            # Flushes: what is removed by now need never be on disk.
            writer.land()
    except OSError as error:
        raise explained(error, Path(error.filename or root)) from error
    return Written(tree, meta, len(files), writer.new)


# What is there


def _scan(path: str, name: str, attributes: Attributes | None, files: list[_File]) -> _Directory:
    status = os.lstat(path)
    found = _Directory(_header(path, name, status, attributes)[0], {}, {})
    with os.scandir(path) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    below = name if name == "/" else f"{name}/"
    for entry in ordered:
        inside = below + entry.name
        _require_name(inside)
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            found.directories[entry.name] = _scan(entry.path, inside, attributes, files)
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            header, plain = _header(entry.path, inside, status, attributes)
            file = _File(entry.path, header, status, plain)
            found.files[entry.name] = file
            files.append(file)
        else:
            raise UnsupportedFile(
                f"{inside}: neither a file nor a directory nor a symlink",
                hint="OSTree holds no devices, sockets and pipes; make them at boot (tmpfiles.d)",
            )
    return found


def _require_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnsupportedFile(f"{name!r}: its name is not UTF-8, which OSTree needs") from None


def _header(
    path: str, name: str, status: os.stat_result, attributes: Attributes | None
) -> tuple[Header, bool]:
    """Return the header, and whether the file has no attributes but those that are expected."""
    present = os.listxattr(path, follow_symlinks=False)
    xattrs = []
    # A directory cannot have capabilities, and a symlink's would mean nothing.
    if _CAPABILITY in present and stat.S_ISREG(status.st_mode):
        value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
        xattrs.append((_CAPABILITY.encode(), value))
    if attributes is not None:
        xattrs.extend(attributes(name, path, status))
    header = Header(status.st_uid, status.st_gid, status.st_mode, tuple(sorted(xattrs)))
    return header, _IGNORED.issuperset(present)


# What is new


class _Writer:
    """Hashes files in threads and makes objects of those that the repository lacks."""

    def __init__(
        self, repo: Repository, root: Path, cache: DigestCache | None, unread: Unread | None
    ) -> None:
        self._repo, self.new = repo, 0
        self._cache, self._unread = cache, unread
        self._present = repo.content_names()
        self._staging = Path(tempfile.mkdtemp(prefix="jigdo-composer-", dir=repo.path / "tmp"))
        same = os.lstat(root).st_dev == os.lstat(self._staging).st_dev
        self._adopts = repo.mode == "bare-user" and same
        self._prefixes: dict[Header, bytes] = {}
        self._metas: dict[Header, bytes] = {}

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        remove_tree(self._staging)

    def store(self, files: Sequence[_File]) -> None:
        """Make objects of all and set their checksums; :meth:`land` is still to be called."""
        for file in files:
            if file.header.is_symlink:
                self._look_up_link(file)
            else:
                self._prepare(file)
        regular = [f for f in files if not (f.stored or f.header.is_symlink)]
        workers = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(workers) as pool:
            # Large batches of small files: what a file costs here is mostly Python.
            list(pool.map(self._take, _batches(regular)))
        for file in files:
            if not file.stored:
                self._write(file)
        if self._cache is not None:
            self._cache.remember(dict(_learnt(regular)))

    def find(self, files: Sequence[_File]) -> list[_File]:
        """Return those of which the digest is known and an object there; sets their checksums."""
        if self._cache is None or self._unread is None:
            return []
        digests = [self._unread(file.status) for file in files]
        known = self._cache.objects(digest for digest in digests if digest is not None)
        found = []
        for file, digest in zip(files, digests, strict=True):
            if digest is not None:
                checksum = known.get((digest, file.status.st_size, file.header))
                if checksum is not None and checksum.hex() in self._present:
                    file.checksum, file.stored = checksum, True
                    found.append(file)
        return found

    def _prepare(self, file: _File) -> None:
        # GVariants here, for each distinct header, and not in the threads, for each file.
        header = file.header
        if header not in self._prefixes:
            self._prefixes[header] = header.serialized()
            self._metas[header] = header.metadata()

    def _look_up_link(self, file: _File) -> None:
        target = os.readlink(os.fsencode(file.path))
        try:
            data = file.header.serialized(target)
        except UnicodeDecodeError:
            return  # libostree refuses it, with our words
        checksum = ObjectChecksum(hashlib.sha256(data).digest())
        if checksum.hex() in self._present:
            file.checksum, file.stored = checksum, True

    def _take(self, files: Sequence[_File]) -> None:
        for file in files:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                checksum = self._hash(file, descriptor)
                file.checksum = checksum
                name = checksum.hex()
                if name in self._present:
                    file.stored = True
                    os.unlink(file.path)
                elif self._adopts and file.plain and file.status.st_nlink == 1:
                    self._adopt(file, descriptor, name)
                    file.stored = True
            finally:
                os.close(descriptor)

    def _hash(self, file: _File, descriptor: int) -> ObjectChecksum:
        state = hashlib.sha256(self._prefixes[file.header])
        content = hashlib.sha256() if self._cache is not None else None
        # One byte more than there should be, so that the end of most is seen at once.
        wanted = min(_PIECE, file.status.st_size + 1)
        while piece := os.read(descriptor, wanted):
            state.update(piece)
            if content is not None:
                content.update(piece)
            if len(piece) < wanted:
                break
        if content is not None:
            file.digest = ContentDigest(content.digest())
        return ObjectChecksum(state.digest())

    def _adopt(self, file: _File, descriptor: int, name: str) -> None:
        """Turn the file into a bare-user object, as libostree's would be, in the staging."""
        status = file.status
        if any(name == _CAPABILITY.encode() for name, _ in file.header.xattrs):
            os.removexattr(descriptor, _CAPABILITY)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, os.geteuid(), os.getegid())
        # As libostree does it: permissions for checkouts in user mode, but nothing special.
        mode = status.st_mode & 0o777
        if mode != stat.S_IMODE(status.st_mode):
            os.fchmod(descriptor, mode)
        os.setxattr(descriptor, _META, self._metas[file.header])
        os.utime(descriptor, (0, 0))
        # Another file with the same bytes and header may be there: it is the same object.
        os.rename(file.path, self._staging / name)

    def land(self) -> None:
        """Give the new objects their names."""
        staged = os.listdir(self._staging)
        self.new += len(staged)
        if not staged:
            return
        durable = self._repo.is_durable
        if durable:
            _sync(self._staging)
        objects = self._repo.path / "objects"
        for prefix in sorted({name[:2] for name in staged}):
            (objects / prefix).mkdir(exist_ok=True)
        for name in staged:
            os.rename(self._staging / name, objects / name[:2] / f"{name[2:]}.file")
        if durable:
            for prefix in sorted({name[:2] for name in staged}):
                sync_directory(objects / prefix)

    def _write(self, file: _File) -> None:
        """Let libostree make the object."""
        writer = self._repo.writer(file.header)
        if file.header.is_symlink:
            target = os.readlink(os.fsencode(file.path))
            file.checksum = writer.write(target, None)
        elif file.status.st_size <= INLINE_LIMIT:
            file.checksum = writer.write(Path(file.path).read_bytes(), file.checksum)
            self.new += 1
        else:
            file.checksum = writer.write_stream(
                file.status.st_size, _pieces(file.path), file.checksum
            )
            self.new += 1
        file.stored = True


def _learnt(files: Iterable[_File]) -> Iterator[tuple[ObjectChecksum, ContentInfo]]:
    for file in files:
        if file.checksum is not None and file.digest is not None:
            yield file.checksum, ContentInfo(file.header, file.status.st_size, file.digest)


def _batches(files: Sequence[_File]) -> Iterator[Sequence[_File]]:
    size, start = 0, 0
    for index, file in enumerate(files):
        size += file.status.st_size
        if size > 16 << 20 or index - start >= 256:
            yield files[start : index + 1]
            size, start = 0, index + 1
    if start < len(files):
        yield files[start:]


def _pieces(path: str) -> Iterator[bytes]:
    with ExitStack() as stack:
        stream = stack.enter_context(open(path, "rb"))
        while piece := stream.read(_PIECE):
            yield piece


def _sync(directory: Path) -> None:
    """Flush the file system of ``directory``, as libostree does once for a transaction."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


def _write_directory(
    repo: Repository, directory: _Directory
) -> tuple[ObjectChecksum, ObjectChecksum]:
    children = {
        name: _write_directory(repo, child) for name, child in directory.directories.items()
    }
    files = {}
    for name, file in directory.files.items():
        assert file.checksum is not None
        files[name] = file.checksum
    return repo.write_dirtree(files, children), repo.write_dirmeta(directory.header)

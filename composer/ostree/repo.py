"""OSTree repositories, through libostree.

Owns opening, reading, transactions and writing objects.  What goes in is
checked by libostree against the checksum it is written under; what comes out
are plain values and bytes.  Works for bare, bare-user, bare-user-only and
archive repositories.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch, NotFound, VerificationFailed
from composer.ostree.library import RepositoryError
from composer.ostree.library import library as _ostree
from composer.ostree.library import library_errors as _errors
from composer.ostree.objects import (
    Commit,
    DirTree,
    Header,
    dump_dirtree,
    parse_commit,
    parse_dirtree,
)

if TYPE_CHECKING:
    from gi.repository import GLib

INLINE_LIMIT = 1 << 20
"""Content of up to this many bytes is written in one call, larger is streamed."""

SPOOL_LIMIT = 16 << 20
"""Up to this many bytes it is laid out and hashed beside, which libostree takes longer for."""

MODES = ("bare", "bare-user", "bare-user-only", "archive")


class Repository:
    """One repository on disk.  Safe to write to from several threads in a transaction."""

    def __init__(self, repo: Any, path: Path) -> None:
        self._repo, self.path = repo, path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the repository at ``path``; raises NotFound when there is none."""
        from gi.repository import Gio

        if not (path / "config").is_file():
            raise NotFound(
                f"{path}: not an OSTree repository",
                hint=f"make one: ostree --repo={path} init --mode=bare-user",
            )
        repo = _ostree().Repo.new(Gio.File.new_for_path(str(path)))
        with _errors(str(path)):
            repo.open(None)
        return cls(repo, path)

    @classmethod
    def create(cls, path: Path, *, mode: str) -> Self:
        """Create (or open) a repository at ``path`` in one of :data:`MODES`."""
        from gi.repository import Gio

        path.mkdir(parents=True, exist_ok=True)
        repo = _ostree().Repo.new(Gio.File.new_for_path(str(path)))
        with _errors(str(path)):
            repo.create(getattr(_ostree().RepoMode, mode.replace("-", "_").upper()), None)
        return cls(repo, path)

    @property
    def mode(self) -> str:
        """One of :data:`MODES`."""
        ostree = _ostree()
        names = {getattr(ostree.RepoMode, m.replace("-", "_").upper()): m for m in MODES}
        return names[self._repo.get_mode()]

    def disable_fsync(self) -> None:
        """Write without flushing to disk, as ``ostree --disable-fsync`` does."""
        self._repo.set_disable_fsync(True)

    @property
    def is_durable(self) -> bool:
        """Whether what is written is flushed to disk before it counts."""
        return not self._repo.get_disable_fsync()

    @contextmanager
    def libostree(self) -> Iterator[tuple[Any, Any]]:
        """Give ``(OSTree, OSTree.Repo)``, for what this class does not wrap.

        libostree's errors in the block become ours.
        """
        with _errors(str(self.path)):
            yield _ostree(), self._repo

    # Reading

    def resolve(self, revision: str) -> ObjectChecksum | None:
        """Return the commit that a ref or a checksum names, or None."""
        with _errors(f"{self.path}: {revision}"):
            found, checksum = self._repo.resolve_rev(revision, True)
        return ObjectChecksum.parse(checksum) if found and checksum else None

    def require(self, revision: str) -> ObjectChecksum:
        """Return the commit that ``revision`` names; raises NotFound."""
        checksum = self.resolve(revision)
        if checksum is None:
            raise NotFound(
                f"{self.path}: no ref or commit {revision}",
                hint=f"see what is there: ostree --repo={self.path} refs",
            )
        return checksum

    def refs(self) -> dict[str, ObjectChecksum]:
        """Map every local ref to its commit."""
        with _errors(str(self.path)):
            _, refs = self._repo.list_refs(None, None)
        return {name: ObjectChecksum.parse(refs[name]) for name in sorted(refs)}

    def commit(self, checksum: ObjectChecksum) -> Commit:
        """Load and parse a commit object."""
        return parse_commit(self.metadata("commit", checksum))

    def dirtree(self, checksum: ObjectChecksum) -> DirTree:
        """Load and parse a dirtree object."""
        return parse_dirtree(self.metadata("dirtree", checksum))

    def metadata(self, kind: str, checksum: ObjectChecksum) -> bytes:
        """Load the bytes of a metadata object; ``kind`` is commit, dirtree or dirmeta."""
        with _errors(f"{self.path}: {kind} {checksum}"):
            _, variant = self._repo.load_variant(_kind(kind), str(checksum))
        data = variant.get_data_as_bytes().get_data()
        assert isinstance(data, bytes)
        return data

    def detached_metadata(self, commit: ObjectChecksum) -> GLib.Variant | None:
        """Load a commit's detached metadata (its signatures), ``a{sv}``, or None."""
        with _errors(f"{self.path}: commit {commit}"):
            _, variant = self._repo.read_commit_detached_metadata(str(commit), None)
        return variant

    def has(self, kind: str, checksum: ObjectChecksum) -> bool:
        """Tell whether a metadata object is here, also in the open transaction."""
        with _errors(f"{self.path}: {kind} {checksum}"):
            _, present = self._repo.has_object(_kind(kind), str(checksum), None)
        return bool(present)

    def is_partial(self, commit: ObjectChecksum) -> bool:
        """Tell whether libostree marks ``commit`` as not completely fetched."""
        return (self.path / "state" / f"{commit}.commitpartial").exists()

    def mark_whole(self, commit: ObjectChecksum) -> None:
        """Say that nothing of ``commit`` is missing any more."""
        with _errors(f"{self.path}: commit {commit}"):
            self._repo.mark_commit_partial(str(commit), False)

    def content(self, checksum: ObjectChecksum) -> tuple[Header, int, Iterator[bytes]]:
        """Load a content object as its header, size and bytes in pieces."""
        from gi.repository import Gio

        with _errors(f"{self.path}: object {checksum}"):
            _, stream, info, xattrs = self._repo.load_file(str(checksum), None)
        pairs = tuple((bytes(n).rstrip(b"\0"), bytes(v)) for n, v in xattrs.unpack())
        header = Header(
            info.get_attribute_uint32("unix::uid"),
            info.get_attribute_uint32("unix::gid"),
            info.get_attribute_uint32("unix::mode"),
            pairs,
        )
        if info.get_file_type() == Gio.FileType.SYMBOLIC_LINK:
            target = info.get_symlink_target().encode()
            return header, len(target), iter((target,))
        return header, info.get_size(), _pieces(stream)

    @contextmanager
    def opened_content(self, checksum: ObjectChecksum) -> Iterator[tuple[int, int] | None]:
        """Open a content object's bytes where they lie as they are: descriptor and size.

        None for one that is compressed, or is a symlink: :meth:`content` reads all.
        """
        name = checksum.hex()
        place = f"{self.path}/objects/{name[:2]}/{name[2:]}.file"
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # whatever is wrong with it, content() says
            yield None
            return
        try:
            yield descriptor, os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def file_at(self, commit: ObjectChecksum, path: str) -> ObjectChecksum | None:
        """Return the regular file at ``path`` (without a leading /) in a commit, or None.

        Symlinks are not followed.
        """
        *parents, last = path.split("/")
        tree = self.commit(commit).tree
        for name in parents:
            below = {entry.name: entry.tree for entry in self.dirtree(tree).directories}
            if name not in below:
                return None
            tree = below[name]
        for entry in self.dirtree(tree).files:
            if entry.name == last and stat.S_ISREG(self.content(entry.checksum)[0].mode):
                return entry.checksum
        return None

    def missing_content(self, checksums: Iterable[ObjectChecksum]) -> set[ObjectChecksum]:
        """Return those of ``checksums`` whose content object has not landed here.

        One directory listing per two-digit prefix instead of a call per object.
        Objects of an open transaction have not landed: see :meth:`land_staged`.
        """
        by_prefix: dict[int, list[ObjectChecksum]] = {}
        for checksum in checksums:
            by_prefix.setdefault(checksum[0], []).append(checksum)
        suffix = ".filez" if self.mode == "archive" else ".file"
        missing: set[ObjectChecksum] = set()
        for prefix, wanted in by_prefix.items():
            try:
                names = set(os.listdir(self.path / "objects" / f"{prefix:02x}"))
            except FileNotFoundError:
                names = set()
            missing.update(c for c in wanted if c.hex()[2:] + suffix not in names)
        return missing

    def staged_content(self) -> set[ObjectChecksum]:
        """Return the content objects that :meth:`land_staged` would land, without landing them."""
        suffix = ".filez" if self.mode == "archive" else ".file"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found = self.path.glob(f"tmp/staging-{boot}-*/??/*{suffix}")
        return {
            ObjectChecksum.parse(path.parent.name + path.name.removesuffix(suffix))
            for path in found
        }

    def content_names(self) -> set[str]:
        """Return the checksums, in hexadecimal, of all content objects that have landed here."""
        suffix = ".filez" if self.mode == "archive" else ".file"
        found: set[str] = set()
        for prefix in range(256):
            try:
                names = os.listdir(self.path / "objects" / f"{prefix:02x}")
            except FileNotFoundError:
                continue
            found.update(f"{prefix:02x}{n[:62]}" for n in names if n[62:] == suffix)
        return found

    def reserved_bytes(self) -> int:
        """Bytes of the file system that libostree keeps free: it writes no object into them."""
        with _errors(str(self.path)):
            _, reserved = self._repo.get_min_free_space_bytes()
        return int(reserved)

    # Writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Stage what the block writes and land it at the end.

        When the block raises, refs set in it are forgotten, and objects stay staged.
        """
        with _errors(str(self.path)):
            self._repo.prepare_transaction(None)
        try:
            yield
            with _errors(str(self.path)):
                self._repo.commit_transaction(None)
        except BaseException:
            # libostree keeps the objects for the next run (until reboot): each is
            # proven, so none of them has to be fetched again.
            with _errors(str(self.path)):
                self._repo.abort_transaction(None)
            raise

    def land_staged(self) -> None:
        """Land the objects that an interrupted transaction left, however it ended."""
        with self.transaction():
            pass

    def write_metadata(self, kind: str, checksum: ObjectChecksum, data: bytes) -> None:
        """Write a metadata object; raises VerificationFailed if ``checksum`` is not its own."""
        from gi.repository import GLib

        type_of = {
            "commit": "(a{sv}aya(say)sstayay)",
            "dirtree": "(a(say)a(sayay))",
            "dirmeta": "(uuua(ayay))",
        }
        actual = ContentDigest.of(data)  # a metadata object's checksum is over its bytes alone
        if actual != bytes(checksum):
            raise ChecksumMismatch(
                what=f"{kind} object", expected=str(checksum), actual=str(actual)
            )
        variant = GLib.Variant.new_from_bytes(
            GLib.VariantType.new(type_of[kind]), GLib.Bytes.new(data), False
        )
        with _errors(f"{self.path}: {kind} {checksum}"):
            self._repo.write_metadata(_kind(kind), str(checksum), variant, None)

    def write_dirtree(
        self,
        files: Mapping[str, ObjectChecksum],
        directories: Mapping[str, tuple[ObjectChecksum, ObjectChecksum]],
    ) -> ObjectChecksum:
        """Write a directory's entries; ``directories`` have (dirtree, dirmeta)."""
        return self._write_new("dirtree", dump_dirtree(files, directories))

    def write_dirmeta(self, header: Header) -> ObjectChecksum:
        """Write a directory's owner, mode and extended attributes."""
        return self._write_new("dirmeta", header.metadata())

    def _write_new(self, kind: str, data: bytes) -> ObjectChecksum:
        checksum = ObjectChecksum(ContentDigest.of(data))
        if not self.has(kind, checksum):
            self.write_metadata(kind, checksum, data)
        return checksum

    def write_commit(
        self,
        tree: ObjectChecksum,
        meta: ObjectChecksum,
        *,
        subject: str,
        metadata: Mapping[str, str],
        timestamp: int,
    ) -> ObjectChecksum:
        """Write a commit object without a parent."""
        from gi.repository import GLib

        variants = {key: GLib.Variant("s", value) for key, value in sorted(metadata.items())}
        with _errors(f"{self.path}: commit"):
            mtree = _ostree().MutableTree.new_from_checksum(self._repo, str(tree), str(meta))
            _, root = self._repo.write_mtree(mtree, None)
            _, checksum = self._repo.write_commit_with_time(
                None, subject, None, GLib.Variant("a{sv}", variants), root, timestamp, None
            )
        return ObjectChecksum.parse(checksum)

    def write_detached_metadata(self, commit: ObjectChecksum, metadata: bytes) -> None:
        """Write a commit's detached metadata, a serialised ``a{sv}``."""
        from gi.repository import GLib

        kind, data = GLib.VariantType.new("a{sv}"), GLib.Bytes.new(metadata)
        variant = GLib.Variant.new_from_bytes(kind, data, False)
        with _errors(f"{self.path}: commit {commit}"):
            self._repo.write_commit_detached_metadata(str(commit), variant, None)

    def set_ref(self, ref: str, commit: ObjectChecksum | None) -> None:
        """Set (or with None remove) a local ref when the open transaction lands."""
        self._repo.transaction_set_ref(None, ref, str(commit) if commit else None)

    def writer(self, header: Header) -> ContentWriter:
        """Return what writes content objects with ``header``."""
        return ContentWriter(self._repo, self.path, self.mode, header)

    def check_signatures(self, data: bytes, signatures: bytes, keyring: Path) -> list[Any]:
        """Check GPG ``signatures`` over ``data``; one tuple of attributes for each.

        Attributes are those of OSTree.GpgVerifyResult.get_all().
        """
        from gi.repository import Gio, GLib

        key_file = Gio.File.new_for_path(str(keyring))
        with _errors(f"{keyring}"):
            result = self._repo.gpg_verify_data(
                None, GLib.Bytes.new(data), GLib.Bytes.new(signatures), None, key_file, None
            )
        return [result.get_all(index).unpack() for index in range(result.count_all())]

    def fsck_commit(self, commit: ObjectChecksum) -> None:
        """Re-hash every object that ``commit`` reaches; raises VerificationFailed."""
        try:
            self.metadata("commit", commit)  # traversing a commit that is not here finds nothing
            with _errors(f"commit {commit}"):
                _, reachable = self._repo.traverse_commit(str(commit), 0, None)
                for key in reachable:
                    checksum, kind = _ostree().object_name_deserialize(key)
                    self._repo.fsck_object(kind, checksum, None)
        except RepositoryError as error:
            raise VerificationFailed(error.message) from error


class ContentWriter:
    """Writes content objects that share one header; see :meth:`Repository.writer`."""

    __slots__ = ("_header", "_mode", "_path", "_repo", "_started", "_xattrs")

    def __init__(self, repo: Any, path: Path, mode: str, header: Header) -> None:
        self._repo, self._path, self._mode, self._header = repo, path, mode, header
        self._xattrs = header.variant()
        self._started = b"" if header.is_symlink else header.serialized()

    @property
    def is_symlink(self) -> bool:
        """Tell whether it writes symlinks."""
        return self._header.is_symlink

    def _errors(self, expected: ObjectChecksum | None) -> AbstractContextManager[None]:
        return _errors(f"{self._path}: object {expected or 'of unknown checksum'}")

    def write(self, data: bytes, expected: ObjectChecksum | None) -> ObjectChecksum:
        """Write one object from bytes; a symlink's bytes are its target.

        Raises VerificationFailed when the object's checksum is not ``expected``.
        """
        h, want = self._header, str(expected) if expected else None
        with self._errors(expected):
            if h.is_symlink:
                target = _symlink_target(data)
                written = self._repo.write_symlink(want, h.uid, h.gid, self._xattrs, target, None)
            else:
                return self._write_proven(data, expected)
        return ObjectChecksum.parse(written)

    def _write_proven(self, data: bytes, expected: ObjectChecksum | None) -> ObjectChecksum:
        """Prove the object here and hand it over: libostree takes four times as long to hash."""
        from gi.repository import Gio, GLib

        # What is hashed is the very stream that libostree takes an object from.
        whole = self._started + data
        checksum = self._proven(hashlib.sha256(whole), expected)
        stream = Gio.MemoryInputStream.new_from_bytes(GLib.Bytes.new(whole))
        self._repo.write_content_trusted(str(checksum), stream, len(whole), None)
        return checksum

    def _proven(self, state: hashlib._Hash, expected: ObjectChecksum | None) -> ObjectChecksum:
        checksum = ObjectChecksum(state.digest())
        if expected is not None and checksum != expected:
            raise ChecksumMismatch(
                what=f"{self._path}: object {expected}",
                expected=str(expected),
                actual=str(checksum),
            )
        return checksum

    def write_stream(
        self, size: int, pieces: Iterable[bytes], expected: ObjectChecksum | None
    ) -> ObjectChecksum:
        """Write one large object from ``pieces`` of ``size`` bytes in all, without holding it."""
        # libostree 2022.7 has no write_regfile for archive repositories.
        if size <= SPOOL_LIMIT or self._mode == "archive":
            return self._write_spooled(size, pieces, expected)
        h, want = self._header, str(expected) if expected else None
        with self._errors(expected):
            stream = self._repo.write_regfile(want, h.uid, h.gid, h.mode, size, self._xattrs)
            for piece in _exactly(size, pieces):
                stream.write_all(piece, None)
            written = stream.finish(None)
        return ObjectChecksum.parse(written)

    def _write_spooled(
        self, size: int, pieces: Iterable[bytes], expected: ObjectChecksum | None
    ) -> ObjectChecksum:
        """As write_stream: prove it in a file of our own, which the kernel then copies."""
        from gi.repository import Gio

        state = hashlib.sha256(self._started)
        with (
            self._errors(expected),
            tempfile.TemporaryFile(dir=self._path / "tmp") as spool,
        ):
            spool.write(self._started)
            for piece in _exactly(size, pieces):
                state.update(piece)
                spool.write(piece)
            checksum = self._proven(state, expected)
            spool.seek(0)
            source = Gio.UnixInputStream.new(spool.fileno(), False)
            self._repo.write_content_trusted(str(checksum), source, len(self._started) + size, None)
        return checksum


def _kind(kind: str) -> Any:
    types = _ostree().ObjectType
    return {
        "file": types.FILE,
        "dirtree": types.DIR_TREE,
        "dirmeta": types.DIR_META,
        "commit": types.COMMIT,
    }[kind]


def _symlink_target(data: bytes) -> str:
    try:
        target = data.decode()
    except UnicodeDecodeError:
        target = ""
    if not target or "\0" in target:
        raise VerificationFailed(f"{data[:200]!r} cannot be a symlink's target in OSTree")
    return target


def _exactly(size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    left = size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise VerificationFailed(f"{size} bytes were declared; there are {size - left}")


def _pieces(stream: Any) -> Iterator[bytes]:
    try:
        while piece := stream.read_bytes(1 << 20, None).get_data():
            yield piece
    finally:
        stream.close(None)

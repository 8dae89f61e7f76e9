"""What the tests of sets share: trees as text, commits, readers, sources, faults."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError, NotFound, VerificationFailed
from composer.jigdo.build import LocalPackage, Older, build_set
from composer.jigdo.container import (
    TRAILER_SIZE,
    Check,
    Index,
    IndexPlace,
    Kind,
    RangeReader,
    Writer,
    parse_trailer,
)
from composer.jigdo.delta.building import NO_DELTAS, DeltaOptions
from composer.jigdo.examine import examine
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import Arriving, reassemble
from composer.ostree.digests import DigestCache
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from composer.rpm.beginnings import NO_BEGINNINGS, Beginning
from composer.rpm.package import PackageRef, read_ref

REF = "test/x86_64/os"


class MemoryRanges(RangeReader):
    """Byte ranges of a set in memory; counts what was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.requests: list[tuple[int, int]] = []

    def read(self, first: int, length: int, check: Check = lambda data: None) -> bytes:
        self.requests.append((first, length))
        if first + length > len(self.data):
            raise FormatError("the set was cut")
        data = self.data[first : first + length]
        check(data)
        return data


def open_bytes(data: bytes) -> JigdoSet:
    """Open a set in memory, as a client without a pointer does."""
    return JigdoSet(MemoryRanges(data), place_of(data))


def place_of(data: bytes) -> IndexPlace:
    """Return the place of the index that the trailer of a set gives."""
    return parse_trailer(data[-TRAILER_SIZE:], file_size=len(data))


def rewritten(
    data: bytes, *, replace: Mapping[int, bytes] | None = None, leave_out: Sequence[int] = ()
) -> bytes:
    """Return a set with the frames of some numbers replaced or left out, and a right index.

    What a writer with a bad intent, and the key, could make.
    """
    opened = open_bytes(data)
    out = io.BytesIO()
    writer = Writer(out)
    for number in range(len(opened.index)):
        if number in leave_out:
            continue
        frame = opened.index[number]
        ((_, old),) = opened.frames([frame])
        writer.add(frame.kind, (replace or {}).get(number, old))
    writer.finish()
    return out.getvalue()


def frame_bytes(data: bytes, kind: Kind, position: int = 0) -> tuple[int, bytes]:
    """Return number and uncompressed bytes of a frame of ``kind``."""
    opened = open_bytes(data)
    number = opened.index.numbers(kind)[position]
    ((_, content),) = opened.frames([opened.index[number]])
    return number, content


def index_of(data: bytes) -> Index:
    """Return the index of a set."""
    return open_bytes(data).index


class Packages:
    """RPM files as a source of packages.

    ``instead`` lies; ``fail_after`` stops early; packages in ``lost`` are given, by what is
    left of their files, only as often as there are such.
    """

    def __init__(
        self,
        packages: Sequence[LocalPackage],
        *,
        instead: Mapping[str, Path] | None = None,
        fail_after: int | None = None,
        lost: Mapping[str, Sequence[Path]] | None = None,
    ) -> None:
        self._paths = {package.ref.pkgid: package.path for package in packages}
        self._instead = instead or {}
        self._fail_after = fail_after
        self._left = {name: [*paths] for name, paths in (lost or {}).items()}
        self.refused: list[str] = []
        self.given: list[str] = []
        self.finished: list[str] = []

    def fetch(
        self,
        packages: Sequence[PackageRef],
        beginnings: Mapping[ContentDigest, Beginning] = NO_BEGINNINGS,
    ) -> Arriving:
        lost = []
        for package in packages:
            if len(self.given) == self._fail_after:
                raise Unplugged
            name = package.nevra.name
            if name in self._left and not self._left[name]:
                lost.append(LostPackage(package, (NotFound(f"{name}: gone"),)))
                continue
            self.given.append(name)
            own = self._instead.get(name, self._paths[package.pkgid])
            yield package, self._left[name].pop(0) if name in self._left else own
        if lost:
            raise PackagesLost(lost)

    def refuse(self, package: PackageRef, error: VerificationFailed) -> bool:
        self.refused.append(package.nevra.name)
        return package.nevra.name in self._left

    def done(self, package: PackageRef) -> None:
        self.finished.append(package.nevra.name)


class Unplugged(Exception):
    """The network went away."""


def nothing() -> Generator[tuple[PackageRef, Path], None, None]:
    """Yield no package."""
    yield from ()


@dataclass(frozen=True, slots=True)
class SetOnDisk:
    """A commit, its packages, and the set that was built of them."""

    repo: Repository
    commit: ObjectChecksum
    packages: tuple[LocalPackage, ...]
    data: bytes = field(repr=False)

    def open(self) -> JigdoSet:
        return open_bytes(self.data)


def local_packages(paths: Sequence[Path]) -> tuple[LocalPackage, ...]:
    """Describe RPM files."""
    return tuple(LocalPackage(read_ref(path), path) for path in paths)


def build(
    repo: Repository,
    commit: ObjectChecksum,
    packages: Sequence[LocalPackage],
    scratch: Path,
    *,
    workers: int = 2,
    deltas: DeltaOptions = NO_DELTAS,
    descriptions: Mapping[ObjectChecksum, bytes] | None = None,
    full: Collection[ContentDigest] = (),
    store: Path | None = None,
) -> SetOnDisk:
    """Build a set in memory, with the digest cache in ``scratch``."""
    out = io.BytesIO()
    cache = DigestCache(scratch / "digests.sqlite")
    built = build_set(
        repo,
        commit,
        packages,
        ref=REF,
        into=out,
        cache=cache,
        workers=workers,
        older=Older(deltas, descriptions or {}, store),
        full=full,
    )
    assert built.index == place_of(out.getvalue())
    return SetOnDisk(repo, commit, tuple(packages), out.getvalue())


def pull(
    jigdo: JigdoSet,
    repo: Repository,
    source: Packages,
    *,
    base: ObjectChecksum | None = None,
    workers: int = 2,
    durable: bool = False,
) -> None:
    """Examine and reassemble, as a client does.

    Only when ``durable`` does libostree stage objects before they land.
    """
    if not durable:
        repo = Repository.open(repo.path)
        repo.disable_fsync()
    wanted = examine(jigdo, repo, base=base, check=lambda commit: None)
    reassemble(jigdo, wanted, repo, source, ref=REF, workers=workers)


def fsck(repo: Repository) -> None:
    """Require that libostree finds nothing wrong; raises AssertionError with what it says."""
    argv = ["ostree", f"--repo={repo.path}", "fsck", "--quiet"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def objects(repo: Repository) -> dict[str, int]:
    """Map every landed object's file to its inode: a file written again has another."""
    return {
        str(path.relative_to(repo.path)): path.lstat().st_ino
        for path in repo.path.glob("objects/*/*")
    }


# Trees as text


def write_tree(
    repo: Repository,
    text: str,
    *,
    metadata: Mapping[str, str] | None = None,
    timestamp: int = 1_700_000_000,
    ref: str | None = REF,
) -> ObjectChecksum:
    """Write the commit of a tree that ``text`` describes.

    A line is ``/path mode uid:gid content``; the mode is octal and whole.  Content of
    a file ends with a newline, of a symlink does not; ``*N`` is N times the byte "x".
    Directories are made as needed, 0755 root; a line for one gives it other
    permissions.
    """
    root = _Directory()
    repo = Repository.open(repo.path)  # the caller's keeps its way of writing
    repo.disable_fsync()
    with repo.transaction():
        for line in text.strip().splitlines():
            path, mode, owner, *rest = line.split(maxsplit=3)
            uid, gid = (int(number) for number in owner.split(":"))
            header = Header(uid, gid, int(mode, 8))
            place = root
            *parents, name = path.strip("/").split("/")
            for part in parents:
                place = place.directories.setdefault(part, _Directory())
            if int(mode, 8) & 0o170000 == 0o040000:
                place.directories.setdefault(name, _Directory()).header = header
            else:
                content = _content(rest[0] if rest else "", symlink=header.is_symlink)
                writer = repo.writer(header)
                place.files[name] = writer.write(content, None)
        tree, meta = root.write(repo)
        commit = repo.write_commit(
            tree, meta, subject="", metadata=metadata or {}, timestamp=timestamp
        )
        if ref:
            repo.set_ref(ref, commit)
    return commit


def write_files(
    repo: Repository, files: Mapping[str, bytes], *, xattrs: tuple[tuple[bytes, bytes], ...] = ()
) -> ObjectChecksum:
    """Write the commit of a tree of root's files, 0644, with these contents."""
    root = _Directory()
    repo = Repository.open(repo.path)
    repo.disable_fsync()
    with repo.transaction():
        writer = repo.writer(Header(0, 0, 0o100644, xattrs))
        for path, data in sorted(files.items()):
            place = root
            *parents, name = path.strip("/").split("/")
            for part in parents:
                place = place.directories.setdefault(part, _Directory())
            place.files[name] = writer.write(data, None)
        tree, meta = root.write(repo)
        return repo.write_commit(tree, meta, subject="", metadata={}, timestamp=1_700_000_000)


def _content(text: str, *, symlink: bool) -> bytes:
    if symlink:
        return text.encode()
    if text.startswith("*"):
        return b"x" * int(text[1:])
    return f"{text}\n".encode() if text else b""


@dataclass(slots=True)
class _Directory:
    header: Header = field(default_factory=lambda: Header(0, 0, 0o040755))
    files: dict[str, ObjectChecksum] = field(default_factory=dict)
    directories: dict[str, _Directory] = field(default_factory=dict)

    def write(self, repo: Repository) -> tuple[ObjectChecksum, ObjectChecksum]:
        below = {name: child.write(repo) for name, child in self.directories.items()}
        return repo.write_dirtree(self.files, below), repo.write_dirmeta(self.header)


def pkgid(path: Path) -> ContentDigest:
    """Return the SHA-256 of a file."""
    return ContentDigest.of(path.read_bytes())

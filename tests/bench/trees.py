"""The trees that are compared: image tars of commits, and repositories of RPMs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from composer.checksum import ObjectChecksum
from composer.ostree.objects import Header, parse_dirmeta
from composer.ostree.repo import Repository

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one regular file of an image, and where they are in its tar."""

    sha256: str
    md5: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """A tree as a tar whose bytes depend on nothing but the tree; times are 0."""

    path: Path
    digest: str
    size: int
    contents: Sequence[Content]


def export_image(repo: Path, commit: str, into: Path) -> Image:
    """Write the tree of a commit as a tar, with owners and extended attributes."""
    contents: list[Content] = []
    attributes = _attributes(repo, commit)
    argv = ["ostree", f"--repo={repo}", "export", commit]
    with into.open("wb") as stream:
        target = _Hashing(stream)
        source = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert source.stdout is not None
        with (
            source.stdout,
            tarfile.open(fileobj=source.stdout, mode="r|") as read,
            tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as write,  # type: ignore[call-overload]
        ):
            for member in read:
                # ostree's tar has no room for extended attributes, and gives all the commit's
                # time: without that, an update looks smaller to whoever works on tars.
                member.mtime = 0
                member.pax_headers = attributes.get(member.name.removeprefix("./"), {})
                contents += _copy(read, member, write)
                _forget_members(read, write)
    if source.wait():
        raise subprocess.CalledProcessError(source.returncode, argv)
    return Image(into, target.sha256.hexdigest(), into.stat().st_size, contents)


def _attributes(repo: Path, commit: str) -> dict[str, dict[str, str]]:
    """Return the extended attributes by path, as tar's extended headers have them."""
    repository = Repository.open(repo)
    found: dict[str, dict[str, str]] = {}

    def add(path: str, header: Header) -> None:
        if header.xattrs:
            found[path] = {
                f"SCHILY.xattr.{name.decode()}": value.decode(errors="surrogateescape")
                for name, value in header.xattrs
            }

    def walk(tree: ObjectChecksum, path: str) -> None:
        entries = repository.dirtree(tree)
        for file in entries.files:
            add(f"{path}{file.name}", repository.content(file.checksum)[0])
        for entry in entries.directories:
            header = parse_dirmeta(repository.metadata("dirmeta", entry.meta))
            add(f"{path}{entry.name}", header)
            walk(entry.tree, f"{path}{entry.name}/")

    walk(repository.commit(ObjectChecksum.parse(commit)).tree, "")
    return found


def _forget_members(*archives: Any) -> None:
    """Empty the lists in which tarfile keeps every member that it has seen."""
    for archive in archives:
        archive.members.clear()


def _copy(
    read: tarfile.TarFile, member: tarfile.TarInfo, write: tarfile.TarFile
) -> Iterator[Content]:
    if not member.isreg():
        write.addfile(member)
        return
    data = read.extractfile(member)
    assert data is not None
    hashing = _Hashing(data)
    write.addfile(member, hashing)
    offset = write.offset - -(-member.size // 512) * 512
    yield Content(hashing.sha256.hexdigest(), hashing.md5.hexdigest(), offset, member.size)


class _Hashing:
    """A stream whose bytes are hashed as they pass."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.md5.update(data)
        return data

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._stream.write(data)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(_PIECE):
            digest.update(data)
    return digest.hexdigest()


def size_below(path: Path) -> int:
    """Return the bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


# --- repositories of RPMs


def rpms_in(directory: Path) -> list[Path]:
    """Return the packages of a repository, sorted; without jigdo sets."""
    found = sorted(path for path in directory.rglob("*.rpm") if not path.name.endswith(".src.rpm"))
    return [path for path in found if path.parent.name != "jigdo"]


def query(rpms: Sequence[Path], form: str) -> list[str]:
    """Return the lines that rpm prints of packages in files; ``form`` as for --queryformat."""
    argv = ["rpm", "-qp", "--nosignature", "--nodigest", "--dbpath=/nonexistent"]
    argv += ["--queryformat", form, *map(str, rpms)]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines()


def names(rpms: Sequence[Path]) -> list[str]:
    """Return the package name of each RPM."""
    return query(rpms, "%{NAME}\n")


def link_all(paths: Iterable[Path], source: Path, into: Path) -> None:
    """Link files to the same places below another directory; what is there stays."""
    for path in paths:
        target = into / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            continue
        try:
            os.link(path, target)
        except OSError:  # another file system
            shutil.copy2(path, target)


def index(directory: Path) -> None:
    """Write rpm-md for a directory."""
    subprocess.run(["createrepo_c", "--quiet", str(directory)], check=True, capture_output=True)


def with_updated(old: Path, new: Path, packages: Sequence[str], into: Path) -> Path:
    """Make the repository ``old`` with these packages taken from ``new``.

    Raises LookupError when one of them is not in both, or is the same in both.
    """
    before, after = rpms_in(old), rpms_in(new)
    kept = [p for p, name in zip(before, names(before), strict=True) if name not in packages]
    taken = [p for p, name in zip(after, names(after), strict=True) if name in packages]
    there = {path.name for path in before}
    if len(taken) != len(packages) or any(path.name in there for path in taken):
        raise LookupError(f"not in both, in two versions: {' '.join(packages)}")
    link_all(kept, old, into)
    link_all(taken, new, into)
    index(into)
    return into

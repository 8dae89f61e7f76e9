"""What is inside an RPM: its file list from the header, its contents from the payload.

librpm reads both, v3 to v6 (cpio 070701 and 07070X), every compressor that it
was built with.  Rules kept here: contents are streamed, a file is never longer
than the header says, and every ``rpm.fd`` is closed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest
from composer.rpm.package import PackageRefused, messages_of, opened

# rpmio's names of the decompressors behind an "r" mode.
_IO = {
    "gzip": "gzdio",
    "bzip2": "bzdio",
    "xz": "xzdio",
    "lzma": "lzdio",
    "zstd": "zstdio",
    "none": "ufdio",
    "": "ufdio",
}
_FILEFLAG_GHOST = 1 << 6  # RPMFILE_GHOST, rpm's lib/rpmfiles.h
_SHA256_ALGORITHM = 8  # PGPHASHALGO_SHA256


@dataclass(frozen=True, slots=True)
class FileList:
    """A package's files as its header has them, in columns; index i is one file.

    ``paths`` are absolute ("/usr/bin/sh"; a source package's are "/name.spec")
    and keep undecodable bytes as surrogate escapes.  ``digests`` are SHA-256 or
    None where the header has none or another algorithm.  ``links`` groups hard
    links: files with equal values are one inode.  Ghosts are in no payload.
    """

    paths: Sequence[str]
    modes: Sequence[int]
    sizes: Sequence[int]
    digests: Sequence[ContentDigest | None]
    targets: Sequence[str]
    owners: Sequence[str]
    groups: Sequence[str]
    capabilities: Sequence[str]
    ghosts: Sequence[bool]
    links: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def is_file(self, index: int) -> bool:
        """Tell whether file ``index`` is a regular file that the payload carries."""
        return stat.S_ISREG(self.modes[index]) and not self.ghosts[index]

    def is_symlink(self, index: int) -> bool:
        """Tell whether file ``index`` is a symlink that the payload carries."""
        return stat.S_ISLNK(self.modes[index]) and not self.ghosts[index]

    def link_groups(self) -> dict[int, list[int]]:
        """Map each hard-link group of regular files to its members, in order."""
        groups: dict[int, list[int]] = {}
        for index in range(len(self)):
            if self.is_file(index):
                groups.setdefault(self.links[index], []).append(index)
        return groups


def read_file_list(header: Any) -> FileList:
    """Read the file columns out of an RPM header.

    Raises PackageRefused when columns have different lengths or a path is not clean.
    """
    names = [_absolute(name) for name in header["filenames"]]
    count = len(names)
    modes = [mode & 0xFFFF for mode in header["filemodes"]]
    algorithm = header["filedigestalgo"]
    texts = _column(header, "filedigests", count, "")
    inodes = _column(header, "fileinodes", count, 0)
    files = FileList(
        paths=names,
        modes=modes,
        sizes=header["longfilesizes"] or [],
        digests=[_digest(text, algorithm) for text in texts],
        targets=_column(header, "filelinktos", count, ""),
        owners=_column(header, "fileusername", count, "root"),
        groups=_column(header, "filegroupname", count, "root"),
        capabilities=_column(header, "filecaps", count, ""),
        ghosts=[bool(flag & _FILEFLAG_GHOST) for flag in _column(header, "fileflags", count, 0)],
        links=_links(header, inodes),
    )
    for column in (files.modes, files.sizes, files.digests, files.targets, files.owners):
        if len(column) != count:
            raise PackageRefused(f"its header lists {count} files but {len(column)} of a property")
    return files


def _column(header: Any, tag: str, count: int, default: Any) -> Sequence[Any]:
    values = header[tag]
    return values if values else [default] * count


def _absolute(name: str) -> str:
    # A source package's files have no directory.
    path = name if name.startswith("/") else f"/{name}"
    parts = path.split("/")[1:]
    # "/" itself is a path that filesystem packages own.
    if path != "/" and any(part in ("", ".", "..") for part in parts):
        raise PackageRefused(f"its header has a file name that is not clean: {name[:200]!r}")
    return path


def _digest(text: str, algorithm: int | None) -> ContentDigest | None:
    if algorithm != _SHA256_ALGORITHM or len(text) != 64:
        return None
    return ContentDigest.parse(text)


def _links(header: Any, inodes: Sequence[int]) -> list[int]:
    # Inode numbers are per device; rpm numbers both from one within a package.
    devices = _column(header, "filedevices", len(inodes), 0)
    pairs: dict[tuple[int, int], int] = {}
    keys = zip(devices, inodes, strict=True)
    return [
        index if key[1] == 0 else pairs.setdefault(key, index) for index, key in enumerate(keys)
    ]


class Content:
    """The bytes of one regular file, while the payload stands at it.

    ``indexes`` are all files that share the bytes (a hard-link set); ``size`` is
    what the header declares.  :meth:`read` and :meth:`pieces` never give more.
    """

    __slots__ = ("_archive", "_left", "indexes", "size")

    def __init__(self, archive: Any, indexes: Sequence[int], size: int) -> None:
        self._archive, self.indexes, self.size = archive, indexes, size
        self._left = size

    def read(self) -> bytes:
        """Read the rest of the content as one piece; for small files."""
        return b"".join(self.pieces(max(self._left, 1)))

    def _read(self, length: int) -> bytes:
        import rpm

        try:
            data = self._archive.read(length)
        except (rpm.error, OSError) as error:
            raise PackageRefused(f"its payload cannot be read: {messages_of(error)}") from error
        assert isinstance(data, bytes)
        return data

    def pieces(self, length: int = 1 << 20) -> Iterator[bytes]:
        """Read the rest in pieces of at most ``length`` bytes.

        Raises PackageRefused when the payload ends early.
        """
        while self._left:
            piece = self._read(min(length, self._left))
            if not piece:
                raise PackageRefused("its payload has less content than its header declares")
            self._left -= len(piece)
            yield piece


@contextmanager
def opened_payload(path: Path) -> Iterator[tuple[Any, FileList, Callable[[], Iterator[Content]]]]:
    """Open the RPM at ``path`` as ``(header, files, contents)``.

    ``contents()`` walks the payload once and yields the contents of regular
    files in payload order; those not read are skipped.  Raises PackageRefused.
    """
    with _opened_archive(path) as (header, files, archive, _):
        yield header, files, lambda: _contents(archive, files)


def read_ends(path: Path) -> Iterator[tuple[Sequence[int], int]]:
    """Yield each content's file indexes, and how much of the RPM had been read at its end.

    So many bytes of the RPM suffice to unpack all contents up to this one.  Decompressors
    read ahead, so fewer may do.  Raises PackageRefused.
    """
    with _opened_archive(path) as (_, files, archive, descriptor):
        for content in _contents(archive, files):
            for _ in content.pieces():
                pass
            yield content.indexes, os.lseek(descriptor, 0, os.SEEK_CUR)


@contextmanager
def _opened_archive(path: Path) -> Iterator[tuple[Any, FileList, Any, int]]:
    """Open an RPM as (header, files, librpm's archive, descriptor that it reads from)."""
    import rpm

    with opened(path) as (header, stream):
        try:
            files, listed = _read_files(header)
            if (header["payloadformat"] or "cpio") != "cpio":
                raise PackageRefused(
                    f"its payload is a {header['payloadformat']}, not an archive of files"
                )
            compressor = header["payloadcompressor"] or "gzip"
            if compressor not in _IO:
                raise PackageRefused(f"its payload compressor {compressor!r} is not known")
            payload = rpm.fd(stream, "r", _IO[compressor])
            archive = listed.archive(payload)
            try:
                yield header, files, archive, stream.fileno()
            finally:
                payload.close()
        except PackageRefused as error:
            raise error.within(path.name) from None


def _read_files(header: Any) -> tuple[FileList, Any]:
    import rpm

    try:
        return read_file_list(header), rpm.files(header)
    except (rpm.error, ValueError) as error:
        raise PackageRefused(f"its header's list of files is damaged: {error}") from error


def _contents(archive: Any, files: FileList) -> Iterator[Content]:
    import rpm

    groups = files.link_groups()
    try:
        for entry in archive:
            index = entry.fx
            # Of a hard-link set, rpm stores the bytes with the last member.
            if not files.is_file(index) or not archive.hascontent():
                continue
            members = groups.pop(files.links[index], None)
            if members is None:
                raise PackageRefused(f"its payload has {files.paths[index]!r} twice")
            yield Content(archive, members, files.sizes[index])
    except (rpm.error, OSError) as error:
        raise PackageRefused(f"its payload cannot be read: {messages_of(error)}") from error
    if groups:
        missing = files.paths[min(groups.values())[0]]
        raise PackageRefused(f"its payload ends before {missing!r}")

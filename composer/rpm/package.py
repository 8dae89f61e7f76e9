"""An RPM's identity and its header, read by librpm.

Identity is the pkgid, the SHA-256 of the whole RPM file, as rpm-md has it.  A
NEVRA is a name for people and solvers; two different RPMs can carry the same.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from composer.checksum import ContentDigest
from composer.errors import CommandFailed, FormatError, NotFound
from composer.system.command import run

if TYPE_CHECKING:
    import rpm

# Where the repository of a set has RPMs that came from no repository.
LOCAL_DIRECTORY = "local"
RETAINED_DIRECTORY = "retained"

_NAME = re.compile(r"[A-Za-z0-9_.+~^%{}@-]+\Z")
_FIELD = re.compile(r"[A-Za-z0-9_.+~^]+\Z")


class PackageRefused(FormatError):
    """An RPM that librpm refuses, or whose contents cannot be trusted."""


@dataclass(frozen=True, slots=True, order=True)
class Nevra:
    """Name, epoch, version, release, architecture; sorts by field, not by rpm's version order."""

    name: str
    epoch: int
    version: str
    release: str
    arch: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``name-[epoch:]version-release.arch``; raises ValueError for anything else."""
        rest, dot, arch = text.rpartition(".")
        rest, dash, release = rest.rpartition("-")
        name, dash2, evr = rest.rpartition("-")
        epoch, colon, version = evr.rpartition(":")
        number = epoch if colon else "0"
        fields_good = all(_FIELD.match(field) for field in (version, release, arch))
        if not (dot and dash and dash2 and number.isascii() and number.isdecimal() and fields_good):
            raise ValueError(f"expected name-[epoch:]version-release.arch, got {text[:120]!r}")
        if not _NAME.match(name):
            raise ValueError(f"not a package name: {name[:120]!r}")
        return cls(name, int(number), version, release, arch)

    @classmethod
    def of_header(cls, header: rpm.hdr) -> Self:
        """Take the NEVRA out of an RPM header; raises ValueError when it has none."""
        fields = {tag: header[tag] for tag in ("name", "version", "release")}
        if not all(fields.values()):
            raise ValueError(f"the header lacks {', '.join(t for t, v in fields.items() if not v)}")
        # rpm's own query shows a package without an architecture tag as "(none)".
        arch = "src" if header.isSource() else header["arch"] or "noarch"
        name, version, release = fields.values()
        nevra = cls(name, header["epoch"] or 0, version, release, arch)
        if cls.parse(str(nevra)) != nevra:
            raise ValueError(f"the header's identity is not clean: {str(nevra)[:200]!r}")
        return nevra

    @property
    def evr(self) -> str:
        """``[epoch:]version-release``; a zero epoch is left out, as dnf prints it."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{epoch}{self.version}-{self.release}"

    def __str__(self) -> str:
        return f"{self.name}-{self.evr}.{self.arch}"


@dataclass(frozen=True, slots=True)
class PackageRef:
    """One RPM as a repository publishes it.

    ``size`` is in bytes.  ``repository`` is an id ("" for the set's own
    repository) and ``location`` a path relative to that repository's base: a
    hint for finding the file, never an identity.
    """

    nevra: Nevra
    pkgid: ContentDigest
    size: int
    repository: str = ""
    location: str = ""


def file_name(package: PackageRef) -> str:
    """Return what the file of a package is usually called: its epoch is not in it."""
    nevra = package.nevra
    return f"{nevra.name}-{nevra.version}-{nevra.release}.{nevra.arch}.rpm"


def retained_location(package: PackageRef) -> str:
    """Return where the repository of a set keeps an RPM for the day on which others drop it."""
    return f"{RETAINED_DIRECTORY}/{package.pkgid}/{file_name(package)}"


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open an RPM as ``(header, rpm.fd)``; the descriptor stands where the payload begins.

    Header digests are verified; signatures are not (that is the repository's
    ``gpgcheck``).  Raises PackageRefused with librpm's reason.
    """
    import rpm

    _collect_messages()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Left to the garbage collector, rpm.fd objects held 560 MB on a large import.
        stream = rpm.fd(descriptor, "r")
        try:
            yield _read_header(stream, path), stream
        finally:
            stream.close()
    finally:
        os.close(descriptor)


def _read_header(stream: Any, path: Path) -> Any:
    import rpm

    transaction = rpm.TransactionSet("/")
    # Signatures need a keyring, which content addressing makes unnecessary here;
    # digests cost little and give a clear reason early.
    transaction.setVSFlags(rpm._RPMVSF_NOSIGNATURES)
    try:
        header = transaction.hdrFromFdno(stream)
    except rpm.error as error:
        raise PackageRefused(f"{path.name}: not a readable RPM: {messages_of(error)}") from error
    if header is None:
        raise PackageRefused(f"{path.name}: not a readable RPM: {messages_of('no header')}")
    return header


_messages = -1
_collecting = threading.Lock()


def _collect_messages() -> None:
    """Send librpm's log to memory: it holds the reasons that its exceptions lack."""
    global _messages
    import rpm

    with _collecting:
        if _messages < 0:
            _messages = os.memfd_create("librpm-log")
            rpm.setLogFile(_messages)  # librpm's own for as long as the process lives
            rpm.setVerbosity(rpm.RPMLOG_ERR)


def messages_of(error: object) -> str:
    """Give what librpm said last, or ``error`` itself; forgets what it gives."""
    if _messages < 0:
        return str(error)
    text = os.pread(_messages, 1 << 16, 0).decode(errors="replace")
    os.ftruncate(_messages, 0)
    os.lseek(_messages, 0, os.SEEK_SET)
    lines = [line.strip() for line in text.splitlines()]
    said = [line.removeprefix("error: ") for line in lines if line]
    return "; ".join(dict.fromkeys([*said[-3:], str(error)]))


def read_ref(path: Path, *, repository: str = "", location: str = "") -> PackageRef:
    """Describe the RPM at ``path``: reads it once for its pkgid.  Raises PackageRefused."""
    with opened(path) as (header, _):
        nevra = nevra_of(header, path)
    with path.open("rb") as stream:
        pkgid = ContentDigest.of_stream(stream)
    return PackageRef(nevra, pkgid, path.stat().st_size, repository, location or path.name)


def nevra_of(header: Any, path: Path) -> Nevra:
    """Take the NEVRA out of ``header``; raises PackageRefused naming ``path``."""
    try:
        return Nevra.of_header(header)
    except ValueError as error:
        raise PackageRefused(f"{path.name}: {error}") from error


def verify_digests(path: Path) -> None:
    """Require that every digest of header and payload is right; raises PackageRefused.

    For RPMs that no repository vouches for.  Signatures are not looked at.
    """
    level = ["--define", "_pkgverify_level digest"]
    try:
        run(["rpmkeys", *level, "--checksig", "--nosignature", str(path)])
    except CommandFailed as error:
        reason = " ".join(error.output.split()).replace(f"{path}:", "").removeprefix("error: ")
        raise PackageRefused(
            f"{path.name}: rpm refuses it: {reason.strip()}", hint="get the file again"
        ) from error


def find_rpms(places: list[Path]) -> list[Path]:
    """List the RPM files at ``places`` (files, or directories searched below), sorted.

    Raises NotFound for a place that is not there, and when no place has an RPM.
    """
    found: set[Path] = set()
    for place in places:
        if place.is_dir():
            found.update(path for path in place.rglob("*.rpm") if path.is_file())
        elif place.is_file():
            found.add(place)
        else:
            raise NotFound(
                f"{place}: no such file or directory", hint="name RPM files or directories of them"
            )
    if not found:
        raise NotFound(
            f"no RPMs in {', '.join(map(str, places))}", hint="name RPM files or their directories"
        )
    return sorted(found)

"""``ima``: signatures of files that packages carry, for the kernel's integrity checks.

An RPM has them in its header, made over each file's digest.  So a file of the tree gets
its signature only while its bytes are the ones that were signed.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.compose.packages import ComposedPackage
from composer.compose.tree import Tree
from composer.rpm.package import PackageRefused, opened

XATTR = "security.ima"
_ALGORITHMS = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
# struct signature_v2_hdr in the kernel's security/integrity/integrity.h.
_HEADER = 9


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature, and the digest (hexadecimal, by hashlib's ``algorithm``) that it is for."""

    signature: bytes
    algorithm: str
    digest: str

    def covers(self, path: Path) -> bool:
        """Whether ``path`` still has the bytes that were signed."""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, self.algorithm).hexdigest() == self.digest


Signatures = Mapping[tuple[int, int], Signed]
"""By device and inode, which a file keeps when it is moved in the tree."""


def read_signatures(tree: Tree, packages: Iterable[ComposedPackage]) -> Signatures:
    """Find the signed files of ``packages`` in a ``tree`` that they were just installed into.

    Raises PackageRefused for signatures that are no hexadecimal numbers.
    """
    found: dict[tuple[int, int], Signed] = {}
    for package in packages:
        for name, signed in _signed(package.path):
            path = tree.path(name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = signed
    return found


def _signed(rpm: Path) -> Iterable[tuple[str, Signed]]:
    import rpm as librpm

    with opened(rpm) as (header, _):
        signatures = header[librpm.RPMTAG_FILESIGNATURES] or ()
        if not any(signatures):
            return
        algorithm = _ALGORITHMS.get(header["filedigestalgo"] or 1, "")
        names, digests = header["filenames"], header["filedigests"]
        for name, digest, text in zip(names, digests, signatures, strict=True):
            try:
                signature = bytes.fromhex(text)
            except ValueError as error:
                raise PackageRefused(f"{rpm.name}: {name}: not a file signature") from error
            # Of unsigned files there is nothing, or zeros of the same length.
            if any(signature[:_HEADER]) and len(signature) >= _HEADER and digest and algorithm:
                yield name, Signed(signature, algorithm, digest)

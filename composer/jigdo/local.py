"""RPM files on this machine as a source of packages, and the proof that a set works."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, NotFound, VerificationFailed
from composer.jigdo.examine import Wanted, examine
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import Arriving, check_space, reassemble
from composer.ostree.repo import Repository
from composer.progress import Report, silent
from composer.rpm.beginnings import NO_BEGINNINGS, Beginning
from composer.rpm.package import PackageRef


class LocalPackages:
    """Gives packages from files; each is hashed before it is given."""

    def __init__(self, paths: Mapping[ContentDigest, Path]) -> None:
        self._paths = paths

    def fetch(
        self,
        packages: Sequence[PackageRef],
        beginnings: Mapping[ContentDigest, Beginning] = NO_BEGINNINGS,
    ) -> Arriving:
        """Yield every package with its file; raises NotFound naming all that are missing."""
        missing = [package for package in packages if package.pkgid not in self._paths]
        if missing:
            raise NotFound(
                f"{len(missing)} of {len(packages)} packages are not there",
                details=[f"{package.nevra} (pkgid {package.pkgid})" for package in missing[:20]],
                hint="name the directories that have them with --packages",
            )
        for package in packages:
            path = self._paths[package.pkgid]
            require_pkgid(package, path)
            yield package, path

    def refuse(self, package: PackageRef, error: VerificationFailed) -> bool:
        """There is no other file: each is the one that the set names."""
        return False

    def done(self, package: PackageRef) -> None:
        """Nothing to clean up: the files are not ours."""


def require_pkgid(package: PackageRef, path: Path) -> None:
    """Hash the file at ``path``; raises ChecksumMismatch when it is not ``package``."""
    with path.open("rb") as stream:
        actual = ContentDigest.of_stream(stream)
    if actual != package.pkgid:
        raise ChecksumMismatch(
            what=str(package.nevra),
            expected=str(package.pkgid),
            actual=str(actual),
            source=str(path),
            hint="the file changed since its repository was made; get it again",
        )


def verify_set(
    jigdo: JigdoSet, packages: Mapping[ContentDigest, Path], workdir: Path, report: Report = silent
) -> Wanted:
    """Reassemble the set's commit in a throw-away repository below ``workdir``.

    Every object is written under, and so checked against, the checksum that the
    commit gives it.  Returns what the commit consists of.  Raises what reassembly raises.
    """
    with tempfile.TemporaryDirectory(prefix="jigdo-verify-", dir=workdir) as directory:
        repo = Repository.create(Path(directory) / "repo", mode="bare-user")
        repo.disable_fsync()
        wanted = examine(jigdo, repo, base=None, check=lambda commit: None)
        check_space(repo, wanted.plan)
        source = LocalPackages(packages)
        reassemble(jigdo, wanted, repo, source, ref=jigdo.head.ref, report=report)
        repo.require(jigdo.head.ref)
        return wanted

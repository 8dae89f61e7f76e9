"""From a commit to a published set: build the file, wrap it, sign it, publish it.

The order is fixed: commit signed, set built, RPM signed, rpm-md, pointer.  Signing
changes an RPM's size and pkgid, so nothing is published before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, FormatError, NotFound
from composer.jigdo.build import LocalPackage, build_set
from composer.jigdo.container import MAGIC, Kind
from composer.jigdo.local import require_pkgid
from composer.jigdo.manifest import Head
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import JigdoSet, open_file
from composer.mirror.publish import describe_set, publish_set
from composer.mirror.set_rpm import About, build_set_rpm, locate_jigdo, sign_rpm
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.ostree.signature import is_signed
from composer.progress import Report, Step, silent
from composer.rpm.rpmmd import read_packages

_RPM_MAGIC = b"\xed\xab\xee\xdb"
_RELEASE = "1"


@dataclass(frozen=True, slots=True)
class SetRequest:
    """What set to make.

    ``output`` is the rpm-md repository that gets it (made if it is not there).
    """

    ref: str
    output: Path
    cachedir: Path
    name: str = ""
    about: About = field(default_factory=About)
    gpg_key: str = ""
    gpg_homedir: Path | None = None


@dataclass(frozen=True, slots=True)
class MadeSet:
    """A published set: its RPM and what the pointer says of it."""

    rpm: Path
    head: Head
    entry: PointerEntry

    def summary(self) -> dict[str, Any]:
        """Describe it as a JSON document."""
        return {
            "rpm": str(self.rpm),
            "ref": self.entry.ref,
            "version": self.entry.version,
            "commit": str(self.entry.commit),
            "jigdo_bytes": self.entry.length,
            "rpm_bytes": self.entry.size,
            "totals": self.head.totals.model_dump(),
        }


def make_set(
    repo: Repository,
    packages: Sequence[LocalPackage],
    request: SetRequest,
    report: Report = silent,
) -> MadeSet:
    """Build, wrap, sign and publish the set of ``request.ref``'s newest commit.

    ``packages`` are all RPMs of that commit.  When anything fails, the repository at
    ``request.output`` is as it was.
    """
    commit = repo.require(request.ref)
    request.cachedir.mkdir(parents=True, exist_ok=True)
    # Not in the output: createrepo_c would find the RPM while it is being made.
    with tempfile.TemporaryDirectory(prefix="set-", dir=request.cachedir) as directory:
        work = Path(directory).absolute()
        plain = work / "set.jigdo"
        with plain.open("wb") as stream:
            built = build_set(
                repo,
                commit,
                packages,
                ref=request.ref,
                into=stream,
                cache=DigestCache(request.cachedir / "digests.sqlite"),
                name=request.name,
                report=report,
            )
        head = built.head
        report(Step("publish", item=str(request.output)))
        rpm = build_set_rpm(
            plain,
            name=head.name,
            version=head.version,
            release=_RELEASE,
            arch="noarch",
            ref=head.ref,
            commit=head.commit,
            output=work,
            timestamp=head.timestamp,
            about=request.about,
        )
        if request.gpg_key:
            sign_rpm(rpm, key=request.gpg_key, homedir=request.gpg_homedir)
        entry = describe_set(
            rpm,
            ref=head.ref,
            version=head.version,
            commit=head.commit,
            timestamp=head.timestamp,
            index=built.index,
        )
        entry = publish_set(rpm, entry, request.output, packages=packages)
    return MadeSet(request.output / entry.location, head, entry)


def find_packages(places: Sequence[str]) -> list[LocalPackage]:
    """List the RPMs at places ``[ID=]DIR``; raises ComposerError for one that is no directory."""
    found = []
    for place in places:
        repository, equals, name = place.rpartition("=")
        if equals and not repository:
            raise ComposerError(f"{place}: the repository id before '=' is empty")
        directory = Path(name)
        if not directory.is_dir():
            raise NotFound(f"{name}: no such directory")
        refs = read_packages(directory, repository)
        found += [LocalPackage(ref, directory / ref.location) for ref in refs]
    return found


def select_packages(
    repo: Repository, commit: ObjectChecksum, available: Sequence[LocalPackage]
) -> list[LocalPackage]:
    """Pick the commit's packages, by pkgid, out of what is available.

    A commit that does not say what it was composed of gets everything available.
    Raises NotFound naming the packages that are missing, and ChecksumMismatch for a
    file that is not the one that its repository lists.
    """
    chosen = _select(repo, commit, available)
    for package in chosen:
        require_pkgid(package.ref, package.path)
    return chosen


def _select(
    repo: Repository, commit: ObjectChecksum, available: Sequence[LocalPackage]
) -> list[LocalPackage]:
    by_pkgid: dict[ContentDigest, LocalPackage] = {}
    for package in available:
        by_pkgid.setdefault(package.ref.pkgid, package)
    listed = repo.commit(commit).metadata.get("jigdo-composer.packages")
    if listed is None:
        return list(by_pkgid.values())
    if not isinstance(listed, list):
        raise FormatError(f"commit {commit}: its package list is not readable")
    wanted = {ContentDigest.parse(pkgid): nevra for nevra, pkgid, _ in listed}
    missing = sorted(f"{nevra} ({key})" for key, nevra in wanted.items() if key not in by_pkgid)
    if missing:
        raise NotFound(
            f"{len(missing)} of the commit's {len(wanted)} packages are not there",
            details=missing[:20],
            hint="name the repositories that it was composed from with --packages",
        )
    return [by_pkgid[pkgid] for pkgid in wanted]


def open_set(path: Path) -> JigdoSet:
    """Open a .jigdo file or a set's RPM; raises FormatError for anything else."""
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic == MAGIC:
        return open_file(path)
    if magic[:4] == _RPM_MAGIC:
        start, length = locate_jigdo(path)
        return open_file(path, start=start, length=length)
    raise FormatError(
        f"{path}: neither a .jigdo file nor an RPM",
        hint="sets are the RPMs in a repository's jigdo directory",
    )


def summarize(jigdo: JigdoSet) -> dict[str, Any]:
    """Describe a set as a JSON document: identity, packages, totals, and where its bytes are."""
    head, start = jigdo.head, jigdo.read_commit()
    sections = []
    for kind in Kind:
        frames = list(jigdo.index.of(kind))
        sections.append(
            {
                "kind": kind.name.lower(),
                "frames": len(frames),
                "bytes": sum(frame.size for frame in frames),
                "uncompressed": sum(frame.uncompressed for frame in frames),
            }
        )
    packages = [
        {
            "nevra": str(package.ref.nevra),
            "pkgid": str(package.ref.pkgid),
            "size": package.ref.size,
            "repository": package.ref.repository,
            "location": package.ref.location,
        }
        for package in head.packages
    ]
    return {
        "name": head.name,
        "ref": head.ref,
        "version": head.version,
        "timestamp": head.timestamp,
        "commit": str(head.commit),
        "signed": is_signed(start.detached),
        "packages": packages,
        "totals": head.totals.model_dump(),
        "sections": sections,
        "index": asdict(jigdo.place) | {"digest": str(jigdo.place.digest)},
    }

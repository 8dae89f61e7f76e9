"""From a commit to a published set: build the file, wrap it, sign it, publish it.

The order is fixed: commit signed, set built, RPM signed, rpm-md, pointer.  Signing
changes an RPM's size and pkgid, so nothing is published before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, FormatError, NotFound
from composer.jigdo.build import LocalPackage, Older, build_set
from composer.jigdo.container import MAGIC
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.inspecting import weigh
from composer.jigdo.local import require_pkgid
from composer.jigdo.manifest import Head
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import JigdoSet, open_file
from composer.mirror.keys import KeyDirectory
from composer.mirror.others import Described, find_commit, listed_packages, neighbours
from composer.mirror.publish import describe_set, publish_set
from composer.mirror.set_rpm import About, build_set_rpm, locate_jigdo, sign_rpm
from composer.mirror.trust import require_begun
from composer.ostree.digests import DIGESTS, DigestCache
from composer.ostree.locking import Wait, using
from composer.ostree.repo import Repository
from composer.ostree.signature import is_signed
from composer.progress import Report, Step, silent
from composer.rpm.rpmmd import read_packages
from composer.system.executors import Farm
from composer.system.heap import hold_less

_RPM_MAGIC = b"\xed\xab\xee\xdb"
_RELEASE = "1"


@dataclass(frozen=True, slots=True)
class DeltaChoice:
    """What the operator wants of deltas.

    ``bases`` are revisions to ship them from; None is the commit's neighbours.  The others
    are as in :class:`DeltaOptions`.
    """

    bases: tuple[str, ...] | None = None
    rpm: str = "auto"
    budget: int | None = None
    effort: str = "normal"


@dataclass(frozen=True, slots=True)
class Keeping:
    """Packages that clients can have although their repositories drop them, by name or NEVRA.

    The set's repository keeps the RPMs of ``retain``; the set ships what ``full`` ones have.
    """

    retain: tuple[str, ...] = ()
    full: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetRequest:
    """What set to make.

    ``output`` is the rpm-md repository that gets it (made if it is not there);
    ``revision`` a version of the ref that is not its newest.  Where the repository has
    signed statements, ``tuf_keys`` sign what is newest.
    """

    ref: str
    output: Path
    cachedir: Path
    revision: str = ""
    name: str = ""
    about: About = field(default_factory=About)
    gpg_key: str = ""
    gpg_homedir: Path | None = None
    deltas: DeltaChoice = DeltaChoice()
    keeping: Keeping = Keeping()
    tuf_keys: KeyDirectory | None = None


@dataclass(frozen=True, slots=True)
class MadeSet:
    """A published set: its RPM and what the pointer says of it.

    ``undescribed`` are commits that it has deltas from, but no update of the description.
    """

    rpm: Path
    head: Head
    entry: PointerEntry
    undescribed: tuple[ObjectChecksum, ...] = ()

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
            "bases": [str(base.commit) for base in self.head.bases],
            "undescribed": [str(commit) for commit in self.undescribed],
        }


def make_set(
    repo: Repository,
    packages: Sequence[LocalPackage],
    request: SetRequest,
    report: Report = silent,
    *,
    available: Sequence[LocalPackage] = (),
    wait: Wait | None = None,
    farm: Farm | None = None,
) -> MadeSet:
    """Build, wrap, sign and publish the set of a commit of ``request.ref``.

    ``packages`` are all RPMs of that commit, ``available`` also others; deltas are made on
    ``farm``, if there is one.  When anything
    fails, the repository at ``request.output`` is as it was.  ``repo`` is only read; nobody
    removes anything of it meanwhile.  Raises Busy (unless there is ``wait``) where someone does.
    """
    with using(repo, wait):
        return _make_set(repo, packages, request, report, available, farm)


def _make_set(
    repo: Repository,
    packages: Sequence[LocalPackage],
    request: SetRequest,
    report: Report,
    available: Sequence[LocalPackage],
    farm: Farm | None,
) -> MadeSet:
    commit = find_commit(repo, request.ref, request.revision)
    retained = named(packages, request.keeping.retain)
    full = {package.ref.pkgid for package in named(packages, request.keeping.full)}
    if request.tuf_keys:
        require_begun(request.output, request.tuf_keys)
    request.cachedir.mkdir(parents=True, exist_ok=True)
    hold_less()
    # Not in the output: createrepo_c would find the RPM while it is being made.
    with tempfile.TemporaryDirectory(prefix="set-", dir=request.cachedir) as directory:
        work = Path(directory).absolute()
        plain = work / "set.jigdo"
        bases = _bases(repo, commit, request)
        described = Described(repo, request.output, request.cachedir)
        descriptions = described.find(
            request.ref, request.name, bases, [*packages, *available], report
        )
        with plain.open("wb") as stream:
            built = build_set(
                repo,
                commit,
                packages,
                ref=request.ref,
                into=stream,
                cache=DigestCache(request.cachedir / DIGESTS),
                name=request.name,
                older=_older(bases, descriptions, request),
                full=full,
                report=report,
                farm=farm,
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
            updates=built.updates,
        )
        newest = commit == repo.resolve(request.ref)
        entry = publish_set(
            rpm,
            entry,
            request.output,
            packages=packages,
            retained=retained,
            newest=newest,
            keys=request.tuf_keys,
        )
        described.keep(open_file(plain))
    undescribed = tuple(sorted(set(bases) - set(descriptions)))
    return MadeSet(request.output / entry.location, head, entry, undescribed)


def named(packages: Sequence[LocalPackage], names: Sequence[str]) -> list[LocalPackage]:
    """Return the packages that ``names`` (names, NEVRAs, or "all") name; raises NotFound."""
    found: dict[ContentDigest, LocalPackage] = {}
    for name in names:
        every = [p for p in packages if name in ("all", p.ref.nevra.name, str(p.ref.nevra))]
        if not every:
            raise NotFound(
                f"{name}: the commit has no such package",
                hint="name a package or its NEVRA, or all",
            )
        found |= {package.ref.pkgid: package for package in every}
    return list(found.values())


def _bases(
    repo: Repository, commit: ObjectChecksum, request: SetRequest
) -> tuple[ObjectChecksum, ...]:
    """Say from which commits the set ships deltas."""
    if request.deltas.bases is None:
        found = neighbours(repo, request.ref, commit)
    else:
        named = request.deltas.bases
        found = tuple(find_commit(repo, request.ref, revision) for revision in named)
    return tuple(sorted(set(found) - {commit}))


def _older(
    bases: tuple[ObjectChecksum, ...],
    descriptions: Mapping[ObjectChecksum, bytes],
    request: SetRequest,
) -> Older:
    choice = request.deltas
    options = DeltaOptions(bases, choice.rpm, choice.budget, choice.effort)
    return Older(options, descriptions, request.cachedir / "patches.sqlite")


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
    wanted = listed_packages(repo, commit)
    if wanted is None:
        return list(by_pkgid.values())
    keys = {ContentDigest.parse(pkgid): nevra for pkgid, nevra in wanted.items()}
    missing = sorted(f"{nevra} ({key})" for key, nevra in keys.items() if key not in by_pkgid)
    if missing:
        raise NotFound(
            f"{len(missing)} of the commit's {len(wanted)} packages are not there",
            details=missing[:20],
            hint="name the repositories that it was composed from with --packages",
        )
    return [by_pkgid[key] for key in keys]


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
    head, start, found = jigdo.head, jigdo.read_commit(), weigh(jigdo)
    packages = [
        {
            "nevra": str(package.ref.nevra),
            "pkgid": str(package.ref.pkgid),
            "size": package.ref.size,
            "repository": package.ref.repository,
            "location": package.ref.location,
            "map_bytes": share.map_bytes,
            "patch_bytes": share.patch_bytes,
            "patches": share.patches,
        }
        for package, share in zip(head.packages, found.packages, strict=True)
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
        "bytes": found.bytes,
        "sections": [asdict(section) for section in found.sections],
        "other": {"patch_bytes": found.other.patch_bytes, "patches": found.other.patches},
        "frame_codecs": [asdict(codec) for codec in found.frame_codecs],
        "patch_codecs": [asdict(codec) for codec in found.patch_codecs],
        "bases": [asdict(base) | {"commit": str(base.commit)} for base in found.bases],
        "index": asdict(jigdo.place) | {"digest": str(jigdo.place.digest)},
    }

"""Pull a ref: from the pointer on a mirror to a proven commit in a repository.

Order: pointer, index and head, commit (its signatures are checked before anything
else moves), tree, maps, plan, then RPMs and the set's own content, the proof, and
the ref last.  Running it again after any interruption continues: landed and staged
objects are found, verified RPMs are kept, partial ones are continued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.client.descriptions import Descriptions
from composer.client.remote import Remote
from composer.client.rpm_cache import RpmCache
from composer.errors import ChecksumMismatch, ComposerError, FormatError, VerificationFailed
from composer.jigdo.container import MAX_INDEX, Check, Index, Kind
from composer.jigdo.delta.frames import decompress_update
from composer.jigdo.description import apply_update, parse_update, split_description
from composer.jigdo.examine import DEFAULT_CHOICES, AtHand, CheckCommit, Choices, Wanted, examine
from composer.jigdo.plan import Plan
from composer.jigdo.pointer import PointerEntry, UpdatePlace
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.jigdo.reassemble import Arriving, check_space, check_storable, reassemble
from composer.jigdo.tree import tree_frames
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.packages import WINDOW, fetch_packages
from composer.net.packages import Wanted as WantedPackage
from composer.net.repository import find_entry, locate_again
from composer.net.traffic import Traffic
from composer.ostree.repo import Repository
from composer.ostree.signature import BadSignature, require_signature
from composer.progress import Report, Step, silent
from composer.rpm.package import Nevra, PackageRef
from composer.system.files import remove_tree


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that arrived and requests that were made, for one kind of thing."""

    bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did.  ``moved`` is by kind: "rpm", "set" (metadata), "new" (content),
    "delta"."""

    ref: str
    version: str
    commit: ObjectChecksum
    previous: ObjectChecksum | None
    updated: bool
    packages: int
    moved: Mapping[str, Moved]
    whole_package_bytes: int
    new_content_bytes: int
    delta_bytes: int
    object_bytes: int


def pull(
    remote: Remote,
    ref: str,
    repo: Repository,
    *,
    choices: Choices = DEFAULT_CHOICES,
    rpm_caches: Sequence[Path] = (),
    strict_pkgid: bool = False,
    report: Report = silent,
    workers: int = 2,
) -> PullResult:
    """Bring ``ref`` of ``repo`` to the newest version that ``remote`` has.

    RPMs in the directories ``rpm_caches``, and below, are used instead of the mirrors'.
    An RPM that was signed or compressed anew since the set was built serves as well, for its
    contents are proven one by one, unless ``strict_pkgid``.

    Raises NotFound when the remote has no such ref or lacks a package,
    VerificationFailed (with kin) for anything that is not what it must be, and
    NoSpace before the first large byte moves.  The ref is then the old one and the
    repository whole.
    """
    traffic, cache = Traffic(), RpmCache(rpm_caches)
    with closing(Fetcher(Mirrors.parse(*remote.urls), traffic=traffic)) as fetcher:
        found = look(fetcher, remote, ref, repo, choices=choices, at_hand=cache.find, report=report)
        entry, previous = found.entry, found.previous
        if found.set is None:
            return _result(entry, previous, None, traffic)
        jigdo, wanted = found.set
        check_storable(repo, wanted.headers)
        check_space(repo, wanted.plan, staging_bytes=staging_bytes(wanted.plan))
        packages = package_directory(repo)
        source = _MirroredPackages(remote, packages, cache, traffic, report, strict=strict_pkgid)
        reassemble(
            jigdo, wanted, repo, source, ref=ref, choices=choices, report=report, workers=workers
        )
        remove_tree(packages)
        _keep_description(jigdo, repo, Descriptions(repo))
        return _result(entry, previous, wanted, traffic)


@dataclass(frozen=True, slots=True)
class Found:
    """What a remote has for a ref; ``set`` is None when its commit is here already."""

    entry: PointerEntry
    previous: ObjectChecksum | None
    set: tuple[JigdoSet, Wanted] | None


def look(
    fetcher: Fetcher,
    remote: Remote,
    ref: str,
    repo: Repository,
    *,
    choices: Choices,
    at_hand: AtHand,
    report: Report = silent,
    read_only: bool = False,
) -> Found:
    """Read what a pull reads before it moves anything large; raises what :func:`pull` raises.

    Nothing is written with ``read_only``, and the same bytes are read.
    """
    report(Step("look", item=remote.urls[0]))
    entry = find_entry(fetcher, ref)
    previous = repo.resolve(ref)
    if previous == entry.commit and _is_good_here(remote, repo, entry.commit):
        return Found(entry, previous, None)
    jigdo = open_remote_set(fetcher, entry, Descriptions(repo), max_memory=choices.max_memory)
    base = previous if previous and not repo.is_partial(previous) else None
    check = _signature_check(remote, repo)
    report(Step("read set", item=jigdo.head.version))
    wanted = examine(
        jigdo,
        repo,
        base=base,
        check=check,
        choices=choices,
        at_hand=at_hand,
        read_only=read_only,
    )
    return Found(entry, previous, (jigdo, wanted))


def staging_bytes(plan: Plan) -> int:
    """Return how many bytes of RPMs lie on disk at once, at most."""
    return min(plan.package_bytes, 2 * WINDOW)


def package_directory(repo: Repository) -> Path:
    """Return where RPMs lie until they are imported: ``PKGID.rpm``, incomplete ``.rpm.part``."""
    return repo.path / "tmp" / "jigdo-packages"


def _result(
    entry: PointerEntry, previous: ObjectChecksum | None, wanted: Wanted | None, traffic: Traffic
) -> PullResult:
    kinds = sorted({row.kind for row in traffic.rows()} | {"rpm", "set", "new", "delta"})
    plan: Plan | None = wanted.plan if wanted else None
    return PullResult(
        ref=entry.ref,
        version=entry.version,
        commit=entry.commit,
        previous=previous,
        updated=wanted is not None,
        packages=len(plan.packages) if plan else 0,
        moved={kind: Moved(traffic.bytes(kind), traffic.requests(kind)) for kind in kinds},
        whole_package_bytes=plan.package_bytes if plan else 0,
        new_content_bytes=plan.new_bytes if plan else 0,
        delta_bytes=plan.delta_bytes if plan else 0,
        object_bytes=plan.object_bytes if plan else 0,
    )


def _is_good_here(remote: Remote, repo: Repository, commit: ObjectChecksum) -> bool:
    """Tell whether a commit is here whole, and would be accepted from ``remote``.

    Another remote, or another program, may have put an unsigned one under the ref.
    """
    if repo.is_partial(commit):
        return False
    signatures = repo.detached_metadata(commit)
    detached = signatures.get_data_as_bytes().get_data() if signatures else None
    data = repo.metadata("commit", commit)
    try:
        _signature_check(remote, repo)(CommitFrame(data, detached or b"", repo.commit(commit)))
    except BadSignature:
        return False  # the set may have better ones
    return True


def _signature_check(remote: Remote, repo: Repository) -> CheckCommit:
    def check(start: CommitFrame) -> None:
        if remote.trust == "none":
            return
        assert remote.keyring is not None
        require_signature(
            repo,
            start.data,
            start.detached,
            keyring=remote.keyring,
            fingerprints=remote.fingerprints,
        )

    return check


def _keep_description(jigdo: JigdoSet, repo: Repository, kept: Descriptions) -> None:
    """Keep what was read of the set, if it is everything, for the next update."""
    trees = {}
    root = repo.commit(jigdo.head.commit).tree
    for data in tree_frames(root, lambda one: repo.metadata("dirtree", one)):
        trees[ContentDigest.of(data)] = data
    description = jigdo.description(lambda frame: trees.get(frame.digest))
    if description is not None:
        kept.keep(jigdo.head.commit, description, beside=repo.refs().values())


def open_remote_set(
    fetcher: Fetcher, entry: PointerEntry, kept: Descriptions, *, max_memory: int
) -> JigdoSet:
    """Open the set that a pointer names, by ranges; with one, if it is an update of what is here.

    Raises FormatError when the set is of another ref or commit than the pointer says.
    """
    if max(entry.index.size, entry.index.uncompressed) > MAX_INDEX:
        raise FormatError(
            f"{entry.location}: the pointer claims {entry.index.uncompressed} bytes of index",
            hint="no set has that many: ask who published it",
        )
    ranges = _RemoteRanges(fetcher, entry)
    known = _updated(fetcher, entry, ranges, kept, max_memory)
    jigdo = JigdoSet(ranges, entry.index, known)
    ranges.learn(jigdo)
    head = jigdo.head
    if (head.ref, head.version, head.commit) != (entry.ref, entry.version, entry.commit):
        raise FormatError(
            f"{entry.location}: the set is of {head.ref} {head.version}, commit {head.commit}; "
            f"the pointer says {entry.ref} {entry.version}, commit {entry.commit}",
            hint="the mirror may be in the middle of an update: try again later",
        )
    return jigdo


def _updated(
    fetcher: Fetcher,
    entry: PointerEntry,
    ranges: _RemoteRanges,
    kept: Descriptions,
    max_memory: int,
) -> tuple[Index, dict[int, bytes]] | None:
    """Make the set's description of one that is here; None where that cannot be."""
    here = set(kept.commits())
    for place in entry.updates:
        base = kept.read(place.base) if place.base in here else None
        if base is None:
            continue
        try:
            return _follow(place, entry, ranges, base, max_memory)
        except (FormatError, VerificationFailed):
            continue  # it would only have saved bytes
    return None


def _follow(
    place: UpdatePlace, entry: PointerEntry, ranges: _RemoteRanges, base: bytes, max_memory: int
) -> tuple[Index, dict[int, bytes]]:
    found: list[bytes] = []

    def prove(packed: bytes) -> None:
        data = decompress_update(packed, size=place.uncompressed)
        if (actual := ContentDigest.of(data)) != place.digest:
            what = "update of the set's description"
            raise ChecksumMismatch(what=what, expected=str(place.digest), actual=str(actual))
        found[:] = [data]

    ranges.read(place.offset, place.size, prove)
    description, deltas = apply_update(parse_update(found[0]), base, max_memory=max_memory)
    index, frames = split_description(description, entry.index)
    known = dict(frames)
    if deltas:
        numbers = {index[number].digest: number for number in index.numbers(Kind.DELTAS)}
        number = numbers.get(ContentDigest.of(deltas))
        if number is not None:
            known[number] = deltas
    return index, known


class _RemoteRanges:
    """Byte ranges of a .jigdo file inside an RPM on a mirror."""

    def __init__(self, fetcher: Fetcher, entry: PointerEntry) -> None:
        self._fetcher, self._entry = fetcher, entry
        self._content = range(0)
        self._deltas = range(0)

    def learn(self, jigdo: JigdoSet) -> None:
        """Learn where content and deltas are, to count them apart from the set's metadata."""
        self._content = _place_of(jigdo, Kind.DATA)
        self._deltas = _place_of(jigdo, Kind.PATCH)

    def read(self, first: int, length: int, check: Check) -> bytes:
        """Return exactly ``length`` bytes from ``first`` of the .jigdo file that pass ``check``."""
        place = self._require(first, length)
        kind = "new" if first in self._content else "delta" if first in self._deltas else "set"
        location = self._entry.location
        return self._fetcher.fetch_range(
            location, first=place, length=length, kind=kind, check=check
        )

    def _require(self, first: int, length: int) -> int:
        if first + length > self._entry.length:
            raise FormatError(f"{self._entry.location}: the set claims bytes behind its end")
        return self._entry.offset + first


def _place_of(jigdo: JigdoSet, kind: Kind) -> range:
    numbers = jigdo.index.numbers(kind)
    if not numbers:
        return range(0)
    return range(jigdo.index[numbers[0]].offset, jigdo.index[numbers[-1]].end)


class _MirroredPackages:
    """RPMs of this machine, others from the mirrors of their repositories.

    What comes from a mirror is kept until it is imported.
    """

    def __init__(
        self,
        remote: Remote,
        directory: Path,
        cache: RpmCache,
        traffic: Traffic,
        report: Report,
        *,
        strict: bool,
    ) -> None:
        self._strict = strict
        self._instead: dict[Path, PackageRef] = {}
        self._listed: dict[str, dict[Nevra, list[PackageRef]]] = {}
        self._remote, self._directory, self._cache = remote, directory, cache
        self._traffic, self._report = traffic, report

    def fetch(self, packages: Sequence[PackageRef]) -> Arriving:
        """Yield packages as they arrive, each complete and of its pkgid."""
        here = [(package, path) for package in packages if (path := self._cache.get(package))]
        yield from here
        found = {package.pkgid for package, _ in here}
        wanted = [
            WantedPackage(
                package,
                self._path(package),
                Mirrors.parse(*self._remote.mirrors_for(package.repository)),
            )
            for package in packages
            if package.pkgid not in found
        ]
        arriving = fetch_packages(
            wanted,
            traffic=self._traffic,
            relocate=self._relocate,
            substitute=None if self._strict else self._substitute,
            report=self._report,
        )
        with closing(arriving):
            for item in arriving:
                yield self._instead.get(item.destination, item.ref), item.destination

    def done(self, package: PackageRef) -> None:
        """Remove the RPM of ``package`` that came from a mirror."""
        self._path(package).unlink(missing_ok=True)
        for path in [path for path, ref in self._instead.items() if ref == package]:
            path.unlink(missing_ok=True)

    def _path(self, package: PackageRef) -> Path:
        return self._directory / f"{package.pkgid}.rpm"

    def _relocate(self, packages: Sequence[PackageRef]) -> Mapping[ContentDigest, str]:
        """Find packages that are not where the set says by what their repositories say."""
        found: dict[ContentDigest, str] = {}
        for repository in sorted({package.repository for package in packages}):
            wanted = [p for p in packages if p.repository == repository]
            listed = {ref.pkgid: ref.location for ref in self._list(repository, wanted)}
            found.update({p.pkgid: listed[p.pkgid] for p in wanted if p.pkgid in listed})
        return found

    def _list(self, repository: str, packages: Sequence[PackageRef]) -> list[PackageRef]:
        """Return what the repository has under the packages' names; asks once for each name."""
        asked = {p.nevra for p in packages} - self._listed.get(repository, {}).keys()
        if asked:
            mirrors = Mirrors.parse(*self._remote.mirrors_for(repository))
            with closing(Fetcher(mirrors, kind="rpm-md", traffic=self._traffic)) as fetcher:
                refs = locate_again(fetcher, asked, spool=self._directory)
            rows = {nevra: [ref for ref in refs if ref.nevra == nevra] for nevra in asked}
            self._listed.setdefault(repository, {}).update(rows)
        known = self._listed.get(repository, {})
        return [ref for p in packages for ref in known[p.nevra]]

    def _substitute(self, lost: Sequence[WantedPackage]) -> Mapping[Path, WantedPackage]:
        """Find RPMs of the same name and about the same size that the repositories have now."""
        found: dict[Path, WantedPackage] = {}
        for repository in sorted({item.ref.repository for item in lost}):
            wanted = {i.ref.nevra: i for i in lost if i.ref.repository == repository}
            try:
                listed = self._list(repository, [item.ref for item in wanted.values()])
            except ComposerError:
                continue  # the reason why the package itself failed says more
            for ref in listed:
                item = wanted[ref.nevra]
                if ref.pkgid != item.ref.pkgid and ref.size <= _most(item.ref.size):
                    instead = replace(ref, repository=repository)
                    path = self._path(instead)
                    found[item.destination] = WantedPackage(instead, path, item.mirrors)
                    self._instead[path] = item.ref
        return found


def _most(size: int) -> int:
    """The bytes that an RPM which takes another's place may have."""
    return size + size // 10 + (64 << 10)

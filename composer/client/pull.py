"""Pull a ref: from the pointer on a mirror to a proven commit in a repository.

Order: pointer, index and head, commit (its signatures are checked before anything
else moves), tree, maps, plan, then RPMs and the set's own content, the proof, and
the ref last.  Running it again after any interruption continues: landed and staged
objects are found, verified RPMs are kept, partial ones are continued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from composer.checksum import ContentDigest, ObjectChecksum
from composer.client.acceptance import (
    NO_WAIVERS,
    Waivers,
    find_newest,
    is_good_here,
    require_acceptable,
    require_newer,
)
from composer.client.mirrors import with_listed_mirrors
from composer.client.remote import Remote
from composer.client.rpm_cache import RpmCache
from composer.client.seed import SeedTrees
from composer.client.sources import (
    DEFAULT_SOURCES,
    RemotePackages,
    Replaced,
    Sources,
    bytes_held,
    package_directory,
)
from composer.client.transfers import Moved, Transfers, transfers
from composer.errors import ChecksumMismatch, FormatError, VerificationFailed
from composer.jigdo.container import MAX_INDEX, Check, Index, Kind
from composer.jigdo.delta.frames import decompress_update
from composer.jigdo.description import apply_update, parse_update, split_description
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.examine import DEFAULT_CHOICES, AtHand, Choices, Wanted, examine
from composer.jigdo.lost import LostPackage
from composer.jigdo.plan import Plan
from composer.jigdo.pointer import PointerEntry, UpdatePlace
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.jigdo.reassemble import check_space, check_storable, reassemble
from composer.jigdo.seeding import Seed, SeedPlan
from composer.jigdo.tree import tree_frames
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.packages import WINDOW
from composer.net.traffic import Traffic
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.system.files import remove_tree


@dataclass(frozen=True, slots=True)
class Replanned:
    """Packages that turned out lost during a pull, and what is to move in their stead."""

    lost: tuple[LostPackage, ...]
    transfers: Transfers


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did.

    ``moved`` is by kind: "rpm", "set" (metadata), "new" (content), "delta"; "rpm-md" where
    package lists were read.  Bytes are of all plans that were carried out.  ``lost``
    packages came another way; ``replaced`` ones by RPMs that were made anew.
    """

    ref: str
    version: str
    commit: ObjectChecksum
    previous: ObjectChecksum | None
    updated: bool
    packages: int
    moved: Mapping[str, Moved]
    new_content_bytes: int
    delta_bytes: int
    object_bytes: int
    lost: tuple[LostPackage, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    seeds: int = 0
    seed_bytes: int = 0


def pull(
    remote: Remote,
    ref: str,
    repo: Repository,
    *,
    choices: Choices = DEFAULT_CHOICES,
    version: str = "",
    sources: Sources = DEFAULT_SOURCES,
    replanned: Callable[[Replanned], object] = lambda what: None,
    waivers: Waivers = NO_WAIVERS,
    report: Report = silent,
    workers: int = 2,
) -> PullResult:
    """Bring ``ref`` of ``repo`` to the newest version that ``remote`` has, or to ``version``.

    ``version`` may be older than what is here; it is a version or a commit's checksum.
    RPMs of this machine are used instead of the mirrors', and files of seeds instead of
    RPMs.  An RPM that was signed or
    compressed anew since the set was built serves as well, for its contents are proven one
    by one.  When packages are lost, what they have comes another way, and ``replanned``
    is told.

    Raises NotFound when the remote has no such ref, PackagesLost when it lacks a package
    and nothing else has what it has, VerificationFailed (with kin) for anything that is
    not what it must be, and NoSpace before the first large byte moves.  The ref is then
    the old one and the repository whole.
    """
    traffic, cache = Traffic(), RpmCache(sources.rpm_caches)
    remote = with_listed_mirrors(remote, traffic)
    with (
        closing(Fetcher(Mirrors.parse(*remote.urls), traffic=traffic)) as fetcher,
        SeedTrees(sources.seeds, report) as seeds,
    ):
        found = look(
            fetcher,
            remote,
            ref,
            repo,
            version=version,
            choices=choices,
            at_hand=cache.find,
            seed=seeds if sources.seeds else None,
            waivers=waivers,
            report=report,
        )
        if found.set is None:
            return _result(found, traffic)
        jigdo, wanted = found.set
        check_storable(repo, wanted.headers)
        beside = staging_bytes(wanted.plan) + wanted.seeds.disk_bytes
        check_space(repo, wanted.plan, staging_bytes=beside)
        packages = package_directory(repo)
        holds = bytes_held(jigdo, wanted)
        source = RemotePackages(remote, packages, cache, traffic, sources, holds, report)
        lost: list[LostPackage] = []

        def told(plan: Plan, gone: Sequence[LostPackage]) -> None:
            lost.extend(gone)
            replanned(Replanned(tuple(gone), transfers(jigdo, plan)))

        plans = reassemble(
            jigdo,
            wanted,
            repo,
            source,
            ref=ref,
            choices=choices,
            replanned=told,
            report=report,
            workers=workers,
        )
        remove_tree(packages)
        _keep_description(jigdo, repo, Descriptions.of(repo))
        return _result(found, traffic, plans, lost, source.replaced())


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
    seed: Seed | None,
    version: str = "",
    waivers: Waivers = NO_WAIVERS,
    report: Report = silent,
    read_only: bool = False,
) -> Found:
    """Read what a pull reads before it moves anything large; raises what :func:`pull` raises.

    Nothing is written with ``read_only``, and the same bytes are read.
    """
    report(Step("look", item=remote.urls[0]))
    entry = find_newest(fetcher, remote, ref, waivers, version=version).entry
    previous = repo.resolve(ref)
    if previous == entry.commit and is_good_here(remote, repo, ref, entry.commit):
        return Found(entry, previous, None)
    jigdo = open_remote_set(fetcher, entry, Descriptions.of(repo), max_memory=choices.max_memory)
    base = previous if previous and not repo.is_partial(previous) else None

    def check(frame: CommitFrame) -> None:
        require_acceptable(remote, repo, ref, frame)
        if not version:
            require_newer(repo, previous, frame.commit.timestamp, waivers)

    report(Step("read set", item=jigdo.head.version))
    wanted = examine(
        jigdo,
        repo,
        base=base,
        check=check,
        choices=choices,
        at_hand=at_hand,
        seed=seed,
        read_only=read_only,
    )
    return Found(entry, previous, (jigdo, wanted))


def staging_bytes(plan: Plan) -> int:
    """Return how many bytes of RPMs lie on disk at once, at most."""
    return min(plan.package_bytes, 2 * WINDOW)


def _result(
    found: Found,
    traffic: Traffic,
    plans: Sequence[Plan] = (),
    lost: Sequence[LostPackage] = (),
    replaced: tuple[Replaced, ...] = (),
) -> PullResult:
    seeds = found.set[1].seeds if found.set else SeedPlan()
    kinds = sorted({row.kind for row in traffic.rows()} | {"rpm", "set", "new", "delta"})
    entry = found.entry
    return PullResult(
        ref=entry.ref,
        version=entry.version,
        commit=entry.commit,
        previous=found.previous,
        updated=bool(plans),
        packages=len({package.number for plan in plans for package in plan.packages}) - len(lost),
        moved={kind: Moved(traffic.bytes(kind), traffic.requests(kind)) for kind in kinds},
        new_content_bytes=sum(plan.new_bytes for plan in plans),
        delta_bytes=sum(plan.delta_bytes for plan in plans),
        object_bytes=plans[0].object_bytes if plans else 0,
        lost=tuple(lost),
        replaced=replaced,
        seeds=len(seeds.places.keys() - seeds.failed),
        seed_bytes=sum(seeds.sought[n].size for n in seeds.places.keys() - seeds.failed),
    )


def _keep_description(jigdo: JigdoSet, repo: Repository, kept: Descriptions) -> None:
    """Keep what was read of the set, if it is everything, for the next update."""
    trees = {}
    root = repo.commit(jigdo.head.commit).tree
    for data in tree_frames(root, lambda one: repo.metadata("dirtree", one)):
        trees[ContentDigest.of(data)] = data
    description = jigdo.description(lambda frame: trees.get(frame.digest))
    if description is not None:
        kept.keep(jigdo.head.commit, description)
        kept.keep_only({jigdo.head.commit, *repo.refs().values()})


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

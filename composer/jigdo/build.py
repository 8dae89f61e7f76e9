"""Build a jigdo set: from a commit and the RPMs that it was composed of.

The commit's content is read once (and remembered by digest); an RPM's payload is
read only where its header has no SHA-256 digests.  docs/format/jigdo.md is what
is written; two builds of one commit and one set of RPMs give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.container import Codec, Index, IndexPlace, Kind, Writer, compress
from composer.jigdo.delta.building import (
    NO_DELTAS,
    DeltaOptions,
    NewTree,
    build_deltas,
    frame_patches,
    renumbered,
)
from composer.jigdo.delta.frames import compress_by_xz, join_patches
from composer.jigdo.delta.store import opened_store
from composer.jigdo.delta.table import dump_table
from composer.jigdo.description import join_description, make_update
from composer.jigdo.encoding import prefixed, uvarint
from composer.jigdo.manifest import (
    Base,
    Contents,
    Head,
    Package,
    Totals,
    dump_contents,
    dump_head,
    dump_headers,
    dump_map,
    make_map,
    set_name,
)
from composer.jigdo.pointer import UpdatePlace
from composer.jigdo.shipping import choose_contents, count_data_frames, data_frames
from composer.jigdo.tree import Cutter, Ordinals, walk
from composer.ostree.digests import ContentInfo, DigestCache
from composer.ostree.objects import Commit, Header
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.rpm.beginnings import read_beginnings
from composer.rpm.package import PackageRef
from composer.rpm.payload import FileList, opened_payload
from composer.system.executors import Farm

# An object whose path no package has may stand in many packages (an empty file
# does); a few choices are as good as all of them.
_OTHER_SOURCES = 8


@dataclass(frozen=True, slots=True)
class Older:
    """What a set ships for clients of other commits, and what that is made with.

    ``descriptions`` are the bare ones of their sets, to make updates from; ``store`` is the
    file that keeps patches from one build to the next.
    """

    deltas: DeltaOptions = NO_DELTAS
    descriptions: Mapping[ObjectChecksum, bytes] = field(default_factory=dict)
    store: Path | None = None


NOTHING_OLDER = Older()


@dataclass(frozen=True, slots=True)
class LocalPackage:
    """An RPM of the commit and where its file is on this machine."""

    ref: PackageRef
    path: Path


@dataclass(frozen=True, slots=True)
class BuiltSet:
    """What was built: the head, and where in the file the index and the updates are."""

    head: Head
    index: IndexPlace
    updates: tuple[UpdatePlace, ...] = ()


@dataclass(slots=True)
class _Tree:
    """The commit's tree as the builder needs it; filled once."""

    frames: list[bytes] = field(default_factory=list)
    dirmetas: set[ObjectChecksum] = field(default_factory=set)
    dirtrees: int = 0
    ordinals: Ordinals = field(default_factory=Ordinals)
    paths: dict[str, int] = field(default_factory=dict)


def build_set(
    repo: Repository,
    commit: ObjectChecksum,
    packages: Sequence[LocalPackage],
    *,
    ref: str,
    into: BinaryIO,
    cache: DigestCache,
    name: str = "",
    older: Older = NOTHING_OLDER,
    full: Collection[ContentDigest] = (),
    report: Report = silent,
    workers: int = 2,
    farm: Farm | None = None,
) -> BuiltSet:
    """Write the set of ``commit`` to the stream ``into``.

    ``packages`` are the commit's RPMs, each pkgid once, in any order; what those have whose
    pkgids are in ``full`` is shipped whole, too.  ``farm`` makes the deltas.  Raises
    PackageRefused for an RPM that cannot be read and VerificationFailed for a repository that
    lacks an object.
    """
    commit_object = repo.commit(commit)
    tree = _read_tree(repo, commit_object)
    infos = _read_contents(repo, tree, cache, report, workers)
    headers = sorted({info.header for info in infos})
    header_ids = {header: number for number, header in enumerate(headers)}
    distinct = {package.ref.pkgid: package for package in packages}
    packages = sorted(distinct.values(), key=lambda p: (str(p.ref.nevra), p.ref.pkgid))
    entries = _matched(tree, infos, packages, report)
    named = {number for number, package in enumerate(packages) if package.ref.pkgid in full}
    shipped = choose_contents(infos, entries, header_ids, named)
    contents = shipped.contents
    with opened_store(older.store) as store:
        new = _new_tree(tree, infos, entries, packages)
        deltas = build_deltas(
            repo,
            new,
            header_ids,
            older.deltas,
            store,
            cache,
            report=report,
            workers=workers,
            farm=farm,
        )
        first_map = 4 + len(tree.frames)
        first_patch = first_map + len(packages) + 1 + count_data_frames(shipped)
        first_table = first_patch + len(deltas.frames)
        refs = tuple(
            Package(package.ref, first_map + number) for number, package in enumerate(packages)
        )
        head = Head(
            name=name or set_name(ref),
            ref=ref,
            version=commit_object.version,
            timestamp=commit_object.timestamp,
            commit=commit,
            packages=refs,
            totals=_totals(tree, infos, contents, packages),
            bases=tuple(
                Base(table.base, repo.commit(table.base).version, first_table + number)
                for number, table in enumerate(deltas.tables)
            ),
        )
        writer = Writer(into, keep=bool(older.descriptions))
        writer.add(Kind.HEAD, dump_head(head))
        writer.add(Kind.COMMIT, _commit_frame(repo, commit))
        writer.add(Kind.DIRMETA, _dirmeta_frame(repo, tree.dirmetas))
        with ThreadPoolExecutor(workers) as pool:
            _add_all(writer, Kind.TREE, tree.frames, pool)
            writer.add(Kind.HEADERS, dump_headers(headers))
            maps = _map_frames(packages, entries, infos, headers, pool)
            _add_all(writer, Kind.MAP, maps, pool)
            writer.add(Kind.CONTENTS, dump_contents(contents))
            checksums = (tree.ordinals.checksums[ordinal] for ordinal in shipped.order)
            data = data_frames(repo, checksums, shipped.starts)
            _add_all(writer, Kind.DATA, _counted(data, contents, report), pool, compress_by_xz)
            if writer.next_number != first_patch:
                raise AssertionError(f"{writer.next_number} frames before the patches")
            patches = (join_patches(frame_patches(frame, store)) for frame in deltas.frames)
            _add_all(writer, Kind.PATCH, patches, pool, compress_by_xz)
            tables = [dump_table(renumbered(table, first_patch)) for table in deltas.tables]
            _add_all(writer, Kind.DELTAS, tables, pool)
        by_base = {table.base: data for table, data in zip(deltas.tables, tables, strict=True)}
        return _finished(writer, head, older.descriptions, by_base)


def _finished(
    writer: Writer,
    head: Head,
    descriptions: Mapping[ObjectChecksum, bytes],
    tables: Mapping[ObjectChecksum, bytes],
) -> BuiltSet:
    """Write updates from the ``descriptions`` of older sets, index and trailer.

    Raises FormatError for a set that is larger than readers take.
    """
    made = []
    Index.parse(writer.index().dump(), index_offset=writer.index().end)
    if descriptions:
        description = join_description(writer.index(), lambda frame: writer.kept[frame.number])
        assert description is not None
        for base in sorted(descriptions):
            made.append((base, make_update(descriptions[base], description, tables.get(base, b""))))
    index = writer.finish([packed for _, (packed, _, _) in made])
    updates, at = [], index.offset + index.size
    for base, (packed, size, digest) in made:
        updates.append(UpdatePlace(base, at, len(packed), size, digest))
        at += len(packed)
    return BuiltSet(head, index, tuple(updates))


def _read_tree(repo: Repository, commit: Commit) -> _Tree:
    tree, cutter = _Tree(dirmetas={commit.meta}), Cutter()
    for visit in walk(commit.tree, lambda checksum: repo.metadata("dirtree", checksum)):
        frame = cutter.add(visit)
        if frame is not None:
            tree.frames.append(frame)
        tree.dirtrees += 1
        tree.dirmetas.update(entry.meta for entry in visit.tree.directories)
        tree.ordinals.add(visit.tree)
        prefix = visit.path.rstrip("/")
        for entry in visit.tree.files:
            tree.paths[f"{prefix}/{entry.name}"] = tree.ordinals[entry.checksum]
    tree.frames.append(cutter.finish())
    return tree


def _read_contents(
    repo: Repository, tree: _Tree, cache: DigestCache, report: Report, workers: int
) -> list[ContentInfo]:
    checksums = tree.ordinals.checksums
    infos = []
    for info in cache.lookup(repo, checksums, workers=workers):
        infos.append(info)
        if len(infos) % 512 == 0 or len(infos) == len(checksums):
            report(Step("read commit", len(infos), len(checksums), "objects"))
    return infos


class _Matches:
    """Finds which files of RPMs are which objects: by content, then by path."""

    def __init__(self, tree: _Tree, infos: Sequence[ContentInfo]) -> None:
        self._paths = tree.paths
        self._by_content: dict[tuple[bool, ContentDigest], list[int]] = {}
        for ordinal, info in enumerate(infos):
            key = (info.header.is_symlink, info.digest)
            self._by_content.setdefault(key, []).append(ordinal)
        self._at_path: dict[int, list[tuple[int, int]]] = {}
        self._elsewhere: dict[int, list[tuple[int, int]]] = {}

    def add(self, number: int, package: LocalPackage) -> None:
        """Match the files of package ``number``; packages are added in order."""
        for index, path, key in _file_contents(package):
            ordinals = self._by_content.get(key, ())
            if not ordinals:
                continue
            here = self._paths.get(tree_path(path))
            for ordinal in ordinals:
                if ordinal == here:
                    self._at_path.setdefault(ordinal, []).append((number, index))
                else:
                    others = self._elsewhere.setdefault(ordinal, [])
                    if len(others) < _OTHER_SOURCES:
                        others.append((number, index))

    def entries(self, packages: int) -> list[list[tuple[int, int]]]:
        """Return, per package, (file index, ordinal) pairs."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(packages)]
        for ordinal in self._at_path.keys() | self._elsewhere.keys():
            sources = self._at_path.get(ordinal) or self._elsewhere[ordinal]
            for number, index in sources:
                found[number].append((index, ordinal))
        return found


def _matched(
    tree: _Tree, infos: Sequence[ContentInfo], packages: Sequence[LocalPackage], report: Report
) -> list[list[tuple[int, int]]]:
    """Return, per package, (file index, ordinal) of what it has of the tree."""
    matches = _Matches(tree, infos)
    for number, package in enumerate(packages):
        matches.add(number, package)
        report(Step("map", number + 1, len(packages), "packages", package.ref.nevra.name))
    return matches.entries(len(packages))


def tree_path(path: str) -> str:
    """Return where OSTree's layout has the RPM path ``path``: /usr/etc, merged /usr."""
    first = path.split("/", 2)[1]
    return f"/usr{path}" if first in ("etc", "bin", "sbin", "lib", "lib64") else path


def _file_contents(package: LocalPackage) -> Iterator[tuple[int, str, tuple[bool, ContentDigest]]]:
    """Yield (index, path, (is symlink, digest)) of each file that the payload carries."""
    with opened_payload(package.path) as (_, files, contents):
        digests = list(files.digests)
        if any(digests[i] is None for i in range(len(files)) if files.is_file(i)):
            for content in contents():
                state = hashlib.sha256()
                for piece in content.pieces():
                    state.update(piece)
                for index in content.indexes:
                    digests[index] = ContentDigest(state.digest())
        yield from _listed(files, digests)


def _listed(
    files: FileList, digests: Sequence[ContentDigest | None]
) -> Iterator[tuple[int, str, tuple[bool, ContentDigest]]]:
    for index, path in enumerate(files.paths):
        digest = digests[index]
        if files.is_symlink(index):
            target = files.targets[index].encode(errors="surrogateescape")
            yield index, path, (True, ContentDigest.of(target))
        elif files.is_file(index) and digest is not None:
            yield index, path, (False, digest)


def _map_frames(
    packages: Sequence[LocalPackage],
    entries: Sequence[Sequence[tuple[int, int]]],
    infos: Sequence[ContentInfo],
    headers: Sequence[Header],
    pool: ThreadPoolExecutor,
) -> Iterator[bytes]:
    header_ids = {header: number for number, header in enumerate(headers)}

    def frame(package: LocalPackage, pairs: Sequence[tuple[int, int]]) -> bytes:
        rows = ((i, o, header_ids[infos[o].header], infos[o].size) for i, o in pairs)
        beginnings = partial(read_beginnings, package.path)
        return dump_map(make_map(package.ref.pkgid, rows, beginnings))

    return pool.map(frame, packages, entries)


def _totals(
    tree: _Tree, infos: Sequence[ContentInfo], contents: Contents, packages: Sequence[LocalPackage]
) -> Totals:
    new = set(contents.ordinals)
    new_object_bytes = sum(infos[ordinal].size for ordinal in new)
    object_bytes = sum(info.size for info in infos)
    return Totals(
        objects=len(infos),
        object_bytes=object_bytes,
        dirtrees=tree.dirtrees,
        dirmetas=len(tree.dirmetas),
        package_objects=len(infos) - len(new),
        package_object_bytes=object_bytes - new_object_bytes,
        new_objects=len(new),
        new_bytes=contents.offsets[-1],
        package_bytes=sum(package.ref.size for package in packages),
    )


def _commit_frame(repo: Repository, commit: ObjectChecksum) -> bytes:
    detached = repo.detached_metadata(commit)
    signatures = detached.get_data_as_bytes().get_data() if detached is not None else b""
    return prefixed(repo.metadata("commit", commit)) + prefixed(signatures or b"")


def _dirmeta_frame(repo: Repository, dirmetas: Iterable[ObjectChecksum]) -> bytes:
    objects = [prefixed(repo.metadata("dirmeta", checksum)) for checksum in sorted(dirmetas)]
    return uvarint(len(objects)) + b"".join(objects)


def _new_tree(
    tree: _Tree,
    infos: Sequence[ContentInfo],
    entries: Sequence[Sequence[tuple[int, int]]],
    packages: Sequence[LocalPackage],
) -> NewTree:
    holders = [-1] * len(infos)
    for number, package in enumerate(entries):
        for _, ordinal in package:
            if holders[ordinal] < 0:
                holders[ordinal] = number
    paths: dict[int, list[str]] = {}
    for path, ordinal in sorted(tree.paths.items()):
        paths.setdefault(ordinal, []).append(path)
    sizes = [package.ref.size for package in packages]
    return NewTree(tree.ordinals, infos, paths, holders, sizes)


def _counted(frames: Iterable[bytes], contents: Contents, report: Report) -> Iterator[bytes]:
    done, total = 0, contents.offsets[-1]
    for frame in frames:
        done += len(frame)
        report(Step("new content", done, total, "bytes"))
        yield frame


def _add_all(
    writer: Writer,
    kind: Kind,
    frames: Iterable[bytes],
    pool: ThreadPoolExecutor,
    pack: Callable[[bytes], tuple[bytes, Codec, int]] = compress,
) -> None:
    """Compress frames side by side, a few at a time, and write them in order."""
    waiting: deque[tuple[bytes, Future[tuple[bytes, Codec, int]]]] = deque()

    def write_first() -> None:
        whole, packed = waiting.popleft()
        writer.add_packed(kind, packed.result(), whole)

    for frame in frames:
        waiting.append((frame, pool.submit(pack, frame)))
        if len(waiting) > 4:
            write_first()
    while waiting:
        write_first()

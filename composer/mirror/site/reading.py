"""What published sets say of their versions; sets do not change, so it is kept by pkgid.

Reads indexes and what describes a set, never content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard

import composer
from composer.errors import ComposerError, NotFound
from composer.jigdo.container import Kind
from composer.jigdo.inspecting import frame_codecs, sections, weigh
from composer.jigdo.manifest import Head
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import CommitFrame, FileRanges, JigdoSet
from composer.jigdo.tree import Ordinals, walk
from composer.net.sets import require_bounded, require_described
from composer.ostree.objects import Commit
from composer.rpm.advisories import Advisory, read
from composer.rpm.package import Nevra
from composer.system.files import remove_tree

_LARGEST = 1 << 28
_MOST_PATHS, _LONGEST_PATH = 2_000_000, 4096


@dataclass(frozen=True, slots=True)
class Facts:
    """A version: of plain values, so that it can be kept.

    ``packages`` are (nevra, pkgid, bytes, repository), sorted; ``sections`` (kind, frames,
    bytes, uncompressed); ``codecs`` (codec, frames, bytes, uncompressed); ``bases`` (commit,
    version); ``advisories`` as :class:`Advisory` has them; ``frames`` digests of tree frames;
    ``listed`` pkgids that the commit says it was composed of.
    """

    ref: str
    version: str
    commit: str
    parent: str
    timestamp: int
    name: str
    location: str
    pkgid: str
    set_bytes: int
    rpm_bytes: int
    index_bytes: int
    packages: list[tuple[str, str, int, str]]
    totals: dict[str, int]
    sections: list[tuple[str, int, int, int]]
    codecs: list[tuple[str, int, int, int]]
    bases: list[tuple[str, str]]
    advisories: list[Any]
    frames: list[str]
    listed: list[str]

    @property
    def nevras(self) -> tuple[Nevra, ...]:
        """Its packages."""
        return tuple(_nevra(row[0]) for row in self.packages)

    @property
    def label(self) -> str:
        """How a person calls it."""
        return self.version or self.commit[:12]

    def own_advisories(self) -> tuple[Advisory, ...]:
        """Those that the commit lists."""
        return tuple(
            Advisory(ident, kind, severity, tuple(packages), tuple((u, t) for u, t in references))
            for ident, kind, severity, packages, references in self.advisories
        )


_nevra = lru_cache(maxsize=1 << 16)(Nevra.parse)


def open_entry(repository: Path, entry: PointerEntry) -> JigdoSet:
    """Open a published set; raises NotFound where its RPM has gone, FormatError and its kin."""
    path = repository / entry.location
    if not path.is_file():
        raise NotFound(f"{entry.location}: the set's RPM is not there")
    try:
        require_bounded(entry)
        jigdo = JigdoSet(FileRanges(path, start=entry.offset), entry.index)
        require_described(jigdo.head, entry)
    except ComposerError as error:
        raise error.within(entry.location) from None
    return jigdo


class Kept:
    """What was read before, in a directory; damaged or of other code, it is read again."""

    def __init__(self, cachedir: Path) -> None:
        self._directory = cachedir / "site" / f"{composer.__version__}-{code_digest()[:16]}"
        self._directory.mkdir(parents=True, exist_ok=True)
        for other in self._directory.parent.iterdir():
            if other != self._directory:
                remove_tree(other)  # of code that is no more

    def load(self, name: str) -> Any:
        """Return a document that was kept, or None."""
        data = self.load_bytes(name)
        try:
            return None if data is None else json.loads(data)
        except ValueError:
            return None

    def keep(self, name: str, document: object) -> None:
        """Keep a document."""
        self.keep_bytes(name, json.dumps(document, separators=(",", ":"), default=str).encode())

    def load_bytes(self, name: str) -> bytes | None:
        """Return bytes that were kept, or None."""
        try:
            packed = (self._directory / f"{name}.zst").read_bytes()
            return zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST)
        except (OSError, zstandard.ZstdError):
            return None

    def keep_bytes(self, name: str, data: bytes) -> None:
        """Keep bytes."""
        path = self._directory / f"{name}.zst"
        part = path.with_name(f".{path.name}.{os.getpid()}")
        self._directory.mkdir(parents=True, exist_ok=True)  # other code may have taken it away
        part.write_bytes(zstandard.ZstdCompressor(level=3).compress(data))
        part.replace(path)


def code_digest() -> str:
    """Digest what decides how a set is read, planned and shown."""
    state = hashlib.sha256()
    root = Path(composer.__file__).parent
    for place in ("jigdo", "rpm", "ostree", "mirror/site"):
        for path in sorted((root / place).rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()


def read_facts(repository: Path, entry: PointerEntry, kept: Kept) -> Facts:
    """Say what there is to say of a version."""
    name = f"facts-{entry.pkgid}"
    if (document := kept.load(name)) is not None:
        facts = Facts(**document)
        if (facts.ref, facts.location, facts.commit) == _identity(entry):
            return facts
    jigdo = open_entry(repository, entry)
    frame = jigdo.read_commit()
    facts = _facts(entry, jigdo, frame)
    kept.keep(name, asdict(facts))
    return Facts(**json.loads(json.dumps(asdict(facts))))  # as it will be the next time


def _identity(entry: PointerEntry) -> tuple[str, str, str]:
    return entry.ref, entry.location, str(entry.commit)


def _facts(entry: PointerEntry, jigdo: JigdoSet, frame: CommitFrame) -> Facts:
    head: Head = jigdo.head
    return Facts(
        ref=entry.ref,
        version=entry.version,
        commit=str(entry.commit),
        parent=str(frame.commit.parent or ""),
        timestamp=entry.timestamp,
        name=head.name,
        location=entry.location,
        pkgid=str(entry.pkgid),
        set_bytes=entry.length,
        rpm_bytes=entry.size,
        index_bytes=entry.index.size,
        packages=[
            (str(one.ref.nevra), str(one.ref.pkgid), one.ref.size, one.ref.repository)
            for one in head.packages
        ],
        totals=head.totals.model_dump(),
        sections=[(s.kind, s.frames, s.bytes, s.uncompressed) for s in sections(jigdo) if s.frames],
        codecs=[(c.codec, c.count, c.bytes, c.uncompressed) for c in frame_codecs(jigdo)],
        bases=[(str(base.commit), base.version) for base in head.bases],
        frames=[str(frame.digest) for frame in jigdo.index.of(Kind.TREE)],
        listed=[*_listed(frame.commit.metadata)],
        advisories=[
            (a.ident, a.kind, a.severity, a.packages, a.references)
            for a in commit_advisories(frame.commit, frame.detached)
        ],
    )


def _listed(metadata: Mapping[str, object]) -> Iterator[str]:
    rows = metadata.get("jigdo-composer.packages")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, tuple) and len(row) == 3:
            yield str(row[1])


def commit_advisories(commit: Commit, detached: bytes) -> tuple[Advisory, ...]:
    """List the advisories in a commit's metadata and its detached metadata."""
    from gi.repository import GLib

    found = {*read(commit.metadata)}
    if detached:
        kind = GLib.VariantType.new("a{sv}")
        variant = GLib.Variant.new_from_bytes(kind, GLib.Bytes.new(detached), False)
        found |= {*read(variant.unpack())}
    return tuple(sorted(found))


def read_shares(repository: Path, entry: PointerEntry, kept: Kept) -> dict[str, Any]:
    """Say which packages take how much of a set, the largest first; reads all of it, once."""
    name = f"shares-{entry.pkgid}"
    document: dict[str, Any] | None = kept.load(name)
    if document is None:
        found = weigh(open_entry(repository, entry))
        rows = sorted(found.packages, key=lambda one: (-one.bytes, one.name))
        document = {
            "packages": [asdict(one) | {"bytes": one.bytes} for one in rows],
            "other": asdict(found.other),
            "bases": [asdict(one) | {"commit": str(one.commit)} for one in found.bases],
        }
        kept.keep(name, document)
    return document


def read_paths(repository: Path, entry: PointerEntry, kept: Kept) -> list[tuple[str, int]]:
    """List a version's files: path and the number of its package in the head, -1 for none."""
    name = f"paths-{entry.pkgid}"
    if (document := kept.load(name)) is not None:
        return [(str(path), int(number)) for path, number in document]
    found = [*_paths(open_entry(repository, entry))]
    kept.keep(name, found)
    return found


def _paths(jigdo: JigdoSet) -> Iterator[tuple[str, int]]:
    start, _, headers, _ = jigdo.read_start()
    trees = dict(jigdo.dirtrees(jigdo.index.of(Kind.TREE)))
    ordinals = Ordinals()
    visits = {}
    for visit in walk(start.commit.tree, trees.__getitem__):
        ordinals.add(visit.tree)
        visits[visit.checksum] = visit.tree
    maps = jigdo.maps(range(len(jigdo.head.packages)), objects=len(ordinals), headers=headers)
    owners: dict[int, int] = {}
    for number, mapping in sorted(maps.items()):
        for ordinal in mapping.ordinals:
            owners.setdefault(ordinal, number)
    # Equal directories are visited once, and stand at several paths.
    left, most = [("", start.commit.tree)], _MOST_PATHS
    while left:
        path, checksum = left.pop()
        tree = visits[checksum]
        for entry in tree.files:
            yield f"{path}/{entry.name}", owners.get(ordinals[entry.checksum], -1)
            most -= 1
        if most < 0 or len(path) > _LONGEST_PATH:
            return  # a tree of equal directories in each other has any number of paths
        left += [(f"{path}/{one.name}", one.tree) for one in reversed(tree.directories)]

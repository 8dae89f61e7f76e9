"""What updates between published versions move, by the planner's own choice, without moving it.

A client is imagined that has one version, whole, with its description, and nothing else
(:mod:`composer.client.imagined`); what it would read of a set's metadata is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.client.imagined import Imagined
from composer.client.remote import Remote
from composer.client.remote_set import open_remote_set
from composer.client.session import Session, session
from composer.client.transfers import Moved, transfers
from composer.jigdo.container import Kind
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.examine import DEFAULT_CHOICES, Choices
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import JigdoSet
from composer.jigdo.tree import Ordinals, walk
from composer.net.fetch import Fetcher
from composer.ostree.repo import Repository

Cost = Mapping[str, Moved]
"""By kind: "set" (metadata), "rpm", "delta", "new" (content that is in no RPM)."""

_NOTHING = Descriptions(Path("/nonexistent"))


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a set's RPM serves clients of one base: ``own`` bytes by base (a commit) that no
    frame is named for, and bytes of frames with the bases that name them.
    """

    own: Mapping[ObjectChecksum, int]
    frames: tuple[tuple[int, frozenset[ObjectChecksum]], ...]

    def without(self, dropped: frozenset[ObjectChecksum]) -> int:
        """Return how many bytes a set has less without deltas from ``dropped``."""
        tables = sum(size for base, size in self.own.items() if base in dropped)
        return tables + sum(size for size, bases in self.frames if bases <= dropped)


class Costs:
    """Costs of updates from one remote; ``scratch`` is an empty directory for metadata objects."""

    def __init__(
        self, remote: Remote, scratch: Path, *, choices: Choices = DEFAULT_CHOICES
    ) -> None:
        self._remote, self._scratch, self._choices = remote, scratch, choices
        self._base = lru_cache(maxsize=None)(self._imagine)

    def look(self, ref: str, version: str = "") -> Moved:
        """Return what asking for the newest set of a ref, or a version's, moves."""
        with session(self._remote) as asked:
            asked.newest(ref, version)
            return Moved(asked.traffic.bytes(), asked.traffic.requests())

    def update(
        self,
        base: PointerEntry | None,
        target: PointerEntry,
        *,
        deltas: bool = True,
        described: bool = True,
    ) -> tuple[Cost, bool]:
        """Return what a client of ``base`` (None: of nothing) moves to get to ``target``, and
        whether it then has the whole description of that, so that the next one is an update.

        Without ``deltas`` as if the set had none, and no update of the metadata.  One that is
        not ``described`` has no description of its base.
        """
        repo, kept = self._base(base) if base else (self._empty(), _NOTHING)
        with session(self._remote) as asked:
            jigdo = self._open(asked, target, kept if deltas and described else _NOTHING)
            wanted = asked.examine(
                jigdo,
                repo,
                base=base.commit if base else None,
                check=lambda frame: None,
                choices=self._choices,
                read_only=True,
            )
            plan = wanted.plan if deltas else wanted.replan(None)
            assert plan is not None
            read = Moved(asked.traffic.bytes(), asked.traffic.requests())
            # What a pull keeps: it has all trees in the end, and of the rest what was read.
            whole = jigdo.description(lambda frame: b"" if frame.kind is Kind.TREE else None)
        return {"set": read, **transfers(jigdo, plan)}, whole is not None

    def shape(self, entry: PointerEntry) -> Shape:
        """Say what of a set is there for clients of which versions."""
        with closing(Fetcher(self._remote.mirrors(), network=self._remote.network())) as fetcher:
            jigdo = open_remote_set(fetcher, entry, _NOTHING, max_memory=self._choices.max_memory)
            start, _, headers, _ = jigdo.read_start()
            trees = dict(jigdo.dirtrees(jigdo.index.of(Kind.TREE)))
            ordinals = Ordinals()
            for visit in walk(start.commit.tree, trees.__getitem__):
                ordinals.add(visit.tree)
            own = {place.base: place.size for place in entry.updates}
            users: dict[int, set[ObjectChecksum]] = {}
            for base in jigdo.head.bases:
                table = jigdo.deltas(base.commit, objects=len(ordinals), headers=headers)
                assert table is not None
                size = jigdo.index[base.deltas].size
                own[base.commit] = own.get(base.commit, 0) + size
                for content in table.contents:
                    for piece in content.pieces:
                        users.setdefault(piece.frame, set()).add(base.commit)
        frames = tuple(
            (jigdo.index[number].size, frozenset(bases)) for number, bases in sorted(users.items())
        )
        return Shape(own, frames)

    def _open(self, asked: Session, entry: PointerEntry, kept: Descriptions) -> JigdoSet:
        return open_remote_set(
            asked.fetcher, entry, kept, max_memory=self._choices.max_memory, heard=asked.arrivals
        )

    def _empty(self) -> Repository:
        path = self._scratch / "empty"
        return Imagined.open(path) if path.exists() else Imagined.empty(path)

    def _imagine(self, entry: PointerEntry) -> tuple[Repository, Descriptions]:
        """Make a repository that has the metadata objects of a version, and its description."""
        place = self._scratch / str(entry.commit)
        repo = Repository.create(place, mode="archive")
        kept = Descriptions(place / "descriptions")
        with session(self._remote) as asked:
            jigdo = self._open(asked, entry, _NOTHING)
            frame = jigdo.read_commit()
            with repo.transaction():
                for checksum, data in jigdo.dirtrees(jigdo.index.of(Kind.TREE)):
                    repo.write_metadata("dirtree", checksum, data)
                repo.write_metadata("commit", entry.commit, frame.data)
            description = jigdo.description()
            if description is not None:
                kept.keep(entry.commit, description)
        return Imagined.having(repo, entry.commit), kept

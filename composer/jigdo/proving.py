"""The proof that a set's deltas make what they say, from the commits that they start at.

A client tries its deltas and falls back to packages, so one that is wrong costs it bytes
and nothing tells the operator.  Here every content of every deltas table is made, and the
checksum of each object of it compared; nothing is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.errors import (
    ChecksumMismatch,
    ComposerError,
    FormatError,
    NotFound,
    VerificationFailed,
)
from composer.jigdo.delta.applying import DeltaImporter
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.needs import usable
from composer.jigdo.delta.table import COPY, REPACK, DeltaContent, DeltaTable
from composer.jigdo.examine import Wanted
from composer.jigdo.manifest import Base
from composer.jigdo.reader import JigdoSet
from composer.jigdo.repack import Packers
from composer.jigdo.tree import Ordinals, walk
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent

MAX_MEMORY = 1 << 30
"""Bytes that making one content may take here; what needs more is counted, not proven."""

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class DeltaProof:
    """What was proven of the deltas from one commit, in contents and objects.

    ``skipped`` contents are not for this machine: its packers are of another version, or they
    take too much memory.  ``here`` False: the commit is not in the repository.
    """

    commit: ObjectChecksum
    version: str
    here: bool = True
    copied: int = 0
    patched: int = 0
    repacked: int = 0
    skipped: int = 0
    objects: int = 0

    def document(self) -> dict[str, Any]:
        """Describe it as a JSON document."""
        counts = (self.copied, self.patched, self.repacked, self.skipped, self.objects)
        names = ("copied", "patched", "repacked", "skipped", "objects")
        return {
            "from": str(self.commit),
            "version": self.version,
            "proven": self.here,
            **dict(zip(names, counts, strict=True)),
        }

    def line(self) -> str:
        """Describe it to a person."""
        start = f"  deltas from {self.commit} {self.version}: "
        if not self.here:
            return start + "not proven, the repository does not have it"
        skipped = f"; {self.skipped} not proven on this machine" if self.skipped else ""
        return start + (
            f"{self.objects} objects proven of {self.copied} copied, {self.patched} patched and "
            f"{self.repacked} repacked contents{skipped}"
        )


def prove_deltas(
    jigdo: JigdoSet,
    wanted: Wanted,
    repo: Repository,
    spool: Path,
    report: Report = silent,
    *,
    workers: int = 2,
) -> Iterator[DeltaProof]:
    """Prove the deltas from every commit that ``repo`` has, and yield what was proven.

    ``wanted`` is what the set's own commit consists of; large contents are laid out in
    ``spool``.  Raises VerificationFailed naming base, target and codec of the contents
    that are not what they should be, NotFound when ``repo`` has none of the commits.
    """
    bases = jigdo.head.bases
    here = [base for base in bases if repo.has("commit", base.commit)]
    if bases and not here:
        raise NotFound(
            f"{repo.path}: has none of the {len(bases)} commits that the set has deltas from",
            details=[f"{base.commit} {base.version}" for base in bases],
            hint="give --repo the repository that the set was built from",
        )
    for base in bases:
        if base in here:
            yield _prove(jigdo, base, wanted, repo, spool, report, workers)
        else:
            yield DeltaProof(base.commit, base.version, here=False)


def _prove(
    jigdo: JigdoSet,
    base: Base,
    wanted: Wanted,
    repo: Repository,
    spool: Path,
    report: Report,
    workers: int,
) -> DeltaProof:
    count = len(wanted.ordinals)
    table = jigdo.deltas(base.commit, objects=count, headers=wanted.headers)
    assert table is not None
    objects = Ordinals()
    for visit in walk(repo.commit(base.commit).tree, lambda one: repo.metadata("dirtree", one)):
        objects.add(visit.tree)
    contents = table.contents
    able = [n for n, c in enumerate(contents) if usable(table, c, room=MAX_MEMORY)]
    expected = _expected(table, wanted)
    done = 0

    def made(number: int) -> None:
        nonlocal done
        done += 1
        report(Step("deltas", done, len(able), "contents", base.version))

    frames = sorted({piece.frame for n in able for piece in contents[n].pieces})
    with Packers(workers) as packers:
        importer = DeltaImporter(
            repo,
            table,
            objects.checksums,
            room=MAX_MEMORY,
            workers=workers,
            packers=packers,
            spool=spool,
        )
        failed = importer.make(
            set(able),
            jigdo.frames(jigdo.index[number] for number in frames),
            lambda number, pieces: _compare(pieces, expected.get(number, {})),
            made,
        )
    if failed:
        raise _failure(base, table, expected, failed)
    methods = [min(contents[n].method, REPACK) for n in able]
    return DeltaProof(
        base.commit,
        base.version,
        copied=methods.count(COPY),
        patched=len(methods) - methods.count(COPY) - methods.count(REPACK),
        repacked=methods.count(REPACK),
        skipped=len(contents) - len(able),
        objects=len({checksum for n in able for checksum in expected.get(n, {}).values()}),
    )


_Expected = dict[int, dict[Header, ObjectChecksum]]
"""Per content, by header the object that it makes."""


def _expected(table: DeltaTable, wanted: Wanted) -> _Expected:
    found: _Expected = {}
    for ordinal, number, header in zip(table.ordinals, table.numbers, table.headers, strict=True):
        checksum = wanted.ordinals.checksums[ordinal]
        known = found.setdefault(number, {}).setdefault(wanted.headers[header], checksum)
        if known != checksum:
            raise FormatError(f"the deltas from {table.base} make two objects of one content")
    return found


def _compare(pieces: Iterator[bytes], expected: dict[Header, ObjectChecksum]) -> None:
    """Checksum the objects of one content, all at once."""
    links = [header for header in expected if header.is_symlink]
    states = {h: hashlib.sha256(h.serialized()) for h in expected if not h.is_symlink}
    target = bytearray()
    for piece in pieces:
        for state in states.values():
            state.update(piece)
        if links:
            target += piece
            if len(target) > _LONGEST_LINK:
                raise FormatError("a symlink's target is too long")
    for header in links:
        states[header] = hashlib.sha256(_serialized_link(header, bytes(target)))
    for header, checksum in expected.items():
        if states[header].digest() != checksum:
            actual = states[header].hexdigest()
            raise ChecksumMismatch(what=f"object {checksum}", expected=str(checksum), actual=actual)


_LONGEST_LINK = 1 << 16


def _serialized_link(header: Header, target: bytes) -> bytes:
    try:
        return header.serialized(target)
    except ValueError as error:
        raise FormatError(f"not a symlink's target: {error}") from None


def _failure(
    base: Base, table: DeltaTable, expected: _Expected, failed: dict[int, ComposerError]
) -> VerificationFailed:
    lines = []
    for number in sorted(failed)[:_MOST_NAMED]:
        targets = ", ".join(map(str, sorted(expected.get(number, {}).values())[:3])) or "no object"
        how, error = _way(table.contents[number]), failed[number]
        lines.append(f"{targets}, by {how}: {error.message}")
        lines += error.details
    if len(failed) > _MOST_NAMED:
        lines.append(f"and {len(failed) - _MOST_NAMED} others")
    return VerificationFailed(
        f"{len(failed)} of {len(table.contents)} contents cannot be made of commit {base.commit}",
        details=lines,
        hint="build the set again; if it stays so, is the older commit itself whole? ostree fsck",
    )


def _way(content: DeltaContent) -> str:
    names = {int(codec): codec.name.lower() for codec in CodecNumber}
    codecs = sorted({names.get(piece.codec, str(piece.codec)) for piece in content.pieces})
    if content.method == COPY:
        return "copy"
    return "+".join(codecs or ["nothing"]) + (", packed again" if content.method >= REPACK else "")

"""What a pull changes for those who use the tree: packages, and the advisories they fix.

Told by the two commits alone, so it costs no byte; who made them may have said nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from composer.checksum import ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.manifest import Head
from composer.jigdo.reader import CommitFrame
from composer.ostree.repo import Repository
from composer.rpm.advisories import Advisory, fixed, read
from composer.rpm.changes import Changes, compare
from composer.rpm.listing import listed


@dataclass(frozen=True, slots=True)
class Differences:
    """``changes`` is None where the old commit, if there is one, does not list its packages."""

    changes: Changes | None = None
    advisories: tuple[Advisory, ...] = ()


def differences(
    repo: Repository, previous: ObjectChecksum | None, head: Head, frame: CommitFrame
) -> Differences:
    """Compare the commit that is here with the one of a set."""
    if previous is None or not repo.has("commit", previous):
        return Differences()
    old = repo.commit(previous).metadata
    try:
        before, after = listed(old), listed(frame.commit.metadata)
    except FormatError:
        return Differences()
    if before is None:
        return Differences()
    if after is None:
        after = tuple(package.ref.nevra for package in head.packages)
    changes = compare(before, after)
    signatures = repo.detached_metadata(previous)
    known = [*read(old), *(read(signatures.unpack()) if signatures is not None else ())]
    come = [*read(frame.commit.metadata), *_detached(frame.detached)]
    return Differences(changes, fixed(known, sorted(set(come)), changes.brought))


def _detached(data: bytes) -> tuple[Advisory, ...]:
    from gi.repository import GLib

    if not data:
        return ()
    kind = GLib.VariantType.new("a{sv}")
    return read(GLib.Variant.new_from_bytes(kind, GLib.Bytes.new(data), False).unpack())

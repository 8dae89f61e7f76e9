"""What is found of mirrors, and which of several is behind the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from composer.errors import ComposerError, NotFound
from composer.jigdo.pointer import PointerEntry
from composer.mirror.needs import Place
from composer.net.job import FetchFailed
from composer.net.statement import Expired, Untrusted


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a mirror, or (``kind`` "moved") only worth telling.

    ``kind`` is "missing", "refused", "damaged", "replaced", "untrusted", "expired", "unproven"
    or "moved"; ``location`` is below the repository of that id, "" for the mirror's own.
    ``needed_by`` are versions, none where only rpm-md names it.
    """

    kind: str
    location: str
    reason: str
    repository: str = ""
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """That a version was reassembled, and came to its commit; ``reason`` says why not."""

    entry: PointerEntry
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found on one mirror.

    ``error`` is set where it could not be asked, or not to the end.  ``entries`` are all its
    sets, ``newest`` by ref the newest.  ``root`` says who vouches: "given", the mirror's
    "own" root, or "" where nothing is signed.
    """

    place: Place
    error: ComposerError | None = None
    revision: str = ""
    newest: Mapping[str, PointerEntry] = field(default_factory=dict)
    entries: Sequence[PointerEntry] = ()
    root: str = ""
    expires: datetime | None = None
    files: int = 0
    bytes: int = 0
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    proofs: tuple[Proof, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Tell whether clients can rely on it."""
        return self.error is None and not self.problems


def kind_of(error: ComposerError) -> str:
    """Say what kind of problem an error is."""
    if isinstance(error, Expired):
        return "expired"
    if isinstance(error, NotFound):
        return "missing"
    if isinstance(error, FetchFailed):
        return "refused"
    if isinstance(error, Untrusted):
        return "untrusted"
    return "damaged"


@dataclass(frozen=True, slots=True)
class Behind:
    """What a mirror lacks of the newest: the first such set, made at ``since``, and the newest."""

    entry: PointerEntry
    newest: PointerEntry
    since: datetime


def behind(mirror: Verified, others: Sequence[Verified]) -> list[Behind]:
    """Say of which refs the other mirrors have newer sets than ``mirror``."""
    found = []
    for ref in sorted({ref for one in others for ref in one.newest}):
        newest = max(
            (one.newest[ref] for one in others if ref in one.newest), key=lambda e: e.timestamp
        )
        own = mirror.newest.get(ref)
        if own is not None and own.timestamp >= newest.timestamp:
            continue
        later = [
            entry
            for one in others
            for entry in one.entries
            if entry.ref == ref and (own is None or entry.timestamp > own.timestamp)
        ]
        first = min(later, key=lambda e: e.timestamp)
        found.append(Behind(own or first, newest, datetime.fromtimestamp(first.timestamp, UTC)))
    return found

"""A published set, opened by ranges of its RPM on a mirror.

Rule kept here: what the pointer says of a set, the set must say too.
"""

from __future__ import annotations

from composer.errors import FormatError
from composer.jigdo.container import MAX_INDEX, Check, RangeReader
from composer.jigdo.manifest import Head
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import JigdoSet
from composer.net.fetch import Fetcher


def open_published(fetcher: Fetcher, entry: PointerEntry) -> JigdoSet:
    """Open the set that a pointer names; raises VerificationFailed when it is another."""
    require_bounded(entry)
    jigdo = JigdoSet(_Ranges(fetcher, entry), entry.index)
    require_described(jigdo.head, entry)
    return jigdo


def require_bounded(entry: PointerEntry) -> None:
    """Raise FormatError for an index that is larger than any."""
    if max(entry.index.size, entry.index.uncompressed) > MAX_INDEX:
        raise FormatError(
            f"{entry.location}: the pointer claims {entry.index.uncompressed} bytes of index",
            hint="no set has that many: ask who published it",
        )


def require_described(head: Head, entry: PointerEntry) -> None:
    """Raise FormatError when a set is of another ref, version or commit than the pointer says."""
    if (head.ref, head.version, head.commit) != (entry.ref, entry.version, entry.commit):
        raise FormatError(
            f"{entry.location}: the set is of {head.ref} {head.version}, commit {head.commit}; "
            f"the pointer says {entry.ref} {entry.version}, commit {entry.commit}",
            hint="the mirror may be in the middle of an update: try again later",
        )


class _Ranges(RangeReader):
    """Byte ranges of the .jigdo file inside an RPM on a mirror."""

    def __init__(self, fetcher: Fetcher, entry: PointerEntry) -> None:
        self._fetcher, self._entry = fetcher, entry

    def read(self, first: int, length: int, check: Check) -> bytes:
        """Return exactly ``length`` bytes from ``first`` of the .jigdo file that pass ``check``."""
        place = self._entry.offset + first
        return self._fetcher.fetch_range(
            self._entry.location, first=place, length=length, check=check
        )

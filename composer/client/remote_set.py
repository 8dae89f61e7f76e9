"""A jigdo set on a mirror, opened by ranges; with an update, where what it updates is here.

Rule kept here: what the pointer says of a set, the set must say too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, FormatError, VerificationFailed
from composer.jigdo import memory
from composer.jigdo.container import Check, Index, Kind, Range, RangeReader
from composer.jigdo.delta.frames import decompress_update
from composer.jigdo.description import apply_update, parse_update, split_description
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.pointer import PointerEntry, UpdatePlace
from composer.jigdo.reader import JigdoSet
from composer.net.fetch import Fetcher
from composer.net.sets import require_bounded, require_described

# So much is fetched at once, where it is in several places; and what it unpacks to.
_SMALL, _SMALL_UNPACKED = 1 << 20, 1 << 22

_Ahead = tuple[float, list[bytes]]
"""Seconds that a batch took to come; its bytes, where they are not checked yet."""

Heard = Callable[[str, int, float], object]
"""Told of each range that came: its kind ("set", "new", "delta"), bytes, seconds it took."""


def open_remote_set(
    fetcher: Fetcher,
    entry: PointerEntry,
    kept: Descriptions,
    *,
    max_memory: int,
    heard: Heard = lambda kind, size, seconds: None,
) -> JigdoSet:
    """Open the set that a pointer names, by ranges; with one, if it is an update of what is here.

    Raises FormatError when the set is of another ref or commit than the pointer says.
    """
    require_bounded(entry)
    ranges = _RemoteRanges(fetcher, entry, heard)
    known = _updated(fetcher, entry, ranges, kept, max_memory)
    jigdo = JigdoSet(ranges, entry.index, known, offered=ranges.has, whole_start=True)
    ranges.learn(jigdo)
    require_described(jigdo.head, entry)
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
        if place.base not in here or not ranges.has(place.offset, place.size):
            continue
        base = kept.read(place.base)
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


class _RemoteRanges(RangeReader):
    """Byte ranges of a .jigdo file inside an RPM on a mirror."""

    def __init__(self, fetcher: Fetcher, entry: PointerEntry, heard: Heard) -> None:
        self._fetcher, self._entry, self._heard = fetcher, entry, heard
        self._one_at_a_time = threading.Lock()
        self._content = range(0)
        self._deltas = range(0)

    def learn(self, jigdo: JigdoSet) -> None:
        """Learn where content and deltas are, to count them apart from the set's metadata."""
        self._content = _place_of(jigdo, Kind.DATA)
        self._deltas = _place_of(jigdo, Kind.PATCH)

    def read(self, first: int, length: int, check: Check) -> bytes:
        """Return exactly ``length`` bytes from ``first`` of the .jigdo file that pass ``check``."""
        data, seconds = self._fetch(first, length, check)
        self._heard(self._kind(first), length, seconds)
        return data

    def has(self, first: int, length: int) -> bool:
        """Tell whether bytes may be read; unless they are in a bundle, so it seems."""
        container = self._fetcher.mirrors.container
        place = self._entry.offset + first
        return container is None or bool(container.find(self._entry.location, place, length))

    def read_each(self, ranges: Sequence[Range]) -> Iterator[None]:
        """Read each; the next ones are on their way while one is worked on."""
        batches = deque(self._batches(ranges))
        with ThreadPoolExecutor(1, "ahead") as pool:
            coming: deque[tuple[list[Range], Future[_Ahead]]] = deque()

            def ask() -> None:
                held = sum(_held(batch) for batch, _ in coming)
                while batches and (not coming or held + _held(batches[0]) <= memory.AHEAD):
                    held += _held(batches[0])
                    coming.append((batches[0], pool.submit(self._ahead, batches[0])))
                    batches.popleft()

            try:
                ask()
                while coming:
                    # It stays in the queue until it has ended: an interrupt has to find it there.
                    seconds, packed = coming[0][1].result()
                    batch, _ = coming.popleft()
                    ask()
                    size = sum(one.length for one in batch)
                    self._heard(self._kind(batch[0].first), size, seconds)
                    if packed:
                        self._check(batch[0], packed)
                    yield from (None for _ in batch)
            finally:
                # The last ones first, or they would begin when the one before them ends.
                left = [future for _, future in reversed(coming) if not future.cancel()]
                for future in left:
                    self._fetcher.give_up(future)

    def _ahead(self, batch: Sequence[Range]) -> _Ahead:
        """Fetch a batch, and check it; or return the bytes of one that unpacks to much."""
        if batch[0].unpacked <= _SMALL_UNPACKED:
            return self._fetch_all([(one.first, one.length, one.check) for one in batch]), []
        packed: list[bytes] = []
        [one] = batch
        seconds = self._fetch_all([(one.first, one.length, lambda data: None)], packed.append)
        return seconds, packed

    def _check(self, one: Range, packed: list[bytes]) -> None:
        """Check what came; where it is wrong, fetch it from whoever has the right bytes."""
        try:
            one.check(packed.pop())
        except VerificationFailed:
            self.read(one.first, one.length, one.check)

    def _batches(self, ranges: Sequence[Range]) -> Iterator[list[Range]]:
        """Group small ranges that are fetched at once: each alone would wait for a round trip."""
        batch: list[Range] = []
        for one in ranges:
            size = one.length + sum(other.length for other in batch)
            full = len(batch) >= self._fetcher.network.limits.parallel or size > _SMALL
            full |= one.unpacked + sum(other.unpacked for other in batch) > _SMALL_UNPACKED
            if batch and (full or self._kind(one.first) != self._kind(batch[0].first)):
                yield batch
                batch = []
            batch.append(one)
        if batch:
            yield batch

    def _fetch(self, first: int, length: int, check: Check) -> tuple[bytes, float]:
        found: list[bytes] = []
        seconds = self._fetch_all([(first, length, check)], found.append)
        return found[0], seconds

    def _fetch_all(
        self,
        batch: Sequence[tuple[int, int, Check]],
        keep: Callable[[bytes], object] = lambda data: None,
    ) -> float:
        """Fetch ranges of one kind at once; returns the seconds that it took."""
        places = [(self._require(first, length), length) for first, length, _ in batch]
        checks = [check for *_, check in batch]
        with self._one_at_a_time:
            began = time.monotonic()
            arriving = self._fetcher.fetch_ranges(
                self._entry.location, places, kind=self._kind(batch[0][0]), checks=checks
            )
            for data in arriving:
                keep(data)
            return time.monotonic() - began

    def _kind(self, first: int) -> str:
        return "new" if first in self._content else "delta" if first in self._deltas else "set"

    def _require(self, first: int, length: int) -> int:
        if first + length > self._entry.length:
            raise FormatError(f"{self._entry.location}: the set claims bytes behind its end")
        return self._entry.offset + first


def _held(batch: Sequence[Range]) -> int:
    """Return the bytes of memory that a batch takes when it has come."""
    unpacked = sum(one.unpacked for one in batch)
    size = sum(one.length for one in batch)
    return size if unpacked > _SMALL_UNPACKED else max(size, unpacked)


def _place_of(jigdo: JigdoSet, kind: Kind) -> range:
    numbers = jigdo.index.numbers(kind)
    if not numbers:
        return range(0)
    return range(jigdo.index[numbers[0]].offset, jigdo.index[numbers[-1]].end)

"""What `mirror simulate` adds up: costs of updates by the planner, storage by needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.client.costing import Costs
from composer.client.remote import Remote
from composer.jigdo.pointer import PointerEntry
from composer.mirror.fleet import Amounts, Arithmetic
from composer.mirror.needs import parse_repositories
from composer.mirror.space import read_needs_of, weigh
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.repository import read_listing


@contextmanager
def arithmetic(
    url: str, repositories: Sequence[str] = ()
) -> Iterator[tuple[Sequence[PointerEntry], Arithmetic]]:
    """Give the sets of the mirror at ``url``, and what their updates cost."""
    with Fetcher(Mirrors((url,))) as fetcher:
        entries = read_listing(fetcher).entries
    others = {name: (one.url,) for name, one in parse_repositories(repositories).items()}
    with tempfile.TemporaryDirectory(prefix="jigdo-simulate.") as place:
        remote = Remote(name="simulated", urls=(url,), trust="none", repositories=others)
        yield entries, _Arithmetic(entries, Costs(remote, Path(place)), url)


class _Arithmetic:
    """Costs as the planner says them, each asked for once."""

    def __init__(self, entries: Sequence[PointerEntry], costs: Costs, url: str) -> None:
        self._entries, self._costs = entries, costs
        self._needs = {one.entry: one for one in read_needs_of(url, entries)}
        self._looks = lru_cache(maxsize=None)(self._look)
        self._updates = lru_cache(maxsize=None)(self._update)
        self._shape = lru_cache(maxsize=None)(self._costs.shape)

    def look(self, ref: str, *, newest: bool) -> tuple[int, int]:
        return self._looks(ref, newest)

    def update(
        self,
        base: PointerEntry | None,
        target: PointerEntry,
        *,
        deltas: bool,
        described: bool,
    ) -> tuple[Amounts, bool]:
        return self._updates(base, target, deltas, deltas and described and base is not None)

    def storage(self, kept: Sequence[PointerEntry], bases: Mapping[PointerEntry, int]) -> int:
        whole = weigh([self._needs[entry] for entry in kept]).bytes
        return whole - sum(
            self._shape(entry).without(self._dropped(entry, window))
            for entry, window in bases.items()
        )

    def _dropped(self, entry: PointerEntry, window: int) -> frozenset[ObjectChecksum]:
        own = sorted(
            (one for one in self._entries if one.ref == entry.ref),
            key=lambda one: (one.timestamp, one.commit),
        )
        at = own.index(entry)
        kept = {one.commit for one in own[max(0, at - window) : at]}
        return frozenset(base for base in self._shape(entry).own if base not in kept)

    def _look(self, ref: str, newest: bool) -> tuple[int, int]:
        own = sorted(
            (one for one in self._entries if one.ref == ref), key=lambda one: one.timestamp
        )
        found = self._costs.look(ref, "" if newest or len(own) < 2 else str(own[0].commit))
        return found.bytes, found.requests

    def _update(
        self, base: PointerEntry | None, target: PointerEntry, deltas: bool, described: bool
    ) -> tuple[Amounts, bool]:
        found, whole = self._costs.update(base, target, deltas=deltas, described=described)
        return {kind: (one.bytes, one.requests) for kind, one in found.items()}, whole

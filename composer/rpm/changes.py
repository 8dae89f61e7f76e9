"""What changed between two sets of packages, in rpm's own order of versions.

A pure comparison: it knows NEVRAs and nothing of where they come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cmp_to_key

from composer.rpm.package import Nevra

Pair = tuple[Nevra, Nevra]


@dataclass(frozen=True, slots=True)
class Changes:
    """Each sorted by name, then architecture, then version; pairs are (before, after)."""

    added: tuple[Nevra, ...] = ()
    removed: tuple[Nevra, ...] = ()
    upgraded: tuple[Pair, ...] = ()
    downgraded: tuple[Pair, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.upgraded or self.downgraded)

    @property
    def brought(self) -> tuple[Nevra, ...]:
        """The packages that came, and can have brought something to fix."""
        return (*self.added, *(new for _, new in self.upgraded))

    def summary(self) -> dict[str, list[object]]:
        """Describe them as a JSON document."""
        return {
            "added": [str(nevra) for nevra in self.added],
            "removed": [str(nevra) for nevra in self.removed],
            "upgraded": [_summary(pair) for pair in self.upgraded],
            "downgraded": [_summary(pair) for pair in self.downgraded],
        }


def _summary(pair: Pair) -> dict[str, str]:
    before, after = pair
    return {"name": after.name, "from": str(before), "to": str(after)}


def compare_versions(one: Nevra, other: Nevra) -> int:
    """Compare epoch, version and release as rpm does: below, at or above 0."""
    import rpm

    return int(rpm.labelCompare(_label(one), _label(other)))


def _label(nevra: Nevra) -> tuple[str, str, str]:
    return str(nevra.epoch), nevra.version, nevra.release


def compare(before: Iterable[Nevra], after: Iterable[Nevra]) -> Changes:
    """Say how ``before`` became ``after``.

    What both have is no change.  Of packages that are there in several versions, such as
    kernels, the newest is paired with the newest, and what is left over was added or
    removed.  A package that only changed its architecture to or from noarch is a pair too
    when its version changed; with an equal version it was removed and added.
    """
    old, new = set(before), set(after)
    gone, come = old - new, new - old
    pairs = _pairs(gone, come, lambda nevra: (nevra.name, nevra.arch))
    pairs += _pairs(gone, come, lambda nevra: nevra.name)
    upgraded: list[Pair] = []
    downgraded: list[Pair] = []
    for pair in pairs:
        order = compare_versions(*pair)
        if order == 0:
            gone.add(pair[0])
            come.add(pair[1])
        else:
            (upgraded if order < 0 else downgraded).append(pair)
    return Changes(
        added=tuple(_sorted(come)),
        removed=tuple(_sorted(gone)),
        upgraded=tuple(sorted(upgraded, key=lambda pair: _order(pair[1]))),
        downgraded=tuple(sorted(downgraded, key=lambda pair: _order(pair[1]))),
    )


def _pairs(gone: set[Nevra], come: set[Nevra], key: Callable[[Nevra], Hashable]) -> list[Pair]:
    """Take pairs of equal ``key`` out of both sets, the newest first."""
    groups: dict[Hashable, list[Nevra]] = defaultdict(list)
    for nevra in come:
        groups[key(nevra)].append(nevra)
    left = {name: _sorted(group) for name, group in groups.items()}
    found = []
    for nevra in reversed(_sorted(gone)):
        if partners := left.get(key(nevra)):
            found.append((nevra, partners.pop()))
    for pair in found:
        gone.discard(pair[0])
        come.discard(pair[1])
    return found


def _order(nevra: Nevra) -> tuple[object, ...]:
    # The text decides where rpm sees no difference, such as between 1.0 and 1.00.
    return nevra.name, nevra.arch, cmp_to_key(compare_versions)(nevra), str(nevra)


def _sorted(packages: Iterable[Nevra]) -> list[Nevra]:
    return sorted(packages, key=_order)

"""Values of a commit's metadata, in the commit or beside it, as rpm-ostree writes them.

Rules kept here: keys are sorted, and integers are in network byte order, as in all of
OSTree, so that equal facts are equal bytes on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.compose.advisories import carried, passed
from composer.compose.packages import ComposedPackage
from composer.errors import ComposerError
from composer.rpm import advisories
from composer.rpm.advisories import Advisory
from composer.rpm.listing import OWN_LIST, RPMOSTREE_LIST
from composer.rpm.package import Nevra

INLINE, DETACHED, DISABLED = "inline", "detached", "disabled"
"""Where what repositories say goes: into the commit, beside it, or nowhere."""

REPOSITORIES = "rpmostree.rpmmd-repos"
_DEEPEST = 32


class BadMetadata(ComposerError):
    """Metadata that a commit cannot have."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the repositories said when packages were chosen from them.

    ``repositories`` are ids and the newest time in each one's repomd.xml; ``advisories``
    are those of the chosen packages.  Both change without any package changing.  ``passed``
    are advisories that came between the previous commit's packages and these.
    """

    repositories: tuple[tuple[str, int], ...] = ()
    advisories: tuple[Advisory, ...] = ()
    passed: tuple[Advisory, ...] = ()


def origin_of(base: Any, before: Iterable[Nevra]) -> Origin:
    """Ask dnf's ``base``, which solved; ``before`` are the previous commit's packages."""
    found = sorted(
        (repo.id, int(repo._repo.getMaxTimestamp())) for repo in base.repos.iter_enabled()
    )
    return Origin(tuple(found), carried(base), passed(base, before))


def package_values(packages: Sequence[ComposedPackage]) -> dict[str, Any]:
    """List the packages for rpm-ostree, and for ourselves with what identifies an RPM."""
    from gi.repository import GLib

    names = [package.ref.nevra for package in packages]
    rows = sorted((n.name, str(n.epoch), n.version, n.release, n.arch) for n in names)
    own = sorted((str(p.ref.nevra), str(p.ref.pkgid), p.ref.size) for p in packages)
    return {
        RPMOSTREE_LIST: GLib.Variant("a(sssss)", rows),
        OWN_LIST: GLib.Variant("a(sst)", own),
    }


def origin_values(
    origin: Origin, *, repositories: str, advisories_in: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the values for the commit and those to be kept beside it, each by its place."""
    from gi.repository import GLib

    rows = [
        {"id": GLib.Variant("s", ident), "timestamp": GLib.Variant("t", time)}
        for ident, time in sorted(origin.repositories)
    ]
    places: dict[str, dict[str, Any]] = {INLINE: {}, DETACHED: {}, DISABLED: {}}
    places[repositories][REPOSITORIES] = GLib.Variant("aa{sv}", rows)
    places[advisories_in].update(advisories.metadata(origin.advisories))
    # Never in the commit: they depend on what was composed before.
    beside = DISABLED if advisories_in == DISABLED else DETACHED
    places[beside].update(advisories.metadata(origin.passed, key=advisories.PASSED_KEY))
    return places[INLINE], places[DETACHED]


def json_values(values: Mapping[str, object]) -> dict[str, Any]:
    """Turn a treefile's JSON values into GVariants, as rpm-ostree (json-glib) does.

    Raises BadMetadata, naming the key, for a number that has no such type.
    """
    found = {}
    for key, value in values.items():
        try:
            found[key] = _json_variant(value, _DEEPEST)
        except ValueError as error:
            raise BadMetadata(f"add-commit-metadata: {key}: {error}") from None
    return found


def _json_variant(value: object, deepest: int) -> Any:
    from gi.repository import GLib

    if not deepest:
        raise ValueError(f"more than {_DEEPEST} lists or mappings in each other")
    match value:
        case None:
            return GLib.Variant("mv", None)
        case bool():
            return GLib.Variant("b", value)
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"{value} is no integer of 64 bits")
            return GLib.Variant("x", value)
        case float():
            return GLib.Variant("d", value)
        case str():
            return GLib.Variant("s", value)
        case list() | tuple():
            return GLib.Variant("av", [_json_variant(item, deepest - 1) for item in value])
        case Mapping():
            items = {key: _json_variant(value[key], deepest - 1) for key in sorted(value)}
            return GLib.Variant("a{sv}", items)
    raise ValueError(f"expected a value that JSON can have, got {value!r}")


def finished(values: Mapping[str, Any]) -> Any:
    """Join values, in this machine's byte order, to an ``a{sv}`` as OSTree stores it."""
    from gi.repository import GLib

    variant = GLib.Variant("a{sv}", dict(sorted(values.items())))
    return variant.byteswap() if sys.byteorder == "little" else variant


def joined(existing: Any, values: Mapping[str, Any]) -> Any:
    """Put values into detached metadata that is there (an ``a{sv}`` or None), as it is stored.

    Other keys, such as signatures, stay.
    """
    from gi.repository import GLib

    new = finished(values)
    children = [new.get_child_value(index) for index in range(new.n_children())]
    if existing is not None:
        kept = (existing.get_child_value(index) for index in range(existing.n_children()))
        children += [one for one in kept if one.get_child_value(0).get_string() not in values]
    children.sort(key=lambda child: str(child.get_child_value(0).get_string()))
    return GLib.Variant.new_array(GLib.VariantType.new("{sv}"), children)

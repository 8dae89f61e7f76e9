"""The signed statements of a repository, as its operator makes them: docs/format/tuf.md.

The metadata says itself by which keys, how many of them and for how many days each role
is signed; there is no configuration beside it.  A role is signed anew only when it has
something to say, or half of its days are over; the timestamp always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from composer.checksum import ContentDigest
from composer.errors import ComposerError, UsageError
from composer.jigdo.pointer import NO_VERSIONS, Pointer, PointerEntry, Versions, dump_entry
from composer.mirror.keys import KeyDirectory
from composer.mirror.ledger import DAYS, TOP_ROLES, Ledger, days_of
from composer.net.statement import CUSTOM, CUSTOM_VERSIONS, MAX_REF, STATEMENTS, ref_of, role_of

if TYPE_CHECKING:
    from securesystemslib.signer import Signer
    from tuf.api.metadata import Role, TargetFile, Targets

SETS = "sets"
"""The keys that sign for refs: not a role of TUF, but what each ref's role begins with."""
ROLES = (*TOP_ROLES, SETS)
FIRST = "x-jigdo-sets"
_PATHS = ["jigdo/*"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a role is signed: by ``threshold`` of ``keys`` keys, for so many days."""

    threshold: int = 1
    keys: int = 1
    days: int = 365


DEFAULT_TERMS: Mapping[str, Terms] = {
    "root": Terms(days=730),
    "targets": Terms(),
    "snapshot": Terms(days=30),
    # Longer than mirrors lag behind, and than it takes to notice that nothing refreshes it.
    "timestamp": Terms(days=7),
    SETS: Terms(),
}


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What was signed anew, by role and version; until when all of it holds; and the roles
    whose days are nearly over, but whose keys are not here.
    """

    signed: Mapping[str, int]
    expires: datetime
    due: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleState:
    """A role, or a ref, as it is published: signed by ``threshold`` of the keys with these ids."""

    name: str
    version: int
    expires: datetime
    threshold: int
    keys: tuple[str, ...]


def is_signed(repository: Path) -> bool:
    """Tell whether a repository has signed statements."""
    return (repository / STATEMENTS / "timestamp.json").is_file()


def stated_locations(repository: Path) -> set[str]:
    """Return the locations of the sets that statements name, published or about to be.

    What a publication that was killed has signed is newer than what counts.
    """
    from tuf.api.metadata import Metadata, Targets

    if not is_signed(repository):
        return set()
    ledger = open_ledger(repository)
    roles = ledger.targets.delegations
    paths = [
        ledger.path(name, version)
        for name in (roles.roles if roles else None) or ()
        for version in ledger.versions(name)
    ]
    found = (Metadata[Targets].from_bytes(path.read_bytes()) for path in paths)
    return {location for one in found for location in one.signed.targets}


def says(repository: Path, pointer: Pointer, versions: Versions) -> bool:
    """Tell whether the published statements, where there are any, say the same as the pointers."""
    ledger = open_ledger(repository)
    if not is_signed(repository):
        return True
    return all(
        found is not None
        and found.signed.targets == {entry.location: _target(entry, versions.digest(entry.ref))}
        for entry in pointer.entries
        for found in [ledger.newest(role_of(entry.ref))]
    )


def describe(ledger: Ledger) -> list[RoleState]:
    """Describe all roles as they are published, TUF's own first."""
    delegations = ledger.targets.delegations
    roles = sorted(delegations.roles or ()) if delegations else []
    found = []
    for name in (*TOP_ROLES, *roles):
        metadata, role = ledger.newest(name), ledger.terms(name)
        if metadata is not None:
            signed = metadata.signed
            state = RoleState(
                ref_of(name) or name,
                signed.version,
                signed.expires,
                role.threshold,
                tuple(role.keyids),
            )
            found.append(state)
    return found


def require_begun(repository: Path, keys: KeyDirectory) -> None:
    """Raise what :func:`refresh` would raise for a missing root or keys that cannot be read."""
    _ = open_ledger(repository).root
    keys.signers()


def begin(
    repository: Path,
    keys: KeyDirectory,
    terms: Mapping[str, Terms],
    *,
    taken: Mapping[str, Sequence[str]] = MappingProxyType({}),
    now: datetime,
) -> Path:
    """Make keys for all roles, the first root and empty targets; returns the root's path.

    Of the keys of a role those that are ``taken``, URIs, are not made.  :func:`refresh` then
    signs what there is to be said.
    """
    from tuf.api.metadata import Root

    ledger = open_ledger(repository)
    if ledger.versions("root"):
        raise UsageError(
            f"{ledger.directory}: there is a root already",
            hint="`mirror keys rotate` changes keys",
        )
    root = Root(version=1, consistent_snapshot=True)
    for name in TOP_ROLES:
        role = root.roles[name]
        role.threshold, role.unrecognized_fields[DAYS] = terms[name].threshold, terms[name].days
        for key in keys.first(name, terms[name].keys, taken.get(name, ())):
            root.add_key(key, name)
    targets = _first_targets(keys, terms[SETS], taken.get(SETS, ()))
    signers = keys.signers()
    ledger.stage("root", root, signers, now=now)
    ledger.stage("targets", targets, signers, now=now)
    ledger.publish()
    return ledger.path("root", 1)


def _first_targets(keys: KeyDirectory, terms: Terms, taken: Sequence[str]) -> Targets:
    from tuf.api.metadata import Delegations, Targets

    made = {key.keyid: key for key in keys.first(SETS, terms.keys, taken)}
    first = {"keyids": sorted(made), "threshold": terms.threshold, DAYS: terms.days}
    delegations = Delegations(keys=made, roles={}, unrecognized_fields={FIRST: first})
    return Targets(version=1, delegations=delegations)


def open_ledger(repository: Path) -> Ledger:
    """The metadata of a repository."""
    return Ledger(repository / STATEMENTS)


def refresh(
    ledger: Ledger,
    pointer: Pointer,
    keys: KeyDirectory,
    *,
    versions: Versions = NO_VERSIONS,
    now: datetime,
) -> Refreshed:
    """Sign what ``pointer`` says, where that is news, and that it still holds; publish it.

    Of ``versions``, those that are not the newest, a digest is signed.

    Only the keys of what is to be signed need to be there, so the machine that says daily
    that nothing changed has those of timestamp and snapshot alone.  Raises ComposerError
    where others are needed; what is published is then as it was.
    """
    refreshed = prepare(ledger, pointer, keys, versions=versions, now=now)
    ledger.publish()
    return refreshed


def prepare(
    ledger: Ledger,
    pointer: Pointer,
    keys: KeyDirectory,
    *,
    versions: Versions = NO_VERSIONS,
    now: datetime,
) -> Refreshed:
    """Sign as :func:`refresh` does, and leave it to the caller to publish it."""
    work = _Refreshing(ledger, keys.signers(), now)
    work.root()
    work.delegations(pointer)
    for entry in pointer.entries:
        others = versions.of(entry.ref)
        if others.entries:
            ledger.keep_list(others.dump())
        work.ref(entry.ref, _target(entry, versions.digest(entry.ref)))
    for ref in sorted(work.known() - {entry.ref for entry in pointer.entries}):
        work.ref(ref, None)
    work.snapshot()
    work.timestamp()
    work.require_valid()
    return Refreshed(ledger.staged(), work.expires(), tuple(work.due))


class _Refreshing:
    def __init__(self, ledger: Ledger, signers: Mapping[str, Signer], now: datetime) -> None:
        self.ledger, self._signers, self._now = ledger, signers, now
        self.due: list[str] = []

    def root(self) -> None:
        """Prolong the root, when half of its days are over and its keys are here."""
        root = self.ledger.root
        if self._may_prolong("root", root.roles["root"], root):
            root.version += 1
            self.ledger.stage("root", root, self._signers, now=self._now)

    def known(self) -> set[str]:
        """The refs that have a role."""
        delegations = self.ledger.targets.delegations
        roles = delegations.roles if delegations else None
        return {ref for role in roles or () if (ref := ref_of(role))}

    def delegations(self, pointer: Pointer) -> None:
        """Give each new ref a role of its own."""
        new = [entry.ref for entry in pointer.entries if entry.ref not in self.known()]
        targets = self.ledger.targets
        for ref in new:
            _delegate(targets, ref)
        if new or self._must_sign("targets", targets):
            self._stage("targets", targets)

    def ref(self, ref: str, target: TargetFile | None) -> None:
        """Sign what is newest of a ref, None for that there is nothing any more."""
        from tuf.api.metadata import Targets

        role = role_of(ref)
        wanted = {target.path: target} if target else {}
        kept = self.ledger.newest(role)
        signed: Targets = kept.signed if kept else Targets(version=1)
        if kept is None:
            signed.targets = wanted
            self.ledger.stage(role, signed, self._signers, now=self._now)
        elif signed.targets != wanted or self._must_sign(role, signed):
            signed.targets = wanted
            self._stage(role, signed)

    def snapshot(self) -> None:
        """Say which versions of all others belong together."""
        from tuf.api.metadata import Snapshot

        roles = ["targets", *map(role_of, sorted(self.known()))]
        meta = {f"{role}.json": self.ledger.described(role) for role in roles}
        kept = self.ledger.newest("snapshot")
        if kept is None:
            self.ledger.stage("snapshot", Snapshot(1, meta=meta), self._signers, now=self._now)
        elif kept.signed.meta != meta or self._must_sign("snapshot", kept.signed):
            kept.signed.meta = meta
            self._stage("snapshot", kept.signed)

    def timestamp(self) -> None:
        """Say which snapshot is the newest, and until when."""
        from tuf.api.metadata import Timestamp

        kept = self.ledger.newest("timestamp")
        timestamp: Timestamp = kept.signed if kept else Timestamp(1)
        timestamp.version += kept is not None
        timestamp.snapshot_meta = self.ledger.described("snapshot")
        self.ledger.stage("timestamp", timestamp, self._signers, now=self._now)

    def expires(self) -> datetime:
        """Until when a client believes all of it."""
        return min(self._periods().values())

    def require_valid(self) -> None:
        """Refuse to sign what no client would believe, because another role's time is over."""
        over = {role: time for role, time in self._periods().items() if time <= self._now}
        if over:
            raise ComposerError(
                f"{', '.join(over)}: expired, and cannot be signed with the keys that are here",
                details=[f"{role}: on {time:%Y-%m-%d %H:%M} UTC" for role, time in over.items()],
                hint="bring the keys of these roles to the directory of --tuf-keys, and run "
                "`mirror refresh`: clients believe nothing until then",
            )

    def _periods(self) -> dict[str, datetime]:
        roles = [*TOP_ROLES, *map(role_of, sorted(self.known()))]
        return {role: one.signed.expires for role in roles if (one := self.ledger.newest(role))}

    def _stage(self, role: str, signed: Any) -> None:
        signed.version += 1
        self.ledger.stage(role, signed, self._signers, now=self._now)

    def _must_sign(self, name: str, signed: Any) -> bool:
        """Tell whether a role that says nothing new has to be signed, and can be."""
        metadata = self.ledger.newest(name)
        assert metadata is not None
        delegator = self.ledger.root if name in TOP_ROLES else self.ledger.targets
        valid = delegator.get_verification_result(
            name, metadata.signed_bytes, metadata.signatures
        ).verified
        return not valid or self._may_prolong(name, self.ledger.terms(name), signed)

    def _may_prolong(self, name: str, role: Role, signed: Any) -> bool:
        if signed.expires - self._now > timedelta(days=days_of(role)) / 2:
            return False
        if len(self._signers.keys() & set(role.keyids)) >= role.threshold:
            return True
        self.due.append(name)
        return False


def _delegate(targets: Targets, ref: str) -> None:
    from tuf.api.metadata import DelegatedRole

    if len(ref) > MAX_REF:
        raise ComposerError(
            f"{ref}: a ref that is signed for has at most {MAX_REF} characters",
            hint="its role is a file that has it in its name: publish under a shorter ref",
        )
    delegations = targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    first = delegations.unrecognized_fields[FIRST]
    name, keyids, threshold = role_of(ref), list(first["keyids"]), first["threshold"]
    role = DelegatedRole(
        name, keyids, threshold, False, paths=_PATHS, unrecognized_fields={DAYS: first[DAYS]}
    )
    delegations.roles[name] = role
    delegations.roles = dict(sorted(delegations.roles.items()))


def _target(entry: PointerEntry, versions: ContentDigest | None) -> TargetFile:
    from tuf.api.metadata import TargetFile

    custom: dict[str, Any] = {CUSTOM: dump_entry(entry)}
    if versions is not None:
        custom[CUSTOM_VERSIONS] = str(versions)

    return TargetFile(
        entry.size,
        {"sha256": str(entry.pkgid)},
        entry.location,
        unrecognized_fields={"custom": custom},
    )

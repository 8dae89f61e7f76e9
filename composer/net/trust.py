"""What is newest, in which set, and until when: signed statements by TUF's rules.

The layout is docs/format/tuf.md.  python-tuf's trusted metadata set judges; here
bytes are moved and kept.  Rules kept here: a mirror whose statements are stale,
expired or forged means the next one, and only all of them are an error; what is
believed is on disk before what follows from it is asked for; every file has a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar, cast

from composer.errors import ComposerError, NotFound, VerificationFailed
from composer.jigdo.pointer import PointerEntry
from composer.net.fetch import Fetcher, Keep
from composer.net.job import FetchFailed
from composer.net.location import Mirrors
from composer.net.network import Limits, Network, Way
from composer.net.statement import (
    MAX_ROOT,
    STALE,
    STATEMENTS,
    Expired,
    Untrusted,
    delegated_refs,
    entry_of,
    expiry_of,
    explained,
    late,
    require_delegation,
    role_of,
    start,
    versions_of,
)
from composer.net.trust_store import TrustStore

if TYPE_CHECKING:
    from tuf.api.metadata import Targets

_MAX_TIMESTAMP = 8 << 10
_MAX_OTHER = 4 << 20
_MAX_ROOTS = 256
# Statements are small: whoever needs longer for them holds us back.
_LIMITS = Limits(connect_seconds=10.0, stall_rate=1000, stall_seconds=10)
_NO_EXPIRY = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a publisher says of a ref: its newest set, which mirror had that, until when it holds.

    ``versions`` is the digest of what the repository lists of the ref's other versions, ""
    where the statement says nothing of any; ``clock_behind`` says that this machine's clock
    is before the time of the commit.
    """

    entry: PointerEntry
    mirror: str
    expires: datetime
    clock_behind: bool
    versions: str = ""


def find_signed_entry(
    mirrors: Mirrors,
    ref: str,
    store: TrustStore,
    *,
    now: datetime | None = None,
    ignore_expiry: bool = False,
    limits: Limits | None = None,
    network: Network | None = None,
    keep: Keep | None = None,
) -> Statement:
    """Return what is newest of ``ref`` by the first mirror that says it credibly.

    ``now`` is the clock's by default; ``keep`` gets a copy of what was read.  Raises
    NotFound where the publisher signs for no such ref, or no mirror has signed statements,
    Untrusted where they are not to be believed, FetchFailed where no mirror answers.
    """
    clock = now or datetime.now(UTC)
    when = _NO_EXPIRY if ignore_expiry else clock
    patience = limits or _LIMITS
    if len(mirrors.bases) > 1:
        patience = replace(patience, attempts=1)  # sooner the next one
    here = (network or Network.by(Way())).with_limits(patience)
    failures: list[tuple[str, ComposerError]] = []
    with store.locked():
        for base in mirrors.bases:
            one = mirrors.only(base)
            with Fetcher(one, kind="trust", network=here, keep=keep) as fetcher:
                try:
                    return _read(lambda: _Reading(fetcher, store, when).find(ref, clock))
                except (NotFound, FetchFailed, VerificationFailed) as error:
                    failures.append((base, error))
    raise _verdict(failures)


def read_statements(
    mirrors: Mirrors,
    store: TrustStore,
    *,
    now: datetime | None = None,
    ignore_expiry: bool = False,
    network: Network | None = None,
) -> dict[str, Statement]:
    """Return by ref what one mirror says of all refs that are signed for.

    Raises what :func:`find_signed_entry` raises where any of it is not to be believed.
    """
    clock = now or datetime.now(UTC)
    when = _NO_EXPIRY if ignore_expiry else clock
    here = (network or Network.by(Way())).with_limits(_LIMITS)
    with store.locked(), Fetcher(mirrors, kind="trust", network=here) as fetcher:
        return _read(lambda: _Reading(fetcher, store, when).find_all(clock))


_Read = TypeVar("_Read")


class _Gone(NotFound):
    """A file that the timestamp leads to and that is not there."""


def _read(walk: Callable[[], _Read]) -> _Read:
    """Walk through the metadata, and once more where it was replaced meanwhile."""
    try:
        return walk()
    except _Gone:
        return walk()


def _verdict(failures: Sequence[tuple[str, ComposerError]]) -> ComposerError:
    """The error that tells best why no mirror's word holds; its details name each mirror."""

    def weight(failure: tuple[str, ComposerError]) -> int:
        kinds = (Expired, VerificationFailed, NotFound, FetchFailed)
        return next(place for place, kind in enumerate(kinds) if isinstance(failure[1], kind))

    base, chosen = min(failures, key=weight)
    if len(failures) == 1:
        chosen.details = (f"from {base}", *chosen.details)
        return chosen
    lines = [
        line
        for base, error in failures
        for line in (f"{base}: {error.message}", *(f"  {detail}" for detail in error.details))
    ]
    chosen.details = tuple(lines)
    return chosen


class _Reading:
    """One walk through the metadata on one mirror: root, timestamp, snapshot, targets, the ref.

    ``when`` is the time that nothing may have expired at.
    """

    def __init__(self, fetcher: Fetcher, store: TrustStore, when: datetime) -> None:
        self._fetcher, self._store, self._when = fetcher, store, when
        try:
            self._set = start(store.read("root") or store.pinned)
        except Untrusted:
            self._set = start(store.pinned)
        self._set.reference_time = when

    def find(self, ref: str, clock: datetime) -> Statement:
        targets = self._read_top()
        require_delegation(targets, ref)
        return self._statement(ref, targets, clock)

    def find_all(self, clock: datetime) -> dict[str, Statement]:
        targets = self._read_top()
        found = {}
        for ref in delegated_refs(targets):
            try:
                found[ref] = self._statement(ref, targets, clock)
            except NotFound:
                if not self._is_withdrawn(ref):
                    raise
        return found

    def _is_withdrawn(self, ref: str) -> bool:
        role = role_of(ref)
        return role in self._set and not cast("Targets", self._set[role]).targets

    def _read_top(self) -> Targets:
        self._follow_root()
        self._read_timestamp()
        self._read_snapshot()
        return self._read_targets("targets", "root")

    def _statement(self, ref: str, targets: Targets, clock: datetime) -> Statement:
        role = role_of(ref)
        signed = self._read_targets(role, "targets")
        entry = entry_of(ref, targets, signed)
        made = datetime.fromtimestamp(entry.timestamp, UTC)
        if clock < made and self._when is clock:
            # A clock that stands before the commit was made can't tell what has expired.
            self._require_unexpired(made)
        expires = min(one.expires for one in self._set)
        place = self._fetcher.mirrors.bases[0]
        return Statement(entry, place, expires, clock < made, versions_of(signed))

    def _follow_root(self) -> None:
        """Follow the chain of roots, each signed by the one before, to the newest."""
        for _ in range(_MAX_ROOTS):
            data = self._next_root()
            if data is None:
                return
            self._judge("root", data, self._set.update_root)
            self._store.write("root", data)
        raise Untrusted(f"root: more than {_MAX_ROOTS} new versions at once", hint=STALE)

    def _next_root(self) -> bytes | None:
        try:
            return self._fetch(f"{self._set.root.version + 1}.root", MAX_ROOT)
        except NotFound:
            return None
        except FetchFailed as error:
            # So do some object stores answer for what they do not have.
            if all(line.endswith("HTTP status 403") for line in error.details):
                return None
            raise

    def _read_timestamp(self) -> None:
        kept = self._store.read("timestamp")
        if kept is not None:
            self._holds(kept, self._set.update_timestamp)
        known = self._set.get("timestamp")
        try:
            data = self._fetch("timestamp", _MAX_TIMESTAMP)
        except NotFound as error:
            raise NotFound(
                "no signed statements there",
                details=error.details,
                hint="is this the right URL?  The remote wants signatures by TUF, which the "
                "publisher makes with `mirror keys init` and `mirror refresh`",
            ) from error
        self._judge("timestamp", data, self._set.update_timestamp)
        if self._set.timestamp is not known:
            self._store.write("timestamp", data)

    def _read_snapshot(self) -> None:
        kept = self._store.read("snapshot")
        if kept is not None and self._holds(
            kept, lambda data: self._set.update_snapshot(data, trusted=True)
        ):
            return
        meta = self._set.timestamp.snapshot_meta
        data = self._fetch_named(f"{meta.version}.snapshot", _bound("snapshot", meta.length))
        self._judge("snapshot", data, self._set.update_snapshot)
        self._store.write("snapshot", data)

    def _read_targets(self, role: str, parent: str) -> Targets:
        def update(data: bytes) -> Targets:
            return self._set.update_delegated_targets(data, role, parent)

        kept = self._store.read(role)
        if kept is None or not self._holds(kept, update):
            meta = self._set.snapshot.meta.get(f"{role}.json")
            if meta is None:
                raise Untrusted(f"snapshot: says nothing of {role}", hint=STALE)
            data = self._fetch_named(f"{meta.version}.{role}", _bound(role, meta.length))
            self._judge(role, data, update)
            self._store.write(role, data)
        return cast("Targets", self._set[role])

    def _holds(self, kept: bytes, update: Callable[[bytes], object]) -> bool:
        """Take what an earlier run trusted; False where it is not the last word any more."""
        from tuf.api.exceptions import RepositoryError

        try:
            update(kept)
        except RepositoryError:
            return False
        return True

    def _fetch_named(self, name: str, limit: int) -> bytes:
        try:
            return self._fetch(name, limit)
        except NotFound as error:
            raise _Gone(error.message, details=error.details, hint=error.hint) from error

    def _fetch(self, name: str, limit: int) -> bytes:
        return self._fetcher.fetch_small(f"{STATEMENTS}/{name}.json", limit=limit)

    def _judge(self, role: str, data: bytes, update: Callable[[bytes], object]) -> None:
        """Let python-tuf judge; what it says becomes an error that says what to do."""
        from tuf.api import exceptions

        try:
            update(data)
        except exceptions.EqualVersionNumberError:
            # A second statement of this number says nothing more than the first.
            self._require_unexpired(self._when)
        except exceptions.ExpiredMetadataError as error:
            root = self._set.root
            if root.is_expired(self._when):
                raise late("root", root.expires, self._when) from error
            raise late(role, expiry_of(data), self._when) from error
        except exceptions.RepositoryError as error:
            raise explained(role, error) from error

    def _require_unexpired(self, when: datetime) -> None:
        """Raise Expired for the first statement whose time is over."""
        for one in self._set:
            if one.is_expired(when):
                raise late(one.type, one.expires, when)


def _bound(role: str, length: int | None) -> int:
    if length is not None and length > _MAX_OTHER:
        raise Untrusted(f"{role}: {length} bytes are claimed, more than any has", hint=STALE)
    return length or _MAX_OTHER

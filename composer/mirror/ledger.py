"""The metadata files of a repository: which there are, and new ones beside them.

Rules kept here: a version that was written keeps its name and content;
``timestamp.json``, which makes the others count, is replaced after them, by one rename; what
the statements before these name stays until the next.  With a new root, which changes who is
believed, the others are signed by those that the old one names too, and it comes last: whoever
reads in between, or after a crash there, finds statements that hold by either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from composer.checksum import ContentDigest
from composer.errors import FormatError
from composer.mirror.keys import missing_keys, sign_with
from composer.net.statement import versions_name, versions_of
from composer.system.files import write_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import Signer
    from tuf.api.metadata import Metadata, MetaFile, Role, Root, Snapshot, Targets, Timestamp

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
DAYS = "x-jigdo-days"
_NAME = re.compile(r"([1-9][0-9]{0,9})\.(.+)\.json\Z")
_LAST = ("targets", "snapshot", "timestamp", "root")


class Ledger:
    """The directory of a repository's metadata, and what is to be written there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lists: dict[str, bytes] = {}
        self._staged: dict[str, tuple[Metadata[Any], bytes]] = {}

    def versions(self, role: str) -> list[int]:
        """The versions of a role that are there, oldest first; of the timestamp, none."""
        found = (_NAME.match(path.name) for path in self.directory.glob(f"*.{role}.json"))
        return sorted(int(match[1]) for match in found if match and match[2] == role)

    def path(self, role: str, version: int) -> Path:
        """Where a version of a role is."""
        name = f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"
        return self.directory / name

    def newest(self, role: str) -> Metadata[Any] | None:
        """The newest of a role, what was staged before all; None for none."""
        from tuf.api.metadata import Metadata
        from tuf.api.serialization import DeserializationError

        if role in self._staged:
            return self._staged[role][0]
        versions = self.versions(role) if role != "timestamp" else [0]
        path = self.path(role, versions[-1]) if versions else None
        if path is None or not path.exists():
            return None
        try:
            return Metadata[Any].from_bytes(path.read_bytes())
        except DeserializationError as error:
            raise FormatError(
                f"{path}: not readable", hint="bring it back from a mirror or a backup"
            ) from error

    @property
    def root(self) -> Root:
        """The newest root; there has to be one."""
        return cast("Root", self._require("root"))

    @property
    def targets(self) -> Targets:
        """The newest targets; there have to be some."""
        return cast("Targets", self._require("targets"))

    def _require(self, role: str) -> Any:
        found = self.newest(role)
        if found is None:
            raise FormatError(
                f"{self.directory}: has no {role}.json", hint="`mirror keys init` begins with it"
            )
        return found.signed

    def terms(self, role: str) -> Role:
        """Who signs for a role by the newest root, or targets for a ref's."""
        if role in TOP_ROLES:
            return self.root.roles[role]
        delegations = self.targets.delegations
        assert delegations is not None
        assert delegations.roles is not None
        return delegations.roles[role]

    def stage(
        self,
        name: str,
        signed: Root | Targets | Snapshot | Timestamp,
        signers: Mapping[str, Signer],
        *,
        now: datetime,
    ) -> None:
        """Sign ``signed``, from now on for its role's days, and keep it for :meth:`publish`.

        Raises ComposerError unless enough of the role's keys are here.
        """
        from tuf.api.metadata import Metadata, Root

        role = signed.roles["root"] if isinstance(signed, Root) else self.terms(name)
        signed.expires = now.replace(microsecond=0) + timedelta(days=days_of(role))
        metadata = Metadata(cast("Any", signed))
        here = [keyid for keyid in role.keyids if keyid in signers]
        if len(here) < role.threshold:
            raise missing_keys(name, set(role.keyids) - set(here), role.threshold - len(here))
        for keyid in sorted({*here, *self._keys_before(name) & signers.keys()}):
            sign_with(metadata, signers[keyid])
        self._staged[name] = (metadata, metadata.to_bytes())

    def _keys_before(self, name: str) -> set[str]:
        """Who signs for one of the root's roles by the root that is published."""
        before = self._published_root()
        return set(before.roles[name].keyids) if before and name in TOP_ROLES else set()

    def take(self, name: str, metadata: Metadata[Any], data: bytes) -> None:
        """Keep what is signed already for :meth:`publish`."""
        self._staged[name] = (metadata, data)

    def keep_list(self, data: bytes) -> None:
        """Let a list that a statement names by its digest lie beside it, for :meth:`publish`."""
        self._lists[versions_name(ContentDigest.of(data))] = data

    def described(self, role: str) -> MetaFile:
        """What a snapshot or timestamp says of the newest of a role."""
        from tuf.api.metadata import MetaFile

        if role in self._staged:
            metadata, data = self._staged[role]
        else:
            metadata = cast("Metadata[Any]", self.newest(role))
            data = self.path(role, metadata.signed.version).read_bytes()
        return MetaFile.from_data(metadata.signed.version, data, ["sha256"])

    def staged(self) -> dict[str, int]:
        """Versions by role of what is to be published."""
        return {role: staged[0].signed.version for role, staged in sorted(self._staged.items())}

    def write(self) -> None:
        """Write what is staged and does not count before the timestamp, and a new root, do."""
        for name, data in sorted(self._lists.items()):
            if not (self.directory / name).exists():
                write_bytes(self.directory / name, data)
        for role in self._in_order():
            if role not in ("timestamp", "root"):
                self._write(role)

    def publish(self) -> None:
        """Write what is staged, the timestamp last, and drop what nobody can need any more."""
        before = self._published_snapshot()
        self.write()
        for role in self._in_order():
            self._write(role)
        self._staged.clear()
        if before is not None:
            # Clients may have read the timestamp just before it was replaced.
            needed = {
                name.removesuffix(".json"): meta.version for name, meta in before.meta.items()
            }
            self._prune({"snapshot": before.version, **needed})

    def _write(self, role: str) -> None:
        metadata, data = self._staged[role]
        path = self.path(role, metadata.signed.version)
        if role == "timestamp" or not path.exists() or path.read_bytes() != data:
            write_bytes(path, data)

    def _in_order(self) -> list[str]:
        roles = sorted(self._staged, key=_order)
        if "root" in roles and not self._hold_by_the_old():
            # The keys of the old root are not here.  Until the timestamp is there too, clients
            # are told that it is signed wrongly, and `refresh` mends it.
            roles[-2:] = reversed(roles[-2:])
        return roles

    def _hold_by_the_old(self) -> bool:
        """Tell whether what is staged is signed well by the root that is published, too."""
        before = self._published_root()
        return before is None or all(
            before.get_verification_result(
                role, metadata.signed_bytes, metadata.signatures
            ).verified
            for role, (metadata, _) in self._staged.items()
            if role in before.roles
        )

    def _published_root(self) -> Root | None:
        from tuf.api.metadata import Metadata

        versions = self.versions("root")
        if not versions:
            return None
        return cast(
            "Root", Metadata[Any].from_bytes(self.path("root", versions[-1]).read_bytes()).signed
        )

    def _published_snapshot(self) -> Snapshot | None:
        from tuf.api.metadata import Metadata, Snapshot, Timestamp

        path = self.path("timestamp", 0)
        if not path.exists():
            return None
        timestamp = Metadata[Timestamp].from_bytes(path.read_bytes()).signed
        path = self.path("snapshot", timestamp.snapshot_meta.version)
        return Metadata[Snapshot].from_bytes(path.read_bytes()).signed

    def _prune(self, needed: Mapping[str, int]) -> None:
        for name, oldest in needed.items():
            role = name.removesuffix(".json")
            for version in self.versions(role):
                if version < oldest:
                    self.path(role, version).unlink()
        self._prune_lists()

    def _prune_lists(self) -> None:
        """Remove lists that no statement that is left names."""
        from tuf.api.metadata import Metadata, Targets

        delegations = self.targets.delegations
        named = {
            versions_name(versions_of(Metadata[Targets].from_bytes(path.read_bytes()).signed))
            for role in (delegations.roles if delegations else None) or ()
            for path in (self.path(role, version) for version in self.versions(role))
        }
        for path in self.directory.glob(versions_name("*")):
            if path.name not in named:
                path.unlink()


def _order(role: str) -> tuple[int, str]:
    return (_LAST.index(role) if role in _LAST else -1, role)


def days_of(role: Role) -> int:
    """Return for how many days what a role signs holds."""
    days = role.unrecognized_fields.get(DAYS)
    return days if isinstance(days, int) and 0 < days < 36_500 else 7

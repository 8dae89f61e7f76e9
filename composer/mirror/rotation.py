"""Other keys for a role, and roots that several people sign.

A root counts when enough keys of the root before *and* of its own have signed it.  Where
they are not all in one place, it waits in a file beside the keys, is carried to those who
have the others, and comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import ComposerError, FormatError, NotFound
from composer.mirror.keys import KeyDirectory
from composer.mirror.ledger import TOP_ROLES, Ledger, days_of
from composer.mirror.trust import FIRST, SETS
from composer.net.statement import role_of
from composer.system.files import write_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Metadata, Role, Root, Targets


@dataclass(frozen=True, slots=True)
class Change:
    """Key ids that came and went; a root that waits in a file for so many more signatures."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    waiting: Path | None = None
    lacking: int = 0


def rotate(
    ledger: Ledger,
    keys: KeyDirectory,
    name: str,
    *,
    count: int | None = None,
    threshold: int | None = None,
    same_keys: bool = False,
    now: datetime,
) -> Change:
    """Give a role new keys instead of those it has; ``name`` may be "sets", or a ref.

    ``count`` and ``threshold`` are as they were by default; ``same_keys`` changes the
    threshold alone, or nothing but the days.  What is signed is staged in ``ledger``, for
    :func:`composer.mirror.trust.refresh`, unless a root has to wait.
    """
    new = _New(keys, name, count, threshold, same_keys)
    if name in TOP_ROLES:
        root = ledger.root
        change = new.into(root.roles[name], root.keys)
        root.keys = _used(root.keys, root.roles.values())
        return _stage_root(ledger, root, keys, change, now)
    targets = ledger.targets
    change = _rotate_delegation(targets, new)
    targets.version += 1
    ledger.stage("targets", targets, keys.signers(), now=now)
    return change


class _New:
    """Keys to be made for a role, when it is known how many it had."""

    def __init__(
        self,
        keys: KeyDirectory,
        name: str,
        count: int | None,
        threshold: int | None,
        same_keys: bool,
    ) -> None:
        self.name, self._keys, self._count = name, keys, count
        self._threshold, self._same = threshold, same_keys

    def into(self, role: Role, known: dict[str, Key]) -> Change:
        """Change ``role``, and add the keys to those that are ``known``."""
        number = len(role.keyids) if self._same else self._count or len(role.keyids)
        threshold = self._threshold or min(role.threshold, number)
        if threshold > number:
            raise ComposerError(
                f"{self.name}: {threshold} of {number} keys cannot sign", hint="--keys makes more"
            )
        old, role.threshold = list(role.keyids), threshold
        if self._same:
            return Change()
        made = self._keys.make_several(self.name.replace("/", "~"), number)
        role.keyids[:] = [key.keyid for key in made]
        known.update((key.keyid, key) for key in made)
        return Change(tuple(role.keyids), tuple(old))


def _rotate_delegation(targets: Targets, new: _New) -> Change:
    from tuf.api.metadata import Role

    delegations = targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    first = delegations.unrecognized_fields[FIRST]
    if new.name == SETS:
        old = sorted(first["keyids"])
        role = Role(list(old), first["threshold"])
        change = new.into(role, delegations.keys)
        first.update(keyids=sorted(role.keyids), threshold=role.threshold)
        for other in delegations.roles.values():
            if sorted(other.keyids) == old:
                other.keyids, other.threshold = sorted(role.keyids), role.threshold
    elif (found := delegations.roles.get(role_of(new.name))) is not None:
        change = new.into(found, delegations.keys)
    else:
        raise NotFound(
            f"{new.name}: neither a role nor a ref that is signed for",
            hint=f"there are {', '.join([*TOP_ROLES, SETS])}, and refs: see `mirror keys show`",
        )
    roles = [*delegations.roles.values(), Role(first["keyids"], first["threshold"])]
    delegations.keys = _used(delegations.keys, roles)
    return change


def _used(keys: dict[str, Key], roles: Iterable[Role]) -> dict[str, Key]:
    used = {keyid for role in roles for keyid in role.keyids}
    return {keyid: key for keyid, key in keys.items() if keyid in used}


def _stage_root(
    ledger: Ledger, root: Root, keys: KeyDirectory, change: Change, now: datetime
) -> Change:
    from tuf.api.metadata import Metadata

    root.version += 1
    root.expires = now.replace(microsecond=0) + timedelta(days=days_of(root.roles["root"]))
    metadata = Metadata(root)
    _sign(metadata, keys)
    return _adopt(ledger, metadata, keys.path / f"{root.version}.root.json", change)


def sign_root(path: Path, keys: KeyDirectory) -> Root:
    """Add the signatures of the keys that are here to the root that waits in a file."""
    metadata = _read(path)
    _sign(metadata, keys)
    write_bytes(path, metadata.to_bytes())
    return metadata.signed


def adopt(ledger: Ledger, path: Path) -> Change:
    """Stage the root that waited in a file, when all that is needed has signed it."""
    return _adopt(ledger, _read(path), path, Change())


def _read(path: Path) -> Metadata[Root]:
    from tuf.api.metadata import Metadata, Root
    from tuf.api.serialization import DeserializationError

    try:
        metadata = Metadata[Root].from_bytes(path.read_bytes())
    except DeserializationError as error:
        raise FormatError(f"{path}: not readable as a root") from error
    if not isinstance(metadata.signed, Root):
        raise FormatError(f"{path}: signs as {metadata.signed.type}, not as root")
    return metadata


def _sign(metadata: Metadata[Root], keys: KeyDirectory) -> None:
    """Sign with every key but those of other roles: the old root's are no longer in the new."""
    root = metadata.signed
    own = set(root.roles["root"].keyids)
    others = {keyid for role in root.roles.values() for keyid in role.keyids} - own
    for keyid, signer in keys.signers().items():
        if keyid not in others:
            metadata.sign(signer, append=True)


def _adopt(ledger: Ledger, metadata: Metadata[Root], path: Path, change: Change) -> Change:
    root, before = metadata.signed, ledger.root
    if root.version != before.version + 1:
        raise ComposerError(
            f"{path}: root {root.version} does not follow {before.version}, which is published",
            hint="begin the rotation anew",
        )
    told = root.get_root_verification_result(before, metadata.signed_bytes, metadata.signatures)
    if lacking := max(told.first.missing, told.second.missing):
        write_bytes(path, metadata.to_bytes())
        return replace(change, waiting=path, lacking=lacking)
    known = before.roles["root"].keyids + root.roles["root"].keyids
    for keyid in [one for one in metadata.signatures if one not in known]:
        del metadata.signatures[keyid]
    ledger.take("root", metadata, metadata.to_bytes())
    return change

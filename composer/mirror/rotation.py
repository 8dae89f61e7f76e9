"""Other keys for a role, and roots that several people sign.

A root counts when enough keys of the root before *and* of its own have signed it.  Where
they are not all in one place, it waits in a file beside the keys, is carried to those who
have the others, and comes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from composer.errors import ComposerError, FormatError, NotFound, UsageError
from composer.mirror.keys import KeyDirectory, sign_with
from composer.mirror.ledger import DAYS, TOP_ROLES, Ledger, days_of
from composer.mirror.trust import FIRST, SETS
from composer.net.statement import ref_of, role_of
from composer.system.files import write_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Delegations, Metadata, Role, Root, Targets


@dataclass(frozen=True, slots=True)
class Change:
    """Key ids that came and went; a root that waits in a file for so many more signatures."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    waiting: Path | None = None
    lacking: int = 0


class Edit(Protocol):
    """What is done to the keys and terms of a role."""

    def __call__(self, name: str, role: Role, known: dict[str, Key]) -> Change:
        """Change ``role``, called ``name``, and add keys to those that are ``known``."""
        ...


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

    def renewed(name: str, role: Role, known: dict[str, Key]) -> Change:
        number = len(role.keyids) if same_keys else count or len(role.keyids)
        _set_threshold(name, role, threshold or min(role.threshold, number), number)
        if same_keys:
            return Change()
        old, made = list(role.keyids), keys.make_several(_file_name(name), number)
        role.keyids[:] = [key.keyid for key in made]
        known.update((key.keyid, key) for key in made)
        return Change(tuple(role.keyids), tuple(old))

    return edit(ledger, keys, [name], renewed, now=now)


def add(
    ledger: Ledger,
    keys: KeyDirectory,
    name: str,
    *,
    key: Key | None = None,
    uri: str = "",
    threshold: int | None = None,
    now: datetime,
) -> Change:
    """Give a role one more key: one whose public half is given, one by its URI, or a new one."""

    def added(name: str, role: Role, known: dict[str, Key]) -> Change:
        if key is not None:
            one = key
        elif uri:
            one = keys.take(keys.free_name(_file_name(name)), uri)
        else:
            one = keys.make(keys.free_name(_file_name(name)))
        if one.keyid in role.keyids:
            raise UsageError(f"{name}: has the key {one.keyid} already", hint="`mirror keys show`")
        if one.keyid in known and known[one.keyid] != one:
            raise UsageError(
                f"{one.keyid}: another key has this id",
                hint="a damaged file, or somebody tries to take that one's place",
            )
        _set_threshold(name, role, threshold or role.threshold, len(role.keyids) + 1)
        role.keyids.append(one.keyid)
        known[one.keyid] = one
        return Change((one.keyid,))

    return edit(ledger, keys, [name], added, now=now)


def revoke(
    ledger: Ledger, keys: KeyDirectory, keyids: Collection[str], *, replace: bool, now: datetime
) -> Change:
    """Take keys from all roles that have them; ``replace`` makes others in their place.

    Raises NotFound for one that no role has, ComposerError where a role would have too few.
    """
    names = [name for name, role in _roles(ledger).items() if set(role.keyids) & set(keyids)]
    known = {keyid for name in names for keyid in _roles(ledger)[name].keyids}
    if unknown := sorted(set(keyids) - known):
        raise NotFound(f"{unknown[0]}: no role has this key", hint="`mirror keys show` lists all")

    def without(name: str, role: Role, known: dict[str, Key]) -> Change:
        gone = [one for one in role.keyids if one in keyids]
        if not gone:
            return Change()
        made = keys.make_several(_file_name(name), len(gone)) if replace else []
        left = [one for one in role.keyids if one not in keyids] + [one.keyid for one in made]
        if len(left) < role.threshold:
            raise ComposerError(
                f"{name}: {len(left)} keys would be left, and {role.threshold} have to sign",
                hint="--replace makes others; or `mirror keys add` some first, or lower the "
                "threshold",
            )
        role.keyids[:] = left
        known.update((key.keyid, key) for key in made)
        return Change(tuple(one.keyid for one in made), tuple(gone))

    return edit(ledger, keys, names, without, now=now)


def set_terms(
    ledger: Ledger,
    keys: KeyDirectory,
    name: str,
    *,
    threshold: int | None = None,
    days: int | None = None,
    now: datetime,
) -> Change:
    """Change how many keys of a role have to sign, and for how many days they do."""

    def changed(name: str, role: Role, known: dict[str, Key]) -> Change:
        _set_threshold(name, role, threshold or role.threshold, len(role.keyids))
        if days is not None:
            role.unrecognized_fields[DAYS] = days
        return Change()

    return edit(ledger, keys, [name], changed, now=now)


def _set_threshold(name: str, role: Role, threshold: int, number: int) -> None:
    if threshold > number:
        raise ComposerError(
            f"{name}: {threshold} of {number} keys cannot sign",
            hint="`mirror keys add` adds keys, `mirror keys rotate --keys` makes others",
        )
    role.threshold = threshold


def _file_name(role: str) -> str:
    return role.replace("/", "~")


def _roles(ledger: Ledger) -> dict[str, Role]:
    """All roles by name: TUF's own, what new refs begin with, refs."""
    root, delegations = ledger.root, ledger.targets.delegations
    assert delegations is not None
    found: dict[str, Role] = {name: root.roles[name] for name in TOP_ROLES}
    found[SETS] = _first(delegations)
    for name, role in (delegations.roles or {}).items():
        found[ref_of(name) or name] = role
    return found


def _first(delegations: Delegations) -> Role:
    from tuf.api.metadata import Role

    first = delegations.unrecognized_fields[FIRST]
    return Role(sorted(first["keyids"]), first["threshold"], {DAYS: first[DAYS]})


def edit(
    ledger: Ledger, keys: KeyDirectory, names: Iterable[str], change: Edit, *, now: datetime
) -> Change:
    """Change roles, "sets" or refs, and stage what that makes to be signed.

    Where a root has to wait, nothing is staged.  Raises NotFound for what is no role.
    """
    wanted = list(names)
    top = [name for name in wanted if name in TOP_ROLES]
    others = [name for name in wanted if name not in TOP_ROLES]
    done: list[Change] = []
    targets = ledger.targets
    for name in others:
        done.append(_edit_delegation(targets, name, change))
    waiting = Change()
    if top:
        root = ledger.root
        done += [change(name, root.roles[name], root.keys) for name in top]
        root.keys = _used(root.keys, root.roles.values())
        waiting = _stage_root(ledger, root, keys, Change(), now)
    if others and waiting.waiting is None:
        targets.version += 1
        ledger.stage("targets", targets, keys.signers(), now=now)
    return replace(
        waiting,
        added=tuple(dict.fromkeys(one for part in done for one in part.added)),
        removed=tuple(dict.fromkeys(one for part in done for one in part.removed)),
    )


def _edit_delegation(targets: Targets, name: str, change: Edit) -> Change:
    delegations = targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    if name == SETS:
        old, role = _first(delegations), _first(delegations)
        done = change(name, role, delegations.keys)
        delegations.unrecognized_fields[FIRST] = {
            "keyids": sorted(role.keyids),
            "threshold": role.threshold,
            DAYS: role.unrecognized_fields[DAYS],
        }
        for other in delegations.roles.values():
            # Refs that were given keys of their own keep them.
            if (sorted(other.keyids), other.threshold) == (sorted(old.keyids), old.threshold):
                other.keyids, other.threshold = sorted(role.keyids), role.threshold
                other.unrecognized_fields[DAYS] = role.unrecognized_fields[DAYS]
    elif (found := delegations.roles.get(role_of(name))) is not None:
        done = change(name, found, delegations.keys)
    else:
        raise NotFound(
            f"{name}: neither a role nor a ref that is signed for",
            hint=f"there are {', '.join([*TOP_ROLES, SETS])}, and refs: see `mirror keys show`",
        )
    delegations.keys = _used(delegations.keys, [*delegations.roles.values(), _first(delegations)])
    return done


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
            sign_with(metadata, signer)


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

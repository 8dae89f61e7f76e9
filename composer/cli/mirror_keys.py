"""``jigdo-composer mirror keys`` and ``mirror refresh``: signed statements of what is newest."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import key_directory, keys_option, passphrase_option
from composer.cli.console import Console, json_option
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.rotation import Change
    from composer.mirror.trust import Refreshed, Terms

_REPOSITORY = click.argument(
    "repository",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
_ROLE = re.compile(r"([a-z]+)=([0-9]{1,3})/([0-9]{1,3})\Z")
_DAYS = re.compile(r"([a-z]+)=([0-9]{1,5})\Z")


@click.group()
def keys() -> None:
    """Keys that sign what is newest, by TUF: make, show, rotate them, sign with them."""


@keys.command()
@_REPOSITORY
@keys_option(required=True)
@passphrase_option
@click.option(
    "--role",
    "shares",
    multiple=True,
    metavar="ROLE=THRESHOLD/KEYS",
    help="How many keys a role has and how many must sign, 1/1 by default.  Repeatable.",
)
@click.option(
    "--days",
    "periods",
    multiple=True,
    metavar="ROLE=DAYS",
    help="For how long a role's signature holds.  Repeatable.",
)
@json_option
@click.pass_obj
def init(
    console: Console,
    repository: Path,
    keys: Path,
    passphrase_file: Path | None,
    shares: tuple[str, ...],
    periods: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make keys for all roles, and sign what is published in DIR.

    Roles are root, targets, snapshot, timestamp, and sets, whose keys sign for each ref.
    With a passphrase file the keys are encrypted.  Clients get the root that is named at
    the end, by a way that they trust: `remote add --tuf-root FILE`.
    """
    from composer.mirror.signing import begin_signing
    from composer.net.statement import read_root

    root, refreshed = begin_signing(
        repository, _opened(keys, passphrase_file), _terms(shares, periods)
    )
    pinned = read_root(root)
    if as_json:
        told = {"root": str(root), "sha256": str(pinned.digest), "root_keys": list(pinned.keys)}
        console.json(told | _document(refreshed))
        return
    console.result(f"root for clients: {root}")
    console.result(f"  SHA-256 {pinned.digest}")
    for key in pinned.keys:
        console.result(f"  key {key}")
    _show(console, refreshed)


@keys.command()
@_REPOSITORY
@json_option
@click.pass_obj
def show(console: Console, repository: Path, as_json: bool) -> None:
    """Show the roles of DIR: versions, until when they hold, who signs."""
    from composer.mirror.trust import describe, open_ledger

    roles = describe(open_ledger(repository))
    if as_json:
        document = [
            {
                "role": role.name,
                "version": role.version,
                "expires": role.expires.isoformat(),
                "threshold": role.threshold,
                "keys": list(role.keys),
            }
            for role in roles
        ]
        console.json(document)
        return
    for role in roles:
        console.result(f"{role.name}: version {role.version}, until {role.expires:%Y-%m-%d %H:%M}")
        for key in role.keys:
            console.result(f"  {role.threshold} of {len(role.keys)}: {key}")


@keys.command()
@_REPOSITORY
@click.argument("role")
@keys_option(required=True)
@passphrase_option
@click.option("--keys", "count", type=click.IntRange(1, 100), help="How many; as before.")
@click.option("--threshold", type=click.IntRange(1, 100), help="How many must sign; as before.")
@click.option("--same-keys", is_flag=True, help="Keep the keys; only sign anew.")
@json_option
@click.pass_obj
def rotate(
    console: Console,
    repository: Path,
    role: str,
    keys: Path,
    passphrase_file: Path | None,
    count: int | None,
    threshold: int | None,
    same_keys: bool,
    as_json: bool,
) -> None:
    """Give ROLE new keys instead of those it has, and sign with them.

    ROLE is root, targets, snapshot, timestamp, sets, or a ref.  A new root needs the
    signatures of the old one's keys too: where not all are here, it is written to a file,
    for `mirror keys sign` elsewhere and then `mirror keys adopt`.
    """
    from composer.mirror.signing import rotate_published

    if same_keys and count:
        raise UsageError("--same-keys and --keys contradict each other")
    change, refreshed = rotate_published(
        repository,
        _opened(keys, passphrase_file),
        role,
        count=count,
        threshold=threshold,
        same_keys=same_keys,
    )
    _tell(console, change, refreshed, as_json=as_json)


@keys.command()
@click.argument("root", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@keys_option(required=True)
@passphrase_option
@click.pass_obj
def sign(console: Console, root: Path, keys: Path, passphrase_file: Path | None) -> None:
    """Add the signatures of the keys that are here to ROOT, a file that `rotate` wrote."""
    from composer.mirror.rotation import sign_root

    signed = sign_root(root, _opened(keys, passphrase_file))
    console.result(f"root {signed.version}, until {signed.expires:%Y-%m-%d}")
    for name, role in sorted(signed.roles.items()):
        for key in role.keyids:
            console.result(f"  {name}, {role.threshold} of {len(role.keyids)}: {key}")


@keys.command()
@_REPOSITORY
@click.argument("root", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@keys_option(required=True)
@passphrase_option
@json_option
@click.pass_obj
def adopt(
    console: Console,
    repository: Path,
    root: Path,
    keys: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Publish ROOT, a file that enough people have signed, in DIR."""
    from composer.mirror.signing import adopt_root

    change, refreshed = adopt_root(repository, root, _opened(keys, passphrase_file))
    _tell(console, change, refreshed, as_json=as_json)


@click.command()
@_REPOSITORY
@keys_option(required=True)
@passphrase_option
@json_option
@click.pass_obj
def refresh(
    console: Console, repository: Path, keys: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Sign that what is published in DIR is the newest, for some more days.

    To be run daily: when it is not, clients refuse the repository in the end.  Where nothing
    was published since, the keys of timestamp and snapshot are enough.
    """
    from composer.mirror.signing import refresh_published

    refreshed = refresh_published(repository, _opened(keys, passphrase_file))
    if as_json:
        console.json(_document(refreshed))
    else:
        _show(console, refreshed)


def _opened(keys: Path, passphrase_file: Path | None) -> KeyDirectory:
    found = key_directory(keys, passphrase_file)
    assert found is not None
    return found


def _terms(shares: tuple[str, ...], periods: tuple[str, ...]) -> dict[str, Terms]:
    from composer.mirror.trust import DEFAULT_TERMS

    terms = dict(DEFAULT_TERMS)
    for text in shares:
        match = _ROLE.match(text)
        if match is None or match[1] not in terms or not 0 < int(match[2]) <= int(match[3]):
            raise UsageError(f"--role {text}: expected ROLE=THRESHOLD/KEYS, as in root=2/3")
        name = match[1]
        terms[name] = replace(terms[name], threshold=int(match[2]), keys=int(match[3]))
    for text in periods:
        match = _DAYS.match(text)
        if match is None or match[1] not in terms or not 0 < int(match[2]) < 36_500:
            raise UsageError(f"--days {text}: expected ROLE=DAYS, as in timestamp=7")
        terms[match[1]] = replace(terms[match[1]], days=int(match[2]))
    return terms


def _tell(console: Console, change: Change, refreshed: Refreshed | None, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {
            "added": list(change.added),
            "removed": list(change.removed),
            "waiting": str(change.waiting) if change.waiting else None,
            "lacking": change.lacking,
        }
        console.json(document | (_document(refreshed) if refreshed else {}))
        return
    for key in change.added:
        console.result(f"new key {key}")
    for key in change.removed:
        console.result(f"old key {key}")
    if refreshed:
        _show(console, refreshed)
    else:
        console.result(f"{change.waiting} needs {change.lacking} more signatures")
        console.say("nothing was published: `mirror keys sign` it, then `mirror keys adopt` it")


def _show(console: Console, refreshed: Refreshed) -> None:
    for role, version in refreshed.signed.items():
        console.result(f"signed {role} {version}")
    console.result(f"holds until {refreshed.expires:%Y-%m-%d %H:%M} UTC")
    if refreshed.due:
        console.warn(f"to be signed soon, with keys that are not here: {', '.join(refreshed.due)}")


def _document(refreshed: Refreshed) -> dict[str, Any]:
    return {
        "signed": dict(refreshed.signed),
        "expires": refreshed.expires.isoformat(),
        "due": list(refreshed.due),
    }

"""``jigdo-composer mirror keys`` and ``mirror refresh``: signed statements of what is newest."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import keys_option, passphrase_option
from composer.cli.console import Console, json_option
from composer.cli.key_options import (
    REPOSITORY,
    URIS,
    opened_keys,
    refreshed_document,
    show_refreshed,
    tell_change,
)
from composer.cli.mirror_key_changes import add, revoke, rotate, terms
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.mirror.trust import Terms

_ROLE = re.compile(r"([a-z]+)=([0-9]{1,3})/([0-9]{1,3})\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_DAYS = re.compile(r"([a-z]+)=([0-9]{1,5})\Z")


@click.group()
def keys() -> None:
    """Keys that sign what is newest, by TUF: make, show, change, revoke them, sign with them."""


for _command in (add, revoke, rotate, terms):
    keys.add_command(_command)


@keys.command()
@REPOSITORY
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
@click.option(
    "--from",
    "taken",
    multiple=True,
    metavar="ROLE=URI",
    help=f"Use this key for a role, and make none: {URIS}.  Repeatable.",
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
    taken: tuple[str, ...],
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
        repository, opened_keys(keys, passphrase_file), _terms(shares, periods), _taken(taken)
    )
    pinned = read_root(root)
    if as_json:
        told = {"root": str(root), "sha256": str(pinned.digest), "root_keys": list(pinned.keys)}
        console.json(told | refreshed_document(refreshed))
        return
    console.result(f"root for clients: {root}")
    console.result(f"  SHA-256 {pinned.digest}")
    for key in pinned.keys:
        console.result(f"  key {key}")
    show_refreshed(console, refreshed)


@keys.command()
@REPOSITORY
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
@click.argument("name")
@keys_option(required=True)
@passphrase_option
@click.option("--from", "uri", default="", metavar="URI", help=f"Take this one: {URIS}.")
@click.option(
    "--public",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write its public half there, for `mirror keys add --public` elsewhere.",
)
@click.pass_obj
def new(
    console: Console,
    name: str,
    keys: Path,
    passphrase_file: Path | None,
    uri: str,
    public: Path | None,
) -> None:
    """Make a key called NAME that no role has yet, or take note of one of GPG or a token.

    So everybody makes an own key, and no private one is ever sent: the public half becomes one
    of a role's keys where the repository is.
    """
    from composer.mirror.keys import dump_public
    from composer.system.files import write_bytes

    if not _NAME.match(name):
        raise UsageError(f"{name}: not a name for a key", hint="letters, digits, . _ -")
    opened = opened_keys(keys, passphrase_file)
    key = opened.take(name, uri) if uri else opened.make(name)
    if public:
        write_bytes(public, dump_public(key))
    console.result(f"key {key.keyid}")


@keys.command()
@click.argument("root", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@keys_option(required=True)
@passphrase_option
@click.pass_obj
def sign(console: Console, root: Path, keys: Path, passphrase_file: Path | None) -> None:
    """Add the signatures of the keys that are here to ROOT, a file that `rotate` wrote."""
    from composer.mirror.rotation import sign_root

    signed = sign_root(root, opened_keys(keys, passphrase_file))
    console.result(f"root {signed.version}, until {signed.expires:%Y-%m-%d}")
    for name, role in sorted(signed.roles.items()):
        for key in role.keyids:
            console.result(f"  {name}, {role.threshold} of {len(role.keyids)}: {key}")


@keys.command()
@REPOSITORY
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

    change, refreshed = adopt_root(repository, root, opened_keys(keys, passphrase_file))
    tell_change(console, change, refreshed, as_json=as_json)


@click.command()
@REPOSITORY
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

    refreshed = refresh_published(repository, opened_keys(keys, passphrase_file))
    if as_json:
        console.json(refreshed_document(refreshed))
    else:
        show_refreshed(console, refreshed)


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


def _taken(texts: tuple[str, ...]) -> dict[str, list[str]]:
    from composer.mirror.trust import DEFAULT_TERMS

    found: dict[str, list[str]] = {}
    for text in texts:
        role, equals, uri = text.partition("=")
        if not equals or role not in DEFAULT_TERMS:
            raise UsageError(f"--from {text}: expected ROLE=URI, as in root=hsm:2")
        found.setdefault(role, []).append(uri)
    return found

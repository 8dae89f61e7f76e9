"""``mirror keys rotate``, ``add``, ``revoke``, ``terms``: other keys or terms for a role."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import keys_option, passphrase_option
from composer.cli.console import Console, json_option
from composer.cli.key_options import REPOSITORY, URIS, opened_keys, tell_change
from composer.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from composer.mirror.ledger import Ledger
    from composer.mirror.rotation import Change


@click.command()
@REPOSITORY
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
    from composer.mirror.rotation import rotate as rotate_role
    from composer.mirror.signing import change_published

    if same_keys and count:
        raise UsageError("--same-keys and --keys contradict each other")
    opened = opened_keys(keys, passphrase_file)

    def change(ledger: Ledger, now: datetime) -> Change:
        return rotate_role(
            ledger, opened, role, count=count, threshold=threshold, same_keys=same_keys, now=now
        )

    tell_change(console, *change_published(repository, opened, change), as_json=as_json)


@click.command()
@REPOSITORY
@click.argument("role")
@keys_option(required=True)
@passphrase_option
@click.option("--from", "uri", default="", metavar="URI", help=f"Add this one: {URIS}.")
@click.option(
    "--public",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Add the key whose public half this is, which somebody else has.",
)
@click.option("--threshold", type=click.IntRange(1, 100), help="How many must sign; as before.")
@json_option
@click.pass_obj
def add(
    console: Console,
    repository: Path,
    role: str,
    keys: Path,
    passphrase_file: Path | None,
    uri: str,
    public: Path | None,
    threshold: int | None,
    as_json: bool,
) -> None:
    """Give ROLE one more key: a new one, one of GPG or a token, or somebody else's.

    Roles are as in `rotate`.  A new root waits for signatures that are elsewhere as there.
    """
    from composer.mirror.keys import read_public
    from composer.mirror.rotation import add as add_key
    from composer.mirror.signing import change_published

    if uri and public:
        raise UsageError("--from and --public contradict each other")
    opened = opened_keys(keys, passphrase_file)
    key = read_public(public) if public else None

    def change(ledger: Ledger, now: datetime) -> Change:
        return add_key(ledger, opened, role, key=key, uri=uri, threshold=threshold, now=now)

    tell_change(console, *change_published(repository, opened, change), as_json=as_json)


@click.command()
@REPOSITORY
@click.argument("keyids", nargs=-1, required=True, metavar="KEYID...")
@keys_option(required=True)
@passphrase_option
@click.option("--replace", "replacing", is_flag=True, help="Make other keys in their place.")
@json_option
@click.pass_obj
def revoke(
    console: Console,
    repository: Path,
    keyids: tuple[str, ...],
    keys: Path,
    passphrase_file: Path | None,
    replacing: bool,
    as_json: bool,
) -> None:
    """Take keys, by their ids, from every role and ref that has them.

    For one that others may have got: clients that have seen the new root do not believe it any
    more.  What it signed alone is signed anew.  Rotate `timestamp` and `snapshot` too where their
    keys were in the same place.
    """
    from composer.mirror.rotation import revoke as revoke_keys
    from composer.mirror.signing import change_published

    opened = opened_keys(keys, passphrase_file)

    def change(ledger: Ledger, now: datetime) -> Change:
        return revoke_keys(ledger, opened, keyids, replace=replacing, now=now)

    done, refreshed = change_published(repository, opened, change)
    tell_change(console, done, refreshed, as_json=as_json)
    if done.waiting:
        console.say("run this again when the root is adopted: targets and refs are changed then")


@click.command()
@REPOSITORY
@click.argument("role")
@keys_option(required=True)
@passphrase_option
@click.option("--threshold", type=click.IntRange(1, 100), help="How many keys must sign.")
@click.option("--days", type=click.IntRange(1, 36_499), help="For how long a signature holds.")
@json_option
@click.pass_obj
def terms(
    console: Console,
    repository: Path,
    role: str,
    keys: Path,
    passphrase_file: Path | None,
    threshold: int | None,
    days: int | None,
    as_json: bool,
) -> None:
    """Change how many keys of ROLE must sign, and for how long that holds; sign by it."""
    from composer.mirror.rotation import set_terms
    from composer.mirror.signing import change_published

    if threshold is None and days is None:
        raise UsageError("nothing to change", hint="--threshold N, --days N")
    opened = opened_keys(keys, passphrase_file)

    def change(ledger: Ledger, now: datetime) -> Change:
        return set_terms(ledger, opened, role, threshold=threshold, days=days, now=now)

    tell_change(console, *change_published(repository, opened, change), as_json=as_json)

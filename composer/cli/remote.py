"""``jigdo-composer remote``: where sets come from, and whom to trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import config_dir_option
from composer.cli.console import Console, json_option
from composer.cli.network import connection_options

if TYPE_CHECKING:
    from composer.client import Remote
    from composer.net.statement import PinnedRoot


@click.group()
def remote() -> None:
    """Where sets come from, and whom to trust."""


@remote.command()
@click.argument("name")
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option(
    "--mirrorlist",
    metavar="URL",
    help="A list of more mirrors: URLs a line, or a metalink.",
)
@click.option(
    "--gpg-key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the publisher's public key, armored or binary.  Repeatable.",
)
@click.option(
    "--ed25519-key",
    "ed25519_keys",
    multiple=True,
    metavar="KEY|FILE",
    help="Public key of `ostree sign`, in base64, or a file with one in each line.  Repeatable.",
)
@click.option(
    "--tuf-root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The publisher's root.json, from which signed statements of what is newest follow.",
)
@click.option(
    "--trust",
    type=click.Choice(["tuf+gpg", "tuf", "gpg", "none"]),
    help="What is demanded: by default all that was given; none accepts everything.",
)
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="ID=URL",
    help="Base URL of another repository that sets name by id.  Repeatable, also for one id.",
)
@click.option(
    "--archive",
    "archives",
    multiple=True,
    metavar="URL",
    help="Where RPMs are kept that mirrors dropped: a repository, a directory of RPM files, or a "
    "template with {name}, {version}, {release}, {arch}, {file} and the like.  Repeatable.",
)
@connection_options
@click.option("--replace", is_flag=True, help="Write it anew where the name exists.")
@config_dir_option
@json_option
@click.pass_obj
def add(
    console: Console,
    name: str,
    urls: tuple[str, ...],
    mirrorlist: str | None,
    keys: tuple[Path, ...],
    ed25519_keys: tuple[str, ...],
    tuf_root: Path | None,
    trust: Any,
    repositories: tuple[str, ...],
    archives: tuple[str, ...],
    connection: dict[str, object],
    replace: bool,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Add the remote NAME, whose repository is at each URL, best first.

    URLs are http, https or file, or existing directories.  Keys and root are copied and
    pinned; their fingerprints are shown: compare them with what the publisher says.
    """
    from composer.client import add_remote

    if not urls and not mirrorlist:
        raise click.UsageError("a URL is needed, or --mirrorlist URL")
    added = add_remote(
        name,
        urls,
        keys=keys,
        ed25519_keys=ed25519_keys,
        tuf_root=tuf_root,
        mirrorlist=mirrorlist,
        trust=trust,
        repositories=_by_id(repositories),
        archives=archives,
        connection=connection,
        config_dir=config_dir,
        replace=replace,
    )
    if as_json:
        console.json(_document(added))
    else:
        _show(console, added)


@remote.command("list")
@config_dir_option
@json_option
@click.pass_obj
def list_(console: Console, config_dir: Path | None, as_json: bool) -> None:
    """List remotes with their URLs and trusted keys."""
    from composer.client import list_remotes

    remotes = list_remotes(config_dir)
    if as_json:
        console.json([_document(one) for one in remotes])
    else:
        for one in remotes:
            _show(console, one)


@remote.command()
@click.argument("name")
@config_dir_option
@click.pass_obj
def remove(console: Console, name: str, config_dir: Path | None) -> None:
    """Remove the remote NAME and its pinned keys."""
    from composer.client import remove_remote

    console.result(f"removed {remove_remote(name, config_dir)}")


def _by_id(texts: tuple[str, ...]) -> dict[str, list[str]]:
    repositories: dict[str, list[str]] = {}
    for text in texts:
        key, equals, url = text.partition("=")
        if not (key and equals and url):
            raise click.BadParameter(f"expected ID=URL, got {text!r}", param_hint="--repository")
        repositories.setdefault(key, []).append(url)
    return repositories


def _show(console: Console, remote: Remote) -> None:
    console.result(f"{remote.name}: trust {remote.trust}")
    for fingerprint in remote.fingerprints:
        console.result(f"  GPG key {fingerprint}")
    for key in remote.ed25519_keys:
        console.result(f"  ed25519 key {key}")
    if (root := remote.root) is not None:
        console.result(f"  TUF root {root.version}, SHA-256 {root.digest}")
        for key in root.keys:
            console.result(f"    {root.threshold} of {len(root.keys)} keys: {key}")
    for url in remote.urls:
        console.result(f"  {url}")
    if remote.mirrorlist:
        console.result(f"  mirrors by {remote.mirrorlist}")
    for key, urls in sorted(remote.repositories.items()):
        for url in urls:
            console.result(f"  {key}: {url}")
    for archive in remote.archives:
        console.result(f"  archive {archive}")
    for key, value in _connection(remote).items():
        console.result(f"  {key} {value}")


def _connection(remote: Remote) -> dict[str, str | int]:
    """How its mirrors are reached, where the file says it; without a password."""
    from composer.client.remote_file import shown_proxy

    way = remote.way
    said: dict[str, str | int] = {
        "proxy": shown_proxy(way.proxy),
        "tls-client-cert": str(way.client_cert or ""),
        "tls-client-key": str(way.client_key or ""),
        "tls-ca-cert": str(way.ca_cert or ""),
        "limit-rate": way.limit_rate,
    }
    return {key: value for key, value in said.items() if value}


def _document(remote: Remote) -> dict[str, object]:
    return {
        "name": remote.name,
        "trust": remote.trust,
        "fingerprints": list(remote.fingerprints),
        "ed25519_keys": list(remote.ed25519_keys),
        "keyring": str(remote.keyring) if remote.keyring else None,
        "tuf_root": _root_document(remote.root) if remote.root else None,
        "urls": list(remote.urls),
        "mirrorlist": remote.mirrorlist or None,
        "archives": list(remote.archives),
        "repositories": {key: list(urls) for key, urls in remote.repositories.items()},
        "connection": _connection(remote),
    }


def _root_document(root: PinnedRoot) -> dict[str, object]:
    return {
        "version": root.version,
        "sha256": str(root.digest),
        "threshold": root.threshold,
        "keys": list(root.keys),
        "expires": root.expires.isoformat(),
    }

"""``jigdo-composer diff``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.console import Console, json_option
from composer.cli.text import plain

if TYPE_CHECKING:
    from composer.checksum import ObjectChecksum
    from composer.compose.history import PackageDifference
    from composer.ostree.difference import Entry, FileChange
    from composer.ostree.repo import Repository
    from composer.rpm.listing import ChangelogEntry
    from composer.rpm.package import Nevra

_LETTERS = {"added": "A", "removed": "D", "changed": "M"}


@click.command()
@click.argument("before", metavar="FROM")
@click.argument("after", metavar="TO")
@click.option(
    "--repo", "repository", required=True, type=click.Path(path_type=Path), help="Their repository."
)
@click.option(
    "--packages/--no-packages", default=True, show_default=True, help="Packages, advisories."
)
@click.option(
    "--changelogs/--no-changelogs", default=True, show_default=True, help="New changelog entries."
)
@click.option("--files/--no-files", default=True, show_default=True, help="Files.")
@json_option
@click.pass_obj
def diff(
    console: Console,
    before: str,
    after: str,
    repository: Path,
    packages: bool,
    changelogs: bool,
    files: bool,
    as_json: bool,
) -> None:
    """Show what changed from commit FROM to commit TO.

    Each is a ref or a whole checksum; with ^ after it, its parent.  Packages that were
    upgraded come with their new changelog entries and the advisories that they fix.
    Files: A added, D removed, M changed, and in which respect.
    """
    from composer.compose.history import package_difference
    from composer.ostree.difference import differences
    from composer.ostree.repo import Repository
    from composer.ostree.revision import find_commit

    repo = Repository.open(repository)
    old, new = find_commit(repo, before), find_commit(repo, after)
    found = package_difference(repo, old, new, changelogs=changelogs) if packages else None
    changes = differences(repo, old, new) if files else None
    for line in found.missing if found else ():
        console.warn(plain(line))
    commits = {"from": _commit(repo, old), "to": _commit(repo, new)}
    if as_json:
        document: dict[str, Any] = dict(commits)
        if found:
            document |= _packages_document(found)
        console.json_stream(document, "files", map(_file_document, changes) if changes else None)
        return
    for name, commit in commits.items():
        when = datetime.fromtimestamp(commit["timestamp"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        console.result(plain(f"{name + ':':6}{commit['commit']} {when} {commit['version'] or ''}"))
    for line in _package_lines(found) if found else ():
        console.result(line)
    for line in _file_lines(changes) if changes else ():
        console.result(line)


def _commit(repo: Repository, checksum: ObjectChecksum) -> dict[str, Any]:
    commit = repo.commit(checksum)
    version = commit.version or None
    return {"commit": str(checksum), "version": version, "timestamp": commit.timestamp}


def _package_lines(found: PackageDifference) -> Iterator[str]:
    changes = found.changes
    if changes is None:
        return
    for title, pairs in (("Upgraded", changes.upgraded), ("Downgraded", changes.downgraded)):
        if pairs:
            yield f"{title}:"
        for old, new in pairs:
            arch = new.arch if new.arch == old.arch else f"{old.arch} -> {new.arch}"
            yield f"  {new.name}.{arch} {old.evr} -> {new.evr}"
            yield from _changelog_lines(found.changelogs.get(new, ()))
    for title, packages in (("Added", changes.added), ("Removed", changes.removed)):
        if packages:
            yield f"{title}:"
        for package in packages:
            yield f"  {package}"
    if found.advisories:
        yield "Advisories:"
    for advisory in found.advisories:
        severity = "" if advisory.severity == "none" else f", {advisory.severity}"
        packages_text = ", ".join(advisory.packages)
        yield plain(f"  {advisory.ident} ({advisory.kind}{severity}): {packages_text}")
        for url, title in advisory.references:
            yield plain(f"    {title} {url}")


def _changelog_lines(entries: Iterable[ChangelogEntry]) -> Iterator[str]:
    for entry in entries:
        yield plain(f"    * {_day(entry.time)} {entry.author}")
        for line in entry.text.splitlines():
            yield plain(f"      {line}")


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"


def _file_lines(changes: Iterable[FileChange]) -> Iterator[str]:
    first = True
    for change in changes:
        if first:
            yield "Files:"
            first = False
        yield plain(f"  {_LETTERS[change.kind]} {change.path}{_detail(change)}")


def _detail(change: FileChange) -> str:
    before, after = change.before, change.after
    if before is None or after is None:
        entry = before or after
        assert entry is not None
        return f" -> {entry.target}" if entry.target else "/" * (entry.type == "directory")
    words = []
    for word in change.what:
        match word:
            case "type":
                words.append(f"{before.type} -> {after.type}")
            case "content" if after.target:
                words.append(f"{before.target} -> {after.target}")
            case "content":
                words.append(f"content, {before.size} -> {after.size} bytes")
            case "mode":
                words.append(f"mode {before.mode:04o} -> {after.mode:04o}")
            case "owner":
                words.append(f"owner {_owner(before)} -> {_owner(after)}")
            case "xattrs":
                words.append(f"xattrs {_xattr_names(before, after)}")
    return f" ({'; '.join(words)})"


def _owner(entry: Entry) -> str:
    return f"{entry.header.uid}:{entry.header.gid}"


def _xattr_names(before: Entry, after: Entry) -> str:
    names = {name for name, _ in set(before.header.xattrs) ^ set(after.header.xattrs)}
    return ", ".join(name.decode(errors="replace") for name in sorted(names))


def _packages_document(found: PackageDifference) -> dict[str, Any]:
    changes = found.changes
    document: dict[str, Any] = {
        "packages": None,
        "advisories": [advisory.document() for advisory in found.advisories],
        "missing": list(found.missing),
    }
    if changes is not None:
        document["packages"] = {
            "upgraded": [_pair(old, new, found) for old, new in changes.upgraded],
            "downgraded": [_pair(old, new, found) for old, new in changes.downgraded],
            "added": [str(package) for package in changes.added],
            "removed": [str(package) for package in changes.removed],
        }
    return document


def _pair(old: Nevra, new: Nevra, found: PackageDifference) -> dict[str, Any]:
    changelog = [
        {"time": entry.time, "author": entry.author, "text": entry.text}
        for entry in found.changelogs.get(new, ())
    ]
    return {"name": new.name, "from": str(old), "to": str(new), "changelog": changelog}


def _file_document(change: FileChange) -> dict[str, Any]:
    return {
        "path": change.path,
        "change": change.kind,
        "what": list(change.what),
        "from": _entry_document(change.before),
        "to": _entry_document(change.after),
    }


def _entry_document(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    document: dict[str, Any] = {
        "type": entry.type,
        "mode": f"{entry.mode:04o}",
        "uid": entry.header.uid,
        "gid": entry.header.gid,
        "xattrs": {
            name.decode(errors="replace"): value.hex() for name, value in entry.header.xattrs
        },
    }
    if entry.type == "file":
        document["size"] = entry.size
    if entry.target:
        document["target"] = entry.target
    return document

"""What an operator does about signed statements, each alone in the repository and at once.

Whatever a change of keys leads to is signed before any of it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from composer.errors import NotFound
from composer.mirror.keys import KeyDirectory, require_apart
from composer.mirror.ledger import Ledger
from composer.mirror.lists import read_lists
from composer.mirror.renewing import alone
from composer.mirror.rotation import Change, adopt, rotate
from composer.mirror.trust import Refreshed, Terms, begin, open_ledger, refresh


def begin_signing(
    repository: Path, keys: KeyDirectory, terms: Mapping[str, Terms]
) -> tuple[Path, Refreshed]:
    """Make keys and the first root, and sign what is published; returns the root's path too."""
    _require_repository(repository)
    require_apart(keys.path, repository)
    with alone(repository):
        root = begin(repository, keys, terms, now=datetime.now(UTC))
    return root, refresh_published(repository, keys)


def refresh_published(repository: Path, keys: KeyDirectory) -> Refreshed:
    """Sign what the repository's pointer says, where that is news, and that it still holds."""
    _require_repository(repository)
    with alone(repository):
        return _refresh(repository, open_ledger(repository), keys, datetime.now(UTC))


def rotate_published(
    repository: Path,
    keys: KeyDirectory,
    name: str,
    *,
    count: int | None = None,
    threshold: int | None = None,
    same_keys: bool = False,
) -> tuple[Change, Refreshed | None]:
    """Give a role new keys and sign with them; None where a root waits for signatures."""
    _require_repository(repository)
    require_apart(keys.path, repository)
    now = datetime.now(UTC)
    with alone(repository):
        ledger = open_ledger(repository)
        change = rotate(
            ledger, keys, name, count=count, threshold=threshold, same_keys=same_keys, now=now
        )
        if change.waiting:
            return change, None
        return change, _refresh(repository, ledger, keys, now)


def adopt_root(repository: Path, path: Path, keys: KeyDirectory) -> tuple[Change, Refreshed | None]:
    """Publish a root that waited in a file; None where it still lacks signatures."""
    _require_repository(repository)
    with alone(repository):
        ledger = open_ledger(repository)
        change = adopt(ledger, path)
        if change.waiting:
            return change, None
        return change, _refresh(repository, ledger, keys, datetime.now(UTC))


def _refresh(repository: Path, ledger: Ledger, keys: KeyDirectory, now: datetime) -> Refreshed:
    lists = read_lists(repository)
    return refresh(ledger, lists.pointer, keys, versions=lists.versions, now=now)


def _require_repository(repository: Path) -> None:
    if not (repository / "repodata").is_dir():
        raise NotFound(f"{repository}: no rpm-md repository", hint="`set build --output` makes one")

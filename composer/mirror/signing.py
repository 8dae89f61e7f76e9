"""What an operator does about signed statements, each alone in the repository and at once.

Whatever a change of keys leads to is signed before any of it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from composer.errors import NotFound
from composer.mirror.keys import KeyDirectory, require_apart
from composer.mirror.ledger import Ledger
from composer.mirror.lists import read_lists
from composer.mirror.renewing import alone
from composer.mirror.rotation import Change, adopt
from composer.mirror.trust import Refreshed, Terms, begin, open_ledger, refresh


def begin_signing(
    repository: Path,
    keys: KeyDirectory,
    terms: Mapping[str, Terms],
    taken: Mapping[str, Sequence[str]],
) -> tuple[Path, Refreshed]:
    """Make keys and the first root, and sign what is published; returns the root's path too.

    Keys that are ``taken`` by role, by their URIs, are not made.
    """
    _require_repository(repository)
    require_apart(keys.path, repository)
    with alone(repository):
        root = begin(repository, keys, terms, taken=taken, now=datetime.now(UTC))
    return root, refresh_published(repository, keys)


def refresh_published(repository: Path, keys: KeyDirectory) -> Refreshed:
    """Sign what the repository's pointer says, where that is news, and that it still holds."""
    _require_repository(repository)
    with alone(repository):
        return _refresh(repository, open_ledger(repository), keys, datetime.now(UTC))


Changing = Callable[[Ledger, datetime], Change]
"""Changes a role's keys or terms at a time, and stages it."""


def change_published(
    repository: Path, keys: KeyDirectory, change: Changing
) -> tuple[Change, Refreshed | None]:
    """Change keys or terms, and sign by them; None where a root waits for signatures."""
    _require_repository(repository)
    require_apart(keys.path, repository)
    now = datetime.now(UTC)
    with alone(repository):
        ledger = open_ledger(repository)
        done = change(ledger, now)
        if done.waiting:
            return done, None
        return done, _refresh(repository, ledger, keys, now)


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
        raise NotFound(f"{repository}: no rpm-md repository", hint="`mirror publish` makes one")

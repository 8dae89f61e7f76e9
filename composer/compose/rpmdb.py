"""``rpmdb``: the format of the package database.

librpm of this machine writes it during the transaction.  What the tree's own rpm reads
may be another one; then the headers go from the one to the other, each program in its
sandbox, so that a query works on the running system.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from composer.compose.install import RPMDB
from composer.compose.kernel import run_in_tree
from composer.compose.tree import Tree
from composer.errors import CommandFailed, ComposerError
from composer.system.command import run
from composer.system.sandbox import Bind, Sandbox

DEFAULT = "sqlite"
_BACKENDS = ("sqlite", "ndb", "bdb")
_RPM, _RPMDB = "usr/bin/rpm", "usr/bin/rpmdb"


class DatabaseNotConverted(ComposerError):
    """The tree's rpm could not take the headers."""


@dataclass(frozen=True, slots=True)
class Database:
    """How the database is made.

    ``backend`` is librpm's for the transaction; ``for_tree`` is whether it becomes what the
    tree's rpm reads; ``is_other`` is whether the treefile names a kind that cannot be written.
    """

    backend: str = DEFAULT
    for_tree: bool = False
    is_other: bool = False


def database_of(key: str) -> Database:
    """Tell what the key ``rpmdb`` stands for on this machine.

    For rpm-ostree all but "host" is "target"; here a kind that is named is kept to, where
    librpm can write it.
    """
    if key in _BACKENDS:
        able = key == DEFAULT or _can_write(key)
        return Database(key) if able else Database(for_tree=True, is_other=True)
    return Database(for_tree=key == "target")


def _can_write(key: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="rpmdb-") as scratch:
        run(["rpm", f"--define=_db_backend {key}", f"--define=_dbpath {scratch}", "--initdb"])
        # librpm warns of a backend that it does not have, and pretends that all is well.
        return any(path.name != ".rpm.lock" for path in Path(scratch).iterdir())


def convert_for_tree(tree: Tree, *, scratch: Path, timestamp: int) -> str:
    """Turn the database into what the tree's rpm reads; returns its backend.

    A tree without rpm, or with one that does not run, keeps what it has.  Raises
    DatabaseNotConverted.
    """
    if not tree.is_file(_RPM) or not tree.is_file(_RPMDB):
        return DEFAULT
    try:
        found = run_in_tree(tree, [f"/{_RPM}", "--eval", "%{?_db_backend}"], timestamp=timestamp)
    except CommandFailed:
        return DEFAULT
    wanted = found.strip().rpartition("\n")[2]
    if wanted not in _BACKENDS or wanted == DEFAULT:
        return DEFAULT
    try:
        headers = _exported(tree, scratch)
        tree.clear(RPMDB)
        run_in_tree(
            tree,
            [f"/{_RPMDB}", f"--dbpath=/{RPMDB}", "--importdb"],
            timestamp=timestamp,
            stdin=headers,
        )
    except CommandFailed as error:
        raise DatabaseNotConverted(
            "rpmdb: the tree's rpm could not take the database",
            details=error.details,
            hint="`rpmdb: host` keeps what this machine's rpm wrote",
        ) from error
    tree.remove(f"{RPMDB}/.rpm.lock")
    return wanted


def _exported(tree: Tree, scratch: Path) -> bytes:
    """Return the headers of the database; a sandbox reads it, for scriptlets could write it."""
    place = Path(tempfile.mkdtemp(prefix="headers-", dir=scratch))
    database = Bind(tree.path(RPMDB, follow=True), "/rpmdb", writable=True)
    sandbox = Sandbox.of_host(database, Bind(place, "/headers", writable=True))
    sandbox.run(["/bin/sh", "-c", "exec rpmdb --dbpath=/rpmdb --exportdb >/headers/all"])
    return (place / "all").read_bytes()

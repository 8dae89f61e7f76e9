"""``rpmdb``: the format of the package database.

librpm of this machine writes it during the transaction.  What the tree's own rpm reads
may be another one; then the headers go from the one to the other, each program in its
sandbox, so that a query works on the running system.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from composer.compose.install import RPMDB
from composer.compose.kernel import run_in_tree
from composer.compose.tree import Tree
from composer.errors import CommandFailed, ComposerError, MissingRequirement
from composer.system.command import run
from composer.system.sandbox import Bind, Sandbox

DEFAULT = "sqlite"
_BACKENDS = ("sqlite", "ndb", "bdb")
_RPM, _RPMDB = "usr/bin/rpm", "usr/bin/rpmdb"


class DatabaseNotConverted(ComposerError):
    """The tree's rpm could not take the headers."""


def backend(key: str, place: str) -> str:
    """Return librpm's backend for the transaction, by the key ``rpmdb``.

    "host" and "target" begin with the default one; "sqlite", "ndb" and "bdb" name it.
    ``place`` is where the treefile says so.
    Raises MissingRequirement where this machine's librpm cannot write that.
    """
    if key not in _BACKENDS or key == DEFAULT:
        return DEFAULT
    with tempfile.TemporaryDirectory(prefix="rpmdb-") as scratch:
        run(["rpm", f"--define=_db_backend {key}", f"--define=_dbpath {scratch}", "--initdb"])
        # librpm warns of a backend that it does not have, and pretends that all is well.
        if any(path.name != ".rpm.lock" for path in Path(scratch).iterdir()):
            return key
    raise MissingRequirement(
        f"{place}: librpm of this machine cannot write a database of the kind {key}",
        hint="`rpmdb: target` writes what the tree's own rpm reads",
    )


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

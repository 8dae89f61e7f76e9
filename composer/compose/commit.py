"""The commit: the tree into an OSTree repository, then the commit; refs are left alone.

Rules kept here: of extended attributes only security.capability is stored, labels from
the tree's own policy, and IMA signatures from package headers; the timestamp is an argument.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.compose.history import advisories_of
from composer.compose.ima import XATTR as IMA
from composer.compose.ima import Signatures
from composer.compose.labels import policy_of
from composer.compose.metadata import (
    DETACHED,
    Origin,
    finished,
    joined,
    json_values,
    origin_values,
    package_values,
)
from composer.compose.packages import ComposedPackage
from composer.compose.tree import Tree
from composer.errors import BoundExceeded, ComposerError, FormatError
from composer.ostree.committing import Attributes, Unread, write_tree
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.rpm.advisories import Advisory
from composer.rpm.listing import OWN_LIST
from composer.rpm.package import Nevra

INPUT_DIGEST = "rpmostree.inputhash"
PACKAGES = OWN_LIST
_LARGEST_TEXT = 16 << 20


class CommitFailed(ComposerError):
    """libostree could not make the commit."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The ref's current commit, as far as the next one depends on it; all "" if none."""

    commit: str = ""
    version: str = ""
    input_digest: str = ""
    packages: tuple[str, ...] = ()
    advisories: tuple[Advisory, ...] = ()

    @property
    def nevras(self) -> tuple[Nevra, ...]:
        """The packages, parsed; raises FormatError."""
        try:
            return tuple(Nevra.parse(name) for name in self.packages)
        except ValueError as error:
            raise FormatError(f"commit {self.commit}: its package list: {error}") from None


@dataclass(frozen=True, slots=True)
class Signing:
    """GPG key id, and the home directory it is in ("": gpg's own)."""

    key: str
    homedir: str = ""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What is said about a tree when it is committed.

    ``repo_metadata`` and ``advisories_metadata`` are one of INLINE, DETACHED and DISABLED;
    ``added`` are JSON values for the metadata.  Clients refuse the commit under another
    ``ref``.
    With ``label_version`` 1, /usr/etc is labelled as the /etc that it becomes.
    """

    parent: str
    version: str
    timestamp: int
    input_digest: str
    kernel: str
    packages: Sequence[ComposedPackage]
    selinux: bool
    label_version: int = 0
    signing: Signing | None = None
    origin: Origin = field(default_factory=Origin)
    repo_metadata: str = DETACHED
    advisories_metadata: str = DETACHED
    added: Mapping[str, object] = field(default_factory=dict)
    container_cmd: Sequence[str] = ()
    signatures: Signatures = field(default_factory=dict)
    ref: str = ""


def previous(repository: Repository, ref: str) -> Previous:
    """Describe the current commit of ``ref``."""
    checksum = repository.resolve(ref)
    if checksum is None:
        return Previous()
    with repository.libostree() as (_, repo):
        _, variant, _ = repo.load_commit(str(checksum))
        metadata = variant.get_child_value(0)
        listed = metadata.lookup_value(PACKAGES)
        return Previous(
            commit=str(checksum),
            version=_text(metadata, "version"),
            input_digest=_text(metadata, INPUT_DIGEST),
            packages=tuple(name for name, _, _ in listed.unpack()) if listed else (),
            advisories=advisories_of(repository, checksum),
        )


def read_committed(repository: Repository, commit: str, name: str) -> str | None:
    """Return the text of a file in a commit, or None where it has none.

    Raises BoundExceeded for a file that cannot be a text of the system's.
    """
    found = repository.file_at(ObjectChecksum.parse(commit), name)
    if found is None:
        return None
    _, size, pieces = repository.content(found)
    if size > _LARGEST_TEXT:
        raise BoundExceeded(what=f"commit {commit}: /{name}", bound=_LARGEST_TEXT)
    return b"".join(pieces).decode(errors="surrogateescape")


def commit(
    repository: Repository,
    tree: Tree,
    request: CommitRequest,
    *,
    cache: DigestCache | None = None,
    unread: Unread | None = None,
) -> ObjectChecksum:
    """Commit ``tree``, consuming it.  Returns the commit's checksum; no ref leads to it.

    ``cache`` and ``unread`` are those of :func:`write_tree`.
    Raises BadMetadata, NoPolicy, NoSpace, CommitFailed, RepositoryError.
    """
    values, detached = _metadata(request)
    labels = policy_of(tree, version=request.label_version) if request.selinux else nullcontext()
    with labels as policy, repository.transaction():
        attributes = _attributes(policy, request.signatures)
        written = write_tree(
            repository, tree.root, attributes=attributes, cache=cache, unread=unread
        )
    # A transaction lands in no order: the commit comes after all that it names.
    with repository.libostree() as (ostree, repo), repository.transaction():
        mtree = ostree.MutableTree.new_from_checksum(repo, str(written.tree), str(written.meta))
        _, root = repo.write_mtree(mtree, None)
        _, checksum = repo.write_commit_with_time(
            request.parent or None, None, None, finished(values), root, request.timestamp, None
        )
        if detached:
            _, existing = repo.read_commit_detached_metadata(checksum, None)
            repo.write_commit_detached_metadata(checksum, joined(existing, detached), None)
        if request.signing is not None:
            _sign(repo, checksum, request.signing)
    return ObjectChecksum.parse(checksum)


def _text(metadata: Any, key: str) -> str:
    value = metadata.lookup_value(key)
    return value.get_string() if value is not None and value.get_type_string() == "s" else ""


def _attributes(policy: Any, signatures: Signatures) -> Attributes | None:
    """Return what gives each file its label and signature; None where there are none."""
    if policy is None and not signatures:
        return None

    def attributes(name: str, path: str, status: os.stat_result) -> list[tuple[bytes, bytes]]:
        found = []
        # Another file may have the number of one that is gone.
        signed = signatures.get((status.st_dev, status.st_ino))
        if signed is not None and stat.S_ISREG(status.st_mode) and signed.covers(Path(path)):
            found.append((IMA.encode(), signed.signature))
        label = policy.get_label(name, status.st_mode, None)[1] if policy is not None else None
        if label:
            found.append((b"security.selinux", label.encode() + b"\0"))
        return found

    return attributes


def _metadata(request: CommitRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give what goes into the commit, and what is kept beside it."""
    from gi.repository import GLib

    inline, detached = origin_values(
        request.origin,
        repositories=request.repo_metadata,
        advisories_in=request.advisories_metadata,
    )
    # As with rpm-ostree, the treefile's own values give way to all but these.
    values = inline | json_values(request.added)
    values |= package_values(request.packages)
    values[INPUT_DIGEST] = GLib.Variant("s", request.input_digest)
    if request.version:
        values["version"] = GLib.Variant("s", request.version)
    if request.ref:
        values["ostree.ref-binding"] = GLib.Variant("as", [request.ref])
    if request.container_cmd:
        values["ostree.container-cmd"] = GLib.Variant("as", list(request.container_cmd))
    if request.kernel:
        values["ostree.bootable"] = GLib.Variant("b", True)
        values["ostree.linux"] = GLib.Variant("s", request.kernel)
    return values, detached


def _sign(repo: Any, checksum: str, signing: Signing) -> None:
    from gi.repository import GLib

    try:
        repo.sign_commit(checksum, signing.key, signing.homedir or None, None)
    except GLib.Error as error:
        raise CommitFailed(
            f"the commit cannot be signed with the key {signing.key}: {error.message}",
            hint="see which keys there are: gpg --homedir DIR --list-secret-keys",
        ) from error

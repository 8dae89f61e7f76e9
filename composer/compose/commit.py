"""The commit: the tree into an OSTree repository, then the commit; refs are left alone.

Rules kept here: of extended attributes only security.capability is stored, labels from
the tree's own policy, and IMA signatures from package headers; the timestamp is an argument.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.compose.advisories import Advisory
from composer.compose.history import advisories_of
from composer.compose.ima import XATTR as IMA
from composer.compose.ima import Signatures
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
from composer.errors import ComposerError
from composer.ostree.repo import Repository
from composer.rpm.listing import OWN_LIST

INPUT_DIGEST = "rpmostree.inputhash"
PACKAGES = OWN_LIST
_CAPABILITY = "security.capability"
_ETC = "usr/etc"


class CommitFailed(ComposerError):
    """libostree could not make the commit."""


class NoPolicy(ComposerError):
    """``selinux: true``, but the tree has no policy to label with."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The ref's current commit, as far as the next one depends on it; all "" if none."""

    commit: str = ""
    version: str = ""
    input_digest: str = ""
    packages: tuple[str, ...] = ()
    advisories: tuple[Advisory, ...] = ()


@dataclass(frozen=True, slots=True)
class Signing:
    """GPG key id, and the home directory it is in ("": gpg's own)."""

    key: str
    homedir: str = ""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What is said about a tree when it is committed.

    ``repo_metadata`` and ``advisories_metadata`` are one of INLINE, DETACHED and DISABLED;
    ``added`` are JSON values for the metadata.
    With ``selinux_label_version`` 1, /usr/etc is labelled as the /etc that it becomes.
    """

    parent: str
    version: str
    timestamp: int
    input_digest: str
    kernel: str
    packages: Sequence[ComposedPackage]
    selinux: bool
    signing: Signing | None = None
    origin: Origin = field(default_factory=Origin)
    repo_metadata: str = DETACHED
    advisories_metadata: str = DETACHED
    added: Mapping[str, object] = field(default_factory=dict)
    container_cmd: Sequence[str] = ()
    selinux_label_version: int = 0
    signatures: Signatures = field(default_factory=dict)


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
    """Return the text of a file in a commit, or None where it has none."""
    from gi.repository import Gio, GLib

    with repository.libostree() as (_, repo):
        _, root, _ = repo.read_commit(commit, None)
        file = root.resolve_relative_path(name)
        if file.query_file_type(Gio.FileQueryInfoFlags.NONE, None) != Gio.FileType.REGULAR:
            return None
        try:
            _, data, _ = file.load_contents(None)
        except GLib.Error:
            return None
        return bytes(data).decode(errors="surrogateescape")


def commit(repository: Repository, tree: Tree, request: CommitRequest) -> ObjectChecksum:
    """Commit ``tree``, consuming it.  Returns the commit's checksum; no ref leads to it.

    Raises BadMetadata, NoPolicy, NoSpace, CommitFailed, RepositoryError.
    """
    values, detached = _metadata(request)
    with repository.libostree() as (ostree, repo):
        policy = _policy(ostree, tree) if request.selinux else None
        with repository.transaction():
            labels = _Labels(policy, as_etc=request.selinux_label_version == 1)
            mtree = _write_tree(ostree, repo, tree, labels, request.signatures)
            _, root = repo.write_mtree(mtree, None)
    # A transaction lands in no order: the commit comes after all that it names.
    with repository.libostree() as (_, repo), repository.transaction():
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


def _policy(ostree: Any, tree: Tree) -> Any:
    from gi.repository import Gio

    policy = ostree.SePolicy.new(Gio.File.new_for_path(str(tree.root)), None)
    if not policy.get_name():
        raise NoPolicy(
            "selinux is true, but the tree has no SELinux policy",
            details=["looked for etc/selinux/config and the policy that it names"],
            hint="add a policy package such as selinux-policy-targeted, or write `selinux: false`",
        )
    return policy


@dataclass(frozen=True, slots=True)
class _Labels:
    """The tree's SELinux policy, if it is labelled; ``as_etc``: /usr/etc counts as /etc."""

    policy: Any
    as_etc: bool

    def of(self, name: str, mode: int) -> str:
        """Return the label of /``name``, or ""."""
        if self.policy is None:
            return ""
        if self.as_etc and name.startswith("usr/etc/"):
            name = name.removeprefix("usr/")
        _, label = self.policy.get_label(f"/{name}", mode, None)
        return label or ""


def _write_tree(ostree: Any, repo: Any, tree: Tree, labels: _Labels, signatures: Signatures) -> Any:
    """Write all objects and return the mutable tree.

    A callback into Python for each file's attributes would cost more than the files; so
    they are skipped, and the few files that have some are written on their own.
    """
    written = {
        name: _write_with_attributes(repo, tree, name, attributes, labels)
        for name, attributes in sorted(_with_attributes(tree, signatures))
    }
    flags = ostree.RepoCommitModifierFlags
    modifier = ostree.RepoCommitModifier.new(flags.SKIP_XATTRS | flags.CONSUME, None, None)
    if labels.policy is not None:
        modifier.set_sepolicy(labels.policy)
    etc = None
    if labels.policy is not None and labels.as_etc and tree.is_dir(_ETC):
        etc = _write_as_etc(ostree, repo, tree, modifier)
    mtree = ostree.MutableTree.new()
    _write_directory(repo, tree.root, mtree, modifier)
    if etc is not None:
        _, usr = mtree.ensure_dir("usr")
        _, directory = usr.ensure_dir("etc")
        directory.fill_empty_from_dirtree(repo, *etc)
    for name, checksum in written.items():
        # walk() leads to the directory of the path's last component.
        _, directory = mtree.walk(name.split("/"), 0)
        directory.replace_file(name.rpartition("/")[2], checksum)
    return mtree


def _write_directory(repo: Any, path: Path, mtree: Any, modifier: Any) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        repo.write_dfd_to_mtree(descriptor, ".", mtree, modifier, None)
    finally:
        os.close(descriptor)


def _write_as_etc(ostree: Any, repo: Any, tree: Tree, modifier: Any) -> tuple[str, str]:
    """Write /usr/etc under the name /etc, which its labels depend on; consumes it.

    libostree has a flag for that from 2024 on.  Returns its dirtree and its dirmeta.
    """
    beside = tree.root.with_name(f"{tree.root.name}-etc")
    beside.mkdir()
    tree.path(_ETC).rename(beside / "etc")
    mtree = ostree.MutableTree.new()
    _write_directory(repo, beside, mtree, modifier)
    _, root = repo.write_mtree(mtree, None)
    etc = root.resolve_relative_path("etc")
    etc.ensure_resolved()
    return etc.tree_get_contents_checksum(), etc.tree_get_metadata_checksum()


_Attributes = tuple[tuple[str, bytes], ...]


def _with_attributes(tree: Tree, signatures: Signatures) -> Iterator[tuple[str, _Attributes]]:
    """Yield names of files that have extended attributes to keep, and these."""
    for directory, _, names in os.walk(tree.root):
        for name in names:
            path = f"{directory}/{name}"
            found = []
            try:
                value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
                found.append((_CAPABILITY, value))
            except OSError:
                pass
            if signatures:
                status = os.lstat(path)
                signed = signatures.get((status.st_dev, status.st_ino))
                # Another file may have the number of one that is gone.
                regular = stat.S_ISREG(status.st_mode)
                if signed is not None and regular and signed.covers(Path(path)):
                    found.append((IMA, signed.signature))
            if found:
                yield os.path.relpath(path, tree.root), tuple(found)


def _write_with_attributes(
    repo: Any, tree: Tree, name: str, attributes: _Attributes, labels: _Labels
) -> str:
    from gi.repository import GLib

    path = tree.root / name
    status = path.lstat()
    xattrs = [(key.encode() + b"\0", value) for key, value in attributes]
    if label := labels.of(name, status.st_mode):
        xattrs.append((b"security.selinux\0", label.encode() + b"\0"))
    variant = GLib.Variant("a(ayay)", sorted(xattrs))
    checksum = repo.write_regfile_inline(
        None,
        status.st_uid,
        status.st_gid,
        stat.S_IFREG | stat.S_IMODE(status.st_mode),
        variant,
        path.read_bytes(),
        None,
    )
    path.unlink()
    return str(checksum)


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

"""The commit: the tree into an OSTree repository, then the commit; refs are left alone.

Rules kept here: of extended attributes only security.capability is stored, and labels
from the tree's own policy; metadata is in a fixed order; the timestamp is an argument.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from composer.checksum import ObjectChecksum
from composer.compose.labels import policy_of
from composer.compose.packages import ComposedPackage
from composer.compose.tree import Tree
from composer.errors import ComposerError
from composer.ostree.repo import Repository

INPUT_DIGEST = "rpmostree.inputhash"
PACKAGES = "jigdo-composer.packages"
_CAPABILITY = "security.capability"


class CommitFailed(ComposerError):
    """libostree could not make the commit."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The ref's current commit, as far as the next one depends on it; all "" if none."""

    commit: str = ""
    version: str = ""
    input_digest: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signing:
    """GPG key id, and the home directory it is in ("": gpg's own)."""

    key: str
    homedir: str = ""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What is said about a tree when it is committed."""

    parent: str
    version: str
    timestamp: int
    input_digest: str
    kernel: str
    packages: Sequence[ComposedPackage]
    selinux: bool
    label_version: int = 0
    signing: Signing | None = None


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

    Raises NoPolicy, NoSpace, CommitFailed, RepositoryError.
    """
    labels = policy_of(tree, version=request.label_version) if request.selinux else nullcontext()
    with labels as policy, repository.libostree() as (ostree, repo), repository.transaction():
        mtree = _write_tree(ostree, repo, tree, policy)
        _, root = repo.write_mtree(mtree, None)
    # A transaction lands in no order: the commit comes after all that it names.
    with repository.libostree() as (_, repo), repository.transaction():
        _, checksum = repo.write_commit_with_time(
            request.parent or None, None, None, _metadata(request), root, request.timestamp, None
        )
        if request.signing is not None:
            _sign(repo, checksum, request.signing)
    return ObjectChecksum.parse(checksum)


def _text(metadata: Any, key: str) -> str:
    value = metadata.lookup_value(key)
    return value.get_string() if value is not None and value.get_type_string() == "s" else ""


def _write_tree(ostree: Any, repo: Any, tree: Tree, policy: Any) -> Any:
    """Write all objects and return the mutable tree.

    A callback into Python for each file's attributes would cost more than the files; so
    they are skipped, and the few files that have capabilities are written on their own.
    """
    written = {
        name: _write_capable(repo, tree, name, value, policy)
        for name, value in sorted(_with_capabilities(tree))
    }
    mtree = ostree.MutableTree.new()
    flags = ostree.RepoCommitModifierFlags
    modifier = ostree.RepoCommitModifier.new(flags.SKIP_XATTRS | flags.CONSUME, None, None)
    if policy is not None:
        modifier.set_sepolicy(policy)
    descriptor = os.open(tree.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        repo.write_dfd_to_mtree(descriptor, ".", mtree, modifier, None)
    finally:
        os.close(descriptor)
    for name, checksum in written.items():
        # walk() leads to the directory of the path's last component.
        _, directory = mtree.walk(name.split("/"), 0)
        directory.replace_file(name.rpartition("/")[2], checksum)
    return mtree


def _with_capabilities(tree: Tree) -> Iterator[tuple[str, bytes]]:
    """Yield names and values of files that have security.capability."""
    for directory, _, names in os.walk(tree.root):
        for name in names:
            path = f"{directory}/{name}"
            try:
                value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
            except OSError:
                continue
            yield os.path.relpath(path, tree.root), value


def _write_capable(repo: Any, tree: Tree, name: str, value: bytes, policy: Any) -> str:
    from gi.repository import GLib

    path = tree.root / name
    status = path.lstat()
    xattrs = [(_CAPABILITY.encode() + b"\0", value)]
    if policy is not None:
        _, label = policy.get_label(f"/{name}", status.st_mode, None)
        if label:
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


def _metadata(request: CommitRequest) -> Any:
    from gi.repository import GLib

    values: dict[str, Any] = {
        INPUT_DIGEST: GLib.Variant("s", request.input_digest),
        "rpmostree.rpmdb.pkglist": GLib.Variant("a(sssss)", _pkglist(request.packages)),
        PACKAGES: GLib.Variant("a(sst)", _package_list(request.packages)),
    }
    if request.version:
        values["version"] = GLib.Variant("s", request.version)
    if request.kernel:
        values["ostree.bootable"] = GLib.Variant("b", True)
        values["ostree.linux"] = GLib.Variant("s", request.kernel)
    return GLib.Variant("a{sv}", dict(sorted(values.items())))


def _pkglist(packages: Sequence[ComposedPackage]) -> list[tuple[str, str, str, str, str]]:
    found = [package.ref.nevra for package in packages]
    return sorted((n.name, str(n.epoch), n.version, n.release, n.arch) for n in found)


def _package_list(packages: Sequence[ComposedPackage]) -> list[tuple[str, str, int]]:
    return sorted((str(p.ref.nevra), str(p.ref.pkgid), _big(p.ref.size)) for p in packages)


def _big(number: int) -> int:
    # Integers in OSTree's metadata are big-endian on every machine; so equal input gives
    # equal commits, and `ostree show` prints the number itself.
    return int.from_bytes(number.to_bytes(8, "big"), sys.byteorder)


def _sign(repo: Any, checksum: str, signing: Signing) -> None:
    from gi.repository import GLib

    try:
        repo.sign_commit(checksum, signing.key, signing.homedir or None, None)
    except GLib.Error as error:
        raise CommitFailed(
            f"the commit cannot be signed with the key {signing.key}: {error.message}",
            hint="see which keys there are: gpg --homedir DIR --list-secret-keys",
        ) from error

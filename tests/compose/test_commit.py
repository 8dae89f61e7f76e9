"""Attributes of files in the commit: labels and signatures."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.compose.commit import CommitRequest, commit
from composer.compose.ima import read_signatures
from composer.compose.tree import Tree
from composer.ostree.repo import Repository
from composer.rpm.package import PackageRefused
from tests.compose.rpms import File, Spec, build, composed

SIGNATURE = b"\x03\x02\x04" + bytes(range(40))
_FILESIGNATURES, _STRING_ARRAY = 274, 8


def signed(rpm: Path, signatures: list[str]) -> Path:
    """Put file signatures into the signature header of ``rpm``, as rpmsign --signfiles does.

    Format: librpm's hdrblob: lead of 96 bytes, magic, counts, index entries, store.
    """
    data = rpm.read_bytes()
    count, size = struct.unpack(">II", data[104:112])
    end = 112 + 16 * count + size
    entries = data[112 : 112 + 16 * count]
    store = data[112 + 16 * count : end]
    # The region's trailer must stay last in its region: a new entry comes behind it.
    added = struct.pack(">IIII", _FILESIGNATURES, _STRING_ARRAY, len(store), len(signatures))
    store += b"".join(text.encode() + b"\0" for text in signatures)
    header = data[96:104] + struct.pack(">II", count + 1, len(store)) + entries + added + store
    padding = bytes(-len(header) % 8)
    rest = data[end + (-(end - 96) % 8) :]
    rpm.write_bytes(data[:96] + header + padding + rest)
    return rpm


def request(**more: object) -> CommitRequest:
    return CommitRequest(
        parent="",
        version="",
        timestamp=1,
        input_digest="",
        kernel="",
        packages=(),
        **{"selinux": False, **more},  # type: ignore[arg-type]
    )


def attributes(repository: Repository, checksum: ObjectChecksum, name: str) -> dict[bytes, bytes]:
    command = ["ostree", f"--repo={repository.path}", "ls", "-C", str(checksum), name]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    header, _, _ = repository.content(ObjectChecksum.parse(line.split()[4]))
    return dict(header.xattrs)


def test_signatures_of_packages_go_with_unchanged_files(tmp_path: Path) -> None:
    names = ("/usr/lib/a", "/usr/lib/b", "/usr/lib/c", "/usr/lib/d")
    rpm = build(Spec("app", files={name: File(name) for name in names}), tmp_path)
    texts = [SIGNATURE.hex(), SIGNATURE.hex(), "", "00" * 43]
    package = composed(signed(rpm, texts))
    tree = Tree(tmp_path / "tree")
    tree.root.mkdir()
    for name in names:
        tree.write(name, name)
    signatures = read_signatures(tree, [package])
    assert len(signatures) == 2
    tree.path("/usr/lib/b").write_text("changed in place")
    tree.path("/usr/lib/a").rename(tree.path("/usr/moved"))
    repository = Repository.create(tmp_path / "repo", mode="bare-user")
    done = commit(repository, tree, request(signatures=signatures))
    assert attributes(repository, done, "/usr/moved") == {b"security.ima": SIGNATURE}
    for name in names[1:]:
        assert attributes(repository, done, name) == {}


def test_signature_that_is_none_is_refused(tmp_path: Path) -> None:
    rpm = signed(build(Spec("app", files={"/usr/a": File()}), tmp_path), ["xyz"])
    tree = Tree(tmp_path / "tree")
    tree.write("usr/a", "")
    with pytest.raises(PackageRefused, match="/usr/a: not a file signature"):
        read_signatures(tree, [composed(rpm)])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to commit labels")
@pytest.mark.parametrize("version", [0, 1])
def test_configuration_can_be_labelled_as_what_it_becomes(tmp_path: Path, version: int) -> None:
    tree = Tree(tmp_path / "tree")
    tree.root.mkdir()
    tree.write("usr/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=test\n")
    contexts = "usr/etc/selinux/test/contexts/files/file_contexts"
    tree.write(
        contexts,
        "/.*\tsystem_u:object_r:default_t:s0\n"
        "/usr(/.*)?\tsystem_u:object_r:usr_t:s0\n"
        "/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n"
        "/etc/shadow\t--\tsystem_u:object_r:shadow_t:s0\n",
    )
    tree.write("usr/etc/selinux/test/policy/policy.33", "policy")
    tree.write("usr/etc/shadow", "")
    tree.write("usr/etc/capable", "x")
    tree.write("usr/lib/file", "")
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(tree.path("usr/etc/capable"), "security.capability", value)
    repository = Repository.create(tmp_path / "repo", mode="bare-user")
    done = commit(repository, tree, request(selinux=True, label_version=version))

    def label(name: str) -> str:
        return attributes(repository, done, name)[b"security.selinux"].split(b":")[2].decode()

    etc, shadow = ("usr_t", "usr_t") if version == 0 else ("etc_t", "shadow_t")
    assert label("/usr/lib/file") == "usr_t"
    assert label("/usr/etc/shadow") == shadow
    assert label("/usr/etc/capable") == etc
    assert label(f"/{contexts}") == etc
    listed = subprocess.run(
        ["ostree", f"--repo={repository.path}", "fsck"], capture_output=True, check=True
    )
    assert b"no errors" in listed.stdout

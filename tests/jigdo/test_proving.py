"""``set verify`` with the commits that a set has deltas from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from composer.errors import NotFound, VerificationFailed
from composer.jigdo.container import Kind
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.frames import join_patches, split_patches
from composer.jigdo.delta.table import COPY, PATCH, REPACK, DeltaTable, Piece, dump_table
from composer.jigdo.local import verify_set
from composer.jigdo.proving import DeltaProof, prove_deltas
from composer.ostree.repo import Repository
from tests.jigdo.delta.test_applying import Update, table_of, update
from tests.jigdo.sets import open_bytes, rewritten


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Update:
    return update(tmp_path_factory.mktemp("update"), rpm="all")


def _proofs(whole: Update, data: bytes, where: Path, repo: Repository) -> list[DeltaProof]:
    jigdo = open_bytes(data)
    packages = {package.ref.pkgid: package.path for package in whole.set.packages}
    wanted = verify_set(jigdo, packages, where)
    return list(prove_deltas(jigdo, wanted, repo, where))


def test_good_deltas_are_proven_from_the_base_alone(whole: Update, tmp_path: Path) -> None:
    client, work = whole.client(tmp_path / "client"), tmp_path / "work"
    work.mkdir()
    [proof] = _proofs(whole, whole.set.data, work, client)
    table = table_of(whole.set.open())
    methods = [content.method for content in table.contents]
    counts = (proof.copied, proof.patched, proof.repacked, proof.skipped)
    assert counts == (methods.count(COPY), methods.count(PATCH), methods.count(REPACK), 0)
    assert proof.objects == len(set(table.ordinals)) > 3
    assert not list(work.iterdir())
    assert not client.has("commit", whole.set.commit)


def _frame_with(table: DeltaTable, data: bytes, piece: Piece, change: bytes) -> bytes:
    """Return the bytes of a patch frame in which one patch is another one."""
    codecs = [p.codec for c in table.contents for p in c.pieces if p.frame == piece.frame]
    patches = split_patches(data, codecs)
    patches[piece.place] = change
    return join_patches([*zip(codecs, patches, strict=True)])


def test_broken_patch_names_base_target_and_codec(whole: Update, tmp_path: Path) -> None:
    jigdo = whole.set.open()
    table = table_of(jigdo)
    piece = next(
        c.pieces[0] for c in table.contents if c.method == PATCH and c.pieces[0].codec == 1
    )
    ((_, data),) = jigdo.frames([jigdo.index[piece.frame]])
    broken = _frame_with(table, data, piece, b"\0\0\0broken")
    with pytest.raises(VerificationFailed, match=f"made of commit {whole.old}") as error:
        _proofs(
            whole, rewritten(whole.set.data, replace={piece.frame: broken}), tmp_path,
            whole.client(tmp_path / "client"),
        )  # fmt: skip
    text = "\n".join(error.value.details)
    assert "by hdiff" in text
    assert "made of object" in text
    assert "delta:" in text


def test_patch_that_makes_something_else_is_told(whole: Update, tmp_path: Path) -> None:
    """It follows its format, and has the right length: only the object's checksum tells."""
    jigdo = whole.set.open()
    table = table_of(jigdo)
    whole_ones = (c for c in table.contents if c.size == 2000 and c.pieces)
    piece = next(content.pieces[0] for content in whole_ones)
    assert piece.codec == CodecNumber.FULL
    ((_, data),) = jigdo.frames([jigdo.index[piece.frame]])
    lie = _frame_with(table, data, piece, b"x" * 2000)
    with pytest.raises(VerificationFailed, match="1 of") as error:
        _proofs(
            whole, rewritten(whole.set.data, replace={piece.frame: lie}), tmp_path,
            whole.client(tmp_path / "client"),
        )  # fmt: skip
    assert "by full: made of object" in error.value.details[0]
    assert "checksum mismatch" in error.value.details[0]


def test_content_copied_from_another_is_told(whole: Update, tmp_path: Path) -> None:
    jigdo = whole.set.open()
    table = table_of(jigdo)
    contents = [
        replace(c, method=COPY, pieces=()) if c.method == REPACK else c for c in table.contents
    ]
    [number] = jigdo.index.numbers(Kind.DELTAS)
    lie = dump_table(replace(table, recipes=(), contents=tuple(contents)))
    data = rewritten(whole.set.data, replace={number: lie})
    with pytest.raises(VerificationFailed, match="cannot be made") as error:
        _proofs(whole, data, tmp_path, whole.client(tmp_path / "client"))
    assert any("by copy: made of object" in line for line in error.value.details)


def test_repository_without_the_older_commit_is_refused(whole: Update, tmp_path: Path) -> None:
    empty = Repository.create(tmp_path / "empty", mode="bare-user")
    with pytest.raises(NotFound, match="none of the 1 commits") as error:
        _proofs(whole, whole.set.data, tmp_path, empty)
    assert str(whole.old) in error.value.details[0]

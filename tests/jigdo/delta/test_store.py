"""The store of patches: kept whole, read in parts, and only a cache."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.errors import ComposerError
from composer.jigdo.delta.store import PatchStore, StoredPatch, opened_store, patch_key

ONE, TWO = ContentDigest(bytes(32)), ContentDigest(bytes([1]) * 32)
KEY = patch_key(ONE, TWO, ("1", "normal"))
PATCH = StoredPatch(b"recipe", ((1, 10, b"first"), (1, 20, b"second one")), 9)


def read(store: PatchStore, key: bytes = KEY) -> StoredPatch:
    outline = store.outline(key)
    parts = tuple(
        (codec, length, store.part(key, number))
        for number, (codec, length, _) in enumerate(outline.parts)
    )
    assert [size for _, _, size in outline.parts] == [len(data) for _, _, data in parts]
    return StoredPatch(outline.recipe, parts, store.estimate(key) or 0)


def test_next_build_finds_what_was_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "patches"
    with opened_store(path) as store:
        assert KEY not in store
        store.save(KEY, PATCH)
    with opened_store(path) as store:
        assert KEY in store
        assert read(store) == PATCH


def test_saving_again_leaves_no_part_of_before() -> None:
    with opened_store(None) as store:
        store.save(KEY, PATCH)
        store.save(KEY, StoredPatch(b"", ((0, 1, b"x"),), 1))
        assert read(store) == StoredPatch(b"", ((0, 1, b"x"),), 1)


def test_key_says_all_that_decides() -> None:
    keys = [
        patch_key(None, TWO, ()), patch_key(ONE, TWO, ()), patch_key(TWO, ONE, ()),
        patch_key(ONE, TWO, ("a",)), patch_key(ONE, TWO, ("a", "b")), patch_key(ONE, TWO, ("ab",)),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_interruption_leaves_whole_patches_only(tmp_path: Path) -> None:
    path = tmp_path / "patches"
    # The third part cannot be bound, as if the builder had been ended in the middle.
    broken = StoredPatch(b"", (*PATCH.parts, (1, 1 << 70, b"")), 1)
    other = patch_key(None, TWO, ())
    with opened_store(path) as store:
        store.save(other, PATCH)
        with pytest.raises(OverflowError):
            store.save(KEY, broken)
        assert KEY not in store
        store.save(KEY, PATCH)
    with opened_store(path) as store:
        assert read(store) == read(store, other) == PATCH


@pytest.mark.parametrize("size", [1, 100, 40_000])
def test_damaged_file_is_begun_anew(tmp_path: Path, size: int) -> None:
    path = tmp_path / "patches"
    path.write_bytes(b"no database " * size)
    with opened_store(path) as store:
        assert KEY not in store
        store.save(KEY, PATCH)
        assert read(store) == PATCH


def test_patch_that_changed_on_disk_is_told_not_shipped(tmp_path: Path) -> None:
    path = tmp_path / "patches"
    with opened_store(path) as store:
        store.save(KEY, PATCH)
    data = path.read_bytes()
    assert data.count(b"second one") == 1
    path.write_bytes(data.replace(b"second one", b"Second one"))
    with (
        opened_store(path) as store,
        pytest.raises(ComposerError, match=r"patches: .*not what was saved") as told,
    ):
        read(store)
    assert "deleted" in told.value.hint


def test_damage_in_the_middle_is_our_own_error(tmp_path: Path) -> None:
    path = tmp_path / "patches"
    keys = [patch_key(None, ContentDigest(bytes([n]) * 32), ()) for n in range(60)]
    with opened_store(path) as store:
        for key in keys:
            store.save(key, StoredPatch(b"", ((0, 3000, bytes(3000)),), 1))
    data = bytearray(path.read_bytes())
    data[3 * 4096 :] = b"\xa5" * (len(data) - 3 * 4096)
    path.write_bytes(data)
    with opened_store(path) as store, pytest.raises(ComposerError, match="cannot be used"):
        _ = [read(store, key) for key in keys]


def test_path_that_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ComposerError, match="cannot be opened"), opened_store(tmp_path):
        pass


def test_store_of_an_older_form_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "patches"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE patch (key BLOB PRIMARY KEY, estimate INTEGER, data BLOB)")
    database.execute("INSERT INTO patch VALUES (?, 1, x'00')", (KEY,))
    database.commit()
    database.close()
    with opened_store(path) as store:
        assert KEY not in store
        store.save(KEY, PATCH)
        assert read(store) == PATCH

"""One object in the maps of two packages: either serves, and a lie is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.errors import VerificationFailed
from composer.jigdo.manifest import Map, dump_map, make_map
from composer.jigdo.reader import JigdoSet
from composer.ostree.repo import Repository
from tests.jigdo.sets import (
    REF,
    Packages,
    SetOnDisk,
    build,
    fsck,
    local_packages,
    open_bytes,
    pull,
    rewritten,
    write_files,
)
from tests.rpm.crafted import RpmFile, rpm_bytes

SHARED, OTHER = b"in both packages\n", b"as long as that.\n"


def _maps(data: bytes) -> dict[int, Map]:
    jigdo = open_bytes(data)
    _, _, headers, _ = jigdo.read_start()
    count = jigdo.head.totals.objects
    return jigdo.maps(range(len(jigdo.head.packages)), objects=count, headers=headers)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SetOnDisk:
    where = tmp_path_factory.mktemp("two")
    files = {"/usr/one": b"one\n", "/usr/two": b"two\n", "/usr/shared": SHARED}
    repo = Repository.create(where / "source", mode="bare-user")
    commit = write_files(repo, files)
    paths = []
    for name in ("one", "two"):
        own = [RpmFile(f"/usr/{name}", files[f"/usr/{name}"]), RpmFile("/usr/shared", SHARED)]
        if name == "two":
            own.append(RpmFile("/usr/zother", OTHER))
        paths.append(where / f"{name}.rpm")
        paths[-1].write_bytes(rpm_bytes(own, name=name))
    return build(repo, commit, local_packages(paths), where)


def _shared(made: SetOnDisk) -> int:
    """Return the ordinal of the object that both packages have."""
    first, second = (set(mapping.ordinals) for mapping in _maps(made.data).values())
    (ordinal,) = first & second
    return ordinal


def test_both_maps_name_the_object_and_it_is_written_once(made: SetOnDisk, tmp_path: Path) -> None:
    assert _shared(made) >= 0
    client = Repository.create(tmp_path / "client", mode="bare-user")
    pull(made.open(), client, Packages(made.packages))
    assert client.resolve(REF) == made.commit
    fsck(client)


@pytest.mark.parametrize("liar", [0, 1])
def test_one_map_that_lies_is_not_believed_or_found_out(
    made: SetOnDisk, tmp_path: Path, liar: int
) -> None:
    """It names a file of another content: whichever map is chosen, no wrong byte stays."""
    mapping = _maps(made.data)[liar]
    shared = _shared(made)
    rows = zip(mapping.files, mapping.ordinals, mapping.headers, mapping.sizes, strict=True)
    wrong = [((f + 1) % 3 if o == shared else f, o, h, s) for f, o, h, s in rows]
    frame = made.open().head.packages[liar].map
    data = rewritten(made.data, replace={frame: dump_map(make_map(mapping.pkgid, wrong))})
    client = Repository.create(tmp_path / "client", mode="bare-user")
    said = _pulled(open_bytes(data), client, made)
    assert said == "" or ("one-1-1", "two-1-1")[liar] in said
    assert client.refs() == ({} if said else {REF: made.commit})
    fsck(client)


def _pulled(jigdo: JigdoSet, client: Repository, made: SetOnDisk) -> str:
    try:
        pull(jigdo, client, Packages(made.packages))
    except VerificationFailed as error:
        return str(error)
    return ""

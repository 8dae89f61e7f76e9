"""A policy that labels 10,000 files anew: the same bytes under other headers move no content."""

from __future__ import annotations

from pathlib import Path

from composer.jigdo.container import Kind
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.examine import examine
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import reassemble
from composer.ostree.repo import Repository
from tests.commands import ostree
from tests.jigdo.sets import (
    REF,
    MemoryRanges,
    Packages,
    build,
    fsck,
    local_packages,
    place_of,
    write_files,
)
from tests.rpm.crafted import RpmFile, rpm_bytes

FILES = 10_000


def _label(kind: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"security.selinux", f"system_u:object_r:{kind}_t:s0\0".encode()),)


def test_relabel_of_ten_thousand_files_moves_no_content(tmp_path: Path) -> None:
    files = {f"/usr/share/d{n % 100}/f{n}": f"content of file {n}\n".encode() for n in range(FILES)}
    # A tenth of them is in no package.
    packaged = [RpmFile(p, data) for n, (p, data) in enumerate(files.items()) if n % 10]
    rpm = tmp_path / "files.rpm"
    rpm.write_bytes(rpm_bytes(packaged, name="files"))
    packages = local_packages([rpm])
    repo = Repository.create(tmp_path / "source", mode="bare-user")
    client = Repository.create(tmp_path / "client", mode="bare-user")
    old = write_files(repo, files, xattrs=_label("usr"))
    ostree(client.path, "pull-local", "--disable-fsync", repo.path, old)
    new = build(
        repo,
        write_files(repo, files, xattrs=_label("other")),
        packages,
        tmp_path,
        deltas=DeltaOptions(bases=(old,)),
    )
    ranges = MemoryRanges(new.data)
    jigdo = JigdoSet(ranges, place_of(new.data))
    client.disable_fsync()
    wanted = examine(jigdo, client, base=old, check=lambda commit: None)
    assert sum(wanted.missing) == FILES
    source = Packages(packages)
    reassemble(jigdo, wanted, client, source, ref=REF, workers=2)
    assert source.given == []
    content = [f for kind in (Kind.DATA, Kind.PATCH) for f in jigdo.index.of(kind)]
    read = [r for r in ranges.requests for f in content if r[0] < f.end and f.offset < sum(r)]
    assert read == []
    assert client.resolve(REF) == new.commit
    fsck(client)

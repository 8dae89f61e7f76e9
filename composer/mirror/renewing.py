"""rpm-md and signed statements made anew, and put in the place of the old ones.

Rules kept here: everything is made and signed before anything is visible; at every moment
readers find the old state or the new one; files that an old repomd.xml names stay until
the change after the next; what others have put into rpm-md (comps, updateinfo, modules)
stays; the same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from composer.jigdo.pointer import RECORD_TYPE, VERSIONS_TYPE
from composer.mirror.keys import KeyDirectory
from composer.mirror.lists import Lists, read_repomd
from composer.mirror.trust import Refreshed, open_ledger, refresh
from composer.ostree.locking import Holder, Wait, alone_with
from composer.rpm.rpmmd import REPOMD, Repomd, parse_repomd
from composer.system.command import require_program, run
from composer.system.files import sync_directory, write_bytes

_LOCK = ".jigdo-publish.lock"
_OWN_TYPES = frozenset(
    {RECORD_TYPE, VERSIONS_TYPE}
    | {
        f"{base}{variant}"
        for base in ("primary", "filelists", "other")
        for variant in ("", "_db", "_zck")
    }
)


def _in_silence(holder: Holder) -> None:
    """Wait, and say nothing."""


@contextmanager
def alone(repository: Path, wait: Wait | None = _in_silence) -> Iterator[None]:
    """Keep others out that change the repository; waits for them, or raises Busy for None."""
    with alone_with(repository / _LOCK, repository, wait):
        yield


def renew(
    repository: Path,
    lists: Lists,
    *,
    without: Iterable[str] = (),
    keys: KeyDirectory | None = None,
) -> Refreshed | None:
    """Make the rpm-md of ``repository`` list its RPMs and say ``lists``; sign it with ``keys``.

    RPMs at the locations ``without``, and those in hidden directories, are left out.  The
    caller is :func:`alone`; whatever fails leaves the old state.
    """
    require_program("createrepo_c", package="createrepo-c (Debian) or createrepo_c (Fedora)")
    old = read_repomd(repository)
    with tempfile.TemporaryDirectory(prefix=".repodata.", dir=repository) as place:
        new = _scan(repository, Path(place), lists.revision, set(without))
        _add_lists(new, lists)
        _keep_others(repository, new)
        _switch(new, repository, old)
    if keys is None:
        return None
    return refresh(
        open_ledger(repository),
        lists.pointer,
        keys,
        versions=lists.versions,
        now=datetime.now(UTC),
    )


def find_locations(repository: Path) -> list[str]:
    """List the RPMs of a repository, sorted; hidden directories and files are no part of it."""
    found = []
    seen: set[tuple[int, int]] = set()
    for top, directories, files in os.walk(repository, followlinks=True):
        status = os.stat(top)
        if (identity := (status.st_dev, status.st_ino)) in seen:
            directories.clear()  # a link that leads back
            continue
        seen.add(identity)
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        below = Path(top).relative_to(repository)
        found += [
            (below / name).as_posix()
            for name in files
            if name.endswith(".rpm") and not name.startswith(".")
        ]
    return sorted(found)


def _scan(repository: Path, place: Path, revision: int, without: set[str]) -> Path:
    """Make rpm-md of the RPMs in ``repository`` below ``place``; returns its repodata."""
    wanted = [one for one in find_locations(repository) if one not in without]
    (place / "wanted").write_text("".join(f"{location}\n" for location in wanted))
    argv = ["createrepo_c", "--quiet", "--update", "--outputdir", str(place)]
    argv += ["--pkglist", str(place / "wanted")]
    if (repository / REPOMD).exists():
        argv += ["--update-md-path", str(repository)]
    argv += ["--revision", str(revision), "--set-timestamp-to-revision"]
    argv += ["--no-database", "--checksum", "sha256", "--error-exit-val", str(repository)]
    run(argv, hint="createrepo_c names the file: a damaged RPM?  Remove it from the repository")
    return place / "repodata"


def _add_lists(repodata: Path, lists: Lists) -> None:
    records = [_record(repodata, RECORD_TYPE, lists.pointer.dump(), lists.revision)]
    if lists.versions.entries:
        records.append(_record(repodata, VERSIONS_TYPE, lists.versions.dump(), lists.revision))
    _edit(repodata / "repomd.xml", records)


def _record(repodata: Path, type: str, document: bytes, revision: int) -> Any:
    """Write a document of ours and return its record."""
    import createrepo_c

    path = repodata / f"{type}.json.gz"
    path.write_bytes(gzip.compress(document, mtime=0))
    record = createrepo_c.RepomdRecord(type, str(path))
    record.fill(createrepo_c.SHA256)
    record.set_timestamp(revision)
    record.rename_file()
    return record


def _keep_others(repository: Path, new: Path) -> None:
    """Take over the records that the old repomd.xml has of types that are not ours."""
    import createrepo_c

    if (repository / REPOMD).exists():
        old = createrepo_c.Repomd(str(repository / REPOMD))
        _edit(new / "repomd.xml", [one for one in old.records if one.type not in _OWN_TYPES])


def _edit(path: Path, records: list[Any]) -> None:
    import createrepo_c

    repomd = createrepo_c.Repomd(str(path))
    for record in records:
        repomd.set_record(record)
    repomd.sort_records()
    path.write_text(repomd.xml_dump())


def _switch(new: Path, repository: Path, old: Repomd) -> None:
    """Move new files in beside the old ones, then repomd.xml, then drop what is outdated."""
    repodata = repository / "repodata"
    repodata.mkdir(exist_ok=True)
    current = (new / "repomd.xml").read_bytes()
    for path in sorted(new.iterdir()):
        if path.name != "repomd.xml":
            _sync(path)
            path.replace(repodata / path.name)
    sync_directory(repodata)
    write_bytes(repository / REPOMD, current)
    named = {Path(one.location).name for one in (*parse_repomd(current).records, *old.records)}
    for path in repodata.iterdir():
        if path.name not in named | {"repomd.xml"} and not path.name.startswith("."):
            path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

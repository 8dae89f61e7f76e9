"""rpm-md and signed statements made anew, and put in the place of the old ones.

Rules kept here: everything is made and signed before anything is visible; at every moment
readers find the old state or the new one; files that an old repomd.xml names stay until
the change after the next; what others have put into rpm-md (comps, updateinfo, modules)
stays; the same input gives the same bytes.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest
from composer.errors import (
    ChecksumMismatch,
    CommandFailed,
    ComposerError,
    FormatError,
    NoSpace,
    VerificationFailed,
)
from composer.jigdo.pointer import RECORD_TYPE, VERSIONS_TYPE
from composer.mirror.keys import KeyDirectory
from composer.mirror.known import KnownFiles
from composer.mirror.lists import Lists, read_repomd
from composer.mirror.repomd_signature import SIGNATURE, RepomdSigner
from composer.mirror.trust import Refreshed, open_ledger, prepare
from composer.net.statement import STATEMENTS
from composer.ostree.locking import Holder, Wait, alone_with
from composer.rpm.rpmmd import REPOMD, Repomd, read_packages
from composer.system.command import require_program, run
from composer.system.files import (
    DISK_HINT,
    exchange,
    explained,
    remove_tree,
    sync_directory,
    write_bytes,
)

_LOCK = ".jigdo-publish.lock"
_WORK = ".repodata."
# With less room than this a disk counts as full.
_FULL = 1 << 16
# Beside what repomd.xml names: itself, its signature, and the key of it.
_KEPT = {"repomd.xml", "repomd.xml.asc", "repomd.xml.key"}
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
    known: KnownFiles | None = None,
    without: Iterable[str] = (),
    keys: KeyDirectory | None = None,
    signer: RepomdSigner | None = None,
) -> Refreshed | None:
    """Make the rpm-md of ``repository`` list its RPMs and say ``lists``; sign it.

    RPMs at the locations ``without``, and those in hidden directories, are left out.  ``known``
    is what is known of the RPMs.  ``keys`` sign statements, ``signer`` repomd.xml.  The
    caller is :func:`alone`; whatever fails leaves the old state.  Raises NoSpace,
    VerificationFailed where an RPM changes meanwhile, CommandFailed for one that is damaged.
    """
    require_program("createrepo_c", package="createrepo-c (Debian) or createrepo_c (Fedora)")
    known = known or KnownFiles(repository)
    left_out = set(without)
    wanted = {
        location: known.pkgid(location)
        for location in find_locations(repository)
        if location not in left_out
    }
    for entry in lists.entries:
        if wanted.get(entry.location, entry.pkgid) != entry.pkgid:
            raise ChecksumMismatch(
                what=f"{repository / entry.location}, which was published",
                expected=str(entry.pkgid),
                actual=str(wanted[entry.location]),
                hint="somebody wrote into it: publish that set again",
            )
    clean(repository)
    old = read_repomd(repository)
    with disk_told(repository), _made_beside(repository) as place:
        repodata = _scan(repository, place, lists.revision, wanted, known)
        _add_lists(repodata, lists)
        _keep_others(repository, repodata)
        signature = signer.sign(repodata / "repomd.xml") if signer else None
        ledger = open_ledger(repository)
        refreshed = None
        if keys is not None:
            now = datetime.now(UTC)
            refreshed = prepare(ledger, lists.pointer, keys, versions=lists.versions, now=now)
            ledger.write()
        _switch(repodata, repository, signature)
        if keys is not None:
            ledger.publish()
        _drop(repository, old)
    known.write()
    return refreshed


@contextmanager
def _made_beside(repository: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=repository) as place:
        yield Path(place)


@contextmanager
def disk_told(repository: Path) -> Iterator[None]:
    """Give the errors of a full or broken disk, or another's, their own kinds, whoever met them."""
    try:
        yield
    except PermissionError as error:
        raise ComposerError(
            f"{error.filename or repository}: permission denied",
            hint="run it as the user to whom the tree belongs, who can read what is staged",
        ) from error
    except OSError as error:
        raise explained(error, repository) from error
    except Exception as error:
        told = error.output if isinstance(error, CommandFailed) else str(error)
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            if os.strerror(number) in told and not isinstance(error, NoSpace):
                raise explained(OSError(number, os.strerror(number)), repository) from error
        if type(error).__name__ == "CreaterepoCError":
            raise ComposerError(f"{repository}: rpm-md: {error}", hint=DISK_HINT) from error
        raise


def clean(repository: Path) -> None:
    """Remove what a change that was killed has left half-written; the caller is alone."""
    for path in repository.glob(f"{_WORK}*"):
        shutil.rmtree(path, ignore_errors=True)  # a child of it may still write there
    for directory in (repository / "repodata", repository / STATEMENTS):
        for path in directory.glob(".*"):
            path.unlink()


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


def _scan(
    repository: Path,
    place: Path,
    revision: int,
    wanted: Mapping[str, ContentDigest],
    known: KnownFiles,
) -> Path:
    """Make rpm-md of the RPMs that are ``wanted`` below ``place``; returns its repodata.

    What the old rpm-md says is used for RPMs that have the name, size and time that it says;
    when that turns out to be about others, as of an RPM that was built anew, it is not.
    """
    (place / "wanted").write_text("".join(f"{location}\n" for location in wanted))
    repodata = place / "repodata"
    if (repository / REPOMD).exists():
        _createrepo(repository, place, revision, reuse=True)
        if not _differing(repodata, wanted):
            return repodata
        remove_tree(repodata)
    _createrepo(repository, place, revision, reuse=False)
    if differing := _differing(repodata, wanted):
        wrong = [one for one in sorted(differing) if known.hash(one) != differing[one]]
        raise VerificationFailed(
            f"{repository}: {len(differing)} RPMs changed while they were read",
            details=(wrong or sorted(differing))[:20],
            hint="wait until whatever writes them is done, and run this again",
        )
    return repodata


def _createrepo(repository: Path, place: Path, revision: int, *, reuse: bool) -> None:
    argv = ["createrepo_c", "--quiet", "--outputdir", str(place)]
    argv += ["--pkglist", str(place / "wanted")]
    if reuse:
        argv += ["--update", "--update-md-path", str(repository)]
    argv += ["--revision", str(revision), "--set-timestamp-to-revision"]
    argv += ["--no-database", "--checksum", "sha256", "--error-exit-val", str(repository)]
    hint = "createrepo_c names the file: a damaged RPM?  Remove it from the repository"
    try:
        run(argv, hint=hint)
    except CommandFailed as error:
        # It says no more than that a file operation failed.
        if shutil.disk_usage(place).free < _FULL:
            raise explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), place) from error
        raise


def _differing(repodata: Path, wanted: Mapping[str, ContentDigest]) -> dict[str, ContentDigest]:
    """Return what rpm-md says of RPMs that are other ones; raises FormatError where some lack."""
    said = {one.location: one.pkgid for one in read_packages(repodata.parent)}
    if lacking := sorted(wanted.keys() - said.keys()):
        raise FormatError(
            f"createrepo_c left out {len(lacking)} RPMs",
            details=lacking[:20],
            hint="are they readable, and RPMs?",
        )
    return {one: pkgid for one, pkgid in said.items() if wanted.get(one) != pkgid}


def _add_lists(repodata: Path, lists: Lists) -> None:
    records = [_record(repodata, RECORD_TYPE, lists.pointer.dump(), lists.revision)]
    if lists.versions.entries:
        records.append(_record(repodata, VERSIONS_TYPE, lists.versions.dump(), lists.revision))
    _edit(repodata / "repomd.xml", records)


def _record(repodata: Path, type: str, document: bytes, revision: int) -> Any:
    """Write a document of ours and return its record."""
    import createrepo_c

    packed = gzip.compress(document, mtime=0)
    path = repodata / f"{ContentDigest.of(packed)}-{type}.json.gz"
    path.write_bytes(packed)
    record = createrepo_c.RepomdRecord(type, str(path))
    record.fill(createrepo_c.SHA256)
    record.set_timestamp(revision)
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


def _switch(new: Path, repository: Path, signature: bytes | None) -> None:
    """Move new files in beside the old ones, then repomd.xml, with its signature."""
    repodata = repository / "repodata"
    repodata.mkdir(exist_ok=True)
    current = (new / "repomd.xml").read_bytes()
    for path in sorted(new.iterdir()):
        if path.name != "repomd.xml":
            _sync(path)
            path.replace(repodata / path.name)
    sync_directory(repodata)
    if signature is None:
        write_bytes(repository / REPOMD, current)
        (repository / SIGNATURE).unlink(missing_ok=True)  # it is of the old one
        return
    (new / "repomd.xml").rename(new.parent / "repomd.xml")
    (new.parent / "repomd.xml.asc").write_bytes(signature)
    _switch_pair(new.parent, repodata)


def _switch_pair(place: Path, repodata: Path) -> None:
    """Replace repomd.xml and its signature at once: another directory with the same files.

    Where the file system cannot do that, a moment lies between two renames.
    """
    pair = [place / "repomd.xml", place / "repomd.xml.asc"]
    for path in pair:
        _sync(path)
    other = place / "other"
    other.mkdir()
    for path in sorted(repodata.iterdir()):
        if path.is_file() and path.name not in (one.name for one in pair):
            os.link(path, other / path.name)
    for path in pair:
        os.link(path, other / path.name)
    shutil.copystat(repodata, other)
    status = repodata.stat()
    os.chown(other, status.st_uid, status.st_gid)
    sync_directory(other)
    if not exchange(other, repodata):
        for path in pair:
            path.replace(repodata / path.name)
        sync_directory(repodata)
    sync_directory(repodata.parent)


def _drop(repository: Path, old: Repomd) -> None:
    """Remove files of rpm-md that neither the new repomd.xml nor the one before names."""
    records = (*read_repomd(repository).records, *old.records)
    named = {Path(one.location).name for one in records} | _KEPT
    for path in (repository / "repodata").iterdir():
        if path.name not in named and path.is_file():
            path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A published directory into a bucket: what is new goes up, in the order in which it counts.

Rules kept here: packages and sets first, then what replaces others, files of rpm-md by unique
names, repomd.xml, statements, with the timestamp and a new root last; each object is replaced
at once, so after an end at any moment readers find the old state or the new.  Nobody else
publishes meanwhile, neither into the directory nor into the bucket.  What the directory has no
more is removed after a grace, and only what was put from here and is as it was put.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Self

from composer.checksum import ContentDigest
from composer.errors import ComposerError, FormatError, VerificationFailed
from composer.mirror.bucket import Bucket, Lease, Stored, Uploads
from composer.mirror.looking import digest_of
from composer.mirror.renewing import alone
from composer.mirror.sync_state import STATE, SyncState
from composer.net.statement import STATEMENTS
from composer.progress import Report, Step, silent
from composer.rpm.rpmmd import REPOMD, check_record, parse_repomd

_OBJECTS = f"{STATE}/objects.json"
_MOST_STATE = 1 << 30
_THREADS = 4
_REPODATA = "repodata/"
_STATEMENTS = f"{STATEMENTS}/"
_NEW, _REPLACING, _METADATA, _LIST, _STATED, _TIMESTAMP, _ROOT = range(7)


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What a run moves: by phase the files, and what goes for good."""

    phases: tuple[tuple[str, ...], ...]
    files: Mapping[str, File]
    remove: tuple[str, ...]
    waiting: int
    here: int

    @property
    def upload(self) -> list[str]:
        """All that goes up, in order."""
        return [location for phase in self.phases for location in phase]

    @property
    def upload_bytes(self) -> int:
        """Of that."""
        return sum(self.files[location].size for location in self.upload)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the directory."""

    size: int
    digest: ContentDigest


@dataclass(slots=True)
class _Known:
    """What was put into the bucket: digest, size and tag by location, and since when it is gone."""

    objects: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    _written: bytes = b""

    @classmethod
    def read(cls, bucket: Bucket) -> Self:
        found = bucket.read(_OBJECTS, limit=_MOST_STATE)
        known = cls()
        if found is None:
            return known
        try:
            document: dict[str, Any] = json.loads(found[0])
            known.objects = {
                str(location): (str(digest), int(size), str(tag))
                for location, (digest, size, tag) in document["objects"].items()
            }
            known.gone = {str(key): str(value) for key, value in document["gone"].items()}
            known._written = found[0]
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()  # what is there is asked for
        return known

    def write(self, bucket: Bucket) -> None:
        document = {"objects": self.objects, "gone": self.gone}
        data = json.dumps(document, sort_keys=True).encode()
        if data != self._written:
            bucket.put_bytes(_OBJECTS, data)

    def is_as_put(self, location: str, there: Stored) -> bool:
        return self.objects.get(location, ("", 0, ""))[1:] == (there.size, there.etag)


def sync_to_bucket(
    directory: Path,
    url: str,
    *,
    grace: timedelta,
    allow_older: bool = False,
    dry_run: bool = False,
    now: datetime | None = None,
    announce: Callable[[UploadPlan], object] = lambda plan: None,
    report: Report = silent,
) -> UploadPlan:
    """Bring the objects at ``url`` (s3://BUCKET/PREFIX) to what ``directory`` has.

    ``announce`` gets the plan before anything moves.  Raises BucketFailed, BucketBusy, and
    VerificationFailed where the directory is not whole or older than what is there; what clients
    see is then as it was, or as it is to be.
    """
    now = now or datetime.now(UTC)
    bucket = Bucket.of(url)
    with alone(directory):
        _require_whole(directory)
        (directory / STATE).mkdir(exist_ok=True)
        files = _files(directory, report)
        if dry_run:
            plan, _ = _planned(bucket, files, grace, now, lambda: None)
            announce(plan)
            return plan
        with Lease(bucket) as lease:
            if not allow_older:
                _require_newer(directory, bucket)
            plan, known = _planned(bucket, files, grace, now, lease.renew)
            announce(plan)
            _Work(directory, bucket, lease, plan, known, report).run()
    return plan


def _require_whole(directory: Path) -> None:
    """Raise VerificationFailed unless all that repomd.xml names is there."""
    try:
        repomd = parse_repomd((directory / REPOMD).read_bytes())
        for record in repomd.records:
            with (directory / record.location).open("rb") as stream:
                check_record(stream, record)
    except OSError as error:
        raise VerificationFailed(
            f"{directory}: not a repository that is whole: {error.strerror}: {error.filename}",
            hint="publish into it first; `mirror verify` says what it lacks",
        ) from error


def _require_newer(directory: Path, bucket: Bucket) -> None:
    """Statements, or rpm-md where there are none, never go back."""
    for location, number in ((f"{_STATEMENTS}timestamp.json", _stated), (REPOMD, _revision)):
        path, there = directory / location, bucket.read(location, limit=1 << 24)
        if there is None:
            continue
        ours = number(path.read_bytes()) if path.is_file() else 0
        if ours < number(there[0]):
            raise VerificationFailed(
                f"{bucket.url}: its {location} is newer ({number(there[0])}) than the "
                f"directory's ({ours})",
                hint="is this the directory that was published last?  --allow-older goes back",
            )
        return


def _stated(data: bytes) -> int:
    try:
        return int(json.loads(data)["signed"]["version"])
    except (ValueError, KeyError, TypeError):
        return 0


def _revision(data: bytes) -> int:
    try:
        return int(parse_repomd(data).revision)
    except (ValueError, FormatError):
        return 0


def _files(directory: Path, report: Report) -> dict[str, File]:
    """Return what is published, with digests; known ones are not read again."""
    state = SyncState.read(directory)
    paths = sorted(_walk(directory))
    found = {}
    for number, location in enumerate(paths, 1):
        path = directory / location
        digest = state.pkgid(directory, location)
        if digest is None:
            digest = digest_of(path)
            state.remember(directory, location, digest)
            report(Step("read", number, len(paths), "files", location))
        found[location] = File(path.stat().st_size, digest)
    state.write(directory)
    return found


def _walk(directory: Path, below: str = "") -> Iterator[str]:
    """Yield the files of a tree, hidden ones apart."""
    for path in (directory / below).iterdir():
        if path.name.startswith("."):
            continue
        kind, location = path.lstat().st_mode, f"{below}{path.name}"
        if stat.S_ISDIR(kind):
            yield from _walk(directory, f"{location}/")
        elif stat.S_ISREG(kind):
            yield location
        else:
            raise ComposerError(
                f"{path}: neither a file nor a directory: object storage has no place for it",
                hint="put a copy in the place of a link",
            )


def _phase(location: str, *, replaces: bool) -> int:
    if location == REPOMD:
        return _LIST
    if location.startswith(_REPODATA):
        return _METADATA
    if location.startswith(_STATEMENTS):
        if location == f"{_STATEMENTS}timestamp.json":
            return _TIMESTAMP
        return _ROOT if location.endswith(".root.json") else _STATED
    return _REPLACING if replaces else _NEW


def _root_number(location: str) -> int:
    start = location.removeprefix(_STATEMENTS).partition(".")[0]
    return int(start) if start.isdecimal() else 0


def _planned(
    bucket: Bucket,
    files: Mapping[str, File],
    grace: timedelta,
    now: datetime,
    renew: Callable[[], object],
) -> tuple[UploadPlan, _Known]:
    there, known = bucket.list(), _Known.read(bucket)
    phases: list[list[str]] = [[] for _ in range(_ROOT + 1)]
    here = 0
    for location, file in files.items():
        stored = there.get(location)
        renew()
        if stored is not None and _is_same(bucket, known, location, stored, file):
            here += 1
            continue
        phases[_phase(location, replaces=stored is not None)].append(location)
    phases[_ROOT].sort(key=lambda location: (_root_number(location), location))
    gone = {
        location: known.gone.get(location, now.isoformat())
        for location, stored in there.items()
        if location not in files and known.is_as_put(location, stored)
    }
    old = [one for one, since in gone.items() if datetime.fromisoformat(since) + grace <= now]
    known.objects = {location: one for location, one in known.objects.items() if location in there}
    known.gone = {location: since for location, since in gone.items() if location not in old}
    plan = UploadPlan(tuple(map(tuple, phases)), files, tuple(sorted(old)), len(known.gone), here)
    return plan, known


def _is_same(bucket: Bucket, known: _Known, location: str, stored: Stored, file: File) -> bool:
    if stored.size != file.size:
        return False
    if known.is_as_put(location, stored):
        return known.objects[location][0] == str(file.digest)
    # Put by a run that did not end, or by other means.
    if bucket.digest(location) != str(file.digest):
        return False
    known.objects[location] = (str(file.digest), stored.size, stored.etag)
    return True


class _Work:
    def __init__(
        self,
        directory: Path,
        bucket: Bucket,
        lease: Lease,
        plan: UploadPlan,
        known: _Known,
        report: Report,
    ) -> None:
        self._directory, self._bucket, self._lease = directory, bucket, lease
        self._plan, self._known, self._report = plan, known, report
        self._uploads = Uploads(directory / STATE / "uploads.json")
        self._done = 0

    def run(self) -> None:
        *phases, roots = self._plan.phases
        # Clients take one root after the other.
        for phase in (*phases, *((root,) for root in roots)):
            self._put_all(phase)
        self._lease.renew()
        self._bucket.delete(self._plan.remove)
        for location in self._plan.remove:
            self._known.objects.pop(location, None)
        self._known.write(self._bucket)

    def _put_all(self, locations: Sequence[str]) -> None:
        """Put the files of a phase; all are there when this returns."""
        waiting: dict[Future[str], str] = {}
        source = iter(locations)
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="put")
        try:
            while True:
                for location in islice(source, _THREADS - len(waiting)):
                    waiting[pool.submit(self._put, location)] = location
                if not waiting:
                    return
                done, _ = wait(waiting, timeout=10, return_when=FIRST_COMPLETED)
                self._lease.renew()
                for future in done:
                    self._note(waiting.pop(future), future.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _put(self, location: str) -> str:
        digest = self._plan.files[location].digest
        return self._bucket.put(self._directory / location, location, digest, self._uploads)

    def _note(self, location: str, tag: str) -> None:
        file = self._plan.files[location]
        self._known.objects[location] = (str(file.digest), file.size, tag)
        self._done += file.size
        self._report(Step("upload", self._done, self._plan.upload_bytes, "bytes", location))

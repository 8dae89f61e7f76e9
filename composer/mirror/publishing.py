"""`mirror publish`: repositories that `set build` wrote, and RPMs, into a published tree.

The order is fixed, because signing changes an RPM's size and pkgid: sets signed, RPMs put into
the tree, rpm-md, its signature, statements.  All is made and proven before any of it counts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import FormatError, NoSpace, NotFound, UsageError
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import open_file
from composer.mirror.incoming import Incoming, Source, read_rpms, read_source, require_distinct
from composer.mirror.keys import KeyDirectory
from composer.mirror.known import STATE, KnownFiles
from composer.mirror.lists import Lists, read_lists
from composer.mirror.needs import require_place
from composer.mirror.placing import Placed, Placer
from composer.mirror.publish import describe_set, settle, with_free_location
from composer.mirror.renewing import alone, disk_told, find_locations
from composer.mirror.repomd_signature import SIGNATURE, RepomdSigner
from composer.mirror.set_rpm import sign_rpm, signers_of, signing_keys
from composer.mirror.trust import Refreshed, require_begun
from composer.ostree.locking import Wait
from composer.progress import Report, Step, silent
from composer.rpm.package import PackageRef
from composer.rpm.rpmmd import REPOMD, read_packages

_SPARE = 16 << 20


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What else is to be published, and with what it is signed.

    ``rpm_key`` signs the RPMs of sets, ``repomd_key`` repomd.xml, both GPG keys of ``homedir``;
    ``keys`` the statements.  ``allow_older`` lets a source's newest set be the newest here
    although there is a newer one.
    """

    packages: Sequence[Path] = ()
    allow_older: bool = False
    rpm_key: str = ""
    repomd_key: str = ""
    homedir: Path | None = None
    keys: KeyDirectory | None = None


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A set as it is published: whether it came only now, and whether it is its ref's newest."""

    entry: PointerEntry
    is_new: bool
    is_newest: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """What was done."""

    sets: tuple[PublishedSet, ...]
    placed: Placed
    refreshed: Refreshed | None


def publish(
    sources: Sequence[Path],
    directory: Path,
    options: PublishOptions,
    report: Report = silent,
    *,
    wait: Wait | None = None,
) -> Publication:
    """Bring ``sources`` into the repository at ``directory``, which is made if it is not there.

    Whatever fails leaves what clients see as it was.  Raises Busy where another process
    changes it, unless there is ``wait``.
    """
    for one in (*sources, *options.packages):
        if one.resolve() == directory.resolve():
            raise UsageError(
                f"{one}: is the tree that is to be published into",
                hint="stage sets elsewhere: `set build --output STAGING`",
            )
    with disk_told(directory):
        report(Step("read", item=", ".join(str(one) for one in (*sources, *options.packages))))
        read = [read_source(one) for one in sources]
        packages = [one for source in read for one in source.packages]
        packages += read_rpms(options.packages)
        directory.mkdir(parents=True, exist_ok=True)
        with alone(directory, wait):
            _require_signers(directory, options)
            return _Work(directory, options, report).run(read, packages)


def _require_signers(directory: Path, options: PublishOptions) -> None:
    """Refuse what would leave a signed tree without a signature that fits."""
    if options.keys:
        require_begun(directory, options.keys)
    if (directory / SIGNATURE).exists() and not options.repomd_key:
        raise UsageError(
            f"{directory}: its repomd.xml is signed, and dnf may demand that",
            hint="--gpg-sign KEYID signs the new one; where that is done elsewhere, remove "
            f"{SIGNATURE} before",
        )


class _Work:
    def __init__(self, directory: Path, options: PublishOptions, report: Report) -> None:
        self._directory, self._options, self._report = directory, options, report
        self._known = KnownFiles(directory)
        self._placer = Placer(directory, self._known)
        self._before = read_lists(directory)

    def run(self, sources: Sequence[Source], packages: Sequence[Incoming]) -> Publication:
        """Do it; the caller is alone."""
        there = read_packages(self._directory) if (self._directory / REPOMD).is_file() else []
        sets = {one.location for one in self._before.entries}
        require_distinct(packages, [one for one in there if one.location not in sets])
        digests = self._digests()
        self._require_complete(sources, {*digests, *(one.ref.pkgid for one in packages)})
        self._require_room(sources, packages, set(digests))
        self._placer.begin()
        for number, one in enumerate(packages):
            self._report(Step("place", number, len(packages), "RPMs", one.ref.location))
            self._placer.place(one.path, one.ref.location, one.ref.pkgid)
        after = self._before
        published: list[PublishedSet] = []
        for source, entry in _by_time(sources):
            done, after = self._put(source, entry, after)
            published.append(done)
        self._placer.end()
        self._report(Step("rpm-md", item=str(self._directory)))
        options = self._options
        refreshed = settle(
            self._directory,
            self._before,
            after.existing(self._directory),
            self._known,
            keys=options.keys,
            signer=RepomdSigner(options.repomd_key, options.homedir)
            if options.repomd_key
            else None,
        )
        sets_now = tuple(
            replace(done, is_newest=after.pointer.get(done.entry.ref) == done.entry)
            for done in published
        )
        return Publication(sets_now, self._placer.placed, refreshed)

    def _digests(self) -> list[ContentDigest]:
        locations = find_locations(self._directory)
        found = []
        for number, location in enumerate(locations):
            self._report(Step("look", number, len(locations), "RPMs", location))
            found.append(self._known.pkgid(location))
        return found

    def _put(self, source: Source, entry: PointerEntry, lists: Lists) -> tuple[PublishedSet, Lists]:
        """Put a set into the tree, signed if that is wanted; returns it, and the lists with it."""
        self._report(Step("set", item=f"{entry.ref} {entry.version}"))
        current = lists.pointer.get(entry.ref)
        newest = source.lists.pointer.get(entry.ref) == entry and (
            current is None or current.timestamp <= entry.timestamp or self._options.allow_older
        )
        here = self._same_set(entry)
        if here is None:
            with self._final(source.directory / entry.location, entry) as (path, made):
                here = with_free_location(made, self._known, self._directory)
                ours = path.is_relative_to(self._directory)
                self._placer.place(path, here.location, here.pkgid, time=here.timestamp, ours=ours)
            return PublishedSet(here, True, newest), lists.with_set(here, newest=newest)
        return PublishedSet(here, False, newest), lists.with_set(here, newest=newest)

    def _same_set(self, entry: PointerEntry) -> PointerEntry | None:
        """Return the entry under which the set is published already: its index tells."""
        for one in self._before.entries:
            if (one.ref, one.commit, one.index, one.length, one.updates) == (
                entry.ref,
                entry.commit,
                entry.index,
                entry.length,
                entry.updates,
            ) and self._is_as_wanted(one, entry):
                return one
        return None

    def _is_as_wanted(self, published: PointerEntry, entry: PointerEntry) -> bool:
        """Tell whether the RPM that is published has the signature that is wanted, if any."""
        path = self._directory / published.location
        if not path.is_file() or self._known.pkgid(published.location) != published.pkgid:
            return False
        options = self._options
        if not options.rpm_key:
            # One that was signed here, of an RPM that is not, is as good, and stays.
            return published.pkgid == entry.pkgid or bool(signers_of(path))
        return bool(signers_of(path) & signing_keys(options.rpm_key, options.homedir))

    @contextmanager
    def _final(self, rpm: Path, entry: PointerEntry) -> Iterator[tuple[Path, PointerEntry]]:
        """Give a set's RPM as it will be published, and its entry."""
        if not self._options.rpm_key:
            yield rpm, entry
            return
        with tempfile.TemporaryDirectory(dir=self._directory / STATE) as place:
            signed = Path(place) / rpm.name
            Placer.copy(rpm, signed, entry.pkgid)
            signed.chmod(0o644)
            sign_rpm(signed, key=self._options.rpm_key, homedir=self._options.homedir)
            made = describe_set(
                signed,
                ref=entry.ref,
                version=entry.version,
                commit=entry.commit,
                timestamp=entry.timestamp,
                index=entry.index,
                updates=entry.updates,
            )
            yield signed, made

    def _require_complete(self, sources: Sequence[Source], there: set[ContentDigest]) -> None:
        """Refuse sets of which the tree would lack packages, and those that are none."""
        for source in sources:
            for entry in source.sets:
                require_place(entry.location, rpm=True)
                missing = [
                    ref
                    for ref in _needed(source.directory / entry.location, entry)
                    if not ref.repository and ref.pkgid not in there
                ]
                if missing:
                    raise NotFound(
                        f"{entry.ref} {entry.version}: {len(missing)} of its packages would not "
                        "be in the tree, where its clients look for them",
                        details=[f"{ref.nevra} (pkgid {ref.pkgid})" for ref in missing[:20]],
                        hint="name the directories that have them with --packages",
                    )

    def _require_room(
        self, sources: Sequence[Source], packages: Sequence[Incoming], there: set[ContentDigest]
    ) -> None:
        """Raise NoSpace unless what has to be copied has room."""
        device = self._directory.stat().st_dev
        known = {one.pkgid for one in self._before.entries}
        needed = [one.ref.size for one in packages if _is_to_copy(one, device, there)]
        needed += [e.size for source in sources for e in source.sets if e.pkgid not in known]
        free = shutil.disk_usage(self._directory).free
        if sum(needed) + _SPARE > free:
            raise NoSpace(
                f"{self._directory}: {sum(needed) + _SPARE} bytes are needed, {free} are free",
                hint="free some there; what is staged on the same file system is linked",
            )


def _is_to_copy(one: Incoming, device: int, there: set[ContentDigest]) -> bool:
    return one.ref.pkgid not in there and one.path.stat().st_dev != device


def _needed(rpm: Path, entry: PointerEntry) -> Iterable[PackageRef]:
    jigdo = open_file(rpm, start=entry.offset, length=entry.length)
    if (jigdo.head.ref, jigdo.head.commit) != (entry.ref, entry.commit):
        raise FormatError(
            f"{rpm}: the set is of {jigdo.head.ref}, commit {jigdo.head.commit}; the pointer says "
            f"{entry.ref}, commit {entry.commit}",
            hint="build the set again: `set build --output`",
        )
    return [package.ref for package in jigdo.head.packages]


def _by_time(sources: Sequence[Source]) -> list[tuple[Source, PointerEntry]]:
    """List all sets, older ones first, so that the newest of a ref comes last."""
    every = [(source, entry) for source in sources for entry in source.sets]
    return sorted(every, key=lambda pair: (pair[1].timestamp, pair[1].ref, pair[1].commit))

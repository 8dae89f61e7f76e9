"""Whether a copy of a repository has what clients of any published version need, intact.

What has to be there: every file that repomd.xml names, every set that the pointers or signed
statements name, every RPM that a set names (in its own repository or another), every retained
RPM that is listed, and statements that hold.  An RPM that is not where a set says is
looked for where clients look (:mod:`composer.mirror.elsewhere`).
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, NotFound, VerificationFailed
from composer.jigdo.pointer import PointerEntry
from composer.mirror.elsewhere import OtherPlaces
from composer.mirror.looking import look
from composer.mirror.needs import Files, Place, Version, chosen
from composer.mirror.verdicts import Problem, Proof, Verified, kind_of
from composer.net.fetch import Fetcher
from composer.net.job import FetchFailed, Unreachable
from composer.net.network import Network, Way
from composer.net.packages import fetch_packages
from composer.net.probing import Probe, Probed, probe
from composer.net.repository import Listing, read_listing, read_packages_of
from composer.net.sets import open_published
from composer.net.statement import MAX_ROOT, STATEMENTS, Expired
from composer.net.trust import Statement, read_statements
from composer.net.trust_store import TrustStore
from composer.progress import Report, Step, silent
from composer.rpm.package import RETAINED_DIRECTORY, PackageRef
from composer.rpm.rpmmd import REPOMD

Prove = Callable[[Place, Sequence[PointerEntry]], Iterator[ObjectChecksum | ComposerError]]
"""Reassembles versions from a mirror; yields the commit that came out of each, or why none did."""

_OWN = ""
_WRONG = (NotFound, FetchFailed, VerificationFailed)
_REPORT_EACH = 256


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted of a verification.

    ``refs`` are names as :func:`composer.mirror.needs.chosen` takes them; ``root`` is the
    publisher's, for signed statements.  ``full`` reads every byte; ``all_packages`` looks at
    RPMs that rpm-md lists and no version needs, too.
    """

    repositories: Mapping[str, Place] = field(default_factory=dict)
    refs: Sequence[str] = ()
    root: bytes | None = None
    full: bool = False
    all_packages: bool = False
    prove: Prove | None = None
    way: Way = field(default_factory=Way)
    now: datetime | None = None


def verify(place: Place, options: Options, report: Report = silent) -> Verified:
    """Look at one mirror; what is wrong with it is in the result, nothing is raised for it."""
    network = Network.by(options.way)
    found = _Verification(place, options, network, report)
    try:
        found.run()
    except _WRONG as error:
        return replace(found.result(), error=error)
    return found.result()


class _Verification:
    def __init__(self, place: Place, options: Options, network: Network, report: Report) -> None:
        self._place, self._options, self._network, self._report = place, options, network, report
        self._files: dict[str, Files] = {_OWN: Files()}
        self._versions: list[Version] = []
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []
        self._proofs: list[Proof] = []
        self._listing: Listing | None = None
        self._statements: dict[str, Statement] = {}
        self._newest: dict[str, PointerEntry] = {}
        self._entries: list[PointerEntry] = []
        self._root = ""

    def run(self) -> None:
        with closing(Fetcher(self._place.mirrors, network=self._network)) as fetcher:
            self._report(Step("look", item=self._place.url))
            self._listing = read_listing(fetcher)
            self._read_statements(fetcher)
            self._choose()
            self._add_records()
            for number, entry in enumerate(self._entries):
                self._report(Step("sets", number, len(self._entries), "sets", entry.version))
                self._add_version(fetcher, entry)
            self._add_listed(fetcher)
        for repository in sorted(self._files):
            self._check(repository)
        self._prove()

    def result(self) -> Verified:
        expires = [one.expires for one in self._statements.values()]
        return Verified(
            place=self._place,
            revision=self._listing.repomd.revision if self._listing else "",
            newest=self._newest,
            entries=self._entries,
            root=self._root,
            expires=min(expires, default=None),
            files=sum(len(files) for files in self._files.values()),
            bytes=sum(files.bytes for files in self._files.values()),
            problems=tuple(self._problems),
            notes=tuple(self._notes),
            proofs=tuple(self._proofs),
        )

    def _wrong(self, location: str, error: ComposerError, *, needed_by: Sequence[str] = ()) -> None:
        told = "; ".join([error.message, *error.details])
        self._problems.append(Problem(kind_of(error), location, told, "", tuple(needed_by)))

    # What there should be.

    def _read_statements(self, fetcher: Fetcher) -> None:
        root = self._options.root
        location = f"{STATEMENTS}/1.root.json"
        if root is None:
            try:
                root = fetcher.fetch_small(location, limit=MAX_ROOT)
            except NotFound:
                return
        self._root = "given" if self._options.root is not None else "own"
        with tempfile.TemporaryDirectory(prefix="jigdo-verify.") as state:
            store = TrustStore(Path(state), "verify", root)
            for ignored in (False, True):
                # What has expired is told, and looked at nevertheless.
                try:
                    self._statements = read_statements(
                        self._place.mirrors,
                        store,
                        now=self._options.now,
                        ignore_expiry=ignored,
                        network=self._network,
                    )
                    return
                except (NotFound, VerificationFailed) as error:
                    if not ignored or not isinstance(error, Expired):
                        self._wrong(f"{STATEMENTS}/", error)
                    if not isinstance(error, Expired):
                        return

    def _choose(self) -> None:
        assert self._listing is not None
        listing = self._listing
        for ref, statement in self._statements.items():
            self._compare(ref, statement)
        if self._statements:
            for entry in listing.pointer.entries:
                if entry.ref not in self._statements:
                    text = f"{entry.ref}: in the pointer, and nothing that is signed names it"
                    self._problems.append(Problem("untrusted", entry.location, text))
        stated = [one.entry for one in self._statements.values()]
        everything = {(one.ref, one.commit): one for one in (*stated, *listing.entries)}
        newest = {one.ref: one for one in (*listing.pointer.entries, *stated)}
        self._entries = chosen(list(everything.values()), self._options.refs)
        if not everything:
            text = "the repository carries no jigdo sets"
            self._problems.append(Problem("missing", REPOMD, text))
        refs = {one.ref for one in self._entries}
        self._newest = {ref: one for ref, one in sorted(newest.items()) if ref in refs}

    def _compare(self, ref: str, statement: Statement) -> None:
        """Statements and pointers are two ways to the same sets."""
        assert self._listing is not None
        entry, pointed = statement.entry, self._listing.pointer.get(ref)
        if pointed != entry:
            other = f"{pointed.version}, {pointed.location}" if pointed else "none"
            text = f"{ref}: the statements name {entry.version}, {entry.location}, the pointer "
            self._problems.append(Problem("untrusted", f"{STATEMENTS}/", text + other))
        elif str(self._listing.versions.digest(ref) or "") != statement.versions:
            text = f"{ref}: the list of its versions is not the one that is signed for"
            self._problems.append(Problem("untrusted", f"{STATEMENTS}/", text))

    def _add_records(self) -> None:
        assert self._listing is not None
        for record in self._listing.repomd.records:
            if record.checksum is None or record.size is None:
                text = f"{record.type}: repomd.xml has no SHA-256, or no size, of it"
                self._problems.append(Problem("damaged", REPOMD, text))
            else:
                own = self._files[_OWN]
                own.add(record.location, record.size, record.checksum, listed=True)

    def _add_version(self, fetcher: Fetcher, entry: PointerEntry) -> None:
        files: dict[str, array[int]] = {_OWN: array("I")}
        version = Version(entry, files)
        self._versions.append(version)
        try:
            files[_OWN].append(self._files[_OWN].add(entry.location, entry.size, entry.pkgid))
            packages = open_published(fetcher, entry).head.packages
            for package in packages:
                ref = package.ref
                there = ref.repository if ref.repository in self._options.repositories else _OWN
                table = self._files.setdefault(there, Files())
                number = table.add(ref.location, ref.size, ref.pkgid)
                files.setdefault(there, array("I")).append(number)
        except _WRONG as error:
            if isinstance(error, Unreachable):
                raise
            self._wrong(entry.location, error, needed_by=[version.name])

    def _add_listed(self, fetcher: Fetcher) -> None:
        assert self._listing is not None
        own = self._files[_OWN]

        everything = self._options.all_packages

        def add(package: PackageRef) -> None:
            place = package.location
            if everything or place in own or place.startswith(f"{RETAINED_DIRECTORY}/"):
                own.add(place, package.size, package.pkgid, listed=everything)

        self._report(Step("package list"))
        try:
            read_packages_of(fetcher, self._listing.repomd, add)
        except _WRONG as error:
            if isinstance(error, Unreachable):
                raise
            self._wrong(REPOMD, error)

    # What there is.

    def _check(self, repository: str) -> None:
        files = self._files[repository]
        bad: dict[int, ComposerError] = {}
        done = 0
        place = self._options.repositories.get(repository, self._place)
        for count, (file, error) in enumerate(self._probed(place, files)):
            done += file.size
            if count % _REPORT_EACH == 0 or error is not None:
                self._report(Step("files", done, files.bytes, "bytes", file.location))
            if error is not None:
                bad[file.number] = error
        self._report(Step("files", files.bytes, files.bytes, "bytes"))
        if bad:
            self._judge(repository, bad)

    def _probed(self, place: Place, files: Files) -> Iterator[Probed]:
        """Look at files; which of two digests of one location is true, only its bytes tell."""
        if self._options.full:
            return self._ask(place, files, whole=True)
        disputed = [files[number] for number in sorted(files.disputed)]
        others = (file for file in files if file.number not in files.disputed)
        return chain(self._ask(place, others, whole=False), self._ask(place, disputed, whole=True))

    def _ask(self, place: Place, files: Iterable[Probe], *, whole: bool) -> Iterator[Probed]:
        if place.directory is not None:
            return look(files, place.directory, whole=whole)
        return probe(files, place.mirrors, self._network, whole=whole)

    def _judge(self, repository: str, bad: Mapping[int, ComposerError]) -> None:
        """Say what is wrong with files, unless they serve from elsewhere."""
        files = self._files[repository]
        needed = self._needed_by(repository, bad)
        others = OtherPlaces(
            self._place, self._options.repositories, self._network, lambda one: Path(str(one.pkgid))
        )
        moved = self._moved(others, self._packages_of(repository, bad))
        anew = {package.pkgid: url for package, url in others.anew.items()}
        told = {problem.location for problem in self._problems}
        for number, error in sorted(bad.items()):
            file, versions = files[number], needed[number]
            digest, reason = ContentDigest(file.digest), "; ".join([error.message, *error.details])
            if file.location in told and not repository:
                continue  # a set that could not be opened
            if digest in moved:
                where = f"clients find it at {moved[digest]}"
                note = Problem("moved", file.location, where, repository, versions)
                self._notes.append(note)
                if not files.is_listed(number):
                    continue
            kind = kind_of(error)
            if digest in anew and digest not in moved:
                kind, reason = "replaced", f"{reason}; another RPM of its name is {anew[digest]}"
            self._problems.append(Problem(kind, file.location, reason, repository, versions))

    def _needed_by(
        self, repository: str, bad: Mapping[int, ComposerError]
    ) -> dict[int, tuple[str, ...]]:
        found: dict[int, list[str]] = {number: [] for number in bad}
        for version in self._versions:
            for number in version.files.get(repository, ()):
                if number in found:
                    found[number].append(version.name)
        return {number: tuple(names) for number, names in found.items()}

    def _packages_of(self, repository: str, bad: Mapping[int, ComposerError]) -> list[PackageRef]:
        """Read once more the sets that need what is bad: which packages it is."""
        files = self._files[repository]
        pkgids = {files.digest(number) for number in bad}
        found: dict[ContentDigest, PackageRef] = {}
        with closing(Fetcher(self._place.mirrors, network=self._network)) as fetcher:
            for version in self._versions:
                numbers = version.files.get(repository, array("I"))
                if any(number in bad for number in numbers):
                    try:
                        packages = open_published(fetcher, version.entry).head.packages
                    except _WRONG:
                        continue
                    refs = (one.ref for one in packages if one.ref.pkgid in pkgids)
                    found |= {ref.pkgid: ref for ref in refs}
        return list(found.values())

    def _moved(
        self, others: OtherPlaces, packages: Sequence[PackageRef]
    ) -> dict[ContentDigest, str]:
        if not packages:
            return {}
        arriving = fetch_packages(
            [*others.retained(packages)],
            network=self._network,
            elsewhere=others.lists,
            lost=lambda package, errors: None,
            kind="probe",
            probe=True,
        )
        with closing(arriving):
            return {item.ref.pkgid: item.mirrors.bases[0] + item.ref.location for item in arriving}

    def _prove(self) -> None:
        if self._options.prove is None:
            return
        entries = [version.entry for version in self._versions]
        results = self._options.prove(self._place, entries)
        for number, version in enumerate(self._versions):
            self._report(Step("prove", number, len(entries), "versions", version.name))
            entry, result, reason = version.entry, next(results), ""
            if isinstance(result, ComposerError):
                reason = "; ".join([result.message, *result.details])
            elif result != entry.commit:
                reason = f"it came to {result} instead of {entry.commit}"
            self._proofs.append(Proof(entry, reason))
            if reason:
                problem = Problem("unproven", entry.location, reason, "", (version.name,))
                self._problems.append(problem)
        self._forgive()

    def _forgive(self) -> None:
        """An RPM that was made anew serves, when all that need it were proven."""
        failed = {Version(one.entry).name for one in self._proofs if one.reason}
        for problem in list(self._problems):
            if problem.kind == "replaced" and not failed & set(problem.needed_by):
                self._problems.remove(problem)
                self._notes.append(problem)

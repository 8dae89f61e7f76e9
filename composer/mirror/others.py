"""The other versions that a set serves: which commits they are, and their descriptions.

Deltas may come from older and from newer commits alike: the set of an older version with
deltas from a newer one is what a downgrade takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, NotFound
from composer.jigdo.build import LocalPackage, build_set
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.reader import JigdoSet, open_file
from composer.mirror.lists import read_lists
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.progress import Report, Step

WINDOW = 3
"""So many versions before the set's, and so many after it, are served unless others are named."""


def find_commit(repo: Repository, ref: str, revision: str) -> ObjectChecksum:
    """Find a commit: by a version in the history of ``ref``, by a checksum or by a ref.

    Without ``revision`` it is the ref's newest.  Raises NotFound.
    """
    if not revision:
        return repo.require(ref)
    for commit in _history(repo, repo.resolve(ref)):
        if repo.commit(commit).version == revision:
            return commit
    try:
        found = repo.resolve(revision)
    except ComposerError:  # it cannot even be the name of a ref
        found = None
    if found is None or not repo.has("commit", found):
        raise NotFound(
            f"{repo.path}: no version, commit or ref {revision}",
            hint=f"see what is there: ostree --repo={repo.path} log {ref}",
        )
    return found


def neighbours(repo: Repository, ref: str, commit: ObjectChecksum) -> tuple[ObjectChecksum, ...]:
    """Return the commits next to one in the history of ``ref``, before it and after it."""
    before = islice(_history(repo, repo.commit(commit).parent), WINDOW)
    newer = list(takewhile(lambda one: one != commit, _history(repo, repo.resolve(ref))))
    # A commit that the ref does not lead to has none after it.
    after = newer[-WINDOW:] if newer and repo.commit(newer[-1]).parent == commit else []
    return (*before, *after)


def _history(repo: Repository, commit: ObjectChecksum | None) -> Iterator[ObjectChecksum]:
    """Yield a commit and those before it, as far as they are here whole."""
    while commit is not None and repo.has("commit", commit) and not repo.is_partial(commit):
        yield commit
        commit = repo.commit(commit).parent


class Described:
    """Finds descriptions of sets: in the repository of RPMs, in the cache, or made again."""

    def __init__(self, repo: Repository, output: Path, cachedir: Path) -> None:
        self._repo, self._cachedir = repo, cachedir
        self._output = output
        self._kept = Descriptions(cachedir / "descriptions")
        self._published = {(e.ref, e.commit): e for e in read_lists(output).entries}

    def find(
        self,
        ref: str,
        name: str,
        commits: Sequence[ObjectChecksum],
        available: Sequence[LocalPackage],
        report: Report,
    ) -> Mapping[ObjectChecksum, bytes]:
        """Return the bare descriptions of the sets of ``commits``; some may be missing.

        ``available`` are RPMs of which the sets may have been made.
        """
        found = {}
        for commit in commits:
            data = self._read(ref, commit) or self._kept.read(commit)
            if data is None and (packages := _all_of(self._repo, commit, available)):
                report(Step("describe", item=str(commit)))
                data = self._make(ref, name, commit, packages, report)
            if data is not None:
                found[commit] = data
        return found

    def keep(self, jigdo: JigdoSet) -> None:
        """Keep the description of a set that was built."""
        description = jigdo.description()
        assert description is not None
        self._kept.keep(jigdo.head.commit, description)

    def _read(self, ref: str, commit: ObjectChecksum) -> bytes | None:
        entry = self._published.get((ref, commit))
        if entry is None or not (self._output / entry.location).is_file():
            return None
        path = self._output / entry.location
        return open_file(path, start=entry.offset, length=entry.length).description()

    def _make(
        self,
        ref: str,
        name: str,
        commit: ObjectChecksum,
        packages: Sequence[LocalPackage],
        report: Report,
    ) -> bytes | None:
        cache = DigestCache(self._cachedir / "digests.sqlite")
        with tempfile.NamedTemporaryFile(dir=self._cachedir, prefix="describe-") as stream:
            build_set(
                self._repo,
                commit,
                packages,
                ref=ref,
                name=name,
                into=stream,  # type: ignore[arg-type]
                cache=cache,
                report=report,
            )
            stream.flush()
            return open_file(Path(stream.name)).description()


def _all_of(
    repo: Repository, commit: ObjectChecksum, available: Sequence[LocalPackage]
) -> Sequence[LocalPackage] | None:
    """Return the packages of a commit that says which they are; None where some are missing."""
    wanted = listed_packages(repo, commit)
    by_pkgid = {str(package.ref.pkgid): package for package in reversed(available)}
    if wanted is None or any(pkgid not in by_pkgid for pkgid in wanted):
        return None
    return [by_pkgid[pkgid] for pkgid in wanted]


def listed_packages(repo: Repository, commit: ObjectChecksum) -> dict[str, str] | None:
    """Return pkgid -> nevra of the packages that a commit says it was composed of."""
    listed = repo.commit(commit).metadata.get("jigdo-composer.packages")
    if not isinstance(listed, list):
        return None
    return {str(pkgid): str(nevra) for nevra, pkgid, _ in listed}

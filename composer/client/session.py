"""One conversation with a remote: its mirrors, what they sent, and what is here beside them.

Whatever asks a remote something (check, plan, pull) does so in a session, and begins
with :meth:`Session.look`; so what is announced is what is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

from composer.checksum import ObjectChecksum
from composer.client.acceptance import (
    NO_WAIVERS,
    Newest,
    Waivers,
    find_newest,
    is_good_here,
    require_acceptable,
    require_newer,
)
from composer.client.mirrors import with_listed_mirrors
from composer.client.remote import Remote
from composer.client.remote_set import open_remote_set
from composer.client.rpm_cache import RpmCache
from composer.client.seed import SeedTrees
from composer.client.sources import (
    DEFAULT_SOURCES,
    RemotePackages,
    Sources,
    bytes_held,
    package_directory,
)
from composer.errors import BoundExceeded, ChecksumMismatch, FormatError, NotFound
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.examine import DEFAULT_CHOICES, CheckCommit, Choices, Wanted, examine
from composer.jigdo.lost import PackagesLost
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.net.bundle import Bundle
from composer.net.fetch import Fetcher, Keep
from composer.net.network import Network
from composer.net.statement import Expired
from composer.net.traffic import Traffic
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.rpm.package import PackageRef

# Less says nothing of how fast it comes.
_TELLING = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a remote has for a ref; ``set`` is None when its commit is here already."""

    entry: PointerEntry
    previous: ObjectChecksum | None
    set: tuple[JigdoSet, Wanted] | None


class Arrivals:
    """Counts what comes of a set: for progress, and to tell how fast the remote is."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._content, self._bytes, self._seconds = 0, 0, 0.0

    def __call__(self, kind: str, size: int, seconds: float) -> None:
        """Take note of a range (composer.client.remote_set)."""
        self._bytes += size
        self._seconds += seconds
        if kind != "set":
            self._content += size
            item = "deltas" if kind == "delta" else "new content"
            self._report(Step("content", self._content, 0, "bytes", item))

    @property
    def speed(self) -> float | None:
        """Bytes per second, about, when enough came to tell."""
        return self._bytes / self._seconds if self._bytes >= _TELLING and self._seconds else None


@dataclass(frozen=True, slots=True)
class Session:
    """A remote that is being asked, by ``network``.  See :func:`session`."""

    remote: Remote
    fetcher: Fetcher
    network: Network
    cache: RpmCache
    seeds: SeedTrees
    sources: Sources
    waivers: Waivers
    report: Report
    arrivals: Arrivals

    @property
    def traffic(self) -> Traffic:
        """What the remote has sent."""
        return self.network.traffic

    def newest(self, ref: str, version: str = "") -> Newest:
        """Ask what is newest of ``ref``, or which set is of ``version``."""
        self.report(Step("look", item=self.remote.urls[0]))
        return find_newest(self.fetcher, self.remote, ref, self.waivers, version=version)

    def look(
        self,
        ref: str,
        repo: Repository,
        *,
        version: str = "",
        choices: Choices = DEFAULT_CHOICES,
        read_only: bool = False,
    ) -> Found:
        """Read what a pull reads before it moves anything large; raises what a pull raises.

        Nothing is written with ``read_only``, and the same bytes are read.
        """
        entry = self.newest(ref, version).entry
        previous = repo.resolve(ref)
        if previous == entry.commit and is_good_here(self.remote, repo, ref, entry.commit):
            return Found(entry, previous, None)
        jigdo = self.open(entry, repo, choices)
        base = previous if previous and not repo.is_partial(previous) else None

        def check(frame: CommitFrame) -> None:
            require_acceptable(self.remote, repo, ref, frame)
            if not version:
                require_newer(repo, previous, frame.commit.timestamp, self.waivers)

        self.report(Step("read set", item=jigdo.head.version))
        wanted = self.examine(
            jigdo, repo, base=base, check=check, choices=choices, read_only=read_only
        )
        return Found(entry, previous, (jigdo, wanted))

    def open(self, entry: PointerEntry, repo: Repository, choices: Choices) -> JigdoSet:
        """Open the set that an entry names; by what ``repo`` knows of others, if it can be."""
        kept = Descriptions.of(repo)
        return open_remote_set(
            self.fetcher, entry, kept, max_memory=choices.max_memory, heard=self.arrivals
        )

    def examine(
        self,
        jigdo: JigdoSet,
        repo: Repository,
        *,
        base: ObjectChecksum | None,
        check: CheckCommit,
        choices: Choices,
        read_only: bool = False,
    ) -> Wanted:
        """Find out what a set's commit needs in ``repo``, with what this session may use."""
        return examine(
            jigdo,
            repo,
            base=base,
            check=check,
            choices=choices,
            at_hand=self.cache.find,
            seed=self.seeds if self.sources.seeds else None,
            read_only=read_only,
            offered=self._offers if self.remote.bundle else None,
        )

    def _offers(self, package: PackageRef, size: int) -> bool:
        """Tell whether the bundle has so much of an RPM."""
        container = self.remote.mirrors(package.repository).container
        return container is not None and container.find(package.location, 0, size) is not None

    def packages(
        self,
        repo: Repository,
        jigdo: JigdoSet,
        wanted: Wanted,
        *,
        network: Network | None = None,
        report: Report = silent,
    ) -> RemotePackages:
        """Return the source of the RPMs for ``wanted``, by ``network``, or the session's."""
        return RemotePackages(
            self.remote,
            package_directory(repo),
            self.cache,
            network or self.network,
            self.sources,
            bytes_held(jigdo, wanted),
            report,
        )


@contextmanager
def _bundle_errors(opened: Bundle) -> Iterator[None]:
    """Say of what went wrong in the block what it means for a bundle."""
    try:
        yield
    except Expired as error:
        error.hint = (
            "the statements in the bundle are as old as the bundle: have a new one made.  If "
            "this one is known to be the newest, --ignore-expiry takes it (docs/trust.md)"
        )
        raise
    except (NotFound, PackagesLost) as error:
        bases = [f"{one.ref} {one.base_version or one.base}" for one in opened.refs if one.base]
        error.details = (f"in the bundle {opened.path}", *error.details)
        error.hint = (
            f"the bundle is for machines that have {', '.join(bases)}; have one made from what "
            "is here"
            if bases
            else "have a new bundle made, from a remote with these keys"
        )
        raise
    except (ChecksumMismatch, BoundExceeded, FormatError) as error:
        error.hint = "the bundle is damaged or not genuine: copy it again, or have it made anew"
        raise


@contextmanager
def session(
    remote: Remote,
    *,
    sources: Sources = DEFAULT_SOURCES,
    waivers: Waivers = NO_WAIVERS,
    report: Report = silent,
    keep: Keep | None = None,
) -> Iterator[Session]:
    """Open a session with ``remote``, with the mirrors of its list too.

    ``keep`` gets a copy of every document and range that comes.
    """
    network, cache = remote.network(), RpmCache(sources.rpm_caches)
    remote = with_listed_mirrors(remote, network)
    errors = _bundle_errors(remote.bundle) if remote.bundle else nullcontext()
    with (
        errors,
        closing(Fetcher(remote.mirrors(), network=network, keep=keep)) as fetcher,
        SeedTrees(sources.seeds, report) as seeds,
    ):
        arrivals = Arrivals(report)
        yield Session(remote, fetcher, network, cache, seeds, sources, waivers, report, arrivals)

"""Where else RPMs are that are not where a set says: what clients try, in their order.

First what the set's own repository retains; then by the package lists of the RPM's
repository and of the set's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from composer.errors import NotFound, VerificationFailed
from composer.mirror.needs import Place
from composer.net.fetch import Fetcher
from composer.net.job import FetchFailed
from composer.net.location import Mirrors
from composer.net.network import Network
from composer.net.packages import Elsewhere, Wanted
from composer.net.repository import locate_packages
from composer.rpm.package import PackageRef, retained_location

Destination = Callable[[PackageRef], Path]


class OtherPlaces:
    """The places to look in; ``anew`` gets RPMs of a package's name that have another pkgid."""

    def __init__(
        self,
        own: Place,
        repositories: Mapping[str, Place],
        network: Network,
        destination: Destination,
    ) -> None:
        self._own, self._repositories = own, repositories
        self._network, self._destination = network, destination
        self.anew: dict[PackageRef, str] = {}

    def place_of(self, package: PackageRef) -> Place:
        """Say which repository has a package, as a client's remote would."""
        return self._repositories.get(package.repository, self._own)

    def wanted(self, package: PackageRef) -> Wanted:
        """Say where a package should be."""
        return Wanted(package, self._destination(package), self.place_of(package).mirrors)

    @property
    def all(self) -> list[Elsewhere]:
        """What is asked, one after the other."""
        return [self.retained, *self.lists]

    @property
    def lists(self) -> list[Elsewhere]:
        """What is asked when the RPM is not retained either."""
        return [self._listed_there, self._listed_here]

    def retained(self, packages: Sequence[PackageRef]) -> Iterator[Wanted]:
        """Say where the set's own repository keeps packages, if it does."""
        for package in packages:
            yield self._moved(package, retained_location(package), self._own.mirrors)

    def _listed_there(self, packages: Sequence[PackageRef]) -> Iterator[Wanted]:
        for place in sorted({self.place_of(one) for one in packages}, key=lambda one: one.url):
            own = [package for package in packages if self.place_of(package) == place]
            yield from self._listed(place, own)

    def _listed_here(self, packages: Sequence[PackageRef]) -> Iterator[Wanted]:
        yield from self._listed(
            self._own, [package for package in packages if self.place_of(package) != self._own]
        )

    def _listed(self, place: Place, packages: Sequence[PackageRef]) -> Iterator[Wanted]:
        if not packages:
            return
        with closing(Fetcher(place.mirrors, kind="rpm-md", network=self._network)) as fetcher:
            try:
                found = locate_packages(fetcher, packages)
            except (NotFound, FetchFailed, VerificationFailed):
                return  # what is wrong with the list is told by who checks it
        for package in packages:
            for ref in found:
                here = place == self.place_of(package) and ref.location == package.location
                if here and ref.pkgid == package.pkgid:
                    continue  # it is not there, or nobody would ask
                if ref.pkgid == package.pkgid:
                    yield self._moved(package, ref.location, place.mirrors)
                elif ref.nevra == package.nevra:
                    self.anew.setdefault(package, place.url + ref.location)

    def _moved(self, package: PackageRef, location: str, mirrors: Mirrors) -> Wanted:
        there = replace(package, location=location)
        return Wanted(there, self._destination(package), mirrors, serves=package)

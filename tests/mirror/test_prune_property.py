"""Whatever is pruned in whatever order: what a listed version needs is there, and intact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.checksum import ContentDigest
from composer.jigdo.build import LocalPackage
from composer.mirror.labels import label
from composer.mirror.lists import read_lists
from composer.mirror.looking import digest_of
from composer.mirror.needs import Place
from composer.mirror.pruning import PruneOptions, Signing, prune, undo
from composer.mirror.renewing import renew
from composer.mirror.retention import Rules
from composer.mirror.space import read_needs
from composer.mirror.trash import read_unlisted
from composer.mirror.verifying import Options, verify
from composer.rpm.package import retained_location
from composer.rpm.rpmmd import read_packages
from tests.client.published import copy_of
from tests.client.pulling import run_here
from tests.commands import ostree
from tests.mirror.histories import DAY, PACKAGES, STABLE, TESTING, TIME, History

_STEPS = st.one_of(
    st.tuples(
        st.just("prune"),
        st.builds(
            Rules,
            keep=st.integers(0, 4),
            within=st.none() | st.integers(0, 12).map(lambda days: timedelta(days=days)),
            tags=st.sets(st.sampled_from(["a", "b"])).map(frozenset),
            refs=st.sets(st.sampled_from([STABLE, TESTING])).map(frozenset),
        ),
        st.booleans(),
    ),
    st.tuples(st.just("undo"), st.none(), st.booleans()),
    st.tuples(st.just("wait"), st.integers(0, 3), st.none()),
    st.tuples(st.just("label"), st.integers(0, 7), st.sampled_from(["pin", "unpin", "a", "b"])),
    # Packages that the mirror itself drops, so that copies have to be retained.
    st.tuples(st.just("drop"), st.integers(0, 20), st.none()),
)


@dataclass
class Scene:
    """A mirror that things are done to, and what it may rely on."""

    history: History
    directory: Path
    available: list[LocalPackage]
    now: int = TIME + 10 * DAY

    def do(self, step: tuple[str, object, object]) -> None:
        """Carry out one step."""
        kind, what, how = step
        if kind == "prune":
            assert isinstance(what, Rules)
            options = PruneOptions(
                rules=what,
                packages=self.available,
                packages_too=bool(how),
                now=datetime.fromtimestamp(self.now, UTC),
            )
            told = prune(self.directory, options, dry_run=True)
            done = prune(self.directory, options)
            assert done.plan == told.plan
            assert not done.plan.lacking
        elif kind == "undo":
            undo(self.directory, Signing(), self.available if how else ())
        elif kind == "wait":
            assert isinstance(what, int)
            self.now += what * DAY
        elif kind == "label":
            assert isinstance(what, int)
            entries = read_lists(self.directory).entries
            entry = entries[what % len(entries)]
            name = f"{entry.ref}@{entry.commit}"
            if how in ("pin", "unpin"):
                label(self.directory, name, pin=how == "pin")
            else:
                label(self.directory, name, add=[str(how)])
        else:
            assert isinstance(what, int)
            self.drop(what)

    def drop(self, number: int) -> None:
        """Do as an operator who cleans up an upstream repository, and prunes with its archive."""
        rpms = sorted((self.directory / PACKAGES).glob("*.rpm"))
        if not rpms:
            return
        rpms[number % len(rpms)].unlink()
        hidden = [one.location for one in read_unlisted(self.directory)]
        renew(self.directory, read_lists(self.directory), without=hidden)
        options = PruneOptions(packages=self.available, now=datetime.fromtimestamp(self.now, UTC))
        prune(self.directory, options)

    def require_whole(self) -> None:
        """Require what every version that is listed needs, byte for byte, by two ways."""
        entries = read_lists(self.directory).entries
        for needs in read_needs(self.directory, entries):
            assert needs.error is None
            assert self.has(needs.entry.location, needs.entry.pkgid)
            for package in needs.packages:
                places = [package.location, retained_location(package)]
                assert any(self.has(place, package.pkgid) for place in places), package
        found = verify(Place.of(str(self.directory)), Options(full=True, all_packages=True))
        assert found.is_sound, found.problems or found.error
        listed = {one.location for one in read_packages(self.directory)}
        assert {one.location for one in entries} <= listed
        assert not listed & {one.location for one in read_unlisted(self.directory)}
        # The newest of each ref always stays.
        newest = {ref: commits[-1] for ref, commits in self.history.commits.items()}
        pointer = read_lists(self.directory).pointer
        assert {one.ref: str(one.commit) for one in pointer.entries} == newest

    def has(self, location: str, pkgid: ContentDigest) -> bool:
        path = self.directory / location
        return path.is_file() and digest_of(path) == pkgid


@pytest.fixture(scope="module")
def available(history: History) -> list[LocalPackage]:
    """RPMs that were ever there."""
    return [
        LocalPackage(one, history.upstream / one.location)
        for one in read_packages(history.upstream)
    ]


def scenes(history: History, available: list[LocalPackage]) -> Iterator[Scene]:
    """A scene of its own."""
    with TemporaryDirectory() as place:
        yield Scene(history, copy_of(history.mirror, Path(place) / "mirror"), available)


@settings(
    max_examples=int(os.environ.get("JIGDO_PRUNE_EXAMPLES", "12")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(steps=st.lists(_STEPS, min_size=1, max_size=6))
def test_what_listed_versions_need_is_never_removed(
    history: History, available: list[LocalPackage], steps: list[tuple[str, object, object]]
) -> None:
    for scene in scenes(history, available):
        for step in steps:
            scene.do(step)
            scene.require_whole()


@pytest.mark.parametrize("seed", [1, 2])
def test_every_version_that_stayed_is_pulled_whole(
    history: History, available: list[LocalPackage], seed: int, tmp_path: Path
) -> None:
    """Prunes in a row, with copies that are needed; then real pulls by a client."""
    for scene in scenes(history, available):
        scene.drop(seed)
        scene.drop(2 * seed)
        label(scene.directory, f"{STABLE}@1.{seed}", pin=True)
        for keep in (3, 2):
            scene.do(("prune", Rules(keep=keep), True))
            scene.now += 3 * DAY
        scene.do(("prune", Rules(), True))
        config = tmp_path / "config"
        words = ["remote", "add", "x", scene.directory, "--trust", "none"]
        assert run_here(*words, "--config-dir", config).status == 0
        for entry in read_lists(scene.directory).entries:
            repo = tmp_path / "repo"
            ostree(repo, "init", "--mode=bare-user")
            name = f"x:{entry.ref}@{entry.commit}"
            done = run_here("pull", name, "--repo", repo, "--config-dir", config, "--json")
            assert done.status == 0, done.err
            assert done.document["commit"] == str(entry.commit)
            shutil.rmtree(repo)

"""RPM files here as a source of packages, and the proof that a set works."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError, NotFound, VerificationFailed
from composer.jigdo.container import Kind
from composer.jigdo.local import LocalPackages, verify_set
from tests.jigdo.sets import SetOnDisk, frame_bytes, open_bytes, rewritten
from tests.jigdo.systems import crafted_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SetOnDisk:
    """Return the crafted system."""
    return crafted_set(tmp_path_factory.mktemp("local"))


def _paths(made: SetOnDisk) -> dict[ContentDigest, Path]:
    return {package.ref.pkgid: package.path for package in made.packages}


def test_packages_are_given_in_the_order_that_was_asked(made: SetOnDisk) -> None:
    refs = [package.ref for package in made.packages][::-1]
    given = list(LocalPackages(_paths(made)).fetch(refs))
    assert [ref for ref, _ in given] == refs
    assert all(ContentDigest.of(path.read_bytes()) == ref.pkgid for ref, path in given)


def test_packages_that_are_not_here_are_named_before_any_is_given(made: SetOnDisk) -> None:
    paths = _paths(made)
    lost = made.packages[3].ref
    del paths[lost.pkgid]
    with pytest.raises(NotFound, match="1 of 8 packages are not there") as error:
        next(LocalPackages(paths).fetch([package.ref for package in made.packages]))
    assert error.value.details == (f"{lost.nevra} (pkgid {lost.pkgid})",)


def test_file_of_another_pkgid_is_refused(made: SetOnDisk) -> None:
    first, second = made.packages[:2]
    source = LocalPackages({first.ref.pkgid: second.path})
    with pytest.raises(ChecksumMismatch, match=str(first.ref.nevra)) as error:
        next(source.fetch([first.ref]))
    assert str(second.ref.pkgid) in error.value.details[0]


def test_good_set_is_verified_and_leaves_nothing(made: SetOnDisk, tmp_path: Path) -> None:
    verify_set(made.open(), _paths(made), tmp_path)
    assert not list(tmp_path.iterdir())


def test_set_with_other_data_is_not_verified(made: SetOnDisk, tmp_path: Path) -> None:
    number, data = frame_bytes(made.data, Kind.DATA)
    changed = rewritten(made.data, replace={number: data[:-1] + b"!"})
    with pytest.raises(VerificationFailed):
        verify_set(open_bytes(changed), _paths(made), tmp_path)
    assert not list(tmp_path.iterdir())


def test_set_without_its_packages_is_not_verified(made: SetOnDisk, tmp_path: Path) -> None:
    with pytest.raises(ComposerError):
        verify_set(made.open(), {}, tmp_path)

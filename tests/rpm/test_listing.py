"""Package lists of a commit's metadata, and changelogs (composer/rpm/listing.py)."""

from __future__ import annotations

import pytest

from composer.errors import FormatError
from composer.rpm.listing import ChangelogEntry, listed, newer_entries

NEW, LATER, FIRST = (
    ChangelogEntry(200, "a", "new"),
    ChangelogEntry(100, "a", "later that day"),
    ChangelogEntry(100, "a", "first"),
)


def test_lists_of_rpm_ostree_and_of_this_program_are_read() -> None:
    theirs = {
        "rpmostree.rpmdb.pkglist": [("b", "1", "2", "3", "noarch"), ("a", "0", "1", "1", "x")]
    }
    ours = {"jigdo-composer.packages": [("b-1:2-3.noarch", "0" * 64, 5), ("a-1-1.x", "0" * 64, 5)]}
    for metadata in (theirs, ours):
        found = listed(metadata)
        assert found is not None
        assert [str(package) for package in found] == ["a-1-1.x", "b-1:2-3.noarch"]
    assert listed({"version": "1"}) is None


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [("a", "0", "1", "1")],
        [("a/b", "0", "1", "1", "x")],
        [("a", "x", "1", "1", "x")],
        [7],
    ],
)
def test_what_is_no_list_of_packages_is_refused(value: object) -> None:
    with pytest.raises(FormatError, match="package list cannot be read"):
        listed({"rpmostree.rpmdb.pkglist": value})


def test_entries_above_the_old_newest_one_are_new() -> None:
    changelog = [NEW, LATER, FIRST]
    assert newer_entries(changelog, FIRST) == (NEW, LATER)
    assert newer_entries(changelog, LATER) == (NEW,)
    assert newer_entries(changelog, NEW) == ()


def test_rewritten_changelog_is_cut_by_time() -> None:
    changed = ChangelogEntry(150, "a", "was rewritten")
    assert newer_entries([NEW, LATER, FIRST], changed) == (NEW,)
    assert newer_entries([NEW, LATER, FIRST], None) == (NEW, LATER, FIRST)

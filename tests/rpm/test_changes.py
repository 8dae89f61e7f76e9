"""What changed between two sets of packages."""

from __future__ import annotations

from composer.rpm.changes import Changes, compare
from composer.rpm.package import Nevra


def nevras(text: str) -> list[Nevra]:
    return [Nevra.parse(word) for word in text.split()]


def shown(changes: Changes) -> dict[str, list[str]]:
    return {
        "added": [str(nevra) for nevra in changes.added],
        "removed": [str(nevra) for nevra in changes.removed],
        "upgraded": [f"{old} -> {new}" for old, new in changes.upgraded],
        "downgraded": [f"{old} -> {new}" for old, new in changes.downgraded],
    }


def test_equal_sets_have_no_changes() -> None:
    before = nevras("a-1-1.x86_64 b-1-1.noarch")
    assert not compare(before, reversed(before))
    assert compare(before, before) == Changes()


def test_versions_are_compared_as_rpm_does() -> None:
    before = nevras(
        "a-9-1.x86_64 b-1.0~rc1-1.x86_64 c-1:1-1.x86_64 d-1.0-2.x86_64 e-1^git-1.noarch"
    )
    after = nevras("a-10-1.x86_64 b-1.0-1.x86_64 c-2-1.x86_64 d-1.0-1.x86_64 e-1-1.noarch")
    assert shown(compare(before, after)) == {
        "added": [],
        "removed": [],
        "upgraded": ["a-9-1.x86_64 -> a-10-1.x86_64", "b-1.0~rc1-1.x86_64 -> b-1.0-1.x86_64"],
        "downgraded": [
            "c-1:1-1.x86_64 -> c-2-1.x86_64",
            "d-1.0-2.x86_64 -> d-1.0-1.x86_64",
            "e-1^git-1.noarch -> e-1-1.noarch",
        ],
    }


def test_added_and_removed_are_sorted_by_name_then_version() -> None:
    changes = compare(nevras("z-1-1.noarch y-1-1.noarch"), nevras("k-10-1.noarch k-9-1.noarch"))
    assert shown(changes)["added"] == ["k-9-1.noarch", "k-10-1.noarch"]
    assert shown(changes)["removed"] == ["y-1-1.noarch", "z-1-1.noarch"]


def test_kernel_in_several_versions_keeps_what_both_have() -> None:
    before = nevras("kernel-6.1-1.x86_64 kernel-6.2-1.x86_64")
    changes = compare(before, nevras("kernel-6.2-1.x86_64 kernel-6.10-1.x86_64"))
    assert shown(changes)["upgraded"] == ["kernel-6.1-1.x86_64 -> kernel-6.10-1.x86_64"]
    assert not changes.added
    assert not changes.removed
    more = compare(before[:1], nevras("kernel-6.3-1.x86_64 kernel-6.10-1.x86_64"))
    assert shown(more)["upgraded"] == ["kernel-6.1-1.x86_64 -> kernel-6.10-1.x86_64"]
    assert shown(more)["added"] == ["kernel-6.3-1.x86_64"]


def test_architectures_of_one_name_are_compared_each_with_its_own() -> None:
    before = nevras("glibc-1-1.i686 glibc-1-1.x86_64")
    changes = compare(before, nevras("glibc-2-1.x86_64 glibc-2-1.i686"))
    assert shown(changes)["upgraded"] == [
        "glibc-1-1.i686 -> glibc-2-1.i686",
        "glibc-1-1.x86_64 -> glibc-2-1.x86_64",
    ]


def test_changed_architecture_is_an_upgrade_only_with_a_newer_version() -> None:
    before = nevras("a-1-1.x86_64 b-1-1.noarch")
    changes = compare(before, nevras("a-2-1.noarch b-1-1.x86_64"))
    assert shown(changes) == {
        "added": ["b-1-1.x86_64"],
        "removed": ["b-1-1.noarch"],
        "upgraded": ["a-1-1.x86_64 -> a-2-1.noarch"],
        "downgraded": [],
    }


def test_summary_is_plain_values() -> None:
    changes = compare(nevras("a-1-1.noarch b-1-1.noarch"), nevras("a-2-1.noarch c-1-1.noarch"))
    assert changes.summary() == {
        "added": ["c-1-1.noarch"],
        "removed": ["b-1-1.noarch"],
        "upgraded": [{"name": "a", "from": "a-1-1.noarch", "to": "a-2-1.noarch"}],
        "downgraded": [],
    }

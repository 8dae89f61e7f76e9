"""The progressions that rpm-ostree documents."""

from __future__ import annotations

import pytest

from composer.compose.version import next_version


@pytest.mark.parametrize(
    ("prefix", "progression"),
    [
        ("22", ["22", "22.1", "22.2", "22.3"]),
        ("22.1", ["22.1", "22.1.1", "22.1.2"]),
        ("", [""]),
    ],
)
def test_versions_progress(prefix: str, progression: list[str]) -> None:
    previous = ""
    for expected in progression:
        previous = next_version(prefix, previous)
        assert previous == expected


@pytest.mark.parametrize(
    ("prefix", "previous", "expected"),
    [
        ("23", "22.7", "23"),
        ("2", "22.7", "2"),
        ("22", "22.9", "22.10"),
        ("22", "22.beta", "22"),
        ("22", "22.3.1", "22.4"),
    ],
)
def test_another_prefix_starts_anew(prefix: str, previous: str, expected: str) -> None:
    assert next_version(prefix, previous) == expected

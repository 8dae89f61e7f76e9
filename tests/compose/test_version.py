"""The progressions that rpm-ostree documents."""

from __future__ import annotations

import pytest

from composer.compose.document import TreefileError
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
        ("22", "22.beta", "22.1"),
        ("22", "22.3.1", "22.4"),
        ("22", "22.3x", "22.4"),
        ("22", "2201.1", "22"),
        ("22", "22-1", "22"),
    ],
)
def test_another_prefix_starts_anew(prefix: str, previous: str, expected: str) -> None:
    assert next_version(prefix, previous) == expected


def test_suffix_stands_before_the_number() -> None:
    assert next_version("10", "10", suffix="-") == "10-1"
    assert next_version("10.1", "10.1-5", suffix="-") == "10.1-6"
    assert next_version("10", "10.5", suffix="-") == "10"


@pytest.mark.parametrize(
    ("prefix", "previous", "expected"),
    [
        ("10.<date:%Y%m%d>", "", "10.20240229.0"),
        ("10.<date:%Y%m%d>", "10.20001010.5", "10.20240229.0"),
        ("10.<date:%Y%m%d>", "10.20240229", "10.20240229.0"),
        ("10.<date:%Y%m%d>", "10.20240229.1", "10.20240229.2"),
        ("10.<date:%Y>.1", "10.2024.1.0", "10.2024.1.1"),
        ("<date:%Y>.<date:%m>", "2024.02.0", "2024.02.1"),
    ],
)
def test_date_resets_the_number(prefix: str, previous: str, expected: str) -> None:
    assert next_version(prefix, previous, now=1_709_164_800) == expected


def test_impossible_date_is_told() -> None:
    with pytest.raises(TreefileError, match="<date:%Q> is no date"):
        next_version("<date:%Q>", "")

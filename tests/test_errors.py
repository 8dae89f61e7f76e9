"""Errors carry what, where and what to do; each kind has its exit status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from composer.errors import (
    BoundExceeded,
    ChecksumMismatch,
    CommandFailed,
    ComposerError,
    FormatError,
    MissingRequirement,
    NoSpace,
    NotFound,
    NothingNew,
    UsageError,
    VerificationFailed,
)

STATUS_PAGE = Path(__file__).parents[1] / "docs" / "exit-status.md"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ComposerError, 1),
        (MissingRequirement, 1),
        (NotFound, 1),
        (UsageError, 2),
        (VerificationFailed, 3),
        (FormatError, 3),
        (NoSpace, 4),
        (NothingNew, 77),
    ],
)
def test_exit_status_is_the_documented_one(kind: type[ComposerError], status: int) -> None:
    assert kind("it failed").exit_status == status


def test_message_details_and_hint_are_kept() -> None:
    error = ComposerError("it failed", details=(str(n) for n in range(2)), hint="try again")
    assert (str(error), error.details, error.hint) == ("it failed", ("0", "1"), "try again")


def test_error_gathers_its_path_on_the_way_up() -> None:
    error = FormatError("bad byte", hint="h")
    same = error.within("file 3").within("bash-1-1.x")
    assert same is error
    assert str(same) == same.message == "bash-1-1.x: file 3: bad byte"
    assert same.hint == "h"


def test_checksum_mismatch_names_both_and_the_source() -> None:
    error = ChecksumMismatch(what="bash", expected="aa", actual="bb", source="http://m/b.rpm")
    assert error.exit_status == 3
    assert str(error) == "bash: checksum mismatch"
    assert error.details == ("from http://m/b.rpm: expected aa, got bb",)
    assert ChecksumMismatch(what="b", expected="1", actual="2").details == ("expected 1, got 2",)


def test_bound_names_its_size() -> None:
    error = BoundExceeded(what="index", bound=7)
    assert str(error) == "index: more than the declared 7 bytes"
    assert error.exit_status == 3


def test_failed_command_shows_itself_and_its_last_lines() -> None:
    output = "\n".join(f"line {number}" for number in range(40))
    error = CommandFailed(argv=["rpm", "-i", "a b"], status=7, output=output)
    assert str(error) == "rpm failed with status 7"
    assert error.details[0] == "command: rpm -i 'a b'"
    assert error.details[1:] == tuple(f"line {number}" for number in range(28, 40))


def test_page_of_exit_statuses_lists_them_all() -> None:
    listed = {
        int(number) for number in re.findall(r"^\|\s*`?(\d+)`?\s*\|", STATUS_PAGE.read_text(), re.M)
    }
    assert {0, 1, 2, 3, 4, 77, 130} <= listed

"""Other programs through run()."""

from __future__ import annotations

import sys

import pytest

from composer.errors import CommandFailed, MissingRequirement
from composer.system.command import require_program, run


def test_output_is_returned() -> None:
    assert run(["printf", "%s", "a b"]) == b"a b"


def test_input_is_given_and_is_empty_otherwise() -> None:
    assert run(["cat"], stdin=b"data") == b"data"
    assert run(["cat"]) == b""


def test_arguments_are_not_seen_by_a_shell() -> None:
    assert run(["printf", "%s", "$HOME; `id`"]) == b"$HOME; `id`"


def test_locale_and_time_zone_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    out = run(["sh", "-c", "echo $LC_ALL $LANG $TZ $EXTRA"], env={"EXTRA": "given"})
    assert out == b"C.UTF-8 C.UTF-8 UTC given\n"


def test_failure_shows_command_status_and_last_lines() -> None:
    with pytest.raises(CommandFailed) as failure:
        run(["sh", "-c", "echo out; echo the reason >&2; exit 9"], hint="do this")
    error = failure.value
    assert (error.status, error.hint) == (9, "do this")
    assert "the reason" in error.details
    assert error.details[0].startswith("command: sh -c 'echo out;")


def test_undecodable_output_of_a_failure_is_shown() -> None:
    with pytest.raises(CommandFailed) as failure:
        run([sys.executable, "-c", r"import os; os.write(2, b'\xff bad'); raise SystemExit(1)"])
    assert "bad" in failure.value.output


def test_program_that_is_not_there_is_a_missing_requirement() -> None:
    assert require_program("sh", package="dash").endswith("/sh")
    with pytest.raises(MissingRequirement, match="no-such-program") as error:
        require_program("no-such-program", package="thing")
    assert "apt-get install thing" in error.value.hint

"""What a person and a program see of a pull: one progress, the question, JSON by its schema."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.client.published import MINIMAL, Published
from tests.client.pulling import REMOTE, Client

_SCHEMA = Path(__file__).resolve().parents[2] / "docs/events.schema.json"


def events(err: str) -> list[Any]:
    """The JSON lines of standard error, each held against the schema."""
    found = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    checker = jsonschema.Draft202012Validator(json.loads(_SCHEMA.read_text()))
    for event in found:
        checker.validate(event)
    return found


@pytest.fixture
def ready(updatable: Client, published: Published) -> Client:
    updatable.add_remote(published.root / "mirror2")
    return updatable


def test_events_of_a_pull_follow_their_schema(ready: Client) -> None:
    done = ready.run(own_process=True)
    told = events(done.err)
    kinds = [event["event"] for event in told]
    assert set(kinds) == {"step", "plan", "progress"}
    assert kinds.count("plan") == 1
    [plan] = [event for event in told if event["event"] == "plan"]
    assert plan["changes"]["upgraded"]
    assert told[-1]["event"] == "progress"
    assert told[-1]["fraction"] == 1
    assert len(told) == len(done.err.splitlines())  # nothing else is said


def test_error_is_an_event_and_a_text(client: Client, published: Published) -> None:
    client.add_remote(published.root / "mirror2")
    done = client.run("no/such/ref", own_process=True)
    [told] = [event for event in events(done.err) if event["event"] == "error"]
    assert told["status"] == done.status == 1
    assert told["kind"] == "NotFound"
    assert f"error: {told['message']}\n" in done.err
    assert told["hint"]


def _on_a_terminal(client: Client, answer: str, *options: str) -> tuple[int, str]:
    """Pull as a person does, in a terminal, and give the answer to the question."""
    ours, theirs = pty.openpty()
    words = ["pull", f"{REMOTE}:{MINIMAL}", "--repo", str(client.repo), "--disable-fsync"]
    process = subprocess.Popen(
        [sys.executable, "-m", "composer", *words, *options],
        env={**os.environ, **client.env, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the terminal is gone with the process
            break
        if not piece:
            break
        if answer and b"Go on?" not in seen and b"Go on?" in seen + piece:
            os.write(ours, answer.encode())
        seen += piece
    os.close(ours)
    return process.wait(timeout=60), seen.decode(errors="replace")


def test_person_is_asked_and_sees_what_changes(ready: Client, published: Published) -> None:
    status, seen = _on_a_terminal(ready, "y\n")
    assert status == 0, seen
    assert ready.head() == published.commit(MINIMAL, 2)
    question = seen.index("Go on?")
    assert "Upgraded: " in seen[:question]
    assert "To move: " in seen[:question]
    assert " kB of " in seen[question:] or " MB of " in seen[question:]


def test_no_is_no(ready: Client) -> None:
    before = ready.head()
    status, seen = _on_a_terminal(ready, "n\n")
    assert status == 1, seen
    assert "not pulled" in seen
    ready.require_unchanged(before, MINIMAL)


def test_yes_asks_nothing(ready: Client, published: Published) -> None:
    status, seen = _on_a_terminal(ready, "", "--yes")
    assert status == 0, seen
    assert "Go on?" not in seen
    assert ready.head() == published.commit(MINIMAL, 2)

"""composer.client as another tool uses it: the documented example, events, being ended."""

from __future__ import annotations

import ast
import re
import threading
from pathlib import Path

import pytest

import composer
from composer import client as api
from composer.client import (
    Cancelled,
    Declined,
    Event,
    Progress,
    PullPlan,
    Repository,
    Step,
    find_remote,
    pull,
)
from tests.client.published import MINIMAL, Published, fsck
from tests.client.pulling import REMOTE, Client

_TOP = Path(composer.__file__).parent
_PAGE = _TOP.parent / "docs/api.md"


@pytest.fixture
def ready(updatable: Client, published: Published) -> Client:
    """A client at generation 1 whose remote has generation 2."""
    updatable.add_remote(published.root / "mirror2")
    return updatable


def test_example_of_the_documentation_runs(
    ready: Client,
    published: Published,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = re.search(r"```python\n(.*?)```", _PAGE.read_text(), re.S)
    assert example
    monkeypatch.setattr(api, "find_remote", lambda name: find_remote(REMOTE, ready.config))
    exec(compile(example[1], str(_PAGE), "exec"), {"PATH": ready.repo, "REF": MINIMAL})
    out = capsys.readouterr().out
    assert published.commit(MINIMAL, 2) in out
    assert "100%" in out
    assert " -> " in out
    assert ready.head() == published.commit(MINIMAL, 2)


def test_example_of_the_documentation_is_typed(tmp_path: Path) -> None:
    import subprocess
    import sys

    example = re.search(r"```python\n(.*?)```", _PAGE.read_text(), re.S)
    assert example
    page = tmp_path / "example.py"
    given = "from pathlib import Path\nPATH = Path('repo')\nREF = 'ref'\n"
    page.write_text(given + example[1])
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    argv += ["--follow-imports=silent", str(page)]
    done = subprocess.run(argv, cwd=_TOP.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_all_that_is_exported_is_there() -> None:
    from composer import sysroot

    assert all(hasattr(sysroot, name) for name in sysroot.__all__)
    assert sorted(api.__all__) == sorted(set(api.__all__))
    assert all(hasattr(api, name) for name in api.__all__)
    assert (_TOP / "py.typed").is_file()


def test_library_prints_nothing_and_ends_no_process() -> None:
    wrong = []
    for path in sorted(_TOP.rglob("*.py")):
        # What runs as a process of its own talks to its parent; the rest is not below the client.
        layer = path.relative_to(_TOP).parts[0]
        if layer in ("cli", "compose", "mirror", "__main__.py") or path.stem.endswith("_child"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                names = [ast.unparse(node.func)]
            told = {name.partition(".")[0] for name in names} & {"click", "rich", "print", "exit"}
            if told or "sys.exit" in names:
                wrong.append(f"{path.relative_to(_TOP)}:{getattr(node, 'lineno', 0)}")
    assert not wrong, "\n".join(wrong)


def test_pull_tells_its_plan_then_progress_to_the_end(ready: Client) -> None:
    told: list[Event] = []
    done = pull(
        find_remote(REMOTE, ready.config), MINIMAL, Repository.open(ready.repo), report=told.append
    )
    [plan] = [event for event in told if isinstance(event, PullPlan)]
    assert (plan.version, plan.commit, plan.previous) == (done.version, done.commit, done.previous)
    assert plan.changes
    assert plan.changes.upgraded
    progress = [event for event in told if isinstance(event, Progress)]
    assert told.index(plan) < told.index(progress[0])
    assert (progress[-1].fraction, progress[-1].done) == (1.0, progress[-1].total)
    assert progress[-1].total == plan.chosen.bytes
    came = progress[-2]  # by the last step all had come, without rounding up at the end
    assert came.done == came.total
    assert came.fraction == pytest.approx(1.0)


def test_what_is_not_approved_of_is_not_pulled(ready: Client) -> None:
    remote, repo = find_remote(REMOTE, ready.config), Repository.open(ready.repo)
    before, told = ready.head(), list[Event]()
    with pytest.raises(Declined):
        pull(remote, MINIMAL, repo, approve=lambda plan: False, report=told.append)
    ready.require_unchanged(before, MINIMAL)
    assert not [event for event in told if isinstance(event, Step) and event.phase == "packages"]


@pytest.mark.parametrize("phase", ["look", "read set", "packages", "import"])
def test_cancelled_pull_leaves_the_old_state_and_goes_on_later(
    ready: Client, published: Published, phase: str
) -> None:
    remote, repo = find_remote(REMOTE, ready.config), Repository.open(ready.repo)
    before, cancel = ready.head(), threading.Event()

    def report(event: Event) -> None:
        if isinstance(event, Step) and event.phase == phase:
            cancel.set()

    with pytest.raises(Cancelled):
        pull(remote, MINIMAL, repo, report=report, cancel=cancel)
    ready.require_unchanged(before, MINIMAL)
    cancel.clear()
    done = pull(remote, MINIMAL, Repository.open(ready.repo), cancel=cancel)
    assert str(done.commit) == published.commit(MINIMAL, 2) == ready.head()
    fsck(ready.repo)


def test_what_a_listener_raises_ends_the_pull(ready: Client) -> None:
    def report(event: Event) -> None:
        if isinstance(event, Progress) and event.fraction > 0:
            raise ZeroDivisionError

    before = ready.head()
    with pytest.raises(ZeroDivisionError):
        pull(find_remote(REMOTE, ready.config), MINIMAL, Repository.open(ready.repo), report=report)
    ready.require_unchanged(before, MINIMAL)

"""The command line as a whole: help, usage, output, status."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from composer import __version__
from tests.client.published import MINIMAL, Published
from tests.client.pulling import check_message
from tests.commands import Done, jigdo, ostree

_COMMANDS = [
    "",
    "compose",
    "diff",
    "mirror",
    "mirror serve",
    "pull",
    "remote",
    "remote add",
    "remote list",
    "remote remove",
    "repo",
    "repo import",
    "set",
    "set build",
    "set inspect",
    "set verify",
    "treefile",
]
_ENGINES = ["createrepo_c", "dnf", "gi", "libdnf", "lxml", "pycurl", "pydantic", "rich", "rpm"]
_LIST_ENGINES = f"""
import contextlib, io, sys
from composer.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
print([name for name in {_ENGINES} if name in sys.modules], out.getvalue())
"""


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_needs_no_engine(command: str) -> None:
    words = [*command.split(), "--help"]
    argv = [sys.executable, "-c", _LIST_ENGINES, *words]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.startswith("[] Usage: ")
    assert " ".join(["jigdo-composer", *command.split()]) in said


def test_help_is_instant() -> None:
    def seconds() -> float:
        # CPU time, because other programs run beside the tests.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        jigdo("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.2


def test_help_lists_every_command_and_the_statuses() -> None:
    said = jigdo("--help").out
    names = {command.split()[0] for command in _COMMANDS if command}
    assert all(f"\n  {name} " in said for name in names)
    assert "77 nothing new" in " ".join(said.split())


def test_short_option_for_help() -> None:
    assert jigdo("pull", "-h").out == jigdo("pull", "--help").out


def test_installed_command_is_the_same_as_the_module() -> None:
    script = Path(sys.executable).with_name("jigdo-composer")
    said = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == jigdo("--version").out == f"jigdo-composer, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("nonsense", "nonsense"),
        ("--nonsense", "--nonsense"),
        ("pull", "REF"),
        ("pull x", "--repo"),
        ("pull x --repo r --nonsense", "--nonsense"),
        ("pull x --repo r --workers 0", "--workers"),
        ("pull x y --repo r", "y"),
        ("set nonsense", "nonsense"),
        ("set inspect /nonexistent/file", "/nonexistent/file"),
        ("set inspect /usr", "/usr"),
        ("remote add name", "URL"),
        ("remote add name http://x/ --trust everybody", "everybody"),
        ("repo import --repo r", "RPM"),
        ("mirror serve /nonexistent/directory", "/nonexistent/directory"),
        ("mirror serve /usr --port 99999", "99999"),
        ("compose", "TREEFILE"),
        ("compose x.yaml", "--repo"),
    ],
)
def test_wrong_usage_has_its_own_status_and_points_to_help(words: str, named: str) -> None:
    done = jigdo(*words.split(), status=2)
    assert named in done.err
    assert "--help" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize("words", ["", "set", "remote", "repo", "mirror"])
def test_group_without_a_command_shows_its_help(words: str) -> None:
    assert "Commands:" in jigdo(*words.split(), status=2).err


# What is said, and where


@pytest.fixture
def remote(published: Published, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a client that has the remote "demo"."""
    env = {"JIGDO_COMPOSER_CONFIG": str(tmp_path / "config")}
    published.write_remote(tmp_path / "config", "demo", published.root / "mirror2")
    ostree(tmp_path / "repo", "init", "--mode=bare-user")
    return env


def _pull(tmp_path: Path, env: dict[str, str], *options: str, before: Sequence[str] = ()) -> Done:
    words = ["pull", f"demo:{MINIMAL}", "--repo", tmp_path / "repo", "--disable-fsync", *options]
    return jigdo(*before, *words, env=env)


def test_quiet_command_says_nothing_but_its_result(tmp_path: Path, remote: dict[str, str]) -> None:
    done = _pull(tmp_path, remote, before=["--quiet"])
    assert done.err == ""
    assert done.out.startswith(f"{MINIMAL}: 1.1 ")


def test_progress_goes_to_standard_error_in_lines(tmp_path: Path, remote: dict[str, str]) -> None:
    done = _pull(tmp_path, remote)
    lines = done.err.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["look", "read set"]
    assert [line for line in lines if line.startswith("To move: ")]
    assert lines[-1].endswith(" moved, 100%")
    assert len(lines) < 20


def test_progress_beside_json_is_json_too(tmp_path: Path, remote: dict[str, str]) -> None:
    done = _pull(tmp_path, remote, "--json")
    told = [json.loads(line) for line in done.err.splitlines()]
    assert {one["event"] for one in told} == {"step", "plan", "progress"}
    last = [one for one in told if one.get("phase") == "import"][-1]
    assert last["done"] == last["total"] > 0


def test_pull_reports_as_json(published: Published, tmp_path: Path, remote: dict[str, str]) -> None:
    document = _pull(tmp_path, remote, "--json").document
    assert set(document) == {
        "ref",
        "version",
        "commit",
        "previous",
        "updated",
        "packages",
        "moved",
        "new_content_bytes",
        "delta_bytes",
        "object_bytes",
        "seeds",
        "lost",
        "replaced",
        "mirrors",
        "packing",
        "wrong",
    }
    assert document["lost"] == document["replaced"] == document["wrong"] == []
    assert document["ref"] == MINIMAL
    assert document["commit"] == published.commit(MINIMAL, 2)
    assert document["previous"] is None
    assert set(document["moved"]) == {"rpm", "set", "new", "delta", "again"}
    assert all(set(part) == {"bytes", "requests"} for part in document["moved"].values())
    assert document["moved"]["again"] == {"bytes": 0, "requests": 0}
    [mirror] = document["mirrors"]
    assert mirror["bytes"] == sum(part["bytes"] for part in document["moved"].values())


def test_pull_of_what_is_here_says_so(tmp_path: Path, remote: dict[str, str]) -> None:
    first = _pull(tmp_path, remote, "--json").document
    assert f"already at 1.1 {first['commit']}" in _pull(tmp_path, remote).out
    again = _pull(tmp_path, remote, "--json").document
    assert again["updated"] is False
    assert again["previous"] == again["commit"] == first["commit"]


def test_error_is_said_without_a_traceback_unless_asked(tmp_path: Path) -> None:
    env = {"JIGDO_COMPOSER_CONFIG": str(tmp_path)}
    ostree(repo := tmp_path / "repo", "init", "--mode=bare-user")
    plain = jigdo("pull", "x:y", "--repo", repo, env=env, status=1)
    check_message(plain.err, "no remote x")
    verbose = jigdo("-v", "pull", "x:y", "--repo", repo, env=env, status=1)
    assert verbose.err.startswith("Traceback")
    assert verbose.err.endswith(plain.err)
    quiet = jigdo("-q", "pull", "x:y", "--repo", repo, env=env, status=1)
    assert quiet.err == plain.err


def test_reader_that_goes_away_is_no_accident(published: Published) -> None:
    receive, send = os.pipe()
    os.close(receive)
    argv = [sys.executable, "-m", "composer", "set", "inspect"]
    argv.append(str(published.set_rpm(MINIMAL, 2).path))
    try:
        done = subprocess.run(argv, stdout=send, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(send)
    assert done.returncode == 1
    assert done.stderr == ""


def test_locale_and_place_do_not_matter(published: Published, tmp_path: Path) -> None:
    """Paths are relative to where the person is; names with odd letters are no trouble."""
    place = tmp_path / "Ünï cödé"
    place.mkdir()
    argv = [sys.executable, "-m", "composer", "compose", "--dry-run", "--json"]
    argv += [str(Path(__file__).resolve().parents[2] / "treefiles/fixture-minimal.yaml")]
    argv += ["--repo", "repo", "--cachedir", "cache"]
    argv += ["--repository", f"fixture={published.packages(1)}"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        argv, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ref"] == MINIMAL
    assert document["commit"] is None
    assert "paint-5.0-1.fx.x86_64" in document["packages"]


def test_nothing_new_has_its_own_status(published: Published, tmp_path: Path) -> None:
    treefile = Path(__file__).resolve().parents[2] / "treefiles/fixture-minimal.yaml"
    words = ["compose", treefile, "--repo", published.repo, "--cachedir", tmp_path / "cache"]
    words += ["--repository", f"fixture={published.packages(2)}"]
    done = jigdo(*words, status=77)
    check_message(
        done.err.partition("error: ")[1] + done.err.partition("error: ")[2], "nothing new"
    )


def test_interrupt_within_a_destructor_still_interrupts() -> None:
    """Python only prints what is raised there; PyGObject has destructors everywhere."""
    program = """
import os, signal, sys, time
import composer.cli.main as main

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):
            pass

def work(**options):
    for _ in range(20):
        Late()
        time.sleep(0.05)

main.cli.main = work
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; run the same command again to continue\n"

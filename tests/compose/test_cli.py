"""The commands `treefile` and `compose`, as a person calls them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.compose.rpms import Spec, needs_root, repository, shell

CHECKOUT = Path(__file__).parents[2]


def call(*argv: str, cwd: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Call the command; ``before`` is a directory where modules are looked for first."""
    command = [sys.executable, "-m", "composer", *argv]
    env = {
        "PYTHONPATH": f"{before}:{CHECKOUT}".lstrip(":"),
        "PATH": "/usr/bin:/usr/sbin:/bin",
        "HOME": str(cwd),
    }
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def treefile(tmp_path: Path) -> Path:
    path = tmp_path / "os.yaml"
    path.write_text("ref: os/$basearch\nrepos: [base]\npackages: [shell]\nselinux: false\n")
    return path


def test_treefile_is_printed_flattened(tmp_path: Path, treefile: Path) -> None:
    (tmp_path / "top.yaml").write_text("include: os.yaml\nunits: [a.service]\n")
    done = call("treefile", "top.yaml", "--basearch", "aarch64", cwd=tmp_path)
    assert done.returncode == 0
    expected = {
        "ref": "os/aarch64",
        "repos": ["base"],
        "packages": ["shell"],
        "units": ["a.service"],
        "selinux": False,
    }
    assert yaml.safe_load(done.stdout) == expected
    done = call("treefile", "top.yaml", "--basearch", "aarch64", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == expected


def test_wrong_treefile_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "fedora.yaml").write_text("packages:\n- a\n- b\n- c\n- 7\n")
    done = call("treefile", "fedora.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: fedora.yaml: packages[3]: expected a string, got 7 (line 5)\n"
    (tmp_path / "fedora.yaml").write_text("packges: []\n")
    done = call("treefile", "fedora.yaml", cwd=tmp_path)
    assert done.stderr.splitlines()[1] == "hint: did you mean packages?"


def test_repository_option_must_be_a_pair(tmp_path: Path, treefile: Path) -> None:
    done = call("compose", "os.yaml", "--repo", "r", "--repository", "base", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected ID=URL" in done.stderr


def test_undefined_repository_is_told_with_where_it_was_looked_for(
    tmp_path: Path, treefile: Path
) -> None:
    done = call("compose", "os.yaml", "--repo", "r", "--dry-run", cwd=tmp_path)
    assert done.returncode == 1
    assert "os.yaml: repos: nothing defines the repository 'base'" in done.stderr
    assert "looked for [base] in: ./*.repo (none)" in done.stderr


@needs_root
def test_compose_from_start_to_nothing_new(tmp_path: Path, treefile: Path) -> None:
    place = repository(tmp_path / "rpms", [shell()])
    argv = ["compose", "os.yaml", "--repo", "r", "--cachedir", "c", "--basearch", "x86_64"]
    argv += ["--repository", f"base={place.name}"]
    dry = call(*argv, "--dry-run", cwd=tmp_path)
    assert dry.stdout == "shell-1-1.noarch\n"
    assert not (tmp_path / "r").exists()
    done = call(*argv, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ref"] == "os/x86_64"
    assert result["packages"] == ["shell-1-1.noarch"]
    steps = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {"solve", "verify", "install", "postprocess", "commit"} <= {s["phase"] for s in steps}
    start = time.monotonic()
    again = call(*argv, cwd=tmp_path)
    assert time.monotonic() - start < 3
    assert again.returncode == 77
    assert "nothing new" in again.stderr


@needs_root
def test_a_commit_whose_set_was_not_published_is_published_by_running_again(
    tmp_path: Path, treefile: Path
) -> None:
    base = repository(tmp_path / "base", [shell()])
    words = ["compose", "os.yaml", "--repo", "r", "--repository", f"base={base}", "--json"]
    words += ["--cachedir", "cache"]
    with treefile.open("a") as stream:
        stream.write("rojig: {name: small-os, summary: A small OS, license: MIT}\n")
    first = call(*words, cwd=tmp_path)
    assert json.loads(first.stdout)["set"] is None
    again = call(*words, "--rpm-repo", "mirror", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    published = json.loads(again.stdout)
    assert published["commit"] == json.loads(first.stdout)["commit"]
    assert (tmp_path / published["set"]["rpm"]).is_file()
    assert Path(published["set"]["rpm"]).name.startswith("small-os-")
    assert call(*words, "--rpm-repo", "mirror", cwd=tmp_path).returncode == 77


@needs_root
def test_missing_libseccomp_is_one_warning(tmp_path: Path, treefile: Path) -> None:
    base = repository(tmp_path / "base", [Spec("lone", scripts={"%post -p <lua>": "x = 1"})])
    treefile.write_text(treefile.read_text().replace("shell", "lone"))
    words = ["compose", "os.yaml", "--repo", "r", "--repository", f"base={base}"]
    words += ["--cachedir", "cache", "--force-nocache"]
    assert "libseccomp" not in call(*words, cwd=tmp_path).stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "seccomp.py").write_text("raise ImportError\n")
    done = call(*words, cwd=tmp_path, before=str(broken))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("libseccomp is missing") == 1


@needs_root
@pytest.mark.parametrize(
    ("library", "wanted"), [("cyclonedx", ["--sbom", "s.json"]), ("dnf", []), ("gi", [])]
)
def test_missing_library_is_named_before_anything_is_done(
    tmp_path: Path, treefile: Path, library: str, wanted: list[str]
) -> None:
    base = repository(tmp_path / "base", [shell()])
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "sitecustomize.py").write_text(f"import sys\nsys.modules[{library!r}] = None\n")
    words = ["compose", "os.yaml", "--repo", "r", "--repository", f"base={base}", *wanted]
    if library == "gi":  # it is asked first of a repository that is there
        (tmp_path / "r").mkdir()
        (tmp_path / "r/config").write_text("[core]\n")
    done = call(*words, "--cachedir", "cache", cwd=tmp_path, before=str(lacking))
    assert done.returncode == 1
    assert f"error: the Python library {library} is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "r").glob("refs/*"))

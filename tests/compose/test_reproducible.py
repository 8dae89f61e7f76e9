"""One input, many circumstances, one commit: each real compose differs in one thing.

The packages' scriptlets write what usually breaks it: an ld.so.cache, a compiled file with
the time of its source, a packed file, a list of files, and all that they can see of the
machine and of whoever called the program.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import ostree
from tests.compose.rpms import File, Spec, needs_root, repository, shell

pytestmark = needs_root

CHECKOUT = Path(__file__).parents[2]
_LDCONFIG = next(
    (p for p in map(Path, ("/sbin/ldconfig", "/usr/sbin/ldconfig")) if p.exists()), None
)
_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
_B = "/usr/bin/busybox"

_SCRIPT = f"""set -e
{{ env | {_B} sort; umask; pwd; id; {_B} hostname; ulimit -a; echo ~; }} > /usr/share/seen
{_B} ls /etc /usr /usr/bin / >> /usr/share/seen
cat /etc/passwd /etc/group >> /usr/share/seen
test ! -x /usr/sbin/ldconfig || /usr/sbin/ldconfig
{_B} stat -c %Y /usr/lib/app/module.py > /usr/lib/app/module.pyc
{_B} gzip -c < /usr/lib/app/module.py > /usr/lib/app/module.gz
{_B} find /usr/many -type f | {_B} sort > /usr/share/listing
echo "$SOURCE_DATE_EPOCH" > /usr/share/built
echo user:x:4711: >> /etc/group
mkdir -p /var/lib/app /var/cache/app
{_B} date > /var/cache/app/stamp
echo state > /var/lib/app/state
"""


def _application() -> Spec:
    files = {f"/usr/many/{number}": File("x") for number in range(20)}
    files["/usr/lib/app/module.py"] = File("x = 1\n")
    files["/usr/share/doc/app/README"] = File("read", mark="%doc")
    files["/usr/share/locale/de/app.mo"] = File("de", mark="%lang(de)")
    files["/usr/share/app/owned"] = File("x", owner="app", group="app")
    files["/etc/app.conf"] = File("x = 1\n", mark="%config(noreplace)")
    if _LDCONFIG is not None:
        files["/usr/sbin/ldconfig"] = File(_LDCONFIG.resolve().read_bytes(), "0755")
        files["/etc/ld.so.conf"] = File("/usr/lib/app\n")
    headers = ["Provides: user(app) group(app)"]
    return Spec("app", files=files, scripts={"%post": _SCRIPT}, headers=headers)


@dataclass(frozen=True)
class Place:
    """Two repositories, a treefile over both, and the commit that came of it first."""

    top: Path
    treefile: Path
    commit: str


@dataclass(frozen=True)
class Run:
    """A compose as a person starts it: what stands before the command, and where."""

    before: Sequence[str] = ()
    env: Mapping[str, str | None] | None = None
    umask: int = 0o022
    more: Sequence[str] = ()
    turned: bool = False


def _compose(place: Path, treefile: Path, rpms: Path, run: Run) -> str:
    place.mkdir(parents=True, exist_ok=True)
    repositories = [f"--repository={name}={rpms / name}" for name in ("base", "extra")]
    argv = [*run.before, sys.executable, "-m", "composer", "compose", str(treefile), "--json"]
    argv += ["--repo", str(place / "repo"), "--cachedir", str(place / "cache"), "--no-parent"]
    argv += [*(reversed(repositories) if run.turned else repositories), *run.more]
    env: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(CHECKOUT), **(run.env or {})}
    done = subprocess.run(
        argv,
        cwd=place,
        env={name: value for name, value in env.items() if value is not None},
        umask=run.umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["commit"])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Place:
    top = tmp_path_factory.mktemp("reproducible")
    repository(top / "base", [shell()])
    repository(top / "extra", [_application(), Spec("empty")])
    treefile = top / "os.yaml"
    treefile.write_text(
        "ref: os\nrepos: [base, extra]\npackages: [shell, app, empty]\nselinux: false\n"
        'postprocess: ["#!/usr/bin/sh\\nenv > /usr/share/seen-by-script"]\n'
    )
    return Place(top, treefile, _compose(top / "first", treefile, top, Run()))


def _same(first: Place, tmp_path: Path, run: Run) -> None:
    commit = _compose(tmp_path / "second", first.treefile, first.top, run)
    if commit != first.commit:
        # Both in one repository, for a message that says what differs.
        repo, other = tmp_path / "second/repo", first.top / "first/repo"
        subprocess.run(["ostree", f"--repo={repo}", "pull-local", str(other)], check=True)
        pytest.fail(ostree(repo, "diff", first.commit, commit) or "only the metadata differs")


def _own_namespace(kind: str, script: str) -> list[str]:
    argv = ["unshare", f"--{kind}", "--", "sh", "-euc", f'{script}; exec "$@"', "sh"]
    if subprocess.run([*argv, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"no {kind} namespace can be made here")
    return argv


def test_the_scriptlet_saw_what_it_was_to_see(first: Place) -> None:
    repo = first.top / "first/repo"
    seen = ostree(repo, "cat", "os", "/usr/share/seen")
    assert "compose" in seen.splitlines()
    assert "TZ=UTC" in seen
    assert ostree(repo, "cat", "os", "/usr/share/built") == "1700000000"
    listed = ostree(repo, "ls", "-R", "os", "/usr")
    assert "/usr/share/doc/app/README" in listed
    assert "/usr/share/locale/de/app.mo" in listed
    assert ("/usr/etc/ld.so.cache" in listed) == (_LDCONFIG is not None)


def test_another_directory(first: Place, tmp_path: Path) -> None:
    _same(first, tmp_path / "a rather longer name, with spaces" / "below", Run())


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777 & ~0o700])
def test_another_umask(first: Place, tmp_path: Path, umask: int) -> None:
    _same(first, tmp_path, Run(umask=umask))


def test_another_locale_and_time_zone(first: Place, tmp_path: Path) -> None:
    env = {"LC_ALL": "tr_TR.UTF-8", "LANG": "ja_JP", "LANGUAGE": "de", "TZ": "Asia/Kathmandu"}
    _same(first, tmp_path, Run(env=env))


def test_another_environment(first: Place, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.rpmmacros").write_text("%_install_langs fr\n%_excludedocs 1\n")
    env = {"HOME": str(tmp_path / "home"), "USER": "x", "TMPDIR": str(tmp_path), "COLUMNS": "7"}
    _same(first, tmp_path, Run(env={**env, "PYTHONHASHSEED": "7"}))


def test_one_processor(first: Place, tmp_path: Path) -> None:
    processor = str(max(os.sched_getaffinity(0)))
    _same(first, tmp_path, Run(before=["taskset", "--cpu-list", processor]))


def test_another_host_name(first: Place, tmp_path: Path) -> None:
    _same(first, tmp_path, Run(before=_own_namespace("uts", "hostname elsewhere.example")))


@pytest.mark.skipif(_FAKETIME is None, reason="needs libfaketime")
@pytest.mark.parametrize("shift", ["+1000d", "-400d", "+11h"])
def test_another_day(first: Place, tmp_path: Path, shift: str) -> None:
    env = {"LD_PRELOAD": str(_FAKETIME), "FAKETIME": shift, "DONT_FAKE_MONOTONIC": "1"}
    told = subprocess.run(
        ["date", "+%s"], env={**os.environ, **env}, capture_output=True, check=True
    )
    real = subprocess.run(["date", "+%s"], capture_output=True, check=True)
    assert abs(int(told.stdout) - int(real.stdout)) > 10_000
    # Its clock_nanosleep, which Python's time.sleep calls, fails with EINVAL.
    (tmp_path / "site").mkdir()
    sleep = "import select, time\ntime.sleep = lambda t: select.select([], [], [], t) and None\n"
    (tmp_path / "site/sitecustomize.py").write_text(sleep)
    path = f"{tmp_path / 'site'}:{CHECKOUT}"
    _same(first, tmp_path, Run(env={**env, "PYTHONPATH": path, "SOURCE_DATE_EPOCH": None}))


def test_another_order_of_repositories(first: Place, tmp_path: Path) -> None:
    _same(first, tmp_path, Run(turned=True))
    shutil.rmtree(tmp_path / "second")
    turned = Place(first.top, tmp_path / "os.yaml", first.commit)
    turned.treefile.write_text(first.treefile.read_text().replace("[base, extra]", "[extra, base]"))
    _same(turned, tmp_path, Run())


def test_another_order_of_packages_in_a_repository(first: Place, tmp_path: Path) -> None:
    (tmp_path / "rpms/base").mkdir(parents=True)
    (tmp_path / "rpms/extra/z").mkdir(parents=True)
    for name in ("base", "extra"):
        for rpm in (first.top / name).glob("*.rpm"):
            shutil.copy(rpm, tmp_path / "rpms" / name / ("z" if "app" in rpm.name else "."))
        subprocess.run(["createrepo_c", "-q", str(tmp_path / "rpms" / name)], check=True)
    _same(Place(tmp_path / "rpms", first.treefile, first.commit), tmp_path, Run())


def test_a_machine_with_other_packages(first: Place, tmp_path: Path) -> None:
    macros = tmp_path / "macros.d"
    macros.mkdir()
    (macros / "macros.other").write_text(
        "%_install_langs fr\n%_excludedocs 1\n%_netsharedpath /usr/share\n%_dbpath /nowhere\n"
        "%_db_backend ndb\n%_instchangelog 0\n%_minimize_writes 1\n%_tmppath /nowhere\n"
        "%_transaction_color 3\n%_prefer_color 1\n%_color_output always\n%_file_context_path x\n"
    )
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:5:5::/:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\napp:x:5:\n")
    mounts = [
        ["mount", "--bind", str(tmp_path / "passwd"), "/etc/passwd"],
        ["mount", "--bind", str(tmp_path / "group"), "/etc/group"],
        ["mount", "--bind", str(macros), "/usr/lib/rpm/macros.d"],
    ]
    if Path("/etc/rpm").is_dir():
        mounts.append(["mount", "--bind", str(macros), "/etc/rpm"])
    script = "; ".join(map(shlex.join, mounts))
    _same(first, tmp_path, Run(before=_own_namespace("mount", script)))


def test_composed_again_where_objects_are(first: Place, tmp_path: Path) -> None:
    run = Run(more=["--force-nocache"])
    _same(first, tmp_path, run)
    assert _compose(tmp_path / "second", first.treefile, first.top, run) == first.commit
    assert "no errors" in ostree(tmp_path / "second/repo", "fsck")


def test_checked_by_the_program_itself(first: Place, tmp_path: Path) -> None:
    _same(first, tmp_path, Run(more=["--check-reproducible"]))

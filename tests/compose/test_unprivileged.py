"""A compose by a plain user: the same commit as root's, or what is missing for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.plain_user import (
    CHECKOUT,
    GRANTED,
    NAME,
    NUMBER,
    PlainUser,
    needs_plain_user,
    plain_user,
)
from tests.compose.rpms import File, Spec, repository, shell
from tests.compose.test_cli import call

pytestmark = needs_plain_user

TREEFILE = """\
ref: os
repos: [base]
packages: [shell, owners, work]
selinux: false
postprocess:
- |
  #!/bin/sh
  echo made > /usr/share/made
  chown daemon:app /usr/share/made
  chmod 2711 /usr/share/made
"""
OWNERS = Spec(
    "owners",
    files={
        "/usr/lib/sysusers.d/a.conf": File("u app 77 - /\nu daemon 2 - /\nu last 65535 - /\n"),
        "/usr/bin/setuid": File("x", "4755"),
        "/usr/bin/setgid": File("x", "2755", group="app"),
        "/usr/bin/capable": File("x", "0755", mark="%caps(cap_net_raw,cap_net_admin=ep)"),
        "/usr/share/app": File("x", "0640", owner="app", group="app"),
        "/usr/share/last": File("x", "0600", owner="last", group="daemon"),
        "/usr/share/dir": File(directory=True, mode="3770", owner="daemon", group="app"),
        "/usr/share/link": File(link="app"),
    },
    headers=["Requires(pre): shell"],
)
WORK = Spec(
    "work",
    scripts={
        "%post": "id > /usr/share/id; printf a > /usr/share/a; ln /usr/share/a /usr/share/b\n"
        "chown app:daemon /usr/share/a; mkdir -m 0700 /usr/share/private; umask > /usr/share/umask",
        "%posttrans -p <lua>": 'io.open("/usr/share/lua", "w"):write("lua")',
        "%transfiletriggerin -- /usr/share": "cat > /usr/share/triggered",
    },
    headers=["Requires: shell", "Requires: owners"],
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("base") / "rpms", [shell(), OWNERS, WORK])


@pytest.fixture
def user(base: Path) -> Iterator[PlainUser]:
    with plain_user() as user:
        subprocess.run(["cp", "-r", str(base), str(user.home / "rpms")], check=True)
        (user.home / "os.yaml").write_text(TREEFILE)
        yield user


WORDS = ["compose", "os.yaml", "--repo", "r", "--repository", "base=rpms", "--cachedir", "cache"]
WORDS += ["--json"]


def _by_root(place: Path, base: Path) -> str:
    place.mkdir()
    (place / "os.yaml").write_text(TREEFILE)
    (place / "rpms").symlink_to(base)
    done = call(*WORDS, cwd=place)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["commit"])


def test_plain_user_makes_the_same_commit_as_root(
    user: PlainUser, base: Path, tmp_path: Path
) -> None:
    by_root = _by_root(tmp_path / "root", base)
    # Nice, too, which nobody but root can take back.
    words = ["nice", "-n", "10", sys.executable, "-m", "composer", *WORDS]
    variables = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "PYTHONPATH": str(CHECKOUT)}
    done = user.run(words, **variables)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert json.loads(done.stdout)["commit"] == by_root
    ls = ["ostree", f"--repo={user.home}/r", "ls", "-RX", "os", "/usr/bin", "/usr/share"]
    listed = subprocess.run(ls, capture_output=True, text=True, check=True).stdout
    # Version 2, without the id of a namespace's root.
    assert "b'security.capability', [byte 0x01, 0x00, 0x00, 0x02" in listed
    assert "-04755 0 0" in listed
    assert "-02711 2 77" in listed
    assert "-00600 65535 2" in listed
    owners = {path.lstat().st_uid for path in (user.home / "r").rglob("*")}
    assert owners == {NUMBER}
    assert not list((user.home / "cache/composing").iterdir())
    again = user.call(*WORDS)
    assert again.returncode == 77


def test_what_a_killed_compose_of_a_plain_user_left_is_removed(user: PlainUser) -> None:
    left = user.home / "cache/composing/compose-left"
    (left / "tree/private").mkdir(parents=True)
    subprocess.run(["chown", "-R", str(NUMBER), str(user.home / "cache")], check=True)
    # Of a subordinate id: not the user's own to remove.
    subprocess.run(["chown", "-R", "700076:700076", str(left / "tree")], check=True)
    (left / "tree/private").chmod(0o700)
    (left / "tree").chmod(0o755)
    assert user.run(["rm", "-rf", str(left)]).returncode != 0
    done = user.call(*WORDS)
    assert done.returncode == 0, done.stderr
    assert not left.exists()


def test_dry_run_takes_no_subordinate_ids(user: PlainUser) -> None:
    user.grant(None, None)
    done = user.call(*WORDS[:-1], "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "owners-1-1.noarch" in done.stdout


@pytest.mark.parametrize(
    ("users", "groups", "message"),
    [
        (None, None, f"subordinate user ids; {NAME} has none in /etc/subuid"),
        ("other:700000:65536\n", GRANTED, f"user ids; {NAME} has none in /etc/subuid"),
        (GRANTED, "", f"subordinate group ids; {NAME} has none in /etc/subgid"),
        (f"{NAME}:700000:1000\n", GRANTED, f"user ids; {NAME} has 1000 in /etc/subuid"),
        (f"{NAME}:x:y\n", GRANTED, f"user ids; {NAME} has none in /etc/subuid"),
    ],
)
def test_missing_subordinate_ids_are_named_with_the_remedy(
    user: PlainUser, users: str | None, groups: str | None, message: str
) -> None:
    user.grant(users, groups)
    done = user.call(*WORDS)
    assert done.returncode == 1
    assert message in done.stderr
    assert f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {NAME}" in done.stderr
    assert not (user.home / "r").exists()


def test_ranges_may_be_several_and_by_number(user: PlainUser) -> None:
    halves = f"{NAME}:700000:30000\n{NUMBER}:800000:40000\n"
    user.grant(halves, GRANTED)
    done = user.call(*WORDS)
    assert done.returncode == 0, done.stderr


def test_missing_newuidmap_is_named(user: PlainUser) -> None:
    (user.home / "bin").mkdir()
    done = user.call(*WORDS, PATH=str(user.home / "bin"))
    assert done.returncode == 1
    assert "newuidmap is not installed" in done.stderr
    assert "apt-get install uidmap, or dnf install shadow-utils" in done.stderr


def test_newuidmap_that_may_not_map_is_told(user: PlainUser) -> None:
    done = user.call(
        *WORDS, before="mount --bind /usr/bin /usr/bin && mount -o remount,bind,nosuid /usr/bin"
    )
    assert done.returncode == 1
    assert "the subordinate ids could not be mapped" in done.stderr
    assert "setuid root" in done.stderr


def test_forbidden_user_namespaces_are_told_with_the_setting(user: PlainUser) -> None:
    # The kernel allows none within a chroot; a setting would be the whole machine's.
    root, setting = user.home / "root", user.home / "setting"
    root.mkdir()
    setting.write_text("0\n")
    before = (
        f"mount --bind {setting} /proc/sys/user/max_user_namespaces && mount --rbind / {root}"
        f' && cd {user.home} && exec chroot {root} env -C {user.home} "$@"'
    )
    done = user.call(*WORDS, before=before)
    assert done.returncode == 1
    assert "lets no plain user make a user namespace" in done.stderr
    assert "sysctl user.max_user_namespaces is 0" in done.stderr


def test_ids_that_the_namespace_does_not_have_are_named(user: PlainUser) -> None:
    treefile = TREEFILE.replace("packages: [", "packages: [far, ")
    (user.home / "os.yaml").write_text(treefile)
    far = Spec("far", files={"/usr/lib/sysusers.d/far.conf": File("u far 70000 - /\n")})
    repository(user.home / "rpms", [far])
    done = user.call(*WORDS)
    assert done.returncode == 1
    assert "the user far has the number 70000" in done.stderr

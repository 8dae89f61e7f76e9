#!/usr/bin/env python3
"""Debian's SELinux policy as an RPM: ``python3 -m tests.corpus.policy --out DIR``.

Debian's package holds policy modules, which its maintainer script links on the machine
that it is installed on.  Here semodule links them in a scratch root, with no SELinux on
this machine, and the result becomes a package of its own in the rpm-md repository DIR.

Needs apt's network, dpkg-deb, semodule (policycoreutils) and rpmbuild; half a minute.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fixtures.rpms.build import FixtureError, build_repository

PACKAGE = "selinux-policy-debian"
_SOURCE = "selinux-policy-default"
_SPEC = Path(__file__).with_name(f"{PACKAGE}.spec")
_SEMANAGE = """\
module-store = direct
expand-check = 0
bzip-blocksize = 0
# Home directories of this machine's users are nothing of the tree's.
usepasswd = false
"""


class PolicyUnavailable(Exception):
    """What the policy is made of or with is not here; the message says what."""


def make(out: Path) -> Path:
    """Make the repository ``out`` and return its one package.  Raises PolicyUnavailable."""
    for program in ("apt-get", "dpkg-deb", "semodule", "rpmbuild", "createrepo_c"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            raise PolicyUnavailable(f"no {program} on this machine")
    with tempfile.TemporaryDirectory(prefix="policy.") as scratch:
        work = Path(scratch)
        work.chmod(0o755)
        version = _unpack(work)
        _link(work / "unpacked", work / "root")
        defines = {"policy_root": str(work / "root"), "policy_version": version}
        try:
            (rpm,) = build_repository([_SPEC], out, defines=defines)
        except FixtureError as error:
            raise PolicyUnavailable(str(error)) from error
    return rpm


def _unpack(work: Path) -> str:
    """Fetch and unpack Debian's package; returns its upstream version."""
    download = work / "download"
    download.mkdir()
    download.chmod(0o777)  # apt fetches as its own user
    _run(["apt-get", "--quiet", "download", _SOURCE], download)
    (deb,) = download.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(deb), str(work / "unpacked")], work)
    version = _run(["dpkg-deb", "--field", str(deb), "Version"], work).strip()
    return version.partition(":")[2].partition("-")[0]


def _link(unpacked: Path, root: Path) -> None:
    shutil.copytree(unpacked / "etc/selinux", root / "etc/selinux")
    (root / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=default\n")
    (root / "etc/selinux/semanage.conf").write_text(_SEMANAGE)
    (root / "var/lib/selinux/default").mkdir(parents=True)
    modules = unpacked / "usr/share/selinux/default"
    argv = ["semodule", "--noreload", "--store", "default", "--path", str(root)]
    for name in (modules / ".modules").read_text().split():
        argv += ["--install", str(modules / f"{name}.pp.bz2")]
    _run(argv, root)
    (root / "etc/selinux/semanage.conf").unlink()


def _run(argv: list[str], directory: Path) -> str:
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv, cwd=directory, env=path, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n  ".join((done.stdout + done.stderr).splitlines()[-8:])
        raise PolicyUnavailable(f"{argv[0]}: exit status {done.returncode}\n  {last}")
    return done.stdout


def main() -> int:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    try:
        print(make(parser.parse_args().out))
    except PolicyUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

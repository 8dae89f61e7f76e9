"""Ways to look at fixture packages that several tests share: headers, a solver, an install."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dnf
import dnf.conf
import rpm

# What the treefiles ask for, without the packages that only dependencies bring.
WHOLE_OS = (
    *("filesystem", "setup", "busybox", "coreutils", "fixture-release", "kernel"),
    *("atlas", "ca-bundle", "legacy-fonts", "zones"),
    *("docs-viewer", "paint", "paint-manual"),
    *("messaged", "systemd-units"),
    *("plugin-blue", "plugin-index", "plugin-red"),
    *("privileges", "vcs"),
)
BASE = ("setup", "filesystem", "busybox", "coreutils")


def find_rpm(repository: Path, name: str) -> Path:
    """Return the RPM of package ``name``; there is exactly one."""
    (found,) = [path for path in rpms(repository) if package_name(path) == name]
    return found


def rpms(repository: Path) -> list[Path]:
    """Return all RPMs of ``repository``, sorted."""
    return sorted(repository.glob("Packages/*/*.rpm"))


def package_name(path: Path) -> str:
    """Return the package name that the file name of an RPM says."""
    return path.name.rsplit("-", 2)[0]


def read_header(path: Path) -> Any:
    """Return librpm's header of the RPM at ``path``."""
    transaction = rpm.TransactionSet()
    # An empty keyring, or librpm opens the database in the caller's home to find one.
    transaction.setKeyring(rpm.keyring())
    with path.open("rb") as stream:
        return transaction.hdrFromFdno(stream.fileno())


def header_of(repository: Path, name: str) -> Any:
    """Return the header of package ``name`` in ``repository``."""
    return read_header(find_rpm(repository, name))


def files_of(repository: Path, name: str) -> dict[str, Any]:
    """Return the files of package ``name``, as librpm describes them, by path."""
    return {file.name: file for file in rpm.files(header_of(repository, name))}


def solve(
    repository: Path, scratch: Path, specs: Sequence[str], *, recommends: bool = True
) -> list[Path]:
    """Return the RPMs that dnf chooses for ``specs`` in an empty root, sorted.

    Groups are asked for as ``@id``.  Raises dnf.exceptions.Error.
    """
    # Base() without a configuration opens the rpm database of the machine, and on Debian
    # makes one in the caller's home.
    conf = dnf.conf.Conf()
    conf.installroot = str(scratch / "root")
    conf.cachedir = str(scratch / "cache")
    conf.persistdir = str(scratch / "persist")
    conf.logdir = str(scratch)
    conf.reposdir = []
    conf.substitutions["releasever"] = "1"
    conf.install_weak_deps = recommends
    with dnf.Base(conf) as base:
        base.repos.add_new_repo("fixture", conf, baseurl=[repository.as_uri()])
        base.fill_sack(load_system_repo=False)
        base.read_comps()
        base.install_specs(list(specs))
        base.resolve()
        return sorted(Path(package.localPkg()) for package in base.transaction.install_set)


def install(paths: Sequence[Path], root: Path, *options: str) -> str:
    """Install or update to ``paths`` below ``root`` in one transaction; return what rpm said.

    Raises subprocess.CalledProcessError.  Needs root, for chroot.
    """
    argv = ["rpm", "--root", str(root), "--define", "_dbpath /usr/share/rpm", *options]
    done = subprocess.run(
        [*argv, "--upgrade", *map(str, paths)],
        env={"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout

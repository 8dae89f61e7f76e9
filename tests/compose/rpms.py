"""Small RPMs and repositories, built by rpmbuild while the tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from composer.compose.packages import ComposedPackage
from composer.rpm.package import read_ref

BUSYBOX = Path(shutil.which("busybox") or "/usr/bin/busybox")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("bwrap") is None or not BUSYBOX.exists(),
    reason="needs root, bubblewrap and a static busybox",
)


@dataclass(frozen=True)
class File:
    """A file of a package; ``link`` makes it a symlink, ``directory`` a directory."""

    content: str | bytes = ""
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"
    link: str = ""
    directory: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Spec:
    """What a package has; ``scripts`` maps section lines such as "%post" to their text."""

    name: str
    version: str = "1"
    files: Mapping[str, File] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    headers: Sequence[str] = ()
    licence: str = "none"


def shell() -> Spec:
    """A package with a static shell and its programs, and /bin for scriptlets."""
    programs = ("sh", "cat", "chroot", "chown", "kill", "ln", "ls", "mkdir", "mknod", "mount")
    more = ("nc", "printf", "rm", "sleep", "test", "true", "umount", "unshare", "wget", "id")
    files = {f"/usr/bin/{name}": File(link="busybox") for name in (*programs, *more)}
    files["/usr/bin/busybox"] = File(BUSYBOX.read_bytes(), "0755")
    files["/bin"] = File(link="usr/bin")
    return Spec("shell", files=files, headers=["Provides: /bin/sh", "AutoReqProv: no"])


def build(spec: Spec, into: Path) -> Path:
    """Build one package below ``into``, with its subpackages, and return its path."""
    top = into / f".build-{spec.name}-{spec.version}"
    sources = top / "files"
    sources.mkdir(parents=True)
    listed, commands = [], []
    for number, (name, file) in enumerate(sorted(spec.files.items())):
        commands.append(_install(name, file, sources / str(number)))
        prefix = f"%attr({file.mode},{file.owner},{file.group}) " if not file.link else ""
        listed.append(f"{file.mark} {'%dir ' if file.directory else ''}{prefix}{name}".strip())
    text = [
        f"Name: {spec.name}",
        f"Version: {spec.version}",
        "Release: 1",
        "Summary: test",
        f"License: {spec.licence}",
        *spec.headers,
        "%description\ntest",
        "%install",
        *commands,
        *(f"{section}\n{body}" for section, body in spec.scripts.items()),
        "%files",
        *listed,
    ]
    path = top / "package.spec"
    path.write_text("\n".join(text) + "\n")
    macros = {
        "_topdir": str(top),
        "_rpmdir": str(top / "out"),
        "_binary_payload": "w1.gzdio",
        "debug_package": "%{nil}",
        "__os_install_post": "%{nil}",
        "_build_id_links": "none",
        "__check_files": "%{nil}",
        "_dbpath": str(top / "db"),
        "_buildhost": "test.invalid",
        "_binaries_in_noarch_packages_terminate_build": "0",
        "use_source_date_epoch_as_buildtime": "1",
    }
    command = ["rpmbuild", "-bb", "--quiet", "--nodeps", "--target", "noarch"]
    for name, value in macros.items():
        command += ["--define", f"{name} {value}"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    for built in (top / "out").rglob("*.rpm"):
        shutil.move(built, into / built.name)
    shutil.rmtree(top)
    (target,) = into.glob(f"{spec.name}-{spec.version}-1.*.rpm")
    return target


def _install(path: str, file: File, source: Path) -> str:
    target = f"%{{buildroot}}{path}"
    if file.directory:
        return f"mkdir -p '{target}'"
    parent = f"mkdir -p \"$(dirname '{target}')\""
    if file.link:
        return f"{parent}; ln -s '{file.link}' '{target}'"
    data = file.content if isinstance(file.content, bytes) else file.content.encode()
    source.write_bytes(data)
    return f"{parent}; cp '{source}' '{target}'"


def repository(into: Path, specs: Iterable[Spec]) -> Path:
    """Build packages and their rpm-md; returns the repository's directory."""
    into.mkdir(parents=True, exist_ok=True)
    for spec in specs:
        build(spec, into)
    index(into)
    return into


def index(directory: Path) -> None:
    """Write rpm-md anew for what is in ``directory``."""
    subprocess.run(["createrepo_c", "--quiet", str(directory)], check=True, capture_output=True)


def composed(path: Path) -> ComposedPackage:
    """Describe an RPM as the fetch step would."""
    return ComposedPackage(read_ref(path, repository="test", location=path.name), path)

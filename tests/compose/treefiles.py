"""Treefiles for tests: writing, reading and refusing them, and a sample of every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.compose.document import TreefileError
from composer.compose.treefile import Treefile, load

# Values of every key that a file may say; files that they name are made by ``make_files``.
SAMPLES: dict[str, list[object]] = {
    "edition": ["2014", 2024],
    "ref": ["os/${basearch}/$releasever/${stream}", "a"],
    "repos": [["base", "updates"], []],
    "repovars": [{"mirror": "near"}, {"year": 2024}],
    "lockfile-repos": [["pool"]],
    "releasever": [41, "rawhide"],
    "basearch": ["x86_64"],
    "arch-include": [{"aarch64": "arm.yaml", "s390x": ["z1.yaml", "z2.yaml"]}],
    "conditional-include": [
        [{"if": 'basearch == "s390x"', "include": "z.yaml"}],
        [
            {
                "if": ['basearch == "x86_64"', 'stream != "x"'],
                "include": {"packages": ["inline"], "recommends": False},
            }
        ],
    ],
    "variables": [{"stream": "stable", "prod": True, "number": 7}, {"stream": "testing"}],
    "packages": [["b a", "'podman >= 4.1' c"], ["a"]],
    "packages-x86_64": [["grub2"]],
    "packages-s390x": [["s390utils"]],
    "bootstrap_packages": [["filesystem"]],
    "repo-packages": [[{"repo": "base", "packages": ["x y"]}, {"repo": "next", "packages": ["y"]}]],
    "exclude-packages": [["python3"]],
    "modules": [{"enable": ["nodejs:18"], "install": ["a:1/b c:2/d"]}, {"enable": []}],
    "platform-module": ["platform:el${number}"],
    "ostree-layers": [["overlay/05core"]],
    "ostree-override-layers": [["overlay/90mine"]],
    "recommends": [True, False],
    "documentation": [False],
    "install-langs": [["de", "fr_FR"]],
    "units": [["sshd.service", "getty@tty1.service"]],
    "default-target": ["multi-user.target"],
    "machineid-compat": [False],
    "postprocess": [["#!/bin/sh\necho x\n", "echo y"]],
    "postprocess-script": ["script.sh"],
    "add-files": [[["script.sh", "/usr/libexec/script"], ["sub/motd", "etc/motd"]]],
    "remove-files": [["/etc/x", "usr/share/doc"]],
    "remove-from-packages": [[["cpio", "/usr/share/.*"], ["bash", "^/etc/", "[.]gz$"]]],
    "automatic-version-prefix": ["${releasever}.<date:%Y>", 41],
    "automatic-version-suffix": ["-"],
    "mutate-os-release": ["${releasever}"],
    "selinux": [False],
    "selinux-label-version": [1, 0],
    "ima": [True],
    "boot-location": ["modules", "new", "kernel-install"],
    "initramfs-args": [["--no-hostonly", "--add", "iscsi"]],
    "no-initramfs": [True],
    "tmp-is-dir": [True],
    "opt-usrlocal": ["root", "stateoverlay"],
    "opt-usrlocal-overlays": [True],
    "readonly-executables": [True],
    "ignore-devices": [False],
    "sysusers": ["compose-forced"],
    "etc-group-members": [["wheel"]],
    "preserve-passwd": [False],
    "check-passwd": [
        {"type": "none"},
        {"type": "file", "filename": "sub/passwd"},
        {"type": "data", "entries": {"bin": 1, "adm": [3, 4], "x": [5]}},
    ],
    "check-groups": [{"type": "previous"}, {"type": "data", "entries": {"bin": 1}}],
    "ignore-removed-users": [["root", "*"]],
    "ignore-removed-groups": [["root"]],
    "rpmdb": ["sqlite", "b-d-b"],
    "rpmdb-normalize": [True],
    "container": [False, True],
    "container-cmd": [["/usr/bin/bash"]],
    "cliwrap": [True],
    "cliwrap-binaries": [["kernel-install"]],
    "metadata": [{"name": "os ${stream}", "deep": {"a": [1, 2.5, None]}}],
    "add-commit-metadata": [{"os.is-production": False, "os.stream": "${stream}"}, {"os.n": 1}],
    "repo-metadata": ["detached"],
    "advisories-metadata": ["disabled"],
    "gpg-key": ["ABCDEF"],
    "rojig": [
        {"name": "os-${stream}", "summary": "An OS", "license": "MIT", "description": "d"},
        {"name": "os", "summary": "s", "license": "MIT"},
    ],
    "osname": ["fedora"],
}


def make_files(directory: Path) -> None:
    """Make the files that the samples name."""
    write(directory, "script.sh", "#!/bin/sh\n")
    write(directory, "sub/motd", "hello\n")
    write(directory, "sub/passwd", "root:x:0:0:::\n")


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read(directory: Path, text: str, name: str = "fedora.yaml") -> Treefile:
    return load(write(directory, name, text), basearch="x86_64")


def refusal(directory: Path, text: str, name: str = "fedora.yaml") -> str:
    with pytest.raises(TreefileError) as caught:
        read(directory, text, name)
    message = caught.value.message
    assert message.startswith(str(directory))
    return message.removeprefix(f"{directory}/")

"""The layer that counts calls sees every one that the kernel sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.client.published import Published
from tests.crash.layer import Runner
from tests.crash.operations import Operation, in_repositories, in_sysroots

# What libc calls otherwise than the kernel does.
_KERNEL = {
    "open": "openat",
    "open64": "openat",
    "openat64": "openat",
    "ftruncate64": "ftruncate",
    "fallocate64": "fallocate",
    "posix_fallocate": "fallocate",
    "posix_fallocate64": "fallocate",
    "pwrite": "pwrite64",
    "sendfile64": "sendfile",
    "futimens": "utimensat",
    "chmod": "fchmodat",
}
_CHANGES = (
    "write,pwrite64,writev,copy_file_range,sendfile,rename,renameat,renameat2,link,"
    "linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,"
    "syncfs,ftruncate,truncate,fallocate,fsetxattr,setxattr,lsetxattr,chmod,fchmod,"
    "fchmodat,chown,lchown,fchown,fchownat,utimensat,openat,open,creat,pwritev,"
    "pwritev2,mknodat"
)
_LINE = re.compile(r"^\d+ +([a-z0-9_]+)\((.*)$")


def _changed(log: str, scope: str) -> Counter[str]:
    """Count the calls of strace's log (with -y) that change a file below ``scope``."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        match = _LINE.match(line)
        if not match or scope not in match[2]:
            continue
        name, words = match.groups()
        if name == "openat" and not re.search(r"O_CREAT|O_TMPFILE", words):
            continue
        found[name] += 1
    return found


@pytest.mark.parametrize("name", ["pull update", "prune", "deploy", "undeploy"])
def test_layer_counts_what_the_kernel_is_asked_for(
    name: str, published: Published, env: dict[str, str], fast: Path, tmp_path: Path
) -> None:
    os.environ["OSTREE_SYSROOT_DEBUG"] = "mutable-deployments"
    known: list[Operation] = [*in_repositories(published, env), *in_sysroots(fast / "none")]
    (operation,) = [one for one in known if one.name == name]
    root = fast / f"layer-{name.replace(' ', '-')}"
    root.mkdir()
    operation.prepare(root)
    log = tmp_path / "log"
    argv = ["strace", "-f", "-y", "-qq", "-s", "200", "-o", str(log), "-e", "signal=none"]
    argv += ["-e", f"trace={_CHANGES}", sys.executable, "-m", "composer"]
    counted = Runner.counted([*argv, *operation.words(root)], env, root, tmp_path)
    found = Counter(_KERNEL.get(call, call) for call in counted)
    assert found
    assert found == _changed(log.read_text(), str(root))
    subprocess.run(["rm", "-rf", root], check=True)

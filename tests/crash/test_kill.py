"""SIGKILL at system calls that change a repository: it is always the old one or the new one.

``strace`` counts the calls of each thread and kills the process as it enters the N-th of a kind.
A run takes a fixed sample; with JIGDO_CRASH_ALL (`make crash-proof`) every N of every kind, up to
the most that any thread makes.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.client.published import MINIMAL, Published, copy_of, fsck
from tests.client.pulling import Client
from tests.commands import jigdo
from tests.net.lying_mirror import LyingMirror

_KINDS = [
    "write",
    "pwrite64",
    "linkat",
    "renameat",
    "rename",
    "fsync",
    "fdatasync",
    "syncfs",
    "unlinkat",
    "unlink",
    "mkdirat",
    "mkdir",
    "ftruncate",
    "fsetxattr",
    "fchmod",
]
_SAMPLE = 1


@dataclass(frozen=True, slots=True)
class Operation:
    """What is killed: how a client gets ready for it, the command, the refs' commits allowed."""

    prepare: Callable[[Client], None]
    words: Callable[[Client], list[str]]
    heads: tuple[int, ...]


def _pull_words(client: Client) -> list[str]:
    words = [word for word in client.words() if word != "--disable-fsync"]
    return [*words, "--workers", "1"]


def _update(client: Client) -> None:
    jigdo(*client.words(), env=client.env)


def _damage(client: Client) -> None:
    for number, path in enumerate(sorted(client.repo.glob("objects/??/*.file"))):
        if number % 9 == 0:
            path.unlink()


def _repo_words(*words: str) -> Callable[[Client], list[str]]:
    return lambda client: ["repo", *words, "--repo", str(client.repo)]


OPERATIONS = {
    "pull": Operation(lambda client: None, _pull_words, (1, 2)),
    "prune": Operation(_update, _repo_words("prune"), (2,)),
    "repair": Operation(_damage, _repo_words("fsck", "--repair", "--workers", "1"), (1,)),
}


def _trace(client: Client, words: list[str], *options: str) -> int:
    argv = ["strace", "-f", *options, sys.executable, "-m", "composer", *words]
    env = {**os.environ, **client.env}
    # Not --seccomp-bpf: strace 6.1 injects no signals with it.
    return subprocess.run(argv, env=env, capture_output=True, check=False, timeout=60).returncode


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_call_it_is_the_old_or_the_new(
    name: str, published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    operation, log = OPERATIONS[name], tmp_path / "log"
    updatable.add_remote(mirror.url)
    operation.prepare(updatable)
    start = copy_of(updatable.repo, tmp_path / "start")
    words = operation.words(updatable)
    assert _trace(updatable, words, "-o", str(log), "-e", f"trace={','.join(_KINDS)}") == 0
    counts = Counter(re.findall(r"^(\d+ +[a-z0-9]+)\(", log.read_text(), re.MULTILINE))
    points: list[tuple[str, int]] = []
    for kind in _KINDS:
        most = max((n for key, n in counts.items() if key.split()[1] == kind), default=0)
        every = [(kind, number) for number in range(1, most + 1)]
        if "JIGDO_CRASH_ALL" not in os.environ:
            every = random.Random(name + kind).sample(every, min(_SAMPLE, most))
        points += every
    killed = 0
    for kind, number in points:
        subprocess.run(["rm", "-rf", updatable.repo], check=True)
        copy_of(start, updatable.repo)
        inject = f"inject={kind}:signal=KILL:when={number}"
        status = _trace(updatable, words, "-o", "/dev/null", "-e", f"trace={kind}", "-e", inject)
        killed += status == -signal.SIGKILL
        commits = {published.commit(MINIMAL, one) for one in operation.heads}
        assert updatable.head() in commits, (kind, number)
        if name != "repair":
            fsck(updatable.repo)
        done = jigdo(*words, env=updatable.env)
        assert done.status == 0
        assert updatable.head() == published.commit(MINIMAL, operation.heads[-1]), (kind, number)
        fsck(updatable.repo)
    print(f"{name}: {len(points)} points, {killed} of them killed it, torn: 0")
    assert killed > len(points) // 2

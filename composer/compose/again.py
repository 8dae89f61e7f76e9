"""The second compose of ``--check-reproducible``: another process, in other circumstances.

:func:`build_again` is the parent's side.  The other side is this module run as a
program: it reads a pickled job from its own parent, changes what can be changed, builds
into a repository of its own, and says which commit came of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from composer.checksum import ObjectChecksum
from composer.compose.build import Build, build
from composer.compose.cause import Marks
from composer.errors import EXIT_NO_SPACE, ComposerError, NoSpace, VerificationFailed
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.system.command import run

_HOST = "second-compose"
_PR_SET_PDEATHSIG = 1
# How much larger than its RPMs a tree is, at most, for it to be made in memory.
_UNPACKED = 6
_ENVIRONMENT = {
    "LC_ALL": "C",
    "LANG": "C",
    "LANGUAGE": "tr",
    "TZ": "Pacific/Chatham",
    "COLUMNS": "33",
    "LOGNAME": "somebody",
    "USER": "somebody",
    "MAKEFLAGS": "-j1",
}


class SecondComposeFailed(VerificationFailed):
    """The second compose failed where the first did not."""


@dataclass(frozen=True, slots=True)
class Again:
    """The second commit, the repository that has it, and what was varied for it."""

    repository: Repository
    commit: ObjectChecksum
    marks: Marks
    varied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    wanted: Build
    place: Path
    parent: int


def build_again(wanted: Build, place: Path, report: Report) -> Again:
    """Build ``wanted`` once more in another process, below ``place``, which is made.

    Raises SecondComposeFailed, NoSpace.
    """
    report(Step("again", item=wanted.treefile.ref))
    (place / "elsewhere").mkdir(parents=True)
    (place / "home").mkdir()
    environment = {**os.environ, **_ENVIRONMENT, "HOME": str(place / "home")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    # This one reads every byte: what the first knows from elsewhere is checked by it.
    job = _Job(replace(wanted, digests="", again=False), place, os.getpid())
    process = subprocess.Popen(
        [*_own_namespaces(), sys.executable, "-m", __name__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        umask=0o077,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as stream:
            pickle.dump(job, stream)
        outcome = _follow(process.stdout, report)
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if "commit" not in outcome:
        raise _failed(outcome, process.returncode)
    return Again(
        Repository.open(place / "repo"),
        ObjectChecksum.parse(outcome["commit"]),
        Marks(**outcome["marks"]),
        tuple(outcome["varied"]),
    )


def _own_namespaces() -> list[str]:
    """Return the words before a command that give it mounts and a host name of its own."""
    unshare = ["unshare", "--mount", "--uts", "--"]
    if shutil.which("unshare") is None:
        return []
    tried = subprocess.run([*unshare, "true"], capture_output=True, check=False)
    return unshare if tried.returncode == 0 else []


def _follow(stream: IO[bytes], report: Report) -> Any:
    outcome: Any = {}
    for line in stream:
        outcome = json.loads(line)
        if "phase" in outcome:
            report(Step("again", item=outcome["phase"]))
    return outcome


def _failed(outcome: Any, status: int) -> ComposerError:
    if outcome.get("status") == EXIT_NO_SPACE:
        return NoSpace(outcome["message"], details=outcome["details"], hint=outcome["hint"])
    message = outcome.get("message", f"its process ended with status {status}")
    return SecondComposeFailed(
        f"the second compose failed where the first did not: {message}",
        details=outcome.get("details", ()),
        hint=outcome.get("hint", ""),
    )


def main() -> None:
    """Read the job from standard input, build, and write JSON lines to standard output."""
    job: _Job = pickle.load(sys.stdin.buffer)  # written by build_again, nobody else
    _end_with(job.parent)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(step: Step) -> None:
        if step.done in (0, step.total):
            answers.write(json.dumps({"phase": step.phase}) + "\n")

    try:
        answer = _build(job, report)
    except ComposerError as error:
        answer = {
            "status": error.exit_status,
            "message": error.message,
            "details": list(error.details),
            "hint": error.hint,
        }
    answers.write(json.dumps(answer) + "\n")


def _end_with(parent: int) -> None:
    """End when the process that asked does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def _build(job: _Job, report: Report) -> dict[str, Any]:
    work = job.place / "elsewhere"
    varied = ["directory", "umask", "locale", "time zone", "home directory", "user name"]
    varied += _other_host_name() + _one_processor()
    _await_another_second()
    started = time.time()
    with _other_file_system(work, job.wanted) as other:
        repository = Repository.create(job.place / "repo", mode="bare-user")
        repository.disable_fsync()
        commit = build(job.wanted, lambda: repository, work, report)
    marks = {
        "directory": str(work),
        "started": started,
        "ended": time.time(),
        "home": os.environ["HOME"],
        "host": socket.gethostname(),
    }
    return {"commit": str(commit), "marks": marks, "varied": [*varied, *other, "time"]}


def _await_another_second() -> None:
    # Most times in files are whole seconds; the first compose may have ended in this one.
    now = time.time()
    time.sleep(int(now) + 1 - now)


def _other_host_name() -> list[str]:
    if not _has_own("uts"):
        return []
    socket.sethostname(_HOST)
    return ["host name"]


def _has_own(kind: str) -> bool:
    # A name or mount must not be changed for the whole machine.
    return os.readlink(f"/proc/self/ns/{kind}") != os.readlink(f"/proc/{os.getppid()}/ns/{kind}")


def _one_processor() -> list[str]:
    processors = os.sched_getaffinity(0)
    if len(processors) == 1:
        return []
    os.sched_setaffinity(0, {max(processors)})
    return ["number of processors"]


@contextmanager
def _other_file_system(work: Path, wanted: Build) -> Iterator[list[str]]:
    """Put ``work`` on a file system that lists directories in another order, if it fits."""
    size = _UNPACKED * sum(package.ref.size for package in wanted.packages) + (64 << 20)
    if not _has_own("mnt") or 2 * size > _available_memory():
        yield []
        return
    options = f"size={size},mode=0755,nr_inodes=0"
    run(["mount", "-t", "tmpfs", "-o", options, "second-compose", str(work)])
    try:
        yield ["file system", "order of directory entries"]
    finally:
        run(["umount", "--lazy", str(work)])


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    # Not __main__._Job: the pickle names the module as its writer knows it.
    from composer.compose import again

    again.main()

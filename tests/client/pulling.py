"""A client as its person sees it: remotes, a repository, `jigdo-composer pull`."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from composer.cli.main import main
from tests.attacks import said
from tests.client.published import MINIMAL, Published, fsck
from tests.commands import Done, jigdo, ostree
from tests.net.lying_mirror import Request

REMOTE = "demo"


@dataclass(frozen=True, slots=True)
class Client:
    """A directory with remotes and the repository ``repo``."""

    place: Path
    published: Published

    @classmethod
    def create(cls, place: Path, published: Published, *, mode: str = "bare-user") -> Client:
        """One with an empty repository."""
        place.mkdir()
        ostree(place / "repo", "init", f"--mode={mode}")
        return cls(place, published)

    @property
    def repo(self) -> Path:
        return self.place / "repo"

    @property
    def config(self) -> Path:
        return self.place / "config"

    @property
    def env(self) -> dict[str, str]:
        """What tells the command where this client's remotes are."""
        return {"JIGDO_COMPOSER_CONFIG": str(self.config)}

    def add_remote(self, *urls: object, key: Path | None = None, name: str = REMOTE) -> None:
        """Write a remote that trusts the publisher's key, or another one."""
        if key is None:
            self.published.write_remote(self.config, name, *urls)
        else:
            words = ["remote", "add", name, *urls, "--gpg-key", key, "--replace"]
            jigdo(*words, env=self.env)

    def words(self, ref: str = MINIMAL) -> list[str]:
        """The command that pulls."""
        return ["pull", f"{REMOTE}:{ref}", "--repo", str(self.repo), "--disable-fsync", "--json"]

    def start(self, *options: str, ref: str = MINIMAL) -> subprocess.Popen[str]:
        """Begin to pull, in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "composer", *self.words(ref), *options],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, ref: str = MINIMAL, *, own_process: bool = False) -> Done:
        """Pull to the end, in this process or in one of its own."""
        if not own_process:
            return run_here(*self.words(ref), "--config-dir", self.config)
        process = self.start(ref=ref)
        out, err = process.communicate(timeout=120)
        return Done(process.returncode, out, err)

    def pull(self, ref: str = MINIMAL) -> Any:
        """Pull in a process of its own, which must succeed; returns the document of ``--json``."""
        done = self.run(ref, own_process=True)
        assert done.status == 0, done.err
        return done.document

    def head(self, ref: str = MINIMAL) -> str:
        """The commit that the ref names, or nothing."""
        path = self.repo / "refs/heads" / ref
        return path.read_text().strip() if path.exists() else ""

    def refused(
        self, *words: str, status: int, ref: str = MINIMAL, own_process: bool = False
    ) -> Done:
        """Pull, which must fail and leave all as it was; the message must hold ``words``."""
        before = self.head(ref)
        done = self.run(ref, own_process=own_process)
        assert done.status == status, f"status {done.status}\n{done.err}"
        check_message(done.err, *words)
        said(next(line for line in done.err.splitlines() if not line.startswith("{")))
        assert done.out == ""
        self.require_unchanged(before, ref)
        return done

    def require_unchanged(self, before: str, ref: str = MINIMAL) -> None:
        """Require the old ref and a repository without a fault."""
        assert self.head(ref) == before
        fsck(self.repo)

    def completes(
        self, ref: str = MINIMAL, generation: int = 2, *, own_process: bool = False
    ) -> Any:
        """Pull, which must succeed, bit for bit; returns the document of ``--json``."""
        done = self.run(ref, own_process=own_process)
        assert done.status == 0, done.err
        assert done.document["commit"] == self.published.commit(ref, generation)
        assert self.head(ref) == done.document["commit"]
        said(f"{ref} is at {done.document['version'] or done.document['commit']}")
        fsck(self.repo)
        return done.document


def run_here(*words: object) -> Done:
    """Run jigdo-composer in this process, which saves the start of another."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["jigdo-composer", *map(str, words)]
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch.object(sys, "argv", argv),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def check_message(err: str, *words: str) -> None:
    """Require an error as docs/exit-status.md has it: what happened, these words, a hint."""
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert "Traceback" not in err, err
    assert lines, "it says nothing"
    assert lines[0].startswith("error: "), err
    assert lines[-1].startswith("hint: "), f"no hint:\n{err}"
    text = "\n".join(lines)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in:\n{text}"


def rpm_requests(requests: Iterable[Request]) -> list[Request]:
    """The requests for packages, not for sets."""
    return [one for one in requests if re.match(r"(Packages|pool)/.*\.rpm$", one.path)]


def await_true(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds; fails the test when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)

"""A compose beside others in one repository: who is told, who waits, and who just goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from composer.compose.pipeline import ComposeResult, RefMoved, compose
from composer.errors import EXIT_BUSY
from composer.ostree.locking import Busy, Holder, changing, removing, using
from composer.ostree.repo import Repository
from composer.progress import Step
from tests.commands import jigdo, ostree
from tests.compose.rpms import needs_root
from tests.compose.test_pipeline import request, small

pytestmark = needs_root

# Until someone outside lets it go on.
BLOCKS = 'postprocess: ["while ! test -e /usr/lib/go; do sleep 0.05; done"]\n'


@dataclass
class Running:
    """A compose in a thread, of a tree whose script waits."""

    tmp_path: Path
    outcome: Future[ComposeResult]
    steps: list[Step] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    waits: threading.Event = field(default_factory=threading.Event)

    def __call__(self, step: Step) -> None:
        if step.item == "scripts" or step.unit == "scripts":
            self.reached.set()
        if step.phase == "wait":
            self.steps.append(step)
            self.waits.set()

    def go(self) -> None:
        (tree,) = self.tmp_path.glob("cache/composing/compose-*/tree")
        (tree / "usr/lib/go").touch()


@contextmanager
def running(tmp_path: Path) -> Iterator[Running]:
    treefile, place = small(tmp_path, BLOCKS)
    Repository.create(tmp_path / "repo", mode="bare-user")
    ours = Running(tmp_path, Future())
    with ThreadPoolExecutor(1) as pool:
        ours.outcome = pool.submit(compose, request(tmp_path, treefile, base=place), ours)
        try:
            assert ours.reached.wait(60), ours.outcome.exception(1)
            yield ours
        finally:
            if not ours.outcome.done():
                ours.go()


def test_others_go_on_while_it_installs_and_it_takes_its_turn_to_commit(tmp_path: Path) -> None:
    with running(tmp_path) as ours:
        repo = Repository.open(tmp_path / "repo")
        with using(repo):
            pass
        with pytest.raises(Busy), removing(repo):
            pass
        words = ["compose", tmp_path / "os.yaml", "--repo", tmp_path / "repo"]
        words += ["--repository", f"base={tmp_path / 'rpms'}", "--cachedir", tmp_path / "cache"]
        second = jigdo(*words, status=EXIT_BUSY).err
        assert "another process is at work in it" in second
        with changing(repo):  # as a pull has it
            ours.go()
            assert ours.waits.wait(30)
            assert not ours.outcome.done()
            assert "small" not in repo.refs()
        done = ours.outcome.result(30)
    assert Repository.open(tmp_path / "repo").refs() == {"small": repo.require(done.commit)}
    assert "no errors" in ostree(tmp_path / "repo", "fsck")


def test_ref_that_was_moved_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with running(tmp_path) as ours:
        repo = tmp_path / "repo"
        (tmp_path / "empty").mkdir()
        other = ostree(repo, "commit", "--branch=small", f"--tree=dir={tmp_path / 'empty'}")
        ours.go()
        with pytest.raises(RefMoved, match="another process has moved it") as refused:
            ours.outcome.result(30)
        assert refused.value.exit_status == EXIT_BUSY
    assert str(Repository.open(repo).require("small")) == other


def test_repository_that_is_busy_is_told_at_once_or_waited_for(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    wanted = request(tmp_path, treefile, base=place)
    for lock in (changing, removing):
        with lock(repo), pytest.raises(Busy):
            compose(wanted, lambda step: None)
    told: list[Holder] = []
    held = removing(repo)
    held.__enter__()

    def tell(holder: Holder) -> None:
        told.append(holder)
        held.__exit__(None, None, None)

    assert compose(wanted, lambda step: None, wait=tell).commit
    assert len(told) == 1

"""Sets with a kernel's modules: what moved in all is learned once, also inside containers."""

from __future__ import annotations

import io
import lzma
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError
from composer.jigdo.build import LocalPackage, Older, build_set
from composer.jigdo.container import Kind
from composer.jigdo.delta import looking
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.delta.codecs import CodecNumber
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.progress import Step
from composer.system.executors import Farm
from tests.farms import farm, farm_cluster
from tests.jigdo.delta.modules import Kernel, module
from tests.jigdo.delta.test_applying import table_of
from tests.jigdo.sets import REF, Packages, local_packages, open_bytes, pull, write_files
from tests.rpm.crafted import RpmFile, rpm_bytes

__all__ = ("farm", "farm_cluster")

MODULES = 12


@dataclass(frozen=True)
class Source:
    """Two versions of a kernel in a repository, and the packages of the newer."""

    path: Path
    old: ObjectChecksum
    new: ObjectChecksum
    packages: tuple[LocalPackage, ...]

    def build(
        self, store: Path | None = None, workers: int = 2, farm: Farm | None = None
    ) -> tuple[bytes, list[str]]:
        out, phases = io.BytesIO(), []

        def report(step: Step) -> None:
            phases.append(step.phase)

        build_set(
            Repository.open(self.path / "repo"),
            self.new,
            self.packages,
            ref=REF,
            into=out,
            cache=DigestCache(self.path / "digests.sqlite"),
            older=Older(DeltaOptions((self.old,), "all"), {}, store),
            report=report,
            workers=workers,
            farm=farm,
        )
        return out.getvalue(), phases


# So that they can be opened with little memory.
_AS_KERNELS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]


def _files(version: int) -> dict[str, bytes]:
    kernel = Kernel(100_000 + 37 * (version - 1), 1_000_000 + 411 * (version - 1))
    files = {}
    for number in range(MODULES):
        inserted = number if version > 1 else -1
        data = module(number, kernel, functions=30, inserted=inserted)
        name = f"/usr/lib/modules/6.1.0-{version}/kernel/m{number}.ko"
        if number % 3 == 0:
            name, data = f"{name}.xz", lzma.compress(data, filters=_AS_KERNELS)
        files[name] = data
    # By its name a module, and by nothing else.
    files[f"/usr/lib/modules/6.1.0-{version}/kernel/text.ko"] = b"%d" % version * 3000
    return files


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    where = tmp_path_factory.mktemp("kernel")
    repo = Repository.create(where / "repo", mode="bare-user")
    old, new = (write_files(repo, _files(version)) for version in (1, 2))
    rpm = where / "kernel.rpm"
    files = [RpmFile(name, data) for name, data in _files(2).items()]
    rpm.write_bytes(rpm_bytes(files, name="kernel", version="2"))
    return Source(where, old, new, local_packages([rpm]))


def test_modules_come_from_bases_whose_references_are_moved(source: Source, tmp_path: Path) -> None:
    data, _ = source.build()
    pieces = [piece for content in table_of(open_bytes(data)).contents for piece in content.pieces]
    linked = [piece for piece in pieces if piece.codec == CodecNumber.LINKED]
    assert (len(linked), len(pieces)) == (MODULES, MODULES + 1)
    # A function of at most 130 bytes and a signature of 64 are new in each; all else moved.
    sizes = [frame.size for frame in open_bytes(data).index.of(Kind.PATCH)]
    assert sum(sizes) < MODULES * (130 + 64) * 1.8
    client = Repository.create(tmp_path / "client", mode="bare-user")
    argv = ["ostree", f"--repo={client.path}", "pull-local", "--disable-fsync"]
    subprocess.run([*argv, str(source.path / "repo"), str(source.old)], check=True)
    packages = Packages(source.packages)
    pull(open_bytes(data), client, packages, base=source.old)
    assert not packages.given
    subprocess.run(["ostree", f"--repo={client.path}", "fsck", "--quiet"], check=True)


def test_what_is_learned_is_the_same_with_any_workers_and_kept(
    source: Source, tmp_path: Path
) -> None:
    one, phases = source.build(workers=1)
    assert "learn" in phases
    store = tmp_path / "patches.sqlite"
    assert source.build(store)[0] == one
    again, phases = source.build(store)
    assert again == one
    assert not {"learn", "deltas"} & set(phases)


def test_what_a_farm_finds_inside_and_learns_is_the_same(source: Source, farm: Farm) -> None:
    one, phases = source.build(farm=farm)
    assert {"look inside", "learn", "deltas"} <= set(phases)
    assert one == source.build()[0]
    assert not farm.troubles


def test_recipes_of_others_are_proven() -> None:
    old, new = (lzma.compress(bytes(100_000) + b"%d" % n, filters=_AS_KERNELS) for n in (1, 2))
    answer = looking._containers(old, new)
    assert all(answer)
    assert looking._judge_containers((old, new), answer) == answer
    for contents, wrong in (
        ((old, new), answer[::-1]),
        ((new, new + b"x"), answer),
        ((old, new[:-1] + b"x"), answer),
        ((old, new), (answer[0], b"")),
        ((old, new), (answer[0][:-1], answer[1])),
        ((old, new), "answer"),
    ):
        with pytest.raises((ValueError, ComposerError)):
            looking._judge_containers(contents, wrong)


def test_moves_of_others_have_their_form() -> None:
    answer = looking._moves(b"", b"")
    assert looking._judge_moves((b"", b""), answer)
    rows, counts = answer[0]
    for wrong in ((rows, rows), (counts, counts), (rows.astype(float), counts), (b"", b"")):
        with pytest.raises(ValueError, match="form"):
            looking._judge_moves((b"", b""), (wrong, answer[1]))

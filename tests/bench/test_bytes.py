"""The benchmark of bytes on the fixture OS: small, but with every tool that is here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fixtures.rpms.build import build_repository
from tests.bench.anytoany import STATIC_DELTA, AnyToAny, best_direct, pairs_table
from tests.bench.bytes import Bench, Clock, Options, markdown, run, work_directory, write_docs
from tests.bench.generations import Generations, choose, generations
from tests.bench.goals import goals, goals_table
from tests.bench.measure import Measured, TooLong, measure
from tests.bench.ours import Unknown, Variant, build_options, compose, require_options
from tests.bench.peers import PEERS, Peer, Program, Scene, Version, new_client
from tests.bench.redraw import results as read_results
from tests.bench.report import plot, replace_section, table
from tests.bench.result import FRESH, NOTHING, UPDATE, Result, WrongTree, require_same
from tests.bench.trees import Content, Image, export_image, names, query, rpms_in, with_updated
from tests.commands import ostree
from tests.fixtures_os.repos import FixtureRepos

TREEFILE = Path(__file__).resolve().parents[2] / "treefiles" / "fixture-minimal.yaml"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="composing takes root")


@pytest.fixture(scope="module")
def found(fixture_repos: FixtureRepos, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench") / "bytes.json"
    work = out.with_name("work")
    options = Options(fixture_repos.gen1, fixture_repos.gen2, out, treefile=TREEFILE, work=work)
    assert run(options) == 0
    assert list(work.iterdir()) == [], "temporary files are left"
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def _rows(found: dict[str, Any], case: str) -> dict[str, dict[str, Any]]:
    return {row["way"]: row for row in found["results"] if row["case"] == case}


@needs_root
def test_every_way_that_is_here_updates_to_the_same_tree(found: dict[str, Any]) -> None:
    rows = _rows(found, UPDATE)
    commit = f"commit {found['v2']['commit'][:12]}, fsck"
    tars = set()
    for peer in PEERS:
        row = rows[peer.title]
        if peer.missing():
            assert peer.missing()[0].package in row["skipped"]
            continue
        assert not row["skipped"]
        assert row["bytes"] > 0
        assert row["proof"] == commit or row["proof"].startswith(("tar ", "computed"))
        tars |= {row["proof"]} if row["proof"].startswith("tar ") else set()
    assert len(tars) == 1
    ours = rows["jigdo set, without deltas"]
    assert ours["proof"] == commit
    assert sum(ours["kinds"].values()) == ours["bytes"]


@needs_root
def test_costs_are_measured_on_both_sides(found: dict[str, Any]) -> None:
    for way in ("OSTree static delta", "jigdo set, without deltas"):
        row = _rows(found, UPDATE)[way]
        assert row["make"]["cpu"] > 0.01
        assert row["apply"]["peak"] > 4 << 20
        assert row["requests"] > 0


@needs_root
def test_fresh_install_and_nothing_new_are_there(found: dict[str, Any]) -> None:
    fresh = _rows(found, FRESH)
    assert fresh["jigdo set"]["bytes"] < fresh["OSTree object pull"]["bytes"] * 1.2
    nothing = _rows(found, NOTHING)["jigdo set, without deltas"]
    assert 0 < nothing["bytes"] <= 10_000
    assert found["ratios"][FRESH]["OSTree object pull"] == pytest.approx(
        fresh["jigdo set"]["bytes"] / fresh["OSTree object pull"]["bytes"], abs=0.001
    )


@needs_root
def test_document_says_where_and_with_what(found: dict[str, Any]) -> None:
    assert found["machine"]["cpus"] == os.cpu_count()
    assert found["tools"]["ostree"][:2] == "20"
    assert found["seconds"] > 0
    assert found["v1"]["packages"] == 18  # of the tree; the repository has twice as many


@needs_root
def test_documentation_can_be_drawn_again_from_the_document(
    found: dict[str, Any], tmp_path: Path
) -> None:
    rows = read_results(found)
    (tmp_path / "benchmarks.md").write_text("# Benchmarks\n")
    write_docs(UPDATE, markdown(found, rows), rows, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "![Bytes moved, a bar for each way](img/bytes.svg)" in text
    assert f"| OSTree static delta | {rows_bytes(rows, 'OSTree static delta'):,} | 1.00x |" in text
    assert "| nothing new: bytes |" in text
    ElementTree.parse(tmp_path / "img" / "bytes.svg")


def rows_bytes(rows: list[Result], way: str) -> int:
    return next(row.bytes or 0 for row in rows if row.way == way and row.case == UPDATE)


@needs_root
def test_two_packages_only_and_quick(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    options = Options(
        fixture_repos.gen1, fixture_repos.gen2, tmp_path / "out.json", case="two", quick=True,
        treefile=TREEFILE, packages=["color-data", "libhue"], ways=["static-delta", "casync"],
    )  # fmt: skip
    assert run(options) == 0
    rows = _rows(json.loads(options.out.read_text()), UPDATE)
    assert "QUICK=1" in next(row["skipped"] for way, row in rows.items() if "casync" in way)
    # Of all RPMs only those that changed move.
    rpms = [
        *fixture_repos.gen2.rglob("color-data-*.rpm"),
        *fixture_repos.gen2.rglob("libhue-*.rpm"),
    ]
    moved = sum(path.stat().st_size for path in rpms)
    assert 0 < rows["jigdo set, without deltas"]["kinds"]["rpm"] <= moved


def test_a_package_that_did_not_change_is_refused(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    with pytest.raises(LookupError, match="setup"):
        with_updated(fixture_repos.gen1, fixture_repos.gen2, ["setup"], tmp_path / "two")


def test_a_missing_program_is_named_and_only_its_way_is_left_out(tmp_path: Path) -> None:
    gone = Peer("gone", "Gone", lambda scene: iter(()), [Program("no-such-program", "its-package")])
    options = Options(tmp_path, tmp_path, tmp_path / "out.json")
    with work_directory(tmp_path / "work") as work:
        bench = Bench(options, work, Clock())
        bench._peer(gone, _no_scene(work))
    (result,) = bench.results
    assert result.skipped == "no no-such-program here (package its-package)"
    assert not bench.failed


def test_a_tool_that_fails_is_named_and_fails_the_run(tmp_path: Path) -> None:
    def fail(scene: Any) -> Iterator[Result]:
        scene.run(sys.executable, "-c", "raise SystemExit('broken')")
        yield Result(UPDATE, "")

    options = Options(tmp_path, tmp_path, tmp_path / "out.json")
    with work_directory(tmp_path / "work") as work:
        bench = Bench(options, work, Clock())
        bench._peer(Peer("bad", "Bad", fail, []), _no_scene(work))
    assert "broken" in bench.results[0].skipped
    assert bench.failed


def _no_scene(work: Path) -> Any:
    nothing = Version("0", work, [], Image(work, "", 0, []))
    return Scene(work / "peer", work, "ref", nothing, None, 60.0)


def test_another_tree_is_an_error() -> None:
    assert require_same("tar", "a", "a") == "a"
    with pytest.raises(WrongTree, match="tar: expected a, got b"):
        require_same("tar", "a", "b")


def test_an_option_that_the_program_lacks_is_named() -> None:
    require_options(Variant("known", "", ("--name", "x"), ("--workers", "1")))
    with pytest.raises(Unknown, match="pull has no --no-such-option"):
        require_options(Variant("unknown", "", (), ("--no-such-option",)))


def test_image_depends_on_the_tree_alone_and_knows_its_contents(tmp_path: Path) -> None:
    tree, repo = tmp_path / "tree", tmp_path / "repo"
    (tree / "usr").mkdir(parents=True)
    (tree / "usr/file").write_bytes(b"hello")
    (tree / "usr/link").symlink_to("file")
    ostree(repo, "init", "--mode=bare-user")
    images = []
    os.setxattr(tree / "usr/file", "user.label", b"a\xff\0")
    for day in (1, 2):
        when = f"--timestamp=2025-01-0{day} 00:00:00 +0000"
        commit = ostree(repo, "commit", "--branch=x", f"--tree=dir={tree}", when)
        images.append(export_image(repo, commit, tmp_path / f"{day}.tar"))
    assert images[0].digest == images[1].digest
    (content,) = images[0].contents
    assert content == Content(
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "5d41402abc4b2a76b9719d911017c592", content.offset, 5,
    )  # fmt: skip
    data = images[0].path.read_bytes()
    assert data[content.offset :][:5] == b"hello"
    assert b"SCHILY.xattr.user.label=a\xff\0\n" in data


@needs_root
def test_relabelled_files_have_the_same_contents_in_another_tree(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    options = Options(
        fixture_repos.gen1, fixture_repos.gen1, tmp_path / "out.json", case="relabel",
        treefile=TREEFILE, ways=["rojig", "object-pull", "oci"],
    )  # fmt: skip
    assert run(options) == 0
    rows = _rows(json.loads(options.out.read_text()), UPDATE)
    whole = next(row for way, row in rows.items() if "rojig" in way)
    assert whole["kinds"]["rpm"] == 0  # content digests say that nothing is new
    assert whole["bytes"] < 100_000
    assert rows["OSTree object pull"]["bytes"] > 1_000_000  # object checksums say the contrary
    assert rows["jigdo set, without deltas"]["proof"].startswith("commit")


def test_a_command_without_end_is_ended() -> None:
    with pytest.raises(TooLong, match="took longer than"):
        measure([sys.executable, "-c", "import time; time.sleep(60)"], seconds=0.3)


def test_memory_is_the_commands_own() -> None:
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    run = measure([sys.executable, "-c", "import time; x = b'x' * (64 << 20); time.sleep(0.2)"])
    assert 64 << 20 < run.peak < 150 << 20


@pytest.fixture(scope="module")
def made(fixture_repos: FixtureRepos, tmp_path_factory: pytest.TempPathFactory) -> Generations:
    into = tmp_path_factory.mktemp("generations")
    return generations(fixture_repos.gen1, into, ["kernel-core", "libhue"], count=3)


def test_generations_have_other_contents_at_places_of_their_own(made: Generations) -> None:
    for name in made.changed:
        digests = set()
        for number, repository in enumerate(made.repositories, 1):
            (rpm,) = repository.rglob(f"{name}-[0-9]*.g{number}.*.rpm")
            digests.add(tuple(query([rpm], "[%{FILEDIGESTS}\n]")))
        assert len(digests) == 3, name
    files = query(sorted(made.repositories[2].rglob("kernel-core-*.rpm")), "[%{FILENAMES}\n]")
    assert "/usr/lib/modules/6.1.10-1.fx.x86_64.g3/vmlinuz" in files


def test_generations_keep_what_did_not_change_and_what_others_require(
    made: Generations, fixture_repos: FixtureRepos
) -> None:
    (before,) = fixture_repos.gen1.rglob("libhue-*.rpm")
    (after,) = made.repositories[1].rglob("libhue-*.rpm")
    form = "[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}\n]"
    assert query([before], form) == query([after], form)
    assert set(query([before], "[%{PROVIDENEVRS}\n]")) < set(query([after], "[%{PROVIDENEVRS}\n]"))
    kept = {path.name for path in rpms_in(made.repositories[0])}
    missing = {path.name for path in rpms_in(fixture_repos.gen1)} - kept
    assert {name.split("-1")[0].split("-6")[0] for name in missing} == {"kernel-core", "libhue"}


def test_generations_are_the_same_every_time(
    made: Generations, fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    again = generations(fixture_repos.gen1, tmp_path, ["libhue"], count=2)
    for first, second in zip(made.repositories, again.repositories, strict=False):
        one, two = (sorted(place.rglob("libhue-*.rpm")) for place in (first, second))
        assert query(one, "[%{FILEDIGESTS}\n]") == query(two, "[%{FILEDIGESTS}\n]")


def test_unknown_packages_are_refused(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no-such-package"):
        generations(fixture_repos.gen1, tmp_path, ["no-such-package"])


_ODD = r"""
Name: odd
Version: 1
Release: 1
Summary: Names that mean something in a pattern
License: MIT
BuildArch: noarch
%description
Odd.
%install
mkdir -p %{buildroot}/usr/share/odd
for name in '[' 'a\x2db' '[x]y' 'two words' '100%%' 'what?' '{a,b}'; do
    seq 1000 > "%{buildroot}/usr/share/odd/$name"
done
%files
/usr/share/odd
"""


def test_names_that_could_be_patterns_stand_for_themselves(tmp_path: Path) -> None:
    spec = tmp_path / "odd.spec"
    spec.write_text(_ODD)
    build_repository([spec], tmp_path / "source")
    made = generations(tmp_path / "source", tmp_path / "made", ["odd"], count=1)
    (rpm,) = made.repositories[0].rglob("*.rpm")
    found = {path.rpartition("/")[2] for path in query([rpm], "[%{FILENAMES}\n]")}
    assert found == {"odd", "[", r"a\x2db", "[x]y", "two words", "100%", "what?", "{a,b}"}


def test_chosen_are_a_kernel_a_library_and_others(fixture_repos: FixtureRepos) -> None:
    rpms = rpms_in(fixture_repos.gen1)
    chosen = choose(dict(zip(names(rpms), rpms, strict=True)))
    assert chosen[0] == "kernel-core"
    assert chosen[1].startswith("lib")
    assert len(set(chosen)) == len(chosen) >= 10


@needs_root
def test_every_pair_is_measured_in_both_directions(made: Generations, tmp_path: Path) -> None:
    repo = new_client(tmp_path / "repo")
    two = made.repositories[:2]
    versions = [compose(TREEFILE, place, repo, tmp_path) for place in two]
    work = tmp_path / "pairs"
    work.mkdir()
    measured = list(AnyToAny(work, repo, versions, 300.0, print).results())
    by = {(r.case, r.way): r for r in measured if r.bytes is not None}
    for case, number in (("1 to 2", 1), ("2 to 1", 0)):
        ours = by[case, "jigdo set, without deltas"]
        assert ours.proof == f"commit {versions[number].commit[:12]}"
        static = by[case, STATIC_DELTA].bytes
        assert static is not None
        assert static >= (best_direct(measured, case) or 0) > 0
    assert sorted(path.name for path in work.iterdir()) == ["cache", "served"]


def test_best_direct_delta_is_the_smallest_of_those_made_for_the_pair() -> None:
    results = [
        Result("1 to 2", STATIC_DELTA, 100),
        Result("1 to 2", "ours", 90, note="direct: 80", ours=True),
        Result("2 to 1", STATIC_DELTA, 200),
        Result("2 to 1", "ours", 150, note="direct: 300", ours=True),
    ]
    assert best_direct(results, "1 to 2") == 80
    assert "| 1 to 2 | 80 | 100 (1.25x) | 90 (1.12x) |" in pairs_table(results)
    assert "| 2 to 1 | 200 | 200 (1.00x) | 150 (0.75x) |" in pairs_table(results)


def test_options_name_each_version_to_update_from() -> None:
    variant = Variant("x", "", ("--from", "{old}", "--rpm-deltas", "all"))
    words = build_options(variant, ["a", "b"])
    assert words == ["--from", "a", "--from", "b", "--rpm-deltas", "all"]


def test_goals_are_those_of_the_ways_that_ran() -> None:
    way = "jigdo set, all deltas"
    results = [
        Result(UPDATE, STATIC_DELTA, 100, make=Measured(9, 100, 1), apply=Measured(2, 4, 1)),
        Result(UPDATE, way, 70, 3, Measured(9, 50, 1), Measured(1, 3, 10**9), ours=True),
        Result(UPDATE, "jigdo set, without deltas", 500, make=Measured(9, 20, 1), ours=True),
    ]
    by = {goal.what: goal for goal in goals(UPDATE, results)}
    assert by["update: bytes, to the static delta"].got == pytest.approx(0.7)
    assert by["making deltas: CPU, to the static delta's"].got == pytest.approx(0.3)
    reached = {what for what, goal in by.items() if goal.reached}
    assert reached == {
        "making deltas: CPU, to the static delta's",
        "update: wall, to apply-offline",
        "update: CPU, to apply-offline",
    }
    assert "| update: bytes, to the static delta | 0.70 | 0.60 | **no** |" in goals_table(
        goals(UPDATE, results)
    )
    assert goals(UPDATE, results[:1]) == []


_PACKING = {"cpu_seconds": 2.04, "seconds": 1.5}
RESULTS = [
    Result(UPDATE, "theirs", 2_000_000, 9, Measured(1, 2, 3), Measured(4, 5, 6), proof="tar x"),
    Result(UPDATE, "ours & all", 1_000_000, 3, ours=True, packing=_PACKING, announced=200 * 10**6),
    Result(UPDATE, "slow", skipped="left out by QUICK=1"),
]


def test_table_is_sorted_with_ratios_and_says_what_is_left_out() -> None:
    lines = table(RESULTS, "theirs").splitlines()
    ours, packing, theirs = (
        line for line in lines if line.startswith("| ") and "bytes" not in line
    )
    assert packing.split("|")[6] == " packing again 1.5 s, 2.0 s; announced 200 MB "
    assert ours.startswith("| **ours & all** | 1,000,000 | 0.50x | 3 |")
    assert theirs.startswith(
        "| theirs | 2,000,000 | 1.00x | 9 | 2.0 s, 0 MB | 4.0 s, 5.0 s, 0 MB |"
    )
    assert lines[-1] == "Left out: slow (left out by QUICK=1)."


def test_plot_has_a_bar_and_words_for_each_way() -> None:
    root = ElementTree.fromstring(plot(RESULTS, "Title <1>"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert texts == ["Title <1>", "ours & all", "1.0 MB", "theirs", "2.0 MB"]
    bars = [float(e.attrib["width"]) for e in root.iter(f"{space}rect")][1:]
    assert bars[1] == pytest.approx(2 * bars[0], abs=0.2)


def test_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text("# Title\n\ntext\n")
    replace_section(document, "update", "first")
    replace_section(document, "two", "other")
    replace_section(document, "update", "second")
    text = document.read_text()
    assert text.startswith("# Title\n\ntext\n")
    assert "first" not in text
    assert text.index("second") < text.index("other")
    assert text.count("begin -->") == text.count("end -->") == 2


def test_cpu_time_of_what_a_command_leaves_behind_is_counted() -> None:
    """As Python's fork server does, whose children make deltas: nobody waits for it."""
    burn = "import time\nwhile time.process_time() < 0.6: pass"
    left = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    found = measure([sys.executable, "-c", left])
    assert found.cpu >= 0.6

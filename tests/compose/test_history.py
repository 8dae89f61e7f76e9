"""What became of the packages from one commit to the next (composer/compose/history.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.compose.history import package_difference, packages_of
from composer.compose.pipeline import ComposeRequest, compose
from composer.errors import ComposerError
from composer.ostree.repo import Repository
from composer.progress import silent
from tests.commands import jigdo, ostree
from tests.compose.rpms import File, Spec, needs_root, repository, shell

pytestmark = needs_root

OLD_ENTRY = "* Tue Nov 14 2023 Ann <ann@example.org> - 1-1\n- First\n"
# createrepo_c refuses ESC, which XML cannot hold; U+009B begins a sequence just as well.
NEW_ENTRIES = (
    "* Wed Nov 15 2023 Ann <ann@example.org> - 2-1\n- Repaired \x9b2Jthe \u202elock\n"
    "- second line\n"
    "* Tue Nov 14 2023 Bob <bob@example.org> - 1-2\n- Same day, later\n"
)


@dataclass(frozen=True)
class Generations:
    """Two commits of one ref, the second made of other packages."""

    repo: Repository
    first: ObjectChecksum
    second: ObjectChecksum


def _specs(generation: int) -> list[Spec]:
    def app(version: str, changelog: str) -> Spec:
        content = File(f"app {version}")
        return Spec("app", version, {"/usr/share/app": content}, {"%changelog": changelog})

    if generation == 1:
        return [
            shell(),
            app("1", OLD_ENTRY),
            Spec("gone", files={"/usr/share/gone": File("x")}),
            Spec("back", "2", {"/usr/share/back": File("2")}),
        ]
    return [
        shell(),
        app("2", NEW_ENTRIES + OLD_ENTRY),
        Spec("come", files={"/usr/share/come": File("x")}),
        Spec("back", "1", {"/usr/share/back": File("1")}),
    ]


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Generations:
    place = tmp_path_factory.mktemp("generations")
    commits = []
    for generation in (1, 2):
        specs = _specs(generation)
        rpms = repository(place / f"rpms{generation}", specs)
        treefile = place / "os.yaml"
        names = ", ".join(spec.name for spec in specs)
        treefile.write_text(
            f"ref: os/stable\nrepos: [base]\nselinux: false\npackages: [{names}]\n"
            "automatic-version-prefix: '40'\n"
        )
        request = ComposeRequest(
            treefile, place / "repo", place / "cache", "x86_64", {"base": str(rpms)}
        )
        commits.append(ObjectChecksum.parse(compose(request, silent).commit))
    return Generations(Repository.open(place / "repo"), *commits)


def copy_without(generations: Generations, tmp_path: Path, *remove: str) -> ObjectChecksum:
    """Commit the second generation's tree as another program would: without our metadata."""
    tree = tmp_path / "tree"
    ostree(generations.repo.path, "checkout", "-U", str(generations.second), tree)
    for name in remove:
        (tree / name).unlink()
    words = ["commit", "--orphan", f"--tree=dir={tree}", "--owner-uid=0", "--owner-gid=0"]
    return ObjectChecksum.parse(ostree(generations.repo.path, *words))


def test_packages_are_compared(generations: Generations) -> None:
    found = package_difference(generations.repo, generations.first, generations.second)
    assert found.changes is not None
    assert [(str(a), str(b)) for a, b in found.changes.upgraded] == [
        ("app-1-1.noarch", "app-2-1.noarch")
    ]
    assert [str(new) for _, new in found.changes.downgraded] == ["back-1-1.noarch"]
    assert [str(package) for package in found.changes.added] == ["come-1-1.noarch"]
    assert [str(package) for package in found.changes.removed] == ["gone-1-1.noarch"]
    assert found.missing == ()


def test_only_new_changelog_entries_are_shown(generations: Generations) -> None:
    found = package_difference(generations.repo, generations.first, generations.second)
    ((package, entries),) = found.changelogs.items()
    assert str(package) == "app-2-1.noarch"
    assert [entry.author for entry in entries] == [
        "Ann <ann@example.org> - 2-1",
        "Bob <bob@example.org> - 1-2",
    ]
    assert "First" not in str(entries)
    found = package_difference(
        generations.repo, generations.first, generations.second, changelogs=False
    )
    assert found.changelogs == {}


def test_a_commit_is_no_different_from_itself(generations: Generations) -> None:
    found = package_difference(generations.repo, generations.second, generations.second)
    assert not found.changes
    done = jigdo("diff", generations.second, "os/stable", "--repo", generations.repo.path)
    assert len(done.out.splitlines()) == 2
    assert done.err == ""


@pytest.mark.parametrize("user", [0, 1000], ids=["root", "user"])
def test_commit_of_another_program_is_read_from_its_rpm_database(
    generations: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    foreign = copy_without(generations, tmp_path)
    assert "rpmostree.rpmdb.pkglist" not in generations.repo.commit(foreign).metadata
    assert packages_of(generations.repo, foreign) == packages_of(
        generations.repo, generations.second
    )
    found = package_difference(generations.repo, generations.first, foreign)
    assert [len(entries) for entries in found.changelogs.values()] == [2]


def test_commit_without_an_rpm_database_says_so(generations: Generations, tmp_path: Path) -> None:
    bare = copy_without(generations, tmp_path, "usr/share/rpm/rpmdb.sqlite")
    assert packages_of(generations.repo, bare) is None
    words = ["diff", "os/stable", bare, "--repo", generations.repo.path]
    done = jigdo(*words)
    assert f"{bare}: no list of packages in its metadata, and no rpm database" in done.err
    assert "  D /usr/share/rpm/rpmdb.sqlite\n" in done.out
    document = jigdo(*words, "--json").document
    assert document["packages"] is None
    assert len(document["missing"]) == 1


@pytest.mark.parametrize("kind", ["noise", "no tables", "truncated"])
@pytest.mark.parametrize("user", [0, 1000], ids=["root", "user"])
def test_damaged_rpm_database_is_an_error_that_says_so(
    generations: Generations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    kind: str,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    tree = tmp_path / "tree"
    ostree(generations.repo.path, "checkout", "-U", str(generations.second), tree)
    database = tree / "usr/share/rpm/rpmdb.sqlite"
    whole = database.read_bytes()
    database.unlink()
    content = {"noise": b"\xff" * 65536, "no tables": b"", "truncated": whole[: len(whole) // 2]}
    database.write_bytes(content[kind])
    words = ["commit", "--orphan", f"--tree=dir={tree}", "--owner-uid=0", "--owner-gid=0"]
    damaged = ostree(generations.repo.path, *words)
    with pytest.raises(ComposerError, match=f"commit {damaged}: .*rpm database"):
        packages_of(generations.repo, ObjectChecksum.parse(damaged))


def test_command_shows_all_of_it(generations: Generations) -> None:
    done = jigdo("diff", "os/stable^", "os/stable", "--repo", generations.repo.path)
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].startswith(f"from: {generations.first} ")
    assert lines[0].endswith(" 40")
    assert lines[1].startswith(f"to:   {generations.second} ")
    assert lines[2:5] == [
        "Upgraded:",
        "  app.noarch 1-1 -> 2-1",
        "    * 2023-11-15 Ann <ann@example.org> - 2-1",
    ]
    assert {"  back.noarch 2-1 -> 1-1", "  come-1-1.noarch", "  gone-1-1.noarch"} <= set(lines)
    assert {
        "  A /usr/share/come",
        "  D /usr/share/gone",
        "  M /usr/share/app (content, 5 -> 5 bytes)",
    } <= set(lines)


def test_terminal_escapes_of_packages_do_not_reach_the_terminal(generations: Generations) -> None:
    done = jigdo("diff", "os/stable^", "os/stable", "--repo", generations.repo.path)
    assert r"Repaired \x9b2Jthe \u202elock" in done.out
    assert all(line.isprintable() for line in done.out.split("\n"))


def test_sections_can_be_left_out(generations: Generations) -> None:
    words = ["diff", "os/stable^", "os/stable", "--repo", generations.repo.path]
    assert "Files:" not in jigdo(*words, "--no-files").out
    assert "Ann" not in jigdo(*words, "--no-changelogs").out
    only_files = jigdo(*words, "--no-packages").out
    assert "app.noarch" not in only_files
    assert "Files:" in only_files


def test_json_has_the_same_facts(generations: Generations) -> None:
    words = ["diff", "os/stable^", "os/stable", "--repo", generations.repo.path, "--json"]
    document = jigdo(*words).document
    assert document["from"]["commit"] == str(generations.first)
    assert document["to"]["version"] == "40.1"
    (upgraded,) = document["packages"]["upgraded"]
    assert upgraded["to"] == "app-2-1.noarch"
    assert len(upgraded["changelog"]) == 2
    files = {row["path"]: row for row in document["files"]}
    assert files["/usr/share/app"]["what"] == ["content"]
    assert files["/usr/share/come"]["to"]["size"] == 1
    assert files["/usr/share/gone"]["to"] is None
    assert "files" not in json.loads(jigdo(*words, "--no-files").out)
    same = ["diff", "os/stable", "os/stable", "--repo", generations.repo.path, "--json"]
    assert jigdo(*same).document["files"] == []


def test_wrong_revisions_are_clear_errors(generations: Generations) -> None:
    words = ["--repo", generations.repo.path]
    done = jigdo("diff", "os/stabel", "os/stable", *words, status=1)
    assert "no ref or commit 'os/stabel'" in done.err
    assert "did you mean os/stable?" in done.err
    done = jigdo("diff", str(generations.first)[:10], "os/stable", *words, status=2)
    assert "abbreviated" in done.err
    done = jigdo("diff", "os/stable^^", "os/stable", *words, status=1)
    assert "has no parent" in done.err

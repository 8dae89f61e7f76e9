"""``--check-reproducible``: two real composes, and what they say of each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from composer.compose.pipeline import compose
from composer.compose.reproduce import Difference, NotReproducible
from composer.errors import NoSpace
from composer.progress import silent
from tests.commands import jigdo
from tests.compose.rpms import File, Spec, needs_root
from tests.compose.test_pipeline import refs, request, run, small

pytestmark = needs_root

_BUSYBOX = "/usr/bin/busybox"
# A file that each line writes, and what has to be said of it.
_LEAKS = {
    "/usr/lib/boot-id": ("cat /proc/sys/kernel/random/uuid", "a random id (UUID)"),
    "/usr/lib/started": (f"{_BUSYBOX} date +%s", "the time of the compose"),
    "/usr/lib/listing": (f"{_BUSYBOX} find /usr/many -type f", "the order of lines"),
    "/usr/lib/text.gz": (
        f"{_BUSYBOX} cat /proc/sys/kernel/random/uuid | {_BUSYBOX} gzip -c",
        "in the gzip: a random id (UUID)",
    ),
    "/etc/leaky.conf": ("cat /proc/sys/kernel/random/uuid", "a random id (UUID)"),
    "/usr/share/leaky/inode": (f"{_BUSYBOX} stat -c %i /usr/lib", "numbers"),
}


def leaky() -> Spec:
    script = [f"{command} > {path}" for path, (command, _) in _LEAKS.items()]
    script += ["rm /usr/share/leaky/mode", "echo x > /usr/share/leaky/mode"]
    files = {f"/usr/many/{number}": File("x") for number in range(40)}
    files |= {"/usr/lib": File(directory=True), "/usr/share/leaky/mode": File("x")}
    files["/etc/leaky.conf"] = File("as packaged\n")
    return Spec("leaky", files=files, scripts={"%post": "set -e\n" + "\n".join(script)})


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NotReproducible]:
    tmp_path = tmp_path_factory.mktemp("leaky")
    treefile, place = small(tmp_path, "", leaky())
    wanted = replace(request(tmp_path, treefile, base=place), check_reproducible=True)
    with pytest.raises(NotReproducible) as caught:
        compose(wanted, silent)
    return tmp_path, caught.value


@pytest.mark.parametrize("path", sorted(_LEAKS))
def test_difference_has_cause_and_writer(failed: tuple[Path, NotReproducible], path: str) -> None:
    _, error = failed
    name = f"/usr{path}" if path.startswith("/etc") else path
    found = {difference.path: difference for difference in error.differences}
    assert found[name].cause.startswith(_LEAKS[path][1])
    assert found[name].writers == ("leaky-1-1.noarch %post",)
    owned = path == "/etc/leaky.conf"
    assert found[name].packages == (("leaky-1-1.noarch",) if owned else ())


def test_only_what_differs_is_told(failed: tuple[Path, NotReproducible]) -> None:
    _, error = failed
    expected = {f"/usr{p}" if p.startswith("/etc") else p for p in _LEAKS}
    assert {difference.path for difference in error.differences} == expected
    assert error.exit_status == 3
    assert "/usr/lib/boot-id: a random id (UUID)" in error.details


def test_ref_does_not_move_and_nothing_is_left(failed: tuple[Path, NotReproducible]) -> None:
    tmp_path, _ = failed
    assert refs(tmp_path / "repo") == {}
    assert list((tmp_path / "cache/composing").iterdir()) == []


def test_reproducible_commit_is_made_as_always(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    checked = compose(
        replace(request(tmp_path, treefile, base=place), check_reproducible=True), silent
    )
    assert str(refs(tmp_path / "repo")["small"]) == checked.commit
    plain = run(tmp_path / "other", treefile, base=place)
    assert plain.commit == checked.commit
    assert {"directory", "umask", "locale", "time zone"} <= set(checked.varied)
    assert plain.varied == ()
    assert {"solve", "fetch", "transaction", "commit", "again"} <= set(checked.seconds)


def test_failure_of_only_the_second_compose_is_told(tmp_path: Path) -> None:
    # A scriptlet that needs two processors.
    script = f'test "$({_BUSYBOX} nproc)" -ge 2'
    treefile, place = small(tmp_path, "", Spec("greedy", scripts={"%post": script}))
    words = ["compose", treefile, "--repo", tmp_path / "repo", "--cachedir", tmp_path / "cache"]
    words += ["--repository", f"base={place}", "--check-reproducible"]
    if jigdo(*words[:-1], "--no-parent", status=0).status == 0:
        done = jigdo(*words, status=3)
        assert "the second compose failed where the first did not: greedy" in done.err


def test_json_has_all_differences(tmp_path: Path) -> None:
    script = "cat /proc/sys/kernel/random/uuid > /usr/share/id"
    treefile, place = small(
        tmp_path, "", Spec("one", files={"/usr/share/x": File("x")}, scripts={"%post": script})
    )
    words = ["compose", treefile, "--repo", tmp_path / "repo", "--cachedir", tmp_path / "cache"]
    words += ["--repository", f"base={place}", "--check-reproducible", "--json"]
    told = json.loads(jigdo(*words, status=3).out)
    assert told["reproducible"] is False
    assert len(set(told["commits"])) == 2
    (difference,) = told["differences"]
    assert difference["path"] == "/usr/share/id"
    assert difference["writers"] == ["one-1-1.noarch %post"]


def test_second_compose_uses_the_same_errors_for_a_full_disk() -> None:
    from composer.compose.again import _failed

    told = {"status": 4, "message": "full", "details": [], "hint": "make room"}
    assert isinstance(_failed(told, 0), NoSpace)


def test_names_in_one_tree_only() -> None:
    from composer.compose.reproduce import _of_name

    assert "a random or dated name" in _of_name("cache-a1b2c3", "first", {"cache-9f8e7d"})
    assert _of_name("alone", "second", {"other-thing"}) == "only in the second tree"


def test_difference_is_told_in_lines() -> None:
    difference = Difference("/x", "why", ("p-1-1.noarch",), ("p-1-1.noarch %post",))
    assert difference.lines() == [
        "/x: why",
        "  a file of p-1-1.noarch",
        "  probably written by p-1-1.noarch %post",
    ]

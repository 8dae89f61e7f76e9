"""The compose from treefile to ref, with the fixture operating system and small packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.compose.commit import CommitFailed
from composer.compose.install import ScriptletFailed
from composer.compose.labels import NoPolicy
from composer.compose.pipeline import ComposeRequest, ComposeResult, NotWritable, compose
from composer.compose.postprocess import ScriptFailed
from composer.compose.treefile import load
from composer.errors import ComposerError, NoSpace, NothingNew, UsageError
from composer.ostree.repo import Repository
from composer.progress import silent
from tests.compose.http_server import served
from tests.compose.rpms import File, Spec, build, index, needs_root, repository, shell
from tests.fixtures_os.repos import FixtureRepos

pytestmark = needs_root

CHECKOUT = Path(__file__).parents[2]
FIXTURE = CHECKOUT / "treefiles/fixture.yaml"


def request(tmp_path: Path, treefile: Path, **repositories: str) -> ComposeRequest:
    return ComposeRequest(
        treefile=treefile,
        repo=tmp_path / "repo",
        cachedir=tmp_path / "cache",
        basearch="x86_64",
        repositories=repositories,
    )


def run(tmp_path: Path, treefile: Path, **repositories: str) -> ComposeResult:
    return compose(request(tmp_path, treefile, **repositories), silent)


def ostree(repo: Path, *argv: str) -> str:
    command = ["ostree", f"--repo={repo}", *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def refs(repo: Path) -> Mapping[str, object]:
    return Repository.open(repo).refs()


def small(tmp_path: Path, keys: str = "", *specs: Spec) -> tuple[Path, str]:
    """Write a treefile for a shell and ``specs``; returns it and their repository."""
    place = repository(tmp_path / "rpms", [shell(), *specs])
    names = ", ".join(["shell", *(spec.name for spec in specs)])
    path = tmp_path / "os.yaml"
    path.write_text(f"ref: small\nrepos: [base]\npackages: [{names}]\nselinux: false\n{keys}")
    return path, str(place)


def test_fixture_becomes_the_same_commit_anywhere(
    tmp_path: Path, fixture_repos: FixtureRepos, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "a", FIXTURE, fixture=str(fixture_repos.gen1))
    assert first.created
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old = os.umask(0o077)
    try:
        with served(fixture_repos.gen1, tmp_path / "log") as url:
            second = run(tmp_path / "b", FIXTURE, fixture=url)
    finally:
        os.umask(old)
    assert first.commit == second.commit
    assert "no errors" in ostree(tmp_path / "a/repo", "fsck")


def test_second_generation_follows_the_first(tmp_path: Path, fixture_repos: FixtureRepos) -> None:
    first = run(tmp_path, FIXTURE, fixture=str(fixture_repos.gen1))
    second = run(tmp_path, FIXTURE, fixture=str(fixture_repos.gen2))
    assert (first.version, second.version) == ("1", "1.1")
    assert (first.parent, second.parent) == ("", first.commit)
    assert str(refs(tmp_path / "repo")[first.ref]) == second.commit
    nevras = [package.ref.nevra for package in second.packages]
    assert nevras == sorted(nevras)


def test_commit_says_what_is_in_it(tmp_path: Path, fixture_repos: FixtureRepos) -> None:
    result = run(tmp_path, FIXTURE, fixture=str(fixture_repos.gen1))
    commit = Repository.open(tmp_path / "repo").commit(
        Repository.open(tmp_path / "repo").require(result.ref)
    )
    metadata = commit.metadata
    assert metadata["version"] == "1"
    assert metadata["ostree.bootable"] is True
    assert str(metadata["ostree.linux"]).startswith("6.")
    assert len(str(metadata["rpmostree.inputhash"])) == 64
    listed = metadata["jigdo-composer.packages"]
    assert isinstance(listed, list | tuple)
    package = result.packages[0]
    size = int.from_bytes(package.ref.size.to_bytes(8, "big"), sys.byteorder)
    assert (str(package.ref.nevra), str(package.ref.pkgid), size) in [tuple(row) for row in listed]
    assert [row[0] for row in listed] == sorted(row[0] for row in listed)
    assert package.ref.pkgid == ContentDigest.of(package.path.read_bytes())
    assert package.ref.repository == "fixture"


def test_tree_of_the_fixture_is_whole(tmp_path: Path, fixture_repos: FixtureRepos) -> None:
    result = run(tmp_path, FIXTURE, fixture=str(fixture_repos.gen1))
    tree = tmp_path / "checkout"
    ostree(tmp_path / "repo", "checkout", "--force-copy", result.ref, str(tree))
    query = ["rpm", "--root", str(tree), "--dbpath", "/usr/lib/sysimage/rpm", "-qa"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    assert len(listed.split()) == len(result.packages)
    assert "VARIANT_ID=base" in (tree / "usr/lib/os-release").read_text()
    assert not (tree / "usr/include").exists()
    assert list((tree / "var").iterdir()) == []
    assert not (tree / "etc").exists()
    (modules,) = (tree / "usr/lib/modules").iterdir()
    assert (modules / "vmlinuz").is_file()
    links = {p.name for p in (tree / "usr/etc/systemd/system").rglob("*") if p.is_symlink()}
    assert {"messaged.service", "messaged.socket"} <= links
    assert (tree / "usr/lib/systemd/system/default.target").is_symlink()
    capable = [
        line.split()[-1]
        for line in ostree(tmp_path / "repo", "ls", "-R", "-X", result.ref, "/usr").splitlines()
        if "security.capability" in line
    ]
    assert capable == [
        f"/{path.relative_to(tree)}"
        for path in sorted(tree.rglob("*"))
        if not path.is_symlink() and "security.capability" in os.listxattr(path)
    ]
    assert capable


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    first = run(tmp_path, treefile, base=place)
    before = sorted(p for p in (tmp_path / "repo").rglob("*"))
    with pytest.raises(NothingNew) as caught:
        run(tmp_path, treefile, base=place)
    assert caught.value.exit_status == 77
    assert sorted(p for p in (tmp_path / "repo").rglob("*")) == before
    forced = compose(replace(request(tmp_path, treefile, base=place), force=True), silent)
    assert forced.parent == first.commit
    treefile.write_text(treefile.read_text() + "documentation: false\n")
    again = compose(replace(request(tmp_path, treefile, base=place), parent=False), silent)
    assert again.parent == ""


def test_dry_run_solves_and_leaves_no_trace(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    result = compose(replace(request(tmp_path, treefile, base=place), dry_run=True), silent)
    assert [package.nevra.name for package in result.solution.packages] == ["shell"]
    assert result.commit == ""
    assert not (tmp_path / "repo").exists()


def test_failure_leaves_the_ref_and_no_work(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    first = run(tmp_path, treefile, base=place)
    build(Spec("bad", scripts={"%post": "echo broken; exit 1"}), Path(place))
    index(Path(place))
    treefile.write_text(treefile.read_text().replace("[shell]", "[shell, bad]"))
    with pytest.raises(ScriptletFailed):
        run(tmp_path, treefile, base=place)
    assert str(refs(tmp_path / "repo")["small"]) == first.commit
    assert list((tmp_path / "cache/composing").iterdir()) == []


def test_failing_script_shows_its_output(tmp_path: Path) -> None:
    keys = 'postprocess:\n  - "#!/usr/bin/sh\\ntrue"\n  - "#!/usr/bin/sh\\necho no ink; exit 4"\n'
    treefile, place = small(tmp_path, keys)
    with pytest.raises(ScriptFailed, match=r"postprocess\[1\].*status 4") as caught:
        run(tmp_path, treefile, base=place)
    assert caught.value.details == ("no ink",)
    assert not (tmp_path / "repo").exists()


def test_scripts_see_the_layout_and_nothing_else(tmp_path: Path) -> None:
    script = "#!/usr/bin/sh\\nset -eu\\n" + "\\n".join(
        [
            "echo changed > /etc/configured",
            "test -L /home",
            "if mount -o remount,rw / 2> /dev/null; then exit 9; fi",
            "if nc 127.0.0.1 22 < /dev/null 2> /dev/null; then exit 8; fi",
        ]
    )
    treefile, place = small(tmp_path, f'postprocess: ["{script}"]\n')
    run(tmp_path, treefile, base=place)
    assert ostree(tmp_path / "repo", "cat", "small", "/usr/etc/configured") == "changed\n"


def test_selinux_without_a_policy_is_told(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    treefile.write_text(treefile.read_text().replace("selinux: false", "selinux: true"))
    with pytest.raises(NoPolicy, match="no SELinux policy") as caught:
        run(tmp_path, treefile, base=place)
    assert "selinux: false" in caught.value.hint


def _policy() -> Spec:
    contexts = {
        "/.*": "default_t",
        "/usr/bin/.*": "bin_t",
        "/etc/.*": "etc_t",
        "/etc/secret.*": "shadow_t",
        "/usr/etc/.*": "usr_t",
    }
    lines = [f"{path}\tsystem_u:object_r:{label}:s0\n" for path, label in contexts.items()]
    files = {
        "/etc/selinux/config": File("SELINUX=enforcing\nSELINUXTYPE=mini\n"),
        "/etc/selinux/mini/contexts/files/file_contexts": File("".join(lines)),
        "/etc/selinux/mini/policy/policy.33": File("stands for a policy"),
        "/etc/secret": File("x"),
        "/etc/secret-capable": File("x", "0755", mark="%caps(cap_net_raw=ep)"),
        "/usr/bin/capable": File("x", "0755", mark="%caps(cap_net_raw=ep)"),
    }
    return Spec("policy", files=files)


def _attributes(tmp_path: Path, *names: str) -> list[str]:
    return [ostree(tmp_path / "repo", "ls", "-X", "small", name) for name in names]


@pytest.mark.parametrize(
    ("version", "config", "secret"), [(0, "usr_t", "usr_t"), (1, "etc_t", "shadow_t")]
)
def test_labels_come_from_the_trees_own_policy(
    tmp_path: Path, version: int, config: str, secret: str
) -> None:
    treefile, place = small(tmp_path, f"selinux-label-version: {version}\n", _policy())
    treefile.write_text(treefile.read_text().replace("selinux: false", "selinux: true"))
    run(tmp_path, treefile, base=place)
    names = ("/usr/etc/selinux/config", "/usr/etc/secret", "/usr/bin/busybox", "/usr/share")
    labels = (config, secret, "bin_t", "default_t")
    for listed, label in zip(_attributes(tmp_path, *names), labels, strict=True):
        assert f":{label}:s0" in listed.splitlines()[0]
    # Files with capabilities are written on their own.
    capable = ("/usr/etc/secret-capable", "/usr/bin/capable")
    for listed, label in zip(_attributes(tmp_path, *capable), (secret, "bin_t"), strict=True):
        assert f":{label}:s0" in listed
        assert "security.capability" in listed
    # What the substitution was made with is nothing of the commit's.
    assert "subs" not in ostree(tmp_path / "repo", "ls", "-R", "small", "/usr/etc/selinux")
    assert "no errors" in ostree(tmp_path / "repo", "fsck")


@pytest.mark.parametrize("link", ["/etc/selinux/mini", "/etc/selinux/mini/contexts"])
def test_policy_that_a_link_leads_to_is_looked_up_in_the_tree(tmp_path: Path, link: str) -> None:
    # Outside, where a link of the tree must not lead, is another policy.
    outside = tmp_path / "outside/mini/contexts/files"
    outside.mkdir(parents=True)
    (outside / "file_contexts").write_text("/.*\tsystem_u:object_r:outside_t:s0\n")
    target = f"{tmp_path}/outside/mini{link.removeprefix('/etc/selinux/mini')}"
    script = {"%posttrans": f"rm -r {link}; ln -s {target} {link}"}
    treefile, place = small(tmp_path, "", _policy(), Spec("hostile", scripts=script))
    treefile.write_text(treefile.read_text().replace("selinux: false", "selinux: true"))
    with pytest.raises(NoPolicy):
        run(tmp_path, treefile, base=place)


def test_kernel_goes_where_ostree_looks(tmp_path: Path) -> None:
    kernel = Spec(
        "kernel",
        files={
            "/boot/vmlinuz-6.1": File("kernel"),
            "/boot/initramfs-6.1.img": File("initramfs"),
            "/boot/efi/EFI/x/shim.efi": File("shim"),
            "/usr/lib/modules/6.1/modules.dep": File(""),
        },
    )
    treefile, place = small(tmp_path, "boot-location: new\n", kernel)
    run(tmp_path, treefile, base=place)
    listed = ostree(tmp_path / "repo", "ls", "-R", "small", "/usr/lib", "/boot")
    names = [line.split()[-1] for line in listed.splitlines()]
    assert names[-1] == "/boot"
    boot = [name for name in names if name.startswith("/usr/lib/ostree-boot/")]
    assert boot[0].startswith("/usr/lib/ostree-boot/initramfs-6.1.img-")
    assert boot[1].startswith("/usr/lib/ostree-boot/vmlinuz-6.1-")
    assert boot[-1] == "/usr/lib/ostree-boot/efi/EFI/x/shim.efi"
    assert {"/usr/lib/modules/6.1/vmlinuz", "/usr/lib/modules/6.1/initramfs.img"} <= set(names)


def test_two_kernels_are_refused(tmp_path: Path) -> None:
    kernels = Spec("k", files={f"/usr/lib/modules/{n}/vmlinuz": File(str(n)) for n in (1, 2)})
    treefile, place = small(tmp_path, "", kernels)
    with pytest.raises(ComposerError, match="more than one kernel: 1, 2"):
        run(tmp_path, treefile, base=place)


def test_initramfs_is_made_by_the_trees_dracut(tmp_path: Path) -> None:
    dracut = '#!/usr/bin/sh\nfor last; do :; done\necho "$@" "$SOURCE_DATE_EPOCH" > "$last"\n'
    files = {
        "/usr/lib/modules/6.1/vmlinuz": File("kernel"),
        "/usr/bin/dracut": File(dracut, "0755"),
    }
    treefile, place = small(tmp_path, "boot-location: modules\n", Spec("kernel", files=files))
    run(tmp_path, treefile, base=place)
    made = ostree(tmp_path / "repo", "cat", "small", "/usr/lib/modules/6.1/initramfs.img")
    assert made.startswith("--force --no-hostonly --reproducible --tmpdir /tmp --kver 6.1 ")
    treefile.write_text(treefile.read_text() + "no-initramfs: true\n")
    run(tmp_path, treefile, base=place)
    names = ostree(tmp_path / "repo", "ls", "-R", "small", "/usr/lib/modules")
    assert "initramfs.img" not in names


@pytest.mark.parametrize("module", ["98ostree", "50ostree"])
def test_initramfs_has_the_ostree_module_wherever_libostree_puts_it(
    tmp_path: Path, module: str
) -> None:
    dracut = '#!/usr/bin/sh\nfor last; do :; done\necho "$@" > "$last"\n'
    files = {
        "/usr/lib/modules/6.1/vmlinuz": File("kernel"),
        "/usr/bin/dracut": File(dracut, "0755"),
        f"/usr/lib/dracut/modules.d/{module}/module-setup.sh": File("", "0755"),
    }
    treefile, place = small(tmp_path, "boot-location: modules\n", Spec("kernel", files=files))
    run(tmp_path, treefile, base=place)
    made = ostree(tmp_path / "repo", "cat", "small", "/usr/lib/modules/6.1/initramfs.img")
    assert " --add ostree " in made


def test_initramfs_of_a_scriptlet_is_made_anew(tmp_path: Path) -> None:
    files = {
        "/usr/lib/modules/6.1/vmlinuz": File("kernel"),
        "/usr/bin/dracut": File(
            '#!/usr/bin/sh\nfor last; do :; done\necho new > "$last"\n', "0755"
        ),
        "/boot": File(directory=True, mode="0755"),
    }
    script = {"%posttrans": "echo $$ > /boot/initramfs-6.1.img"}
    kernel = Spec("kernel", files=files, scripts=script)
    treefile, place = small(tmp_path, "boot-location: modules\n", kernel)
    run(tmp_path, treefile, base=place)
    made = ostree(tmp_path / "repo", "cat", "small", "/usr/lib/modules/6.1/initramfs.img")
    assert made == "new\n"
    assert "initramfs-6.1.img" not in ostree(tmp_path / "repo", "ls", "-R", "small")


def test_users_keep_their_numbers(tmp_path: Path) -> None:
    def app(name: str) -> Spec:
        files = {f"/usr/share/{name}": File("x", owner=name, group=name)}
        return Spec(name, files=files, headers=[f"Provides: user({name}) group({name})"])

    treefile, place = small(tmp_path, "", app("web"))
    run(tmp_path, treefile, base=place)
    build(app("aaa"), Path(place))
    index(Path(place))
    text = treefile.read_text()
    treefile.write_text(text.replace("[shell, web]", "[shell, web, aaa]"))
    run(tmp_path, treefile, base=place)
    passwd = ostree(tmp_path / "repo", "cat", "small", "/usr/etc/passwd")
    numbers = {line.split(":")[0]: line.split(":")[2] for line in passwd.splitlines()}
    assert numbers == {"root": "0", "web": "999", "aaa": "998"}
    more = "check-passwd: {type: data, entries: {web: 7}}\ncheck-groups: {type: none}\n"
    treefile.write_text(treefile.read_text() + more)
    run(tmp_path, treefile, base=place)
    listed = ostree(tmp_path / "repo", "ls", "small", "/usr/share/web")
    assert listed.split()[1:3] == ["7", "7"]


def test_source_date_epoch_is_the_commits_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    treefile, place = small(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    run(tmp_path, treefile, base=place)
    assert "2009-02-13 23:31:30" in ostree(tmp_path / "repo", "show", "small")
    for given in ("today", "", "-1", "\u0661\u0662", "9" * 20, str(1 << 32)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
            run(tmp_path / "other", treefile, base=place)


def test_repository_that_cannot_be_written_is_told_before_anything_is_done(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    place_of_repo = tmp_path / "read-only"
    place_of_repo.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,ro", "tmpfs", str(place_of_repo)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    wanted = replace(request(tmp_path, treefile, base=place), repo=place_of_repo / "not/yet")
    try:
        with pytest.raises(NotWritable, match="not/yet: cannot be written to"):
            compose(wanted, silent)
        assert not wanted.cachedir.exists()
    finally:
        subprocess.run(["umount", str(place_of_repo)], check=True)


@pytest.mark.parametrize("mode", ["bare", "archive"])
def test_other_repository_modes_work(tmp_path: Path, mode: str) -> None:
    treefile, place = small(tmp_path)
    Repository.create(tmp_path / "repo", mode=mode)
    result = run(tmp_path, treefile, base=place)
    bare_user = run(tmp_path / "other", treefile, base=place)
    assert result.commit == bare_user.commit
    assert not result.created
    assert "no errors" in ostree(tmp_path / "repo", "fsck")


def test_something_else_at_the_repositorys_place_is_left_alone(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/precious").write_text("x")
    with pytest.raises(UsageError, match="not an OSTree repository"):
        run(tmp_path, treefile, base=place)


def test_commit_is_signed_or_not_made(tmp_path: Path) -> None:
    treefile, place = small(tmp_path)
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback"]
    make = [*gpg, "--passphrase", "", "--quick-gen-key", "signer@test.invalid", "ed25519"]
    subprocess.run(make, check=True, capture_output=True)
    wanted = replace(request(tmp_path, treefile, base=place), gpg_homedir=str(home))
    with pytest.raises(CommitFailed, match="cannot be signed"):
        compose(replace(wanted, gpg_key="nobody@test.invalid"), silent)
    assert refs(tmp_path / "repo") == {}
    result = compose(replace(wanted, gpg_key="signer@test.invalid"), silent)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    commit = ObjectChecksum.parse(result.commit)
    detached = Repository.open(tmp_path / "repo").detached_metadata(commit)
    assert detached is not None
    assert "ostree.gpgsigs" in detached.unpack()


def test_full_disk_is_told_and_the_repository_is_whole(tmp_path: Path) -> None:
    treefile, place = small(tmp_path, "", Spec("big", files={"/usr/big": File("x" * 9_000_000)}))
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(cache)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        with pytest.raises(NoSpace) as caught:
            run(tmp_path, treefile, base=place)
    finally:
        subprocess.run(["umount", str(cache)], check=True)
    assert caught.value.exit_status == 4
    assert all(line.isprintable() for line in caught.value.details)
    assert not (tmp_path / "repo").exists()


def test_killed_compose_leaves_nothing_that_matters(tmp_path: Path) -> None:
    slow = Spec("slow", scripts={"%post": "sleep 271"})
    treefile, place = small(tmp_path, "", slow)
    argv = [sys.executable, "-m", "composer", "compose", str(treefile), "--repo", "repo"]
    argv += ["--cachedir", "cache", "--repository", f"base={place}"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: _is_running("sleep\x00271"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait_until(lambda: not _is_running("sleep\x00271"))
    assert not (tmp_path / "repo").exists()
    (left,) = (tmp_path / "cache/composing").iterdir()
    treefile.write_text(treefile.read_text().replace(", slow", ""))
    result = run(tmp_path, treefile, base=place)
    assert result.commit
    assert not left.exists()


def test_interrupted_compose_cleans_up(tmp_path: Path) -> None:
    treefile, place = small(tmp_path, "", Spec("slow", scripts={"%post": "sleep 272"}))
    argv = [sys.executable, "-m", "composer", "compose", str(treefile), "--repo", "repo"]
    argv += ["--cachedir", "cache", "--repository", f"base={place}"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    _wait_until(lambda: _is_running("sleep\x00272"))
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert list((tmp_path / "cache/composing").iterdir()) == []
    _wait_until(lambda: not _is_running("sleep\x00272"))


def _is_running(command: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text(errors="replace").startswith(command):
                return True
        except OSError:
            continue
    return False


def _wait_until(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_fixture_with_most_keys(tmp_path: Path, fixture_repos: FixtureRepos) -> None:
    everything = CHECKOUT / "treefiles/fixture-all.yaml"
    keys = load(everything, basearch="x86_64").given
    assert len(keys) >= 40
    wanted = request(tmp_path, everything, fixture=str(fixture_repos.gen1))
    result = compose(replace(wanted, check_reproducible=True), silent)
    assert (result.ref, result.version) == ("fixture/x86_64/testing", "1")
    assert "no errors" in ostree(tmp_path / "repo", "fsck")
    second = run(tmp_path, everything, fixture=str(fixture_repos.gen2))
    assert second.version == "1-1"
    tree = tmp_path / "tree"
    ostree(tmp_path / "repo", "checkout", "--force-copy", result.ref, str(tree))
    assert {p.ref.nevra.name for p in second.packages} >= {"vcs", "zones", "plugin-red"}
    assert "OSTREE_VERSION='1-1'" in (tree / "usr/lib/os-release").read_text()
    assert (tree / "usr/share/fixture/stream").read_text() == "data: made\n"
    assert (tree / "opt/vendor/data").exists()
    assert (tree / "usr/bin/welcome").stat().st_mode & 0o777 == 0o555
    assert not (tree / "usr/etc/motd").exists()
    assert not list((tree / "usr/etc/paint.d").iterdir())
    assert not (tree / "usr/share/doc/paint/README").exists()
    assert {p.name for p in (tree / "usr/share/locale").iterdir()} == {"de", "ja"}
    passwd = (tree / "usr/lib/passwd").read_text()
    assert "messaged:x:81:81:" in passwd
    assert "retired:x:170:" in passwd
    assert "painter:" in passwd
    assert "messages:x:180:messaged" in (tree / "usr/etc/group").read_text()
    target = tree / "usr/lib/systemd/system/default.target"
    assert os.readlink(target) == "multi-user.target"
    repository = Repository.open(tmp_path / "repo")
    metadata = repository.commit(repository.require(result.ref)).metadata
    assert metadata["fixture.stream"] == "testing"

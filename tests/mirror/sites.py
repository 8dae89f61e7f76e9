"""A small published repository for the site's tests: hostile texts, odd names, several refs.

Versions are of crafted packages and commits; their sets are built by the command.  What is
in the texts would act, if it became markup.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from composer.ostree.repo import Repository
from tests.client.pulling import run_here
from tests.jigdo.sets import local_packages, write_files
from tests.rpm.crafted import ARRAY, I18N, INT32, STRING, SUMMARY, RpmFile, Tag, rpm_bytes

REF = "site/x86_64/os"
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
_DESCRIPTION, _URL, _LICENSE = 1005, 1020, 1014
_CHANGELOG_TIMES, _CHANGELOG_NAMES, _CHANGELOG_TEXTS = 1080, 1081, 1082
_START = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Release:
    """A version: its packages' versions by name, and from which versions its set has deltas.

    ``without`` are paths that its tree lacks; ``database`` is what its rpmdb holds.
    """

    version: str
    packages: Mapping[str, int]
    bases: Sequence[str] = ()
    without: Sequence[str] = ()
    database: int = 0


_LAST = {"alpha": 12, "beta": 4, "gamma": 2, "new": 2, "Odd_Name": 1}
RELEASES = (
    Release("1.0", {"alpha": 1, "beta": 1, "gamma": 1, "old": 1}),
    Release("1.1", {"alpha": 2, "beta": 1, "gamma": 1, "old": 1}, ["1.0"]),
    Release("1.2", {"alpha": 10, "beta": 2, "gamma": 1, "new": 1}),
    Release("1.3", {"alpha": 9, "beta": 3, "gamma": 2, "new": 1}, ["1.2", "1.0"]),
    Release(
        f"2.0 {HOSTILE}/../..",
        {"alpha": 11, "beta": 3, "gamma": 2, "new": 1},
        ["1.3"],
        without=["/usr/share/doc/gamma/README"],
    ),
    Release("2.1~rc", _LAST, database=9),
    Release("2.1", _LAST, ["1.3"], database=9),
)


@dataclass(slots=True)
class Published:
    """Where it is; :meth:`publish` adds versions."""

    root: Path
    released: dict[str, int] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @property
    def mirror(self) -> Path:
        return self.root / "mirror"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def publish(self, release: Release, *, ref: str = REF, sign: Sequence[object] = ()) -> None:
        """Compose a version of crafted packages, and publish its set."""
        number = self.released[ref] = self.released.get(ref, 0) + 1
        paths = [self._package(name, version) for name, version in release.packages.items()]
        local = local_packages(paths)
        files = {
            one.path: one.data
            for name, version in release.packages.items()
            for one in package_files(name, version)
            if one.path not in release.without
        }
        repo = Repository.open(self.repo)
        tree = write_files(
            repo, files | {"/usr/share/rpm/rpmdb.sqlite": content("db", release.database or number)}
        )
        rows = sorted((str(p.ref.nevra), str(p.ref.pkgid), p.ref.size) for p in local)
        listed = ", ".join(f"({n!r}, {i!r}, uint64 {s})" for n, i, s in rows)
        argv = ["ostree", f"--repo={self.repo}", "commit", "-b", ref, f"--tree=ref={tree}"]
        argv += ["--fsync=no", f"--timestamp=@{_START + number * 86400}", *map(str, sign)]
        argv += [f"--add-metadata-string=version={release.version}"]
        argv += [f"--add-metadata=jigdo-composer.packages=[{listed}]"]
        subprocess.run(argv, capture_output=True, check=True)
        words = ["set", "build", "--repo", self.repo, "--ref", ref, "--output", self.mirror]
        words += ["--rpm-deltas", "all", "--cachedir", self.root / "sets", "--json"]
        words += ["--packages", self.mirror / "packages"]
        words += [word for base in release.bases or ["none"] for word in ("--from", base)]
        done = run_here(*words)
        assert done.status == 0, done.err

    def _package(self, name: str, version: int) -> Path:
        path = self.mirror / "packages" / f"{name}-{version}.rpm"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            files = [*package_files(name, version)]
            tags = package_tags(name, version)
            path.write_bytes(rpm_bytes(files, name=name, version=str(version), tags=tags))
        return path


def create(root: Path) -> Published:
    """An empty one."""
    Repository.create(root / "repo", mode="bare-user")
    (root / "mirror").mkdir()
    return Published(root)


def content(name: str, version: int) -> bytes:
    """Bytes of which each version changes some."""
    data = bytearray(random.Random(name).randbytes(30_000))
    for number in range(1, version + 1):
        drawn = random.Random(f"{name}{number}")
        for _ in range(10):
            at = drawn.randrange(len(data) - 16)
            data[at : at + 12] = drawn.randbytes(12)
    return bytes(data)


def package_files(name: str, version: int) -> list[RpmFile]:
    """The files of a package."""
    return [
        RpmFile(f"/usr/bin/{name}", content(name, version)),
        RpmFile(f"/usr/lib/{name}/<b>{name}.so.{version}", content(f"lib{name}", version)),
        RpmFile(f"/usr/share/doc/{name}/README", f"{name}\n".encode()),
    ]


def package_tags(name: str, version: int) -> dict[int, Tag | None]:
    """Texts of a package, all of them hostile."""
    versions = range(version, 0, -1)
    return {
        SUMMARY: (I18N, [f"{name} for {HOSTILE}".encode()]),
        _DESCRIPTION: (I18N, [f"All of {name}.\n\n{HOSTILE}\n\u202egnihtemos".encode()]),
        _URL: (STRING, b"javascript:window.hacked=1"),
        _LICENSE: (STRING, b"<b>GPL</b>"),
        _CHANGELOG_TIMES: (INT32, [_START + 86400 * one for one in versions]),
        _CHANGELOG_NAMES: (
            ARRAY,
            [f"A <{HOSTILE}@example> - {one}-1".encode() for one in versions],
        ),
        _CHANGELOG_TEXTS: (
            ARRAY,
            [f"- {name} change {one} {HOSTILE}".encode() for one in versions],
        ),
    }


def _update(ident: str, kind: str, more: str, name: str, version: int) -> str:
    return f"""<update from="x" status="final" type="{kind}" version="1"><id>{ident}</id>
<title>t</title><issued date="2023-11-20 00:00:00"/><summary>s</summary>
<description>d</description>{more}<pkglist><collection short="x"><name>x</name>
<package name="{name}" version="{version}" release="1" epoch="0" arch="noarch">
<filename>x.rpm</filename></package></collection></pkglist></update>"""


_REFERENCES = """<severity>Important</severity><references>
<reference href="javascript:window.hacked=1" id="1" type="cve" title="CVE-2023-0001"/>
<reference href="https://example.org/2" id="2" type="cve" title="CVE-2023-0002"/></references>"""
_UPDATES = [
    _update("ADV-1 &lt;i&gt;", "security", _REFERENCES, "alpha", 3),
    _update("ADV-2", "bugfix", "<references/>", "beta", 4),
]
UPDATEINFO = f"""<?xml version="1.0" encoding="UTF-8"?>
<updates>{"".join(_UPDATES)}</updates>
"""


def advise(published: Published) -> None:
    """Add advisories to the repository's rpm-md; publications keep them."""
    path = published.root / "updateinfo.xml"
    path.write_text(UPDATEINFO)
    argv = ["modifyrepo_c", "--mdtype=updateinfo", path, published.mirror / "repodata"]
    subprocess.run([*map(str, argv)], check=True, capture_output=True)

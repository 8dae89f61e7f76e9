"""The RPMs themselves: fetched by librepo, each proven against the repository's checksum.

An RPM of a ``file://`` repository is used where it is, and proven just the same.  Where a
repository asks for gpgcheck, its packages' signatures are checked before anything uses them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest
from composer.compose.depsolve import Chosen, Solution
from composer.compose.lockfile import Entry, write_lockfile
from composer.compose.signatures import Keyring, Signed, read_keyring, require_signed
from composer.errors import ChecksumMismatch, ComposerError, NoSpace, NotFound
from composer.progress import Report, Step
from composer.rpm.package import Nevra, PackageRef

_CHUNK = 1 << 20
_CALCULATED = re.compile(r"Calculated: ([0-9a-f]+).*Expected: ([0-9a-f]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ComposedPackage:
    """A package of the tree and the local RPM that it came from."""

    ref: PackageRef
    path: Path


def fetch(solution: Solution, base: Any, report: Report) -> tuple[ComposedPackage, ...]:
    """Fetch what is not here and prove all; ``base`` is the one that solved.

    Returns them in the solution's order.  What an earlier run left is used, and fetched
    again if it is spoilt.  Raises ChecksumMismatch, NotFound, NoSpace, and, of repositories
    with gpgcheck, KeysUnusable before anything moves and UntrustedPackage.
    """
    keyrings = _keyrings(solution, base)
    remote = [package for package in solution.packages if not package.is_local]
    cached = [package for package in remote if package.path.exists()]
    _download([package for package in remote if package not in cached], base, report)
    outcomes = _prove(solution.packages, report)
    spoilt = [package for package in cached if isinstance(outcomes[package], ComposerError)]
    for package in spoilt:
        package.path.unlink()
    _download(spoilt, base, report)
    outcomes |= _prove(tuple(spoilt), report)
    found: dict[Chosen, ComposedPackage] = {}
    for package, outcome in outcomes.items():
        if isinstance(outcome, ComposerError):
            raise outcome
        found[package] = outcome
    require_signed(
        [
            Signed(package.nevra, found[package].path, keyrings[package.repository])
            for package in solution.packages
            if package.repository in keyrings
        ],
        report,
    )
    return tuple(found[package] for package in solution.packages)


def _keyrings(solution: Solution, base: Any) -> dict[str, Keyring]:
    """Read the keys of the repositories that ask for gpgcheck and have packages here."""
    used = sorted({package.repository for package in solution.packages} - {""})
    asking = (base.repos[ident] for ident in used if base.repos[ident].gpgcheck)
    scratch = Path(base.conf.persistdir) / "package-keys"
    return {repository.id: read_keyring(repository, scratch) for repository in asking}


def _download(packages: list[Chosen], base: Any, report: Report) -> None:
    import dnf.exceptions

    if not packages:
        return
    wanted = {package.path for package in packages}
    chosen = [p for p in base.transaction.install_set if Path(p.localPkg()) in wanted]
    progress = _progress(report)
    try:
        base.download_packages(chosen, progress)
    except dnf.exceptions.DownloadError as error:
        raise _explained(str(error), progress.failures, packages) from error


def _progress(report: Report) -> Any:
    import dnf.callback

    class Progress(dnf.callback.DownloadProgress):  # type: ignore[misc]
        def start(self, total_files: int, total_size: int, total_drpms: int = 0) -> None:
            self._total = total_size
            self._done: dict[str, int] = {}
            self.failures: dict[str, str] = {}

        def progress(self, payload: Any, done: int) -> None:
            self._done[str(payload)] = done
            report(Step("download", sum(self._done.values()), self._total, "bytes", str(payload)))

        def end(self, payload: Any, status: int, msg: str) -> None:
            if status in (dnf.callback.STATUS_FAILED, dnf.callback.STATUS_MIRROR):
                self.failures.setdefault(str(payload), msg)
            else:
                self.progress(payload, payload.download_size)

    return Progress()


def _explained(text: str, failures: Mapping[str, str], packages: Iterable[Chosen]) -> ComposerError:
    """Make the error for a download; ``failures`` has what each mirror said, by NEVRA."""
    failed = next((p for p in packages if str(p.nevra) in text or str(p.nevra) in failures), None)
    text = "\n".join([*failures.values(), text])
    what = str(failed.nevra) if failed else "a package"
    source = failed.url if failed else ""
    if "No space left" in text or "not enough free space" in text.lower():
        return NoSpace(
            f"{what}: no space left while downloading",
            details=text.splitlines(),
            hint="free some space there and run the same command again; what arrived is kept",
        )
    mismatch = _CALCULATED.search(text)
    if mismatch:
        return ChecksumMismatch(
            what=what, expected=mismatch[2], actual=mismatch[1], source=source, hint=_STALE
        )
    return NotFound(
        f"{what}: cannot be downloaded", details=[source, *text.splitlines()[:8]], hint=_STALE
    )


_STALE = "the mirror and its repodata do not agree; use another, with --repository ID=URL"


def _prove(
    packages: tuple[Chosen, ...], report: Report
) -> dict[Chosen, ComposedPackage | ComposerError]:
    """Digest every RPM; hashing releases Python's lock, so threads use all cores."""
    total = sum(package.size for package in packages)
    done = 0
    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for package, outcome in zip(packages, pool.map(_proven, packages), strict=True):
            done += package.size
            report(Step("verify", done, total, "bytes", str(package.nevra)))
            found[package] = outcome
    return found


def _proven(package: Chosen) -> ComposedPackage | ComposerError:
    if not package.path.is_file():
        return NotFound(f"{package.nevra}: its RPM is not there: {package.path}", hint=_STALE)
    locked = package.locked.partition(":")
    digests = _digests(package.path, {package.algorithm, locked[0] or "sha256", "sha256"})
    for expected, algorithm, hint in (
        (package.checksum, package.algorithm, _STALE),
        (locked[2], locked[0], "a lockfile names other bytes: use the repository it was made with"),
    ):
        if expected and digests[algorithm] != expected:
            return ChecksumMismatch(
                what=str(package.nevra),
                expected=expected,
                actual=digests[algorithm],
                source=package.url,
                hint=hint,
            )
    pkgid = ContentDigest.parse(digests["sha256"])
    size = package.path.stat().st_size
    ref = PackageRef(package.nevra, pkgid, size, package.repository, package.location)
    return ComposedPackage(ref, package.path)


def _digests(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Return the digests of a file by ``algorithms``, reading it once."""
    states = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            for state in states.values():
                state.update(piece)
    return {algorithm: state.hexdigest() for algorithm, state in states.items()}


def lock(path: Path, solution: Solution, packages: Iterable[ComposedPackage]) -> None:
    """Write a lockfile of ``solution`` to ``path``; ``packages`` are those that were fetched.

    Without them, a package that is not here has the digest that its repository gives.
    """
    known = {package.ref.nevra: str(package.ref.pkgid) for package in packages}
    entries = [
        Entry(package.nevra, _lockable(package, known), package.source)
        for package in solution.packages
    ]
    write_lockfile(path, entries, dict(solution.repositories))


def _lockable(package: Chosen, known: Mapping[Nevra, str]) -> str:
    if package.nevra in known:
        return f"sha256:{known[package.nevra]}"
    if package.algorithm != "sha256" and package.path.is_file():
        return f"sha256:{_digests(package.path, ['sha256'])['sha256']}"
    return f"{package.algorithm}:{package.checksum}"

"""Lockfiles applied: what a solve may choose from, and whether it kept to it.

As rpm-ostree has it, a lockfile allows and does not ask: the treefile still says what is
installed.  Of a locked package only the locked version can be taken; packages that no
lockfile names are free, or with ``strict`` not to be had.  Repositories of ``lockfile-repos``
give locked packages only.  What is locked and nowhere stops only those who need it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.compose.lockfile import Locked, LockedSource, Lockfile, LockfileError
from composer.compose.problems import shortened
from composer.errors import VerificationFailed
from composer.rpm.package import Nevra

# In a warning, which is one line.
_FEW = 3


class LockedDigestMismatch(VerificationFailed):
    """Packages whose bytes are not those that a lockfile names."""


@dataclass(frozen=True, slots=True)
class Locks:
    """What is locked, by package name; ``reason`` tells why another version was not to be had.

    ``missing`` is what no repository has.
    """

    lockfile: Lockfile
    strict: bool
    by_name: Mapping[str, str]
    missing: tuple[str, ...]

    def reason(self, name: str) -> str:
        """Say why the lockfiles keep versions of ``name`` away; "" if they do not."""
        if name in self.by_name:
            return self.by_name[name]
        return "no lockfile has it" if self.strict else ""

    def warnings(self) -> tuple[str, ...]:
        """Say what of a solution's lockfiles was not to be had, and thus not needed."""
        if not self.missing:
            return ()
        shown = ", ".join(shortened(self.missing, _FEW))
        return (
            f"no repository has {len(self.missing)} of the locked packages; none of them is"
            f" needed: {shown}",
        )

    def digest(self, nevra: Nevra) -> str:
        """Return the digest that the lockfiles want of ``nevra``; "" if any will do."""
        locked = self.lockfile.packages.get(nevra.name)
        return locked.digest if locked and locked.takes(nevra) else ""


def apply_locks(
    base: Any,
    lockfile: Lockfile,
    *,
    excluded: Iterable[str],
    lockfile_repos: Sequence[str],
    strict: bool,
) -> Locks:
    """Take out of dnf's sack what ``lockfile`` rules out.

    Raises LockfileError, naming all, for what is excluded, and LockedDigestMismatch where a
    repository has other bytes under a locked version.
    """
    _require_not_excluded(lockfile, set(excluded))
    named = _by_name(base, lockfile)
    allowed = _allowed(lockfile, named)
    by_name = {name: f"{one.where} locks {one}" for name, one in lockfile.packages.items()}
    built, nowhere = _of_sources(base, lockfile, allowed)
    for package, reason in built:
        by_name.setdefault(package.name, reason)
        named[package.name].append(package)
    missing = [source.rpm for source in nowhere]
    for name, locked in lockfile.packages.items():
        there = named.get(name, [])
        if not any(locked.takes(nevra_of(one)) or one in allowed for one in there):
            by_name[name] += _instead(there)
            missing.append(str(locked))
    _exclude(base, strict, lockfile_repos, named, allowed)
    return Locks(lockfile, strict, by_name, tuple(sorted(missing)))


def nevra_of(package: Any) -> Nevra:
    """Take the NEVRA of dnf's ``package``."""
    return Nevra(package.name, package.epoch, package.version, package.release, package.arch)


def _require_not_excluded(lockfile: Lockfile, excluded: set[str]) -> None:
    both = [lockfile.packages[name] for name in sorted(excluded & set(lockfile.packages))]
    if both:
        raise LockfileError(
            f"{both[0].where}: the treefile excludes {both[0].nevra.name}",
            details=shortened([one.where for one in both[1:]]),
            hint="take it out of the lockfile, or out of the key exclude-packages",
        )


def _by_name(base: Any, lockfile: Lockfile) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for package in base.sack.query().filterm(name=sorted(lockfile.packages)):
        found[package.name].append(package)
    return found


def _allowed(lockfile: Lockfile, named: Mapping[str, list[Any]]) -> set[Any]:
    allowed: set[Any] = set()
    wrong: list[str] = []
    for name, locked in sorted(lockfile.packages.items()):
        there = named.get(name, [])
        matching = [package for package in there if locked.takes(nevra_of(package))]
        good = [package for package in matching if _digest_may_match(locked, package)]
        allowed.update(good)
        if not good:
            wrong += [f"{locked.where}: expected {locked.digest}, {_has(one)}" for one in matching]
    if wrong:
        raise LockedDigestMismatch(
            "packages are not those that the lockfiles name",
            details=shortened(wrong),
            hint="use the repository that the lockfile was made with, or make the lockfile again",
        )
    return allowed


def _instead(there: Sequence[Any]) -> str:
    others = sorted({f"{nevra_of(package)} ({package.reponame})" for package in there})
    return ", which no repository has" + (f"; there is {', '.join(others[:4])}" if others else "")


def _digest(package: Any) -> str:
    import hawkey

    if not package.chksum:
        return ""
    algorithm, checksum = package.chksum
    return f"{hawkey.chksum_name(algorithm)}:{checksum.hex()}"


def _has(package: Any) -> str:
    return f"{package.reponame} has {_digest(package)}"


def _digest_may_match(locked: Locked, package: Any) -> bool:
    """Compare digests as far as the repository's metadata allows; the rest is for the fetch."""
    actual = _digest(package)
    algorithm = locked.digest.partition(":")[0]
    if not locked.digest or algorithm != actual.partition(":")[0]:
        return True
    return actual == locked.digest


def _of_sources(
    base: Any, lockfile: Lockfile, allowed: set[Any]
) -> tuple[list[tuple[Any, str]], list[LockedSource]]:
    """Lock what was built from locked source packages; returns those packages with reasons.

    The second are those of which nothing was built that is here.  Where ``packages`` locks
    another version, the later lockfile counts; within one that is a contradiction.
    """
    found: list[tuple[Any, str]] = []
    seen = set()
    for package in base.sack.query() if lockfile.sources else ():
        source = lockfile.sources.get(package.source_name or "")
        if source is None:
            continue
        locked = lockfile.packages.get(package.name)
        matches = package.sourcerpm == source.rpm
        same_file = locked is not None and locked.file == source.file
        if locked and same_file and locked.takes(nevra_of(package)) and not matches:
            raise LockfileError(
                f"{locked.where}: {locked} is not built from {source.rpm}",
                details=[f"locked at {source.where}"],
                hint="take one of the two out of the lockfile",
            )
        if locked and locked.file >= source.file:
            seen.add(source.name)
            continue
        if matches:
            allowed.add(package)
            seen.add(source.name)
        else:
            allowed.discard(package)
        found.append((package, f"{source.where} locks {source.rpm}"))
    return found, [one for name, one in lockfile.sources.items() if name not in seen]


def _exclude(
    base: Any,
    strict: bool,
    lockfile_repos: Sequence[str],
    named: Mapping[str, Sequence[Any]],
    allowed: set[Any],
) -> None:
    sack = base.sack
    if strict:
        unlocked = sack.query().difference(sack.query().filterm(pkg=list(allowed)))
        sack.add_excludes(unlocked)
        return
    for ident in lockfile_repos:
        there = sack.query().filterm(reponame=ident)
        sack.add_excludes(there.difference(sack.query().filterm(pkg=list(allowed))))
    others = [package for there in named.values() for package in there if package not in allowed]
    if others:
        sack.add_excludes(sack.query().filterm(pkg=others))

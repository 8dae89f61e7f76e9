"""Package arguments of a treefile as goals of dnf's solver.

An argument is a name, a glob, a NEVRA or part of one, a condition (``podman >= 4.1``), what
a package provides (``pkgconfig(x)``), a file (``/usr/bin/x``), a group of comps (``@core``), an
environment (``@^server``), or the path of a local RPM.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest
from composer.compose.problems import SolveFailed, Why, shortened
from composer.rpm.package import LOCAL_DIRECTORY, Nevra, nevra_of, opened, verify_digests

_NEAR = 3
# Lines of dnf's errors about modules that say nothing by themselves.
_HEADINGS = re.compile(
    r"Problems in request:|Modular dependency problems?:|Problem.*:\s*conflicting"
)
_LARGEST = 4 << 30


@dataclass(frozen=True, slots=True)
class LocalRpm:
    """An RPM file that a treefile names; ``pkgid`` is the SHA-256 of all of it."""

    nevra: Nevra
    path: Path
    pkgid: ContentDigest

    @property
    def location(self) -> str:
        """Where it lies in the repository that the set is published to."""
        return f"{LOCAL_DIRECTORY}/{self.nevra}.{str(self.pkgid)[:16]}.rpm"


def is_local(argument: str) -> bool:
    """Tell whether a package argument is the path of an RPM."""
    return argument.endswith(".rpm")


def read_local(arguments: Iterable[tuple[str, str]]) -> dict[str, LocalRpm]:
    """Read the local RPMs among package arguments, by argument; each comes with its place.

    Header and digests are verified by rpm; no repository vouches for them.  Raises
    SolveFailed for what is no file, and PackageRefused.
    """
    found: dict[str, LocalRpm] = {}
    for argument, where in arguments:
        if not is_local(argument):
            continue
        path = Path(argument).absolute()
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise SolveFailed(
                f"{where}: {argument}: no such RPM",
                hint="a path is relative to the treefile that names it",
            )
        with opened(path) as (header, _):
            nevra = nevra_of(header, path)
        verify_digests(path)
        with path.open("rb") as stream:
            found[argument] = LocalRpm(nevra, path, ContentDigest.of_stream(stream))
    return found


def add_local(base: Any, local: Mapping[str, LocalRpm]) -> dict[str, Any]:
    """Make ``local`` RPMs known to dnf's sack; returns dnf's packages by argument."""
    if not local:
        return {}
    packages = base.add_remote_rpms([str(one.path) for one in local.values()], strict=True)
    return dict(zip(local, packages, strict=True))


def mark(
    base: Any, arguments: Sequence[tuple[str, str]], local: Mapping[str, Any], why: Why
) -> None:
    """Ask for ``arguments``, each with its place; raises SolveFailed for all unknown at once.

    ``local`` are the packages of :func:`add_local`; ``why`` says why a package of a name was
    not to be had.
    """
    import dnf.exceptions

    unknown = {}
    if any(argument.startswith("@") for argument, _ in arguments):
        base.read_comps(arch_filter=True)
    for argument, where in arguments:
        try:
            if argument in local:
                base.package_install(local[argument])
            elif argument.startswith("@^"):
                _mark_environment(base, argument[2:])
            elif argument.startswith("@"):
                _mark_group(base, argument[1:])
            else:
                base.install(argument)
        except (dnf.exceptions.MarkingError, dnf.exceptions.CompsError):
            unknown[argument] = where
    if unknown:
        names = {package.name for package in base.sack.query()}
        raise SolveFailed(
            f"{next(iter(unknown.values()))}: no repository has "
            + ", ".join(shortened(list(unknown), 10)),
            details=shortened(
                [
                    f"{where}: {_reason(a, local.get(a), why) or _near(a, names)}"
                    for a, where in unknown.items()
                ]
            ),
            hint=f"repositories asked: {', '.join(r.id for r in base.repos.iter_enabled())}",
        )


def mark_from(base: Any, repository: str, arguments: Sequence[str], where: str) -> None:
    """Ask for ``arguments`` out of ``repository`` alone; raises SolveFailed for unknown ones."""
    import dnf.subject

    if repository not in {one.id for one in base.repos.iter_enabled()}:
        raise SolveFailed(
            f"{where}: the repository {repository!r} is not among those of the treefile",
            hint=f"add it to the key repos; there are {', '.join(sorted(base.repos))}",
        )
    for argument in arguments:
        found = dnf.subject.Subject(argument).get_best_query(base.sack)
        there = found.filter(reponame=repository)
        if not there:
            others = sorted({f"{package} ({package.reponame})" for package in found})
            raise SolveFailed(
                f"{where}: the repository {repository} has no {argument}",
                details=others[:_NEAR],
                hint="take it from another repository, or correct the name",
            )
        names = sorted({package.name for package in there})
        base.sack.add_excludes(base.sack.query().filterm(name=names, reponame__neq=repository))
        base.install(argument, reponame=repository)


def exclude(base: Any, names: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    """Take the packages ``names`` away; raises SolveFailed for one that is asked for too.

    Both are by their places.
    """
    both = sorted(names.keys() & arguments.keys())
    if both:
        raise SolveFailed(
            f"{names[both[0]]}: {', '.join(both)}: in packages and in exclude-packages",
            details=[f"{arguments[name]}: {name}" for name in both],
            hint="take it out of one of the two",
        )
    if names:
        base.sack.add_excludes(base.sack.query().filterm(name=list(names)))


def enable_modules(base: Any, enable: Sequence[str], install: Sequence[str], where: str) -> None:
    """Enable module streams (``name:stream``) and install profiles; raises SolveFailed."""
    if not (enable or install):
        return
    try:
        import dnf.module.module_base
    except ImportError as error:
        raise SolveFailed(
            f"{where}: this machine's dnf knows no modules",
            hint="install a python3-dnf with libdnf's module support",
        ) from error
    import dnf.exceptions

    modules = dnf.module.module_base.ModuleBase(base)
    for specs, act in ((enable, modules.enable), (install, modules.install)):
        if not specs:
            continue
        try:
            act(list(specs))
        except dnf.exceptions.MarkingErrors as error:
            lines = [line.strip(" -") for line in str(error).splitlines()]
            said = [line for line in lines if line and not _HEADINGS.match(line)]
            raise SolveFailed(
                f"{where}: {said[0] if said else 'cannot be enabled'}",
                details=said[1:10],
                hint=f"asked for {', '.join(specs)}; a stream is written name:stream",
            ) from error


def _mark_environment(base: Any, name: str) -> None:
    import dnf.exceptions

    environment = base.comps.environment_by_pattern(name) if base.comps else None
    if environment is None:
        raise dnf.exceptions.CompsError(f"no environment {name}")
    for group in environment.mandatory_groups:
        _mark_members(base, group)


def _mark_group(base: Any, name: str) -> None:
    import dnf.exceptions

    group = base.comps.group_by_pattern(name) if base.comps else None
    if group is None:
        raise dnf.exceptions.CompsError(f"no group {name}")
    _mark_members(base, group)


def _mark_members(base: Any, group: Any) -> None:
    import dnf.exceptions
    import dnf.selector

    for package in (*group.mandatory_packages, *group.default_packages):
        # A group may list what only other architectures or releases have.
        with contextlib.suppress(dnf.exceptions.MarkingError):
            base.install(package.name, strict=False)
    for package in group.conditional_packages:
        selector = dnf.selector.Selector(base.sack)
        selector.set(provides=f"({package.name} if {package.requires})")
        base._goal.install(select=selector, optional=True)


def _reason(argument: str, local: Any, why: Why) -> str:
    import dnf.subject

    if local is not None:
        return f"{argument}: {why(local.name)}"
    subject = dnf.subject.Subject(argument.split()[0])
    for nevra in subject.get_nevra_possibilities():
        if nevra.name and (reason := why(nevra.name)):
            return f"{argument}: {reason}"
    return ""


def _near(spec: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(spec, sorted(names), _NEAR, 0.6)
    return f"{spec}: did you mean {' or '.join(near)}?" if near else f"{spec}: nothing like it"

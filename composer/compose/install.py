"""All packages into the tree: one librpm transaction in the sandbox.

This side prepares accounts and descriptors, follows the events of
:mod:`composer.compose.rpm_child`, and turns what went wrong into errors that name
package and phase.  Packages reach the child as open descriptors, so that not even
their directories are visible inside.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from composer.compose import rpm_child
from composer.compose.accounts import Accounts, complete_shadow, plan, require_owners
from composer.compose.content import DeviceInTree
from composer.compose.headers import PackageFacts, read_facts, read_texts
from composer.compose.packages import ComposedPackage
from composer.compose.tree import BadTree, Tree
from composer.compose.treefile import Treefile
from composer.compose.untouched import Untouched
from composer.errors import CommandFailed, ComposerError, MissingRequirement, NoSpace
from composer.progress import Report, Step
from composer.system import userns
from composer.system.limits import Clock, LimitExceeded, Limits
from composer.system.sandbox import ENVIRONMENT, Bind, OutputTail, Sandbox

RPMDB = "usr/share/rpm"
_RPMDB_LINKS = (
    ("usr/lib/sysimage/rpm", "../../share/rpm"),
    ("var/lib/rpm", "../../usr/share/rpm"),
)
# librpm 4.18 says that a write failed, but no longer why.
_FULL_DISK = ("No space left on device", "database or disk is full", "cpio: write")
_INSIDE = "/target"
_CHILD = "/composer/rpm_child.py"
_PYTHON = "/usr/bin/python3"
# Seconds for one package's files, or for the database.
_BETWEEN_SCRIPTLETS = 3600.0
# Descriptors that the process has open besides those of the packages.
_SPARE_DESCRIPTORS = 256


class ScriptletFailed(ComposerError):
    """A scriptlet or trigger of a package that ended with an error."""

    def __init__(self, *, package: str, phase: str, output: str) -> None:
        lines = output.strip().splitlines()[-12:]
        super().__init__(
            f"{package}: {phase} failed",
            details=lines or ["it printed nothing"],
            hint="the sandbox has no network and nothing of this machine; see docs/sandbox.md",
        )
        self.package, self.phase, self.output = package, phase, output


class TransactionFailed(ComposerError):
    """librpm could not install the packages."""


@dataclass(frozen=True, slots=True)
class KnownAccounts:
    """Numbers to keep, by name, and whole lines of passwd and group that the tree gets."""

    users: Mapping[str, tuple[int, int]]
    groups: Mapping[str, int]
    passwd: tuple[str, ...] = ()
    group: tuple[str, ...] = ()


def install(
    tree: Tree,
    packages: Sequence[ComposedPackage],
    treefile: Treefile,
    *,
    timestamp: int,
    known: KnownAccounts,
    report: Report,
    backend: str = "sqlite",
    untouched: Untouched | None = None,
) -> None:
    """Install ``packages`` into the empty ``tree``.

    ``timestamp`` becomes the install time in the rpmdb, which ``backend`` writes.
    ``untouched`` learns which files nobody has written to since.  Raises
    ScriptletFailed, TransactionFailed, LimitExceeded, UnknownOwner, DeviceInTree, NoSpace,
    MissingRequirement.
    """
    facts = read_facts(packages)
    if not treefile.ignore_devices:
        _require_no_device(facts)
    accounts = _plan(facts, known)
    _require_ids(accounts)
    _prepare(tree, accounts)
    owner = next((i for i, f in enumerate(facts) if "/etc/passwd" in f.passwd), -1)
    with _descriptors(packages) as descriptors:
        job = _job(packages, descriptors, treefile, facts, accounts, owner, backend)
        job["watch"] = untouched is not None
        limits = _with_packages(tree.limits, facts)
        events = _Events(len(descriptors), limits, report, untouched)
        _run(tree, limits, job, descriptors, timestamp, events)
    require_owners(tree, facts)
    complete_shadow(tree)
    _lead_to_rpmdb(tree)


def _plan(facts: Sequence[PackageFacts], known: KnownAccounts) -> Accounts:
    sysusers: dict[str, str] = {}
    base: dict[str, str] = {}
    for package in facts:
        wanted = (*package.sysusers, *package.passwd)
        if not wanted:
            continue
        for path, text in read_texts(package, wanted).items():
            if path in package.passwd:
                base[path.rpartition("/")[2]] = text
            else:
                sysusers[path] = text
    for name, lines in (("passwd", known.passwd), ("group", known.group)):
        if lines:
            base[name] = _merged(lines, base.get(name, ""))
    return plan(facts, sysusers, base, known.users, known.groups)


def _merged(lines: Sequence[str], text: str) -> str:
    """Return ``lines``, and those of ``text`` whose names they do not have."""
    names = {line.partition(":")[0] for line in lines}
    more = [line for line in text.splitlines() if line.partition(":")[0] not in names]
    return "".join(f"{line}\n" for line in (*lines, *more))


def _require_ids(accounts: Accounts) -> None:
    """Refuse what a plain user's namespace has no id for, before chown says "Invalid argument"."""
    for kind, lines in (("user", accounts.passwd), ("group", accounts.group)):
        for line in lines:
            name, _, number = line.split(":")[:3]
            if not userns.has(kind, int(number)):
                raise MissingRequirement(
                    f"the {kind} {name} has the number {number}, for which "
                    f"there is no subordinate {kind} id",
                    hint="grant more of them, see docs/install.md, or compose as root",
                )


def _prepare(tree: Tree, accounts: Accounts) -> None:
    for name, lines in (("passwd", accounts.passwd), ("group", accounts.group)):
        tree.write(f"etc/{name}", "".join(f"{line}\n" for line in lines))
    for name in ("dev", "proc", "run", "tmp", "var/tmp", RPMDB):
        tree.directory(name)
    for name in ("tmp", "var/tmp"):
        tree.path(name).chmod(0o1777)


@contextmanager
def _descriptors(packages: Sequence[ComposedPackage]) -> Iterator[list[int]]:
    _allow_descriptors(len(packages) + _SPARE_DESCRIPTORS)
    opened: list[int] = []
    try:
        for package in packages:
            opened.append(os.open(package.path, os.O_RDONLY | os.O_CLOEXEC))
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
    except (ValueError, OSError) as error:
        raise MissingRequirement(
            f"{count} open files are needed, {hard} are allowed", hint=f"ulimit -Hn {count}"
        ) from error


def _job(
    packages: Sequence[ComposedPackage],
    descriptors: Sequence[int],
    treefile: Treefile,
    facts: Sequence[PackageFacts],
    accounts: Accounts,
    owner: int,
    backend: str,
) -> dict[str, object]:
    macros = {
        "_dbpath": f"/{RPMDB}",
        "_db_backend": backend,
        "_rpmlock_path": f"/{RPMDB}/.rpm.lock",
        "_tmppath": "/var/tmp",
        "_install_script_path": f"/{rpm_child.INSTEAD}:{ENVIRONMENT['PATH']}",
        # What the host's macros say about these must not get into the tree.
        "_install_langs": ":".join(treefile.install_langs) or "all",
        "_excludedocs": "0",
        # Whole paths that librpm leaves out; it may make no device here, and a commit has none.
        "_netsharedpath": _macro(":".join(d for f in facts for d in f.devices if ":" not in d)),
        "__transaction_plugins": "%{nil}",
    }
    return {
        "root": _INSIDE,
        "macros": macros,
        "documentation": treefile.documentation,
        "packages": [
            {"fd": descriptor, "name": str(package.ref.nevra)}
            for package, descriptor in zip(packages, descriptors, strict=True)
        ],
        "accounts": {"package": owner, "passwd": accounts.passwd, "group": accounts.group},
    }


def _macro(text: str) -> str:
    return text.replace("%", "%%") or "%{nil}"


def _require_no_device(facts: Sequence[PackageFacts]) -> None:
    for package in facts:
        for path in package.devices:
            raise DeviceInTree(
                f"{package.nevra}: {path}: a device file, which a commit cannot hold",
                hint="`ignore-devices: true` leaves them out",
            )


def _with_packages(limits: Limits, facts: Sequence[PackageFacts]) -> Limits:
    # Twice: files take whole blocks, and the database is written beside its journal.
    return replace(limits, written=limits.written + 2 * sum(package.size for package in facts))


def _run(
    tree: Tree,
    limits: Limits,
    job: dict[str, object],
    descriptors: Sequence[int],
    timestamp: int,
    events: _Events,
) -> None:
    sandbox = Sandbox.of_host(
        Bind(tree.root, _INSIDE, writable=True),
        Bind(Path(rpm_child.__file__), _CHILD),
        roots=(_INSIDE,),
        capabilities=("CAP_SETPCAP",),
        # So that no process with our capabilities is there whose root a scriptlet could use.
        as_first=True,
    )
    lifeline, held = os.pipe()
    try:
        sandbox.run(
            [_PYTHON, "-I", _CHILD],
            stdin=json.dumps({**job, "lifeline": lifeline}).encode(),
            # librpm takes install times from SOURCE_DATE_EPOCH, one second apart; systemctl
            # need not find out that there is no systemd to talk to.
            env={"SOURCE_DATE_EPOCH": str(timestamp), "SYSTEMD_OFFLINE": "1"},
            pass_fds=(*descriptors, lifeline),
            on_line=events,
            limits=limits,
            clock=events.clock,
        )
    except CommandFailed as error:
        raise _explained(error.output) from error
    except LimitExceeded as error:
        error.tell(_printed(error.output))
        raise error.within(events.doing) from error
    finally:
        os.close(lifeline)
        os.close(held)


def _explained(output: str) -> ComposerError:
    lines = output.replace(rpm_child.OUTPUT_MARK.decode(), "").strip().splitlines()
    if "No module named 'rpm'" in output:
        return MissingRequirement(
            f"{_PYTHON} has no rpm module",
            hint="apt-get install python3-rpm, or dnf install python3-rpm",
        )
    if any(sign in output for sign in _FULL_DISK):
        return NoSpace(
            "no space left for the tree",
            details=lines[-4:],
            hint="free some space where --cachedir is, and run the same command again",
        )
    return TransactionFailed("the rpm transaction failed", details=lines[-12:])


class _Events:
    """Follows the child: reports packages, remembers what runs, raises what failed.

    ``clock`` gives each scriptlet its own time.
    """

    def __init__(
        self, total: int, limits: Limits, report: Report, untouched: Untouched | None
    ) -> None:
        self._total, self._report, self._done = total, report, 0
        self._untouched = untouched
        self._limits, self._package = limits, "the rpm transaction"
        self.doing, self.clock = self._package, Clock(_BETWEEN_SCRIPTLETS)

    def __call__(self, line: bytes, output: OutputTail) -> None:
        event = json.loads(line)
        package, phase = event.get("package", ""), event.get("phase", "")
        match event["event"]:
            case "package":
                self.doing = self._package = package
                self.clock.restart(_BETWEEN_SCRIPTLETS)
                self._done = event["done"]
                self._report(Step("install", self._done, self._total, "packages", package))
            case "script":
                self.doing = f"{package}: {phase}"
                self.clock.restart(self._limits.seconds)
                self._report(Step("scriptlets", item=self.doing))
            case "script-ended":
                self.doing = self._package
                self.clock.restart(_BETWEEN_SCRIPTLETS)
                self._report(Step("install", self._done, self._total, "packages", self.doing))
            case "untouched" if self._untouched is not None:
                self._untouched.note(event["files"])
            case "script-failed":
                raise ScriptletFailed(package=package, phase=phase, output=_printed(str(output)))
            case "unpack-failed":
                raise _explained(str(output)).within(package)
            case "problems":
                raise _refused(event["texts"], output)


def _printed(output: str) -> str:
    """The part of the output that came from the last scriptlet."""
    return output.rpartition(rpm_child.OUTPUT_MARK.decode())[2]


def _refused(problems: list[str], output: OutputTail) -> ComposerError:
    if not problems:
        return _explained(str(output))
    return TransactionFailed(
        "librpm refuses the packages", details=problems[:20], hint="see the conflicting files above"
    )


def _lead_to_rpmdb(tree: Tree) -> None:
    """Make rpm of every distribution find the database, whatever its own default is."""
    if not any(tree.path(RPMDB, follow=True).iterdir()):
        raise BadTree(f"the transaction left no database in /{RPMDB}")
    for name, target in _RPMDB_LINKS:
        tree.remove(name)
        tree.link(name, target)
    tree.write("usr/lib/rpm/macros.d/macros.jigdo-composer", f"%_dbpath /{RPMDB}\n")

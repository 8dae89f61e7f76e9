"""Old versions go from a repository, by rules; what those that stay need is never removed.

Rules kept here: RPMs that stay are there first, then lists and rpm-md without those that go,
by the rename that publishing makes, then signed statements.  What is not listed any more keeps
its place for a time of grace, and is removed by a later run, after all needs were looked
at again.  A run that was interrupted is completed by the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import NotFound, UsageError
from composer.jigdo.build import LocalPackage
from composer.jigdo.pointer import PointerEntry
from composer.mirror.keys import KeyDirectory
from composer.mirror.known import KnownFiles
from composer.mirror.labels import read_labels
from composer.mirror.lists import Lists, read_lists
from composer.mirror.needless import Needed, needless
from composer.mirror.needs import Place
from composer.mirror.publish import outdated
from composer.mirror.renewing import alone, disk_told, renew
from composer.mirror.repomd_signature import SIGNATURE, RepomdSigner
from composer.mirror.retaining import lost_packages, retain
from composer.mirror.retention import NO_RULES, Labels, Rules, Verdict, judge
from composer.mirror.space import Needs, Space, packages_here, read_needs, weigh
from composer.mirror.trash import Unlisted, read_unlisted, write_unlisted
from composer.mirror.trust import (
    Refreshed,
    is_signed,
    open_ledger,
    refresh,
    require_begun,
    says,
    stated_locations,
)
from composer.ostree.locking import Wait
from composer.progress import Report, Step, silent
from composer.rpm.package import RETAINED_DIRECTORY, PackageRef
from composer.rpm.rpmmd import read_packages

GRACE = timedelta(days=2)
"""How long what is not listed any more stays, unless it is said: longer than a pull takes."""


@dataclass(frozen=True, slots=True)
class Signing:
    """Keys for statements, and who signs repomd.xml."""

    keys: KeyDirectory | None = None
    repomd: RepomdSigner | None = None


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What is wanted of a prune.

    ``packages`` are RPMs to retain of, where ``repositories`` (by name, as clients know them)
    have dropped what a version needs.  With ``packages_too`` RPMs go that others have put
    there, of which there are newer ones.  ``signing`` is for what is published then.
    """

    rules: Rules = NO_RULES
    grace: timedelta = GRACE
    packages: Sequence[LocalPackage] = ()
    repositories: Mapping[str, Place] = field(default_factory=dict)
    packages_too: bool = False
    signing: Signing = Signing()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune does: to versions, and to RPMs.

    ``unlist`` go from lists and rpm-md now; ``due`` were not listed for long enough and are
    removed; ``waiting`` not yet.  ``back`` are needed again.  ``gone`` are listed versions whose
    set somebody has removed.  ``retain`` RPMs come from elsewhere; ``lacking`` ones are nowhere.
    ``one_more`` says by ref what it costs, or would have cost, to keep one more version.
    """

    verdicts: tuple[Verdict, ...]
    labels: Labels
    space: Space
    unlist: tuple[Unlisted, ...]
    waiting: tuple[Unlisted, ...]
    due: tuple[Unlisted, ...]
    back: tuple[Unlisted, ...]
    gone: tuple[PointerEntry, ...]
    retain: tuple[PackageRef, ...]
    lacking: tuple[PackageRef, ...]
    one_more: Mapping[str, int]
    relists: bool

    @property
    def lists_change(self) -> bool:
        """Tell whether other versions are listed afterwards."""
        return bool(self.gone) or any(one.entry for one in self.unlist)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done: ``removed`` RPMs, and what was signed."""

    plan: PrunePlan
    removed: tuple[Unlisted, ...] = ()
    signed: Refreshed | None = None


def prune(
    repository: Path,
    options: PruneOptions,
    *,
    dry_run: bool = False,
    report: Report = silent,
    wait: Wait | None = None,
) -> Pruned:
    """Remove versions by rules, and RPMs that they alone needed; with ``dry_run`` only say so.

    Raises UsageError where something has to be signed and there is no key, Busy (unless there
    is ``wait``), and whatever is wrong with a set that stays: the repository is then as it was.
    """
    _require_own(repository)
    keys = options.signing.keys
    if dry_run:
        return Pruned(_plan(repository, read_lists(repository), options, report))
    if keys:
        require_begun(repository, keys)
    with disk_told(repository), alone(repository, wait):
        lists = read_lists(repository)
        plan = _plan(repository, lists, options, report)
        agree = says(repository, lists.pointer, lists.versions)
        _require_signers(
            repository,
            options.signing,
            lists_change=plan.lists_change or not agree,
            rpm_md_changes=plan.relists,
        )
        report(Step("prune", item=str(repository)))
        known = KnownFiles(repository)
        if plan.retain:
            retain(repository, plan.retain, options.packages, known)
        if plan.relists:
            signed = _relist(repository, lists, plan, options, known)
        else:
            signed = _sign(repository, lists, keys)
        _remove(repository, plan, options.now)
    return Pruned(plan, plan.due, signed)


@dataclass(frozen=True, slots=True)
class Undone:
    """RPMs that are listed again, and versions that are not, for RPMs they need are nowhere."""

    back: tuple[Unlisted, ...]
    lacking: Mapping[str, tuple[PackageRef, ...]]
    signed: Refreshed | None


def undo(
    repository: Path,
    signing: Signing,
    packages: Sequence[LocalPackage] = (),
    *,
    wait: Wait | None = None,
) -> Undone:
    """List again all that prunes have taken from the lists and is still there.

    A version of which an RPM has gone meanwhile is listed only if ``packages`` have that.
    """
    _require_own(repository)
    if signing.keys:
        require_begun(repository, signing.keys)
    with disk_told(repository), alone(repository, wait):
        unlisted, lists = read_unlisted(repository), read_lists(repository)
        changes = any(one.entry for one in unlisted)
        _require_signers(repository, signing, lists_change=changes, rpm_md_changes=bool(unlisted))
        lost = _lost(repository, [one.entry for one in unlisted if one.entry])
        at_hand = {package.ref.pkgid for package in packages}
        lacking = {
            entry: tuple(one for one in own if one.pkgid not in at_hand)
            for entry, own in lost.items()
        }
        back = tuple(one for one in unlisted if not (one.entry and lacking[one.entry]))
        known = KnownFiles(repository)
        listed = {(one.ref, one.commit) for one in lists.entries}
        for entry in (one.entry for one in back if one.entry):
            retain(repository, lost[entry], packages, known)
            if lists.pointer.get(entry.ref) and (entry.ref, entry.commit) not in listed:
                lists = lists.with_set(entry, newest=False)
        stays = [one for one in unlisted if one not in back]
        if back:
            signed = _renew(repository, lists, stays, signing, known)
        else:
            signed = _sign(repository, lists, signing.keys)
        write_unlisted(repository, stays)
    told = {f"{entry.ref} {entry.version}": own for entry, own in lacking.items() if own}
    return Undone(back, told, signed)


def _lost(
    repository: Path, entries: Sequence[PointerEntry]
) -> dict[PointerEntry, tuple[PackageRef, ...]]:
    """Return which RPMs of this repository each of these versions needs that are not there."""
    needs = read_needs(repository, entries)
    _require_sound(needs)
    here = packages_here(repository, needs) | {
        one.pkgid for one in read_packages(repository) if (repository / one.location).is_file()
    }
    return {
        need.entry: tuple(
            one for one in need.packages if not one.repository and one.pkgid not in here
        )
        for need in needs
    }


def _require_own(repository: Path) -> None:
    if not (repository / "repodata").is_dir():
        raise NotFound(f"{repository}: no rpm-md repository", hint="`set build --output` makes one")
    if (repository / ".jigdo-sync").is_dir():
        raise UsageError(
            f"{repository} is a copy of another repository",
            hint="prune that one; `mirror sync --newest N` takes fewer versions",
        )


def _require_signers(
    repository: Path, signing: Signing, *, lists_change: bool, rpm_md_changes: bool
) -> None:
    """Refuse what would leave something signed without a signature that fits."""
    if lists_change and signing.keys is None and is_signed(repository):
        raise UsageError(
            f"{repository} has signed statements, which name the versions that there are",
            hint="--tuf-keys DIR has the keys that sign it anew",
        )
    if rpm_md_changes and signing.repomd is None and (repository / SIGNATURE).exists():
        raise UsageError(
            f"{repository}: its repomd.xml is signed, and dnf may demand that",
            hint="--gpg-sign KEYID signs the new one; where that is done elsewhere, remove "
            f"{SIGNATURE} before",
        )


# What to do.


def _plan(repository: Path, lists: Lists, options: PruneOptions, report: Report) -> PrunePlan:
    pointer, versions = lists.pointer, lists.versions
    if not pointer.entries:
        raise NotFound(f"{repository}: carries no jigdo sets", hint="`set build --output` puts one")
    there = lists.existing(repository).versions.entries
    labels = read_labels(repository)
    verdicts = judge(pointer.entries, there, options.rules, labels=labels, now=options.now)
    report(Step("read sets", 0, len(verdicts), "sets"))
    needs = read_needs(repository, (one.entry for one in verdicts))
    kept = [need for need, verdict in zip(needs, verdicts, strict=True) if verdict.stays]
    _require_sound(kept)
    needed = Needed.by(kept)
    before = read_unlisted(repository)
    listed = read_packages(repository)
    here = packages_here(repository, needs) | {one.pkgid for one in listed}
    at = {one.location for one in listed}
    known = {one.location for one in before}
    dropped = [verdict.entry for verdict in verdicts if not verdict.stays]
    back = tuple(one for one in before if needed(one))
    unlist = (
        *(Unlisted(one.location, one.pkgid, one.size, None, "", one) for one in dropped),
        *(
            Unlisted(one.location, one.pkgid, one.size, None, str(one.nevra))
            for one in needless(repository, listed, needed, packages_too=options.packages_too)
            if one.location not in known
        ),
    )
    new = {one.location for one in unlist}
    rest = [one for one in before if not needed(one) and one.location not in new]
    due = _due(repository, lists, rest, options)
    lost = lost_packages(repository, kept, options.repositories) if _looks(options) else []
    at_hand = {package.ref.pkgid for package in options.packages}
    gone = tuple(one for one in versions.entries if one not in there)
    retained = tuple(one for one in lost if one.pkgid in at_hand)
    relisted = [one for one in before if one.since is None or one.location in at]
    return PrunePlan(
        verdicts=tuple(verdicts),
        labels=labels,
        space=weigh(needs, here),
        unlist=unlist,
        waiting=tuple(one for one in rest if one not in due),
        due=due,
        back=back,
        gone=gone,
        retain=retained,
        lacking=tuple(one for one in lost if one.pkgid not in at_hand),
        one_more=_one_more(needs, verdicts, here),
        relists=bool(unlist or back or gone or retained or relisted),
    )


def _looks(options: PruneOptions) -> bool:
    return bool(options.packages or options.repositories)


def _require_sound(kept: Sequence[Needs]) -> None:
    for need in kept:
        if need.error is not None:
            need.error.hint = "what it needs cannot be told: mend it first, see `mirror verify`"
            raise need.error


def _due(
    repository: Path, lists: Lists, rest: Sequence[Unlisted], options: PruneOptions
) -> tuple[Unlisted, ...]:
    if stated_locations(repository) - lists.locations:
        return ()  # clients that go by statements need what those name, whatever that is
    until = (options.now - options.grace).timestamp()
    return tuple(one for one in rest if one.since is not None and one.since <= until)


def _one_more(
    needs: Sequence[Needs], verdicts: Sequence[Verdict], here: set[ContentDigest]
) -> dict[str, int]:
    kept = [need for need, verdict in zip(needs, verdicts, strict=True) if verdict.stays]
    whole = weigh(needs, here)
    found: dict[str, int] = {}
    for ref in sorted({need.entry.ref for need in needs}):
        own = [(n, v) for n, v in zip(needs, verdicts, strict=True) if n.entry.ref == ref]
        going = next((need for need, verdict in own if not verdict.stays), None)
        if going is not None:
            found[ref] = weigh([*kept, going], here).of(going.entry).own
        elif len(own) > 1:
            found[ref] = sum(whole.of(need.entry).adds for need, _ in own[1:]) // (len(own) - 1)
    return found


# Doing it.


def _relist(
    repository: Path, lists: Lists, plan: PrunePlan, options: PruneOptions, known: KnownFiles
) -> Refreshed | None:
    versions = lists.versions
    for entry in (*plan.gone, *(one.entry for one in plan.unlist if one.entry)):
        versions = versions.without(entry.ref, entry.commit)
    hidden = [*plan.unlist, *plan.waiting, *plan.due]
    write_unlisted(repository, hidden)
    after = Lists(lists.pointer, versions)
    signed = _renew(repository, after, hidden, options.signing, known)
    write_unlisted(repository, _since(hidden, options.now))
    return signed


def _renew(
    repository: Path,
    lists: Lists,
    hidden: Sequence[Unlisted],
    signing: Signing,
    known: KnownFiles,
) -> Refreshed | None:
    without = {one.location for one in hidden} | outdated(repository, lists)
    return renew(
        repository, lists, known=known, without=without, keys=signing.keys, signer=signing.repomd
    )


def _since(rpms: Sequence[Unlisted], now: datetime) -> list[Unlisted]:
    time = int(now.timestamp())
    return [replace(one, since=time) if one.since is None else one for one in rpms]


def _sign(repository: Path, lists: Lists, keys: KeyDirectory | None) -> Refreshed | None:
    if keys is None:
        return None
    ledger = open_ledger(repository)
    return refresh(ledger, lists.pointer, keys, versions=lists.versions, now=datetime.now(UTC))


def _remove(repository: Path, plan: PrunePlan, now: datetime) -> None:
    for one in plan.due:
        path = repository / one.location
        path.unlink(missing_ok=True)
        if one.location.split("/")[0] == RETAINED_DIRECTORY:
            path.parent.rmdir()
    if plan.due:
        write_unlisted(repository, _since([*plan.unlist, *plan.waiting], now))

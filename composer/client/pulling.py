"""Pull a ref: from the pointer on a mirror to a proven commit in a repository.

Order: pointer, index and head, commit (its signatures are checked before anything
else moves), tree, maps, plan, then RPMs and the set's own content, the proof, and
the ref last.  Running it again after any interruption continues: landed and staged
objects are found, verified RPMs are kept, partial ones are continued.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from composer.checksum import ContentDigest, ObjectChecksum
from composer.client.acceptance import (
    NO_WAIVERS,
    Waivers,
)
from composer.client.carrying import Carrier
from composer.client.events import Declined, Listener, Meter, unheard
from composer.client.planning import PullPlan, announce
from composer.client.remote import Remote
from composer.client.session import Found, session
from composer.client.sources import (
    DEFAULT_SOURCES,
    Replaced,
    Sources,
    package_directory,
)
from composer.client.transfers import Moved
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.examine import DEFAULT_CHOICES, Choices
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.jigdo.plan import Plan
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import check_storable
from composer.jigdo.repack import Packers
from composer.jigdo.seeding import SeedPlan
from composer.jigdo.tree import tree_frames
from composer.net.network import Network
from composer.net.standing import WrongBytes
from composer.net.traffic import AGAIN
from composer.net.traffic import Moved as MovedBy
from composer.ostree.locking import Wait, changing
from composer.ostree.repo import Repository
from composer.system.files import remove_tree
from composer.system.heap import hold_less


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did.

    ``moved`` is by kind: "rpm", "set" (metadata), "new" (content), "delta"; "rpm-md" where
    package lists were read; "again" is what was moved in vain.  Bytes are of all plans that
    were carried out.  ``mirrors`` has them by mirror; those in ``wrong`` served wrong bytes.
    ``lost`` packages came another way; ``replaced`` ones by RPMs that were made anew.
    ``packing_cpu`` is of opening contents and packing them again, programs included;
    ``packing_seconds`` is its share of the time, as one of ``workers`` did it.
    """

    ref: str
    version: str
    commit: ObjectChecksum
    previous: ObjectChecksum | None
    updated: bool
    packages: int
    moved: Mapping[str, Moved]
    new_content_bytes: int
    delta_bytes: int
    object_bytes: int
    lost: tuple[LostPackage, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    seeds: int = 0
    seed_bytes: int = 0
    mirrors: tuple[MovedBy, ...] = ()
    wrong: tuple[WrongBytes, ...] = ()
    packing_cpu: float = 0.0
    packing_seconds: float = 0.0


def pull(
    remote: Remote,
    ref: str,
    repo: Repository,
    *,
    choices: Choices = DEFAULT_CHOICES,
    version: str = "",
    sources: Sources = DEFAULT_SOURCES,
    waivers: Waivers = NO_WAIVERS,
    approve: Callable[[PullPlan], bool] = lambda plan: True,
    report: Listener = unheard,
    cancel: threading.Event | None = None,
    workers: int = 2,
    wait: Wait | None = None,
) -> PullResult:
    """Bring ``ref`` of ``repo`` to the newest version that ``remote`` has, or to ``version``.

    ``version`` may be older than what is here; it is a version or a commit's checksum.
    RPMs of this machine are used instead of the mirrors', and files of seeds instead of
    RPMs.  An RPM that was signed or compressed anew since the set was built serves as well,
    for its contents are proven one by one; what lost packages have comes another way.

    ``approve`` is asked before anything large moves.  ``report`` gets the plan, steps, and
    the progress of all (:mod:`composer.client.events`).  ``cancel``, set by another thread,
    ends the pull at the next step.

    Raises NotFound when the remote has no such ref, PackagesLost when it lacks a package
    and nothing else has what it has, VerificationFailed (with kin) for anything that is
    not what it must be, NoSpace before the first large byte moves, Declined where ``approve``
    says no, Cancelled, and Busy (unless there is ``wait``) while another process changes
    ``repo``.  The ref is then the old one and the repository whole.
    """
    hold_less()
    packers = Packers(workers)
    meter = Meter(report, cancel=cancel)
    with (
        changing(repo, wait),
        packers,
        session(remote, sources=sources, waivers=waivers, report=meter) as asked,
    ):
        found = asked.look(ref, repo, version=version, choices=choices)
        if found.set is None:
            return _result(found, asked.network)
        jigdo, wanted = found.set
        check_storable(repo, wanted.headers)
        announced = announce(found, asked, repo, choices, workers=workers)
        meter.tell(announced)
        if not approve(announced):
            raise Declined(f"{ref}: not pulled", hint="nothing was changed")
        carrier = Carrier(asked, repo, choices, meter, workers, packers)
        try:
            plans = carrier.carry(jigdo, wanted, ref, announced.chosen.transfers)
        except PackagesLost as error:
            plans = carrier.carry_by_chain(jigdo, ref, found.previous, error)
        remove_tree(package_directory(repo))
        _keep_description(jigdo, repo, Descriptions.of(repo))
        meter.finish()
        done = _result(found, asked.network, plans, carrier.lost, carrier.replaced)
    # Of programs it is known once they have ended.
    return replace(done, packing_cpu=packers.cpu, packing_seconds=packers.wall / workers)


def _result(
    found: Found,
    network: Network,
    plans: Sequence[Plan] = (),
    lost: Sequence[LostPackage] = (),
    replaced: Sequence[Replaced] = (),
) -> PullResult:
    seeds = found.set[1].seeds if found.set else SeedPlan()
    traffic = network.traffic
    kinds = sorted({row.kind for row in traffic.rows()} | {"rpm", "set", "new", "delta", AGAIN})
    entry = found.entry
    return PullResult(
        ref=entry.ref,
        version=entry.version,
        commit=entry.commit,
        previous=found.previous,
        updated=bool(plans),
        packages=_packages(found, plans, lost),
        moved={kind: Moved(traffic.bytes(kind), traffic.requests(kind)) for kind in kinds},
        new_content_bytes=sum(plan.new_bytes for plan in plans),
        delta_bytes=sum(plan.delta_bytes for plan in plans),
        object_bytes=plans[0].object_bytes if plans else 0,
        lost=tuple(lost),
        replaced=tuple(replaced),
        seeds=len(seeds.places.keys() - seeds.failed),
        seed_bytes=sum(seeds.sought[n].size for n in seeds.places.keys() - seeds.failed),
        mirrors=traffic.rows(),
        wrong=network.standing.wrong(),
    )


def _packages(found: Found, plans: Sequence[Plan], lost: Sequence[LostPackage]) -> int:
    """Count the RPMs that were taken; those of versions between are not counted."""
    if found.set is None:
        return 0
    packages, gone = found.set[0].head.packages, {one.ref.pkgid for one in lost}
    numbers = {package.number for plan in plans for package in plan.packages}
    return sum(packages[number].ref.pkgid not in gone for number in numbers)


def _keep_description(jigdo: JigdoSet, repo: Repository, kept: Descriptions) -> None:
    """Keep what was read of the set, if it is everything, for the next update."""
    trees = {}
    root = repo.commit(jigdo.head.commit).tree
    for data in tree_frames(root, lambda one: repo.metadata("dirtree", one)):
        trees[ContentDigest.of(data)] = data
    description = jigdo.description(lambda frame: trees.get(frame.digest))
    if description is not None:
        kept.keep(jigdo.head.commit, description)
        kept.keep_only({jigdo.head.commit, *repo.refs().values()})

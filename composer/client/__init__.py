"""Pulling, as a library: what docs/api.md describes, and what the command line is made of."""

from __future__ import annotations

from composer.client.acceptance import NO_WAIVERS, Newest, Waivers
from composer.client.bundling import Bundling, bundle, open_bundle
from composer.client.checking import Checked, check
from composer.client.events import (
    Cancelled,
    Declined,
    Event,
    Listener,
    Progress,
    Replanned,
)
from composer.client.importing import import_rpms
from composer.client.planning import Amounts, PullPlan, plan
from composer.client.pulling import PullResult, pull
from composer.client.remote import (
    Remote,
    add_remote,
    find_remote,
    list_remotes,
    parse_archives,
    remove_remote,
)
from composer.client.sources import Replaced, Sources
from composer.client.transfers import Moved
from composer.errors import ComposerError
from composer.jigdo.examine import Choices, Prefer
from composer.jigdo.explain import Explanation
from composer.jigdo.lost import LostPackage
from composer.net.bundle import Bundle, BundledRef, is_bundle
from composer.ostree.repo import Repository
from composer.progress import Step
from composer.rpm.advisories import Advisory
from composer.rpm.changes import Changes

__all__ = [
    "NO_WAIVERS",
    "Advisory",
    "Amounts",
    "Bundle",
    "BundledRef",
    "Bundling",
    "Cancelled",
    "Changes",
    "Checked",
    "Choices",
    "ComposerError",
    "Declined",
    "Event",
    "Explanation",
    "Listener",
    "LostPackage",
    "Moved",
    "Newest",
    "Prefer",
    "Progress",
    "PullPlan",
    "PullResult",
    "Remote",
    "Replaced",
    "Replanned",
    "Repository",
    "Sources",
    "Step",
    "Waivers",
    "add_remote",
    "bundle",
    "check",
    "find_remote",
    "import_rpms",
    "is_bundle",
    "list_remotes",
    "open_bundle",
    "parse_archives",
    "plan",
    "pull",
    "remove_remote",
]

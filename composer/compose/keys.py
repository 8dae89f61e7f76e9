"""Every key of a treefile, as one row each.

A row says what a value may be, how an included file's value joins the including
file's, and what the key does; parser, merge, schema, the attributes of a treefile and
docs/treefile.md come from it.  Names and meanings are rpm-ostree's, so that existing
treefiles work unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, overload

from composer.compose.conditions import CONDITIONAL_INCLUDE
from composer.compose.kinds import (
    ADD_FILE,
    CHECK_GROUPS,
    CHECK_PASSWD,
    FILE,
    FLAG,
    INCLUDE,
    JSON,
    MODULES,
    PACKAGES,
    REMOVE_FROM,
    REPO_PACKAGES,
    ROJIG,
    SCRIPT,
    STRINGS,
    SUFFIX,
    TEXT,
    TREE_PATH,
    UNIT,
    VARIABLE,
    WORD,
    WORD_OR_NUMBER,
    Kind,
    list_of,
    map_of,
    one_of,
    set_of,
    whole,
)
from composer.compose.values import (
    AccountCheck,
    AddFile,
    Modules,
    RemoveFrom,
    RepoPackages,
    Rojig,
    Variable,
)
from composer.errors import ComposerError

T = TypeVar("T")


class Expand(Protocol):
    """Replaces variables in a string, which is the value itself or its ``part``."""

    def __call__(self, text: str, part: str = "") -> str: ...


ARCHITECTURES = (
    "aarch64", "armhfp", "i386", "loongarch64", "ppc64", "ppc64le", "riscv64", "s390x", "x86_64",
)  # fmt: skip
OTHER_ARCHITECTURES = ("alpha", "arm", "armv7hl", "i686", "ia64", "mips64el", "ppc", "s390")

# What rpm-ostree's parser knows for the machine that layers packages onto a commit.
_LAYERING = (
    "base-refspec", "container-image-reference", "packages-local", "packages-local-fileoverride",
    "override-remove", "ex-override-replace", "override-replace-local", "initramfs", "custom",
    "override-commit", "unconfigured-state",
)  # fmt: skip


class Merge(Enum):
    """How the values of files that include each other join."""

    NEAREST = "the including file's value wins; of several includes, the first one's"
    PARENT_FIRST = "lists are joined, the included file's first"
    LATER = "lists are joined, the included file's first; a package is taken as its last entry says"
    TOGETHER = "lists are joined, sorted, without repetition"
    NAMES = "mappings are joined; where both have a name, the including file's value wins"
    NONE = "not inherited"


class State(Enum):
    """What a compose does about a key."""

    WORKS = "works"
    ACCEPTED = "accepted, without effect"


class Key(Generic[T]):
    """One row, and the attribute of a treefile that has its value.

    ``expands`` gives a value with its ``${variables}`` replaced.  ``into`` names the key
    that a value becomes part of.
    """

    name: str
    attribute: str

    def __init__(
        self,
        kind: Kind[T],
        merge: Merge,
        default: T,
        meaning: str,
        *,
        aliases: tuple[str, ...] = (),
        state: State = State.WORKS,
        expands: Callable[[T, Expand], T] | None = None,
        into: str = "",
        name: str = "",
    ) -> None:
        self.kind, self.merge, self.default, self.meaning = kind, merge, default, meaning
        self.aliases, self.state, self.expands = aliases, state, expands
        self.into, self.name = into, name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute
        self.name = self.name or attribute.replace("_", "-")

    @overload
    def __get__(self, instance: None, owner: type) -> Key[T]: ...

    @overload
    def __get__(self, instance: Keys, owner: type) -> T: ...

    def __get__(self, instance: Keys | None, owner: type) -> Key[T] | T:
        if instance is None:
            return self
        value: T = instance.given.get(self.name, self.default)  # type: ignore[assignment]
        return value


def _whole_string(value: str, expand: Expand) -> str:
    return expand(value)


def _strings_in(value: Mapping[str, object], expand: Expand) -> Mapping[str, object]:
    return {name: expand(v, name) if isinstance(v, str) else v for name, v in value.items()}


def _rojig_strings(value: Rojig | None, expand: Expand) -> Rojig | None:
    if value is None:
        return None
    names = ("name", "summary", "description")
    return replace(value, **{name: expand(getattr(value, name), name) for name in names})


_METADATA_PLACE = one_of("inline", "detached", "disabled")


class Keys:
    """The rows, as attributes of whatever has their values in ``given``."""

    given: Mapping[str, object]

    # fmt: off
    edition = Key(
        one_of("2014", "2024"), Merge.NEAREST, "2014",
        "2024 makes `boot-location: modules` and `tmp-is-dir: true` the values of a file that "
        "says nothing else.",
    )
    ref = Key(
        WORD, Merge.NEAREST, "", "The OSTree ref to commit to.", expands=_whole_string
    )
    repos = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Repository ids to use, from the `.repo` files beside the treefile or from "
        "`--repository ID=URL`.  Without this key, all that are enabled there.",
    )
    repovars = Key(
        map_of(
            WORD_OR_NUMBER,
            "mapping of strings",
            reserved={
                "releasever": "use the key releasever",
                "basearch": "it is the architecture of the compose",
            },
        ),
        Merge.NAMES, {},
        "Further variables of `.repo` files.",
    )
    lockfile_repos = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Repository ids that only locked packages are taken from.",
    )
    releasever = Key(
        WORD_OR_NUMBER, Merge.NEAREST, "",
        "What `$releasever` stands for in the `.repo` files; also a variable.",
    )
    basearch_wanted = Key(
        WORD, Merge.NEAREST, "",
        "An error unless it is the architecture of the compose.",
        name="basearch",
    )
    include = Key(
        INCLUDE, Merge.NONE, (),
        "Treefiles to build upon, relative to this one; none may be included twice.",
    )
    arch_include = Key(
        map_of(INCLUDE, "mapping of includes"), Merge.NONE, {},
        "Treefiles to include for an architecture, by its name; after those of `include`.",
    )
    conditional_include = Key(
        list_of(CONDITIONAL_INCLUDE, "mappings of if and include"), Merge.NONE, (),
        "Treefiles to include, or a treefile written out, if conditions hold.",
    )
    own_variables: Key[Mapping[str, Variable]] = Key(
        map_of(
            VARIABLE,
            "mapping of strings, booleans and numbers",
            reserved={
                "releasever": "use the key releasever",
                "basearch": "it is the architecture of the compose",
            },
        ),
        Merge.NAMES, {},
        "Variables for conditions and for `${name}`.",
        name="variables",
    )
    packages = Key(
        PACKAGES, Merge.TOGETHER, (),
        "Packages to install: names, NEVRAs, globs, provides, files (`/usr/bin/x`), `@group`, "
        "`@^environment`, or the path of an RPM, relative to this file.  An item may hold several, "
        "separated by spaces; single quotes keep `'podman >= 4.1'` together.",
    )
    packages_of_arch = Key(
        PACKAGES, Merge.TOGETHER, (),
        "Packages for that architecture only, for example `packages-x86_64`.",
        name="packages-<basearch>", into="packages",
    )
    bootstrap_packages = Key(
        PACKAGES, Merge.TOGETHER, (),
        "The same as `packages`; an old name.",
        name="bootstrap_packages", into="packages",
    )
    repo_packages: Key[tuple[RepoPackages, ...]] = Key(
        list_of(REPO_PACKAGES, "mappings of repo and packages"), Merge.LATER, (),
        "Packages to install from one repository: `{repo: ID, packages: [...]}`.",
    )
    exclude_packages = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Packages that may not be in the tree; it is an error if something needs one.",
    )
    modules: Key[Modules] = Key(
        MODULES, Merge.TOGETHER, Modules(),
        "Module streams to `enable`, and those to `install`, with a profile: "
        "`nodejs:18/minimal`.",
    )
    platform_module = Key(
        WORD, Merge.NEAREST, "",
        "The module platform, where the packages do not tell it: `platform:el9`.",
        expands=_whole_string,
    )
    ostree_layers = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Refs of the target repository to add to the tree; a file that differs is an error.",
    )
    ostree_override_layers = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Refs of the target repository to add to the tree; their files replace others.",
    )
    recommends = Key(
        FLAG, Merge.NEAREST, True,
        "Whether weak dependencies are installed too.",
    )
    documentation = Key(
        FLAG, Merge.NEAREST, True,
        "`false` leaves out files that packages mark as documentation.",
    )
    install_langs = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Languages whose files are installed, for example `[de, fr_FR]`; all by default.",
    )
    units = Key(
        list_of(UNIT, "systemd units"), Merge.PARENT_FIRST, (),
        "systemd units to enable, as their `[Install]` section asks.",
    )
    default_target = Key(
        UNIT, Merge.NEAREST, "",
        "The systemd target to boot into.",
        aliases=("default_target",),
    )
    machineid_compat = Key(
        FLAG, Merge.NEAREST, True,
        "Whether `/etc/machine-id` is there, empty; `false` makes the first boot apply the "
        "presets, and forbids `units`.",
    )
    postprocess = Key(
        list_of(SCRIPT, "scripts"), Merge.PARENT_FIRST, (),
        "Scripts to run in the tree, without network; `/bin/sh` runs those without `#!`.  Those "
        "of an included file run first, and of several includes the last one's first.",
    )
    postprocess_script: Key[Path | None] = Key(
        FILE, Merge.NEAREST, None,
        "A script to run in the tree after those of `postprocess`.",
    )
    add_files: Key[tuple[AddFile, ...]] = Key(
        list_of(ADD_FILE, "[file, path in the tree]"), Merge.PARENT_FIRST, (),
        "Files beside the treefile, or below its directory, to copy into the tree.",
    )
    remove_files = Key(
        list_of(TREE_PATH, "paths in the tree"), Merge.PARENT_FIRST, (),
        "Files and directories to remove from the tree.  Missing ones are no error.",
    )
    remove_from_packages: Key[tuple[RemoveFrom, ...]] = Key(
        list_of(REMOVE_FROM, "[package, expression...]"), Merge.PARENT_FIRST, (),
        "Files of a package to leave out: regular expressions, searched in their paths.",
    )
    automatic_version_prefix = Key(
        WORD_OR_NUMBER, Merge.NEAREST, "",
        "The commit's version: this prefix, then with `.1`, `.2`, ... while it stays the same.  "
        "`<date:FORMAT>` is today in UTC (or SOURCE_DATE_EPOCH), and then counting begins at `.0`.",
        aliases=("automatic_version_prefix",), expands=_whole_string,
    )
    automatic_version_suffix = Key(
        SUFFIX, Merge.NEAREST, ".",
        "What stands between the prefix and the number.",
    )
    mutate_os_release = Key(
        WORD_OR_NUMBER, Merge.NEAREST, "",
        "What in `VERSION` and `PRETTY_NAME` of `/usr/lib/os-release` the commit's version "
        "replaces; it becomes `OSTREE_VERSION` too.",
        expands=_whole_string,
    )
    selinux = Key(
        FLAG, Merge.NEAREST, True,
        "Whether files are labelled by the tree's own policy; without a policy in the tree, "
        "`true` is an error.",
    )
    selinux_label_version = Key(
        whole(0, 1), Merge.NEAREST, 0,
        "`1`: files of `/usr/etc` get the labels of `/etc`.",
    )
    ima = Key(
        FLAG, Merge.NEAREST, False,
        "Whether the IMA signatures of packages' files come into the commit.",
    )
    boot_location = Key(
        one_of("new", "modules", "kernel-install"), Merge.NEAREST, "new",
        "`modules`: the kernel is in `/usr/lib/modules/<version>`; `new`: also in "
        "`/usr/lib/ostree-boot`; `kernel-install`: as `modules`, and kernel-install is told so.",
        aliases=("boot_location",),
    )
    initramfs_args = Key(
        list_of(TEXT, "strings"), Merge.PARENT_FIRST, (),
        "Arguments of dracut; they come after `--no-hostonly`.",
    )
    no_initramfs = Key(
        FLAG, Merge.NEAREST, False,
        "`true`: no initramfs is made, even if the tree has a kernel and dracut.",
    )
    tmp_is_dir = Key(
        FLAG, Merge.NEAREST, False,
        "`true`: `/tmp` is a directory, not a link to `sysroot/tmp`.",
    )
    opt_usrlocal = Key(
        one_of("var", "root", "state-overlay", also={"stateoverlay": "state-overlay"}),
        Merge.NEAREST, "var",
        "`/opt` and `/usr/local`: links into `/var`; with `root`, directories of the tree; with "
        "`state-overlay`, directories that the machine may write over.",
    )
    opt_usrlocal_overlays = Key(
        FLAG, Merge.NEAREST, False,
        "`true`: the same as `opt-usrlocal: state-overlay`; an old name.",
    )
    readonly_executables = Key(
        FLAG, Merge.NEAREST, False,
        "Whether executables lose their write permissions.",
    )
    ignore_devices = Key(
        FLAG, Merge.NEAREST, True,
        "Whether device files are left out of the commit; `false` makes them an error.",
    )
    sysusers = Key(
        one_of("compose-auto", "compose-forced"), Merge.NEAREST, "compose-auto",
        "When users and groups of sysusers.d are made: here always, before the packages are "
        "installed.",
    )
    etc_group_members = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "Groups that are in `/etc/group` too where others are in `/usr/lib/group`, so that people "
        "can become members.",
    )
    preserve_passwd = Key(
        FLAG, Merge.NEAREST, True,
        "Whether users and groups of the previous commit, or of the files that are checked "
        "against, keep their numbers; where they are in `/usr/lib` or in a file, all stay.",
    )
    check_passwd: Key[AccountCheck] = Key(
        CHECK_PASSWD, Merge.NEAREST, AccountCheck("previous"),
        "What users must agree with: `type: none`, `previous` (the ref's current commit), "
        "`file` (with `filename`) or `data` (with `entries: {name: [uid, gid]}`).  The same "
        "users get the same numbers, and one that still owns files may not disappear.",
    )
    check_groups: Key[AccountCheck] = Key(
        CHECK_GROUPS, Merge.NEAREST, AccountCheck("previous"),
        "The same for groups, with `entries: {name: gid}`.",
    )
    ignore_removed_users = Key(
        set_of(WORD, "strings"), Merge.TOGETHER, (),
        "Users that may disappear; `*` means all.",
    )
    ignore_removed_groups = Key(
        set_of(WORD, "strings"), Merge.TOGETHER, (),
        "Groups that may disappear; `*` means all.",
    )
    rpmdb = Key(
        one_of("target", "host", "bdb", "sqlite", "ndb", also={"b-d-b": "bdb"}),
        Merge.NEAREST, "target",
        "The format of the package database: `target` is what the tree's rpm reads, `host` and "
        "`sqlite` what is usual now; `ndb` and `bdb` where this machine's librpm can write them, "
        "else, with a warning, the same as `target`.",
    )
    rpmdb_normalize = Key(
        FLAG, Merge.NEAREST, False,
        "Whether the package database is made the same each time; here it always is.",
    )
    container = Key(
        FLAG, Merge.NEAREST, False,
        "`true`: a tree without kernel.  It makes `boot-location: modules`, `selinux: false`, "
        "`tmp-is-dir: true`, `preserve-passwd: false`, and checks neither users nor groups.",
    )
    container_cmd = Key(
        STRINGS, Merge.NEAREST, (),
        "The command of a container image made of the commit: `ostree.container-cmd` in its "
        "metadata.",
    )
    cliwrap = Key(
        FLAG, Merge.NEAREST, False,
        "Wrappers around programs such as rpm; they call rpm-ostree, and are deprecated there.",
        state=State.ACCEPTED,
    )
    cliwrap_binaries = Key(
        STRINGS, Merge.PARENT_FIRST, (),
        "The programs that `cliwrap` wraps.",
        state=State.ACCEPTED,
    )
    metadata: Key[Mapping[str, object]] = Key(
        map_of(JSON, "mapping"), Merge.NAMES, {},
        "For other programs; `treefile` prints it.",
        expands=_strings_in,
    )
    add_commit_metadata: Key[Mapping[str, object]] = Key(
        map_of(JSON, "mapping"), Merge.NAMES, {},
        "Metadata of the commit; a `version` here is the commit's.",
        expands=_strings_in,
    )
    repo_metadata = Key(
        _METADATA_PLACE, Merge.NEAREST, "detached",
        "Where the repositories and their times are noted: in the commit, beside it, or nowhere.  "
        "Not in the commit by default, for its checksum would change with them, though no package "
        "does.",
        aliases=("repo_metadata",),
    )
    advisories_metadata = Key(
        _METADATA_PLACE, Merge.NEAREST, "detached",
        "Where the advisories of the packages are noted: in the commit, beside it, or nowhere.  "
        "Not in the commit by default, for they come and change after the packages.",
    )
    gpg_key = Key(
        WORD, Merge.NEAREST, "",
        "The GPG key that signs the commit, where `--gpg-sign` names no other.",
        aliases=("gpg_key",),
    )
    rojig: Key[Rojig | None] = Key(
        ROJIG, Merge.NEAREST, None,
        "What the set's package is called and says: `{name, summary, license, description}`.",
        expands=_rojig_strings,
    )
    osname = Key(
        WORD, Merge.NEAREST, "",
        "For programs of the past.",
        state=State.ACCEPTED,
    )
    # fmt: on


KEYS: tuple[Key[Any], ...] = tuple(key for key in vars(Keys).values() if isinstance(key, Key))
BY_NAME: Mapping[str, Key[Any]] = {key.name: key for key in KEYS}
_SPELLED = {name: key for key in KEYS for name in (key.name, *key.aliases) if "<" not in name}


class UnknownKey(ComposerError):
    """A key that is in no row; the hint names the nearest one."""


def find(name: str) -> Key[Any]:
    """Return the row for the key ``name``; raises UnknownKey."""
    if name in _SPELLED:
        return _SPELLED[name]
    if name in _LAYERING:
        raise UnknownKey("a key for layering packages on a machine", hint="a compose has no base")
    prefix, _, arch = name.partition("-")
    if prefix == "packages" and arch:
        require_architecture(arch, before="packages-")
        return Keys.packages_of_arch
    near = difflib.get_close_matches(name.replace("_", "-"), list(_SPELLED), 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "docs/treefile.md lists the keys"
    raise UnknownKey("unknown key", hint=hint)


def require_architecture(arch: str, *, before: str = "") -> None:
    """Raise UnknownKey unless there is such an architecture."""
    if arch in ARCHITECTURES or arch in OTHER_ARCHITECTURES:
        return
    near = difflib.get_close_matches(arch, ARCHITECTURES, 1, 0.5)
    known = f"known are {', '.join(ARCHITECTURES)}"
    hint = f"did you mean {before}{near[0]}?" if near else known
    raise UnknownKey(f"unknown architecture {arch!r}", hint=hint)


def joined(key: Key[Any], values: Sequence[object]) -> object:
    """Join the values of files, each before those that it includes, in their order."""
    if key.merge is Merge.NAMES:
        return {
            name: value
            for mapping in reversed(values)
            if isinstance(mapping, Mapping)
            for name, value in mapping.items()
        }
    if key.merge in (Merge.NEAREST, Merge.NONE):
        return values[0]
    if isinstance(values[0], Modules):
        modules = [value for value in values if isinstance(value, Modules)]
        return Modules(
            _together(module.enable for module in modules),
            _together(module.install for module in modules),
        )
    lists = [value for value in reversed(values) if isinstance(value, tuple)]
    if key.merge is Merge.TOGETHER:
        return _together(lists)
    both = tuple(item for part in lists for item in part)
    return _last_entries(both) if key.merge is Merge.LATER else both


def _together(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({item for part in lists for item in part}))


def _last_entries(entries: Sequence[RepoPackages]) -> tuple[RepoPackages, ...]:
    """Keep of each package the last entry that names it."""
    seen: set[str] = set()
    kept = []
    for entry in reversed(entries):
        packages = tuple(name for name in entry.packages if name not in seen)
        seen.update(packages)
        if packages:
            kept.append(replace(entry, packages=packages))
    return tuple(reversed(kept))

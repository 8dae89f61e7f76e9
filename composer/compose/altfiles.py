"""System accounts in /usr/lib/passwd and /usr/lib/group, where nss-altfiles finds them.

So an update brings the accounts of the tree, and /etc holds the machine's own.  That is
done to trees that can read it: which have libnss_altfiles, or name altfiles in
nsswitch.conf.  root stays in /etc, and so do the groups of ``etc-group-members``, which
people are to be members of.
"""

from __future__ import annotations

import stat
from collections.abc import Collection

from composer.compose.tree import Tree

_LIBRARIES = (
    ("usr/lib64", "libnss_altfiles.so.2"),
    ("usr/lib", "libnss_altfiles.so.2"),
    ("usr/lib", "*-linux-gnu*/libnss_altfiles.so.2"),
)
_NSSWITCH = "usr/etc/nsswitch.conf"
_SECRET = ("shadow", "gshadow")
# What shadow-utils leaves behind: locks and the files as they were before.
_LEFT = (".pwd.lock", "passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-")


def uses_altfiles(tree: Tree) -> bool:
    """Tell whether programs in the tree can look accounts up in /usr/lib."""
    nsswitch = tree.read(_NSSWITCH) or ""
    databases = [line.partition("#")[0].split() for line in nsswitch.splitlines()]
    if any(w[:1] in (["passwd:"], ["group:"]) and "altfiles" in w for w in databases):
        return True
    return any(any(tree.path(place, follow=True).glob(pattern)) for place, pattern in _LIBRARIES)


def move_accounts(tree: Tree, members: Collection[str]) -> None:
    """Move accounts to /usr/lib, if the tree uses nss-altfiles, and name it in nsswitch.conf.

    ``members`` are the groups that /etc/group keeps too.
    """
    if not uses_altfiles(tree):
        return
    _split(tree, "passwd", ())
    _split(tree, "group", members)
    nsswitch = tree.path(_NSSWITCH)
    # A link is another program's, authselect's for example.
    if nsswitch.is_file() and not nsswitch.is_symlink():
        text = tree.read(_NSSWITCH) or ""
        if (changed := with_altfiles(text)) != text:
            tree.write(_NSSWITCH, changed)


def _split(tree: Tree, name: str, members: Collection[str]) -> None:
    stay, go = [], []
    for line in (tree.read(f"usr/etc/{name}") or "").splitlines():
        fields = line.split(":")
        if len(fields) < 4:
            continue
        is_root = fields[2] == "0"
        if not is_root:
            go.append(line)
        # A group with members is in both: machines from before it was listed expect it.
        if is_root or fields[0] in members:
            stay.append(line)
    there = (tree.read(f"usr/lib/{name}") or "").splitlines()
    known = {line.partition(":")[0] for line in there}
    there += [line for line in go if line.partition(":")[0] not in known]
    tree.write(f"usr/lib/{name}", "".join(f"{line}\n" for line in there))
    tree.write(f"usr/etc/{name}", "".join(f"{line}\n" for line in stay))


def with_altfiles(text: str) -> str:
    """Return an nsswitch.conf that looks in altfiles after files for passwd and group."""
    lines = []
    for line in text.splitlines():
        database, colon, rest = line.partition(":")
        if database in ("passwd", "group") and colon:
            words = rest.split()
            if "altfiles" in words:
                return text
            place = words.index("files") + 1 if "files" in words else len(words)
            words.insert(place, "altfiles")
            line = f"{database}: {' '.join(words)}"
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def settle_shadow(tree: Tree) -> None:
    """Remove what depends on the day from shadow, and what shadow-utils left behind.

    The day of the last change is kept where there is a password.  Whatever packages and
    scriptlets did, nobody but root and the files' group may read them (CVE-2024-2905).
    """
    for name in _LEFT:
        tree.remove(f"usr/etc/{name}")
    for name in _SECRET:
        if tree.is_file(f"usr/etc/{name}"):
            path = tree.path(f"usr/etc/{name}", follow=True)
            path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o640)
    text = tree.read("usr/etc/shadow")
    if text is None:
        return
    lines = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 9 and fields[1].startswith(("!", "*")):
            fields[2] = ""
        lines.append(":".join(fields))
    path = tree.path("usr/etc/shadow", follow=True)
    path.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")

"""Which commit a person means: a ref, a whole checksum, and ``^`` for a parent."""

from __future__ import annotations

import difflib
import re

from composer.checksum import ObjectChecksum
from composer.errors import NotFound, UsageError
from composer.ostree.repo import Repository

_CHECKSUM = re.compile(r"[0-9a-f]{64}\Z")
_ABBREVIATION = re.compile(r"[0-9a-f]{4,63}\Z")
_MOST_PARENTS = 10_000


def find_commit(repo: Repository, revision: str) -> ObjectChecksum:
    """Return the commit that ``revision`` names, which is here.

    ``REF``, ``REMOTE:REF`` or 64 hexadecimal digits, each followed by any number of ``^``.
    Raises UsageError for an abbreviated checksum, NotFound for what is not here.
    """
    name = revision.rstrip("^")
    commit = _named(repo, name)
    for _ in range(min(len(revision) - len(name), _MOST_PARENTS)):
        parent = repo.commit(commit).parent
        if parent is None:
            raise NotFound(f"{revision}: the commit {commit} has no parent")
        if not repo.has("commit", parent):
            raise NotFound(
                f"{revision}: {parent}, the parent of {commit}, is not in {repo.path}",
                hint="its history was not pulled, or was pruned",
            )
        commit = parent
    return commit


def _named(repo: Repository, name: str) -> ObjectChecksum:
    if _CHECKSUM.match(name):
        commit = ObjectChecksum.parse(name)
        if not repo.has("commit", commit):
            raise NotFound(f"{repo.path}: no commit {name}")
        return commit
    refs = repo.refs()
    if name in refs:
        return _present(repo, name, refs[name])
    if _ABBREVIATION.match(name):
        raise UsageError(
            f"{name}: an abbreviated checksum; another commit could come to begin with it",
            hint=f"write all 64 digits; this shows them: ostree --repo={repo.path} log REF",
        )
    near = difflib.get_close_matches(name, refs, 3, 0.6)
    raise NotFound(
        f"{repo.path}: no ref or commit {name!r}",
        details=[f"did you mean {' or '.join(near)}?"] if near else (),
        hint=f"see what is there: ostree --repo={repo.path} refs",
    )


def _present(repo: Repository, name: str, commit: ObjectChecksum) -> ObjectChecksum:
    if not repo.has("commit", commit):
        raise NotFound(f"{repo.path}: {name} names {commit}, which is not there")
    return commit

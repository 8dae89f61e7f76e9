"""Reassemble a set from RPMs that are here, and nothing else: ``payload.py SET PACKAGES REPO``."""

from __future__ import annotations

import sys
from pathlib import Path

from composer.jigdo.examine import examine
from composer.jigdo.local import LocalPackages
from composer.jigdo.reassemble import reassemble
from composer.mirror.making import find_packages, open_set
from composer.ostree.repo import Repository


def main() -> None:
    """Write every object; without flushing, as rpm does not flush either."""
    jigdo = open_set(Path(sys.argv[1]))
    repo = Repository.open(Path(sys.argv[3]))
    repo.disable_fsync()
    source = LocalPackages({p.ref.pkgid: p.path for p in find_packages([sys.argv[2]])})
    wanted = examine(jigdo, repo, base=None, check=lambda commit: None)
    reassemble(jigdo, wanted, repo, source, ref=jigdo.head.ref)


if __name__ == "__main__":
    main()

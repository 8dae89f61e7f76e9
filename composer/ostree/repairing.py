"""Good objects in the place of damaged ones: made beside them, proven, then renamed over them.

libostree writes no object whose name is taken, so good ones are written into a side repository
whose parent is the one to be mended.  What is damaged or missing there counts as not being here,
everything else is found.  A damaged object keeps its place until a good one takes it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Self

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError
from composer.ostree.checking import ObjectName
from composer.ostree.repo import Repository
from composer.system.files import remove_tree, sync_directory


def side_directory(repo: Repository) -> Path:
    """Return where the side repository of ``repo`` is, while something is mended."""
    return repo.path / "tmp" / "jigdo-repair"


class SideRepository(Repository):
    """Writes beside a repository; reads from there what is not among the ``lacking``."""

    _lacking: set[ObjectName]
    _sound: set[ObjectName]
    _mended: Repository

    @classmethod
    def beside(cls, repo: Repository, lacking: Collection[ObjectName]) -> Self:
        """Make one, or take the one that was left by a run that was interrupted."""
        place = side_directory(repo)
        Repository.create(place, mode=repo.mode)
        with repo.libostree() as (_, own):
            config = own.copy_config()
            for group in config.get_groups()[0]:
                if group != "core":
                    config.remove_group(group)
            config.set_string("core", "parent", str(repo.path.resolve()))
        with Repository.open(place).libostree() as (_, side):
            side.write_config(config)
        made = cls.open(place)
        if not repo.is_durable:
            made.disable_fsync()
        made._mended, made._lacking, made._sound = repo, set(lacking), set()
        return made

    @property
    def lacking(self) -> frozenset[ObjectName]:
        """What is still to be brought."""
        return frozenset(name for name in self._lacking if not name.path(self).is_file())

    def has(self, kind: str, checksum: ObjectChecksum) -> bool:
        """Tell whether a sound metadata object is here, or in the repository to be mended."""
        name = ObjectName(kind, checksum)
        if name not in self._sound:
            # What lies behind something damaged was not looked at before.
            if name in self._lacking or not (super().has(kind, checksum) and self._is_sound(name)):
                return False
            self._sound.add(name)
        return True

    def _is_sound(self, name: ObjectName) -> bool:
        if name.kind == "file":
            return True
        try:
            sound = ContentDigest.of(self.metadata(name.kind, name.checksum)) == bytes(
                name.checksum
            )
        except ComposerError:
            sound = False
        if not sound:
            self._lacking.add(name)
        return sound

    def missing_content(self, checksums: Iterable[ObjectChecksum]) -> set[ObjectChecksum]:
        """Return those of ``checksums`` that are lacking and have not landed here."""
        contents = {name.checksum for name in self._lacking if name.kind == "file"}
        return super().missing_content(contents.intersection(checksums))

    def write_metadata(self, kind: str, checksum: ObjectChecksum, data: bytes) -> None:
        """Write a metadata object, which is then no more lacking."""
        super().write_metadata(kind, checksum, data)
        self._sound.add(ObjectName(kind, checksum))

    def install(self) -> list[ObjectName]:
        """Put what was lacking and has landed here where it belongs; returns it."""
        installed = []
        places = set()
        for name in sorted(self._lacking):
            good, place = name.path(self), name.path(self._mended)
            if not os.path.lexists(good):
                continue
            place.parent.mkdir(exist_ok=True)
            os.replace(good, place)
            if name.kind == "commit" and (signatures := good.with_suffix(".commitmeta")).is_file():
                os.replace(signatures, place.with_suffix(".commitmeta"))
            places.add(place.parent)
            installed.append(name)
        if self._mended.is_durable:
            for directory in sorted({*places, self._mended.path / "objects"}):
                sync_directory(directory)
        return installed

    def remove(self) -> None:
        """Remove the side repository."""
        remove_tree(self.path)

"""Content that is compressed inside: how to open it, and how to close it again bit for bit.

A changed kernel image or manual page differs everywhere once it is compressed,
so its delta is made between what is *inside*: the content with every compressed
stream in it replaced by what it unpacks to, all else kept in place.  A
:class:`Recipe` says where the streams are, and what packs each of them to the
very same bytes; docs/format/delta.md section 4 is the reference.

A recipe with packers is only ever returned after they were run and gave the
content back (:func:`analyse`).  For a base no packer is needed: :func:`opened`.
Recipes and containers come from afar: lengths and memory are declared, and one
byte more ends in an error.  What a packer gives elsewhere may differ, by its
version: then :class:`PacksDifferently` is raised, or the digest is wrong, and the
content has to come from another source.
"""

from composer.jigdo.repack.analysing import analyse, reproduces
from composer.jigdo.repack.closing import repack
from composer.jigdo.repack.opening import may_open, opened, unpack
from composer.jigdo.repack.programs import Packers, PacksDifferently
from composer.jigdo.repack.recipe import Kind, Packer, Recipe, Segment

__all__ = (
    "Kind",
    "Packer",
    "Packers",
    "PacksDifferently",
    "Recipe",
    "Segment",
    "analyse",
    "may_open",
    "opened",
    "repack",
    "reproduces",
    "unpack",
)

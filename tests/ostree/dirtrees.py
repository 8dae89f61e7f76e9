"""Dirtrees written by GLib, the reference for the parser that reads them without it."""

from __future__ import annotations

from collections.abc import Mapping

from gi.repository import GLib

from composer.checksum import ObjectChecksum

TYPE = "(a(say)a(sayay))"


def dump_dirtree(
    files: Mapping[str, ObjectChecksum],
    directories: Mapping[str, tuple[ObjectChecksum, ObjectChecksum]],
    *,
    sort: bool = True,
) -> bytes:
    """Serialise a dirtree; entries are sorted by the bytes of their names, unless told not to."""

    def ordered(names: Mapping[str, object]) -> list[str]:
        return sorted(names, key=str.encode) if sort else list(names)

    value = (
        [(name, files[name]) for name in ordered(files)],
        [(name, *directories[name]) for name in ordered(directories)],
    )
    data = GLib.Variant(TYPE, value).get_data_as_bytes().get_data()
    assert isinstance(data, bytes)
    return data


def is_normal(data: bytes) -> bool:
    """Tell whether GLib takes ``data`` for a dirtree in normal form."""
    kind = GLib.VariantType.new(TYPE)
    variant = GLib.Variant.new_from_bytes(kind, GLib.Bytes.new(data), False)
    return bool(variant.is_normal_form())

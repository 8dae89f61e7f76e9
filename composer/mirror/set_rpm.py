"""The RPM that carries a jigdo set: made, signed, and looked into.

docs/format/jigdo.md section 10 is the norm.  Rules kept here: the unsigned RPM
depends on nothing but its inputs and rpm's version, not on machine, user, umask,
locale or time; where the ``.jigdo`` file lies in it is computed from the RPM's
structure, then checked against the file's magic.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, FormatError
from composer.jigdo.container import MAGIC
from composer.rpm.package import opened
from composer.system.command import require_program, run
from composer.system.templates import render


@dataclass(frozen=True, slots=True)
class About:
    """What the RPM says about itself; "" is the usual text.  Only ``description`` has lines."""

    summary: str = ""
    license: str = ""
    description: str = ""


DIRECTORY = "/usr/lib/ostree-jigdo"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\Z")
_REF = re.compile(r"[A-Za-z0-9._/+-]{1,500}\Z")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^]{0,63}\Z")
_ARCH = re.compile(r"[a-z0-9_]{1,32}\Z")
_PROVIDED = {kind: re.compile(rf"jigdo-{kind}\(([^ ()]+)\)") for kind in ("set", "commit")}
# Only rpm's own macros: neither the site's (/etc/rpm) nor the user's.
_MACROS = "/usr/lib/rpm/macros:/usr/lib/rpm/platform/%{_target}/macros"
_SIGNATURES = ("RSAHEADER", "DSAHEADER", "SIGPGP", "SIGGPG")
_KEY_ID = re.compile(r"Key ID ([0-9a-f]{16})\b")
_NEWC_HEADER, _STRIPPED_HEADER = 110, 14
_LONGEST_VERSION = 200


def build_set_rpm(
    jigdo_file: Path,
    *,
    name: str,
    version: str,
    release: str,
    arch: str,
    ref: str,
    commit: ObjectChecksum,
    output: Path,
    timestamp: int,
    about: About = About(),
) -> Path:
    """Wrap ``jigdo_file`` into ``NAME-VERSION-RELEASE.ARCH.rpm`` in directory ``output``.

    ``version`` is the commit's; see :func:`rpm_version`.  ``timestamp`` (seconds) is
    the only time that gets into the RPM.  Raises ComposerError for a name, ref,
    release or architecture that an RPM cannot have, CommandFailed with rpmbuild's words.
    """
    require_program("rpmbuild", package="rpm (Debian) or rpm-build (Fedora)")
    for what, value, pattern in (
        ("name", name, _NAME),
        ("ref", ref, _REF),
        ("release", release, _RELEASE),
        ("architecture", arch, _ARCH),
    ):
        if not pattern.match(value):
            raise ComposerError(f"{value!r} cannot be the {what} of a set's RPM")
    for what, text in (("summary", about.summary), ("license", about.license)):
        if "\n" in text:
            raise ComposerError(f"{text!r} cannot be the {what} of a set's RPM")
    # rpmbuild takes such a line for the beginning of something else, escaped or not.
    if any(line.strip().startswith("%") for line in about.description.split("\n")):
        raise ComposerError("a line of a set's description cannot begin with %")
    spec = render(
        "jigdo-set.spec.j2",
        name=name,
        version=rpm_version(version),
        release=release,
        arch=arch,
        ref=ref,
        commit=commit,
        path=f"{DIRECTORY}/{name}.jigdo",
        timestamp=timestamp,
        summary=_literal(about.summary),
        license=_literal(about.license),
        description=_literal(about.description),
    )
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".set-rpm.", dir=output) as place:
        built = _rpmbuild(spec, jigdo_file, arch, timestamp, Path(place))
        locate_jigdo(built)
        return built.replace(output / built.name)


def _literal(text: str) -> str:
    """Make ``text`` one that rpmbuild takes as it is."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(lines).strip().replace("%", "%%")


def _rpmbuild(spec: str, jigdo_file: Path, arch: str, timestamp: int, top: Path) -> Path:
    """Run rpmbuild in ``top``, which holds everything that it reads or writes."""
    (top / "set.jigdo").symlink_to(jigdo_file.resolve())
    (top / "set.spec").write_text(spec)
    settings = {
        "_topdir": top,
        "_sourcedir": top,
        "_rpmdir": top / "rpms",
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "_dbpath": top / "rpmdb",
        "_tmppath": top,
        "_buildhost": "jigdo-composer",
        "_binary_filedigest_algorithm": 8,
        "use_source_date_epoch_as_buildtime": 1,
        "_vendor": "unknown",
        "_build_id_links": "none",
    }
    argv = ["rpmbuild", "-bb", "--nodeps", f"--macros={_MACROS}", f"--target={arch}-linux"]
    for key, value in settings.items():
        argv += ["--define", f"{key} {value}"]
    environment = {
        "HOME": str(top),
        "XDG_CONFIG_HOME": str(top),
        "SOURCE_DATE_EPOCH": str(timestamp),
    }
    run([*argv, str(top / "set.spec")], cwd=top, env=environment)
    [built] = (top / "rpms").glob("*.rpm")
    return built


def rpm_version(version: str) -> str:
    """Turn a commit's version into one that RPM accepts; different ones stay different.

    Letters, digits and ``. + ~ ^`` stay; everything else, ``_`` included, becomes
    ``_xx`` for each of its bytes, and nothing at all becomes ``_``.  Raises
    ComposerError when the result is longer than a file name allows.
    """
    escaped = re.sub(r"[^A-Za-z0-9.+~^]|(?<=\.)\.", _escape, version) or "_"
    if len(escaped) > _LONGEST_VERSION:
        raise ComposerError(f"version {version[:60]!r}… is too long for the name of an RPM")
    return escaped


def _escape(match: re.Match[str]) -> str:
    return "".join(f"_{byte:02x}" for byte in match[0].encode())


def sign_rpm(path: Path, *, key: str, homedir: Path | None = None) -> None:
    """Sign the RPM at ``path`` in place with GPG key ``key`` of ``homedir``, through rpmsign.

    Size, digest and the place of the payload change.  Raises CommandFailed.
    """
    require_program("rpmsign", package="rpm (Debian) or rpm-sign (Fedora)")
    # Debian's rpm looks for gpg2, which Debian does not have.
    gpg = require_program("gpg", package="gnupg")
    argv = ["rpmsign", "--addsign", "--define", f"_gpg_name {key}", "--define", f"__gpg {gpg}"]
    if homedir is not None:
        argv += ["--define", f"_gpg_path {homedir.resolve()}"]
    hint = "is the secret key in that GPG home, without a passphrase or with an agent?"
    run([*argv, str(path)], hint=hint)


def signers_of(rpm: Path) -> set[str]:
    """Return the ids of the keys that an RPM is signed with, 16 hexadecimal digits each."""
    with opened(rpm) as (header, _):
        told = [header.format(f"%|{tag}?{{%{{{tag}:pgpsig}}}}|") for tag in _SIGNATURES]
    return {match[1] for one in told for match in _KEY_ID.finditer(one)}


def signing_keys(key: str, homedir: Path | None) -> set[str]:
    """Return the ids of a GPG key and its subkeys; raises CommandFailed where there is none."""
    argv = [require_program("gpg", package="gnupg"), "--batch", "--with-colons"]
    if homedir is not None:
        argv += ["--homedir", str(homedir.resolve())]
    listed = run([*argv, "--list-secret-keys", key], hint="is the key in that GPG home?")
    rows = (line.split(":") for line in listed.decode(errors="replace").splitlines())
    return {row[4].lower() for row in rows if row[0] in ("sec", "ssb")}


def locate_jigdo(rpm: Path) -> tuple[int, int]:
    """Return ``(offset, length)`` of the ``.jigdo`` file in the RPM of a set, in bytes.

    Raises PackageRefused for what is no RPM and FormatError for one without a set.
    """
    with opened(rpm) as (header, stream):
        names, sizes = list(header["filenames"]), list(header["filesizes"] or ())
        sizes = sizes or list(header["longfilesizes"])
        payload = os.lseek(stream.fileno(), 0, os.SEEK_CUR)
    if len(names) != 1 or not names[0].endswith(".jigdo"):
        raise FormatError(f"{rpm.name}: not the RPM of a jigdo set")
    with rpm.open("rb") as file:
        file.seek(payload)
        offset = payload + _entry_size(file.read(6), names[0])
        file.seek(offset)
        if file.read(len(MAGIC)) != MAGIC:
            raise FormatError(
                f"{rpm.name}: no jigdo set where it should begin, at byte {offset}",
                hint="the payload of a set's RPM must not be compressed: build it again",
            )
    return offset, sizes[0]


def set_identity(rpm: Path) -> tuple[str, str] | None:
    """Return ref and commit of the set that an RPM carries, as it says; None for other files."""
    try:
        with opened(rpm) as (header, _):
            provides = " ".join(header["providename"])
    except ComposerError:
        return None
    ref, commit = (_PROVIDED[kind].search(provides) for kind in ("set", "commit"))
    return (ref[1], commit[1]) if ref and commit else None


def _entry_size(magic: bytes, name: str) -> int:
    """Bytes before the content of a cpio entry, of which rpm writes two kinds."""
    if magic == b"07070X":  # with a file of 4 GiB or more
        return -(-_STRIPPED_HEADER // 4) * 4
    return -(-(_NEWC_HEADER + len(f".{name}".encode()) + 1) // 4) * 4

"""A software bill of materials for a commit: CycloneDX 1.6 in JSON, by cyclonedx's library.

Rules kept here: the document is a function of the commit and its packages' RPMs alone, so
equal composes give equal bytes; its time is the commit's, its serial number is made from
the commit; paths, locale and machine do not get in.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import __version__
from composer.checksum import ObjectChecksum
from composer.compose.commit import read_committed
from composer.compose.packages import ComposedPackage
from composer.errors import missing_library
from composer.ostree.repo import Repository
from composer.rpm.package import Nevra, PackageRefused, nevra_of, opened
from composer.system.files import write_bytes

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

SUFFIX = ".cdx.json"
"""What the name of such a file ends with, so that tools know it."""

_OS_ID = re.compile(r"""^ID=(["']?)([a-z0-9._-]{1,64})\1\s*$""", re.MULTILINE)
# Longer ones are no expression; they are carried as names all the same.
_LONGEST_EXPRESSION = 1000
_LARGEST = 256 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """The commit that is described; ``distribution`` is its os-release's ID, or ""."""

    ref: str
    commit: ObjectChecksum
    version: str
    timestamp: int
    distribution: str

    @property
    def serial_number(self) -> uuid.UUID:
        """A UUID that only this commit under this ref has."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"jigdo-composer:{self.ref}:{self.commit}")


def require_library() -> None:
    """Raise MissingRequirement where no bill of materials can be made."""
    for name in ("cyclonedx", "packageurl"):
        try:
            import_module(name)
        except ImportError as error:
            raise missing_library(name) from error


def write_sbom(
    repo: Repository,
    ref: str,
    commit: ObjectChecksum,
    packages: Sequence[ComposedPackage],
    destination: Path,
) -> None:
    """Write the bill of materials of ``commit``, made of ``packages``, to ``destination``.

    The RPMs' headers are read, one at a time.  Raises PackageRefused, NoSpace.
    """
    write_bytes(destination, render(_subject(repo, ref, commit), packages))


def describes(path: Path, ref: str, commit: str) -> bool:
    """Tell whether the file at ``path`` is the bill of materials of this commit."""
    try:
        if path.stat().st_size > _LARGEST:
            return False
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    subject = Subject(ref, ObjectChecksum.parse(commit), "", 0, "")
    return isinstance(found, dict) and found.get("serialNumber") == subject.serial_number.urn


def _subject(repo: Repository, ref: str, checksum: ObjectChecksum) -> Subject:
    commit = repo.commit(checksum)
    release = read_committed(repo, str(checksum), "usr/lib/os-release") or ""
    found = _OS_ID.search(release)
    return Subject(ref, checksum, commit.version, commit.timestamp, found[2] if found else "")


def render(subject: Subject, packages: Iterable[ComposedPackage]) -> bytes:
    """Make the document, as UTF-8 with a newline at its end."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    tool = Component(name="jigdo-composer", version=__version__, type=ComponentType.APPLICATION)
    root = _root(subject)
    bom = Bom(
        serial_number=subject.serial_number,
        components=[_component(package, subject.distribution) for package in packages],
        metadata=BomMetaData(
            timestamp=datetime.fromtimestamp(subject.timestamp, UTC),
            component=root,
            tools=ToolRepository(components=[tool]),
        ),
    )
    _depend(bom, root)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    # Through json once more: its order of keys is not the library's to change.
    document = json.loads(outputter.output_as_string())
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    return f"{text}\n".encode()


def _root(subject: Subject) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=subject.ref,
        version=subject.version or str(subject.commit),
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"ostree:{subject.commit}",
        # A commit's checksum is the SHA-256 of the commit object.
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=str(subject.commit))],
        properties=[
            Property(name="ostree:commit", value=str(subject.commit)),
            Property(name="ostree:ref", value=subject.ref),
        ],
    )


def _depend(bom: Bom, root: Component) -> None:
    """Say that the tree consists of all packages."""
    bom.register_dependency(root, list(bom.components))


def _component(package: ComposedPackage, distribution: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalEntity

    with opened(package.path) as (header, _):
        nevra = nevra_of(header, package.path)
        if nevra != package.ref.nevra:
            raise PackageRefused(f"{package.path.name}: it is {nevra}, not {package.ref.nevra}")
        licence, vendor = _text(header["license"]), _text(header["vendor"])
        properties = {
            "rpm:nevra": str(nevra),
            "rpm:sourcerpm": _text(header["sourcerpm"]),
            "rpm:repository": package.ref.repository,
        }
        summary = _text(header["summary"])
    purl = _purl(nevra, distribution)
    return Component(
        name=nevra.name,
        version=nevra.evr,
        type=ComponentType.LIBRARY,
        # A tree has a NEVRA once.
        bom_ref=f"{purl}#{package.ref.pkgid}",
        description=summary or None,
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=str(package.ref.pkgid))],
        licenses=[_licence(licence)] if licence else (),
        supplier=OrganizationalEntity(name=vendor) if vendor else None,
        properties=[
            Property(name=name, value=value) for name, value in properties.items() if value
        ],
    )


def _text(value: Any) -> str:
    # Headers may hold bytes that are no UTF-8; librpm gives them as surrogates.
    return str(value or "").encode("utf-8", "replace").decode().strip()


def _purl(nevra: Nevra, distribution: str) -> Any:
    from packageurl import PackageURL

    qualifiers = {"arch": nevra.arch} | ({"epoch": str(nevra.epoch)} if nevra.epoch else {})
    version = f"{nevra.version}-{nevra.release}"
    return PackageURL("rpm", distribution or None, nevra.name, version, qualifiers)


def _licence(text: str) -> DisjunctiveLicense | LicenseExpression:
    """Give an SPDX identifier or expression, or what is neither, as often in RPMs, as a name."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import is_expression, is_supported_id

    if is_supported_id(text):
        return DisjunctiveLicense(id=text)
    if len(text) <= _LONGEST_EXPRESSION and is_expression(text):
        return LicenseExpression(text)
    return DisjunctiveLicense(name=text)

"""Archives: URLs and templates, and where they say that RPMs are."""

from __future__ import annotations

import pytest

from composer.checksum import ContentDigest
from composer.net.archive import Archive
from composer.rpm.package import Nevra, PackageRef

PACKAGE = PackageRef(
    Nevra.parse("glibc-common-2:2.40-3.fc41.x86_64"),
    ContentDigest(b"p" * 32),
    100,
    "updates",
    "Packages/g/x.rpm",
)


@pytest.mark.parametrize(
    ("text", "base", "locations"),
    [
        ("http://a", "http://a/", [PACKAGE.location, "glibc-common-2.40-3.fc41.x86_64.rpm"]),
        ("http://a/{file}", "http://a/", ["glibc-common-2.40-3.fc41.x86_64.rpm"]),
        (
            "https://a/b/{name}/{version}/{release}/{arch}/{file}",
            "https://a/b/",
            ["glibc-common/2.40/3.fc41/x86_64/glibc-common-2.40-3.fc41.x86_64.rpm"],
        ),
        ("http://a/by-{pkgid}.rpm", "http://a/", [f"by-{PACKAGE.pkgid}.rpm"]),
        ("http://a/b/x{epoch}-{evr}", "http://a/b/", ["x2-2:2.40-3.fc41"]),
        ("file:///a/{repository}/{nevra}", "file:///a/", [f"updates/{PACKAGE.nevra}"]),
    ],
)
def test_archive_says_where_an_rpm_may_be(text: str, base: str, locations: list[str]) -> None:
    archive = Archive.parse(text)
    assert [*archive.mirrors.bases] == [base]
    assert [*archive.locations(PACKAGE)] == locations
    assert Archive.parse(str(archive)) == archive


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a/",
        "http://a/{nothing}",
        "http://a/{name.__class__}",
        "http://a/{name!r}",
        "http://a/{}",
        "http://a/{name",
        "http://a/name}",
        "http://a/{{name}}",
        "http://{name}/x",
        "{name}/x",
        "http://a/?{name}",
        "http://user:secret@a/{name}",
    ],
)
def test_bad_archive_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Archive.parse(text)
    assert str(caught.value)
    assert "secret" not in str(caught.value)


def test_values_of_a_set_lead_nowhere_else() -> None:
    hostile = PackageRef(
        Nevra("x", 0, "..", "..", "noarch"), ContentDigest(b"p" * 32), 1, "../..", "../up.rpm"
    )
    assert not [*Archive.parse("http://a/b/{version}/{release}/c").locations(hostile)]
    assert not [*Archive.parse("http://a/b/{repository}/c").locations(hostile)]
    assert [*Archive.parse("http://a/b").locations(hostile)] == ["x-..-...noarch.rpm"]

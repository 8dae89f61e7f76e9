"""Presets: what packages' scriptlets ask of the tree's own systemctl, it does in the sandbox."""

from __future__ import annotations

import os
from pathlib import Path

from tests.compose.rpms import File, Spec, repository
from tests.compose.test_pipeline import ostree, run
from tests.corpus.test_corpus import CORPUS, pytestmark

__all__ = ["pytestmark"]

UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
UNITS = "/usr/lib/systemd/system"


def test_units_are_on_and_off_as_presets_say(tmp_path: Path) -> None:
    names = ("wanted", "unwanted", "explicit")
    files = {f"{UNITS}/{name}.service": File(UNIT) for name in names}
    presets = "enable wanted.service\ndisable *\n"
    files["/usr/lib/systemd/system-preset/10-app.preset"] = File(presets)
    post = (
        "systemctl preset wanted.service unwanted.service\nsystemctl enable explicit.service\n"
        "systemctl mask tmp.mount\n"
    )
    app = Spec(
        "app",
        files=files,
        scripts={"%post -p /usr/bin/bash": post},
        headers=["Requires: systemd", "AutoReqProv: no"],
    )
    shell = ("Provides: /bin/sh", "Provides: /usr/bin/bash", "Requires: bash")
    place = repository(tmp_path / "rpms", [app, Spec("bash-names", headers=shell)])
    treefile = tmp_path / "os.yaml"
    treefile.write_text(
        "ref: presets\nrepos: [base, corpus]\nselinux: false\n"
        "packages: [app, bash-names, systemd, bash, coreutils]\n"
    )
    run(tmp_path, treefile, base=str(place), corpus=str(CORPUS / "v1"))
    config = "/usr/etc/systemd/system"
    wants = ostree(tmp_path / "repo", "ls", "presets", f"{config}/multi-user.target.wants")
    enabled = {os.path.basename(line.split(" -> ")[0]) for line in wants.splitlines()[1:]}
    assert enabled == {"wanted.service", "explicit.service"}
    masked = ostree(tmp_path / "repo", "ls", "presets", f"{config}/tmp.mount")
    assert masked.endswith("-> /dev/null\n")

"""CVE-2024-2905: rpm-ostree left /etc/shadow readable for everybody."""

from __future__ import annotations

from pathlib import Path

from tests.compose.rpms import File, Spec, needs_root
from tests.compose.test_pipeline import ostree, run, small

pytestmark = needs_root

_LINE = "root:$6$salt$hash:19000:0:99999:7:::\n"


def test_cve_2024_2905_nobody_else_reads_passwords(tmp_path: Path) -> None:
    """Whether a package, a scriptlet or the treefile's script left the files open."""
    package = Spec(
        "careless",
        files={"/etc/shadow": File(_LINE, "0644"), "/etc/gshadow-": File("x", "0644")},
        scripts={"%post": "printf 'root:::\\n' >/etc/gshadow; chown 0:0 /etc/gshadow"},
    )
    script = 'postprocess: ["/usr/bin/busybox chmod 0666 /usr/etc/shadow"]\n'
    treefile, place = small(tmp_path, script, package)
    run(tmp_path, treefile, base=place)
    listed = {
        line.split()[-1]: line.split()[0]
        for line in ostree(tmp_path / "repo", "ls", "-R", "small", "/usr/etc").splitlines()
    }
    secrets = {name: mode for name, mode in listed.items() if "shadow" in name}
    assert secrets == {"/usr/etc/shadow": "-00640", "/usr/etc/gshadow": "-00640"}

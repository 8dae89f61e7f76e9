"""What is read of statements is of refs alone (docs/format/tuf.md section 1)."""

from __future__ import annotations

from tuf.api.metadata import DelegatedRole, Delegations, Targets

from composer.net.statement import delegated_refs


def test_only_roles_that_can_be_refs_are_read() -> None:
    names = ["ref~os~stable", "ref~b", "others", "ref~../x", "ref~a/b", "ref~", "ref~a\0", "ref~ü"]
    roles = {name: DelegatedRole(name, [], 1, False, paths=["jigdo/*"]) for name in names}
    targets = Targets(delegations=Delegations(keys={}, roles=roles))
    assert delegated_refs(targets) == ["b", "os/stable"]
    assert delegated_refs(Targets()) == []

"""What is known of signatures: on commits, by the keys that the operator names; on statements."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import ComposerError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.site.reading import Kept, open_entry
from composer.mirror.trust import describe, is_signed, open_ledger
from composer.ostree.repo import Repository
from composer.ostree.signature import SignatureState, signature_states


@dataclass(frozen=True, slots=True)
class Statements:
    """Signed statements as they are published: until when they hold, by ref; the newest root."""

    expires: dict[str, int]
    root: str
    root_digest: str


def read_statements(repository: Path) -> Statements | None:
    """Say what a repository's own statements say of themselves; None where it has none."""
    if not is_signed(repository):
        return None
    ledger = open_ledger(repository)
    ends = {state.name: int(state.expires.timestamp()) for state in describe(ledger)}
    roles = ("root", "targets", "snapshot", "timestamp")
    first = min(ends[role] for role in roles if role in ends)
    version = ledger.versions("root")[-1]
    data = ledger.path("root", version).read_bytes()
    refs = {name: min(first, end) for name, end in ends.items() if name not in roles}
    name = ledger.path("root", version).relative_to(repository).as_posix()
    return Statements(refs, name, str(ContentDigest.of(data)))


class Signatures:
    """Looks at commits' signatures; what was seen is kept, by set and keyring."""

    def __init__(self, repository: Path, keyring: bytes, kept: Kept) -> None:
        self._repository, self._keyring, self._kept = repository, keyring, kept
        self._digest = str(ContentDigest.of(keyring))[:16]

    def of(self, entries: Sequence[PointerEntry]) -> list[list[SignatureState]]:
        """The signatures on each version's commit."""
        found = [self._kept.load(self._name(entry)) for entry in entries]
        if any(rows is None for rows in found):
            with tempfile.TemporaryDirectory(prefix="jigdo-site.") as scratch:
                repo = Repository.create(Path(scratch) / "repo", mode="archive")
                keyring = Path(scratch) / "keyring.gpg"
                keyring.write_bytes(self._keyring)
                for number, rows in enumerate(found):
                    if rows is None:
                        found[number] = self._look(entries[number], repo, keyring)
        return [[SignatureState(**row) for row in rows or ()] for rows in found]

    def _look(
        self, entry: PointerEntry, repo: Repository, keyring: Path
    ) -> list[dict[str, object]]:
        frame = open_entry(self._repository, entry).read_commit()
        try:
            states = signature_states(repo, frame.data, frame.detached, keyring=keyring)
        except ComposerError:
            states = [SignatureState("", entry.timestamp, "unreadable")]
        rows = [asdict(state) for state in states]
        if all(row["state"] in ("good", "unknown", "unreadable") for row in rows):
            self._kept.keep(self._name(entry), rows)  # others change with time
        return rows

    def _name(self, entry: PointerEntry) -> str:
        return f"signatures-{entry.pkgid}-{self._digest}"

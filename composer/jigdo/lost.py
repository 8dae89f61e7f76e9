"""RPMs that cannot be had any more, and what to say when nothing makes up for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composer.errors import EXIT_ERROR, EXIT_VERIFICATION, ComposerError, VerificationFailed
from composer.rpm.package import PackageRef

MOST_NAMED = 10
"""So many packages or paths are named in a message; the rest is counted."""

_MOST_REASONS = 12


@dataclass(frozen=True, slots=True)
class LostPackage:
    """An RPM of the set that nobody has; ``errors`` say why, source by source."""

    ref: PackageRef
    errors: tuple[ComposerError, ...]

    @property
    def reason(self) -> str:
        """The first thing that went wrong, in a line."""
        return self.errors[0].message if self.errors else f"{self.ref.nevra}: not found"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that was tried, and what came of it."""
        lines = [line for e in self.errors for line in (e.message, *e.details)]
        return tuple(dict.fromkeys(lines))

    @property
    def lied(self) -> bool:
        """Tell whether some source has, under its name, what it must not be."""
        return any(isinstance(error, VerificationFailed) for error in self.errors)


class PackagesLost(ComposerError):
    """RPMs that no source has; all others were delivered."""

    def __init__(
        self, packages: Sequence[LostPackage], *, message: str = "", more: Sequence[str] = ()
    ) -> None:
        names = ", ".join(str(lost.ref.nevra) for lost in packages[:MOST_NAMED])
        if left := len(packages) - MOST_NAMED:
            names += f" and {left} others" if left > 0 else ""
        details = [line for lost in packages[:MOST_NAMED] for line in lost.reasons[:_MOST_REASONS]]
        super().__init__(
            message or f"{names}: not to be had",
            details=[*details, *more],
            hint="name an archive that has them with --archive URL, another mirror with `remote "
            "add`, or a directory that has them with --rpm-cache; the publisher can keep such "
            "packages in the set's repository: `set build --retain`",
        )
        self.packages = tuple(packages)
        if any(lost.lied for lost in packages):
            self.exit_status = EXIT_VERIFICATION
        else:
            self.exit_status = EXIT_ERROR


def not_offered(paths: Sequence[str], objects: int) -> PackagesLost:
    """Make the error for ``objects`` missing objects, some at ``paths``, that are not on offer."""
    more = [f"needed for {path}" for path in paths]
    return PackagesLost(
        (), message=f"{objects} objects that are missing here are not there", more=more
    )


def nothing_left(
    packages: Sequence[LostPackage], paths: Sequence[str], objects: int
) -> PackagesLost:
    """Make the error for ``objects`` missing objects, some at ``paths``, that nothing else has."""
    first = str(packages[0].ref.nevra)
    who = first + {1: "", 2: " and another package"}.get(
        len(packages), f" and {len(packages) - 1} other packages"
    )
    more = [f"needed for {path}" for path in paths]
    if objects > len(paths):
        more.append(f"and for {objects - len(paths)} more objects")
    return PackagesLost(
        packages,
        message=f"{who}: lost, and nothing else has {objects} of the objects in "
        + ("it" if len(packages) == 1 else "them"),
        more=more,
    )

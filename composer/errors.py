"""What can go wrong, as nouns with fields; only the command line prints them.

Every error carries a message that names what happened to what, optional detail
lines, and a hint that tells the person what to do next.  ``exit_status`` is the
process status that the command line ends with; docs/exit-status.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_VERIFICATION = 3
EXIT_NO_SPACE = 4
EXIT_DAMAGED = 5
EXIT_STALE = 6
EXIT_BUSY = 75
EXIT_NOTHING_NEW = 77
EXIT_INTERRUPTED = 130


class ComposerError(Exception):
    """Base of everything this program raises on purpose."""

    exit_status = EXIT_ERROR

    def __init__(self, message: str, *, details: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        self.hint = hint

    def within(self, where: str) -> ComposerError:
        """Put ``where`` before the message, as an error gathers its path on the way up."""
        self.message = f"{where}: {self.message}"
        self.args = (self.message,)
        return self


class UsageError(ComposerError):
    """The command was called in a way that cannot work."""

    exit_status = EXIT_USAGE


class MissingRequirement(ComposerError):
    """This machine lacks a program, a library or a privilege that the work needs."""


def missing_library(name: str) -> MissingRequirement:
    """Make the error for a Python library that is not installed."""
    return MissingRequirement(
        f"the Python library {name} is missing",
        hint="docs/install.md says what there has to be; packaging/setup.sh installs it",
    )


class VerificationFailed(ComposerError):
    """Bytes, a signature or a tree are not what a trusted statement says they are."""

    exit_status = EXIT_VERIFICATION


class ChecksumMismatch(VerificationFailed):
    """Content whose checksum is not the expected one."""

    def __init__(
        self, *, what: str, expected: str, actual: str, source: str = "", hint: str = ""
    ) -> None:
        origin = f"from {source}: " if source else ""
        super().__init__(
            f"{what}: checksum mismatch",
            details=[f"{origin}expected {expected}, got {actual}"],
            hint=hint,
        )
        self.what, self.expected, self.actual, self.source = what, expected, actual, source


class BoundExceeded(VerificationFailed):
    """Something is larger than the size that a trusted statement declares for it."""

    def __init__(self, *, what: str, bound: int, hint: str = "") -> None:
        super().__init__(f"{what}: more than the declared {bound} bytes", hint=hint)
        self.what, self.bound = what, bound


class FormatError(VerificationFailed):
    """A file or document that does not follow its format."""


class NotFound(ComposerError):
    """A ref, a package, a file or a remote that is not there."""


class NoSpace(ComposerError):
    """A file system is too full for what was asked."""

    exit_status = EXIT_NO_SPACE


class NothingNew(ComposerError):
    """All is as it should be already; nothing was written."""

    exit_status = EXIT_NOTHING_NEW


class CommandFailed(ComposerError):
    """A program that this one ran ended with an error."""

    def __init__(self, *, argv: list[str], status: int, output: str, hint: str = "") -> None:
        import shlex

        tail = output.strip().splitlines()[-12:]
        super().__init__(
            f"{argv[0]} failed with status {status}",
            details=[f"command: {shlex.join(argv)}", *tail],
            hint=hint,
        )
        self.argv, self.status, self.output = argv, status, output

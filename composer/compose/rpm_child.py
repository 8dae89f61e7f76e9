"""The one librpm transaction, run inside the sandbox by the host's own Python.

This file is executed, not imported: it is bound into the sandbox and started with
``python3 -I``, so it uses the standard library and the rpm module only.  The job is a
JSON document on standard input; events are JSON lines on standard output; everything
that scriptlets and librpm print goes to standard error.

Rule kept here: librpm needs chroot, what it executes must not have it.  So SYS_CHROOT
leaves the bounding and inheritable sets and stays in the permitted set of this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, NoReturn

_PR_CAPBSET_DROP = 24
_CAP_SETPCAP = 8
_CAP_SYS_CHROOT = 18
_CAPABILITY_VERSION_3 = 0x20080522
_STOPPED = 9


def main() -> None:
    """Read the job, run the transaction, end with status 0 only when all went well."""
    job = json.load(sys.stdin)
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    keep_chroot_to_ourselves()
    Transaction(job, events).run()


def keep_chroot_to_ourselves() -> None:
    """Make sure that no program which this process executes can chroot."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_CAP_SYS_CHROOT, _CAP_SETPCAP):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot drop a capability from the bounding set")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Three words (effective, permitted, inheritable) for each half of the 64 bits.
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "cannot read capabilities")
    data[0] &= ~(1 << _CAP_SETPCAP)
    data[1] &= ~(1 << _CAP_SETPCAP)
    data[2] = data[5] = 0
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "cannot set capabilities")


class Transaction:
    """Adds the packages in the given order, lets librpm order them, and reports."""

    def __init__(self, job: dict[str, Any], events: Any) -> None:
        import rpm

        self._rpm, self._job, self._events = rpm, job, events
        self._packages: list[dict[str, Any]] = job["packages"]
        self._installed = 0
        for name, value in sorted(job["macros"].items()):
            rpm.addMacro(name, value)
        # At a chroot's edge only a descriptor is the same file on both sides.
        self._root = os.open(job["root"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._phases = {
            rpm.RPMTAG_PRETRANS: "%pretrans",
            rpm.RPMTAG_PREIN: "%pre",
            rpm.RPMTAG_POSTIN: "%post",
            rpm.RPMTAG_POSTTRANS: "%posttrans",
            rpm.RPMTAG_TRIGGERSCRIPTS: "a trigger",
            rpm.RPMTAG_FILETRIGGERSCRIPTS: "a file trigger",
            rpm.RPMTAG_TRANSFILETRIGGERSCRIPTS: "a transaction file trigger",
        }

    def run(self) -> None:
        rpm = self._rpm
        transaction = rpm.TransactionSet(self._job["root"])
        # Every RPM was checked against the repository's checksum, whole.
        transaction.setVSFlags(rpm._RPMVSF_NOSIGNATURES | rpm._RPMVSF_NODIGESTS)
        transaction.setVfyLevel(0)
        flags = rpm.RPMTRANS_FLAG_NOPLUGINS | rpm.RPMTRANS_FLAG_NOCONTEXTS
        if not self._job["documentation"]:
            flags |= rpm.RPMTRANS_FLAG_NODOCS
        transaction.setFlags(flags)
        transaction.setProbFilter(
            rpm.RPMPROB_FILTER_IGNOREARCH
            | rpm.RPMPROB_FILTER_IGNOREOS
            | rpm.RPMPROB_FILTER_DISKSPACE
            | rpm.RPMPROB_FILTER_DISKNODES
        )
        for index, package in enumerate(self._packages):
            header = transaction.hdrFromFdno(package["fd"])
            transaction.addInstall(header, str(index), "i")
        transaction.order()
        problems = transaction.run(self._callback, "")
        transaction.closeDB()
        if problems is not None:
            self._stop("problems", texts=[str(problem) for problem in problems])

    def _callback(self, what: int, amount: int, total: int, key: Any, data: str) -> int | None:
        rpm = self._rpm
        if what == rpm.RPMCALLBACK_INST_OPEN_FILE:
            descriptor = os.dup(self._packages[int(key)]["fd"])
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._tell("package", package=self._name(key), done=self._installed)
            return descriptor
        if what == rpm.RPMCALLBACK_INST_STOP:
            self._installed += 1
            if int(key) == self._job["accounts"]["package"]:
                complete_accounts(self._root, self._job["accounts"])
        elif what == rpm.RPMCALLBACK_SCRIPT_START:
            self._tell("script", package=self._name(key), phase=self._phase(amount))
        elif what == rpm.RPMCALLBACK_SCRIPT_ERROR:
            # librpm only warns about most of these and goes on; a tree must not.
            self._stop("script-failed", package=self._name(key), phase=self._phase(amount))
        elif what in (rpm.RPMCALLBACK_UNPACK_ERROR, rpm.RPMCALLBACK_CPIO_ERROR):
            self._stop("unpack-failed", package=self._name(key))
        return None

    def _name(self, key: Any) -> str:
        # Transaction-wide triggers come with a package's name in place of our key.
        text = str(key)
        return str(self._packages[int(text)]["name"]) if text.isdecimal() else text

    def _phase(self, tag: int) -> str:
        return self._phases.get(tag, "scriptlet")

    def _tell(self, event: str, **fields: Any) -> None:
        self._events.write(json.dumps({"event": event, **fields}) + "\n")

    def _stop(self, event: str, **fields: Any) -> NoReturn:
        self._tell(event, **fields)
        self._events.flush()
        sys.stderr.flush()
        # librpm swallows exceptions from callbacks; the tree is thrown away in any case.
        os._exit(_STOPPED)


def complete_accounts(root: int, accounts: dict[str, Any]) -> None:
    """Put the planned users and groups back after a package has brought its own files.

    A configuration file that was there before the package is kept or set aside by
    librpm, depending on how the package marks it; the copy that was there is the full one.
    """
    for name in ("passwd", "group"):
        path = f"etc/{name}"
        if _exists(root, f"{path}.rpmorig"):
            os.rename(f"{path}.rpmorig", path, src_dir_fd=root, dst_dir_fd=root)
        if _exists(root, f"{path}.rpmnew"):
            os.unlink(f"{path}.rpmnew", dir_fd=root)
        _append_missing(root, path, accounts[name])


def _exists(root: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _append_missing(root: int, path: str, lines: list[str]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=root)
    with os.fdopen(descriptor, "r+") as stream:
        text = stream.read()
        known = {line.partition(":")[0] for line in text.splitlines()}
        missing = [line for line in lines if line.partition(":")[0] not in known]
        if missing and text and not text.endswith("\n"):
            stream.write("\n")
        stream.writelines(f"{line}\n" for line in missing)


if __name__ == "__main__":
    main()

"""The one librpm transaction, run inside the sandbox by the host's own Python.

This file is executed, not imported: it is bound into the sandbox and started with
``python3 -I``, so it uses the standard library and the rpm module only.  The job is a
JSON document on standard input; events are JSON lines on standard output; everything
that scriptlets and librpm print goes to standard error.

Rule kept here: what a package brings never runs with more than the tree around it, not
even lua, which runs within this process.  So all that is needed of the host is loaded
first; then the process goes into the tree, gives up the capability to leave it, and to
librpm the tree is the root directory.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import sqlite3
import stat
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_MOST_CAPABILITIES = 64
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP
_FOR_SCRIPTLETS = (0, 1, 3, 4, 6, 7, 31)
_CAPABILITY_VERSION_3 = 0x20080522
# RPMTAG_TRIGGERIN, which the Python module does not name; of file triggers too.
_TAG_TRIGGERIN = 1100
_BUILD_TIME, _INSTALL_TIME, _INSTALL_ID = _TIMES = (1006, 1008, 1128)
_INT32 = 4
# linux/time.h; what file systems take a file's times from.
_CLOCK_REALTIME_COARSE = 5
_SCRIPT_FLAGS = (
    "preinflags", "postinflags", "preunflags", "postunflags", "pretransflags",
    "posttransflags", "triggerscriptflags", "filetriggerscriptflags",
    "transfiletriggerscriptflags",
)  # fmt: skip
# Files in one event, whose line has a bound.
_AT_A_TIME = 4096
_STOPPED = 9
# Ends what was printed before a scriptlet; composer.compose.install looks for it.
OUTPUT_MARK = b"\0"
# Programs that scriptlets find before the tree's own, by PATH; below the tree's fresh /run.
INSTEAD = "run/jigdo-composer/bin"
_INSTEAD_OF_DRACUT = """#!/bin/sh
# The compose makes the initramfs when all is in place: units, scripts, configuration.
exit 0
"""


def main() -> None:
    """Read the job, run the transaction, end with status 0 only when all went well."""
    job = json.load(sys.stdin)
    require_parent(job["lifeline"])
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    transaction = Transaction(job, events)
    go_into(job["root"])
    keep_capabilities_of_scriptlets()
    keep_descriptors_to_ourselves()
    put_instead(f"/{INSTEAD}")
    transaction.run()


def require_parent(lifeline: int) -> None:
    """End at once if whoever started the sandbox is gone; ``lifeline`` ends with it.

    From here on bubblewrap sees to that, but it only begins to after its own set-up.
    """
    os.set_inheritable(lifeline, False)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit("the compose that started this transaction is gone")


def go_into(root: str) -> None:
    """Make the tree this process's root directory for good."""
    # glibc keeps to the name services that it found before a chroot.
    pwd.getpwall()
    os.chroot(root)
    os.chdir("/")
    # From here on these paths lead into the tree, whose modules are not for this process.
    sys.path.clear()
    sys.meta_path.clear()


def keep_capabilities_of_scriptlets() -> None:
    """Give up SYS_CHROOT, and whatever else scriptlets do not get, in every set."""
    libc = ctypes.CDLL(None, use_errno=True)
    # bubblewrap 0.8 leaves root's bounding set as it is and relies on no_new_privs.
    for capability in range(_MOST_CAPABILITIES):
        if capability in _FOR_SCRIPTLETS or libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) != 1:
            continue
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot drop a capability from the bounding set")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Three words (effective, permitted, inheritable) for each half of the 64 bits.
    kept = sum(1 << capability for capability in _FOR_SCRIPTLETS)
    data = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "cannot set capabilities")


def keep_descriptors_to_ourselves() -> None:
    """Make /proc/1/fd and its kind, which show open files, unreadable for scriptlets."""
    # Access to it is that of ptrace, which a process that is not dumpable refuses to all
    # who lack SYS_PTRACE.  This process is the sandbox's first one; scriptlets become
    # dumpable again when they are executed.
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError("cannot make the process not dumpable")


class Transaction:
    """Adds the packages in the given order, lets librpm order them, and reports."""

    def __init__(self, job: dict[str, Any], events: Any) -> None:
        import rpm

        self._rpm, self._job, self._events = rpm, job, events
        self._packages: list[dict[str, Any]] = job["packages"]
        self._installed = 0
        self._unpack_failed = ""
        self._times_settled = False
        self._untouched = Untouched(job["root"]) if job["watch"] else None
        for name, value in sorted(job["macros"].items()):
            rpm.addMacro(name, value)
        # rpm reads its own lua files when the first macro needs them.
        rpm.expandMacro("%{lua:}")
        self._phases = {
            rpm.RPMTAG_PRETRANS: "%pretrans",
            rpm.RPMTAG_PREIN: "%pre",
            rpm.RPMTAG_POSTIN: "%post",
            rpm.RPMTAG_POSTTRANS: "%posttrans",
            _TAG_TRIGGERIN: "a trigger",
        }

    def run(self) -> None:
        rpm = self._rpm
        transaction = rpm.TransactionSet("/")
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
            if self._untouched is not None:
                self._untouched.add(header)
        if self._untouched is not None:
            self._untouched.begin()
        transaction.order()
        problems = transaction.run(self._callback, "")
        self._stop_if_unpack_failed()
        transaction.closeDB()
        self._end_watch()
        if problems is not None:
            self._stop("problems", texts=[str(problem) for problem in problems])
        settle_database(self._job["macros"]["_dbpath"])

    def _callback(self, what: int, amount: int, total: int, key: Any, data: str) -> int | None:
        rpm = self._rpm
        self._stop_if_unpack_failed()
        if what == rpm.RPMCALLBACK_INST_OPEN_FILE:
            descriptor = os.dup(self._packages[int(key)]["fd"])
            os.lseek(descriptor, 0, os.SEEK_SET)
            if self._untouched is not None:
                self._untouched.begin()
            self._tell("package", package=self._name(key), done=self._installed)
            return descriptor
        if what == rpm.RPMCALLBACK_INST_STOP:
            self._installed += 1
            if self._untouched is not None:
                self._untouched.note(int(key))
            if int(key) == self._job["accounts"]["package"]:
                self._end_watch()
                complete_accounts(self._job["accounts"])
        elif what == rpm.RPMCALLBACK_SCRIPT_START:
            self._end_watch()
            self._settle_times()
            os.write(sys.stderr.fileno(), OUTPUT_MARK)
            self._tell("script", package=self._name(key), phase=self._phase(amount))
        elif what == rpm.RPMCALLBACK_SCRIPT_STOP:
            self._tell("script-ended")
        elif what == rpm.RPMCALLBACK_SCRIPT_ERROR:
            # librpm only warns about most of these and goes on; a tree must not.
            self._stop("script-failed", package=self._name(key), phase=self._phase(amount))
        elif what in (rpm.RPMCALLBACK_UNPACK_ERROR, rpm.RPMCALLBACK_CPIO_ERROR):
            self._unpack_failed = self._name(key)
        return None

    def _settle_times(self) -> None:
        """Once, when all packages are there and what runs for all of them begins."""
        if self._installed == len(self._packages) and not self._times_settled:
            self._times_settled = True
            settle_times(int(os.environ["SOURCE_DATE_EPOCH"]))

    def _end_watch(self) -> None:
        """Tell which files are as librpm wrote them, before anything else runs."""
        if self._untouched is not None:
            for files in self._untouched.end():
                self._tell("untouched", files=files)

    def _stop_if_unpack_failed(self) -> None:
        # librpm prints the reason only after it has called back.
        if self._unpack_failed:
            self._stop("unpack-failed", package=self._unpack_failed)

    def _name(self, key: Any) -> str:
        # Transaction-wide triggers come with a package's name in place of our key.
        text = str(key)
        return str(self._packages[int(text)]["name"]) if text.isdecimal() else text

    def _phase(self, tag: int) -> str:
        return self._phases.get(tag, "a scriptlet")

    def _tell(self, event: str, **fields: Any) -> None:
        self._events.write(json.dumps({"event": event, **fields}) + "\n")

    def _stop(self, event: str, **fields: Any) -> NoReturn:
        self._tell(event, **fields)
        self._events.flush()
        sys.stderr.flush()
        # librpm swallows exceptions from callbacks; the tree is thrown away in any case.
        os._exit(_STOPPED)


class Untouched:
    """Notes which files librpm has just written and verified, while nothing else runs.

    A watch lasts while there is no process but this one, and this one is in librpm's hands.
    What is noted of a file is inode and ctime, which whoever writes to it later moves: no
    scriptlet can set it.  Times of files are those of the last tick of the clock, so that
    what was written in the same tick as the end of the watch says nothing.
    """

    def __init__(self, root: str) -> None:
        self._device = os.lstat(root).st_dev
        self._paths: list[list[tuple[int, str]]] = []
        self._possible = True
        self._since = 0
        self._noted: list[tuple[int, int, int, int]] = []

    def add(self, header: Any) -> None:
        """Add the next package.  One whose scriptlets have macros, which run early, ends it all."""
        for tag in _SCRIPT_FLAGS:
            flags = header[tag] or 0
            if any(flags) if isinstance(flags, list) else flags:
                self._possible = False
        modes, names = header["filemodes"] or (), header["filenames"] or ()
        self._paths.append(
            [
                (index, name)
                for index, (mode, name) in enumerate(zip(modes, names, strict=True))
                if stat.S_ISREG(mode & 0xFFFF)
            ]
        )

    def begin(self) -> None:
        """Begin a watch, if it has not begun, unless a scriptlet has left a process."""
        if self._since or not self._possible:
            return
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # Ours as the first process: it has ended, but nobody has asked.
        except ChildProcessError:
            self._since = time.time_ns()

    def note(self, package: int) -> None:
        """Look at the files of ``package``, which have just got their names."""
        if not self._since:
            return
        for index, name in self._paths[package]:
            try:
                status = os.lstat(name)
            except OSError:
                continue  # not installed
            if (
                status.st_ctime_ns > self._since
                and status.st_nlink == 1
                and status.st_dev == self._device
            ):
                self._noted.append((package, index, status.st_ino, status.st_ctime_ns))

    def end(self) -> Iterator[list[tuple[int, int, int, int]]]:
        """End the watch; gives (package, index of the file, inode, ctime), some at a time."""
        now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        noted = [file for file in self._noted if file[-1] < now]
        self._since, self._noted = 0, []
        for start in range(0, len(noted), _AT_A_TIME):
            yield noted[start : start + _AT_A_TIME]


def put_instead(directory: str) -> None:
    """Make the programs that take the place of the tree's own ones in scriptlets.

    dracut alone: a kernel's scriptlets would have it make an image that the compose makes
    again, later, and the same each time.
    """
    os.makedirs(directory, mode=0o755)
    with open(f"{directory}/dracut", "x") as stream:
        stream.write(_INSTEAD_OF_DRACUT)
        os.fchmod(stream.fileno(), 0o755)


def settle_times(newest: int) -> None:
    """Give no directory a time after ``newest``, in seconds since 1970.

    Caches that are made next remember when a directory last changed.  fontconfig, told the
    time by SOURCE_DATE_EPOCH, drops its cache of a directory that is newer.
    """
    for _, _, _, place in os.fwalk("/usr"):
        if os.fstat(place).st_mtime > newest:
            os.utime(place, (newest, newest))


def settle_database(directory: str) -> None:
    """Make the rpmdb one file whose bytes depend on its content only.

    Here, not outside: the scriptlets could write to it, so it is not to be trusted.
    """
    path = f"{directory}/rpmdb.sqlite"
    if not os.path.exists(path):
        return  # another backend, whose files are written in the order of the packages
    connection = sqlite3.connect(path)
    try:
        # WAL needs files beside it to be read, which a read-only /usr cannot have.
        connection.execute("PRAGMA journal_mode=DELETE")
        settle_install_times(connection)
        connection.execute("VACUUM")
    finally:
        connection.close()
    for name in os.listdir(directory):
        if name != os.path.basename(path):
            os.unlink(f"{directory}/{name}")


def settle_install_times(connection: sqlite3.Connection) -> None:
    """Let each package's time and number of installation be its build time.

    librpm takes them from the transaction's time, so they would differ in every header
    whenever a single package changes, and the database with them.  Format: librpm's
    header, with the numbers outside of what its digests and signatures cover.
    """
    headers = connection.execute("SELECT hnum, blob FROM Packages").fetchall()
    for number, blob in headers:
        header = bytearray(blob)
        places = {tag: place for tag, place in numbers_of(header) if tag in _TIMES}
        if len(places) != len(_TIMES):
            continue
        built = header[places[_BUILD_TIME] : places[_BUILD_TIME] + 4]
        for tag in (_INSTALL_TIME, _INSTALL_ID):
            header[places[tag] : places[tag] + 4] = built
        connection.execute("UPDATE Packages SET blob = ? WHERE hnum = ?", (bytes(header), number))
        # An index has the number as this machine writes it.
        key = struct.pack("=I", *struct.unpack(">I", built))
        connection.execute("UPDATE Installtid SET key = ? WHERE hnum = ?", (key, number))
    connection.commit()


def numbers_of(header: bytearray) -> Iterator[tuple[int, int]]:
    """Yield (tag, place of the value) of the single 32-bit numbers in a header."""
    count, size = struct.unpack_from(">II", header)
    store = 8 + 16 * count
    for index in range(count):
        tag, kind, offset, values = struct.unpack_from(">IIiI", header, 8 + 16 * index)
        if kind == _INT32 and values == 1 and 0 <= offset <= size - 4:
            yield tag, store + offset


def complete_accounts(accounts: dict[str, Any]) -> None:
    """Put the planned users and groups back after a package has brought its own files.

    A configuration file that was there before the package is kept or set aside by
    librpm, depending on how the package marks it; the copy that was there is the full one.
    """
    for name in ("passwd", "group"):
        path = f"/etc/{name}"
        if os.path.lexists(f"{path}.rpmorig"):
            os.rename(f"{path}.rpmorig", path)
        if os.path.lexists(f"{path}.rpmnew"):
            os.unlink(f"{path}.rpmnew")
        _append_missing(path, accounts[name])


def _append_missing(path: str, lines: list[str]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "r+") as stream:
        text = stream.read()
        known = {line.partition(":")[0] for line in text.splitlines()}
        missing = [line for line in lines if line.partition(":")[0] not in known]
        if missing and text and not text.endswith("\n"):
            stream.write("\n")
        stream.writelines(f"{line}\n" for line in missing)


if __name__ == "__main__":
    main()

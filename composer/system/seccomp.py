"""Which system calls a sandboxed program cannot make, as a filter for bubblewrap.

What package scripts never need and what a hole in the kernel is usually reached through
is refused with EPERM, also to root; the rest is allowed, because nobody can list what
every package's programs call.  libseccomp, through the distribution's own Python
binding, makes the filter; where the binding is missing there is none.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import Any

_MOUNTING = (
    "mount", "umount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick",
    "move_mount", "open_tree", "mount_setattr", "unshare", "setns",
)  # fmt: skip
_OTHER_PROCESSES = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    "move_pages", "migrate_pages",
)  # fmt: skip
_KERNEL = (
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "create_module", "query_module", "get_kernel_syms", "bpf", "perf_event_open", "userfaultfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "fanotify_init", "lookup_dcookie",
    "nfsservctl", "_sysctl", "uselib", "modify_ldt", "vm86", "vm86old", "iopl", "ioperm", "syslog",
    "acct", "quotactl", "quotactl_fd",
)  # fmt: skip
_MACHINE = (
    "reboot", "swapon", "swapoff", "settimeofday", "clock_settime", "clock_settime64",
    "clock_adjtime", "clock_adjtime64", "adjtimex", "stime", "vhangup", "sethostname",
    "setdomainname",
)  # fmt: skip
_OTHERS = ("keyctl", "add_key", "request_key", "open_by_handle_at")
DENIED = tuple(sorted((*_MOUNTING, *_OTHER_PROCESSES, *_KERNEL, *_MACHINE, *_OTHERS)))
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; clone itself has no NEWTIME.
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
# TIOCSTI and TIOCLINUX type into a terminal.
TERMINAL_INPUT = (0x5412, 0x541C)
# Local, internet and netlink sockets end at the sandbox's own network namespace; others
# (a virtual machine's vsock among them) do not, or are there for their holes.
_SOCKETS = (1, 2, 10, 16)
_LAST_SOCKET = 63
_WORD = 0xFFFFFFFF
# Calls have had the same number on every architecture since pidfd_send_signal, 424.
_SHARED_NUMBERS, _LAST_NUMBER = 424, 511
# The 32-bit programs that a machine runs too; the same rules hold for them.
_SECOND = {"X86_64": "X86", "AARCH64": "ARM"}
_S390 = ("S390", "S390X")


def is_available() -> bool:
    """Whether the binding of libseccomp can be imported."""
    try:
        import seccomp  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def filter_program() -> bytes:
    """Return the filter as the kernel's BPF instructions; raises ImportError."""
    import seccomp

    made = seccomp.SyscallFilter(seccomp.ALLOW)
    # What is neither the machine's own nor added below (x32) is no way around the filter.
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.ERRNO(errno.EPERM))
    # A tree of comparisons: every call of a sandboxed program pays for the filter.
    made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    native = _native(seccomp)
    _deny_unknown_calls(seccomp, made)
    if native in _SECOND:
        made.add_arch(getattr(seccomp.Arch, _SECOND[native]))
    _deny_calls(seccomp, made)
    _deny_arguments(seccomp, made, flags_at=1 if native in _S390 else 0)
    return _exported(made)


def _native(seccomp: Any) -> str:
    # The binding has the numbers of architectures signed in one place, unsigned in another.
    names: dict[int, str] = {
        value & _WORD: name
        for name, value in vars(seccomp.Arch).items()
        if isinstance(value, int) and value
    }
    return names.get(seccomp.system_arch() & _WORD, "")


def _deny_calls(seccomp: Any, made: Any) -> None:
    refused = seccomp.ERRNO(errno.EPERM)
    for name in DENIED:
        # Not every architecture has each, nor does every libseccomp know each.
        if seccomp.resolve_syscall(seccomp.Arch(), name) != -1:
            made.add_rule(refused, name)
    # Its flags are in memory, which a filter cannot see; libc falls back to clone.
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    # Multiplexes socket for 32-bit programs of long ago.
    if seccomp.resolve_syscall(seccomp.Arch(), "socketcall") != -1:
        made.add_rule(refused, "socketcall")


def _deny_unknown_calls(seccomp: Any, made: Any) -> None:
    """Refuse what is newer than libseccomp, and so than the list above, as old kernels do.

    Only the machine's own architecture: libseccomp translates numbers by their names.
    """
    for number in range(_SHARED_NUMBERS, _LAST_NUMBER + 1):
        if not _is_known(seccomp, number):
            made.add_rule(seccomp.ERRNO(errno.ENOSYS), number)


def _is_known(seccomp: Any, number: int) -> bool:
    try:
        seccomp.resolve_syscall(seccomp.Arch(), number)
    except ValueError:
        return False
    return True


def _deny_arguments(seccomp: Any, made: Any, *, flags_at: int) -> None:
    refused = seccomp.ERRNO(errno.EPERM)
    for flag in NAMESPACES:
        made.add_rule(refused, "clone", seccomp.Arg(flags_at, seccomp.MASKED_EQ, flag, flag))
    for request in TERMINAL_INPUT:
        # The kernel looks at 32 of the 64 bits.
        made.add_rule(refused, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, _WORD, request))
    for family in range(_LAST_SOCKET + 1):
        if family not in _SOCKETS:
            made.add_rule(refused, "socket", seccomp.Arg(0, seccomp.MASKED_EQ, _WORD, family))


def _exported(made: Any) -> bytes:
    descriptor = os.memfd_create("seccomp")
    with os.fdopen(descriptor, "w+b", buffering=0) as stream:
        made.export_bpf(stream)
        stream.seek(0)
        return stream.read()

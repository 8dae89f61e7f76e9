"""The filter of system calls, tried in a sandbox that has every capability.

With the capabilities it is the filter alone that can refuse, and each test looks at what
the kernel says without it too.
"""

from __future__ import annotations

import errno
import json
import platform
from pathlib import Path

import pytest

from composer.system import seccomp as filters
from composer.system.sandbox import Sandbox
from tests.compose.rpms import needs_root

pytestmark = [
    needs_root,
    pytest.mark.skipif(not filters.is_available(), reason="needs libseccomp's Python binding"),
]

# Every argument is wrong, so that nothing happens where the call gets through.
PROBE = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, number, *args in json.load(sys.stdin):
    ctypes.set_errno(0)
    args = [ctypes.c_long(a) for a in (args or [-1] * 6)]
    result = libc.syscall(ctypes.c_long(number), *args)
    found[name] = ctypes.get_errno() if result == -1 else 0
print(json.dumps(found))
"""
# With their numbers, for what the kernel lets this process have.
CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_RAW": 13,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_PACCT": 20,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_BOOT": 22,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_TIME": 25,
    "CAP_SYS_TTY_CONFIG": 26,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
# They end at once whatever the arguments are, or take none: not tried without the filter.
UNSAFE = {"vhangup"}
Calls = list[tuple[object, ...]]


def number(name: str) -> int:
    import seccomp

    return int(seccomp.resolve_syscall(seccomp.Arch(), name))


def outcomes(calls: Calls) -> dict[str, int]:
    """Make each call (name, number, arguments...) inside; returns its errno, 0 for success."""
    held = [name for name, index in CAPABILITIES.items() if _bounding() >> index & 1]
    sandbox = Sandbox.of_host(capabilities=held)
    text = sandbox.run(["/usr/bin/python3", "-I", "-c", PROBE], stdin=json.dumps(calls).encode())
    found: dict[str, int] = json.loads(text)
    return found


def _bounding() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapBnd")), 16)


def without_filter(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> dict[str, int]:
    with monkeypatch.context() as patch:
        patch.setattr(filters, "is_available", lambda: False)
        return outcomes(calls)


def test_calls_that_scripts_never_need_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = [(name, number(name)) for name in filters.DENIED if number(name) >= 0]
    assert len(calls) > 50
    assert set(outcomes(calls).values()) == {errno.EPERM}
    harmless = [call for call in calls if call[0] not in UNSAFE]
    allowed = without_filter(monkeypatch, harmless)
    assert errno.EPERM not in allowed.values()


def test_namespaces_cannot_be_made_by_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    # CLONE_SIGHAND without CLONE_VM is invalid: no process comes of it.
    clone = number("clone")
    calls: Calls = [(str(f), clone, f | 0x800, 0, 0, 0, 0) for f in filters.NAMESPACES]
    assert set(outcomes(calls).values()) == {errno.EPERM}
    assert set(without_filter(monkeypatch, calls).values()) == {errno.EINVAL}


def test_clone3_is_as_if_the_kernel_had_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = [("clone3", number("clone3"))]
    assert outcomes(calls) == {"clone3": errno.ENOSYS}
    assert without_filter(monkeypatch, calls) != {"clone3": errno.ENOSYS}


def test_calls_newer_than_libseccomp_are_as_if_the_kernel_had_none() -> None:
    import seccomp

    unknown = []
    for candidate in range(424, 512):
        try:
            seccomp.resolve_syscall(seccomp.Arch(), candidate)
        except ValueError:
            unknown.append(candidate)
    assert unknown
    calls: Calls = [(str(candidate), candidate) for candidate in unknown]
    assert set(outcomes(calls).values()) == {errno.ENOSYS}


def test_typing_into_terminals_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ioctl, request = number("ioctl"), filters.TERMINAL_INPUT[0]
    # The kernel looks at the lower half of the request only.
    calls: Calls = [("plain", ioctl, 0, request), ("padded", ioctl, 0, request | 1 << 40)]
    assert set(outcomes(calls).values()) == {errno.EPERM}
    assert errno.EPERM not in without_filter(monkeypatch, calls).values()


def test_sockets_that_no_network_namespace_holds_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket = number("socket")
    usual: Calls = [
        ("unix", socket, 1, 1, 0),
        ("inet", socket, 2, 1, 0),
        ("inet6", socket, 10, 1, 0),
    ]
    # AF_ALG, AF_VSOCK, AF_PACKET, AF_BLUETOOTH, with a type that none of them has.
    others: Calls = [(str(f), socket, f, 9, 0) for f in (38, 40, 17, 31)]
    found = outcomes([*usual, *others])
    assert [found[str(name)] for name, *_ in usual] == [0, 0, 0]
    assert {found[str(name)] for name, *_ in others} == {errno.EPERM}
    assert errno.EPERM not in without_filter(monkeypatch, others).values()


# In machine code, as no interpreter makes such calls: int 0x80 has the numbers of 32 bits.
OLD_CALL = """
import ctypes, mmap, sys
code = mmap.mmap(-1, 4096, prot=7)
# push rbx; mov eax, edi; mov ebx, esi; xor ecx, ecx; xor edx, edx; int 0x80; pop rbx; ret
code.write(bytes.fromhex("5389f889f331c931d2cd805bc3"))
at = ctypes.addressof(ctypes.c_char.from_buffer(code))
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(at)
print(call(20, 0), call(310, 0x20000), call(310, 0x800000))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of other architectures, on x86")
def test_calls_of_32_bits_are_no_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt() -> list[int]:
        return [int(n) for n in sandbox.run(["/usr/bin/python3", "-I", "-c", OLD_CALL]).split()]

    sandbox = Sandbox.of_host(capabilities=["CAP_SYS_ADMIN"])
    pid, *refused = attempt()
    if pid == -errno.ENOSYS:
        pytest.skip("the kernel has no calls of 32 bits")
    assert pid > 1
    assert refused == [-errno.EPERM, -errno.EPERM]
    with monkeypatch.context() as patch:
        patch.setattr(filters, "is_available", lambda: False)
        assert attempt()[1] == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of other architectures, on x86")
def test_calls_of_x32_are_no_way_around() -> None:
    x32 = 0x40000000
    calls: Calls = [("getpid", x32 | 39), ("unshare", x32 | number("unshare"), 0)]
    assert set(outcomes(calls).values()) == {errno.EPERM}

"""Programs that are not trusted, run by bubblewrap where nothing they do gets out.

Rules kept here: no network; own processes, IPC and host name; only the directories
that were named, the host's /usr read-only at most, and never its /etc, /root or
/home; an empty environment; a short list of capabilities (without SYS_ADMIN nothing
can be mounted, without MKNOD no device is made); a filter of system calls where
libseccomp is there; limits; bounded output; and nothing that outlives the process
that asked.  docs/sandbox.md tells it at length.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from composer.errors import CommandFailed, ComposerError, MissingRequirement
from composer.system import seccomp
from composer.system.command import require_program

# What librpm needs to write a tree.  SYS_CHROOT is for librpm and dracut's ldconfig.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TZ": "UTC",
}
TIME_LIMIT = 3600.0
_OUTPUT_LIMIT = 64 << 10
_LINE_LIMIT = 1 << 20
# Where a merged /usr keeps its old names, and a split one its own directories.
_KERNEL_SETTINGS = (
    "acpi", "bus", "driver", "dynamic_debug", "fs", "irq", "scsi", "sys", "sysrq-trigger",
)  # fmt: skip
_BESIDE_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class TimeLimitExceeded(ComposerError):
    """A sandboxed program that did not end in time."""

    def __init__(self, *, argv: Sequence[str], seconds: float, output: str) -> None:
        super().__init__(
            f"{argv[0]} did not end within {seconds:g} seconds",
            details=output.strip().splitlines()[-12:],
        )
        self.argv, self.seconds, self.output = tuple(argv), seconds, output


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host, seen at ``target`` inside."""

    source: Path
    target: str
    writable: bool = False

    def options(self) -> list[str]:
        return ["--bind" if self.writable else "--ro-bind", str(self.source), self.target]


class OutputTail:
    """The last bytes that a program wrote; what came before is dropped."""

    def __init__(self, limit: int = _OUTPUT_LIMIT) -> None:
        self._limit, self._data = limit, bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]

    def clear(self) -> None:
        self._data.clear()

    def __str__(self) -> str:
        return self._data[-self._limit :].decode(errors="replace")


OnLine = Callable[[bytes, OutputTail], None]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a sandboxed program sees.

    ``binds`` of a root directory come first, then fresh ``/dev``, ``/proc``, ``/tmp`` and
    ``/run`` below each of ``roots`` ("" for the sandbox's own root), then other binds.
    ``capabilities`` are added to the ones that every sandbox has.  With ``as_first``
    the program itself is process 1, else one of bubblewrap's that waits for orphans.
    """

    binds: tuple[Bind, ...]
    roots: tuple[str, ...] = ("",)
    capabilities: tuple[str, ...] = ()
    as_first: bool = False

    @classmethod
    def of_host(
        cls,
        *binds: Bind,
        roots: Sequence[str] = (),
        capabilities: Iterable[str] = (),
        as_first: bool = False,
    ) -> Sandbox:
        """Programs of the host, read-only, and ``binds``."""
        usr = Bind(Path("/usr"), "/usr")
        return cls((usr, *binds), ("", *roots), tuple(capabilities), as_first)

    @classmethod
    def of_tree(cls, tree: Path, *binds: Bind) -> Sandbox:
        """Programs of ``tree``, which is the writable root directory inside."""
        return cls((Bind(tree, "/", writable=True), *binds))

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        on_line: OnLine | None = None,
        seconds: float = TIME_LIMIT,
    ) -> str:
        """Run ``argv`` to its end and return the tail of what it wrote.

        With ``on_line``, each line of standard output goes there, together with the
        tail of standard error so far, and only standard error is returned.  Raises
        CommandFailed, TimeLimitExceeded, or MissingRequirement where this machine
        cannot make the sandbox; whatever ``on_line`` raises ends the program too.
        """
        require_sandbox()
        options = self._options({**ENVIRONMENT, **(env or {})})
        process = _start(options, argv, stdin, pass_fds)
        try:
            tail = _follow(process, on_line, argv, seconds)
        finally:
            _end(process)
        if process.returncode:
            _refuse_setup_failure(str(tail))
            raise CommandFailed(argv=list(argv), status=process.returncode, output=str(tail))
        return str(tail)

    def _options(self, env: Mapping[str, str]) -> list[str]:
        options = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
        options += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        options += ["--unshare-cgroup-try", "--hostname", "compose"]
        options += ["--as-pid-1"] if self.as_first else []
        options += ["--cap-drop", "ALL"]
        for capability in (*CAPABILITIES, *self.capabilities):
            options += ["--cap-add", capability]
        for name, value in sorted(env.items()):
            options += ["--setenv", name, value]
        below = {"/", "/usr", *self.roots}
        for bind in sorted(self.binds, key=lambda bind: bind.target):
            if bind.target in below:
                options += bind.options()
        if any(bind.target == "/usr" for bind in self.binds):
            options += _names_beside_usr()
        for root in self.roots:
            options += ["--dev", f"{root}/dev", *_proc(f"{root}/proc")]
            options += ["--tmpfs", f"{root}/run", "--perms", "1777", "--tmpfs", f"{root}/tmp"]
        for bind in self.binds:
            if bind.target not in below:
                options += bind.options()
        return [*options, "--chdir", "/"]


def require_sandbox() -> None:
    """Raise MissingRequirement unless sandboxes with real owners can be made here."""
    require_program("bwrap", package="bubblewrap")
    if os.geteuid() != 0:
        raise MissingRequirement(
            "the sandbox needs root: files get their owners and capabilities in it",
            hint="run the same command as root, for example with sudo",
        )


def _proc(target: str) -> list[str]:
    """A /proc of the sandbox's own processes in which the kernel's settings are read-only.

    bubblewrap 0.8 means to cover these itself, but asks access(2), which denies writing
    to /proc/sys even to root, and skips it; the files below could be written all the
    same, core_pattern among them, which names a program that the host runs as root.
    """
    options = ["--proc", target]
    for name in _KERNEL_SETTINGS:
        if Path("/proc", name).exists():
            options += ["--ro-bind", f"/proc/{name}", f"{target}/{name}"]
    return options


def _names_beside_usr() -> list[str]:
    options: list[str] = []
    for name in _BESIDE_USR:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return options


def _start(
    options: list[str], argv: Sequence[str], stdin: bytes, pass_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    with ExitStack() as opened:
        # Files, not pipes: nothing has to be fed while the output is being read.
        given = opened.enter_context(_in_memory(stdin))
        if seccomp.is_available():
            rules = opened.enter_context(_in_memory(seccomp.filter_program()))
            options = [*options, "--seccomp", str(rules)]
            pass_fds = (*pass_fds, rules)
        return subprocess.Popen(
            [*options, "--", *argv],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            cwd="/",
            umask=0o022,
        )


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """Give a descriptor from which ``data`` can be read."""
    with os.fdopen(os.memfd_create("given"), "w+b") as stream:
        stream.write(data)
        stream.flush()
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        yield stream.fileno()


def _follow(
    process: subprocess.Popen[bytes], on_line: OnLine | None, argv: Sequence[str], seconds: float
) -> OutputTail:
    """Read both outputs until they end; raises TimeLimitExceeded."""
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = time.monotonic() + seconds
    tail, lines = OutputTail(), bytearray()
    out, err = process.stdout.fileno(), process.stderr.fileno()
    os.set_blocking(err, False)
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        selector.register(err, selectors.EVENT_READ)
        while selector.get_map():
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if not ready:
                raise TimeLimitExceeded(argv=argv, seconds=seconds, output=str(tail))
            if err in ready and _drain(err, tail):
                selector.unregister(err)
            if out in ready:
                # Read before the last look at standard error, so that what a step
                # wrote there is in the tail when the line that ends it is handled.
                data = os.read(out, _OUTPUT_LIMIT)
                if err in selector.get_map() and _drain(err, tail):
                    selector.unregister(err)
                if not data:
                    selector.unregister(out)
                elif on_line is None:
                    tail.feed(data)
                else:
                    _hand_over(lines, data, on_line, tail)
    _wait(process, deadline, argv, seconds, tail)
    return tail


def _drain(descriptor: int, tail: OutputTail) -> bool:
    """Take what is there; true at the end of the stream."""
    while True:
        try:
            data = os.read(descriptor, _OUTPUT_LIMIT)
        except BlockingIOError:
            return False
        if not data:
            return True
        tail.feed(data)
        if len(data) < _OUTPUT_LIMIT:
            return False


def _hand_over(lines: bytearray, data: bytes, on_line: OnLine, tail: OutputTail) -> None:
    lines += data
    *whole, rest = bytes(lines).split(b"\n")
    # A line without an end would otherwise grow without one.
    lines[:] = rest[:_LINE_LIMIT]
    for line in whole:
        on_line(line, tail)


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    argv: Sequence[str],
    seconds: float,
    tail: OutputTail,
) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimeLimitExceeded(argv=argv, seconds=seconds, output=str(tail)) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
        # The processes inside are killed by the kernel when bubblewrap is gone
        # (--die-with-parent); they have ended when nobody holds their output open.
        _await_end_of(process.stdout)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _await_end_of(stream: IO[bytes] | None, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        assert stream is not None
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            if not os.read(stream.fileno(), _OUTPUT_LIMIT):
                return


def _refuse_setup_failure(output: str) -> None:
    for line in output.splitlines():
        if line.startswith("bwrap: ") and not line.startswith("bwrap: execvp"):
            raise MissingRequirement(
                "this machine does not let bubblewrap make a sandbox",
                details=[line],
                hint="inside a container, start it privileged; else see docs/sandbox.md",
            )

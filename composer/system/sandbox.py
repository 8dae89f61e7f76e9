"""Programs that are not trusted, run by bubblewrap where nothing they do gets out.

Rules kept here: no network; own processes, IPC and host name; only the directories
that were named, the host's /usr read-only at most, and never its /etc, /root or
/home; an empty environment; a short list of capabilities (without SYS_ADMIN nothing
can be mounted, without MKNOD no device is made); a filter of system calls where
libseccomp is there; limits; bounded output; and nothing that outlives the process
that asked.  docs/sandbox.md tells it at length.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from composer.errors import CommandFailed, MissingRequirement
from composer.system import seccomp
from composer.system.command import require_program
from composer.system.limits import DEFAULTS, Clock, LimitExceeded, Limits, Watch
from composer.system.userns import forbidding

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
_OUTPUT_LIMIT = 64 << 10
_LINE_LIMIT = 1 << 20
# Thousands of processes take their time to be killed.
_ENDING = 30.0
# Where a merged /usr keeps its old names, and a split one its own directories.
_KERNEL_SETTINGS = (
    "acpi", "bus", "driver", "dynamic_debug", "fs", "irq", "scsi", "sys", "sysrq-trigger",
)  # fmt: skip
_BESIDE_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


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
        limits: Limits = DEFAULTS,
        clock: Clock | None = None,
    ) -> str:
        """Run ``argv`` to its end and return the tail of what it wrote.

        With ``on_line``, each line of standard output goes there, together with the
        tail of standard error so far, and only standard error is returned.  A ``clock``
        counts in place of ``limits.seconds``, for a caller who restarts it.  Raises
        CommandFailed, LimitExceeded, or MissingRequirement where this machine cannot
        make the sandbox; whatever ``on_line`` raises ends the program too.
        """
        require_sandbox()
        options = self._options({**ENVIRONMENT, **(env or {})})
        tail = OutputTail()
        with _started(options, argv, stdin, pass_fds) as (process, first, begin):
            try:
                watch = Watch(limits, first, self._writable()) if first else None
                with watch.kept() if watch else nullcontext():
                    begin()
                    _follow(process, on_line, tail, clock or Clock(limits.seconds), watch)
            except LimitExceeded as error:
                error.tell(str(tail))
                raise
        if process.returncode:
            _refuse_setup_failure(str(tail))
            raise CommandFailed(argv=list(argv), status=process.returncode, output=str(tail))
        return str(tail)

    def _writable(self) -> list[Path]:
        return [bind.source for bind in self.binds if bind.writable]

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
            hint="compose as a plain user with subordinate ids, or as root; see docs/install.md",
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


@contextmanager
def _started(
    options: list[str], argv: Sequence[str], stdin: bytes, pass_fds: Sequence[int]
) -> Iterator[tuple[subprocess.Popen[bytes], int, Callable[[], None]]]:
    """Start the sandbox; gives it, its first process's number, and what begins the program.

    The number is 0 where none was made.  At the end of the block no process of it is left.
    """
    with ExitStack() as opened:
        # Files, not pipes: nothing has to be fed while the output is being read.
        given = opened.enter_context(_in_memory(stdin))
        if seccomp.is_available():
            rules = opened.enter_context(_in_memory(seccomp.filter_program()))
            options = [*options, "--seccomp", str(rules)]
            pass_fds = (*pass_fds, rules)
        told, tell = os.pipe()
        information = opened.enter_context(os.fdopen(told, "rb"))
        telling = opened.enter_context(os.fdopen(tell, "wb"))
        blocked, release = os.pipe()
        waiting = opened.enter_context(os.fdopen(blocked, "rb"))
        beginning = opened.enter_context(os.fdopen(release, "wb"))
        process = subprocess.Popen(
            [*options, "--info-fd", str(tell), "--block-fd", str(blocked), "--", *argv],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(*pass_fds, tell, blocked),
            cwd="/",
            umask=0o022,
        )
        handle = -1
        try:
            telling.close()
            waiting.close()
            # bubblewrap closes it when it has told, and when it fails.
            text = information.read()
            first = json.loads(text)["child-pid"] if text.strip() else 0
            handle = _handle(first)
            yield process, first, beginning.close
        finally:
            _end(process, handle)


def _handle(process: int) -> int:
    """Return a descriptor that can be read when ``process`` has ended, -1 if it has."""
    try:
        return os.pidfd_open(process)
    except OSError:
        return -1


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """Give a descriptor from which ``data`` can be read."""
    with os.fdopen(os.memfd_create("given"), "w+b") as stream:
        stream.write(data)
        stream.flush()
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        yield stream.fileno()


def _follow(
    process: subprocess.Popen[bytes],
    on_line: OnLine | None,
    tail: OutputTail,
    clock: Clock,
    watch: Watch | None,
) -> None:
    """Read both outputs, and keep the watch, until the program has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    lines = bytearray()
    out, err = process.stdout.fileno(), process.stderr.fileno()
    os.set_blocking(err, False)
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        selector.register(err, selectors.EVENT_READ)
        while selector.get_map():
            ready = {key.fd for key, _ in selector.select(_keep(clock, watch))}
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
    while True:
        try:
            process.wait(_keep(clock, watch))
            return
        except subprocess.TimeoutExpired:
            continue


def _keep(clock: Clock, watch: Watch | None) -> float:
    """See whether limits hold; returns the seconds until that is due again."""
    if watch is None:
        clock.check()
        return clock.left
    watch.look()
    clock.check()
    return min(clock.left, watch.pause)


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


def _end(process: subprocess.Popen[bytes], handle: int) -> None:
    if process.poll() is None:
        # All inside end with their first process.  Not with bubblewrap alone: it sees to
        # that (--die-with-parent) only after its set-up.
        _kill(handle)
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if handle >= 0:
        # The kernel lets the first process end when all the others have.
        select.select([handle], [], [], _ENDING)
        os.close(handle)


def _kill(handle: int) -> None:
    if handle >= 0:
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return


def _refuse_setup_failure(output: str) -> None:
    for line in output.splitlines():
        if line.startswith("bwrap: ") and not line.startswith("bwrap: execvp"):
            raise MissingRequirement(
                "this machine does not let bubblewrap make a sandbox",
                details=[line, *forbidding()],
                hint="inside a container, start it privileged; else see docs/sandbox.md",
            )

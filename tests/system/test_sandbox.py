"""What a sandboxed program cannot do, tried by programs of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from composer.errors import CommandFailed, MissingRequirement
from composer.system import sandbox as module
from composer.system.limits import LimitExceeded, Limits, TimeLimitExceeded
from composer.system.sandbox import Bind, OutputTail, Sandbox
from tests.compose.rpms import needs_root

PYTHON = "/usr/bin/python3"


def attempt(code: str, sandbox: Sandbox | None = None) -> str:
    """Run Python code inside; returns what it printed."""
    return (sandbox or Sandbox.of_host()).run([PYTHON, "-I", "-c", code])


@needs_root
def test_host_secrets_are_not_there() -> None:
    code = "import os; print([p for p in ('/etc', '/home', '/root', '/var') if os.path.exists(p)])"
    assert attempt(code).strip() == "[]"


@needs_root
def test_host_programs_are_read_only() -> None:
    with pytest.raises(CommandFailed) as caught:
        attempt("open('/usr/jigdo-sandbox-test', 'w')")
    assert "Read-only file system" in caught.value.output
    assert not os.path.exists("/usr/jigdo-sandbox-test")


@needs_root
def test_remounting_is_refused() -> None:
    code = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True);"
        "print(c.mount(b'none', b'/usr', None, 32, None), ctypes.get_errno())"
    )
    assert attempt(code).split() == ["-1", "1"]


@needs_root
def test_devices_cannot_be_made(tmp_path: Path) -> None:
    sandbox = Sandbox.of_host(Bind(tmp_path, "/target", writable=True))
    with pytest.raises(CommandFailed) as caught:
        attempt("import os; os.mknod('/target/disk', 0o60600, os.makedev(254, 0))", sandbox)
    assert "not permitted" in caught.value.output
    assert not list(tmp_path.iterdir())


@needs_root
def test_listener_on_loopback_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(CommandFailed) as caught:
            attempt(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)")
    assert "refused" in caught.value.output


@needs_root
def test_abstract_sockets_are_out_of_reach() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0jigdo-sandbox-test")
        server.listen()
        with pytest.raises(CommandFailed):
            attempt(
                "import socket; s = socket.socket(socket.AF_UNIX);"
                "s.connect('\\0jigdo-sandbox-test')"
            )


@needs_root
def test_outside_processes_are_invisible() -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(CommandFailed) as caught:
            attempt(f"import os; os.kill({victim.pid}, 9)")
        assert "No such process" in caught.value.output
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@needs_root
def test_kernel_settings_are_read_only() -> None:
    code = "p = '/proc/sys/vm/swappiness'; v = open(p).read(); open(p, 'w').write(v)"
    with pytest.raises(CommandFailed) as caught:
        attempt(code)
    assert "Read-only" in caught.value.output


@needs_root
def test_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    names = attempt("import os; print(*sorted(os.environ))").split()
    assert names == ["HOME", "LANG", "LC_ALL", "PATH", "PWD", "TZ"]


@needs_root
def test_capabilities_are_the_short_list() -> None:
    # In a program that was executed inside: those it can have, not those it was started with.
    code = (
        "import subprocess; text = subprocess.run(['grep', 'CapPrm', '/proc/self/status'],"
        " capture_output=True, text=True).stdout; print(text.split()[1])"
    )
    numbers = (0, 1, 3, 4, 6, 7, 18, 31)
    assert int(attempt(code), 16) == sum(1 << number for number in numbers)


@needs_root
def test_only_named_files_are_open() -> None:
    # 3 is the directory that listdir itself reads.
    assert (
        attempt("import os; print(os.listdir('/proc/self/fd'))").strip() == "['0', '1', '2', '3']"
    )


@needs_root
def test_hanging_program_is_ended_with_all_its_children() -> None:
    code = "import os, time; print('busy', flush=True); os.fork(); os.setsid(); time.sleep(97)"
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded) as caught:
        Sandbox.of_host().run([PYTHON, "-I", "-c", code], limits=Limits(seconds=1))
    assert time.monotonic() - began < 10
    assert "busy" in caught.value.output
    _wait_until(lambda: b"time.sleep(97)" not in _command_lines())


def _exceeded(code: str, sandbox: Sandbox, limits: Limits) -> LimitExceeded:
    """Run code that must be ended for what it uses, soon and with all its processes."""
    began = time.monotonic()
    mark = f"# {os.getpid()} {began}"
    with pytest.raises(LimitExceeded) as caught:
        sandbox.run([PYTHON, "-I", "-c", f"{code}\n{mark}"], limits=limits)
    assert time.monotonic() - began < 15
    # Not soon afterwards: at once.
    assert mark.encode() not in _command_lines()
    assert caught.value.details == ("begun",)
    return caught.value


@needs_root
def test_fork_bomb_is_ended() -> None:
    code = (
        "import os\nprint('begun', flush=True)\nwhile True:\n try: os.fork()\n except OSError: pass"
    )
    error = _exceeded(code, Sandbox.of_host(), Limits(seconds=60, processes=200))
    assert error.message == "had more than 200 processes and threads"


@needs_root
def test_too_many_threads_are_ended() -> None:
    code = (
        "import threading, time\nprint('begun', flush=True)\n"
        "for _ in range(300): threading.Thread(target=time.sleep, args=(60,)).start()"
    )
    error = _exceeded(code, Sandbox.of_host(), Limits(seconds=60, processes=200))
    assert error.message == "had more than 200 processes and threads"


@needs_root
@pytest.mark.parametrize(
    "hog",
    [
        "held = b'x' * (300 << 20)",
        "open('/tmp/hog', 'wb').write(bytes(300 << 20))",
        "open('/dev/hog', 'wb').write(bytes(300 << 20))",
        "import os; [os.fork() for _ in range(5)]; held = b'x' * (9 << 20)",
    ],
)
def test_memory_hog_is_ended(hog: str) -> None:
    code = f"import time\nprint('begun', flush=True)\n{hog}\ntime.sleep(60)"
    error = _exceeded(code, Sandbox.of_host(), Limits(seconds=60, memory=200 << 20))
    assert error.message == "used more than 210 MB of memory"


@needs_root
def test_memory_that_processes_share_counts_once() -> None:
    code = (
        "import os, time\nheld = b'x' * (100 << 20)\n"
        "for _ in range(8):\n if not os.fork(): time.sleep(1); os._exit(0)\n"
        "for _ in range(8): os.wait()"
    )
    Sandbox.of_host().run([PYTHON, "-I", "-c", code], limits=Limits(memory=200 << 20))


@needs_root
def test_filling_the_disk_is_ended(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"x" * (50 << 20))
    code = (
        "import time\nprint('begun', flush=True)\n"
        "for n in range(20): open(f'/target/{n}', 'wb').write(b'x' * (10 << 20))\n"
        "time.sleep(60)"
    )
    sandbox = Sandbox.of_host(Bind(tmp_path, "/target", writable=True))
    error = _exceeded(code, sandbox, Limits(seconds=60, written=100 << 20))
    assert error.message == "wrote more than 105 MB"


@needs_root
def test_what_others_write_to_the_disk_does_not_count(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    code = "import time, os\nprint('begun', flush=True)\ntime.sleep(1.5)\nos.listdir('/target')"

    def disturb(line: bytes, tail: OutputTail) -> None:
        outside.write_bytes(b"x" * (50 << 20))

    sandbox = Sandbox.of_host(Bind(inside, "/target", writable=True))
    argv = [PYTHON, "-I", "-c", code]
    sandbox.run(argv, on_line=disturb, limits=Limits(written=10 << 20))


@needs_root
def test_endless_output_is_bounded() -> None:
    tail = Sandbox.of_host().run([PYTHON, "-I", "-c", "print('x' * 5_000_000, 'end')"])
    assert tail.endswith("end\n")
    assert len(tail) <= 64 << 10


@needs_root
def test_lines_come_with_what_was_printed_before_them() -> None:
    seen: list[tuple[bytes, str]] = []

    def note(line: bytes, tail: OutputTail) -> None:
        seen.append((line, str(tail)))
        tail.clear()

    code = "import os\nfor i in range(3): os.write(2, b'%d\\n' % i); os.write(1, b'e%d\\n' % i)"
    Sandbox.of_host().run([PYTHON, "-I", "-c", code], on_line=note)
    assert [line for line, _ in seen] == [b"e0", b"e1", b"e2"]
    assert "".join(tail for _, tail in seen) == "0\n1\n2\n"


@needs_root
def test_error_from_a_line_ends_the_program() -> None:
    def refuse(line: bytes, tail: OutputTail) -> None:
        raise ValueError(line.decode())

    with pytest.raises(ValueError, match="stop"):
        Sandbox.of_host().run(
            [PYTHON, "-I", "-c", "import time; print('stop', flush=True); time.sleep(98)"],
            on_line=refuse,
        )
    _wait_until(lambda: b"time.sleep(98)" not in _command_lines())


@needs_root
def test_sandbox_dies_with_a_killed_parent() -> None:
    code = (
        "from composer.system.sandbox import Sandbox;"
        f"Sandbox.of_host().run(['{PYTHON}', '-I', '-c', 'import time; time.sleep(99)'])"
    )
    started = f"\n{PYTHON}\0-I\0-c\0import time; time.sleep(99)".encode()
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        # Until then bubblewrap is still setting up.
        _wait_until(lambda: started in _command_lines())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _wait_until(lambda: b"time.sleep(99)" not in _command_lines())


def test_plain_user_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "require_program", lambda *_, **__: "bwrap")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingRequirement, match="needs root") as caught:
        Sandbox.of_host().run(["true"])
    assert "subordinate ids" in caught.value.hint


def test_missing_bubblewrap_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingRequirement, match="bwrap is not installed"):
        Sandbox.of_host().run(["true"])


@needs_root
def test_setup_that_fails_is_no_failure_of_the_program() -> None:
    with pytest.raises(MissingRequirement, match="does not let bubblewrap"):
        Sandbox.of_host(Bind(Path("/nowhere"), "/target")).run(["true"])


def _command_lines() -> bytes:
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += b"\n" + path.read_bytes()
        except OSError:
            continue
    return found


def _wait_until(condition: object, seconds: float = 15) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
